//! `audit`: what ran where, when, by whose commit, and why. Read from the ledger alone.

use super::error::CliError;
use super::ledger::{epoch_of, ledger_dir, open, what};
use super::show::{Out, Tone};
use holdfast_core::entry::{AttemptChange, Body, Entry, PhaseName};
use holdfast_core::ids::{Digest, deploy_id, parse_deploy_id};
use holdfast_core::plan::unit::percent;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum AuditCommand {
    /// Where and when a digest ran, by whose commit
    Digest {
        /// sha256:..., or the beginning of the hex digits
        digest: String,
        #[command(flatten)]
        of: Of,
    },
    /// What ran on a target, and when
    Target {
        target: String,
        #[command(flatten)]
        of: Of,
    },
    /// Why a deploy happened, and why it ended as it did: the causal chain
    Why {
        /// Deploy id, as in d1-42, or WORKLOAD@TARGET for its newest
        what: String,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(clap::Args)]
pub struct Of {
    /// A copy of a ledger, instead of the configured one
    #[arg(long)]
    dir: Option<PathBuf>,
    /// As it was after this many entries
    #[arg(long, value_name = "SEQ")]
    as_of: Option<u64>,
}

/// One attempt, put together from its entries.
#[derive(Debug, Clone, Default, serde::Serialize)]
struct Deploy {
    deploy: String,
    workload: String,
    target: String,
    generation: u32,
    release: String,
    artifacts: BTreeMap<String, Digest>,
    references: BTreeMap<String, String>,
    commit: String,
    author: String,
    summary: String,
    plugin: String,
    grants: String,
    began: String,
    ended: String,
    outcome: String,
    reason: String,
    highest_weight: String,
    entries: Vec<u64>,
}

pub fn run(config: &Path, command: &AuditCommand, out: &Out) -> Result<ExitCode, CliError> {
    let of = match command {
        AuditCommand::Digest { of, .. } | AuditCommand::Target { of, .. } | AuditCommand::Why { of, .. } => of,
    };
    let ledger = open(&ledger_dir(config, of.dir.as_deref())?)?;
    let size = of.as_of.map_or(ledger.size(), |as_of| as_of.min(ledger.size()));
    let entries = ledger.entries(0, size)?;
    let deploys = deploys(&entries, epoch_of(&ledger)?);
    match command {
        AuditCommand::Digest { digest, .. } => {
            let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
            if hex.len() < 6 {
                return Err(CliError::usage(
                    format!("{digest:?} is too short to name a digest"),
                    "give at least 6 hex digits",
                ));
            }
            let found: Vec<&Deploy> = deploys
                .values()
                .filter(|deploy| deploy.artifacts.values().any(|one| one.hex().starts_with(hex)))
                .collect();
            let seen = entries.iter().filter(|entry| {
                matches!(&entry.body, Body::Pin(pin) if pin.digest.hex().starts_with(hex))
                    || matches!(&entry.body, Body::TagMoved(moved) if moved.seen.hex().starts_with(hex))
            });
            let seen: Vec<Value> = seen.map(|entry| json!({ "entry": entry.seq, "wall": entry.wall, "kind": entry.body.kind(), "what": what(&entry.body) })).collect();
            table(&found, &seen, size, out)
        }
        AuditCommand::Target { target, .. } => {
            let found: Vec<&Deploy> = deploys.values().filter(|deploy| deploy.target == *target).collect();
            table(&found, &[], size, out)
        }
        AuditCommand::Why { what: wanted, .. } => why(wanted, &deploys, &entries, size, out),
    }
}

fn text_of(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn deploys(entries: &[Entry], epoch: u64) -> BTreeMap<u64, Deploy> {
    let mut deploys: BTreeMap<u64, Deploy> = BTreeMap::new();
    let mut weights: BTreeMap<u64, u32> = BTreeMap::new();
    for entry in entries {
        if let Body::Attempt(AttemptChange::Began {
            release,
            generation,
            plugin,
            ..
        }) = &entry.body
        {
            let chain = causes(entry, entries);
            let mut deploy = Deploy {
                deploy: deploy_id(epoch, entry.seq),
                workload: entry.on.workload.as_ref().map(ToString::to_string).unwrap_or_default(),
                target: entry.on.target.clone().unwrap_or_default(),
                generation: *generation,
                release: release.to_string(),
                plugin: format!("{} {}", plugin.name, plugin.digest),
                grants: plugin.grants.to_string(),
                began: entry.wall.clone(),
                outcome: "under way".into(),
                ..Deploy::default()
            };
            for cause in &chain {
                match &cause.body {
                    Body::Rollout(change) if !change.artifacts.is_empty() && change.release == *release => {
                        deploy.artifacts = change.artifacts.clone()
                    }
                    Body::Pin(pin) => {
                        deploy.references.insert(pin.reference.clone(), pin.digest.to_string());
                    }
                    Body::Source(source) if deploy.commit.is_empty() => {
                        deploy.commit.clone_from(&source.new);
                        deploy.author.clone_from(&source.author);
                        deploy.summary.clone_from(&source.summary);
                    }
                    _ => {}
                }
            }
            deploys.insert(entry.seq, deploy);
        }
        let Some(deploy) = entry
            .on
            .attempt
            .or(matches!(entry.body, Body::Attempt(AttemptChange::Began { .. })).then_some(entry.seq))
            .and_then(|seq| deploys.get_mut(&seq))
        else {
            continue;
        };
        deploy.entries.push(entry.seq);
        match &entry.body {
            Body::Attempt(AttemptChange::Reached { weight }) => {
                let highest = weights.entry(entry.on.attempt.unwrap_or_default()).or_default();
                *highest = (*highest).max(*weight);
                deploy.highest_weight = format!("{}%", percent(*highest));
            }
            Body::Attempt(AttemptChange::Ended {
                outcome,
                reason,
                message,
            }) => {
                deploy.outcome = text_of(outcome);
                deploy.reason = format!("{reason}: {message}");
                deploy.ended.clone_from(&entry.wall);
            }
            _ => {}
        }
    }
    deploys
}

/// Everything that an entry rests on, oldest first.
fn causes<'a>(entry: &'a Entry, entries: &'a [Entry]) -> Vec<&'a Entry> {
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut open: Vec<u64> = entry.because.clone();
    while let Some(seq) = open.pop() {
        if seen.insert(seq)
            && let Some(cause) = entries.get(seq as usize)
        {
            // Commits chain back to the first one; how this came about ends with its own commit.
            if !matches!(cause.body, Body::Source(_)) {
                open.extend(&cause.because);
            }
        }
    }
    seen.into_iter().filter_map(|seq| entries.get(seq as usize)).collect()
}

fn table(found: &[&Deploy], seen: &[Value], size: u64, out: &Out) -> Result<ExitCode, CliError> {
    if out.is_json {
        out.json(&json!({ "as_of": size, "deploys": found, "seen": seen }));
        return Ok(ExitCode::SUCCESS);
    }
    for one in seen {
        out.line(&format!(
            "{}  {}  entry {}: {}",
            one["wall"].as_str().unwrap_or_default(),
            one["kind"].as_str().unwrap_or_default(),
            one["entry"],
            one["what"].as_str().unwrap_or_default()
        ));
    }
    if found.is_empty() {
        out.line(&format!("it never ran (as of {size})"));
        return Ok(ExitCode::SUCCESS);
    }
    let cut = |text: &str, n: usize| text.get(..n).unwrap_or(text).to_owned();
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|d| {
            let digests = d
                .artifacts
                .values()
                .map(|digest| digest.short().to_owned())
                .collect::<Vec<_>>()
                .join(" ");
            vec![
                d.deploy.clone(),
                d.workload.clone(),
                d.target.clone(),
                d.generation.to_string(),
                digests,
                cut(&d.commit, 10),
                d.began.clone(),
                d.highest_weight.clone(),
                format!("{} {}", d.outcome, d.reason),
            ]
        })
        .collect();
    out.table(
        &[
            "DEPLOY", "WORKLOAD", "TARGET", "GEN", "DIGEST", "COMMIT", "BEGAN", "REACHED", "OUTCOME",
        ],
        &rows,
    );
    out.line(&out.paint(Tone::Dim, &format!("as of {size}")));
    Ok(ExitCode::SUCCESS)
}

fn why(wanted: &str, deploys: &BTreeMap<u64, Deploy>, entries: &[Entry], size: u64, out: &Out) -> Result<ExitCode, CliError> {
    let by_unit = || {
        let (workload, target) = wanted.split_once('@')?;
        let matches = |deploy: &Deploy| {
            deploy.target == target && (deploy.workload == workload || deploy.workload.ends_with(&format!("/{workload}")))
        };
        deploys.iter().rev().find(|(_, deploy)| matches(deploy)).map(|(seq, _)| *seq)
    };
    let seq = parse_deploy_id(wanted)
        .map(|(_, seq)| seq)
        .filter(|seq| deploys.contains_key(seq))
        .or_else(by_unit);
    let Some((seq, deploy)) = seq.and_then(|seq| Some((seq, deploys.get(&seq)?))) else {
        return Err(CliError::usage(
            format!("there is no deploy {wanted:?}"),
            "a deploy id as in d1-42, or WORKLOAD@TARGET; `holdfast audit target` lists them",
        ));
    };
    let own: Vec<&Entry> = deploy
        .entries
        .iter()
        .filter_map(|seq| entries.get(*seq as usize))
        .filter(|entry| !is_detail(entry))
        .collect();
    let mut chain = causes(&entries[seq as usize], entries);
    for entry in own {
        // What stopped it may have been decided elsewhere: a quarantine on another target, a command.
        chain.extend(entry.because.iter().filter_map(|cause| entries.get(*cause as usize)));
        chain.push(entry);
    }
    // What was decided because of it, but is not on the attempt itself.
    let effects = entries.iter().filter(|entry| {
        matches!(entry.body, Body::Quarantine(_) | Body::Rollout(_))
            && entry.because.iter().any(|cause| deploy.entries.contains(cause))
    });
    chain.extend(effects);
    chain.sort_by_key(|entry| entry.seq);
    chain.dedup_by_key(|entry| entry.seq);
    if out.is_json {
        out.json(&json!({ "as_of": size, "deploy": deploy, "chain": chain }));
        return Ok(ExitCode::SUCCESS);
    }
    out.line(&out.paint(
        Tone::Bold,
        &format!(
            "{} {}@{} generation {}: {} {}",
            deploy.deploy, deploy.workload, deploy.target, deploy.generation, deploy.outcome, deploy.reason
        ),
    ));
    out.line(&format!(
        "commit {} {} by author {}",
        deploy.commit, deploy.summary, deploy.author
    ));
    let rows: Vec<Vec<String>> = chain
        .iter()
        .map(|entry| {
            let because = entry.because.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            vec![
                entry.seq.to_string(),
                because,
                entry.wall.clone(),
                entry.body.kind().to_owned(),
                what(&entry.body),
            ]
        })
        .collect();
    out.table(&["SEQ", "BECAUSE", "WALL", "KIND", "WHAT"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// Entries that only repeat what their neighbours say.
fn is_detail(entry: &Entry) -> bool {
    matches!(
        &entry.body,
        Body::Attempt(
            AttemptChange::Fingerprint { .. }
                | AttemptChange::Phase {
                    to: PhaseName::Preparing,
                    ..
                }
        )
    )
}
