//! Commands to the daemon: who says it and why goes into the ledger.

use super::error::CliError;
use super::show::Out;
use crate::api::{Ask, ask};
use crate::operator;
use holdfast_core::engine::Wish;
use holdfast_core::view::StatusView;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Why {
    /// Why, for the ledger
    #[arg(long, default_value = "")]
    reason: String,
    /// Repeating a command with the same key does nothing; default: a new one
    #[arg(long)]
    key: Option<String>,
}

#[derive(clap::Args)]
pub struct OnWorkload {
    workload: String,
    #[command(flatten)]
    why: Why,
}

#[derive(clap::Subcommand)]
pub enum QuarantineCommand {
    /// Show what is kept out, and why
    List,
    /// Let a release in again
    Lift {
        workload: String,
        /// Beginning of the release id
        release: String,
        #[command(flatten)]
        why: Why,
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
    command(config, Some(&on.workload), wish, &on.why, out)
}

pub fn command(config: &Path, workload: Option<&str>, wish: Wish, why: &Why, out: &Out) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    let workload = workload.map(|workload| full_name(&operator.repository.name, workload));
    let key = why
        .key
        .clone()
        .unwrap_or_else(|| format!("{}-{}", crate::shell::unix_ms(), std::process::id()));
    let answer = ask(
        &operator.socket(),
        &Ask::Command {
            workload,
            wish,
            reason: why.reason.clone(),
            key,
        },
    )?;
    say(&answer, out)
}

pub fn accept_rewrite(config: &Path, commit: String, why: &Why, out: &Out) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    let done = command(config, None, Wish::AcceptRewrite { commit: commit.clone() }, why, out)?;
    // The command is in the ledger; now the Git side may take the tip.
    let file = operator.data.join("accepted-rewrite");
    std::fs::write(&file, &commit).map_err(|source| CliError::io(format!("{} cannot be written", file.display()), source))?;
    ask(&operator.socket(), &Ask::Sync)?;
    Ok(done)
}

pub fn quarantine(config: &Path, command_: &QuarantineCommand, out: &Out) -> Result<ExitCode, CliError> {
    match command_ {
        QuarantineCommand::Lift { workload, release, why } => command(
            config,
            Some(workload),
            Wish::Lift {
                release: release.clone(),
            },
            why,
            out,
        ),
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
                            q.release[..12].to_owned(),
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
