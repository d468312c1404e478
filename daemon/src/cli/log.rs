//! How programs that stay log: to stderr, for people or as JSON, a line each.

use super::error::CliError;
use tracing_subscriber::EnvFilter;

#[derive(clap::Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogFormat,
    /// What is logged, as in info or holdfast=debug
    #[arg(long, default_value = "info", env = "HOLDFAST_LOG")]
    log: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

impl LogArgs {
    pub fn start(&self) -> Result<(), CliError> {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| {
            CliError::usage(
                format!("--log {:?}: {error}", self.log),
                "as in info, debug, or holdfast=debug",
            )
        })?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Human => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
            // The list of spans has the innermost one too.
            LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
        }
        Ok(())
    }
}
