//! The command line. Data goes to stdout, everything else to stderr; `--json` prints data as JSON.

mod audit;
mod book;
mod bundle;
mod commands;
mod commit;
mod draw;
mod error;
mod explain;
mod help;
mod init;
mod ledger;
mod log;
mod manifests;
mod plan;
mod plugin;
mod run;
mod show;
mod status;
mod wait;
mod watch;
mod witness;

pub(crate) use audit::time::wall_ms;

use clap::{FromArgMatches, Parser, Subcommand};
use error::CliError;
use holdfast_core::engine::Wish;
use std::path::PathBuf;
use std::process::ExitCode;

/// Immutable deployment from Git: a commit goes live as a new generation, a bad one comes back by itself, and a
/// tamper-evident ledger says why
#[derive(Parser)]
#[command(name = "holdfast", version, max_term_width = 100)]
struct Cli {
    /// Operator's configuration
    #[arg(
        long,
        short,
        global = true,
        default_value = "holdfast.yaml",
        env = "HOLDFAST_CONFIG",
        hide_env_values = true
    )]
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
    /// Write, test, publish and inspect target plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Run the daemon
    Run(run::RunArgs),
    /// Cosign other teams' ledgers, after checking that each only grew
    Witness(witness::WitnessArgs),
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
    Rollback(commands::RollbackArgs),
    /// Agree to a step of a rollout, as somebody whom holdfast.yaml names under `users`
    Approve(commands::ApproveArgs),
    /// Stop a rollout where it is; what has traffic is still watched
    Pause(commands::OnWorkload),
    /// Go on after a pause or a halt
    Resume(commands::OnWorkload),
    /// Give a rollout up: undo it everywhere and keep its release out
    Abort(commands::OnWorkload),
    /// End the present hold or analysis, never health
    Advance(commands::OnWorkload),
    /// Try again what could not be tried, was lost or is stalled; never what is quarantined
    Retry(commands::OnWorkload),
    /// Drop what is at an older release, and turn to the newest one at once
    Deploy(commands::DeployArgs),
    /// Let nothing new begin on a workload or a target; what is under way ends
    Freeze(commands::OnEither),
    /// Take a freeze back
    Thaw(commands::OnEither),
    /// Resolve a tag anew: if it points elsewhere, that is a new release
    Repin(commands::RepinArgs),
    /// Let drift be healed beyond the limit of the hour
    AllowHeals(commands::Why),
    /// Let removals go ahead that were more than one revision may make
    AllowRemovals(commands::OnWorkload),
    /// Take the tip of a branch that was rewritten
    AcceptRewrite(commands::AcceptArgs),
    /// Releases that are kept out
    #[command(subcommand)]
    Quarantine(commands::QuarantineCommand),
    /// Read and verify the ledger
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Ask what ran where, when, and why
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Write down that a deploy that had passed hurt its users, and when that was over
    #[command(subcommand)]
    Incident(commands::IncidentCommand),
    /// Print the JSON Schema of manifests, for editors
    Schema {
        /// That of the operator's holdfast.yaml instead
        #[arg(long)]
        operator: bool,
    },
    /// Say what a field of a manifest is: its type, default, meaning, and an example
    Explain {
        /// KIND[.FIELD...], as in Workload.placement.waves
        path: String,
    },
    /// Print a shell's completions
    Completions {
        /// Shell that they are for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man(help::ManArgs),
    /// Run an edge site
    EdgeNode(run::EdgeNodeArgs),
}

pub fn main() -> ExitCode {
    let mut command = help::command();
    let parsed = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command)));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            return match error.print() {
                Err(failure) if !error.use_stderr() && failure.kind() != std::io::ErrorKind::BrokenPipe => {
                    show::output_failed(failure)
                }
                _ => ExitCode::from(if error.use_stderr() { error::USAGE } else { 0 }),
            };
        }
    };
    let out = show::Out::new(cli.json);
    let code = match dispatch(cli, &out) {
        Ok(code) => code,
        Err(error) => error.report(),
    };
    out.finish(code)
}

/// For the demo's client, which is a program of its own.
pub(crate) fn exit_on_io(path: &std::path::Path, error: &std::io::Error) -> ExitCode {
    error::say(&format!("error: {}: {error}", path.display()));
    ExitCode::from(error::TROUBLE)
}

fn dispatch(cli: Cli, out: &show::Out) -> Result<ExitCode, CliError> {
    let config = cli.config;
    let on = |on: &commands::OnWorkload, wish| commands::on_workload(&config, on, wish, out);
    match &cli.command {
        Command::Init { repository, edge } => init::init(&config, repository, edge.as_deref()),
        Command::Bundle(command) => bundle::run(command, out),
        Command::Plugin(command) => plugin::run(&config, command, out),
        Command::Run(args) => run::daemon(&config, args),
        Command::Demo(args) => Ok(crate::demo::run(args, cli.json)),
        Command::DemoTraffic(args) => Ok(crate::demo::traffic(args)),
        Command::DemoProcess(args) => Ok(crate::demo::process(args)),
        Command::Validate { path } => manifests::validate(path, out),
        Command::Plan { path } => plan::plan(&config, path.as_deref(), out),
        Command::Status(args) => status::status(&config, args, out),
        Command::Sync => commands::sync(&config, out),
        Command::Rollback(args) => commands::rollback(&config, args, out),
        Command::Approve(args) => commands::approve(&config, args, out),
        Command::Pause(args) => on(args, Wish::Pause),
        Command::Resume(args) => on(args, Wish::Resume),
        Command::Abort(args) => on(args, Wish::Abort),
        Command::Advance(args) => on(args, Wish::Advance),
        Command::Retry(args) => on(args, Wish::Retry),
        Command::Deploy(args) => commands::deploy(&config, args, out),
        Command::Freeze(args) => commands::on_either(&config, args, Wish::Freeze, out),
        Command::Thaw(args) => commands::on_either(&config, args, Wish::Thaw, out),
        Command::Repin(args) => commands::repin(&config, args, out),
        Command::AllowHeals(why) => commands::allow_heals(&config, why, out),
        Command::AllowRemovals(args) => on(args, Wish::AllowRemovals),
        Command::AcceptRewrite(args) => commands::accept_rewrite(&config, args, out),
        Command::Quarantine(command) => commands::quarantine(&config, command, out),
        Command::Ledger(command) => ledger::run(&config, command, out),
        Command::Audit(command) => audit::run(&config, command, out),
        Command::Incident(command) => commands::incident(&config, command, out),
        Command::Schema { operator } => {
            let schema = if *operator {
                crate::operator::schema()
            } else {
                holdfast_core::manifest::schema()
            };
            out.json(&schema);
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain { path } => explain::explain(path, out),
        Command::Completions { shell } => help::completions(*shell, out),
        Command::Man(args) => help::man(args, out),
        Command::EdgeNode(args) => run::edge_node(args),
        Command::Witness(args) => witness::witness(args),
    }
}
