//! The command line. Data goes to stdout, everything else to stderr; `--json` prints data as JSON.

mod audit;
mod book;
mod bundle;
mod commands;
mod error;
mod init;
mod ledger;
mod log;
mod manifests;
mod plan;
mod run;
mod show;
mod status;

use clap::{Parser, Subcommand};
use error::CliError;
use std::path::PathBuf;
use std::process::ExitCode;

/// Immutable deployment from Git: a commit goes live as a new generation, a bad one comes back by itself, and a
/// tamper-evident ledger says why
#[derive(Parser)]
#[command(name = "holdfast", version, max_term_width = 100)]
struct Cli {
    /// Operator's configuration
    #[arg(long, short, global = true, default_value = "holdfast.yaml", env = "HOLDFAST_CONFIG")]
    config: PathBuf,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a commented holdfast.yaml for a repository
    Init {
        /// Path or URL of the desired-state repository
        repository: String,
        /// Also set up an edge site on this machine: its binding, token and registries
        #[arg(long, value_name = "NAME")]
        edge: Option<String>,
    },
    /// Make bundles: what an edge site runs
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Run the daemon
    Run(run::RunArgs),
    /// Show the main job on embedded defaults: sites, daemon, commits, a bad release, a crash
    Demo(crate::demo::DemoArgs),
    /// The demo's client
    #[command(hide = true)]
    DemoTraffic(crate::demo::TrafficArgs),
    /// One process of the demo, in a session of its own
    #[command(hide = true)]
    DemoProcess(crate::demo::ProcessArgs),
    /// Check manifests, or a holdfast.yaml: every problem at its place
    Validate {
        /// Directory, or file
        path: PathBuf,
    },
    /// Say what a commit or directory would do now, against what the ledger knows
    Plan {
        /// Directory with manifests; default: the branch that the daemon follows
        path: Option<PathBuf>,
    },
    /// Show what is wanted, what runs, and what waits on what
    Status(status::StatusArgs),
    /// Look at Git now
    Sync,
    /// Bring back a release that was proven before, and keep the present one out
    Rollback {
        workload: String,
        /// Beginning of a release id; default: the release proven before the present one
        #[arg(long)]
        to: Option<String>,
        #[command(flatten)]
        why: commands::Why,
    },
    /// Stop a rollout where it is; what has traffic is still watched
    Pause(commands::OnWorkload),
    /// Go on after a pause or a halt
    Resume(commands::OnWorkload),
    /// Give a rollout up: undo it everywhere and keep its release out
    Abort(commands::OnWorkload),
    /// End the present hold or analysis, never health
    Advance(commands::OnWorkload),
    /// Let removals go ahead that were more than one revision may make
    AllowRemovals(commands::OnWorkload),
    /// Take the tip of a branch that was rewritten
    AcceptRewrite {
        commit: String,
        #[command(flatten)]
        why: commands::Why,
    },
    /// Releases that are kept out
    #[command(subcommand)]
    Quarantine(commands::QuarantineCommand),
    /// Read and verify the ledger
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Ask what ran where, when, and why
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Print the JSON Schema of manifests, for editors
    Schema,
    /// Run an edge site
    EdgeNode(run::EdgeNodeArgs),
}

pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

/// For the demo's client, which is a program of its own.
pub(crate) fn exit_on_io(path: &std::path::Path, error: &std::io::Error) -> ExitCode {
    eprintln!("error: {}: {error}", path.display());
    ExitCode::from(error::TROUBLE)
}

fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    let out = show::Out::new(cli.json);
    let config = cli.config;
    match cli.command {
        Command::Init { repository, edge } => init::init(&config, &repository, edge.as_deref()),
        Command::Bundle(command) => bundle::run(&command, &out),
        Command::Run(args) => run::daemon(&config, &args),
        Command::Demo(args) => Ok(crate::demo::run(&args, cli.json)),
        Command::DemoTraffic(args) => Ok(crate::demo::traffic(&args)),
        Command::DemoProcess(args) => Ok(crate::demo::process(&args)),
        Command::Validate { path } => manifests::validate(&path, &out),
        Command::Plan { path } => plan::plan(&config, path.as_deref(), &out),
        Command::Status(args) => status::status(&config, &args, &out),
        Command::Sync => commands::sync(&config, &out),
        Command::Rollback { workload, to, why } => commands::command(
            &config,
            Some(&workload),
            holdfast_core::engine::Wish::Rollback { to },
            &why,
            &out,
        ),
        Command::Pause(on) => commands::on_workload(&config, &on, holdfast_core::engine::Wish::Pause, &out),
        Command::Resume(on) => commands::on_workload(&config, &on, holdfast_core::engine::Wish::Resume, &out),
        Command::Abort(on) => commands::on_workload(&config, &on, holdfast_core::engine::Wish::Abort, &out),
        Command::Advance(on) => commands::on_workload(&config, &on, holdfast_core::engine::Wish::Advance, &out),
        Command::AllowRemovals(on) => commands::on_workload(&config, &on, holdfast_core::engine::Wish::AllowRemovals, &out),
        Command::AcceptRewrite { commit, why } => commands::accept_rewrite(&config, commit, &why, &out),
        Command::Quarantine(command) => commands::quarantine(&config, &command, &out),
        Command::Ledger(command) => ledger::run(&config, &command, &out),
        Command::Audit(command) => audit::run(&config, &command, &out),
        Command::Schema => {
            out.json(&holdfast_core::manifest::schema());
            Ok(ExitCode::SUCCESS)
        }
        Command::EdgeNode(args) => run::edge_node(&args),
    }
}
