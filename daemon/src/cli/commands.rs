//! Commands to the daemon: who says it and why goes into the ledger.

use super::audit::deploy_and_workload;
use super::draw::short;
use super::error::CliError;
use super::show::Out;
use crate::api::{Ask, ask};
use crate::operator;
use holdfast_core::engine::Wish;
use holdfast_core::entry::Precondition;
use holdfast_core::manifest::parse_percent;
use holdfast_core::view::StatusView;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

/// What every command says beside itself.
#[derive(clap::Args)]
#[command(next_help_heading = "For every command")]
pub struct Why {
    /// Why, for the ledger
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Repeating a command with the same key does nothing; default: a new one
    #[arg(long)]
    key: Option<String>,
    /// Only if the workload is at this rollout, as in `status --json`
    #[arg(long, value_name = "SEQ")]
    if_rollout: Option<u64>,
    /// Only if the workload is at this release
    #[arg(long, value_name = "PREFIX")]
    if_release: Option<String>,
    /// Only if every unit in progress is at this weight, as in 25%
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    if_step: Option<u32>,
}

fn percentage(text: &str) -> Result<u32, String> {
    parse_percent(text).ok_or_else(|| "a percentage, as in 25% or 12.5%".to_owned())
}

#[derive(clap::Args)]
pub struct OnWorkload {
    /// Workload, as in shop or main/shop
    workload: String,
    #[command(flatten)]
    why: Why,
}

#[derive(clap::Args)]
#[group(id = "subject", required = true, multiple = false, args = ["workload", "target"])]
pub struct OnEither {
    /// Workload, as in shop or main/shop
    workload: Option<String>,
    /// A target instead: for everything that is placed there
    #[arg(long)]
    target: Option<String>,
    #[command(flatten)]
    why: Why,
}

#[derive(clap::Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    on: OnWorkload,
    /// Beginning of a release id; default: the release proven before the present one
    #[arg(long, value_name = "RELEASE")]
    to: Option<String>,
}

#[derive(clap::Args)]
pub struct ApproveArgs {
    #[command(flatten)]
    on: OnWorkload,
    /// The step to agree to, as in 100%; default: the one that is being waited for
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    step: Option<u32>,
}

#[derive(clap::Args)]
pub struct DeployArgs {
    #[command(flatten)]
    on: OnWorkload,
    /// Needed: a commit alone deploys, and lets what is healthy on its way end first
    #[arg(long, required = true)]
    now: bool,
}

#[derive(clap::Args)]
pub struct RepinArgs {
    #[command(flatten)]
    on: OnWorkload,
    /// The reference as the manifest writes it, as in registry.example.com/shop:1.4
    reference: String,
}

#[derive(clap::Args)]
pub struct AcceptArgs {
    /// The rewritten tip, in full
    commit: String,
    #[command(flatten)]
    why: Why,
}

#[derive(clap::Subcommand)]
pub enum QuarantineCommand {
    /// Show what is kept out, and why
    List,
    /// Let a release in again
    Lift {
        #[command(flatten)]
        on: OnWorkload,
        /// Beginning of the release id
        release: String,
    },
}

pub fn sync(config: &Path, out: &Out) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    say(&ask(&operator.socket(), &Ask::Sync)?, out)
}

fn say(answer: &Value, out: &Out) -> Result<ExitCode, CliError> {
    match out.is_json {
        true => out.json(answer),
        false => out.line(answer["message"].as_str().unwrap_or_default()),
    }
    Ok(ExitCode::SUCCESS)
}

/// `shop` or `main/shop`.
pub fn full_name(repository: &str, workload: &str) -> String {
    if workload.contains('/') {
        workload.to_owned()
    } else {
        format!("{repository}/{workload}")
    }
}

pub fn on_workload(config: &Path, on: &OnWorkload, wish: Wish, out: &Out) -> Result<ExitCode, CliError> {
    command(config, Some(&on.workload), None, wish, &on.why, out)
}

pub fn on_either(config: &Path, on: &OnEither, wish: Wish, out: &Out) -> Result<ExitCode, CliError> {
    command(config, on.workload.as_deref(), on.target.as_deref(), wish, &on.why, out)
}

pub fn rollback(config: &Path, args: &RollbackArgs, out: &Out) -> Result<ExitCode, CliError> {
    on_workload(config, &args.on, Wish::Rollback { to: args.to.clone() }, out)
}

pub fn approve(config: &Path, args: &ApproveArgs, out: &Out) -> Result<ExitCode, CliError> {
    on_workload(config, &args.on, Wish::Approve { step: args.step }, out)
}

pub fn deploy(config: &Path, args: &DeployArgs, out: &Out) -> Result<ExitCode, CliError> {
    on_workload(config, &args.on, Wish::DeployNow, out)
}

pub fn repin(config: &Path, args: &RepinArgs, out: &Out) -> Result<ExitCode, CliError> {
    let wish = Wish::Repin {
        reference: args.reference.clone(),
    };
    on_workload(config, &args.on, wish, out)
}

pub fn allow_heals(config: &Path, why: &Why, out: &Out) -> Result<ExitCode, CliError> {
    command(config, None, None, Wish::AllowHeals, why, out)
}

pub fn allow_plugin(config: &Path, name: &str, why: &Why, out: &Out) -> Result<ExitCode, CliError> {
    command(config, None, None, Wish::AllowPlugin { name: name.to_owned() }, why, out)
}

pub fn command(
    config: &Path,
    workload: Option<&str>,
    target: Option<&str>,
    wish: Wish,
    why: &Why,
    out: &Out,
) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    let workload = workload.map(|workload| full_name(&operator.repository.name, workload));
    let key = why
        .key
        .clone()
        .unwrap_or_else(|| format!("{}-{}", crate::shell::unix_ms(), std::process::id()));
    let only_if = Precondition {
        rollout: why.if_rollout,
        release: why.if_release.clone(),
        step: why.if_step,
    };
    let answer = ask(
        &operator.socket(),
        &Ask::Command {
            workload,
            target: target.map(str::to_owned),
            only_if,
            wish,
            reason: why.reason.clone(),
            key,
        },
    )?;
    say(&answer, out)
}

pub fn accept_rewrite(config: &Path, args: &AcceptArgs, out: &Out) -> Result<ExitCode, CliError> {
    let commit = args.commit.clone();
    command(config, None, None, Wish::AcceptRewrite { commit }, &args.why, out)
}

pub fn quarantine(config: &Path, wanted: &QuarantineCommand, out: &Out) -> Result<ExitCode, CliError> {
    match wanted {
        QuarantineCommand::Lift { on, release } => {
            let release = release.clone();
            on_workload(config, on, Wish::Lift { release }, out)
        }
        QuarantineCommand::List => {
            let view: StatusView = super::status::view(config)?;
            let all: Vec<_> = view
                .workloads
                .iter()
                .flat_map(|workload| workload.quarantine.iter().map(move |q| (workload, q)))
                .collect();
            if out.is_json {
                let rows: Vec<Value> = all
                    .iter()
                    .map(|(workload, q)| serde_json::json!({ "workload": workload.name, "quarantine": q }))
                    .collect();
                out.json(&Value::Array(rows));
            } else if all.is_empty() {
                out.line("nothing is quarantined");
            } else {
                let rows: Vec<Vec<String>> = all
                    .iter()
                    .map(|(workload, q)| {
                        vec![
                            workload.name.clone(),
                            short(&q.release).to_owned(),
                            q.entry.to_string(),
                            q.reason.clone(),
                            q.message.clone(),
                        ]
                    })
                    .collect();
                out.table(&["WORKLOAD", "RELEASE", "ENTRY", "REASON", "WHY"], &rows);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[derive(clap::Subcommand)]
pub enum IncidentCommand {
    /// It hurts
    Open(IncidentArgs),
    /// It is over
    Close(IncidentArgs),
}

#[derive(clap::Args)]
pub struct IncidentArgs {
    /// Deploy id, as in d1-42, or WORKLOAD@TARGET for its newest
    #[arg(long)]
    deploy: String,
    #[command(flatten)]
    why: Why,
}

pub fn incident(config: &Path, wanted: &IncidentCommand, out: &Out) -> Result<ExitCode, CliError> {
    let (IncidentCommand::Open(args) | IncidentCommand::Close(args)) = wanted;
    let (deploy, workload) = deploy_and_workload(config, &args.deploy)?;
    let wish = match wanted {
        IncidentCommand::Open(_) => Wish::OpenIncident { deploy },
        IncidentCommand::Close(_) => Wish::CloseIncident { deploy },
    };
    command(config, Some(&workload), None, wish, &args.why, out)
}
