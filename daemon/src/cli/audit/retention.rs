//! Whether there is a way back: are the last releases still where they were pulled from?

use super::super::error::{CliError, NEGATIVE};
use super::super::show::{Out, Tone};
use crate::operator::{self, Operator};
use crate::shell::{Blobs, pullable};
use holdfast_core::state::{State, WorkloadState};
use holdfast_ledger::{Ledger, Options, load_state};
use holdfast_registry::Registries;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct RetentionArgs {
    /// Only of this workload
    workload: Option<String>,
    /// How many of the releases proven last
    #[arg(short, default_value_t = 3)]
    n: usize,
    /// A copy of a ledger, instead of the configured one
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
pub(super) struct Kept {
    pub workload: String,
    pub release: String,
    /// Empty: index, manifests, configs and layers are all there.
    pub missing: String,
}

pub(super) fn retention(config: &Path, args: &RetentionArgs, out: &Out) -> Result<ExitCode, CliError> {
    let found = kept(config, args.dir.as_deref(), args.n, |id| {
        args.workload
            .as_deref()
            .is_none_or(|name| id == name || id.ends_with(&format!("/{name}")))
    })?;
    let missing = found.iter().filter(|one| !one.missing.is_empty()).count();
    if out.is_json {
        out.json(&json!({ "ok": missing == 0, "releases": found }));
    } else if found.is_empty() {
        out.line("no release was proven yet");
    } else {
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|one| {
                let state = if one.missing.is_empty() {
                    "pullable"
                } else {
                    one.missing.as_str()
                };
                vec![one.workload.clone(), one.release.chars().take(12).collect(), state.to_owned()]
            })
            .collect();
        out.table(&["WORKLOAD", "RELEASE", "STATE"], &rows);
        let tone = if missing == 0 { Tone::Good } else { Tone::Bad };
        out.line(&out.paint(
            tone,
            &format!("{} of {} releases can be pulled", found.len() - missing, found.len()),
        ));
    }
    Ok(ExitCode::from(if missing == 0 { 0 } else { NEGATIVE }))
}

/// Asks the registries that the operator configured, now.
pub(super) fn kept(config: &Path, dir: Option<&Path>, n: usize, wanted: impl Fn(&str) -> bool) -> Result<Vec<Kept>, CliError> {
    let operator: Operator = operator::load(config)?;
    let dir = dir.map_or_else(|| operator.ledger_dir(), Path::to_owned);
    let (mut ledger, _) = Ledger::open_read_only(&dir, Options::default())?;
    let (state, _): (State, _) = load_state(&mut ledger)?;
    let registries = Registries::new(&operator.registries)
        .map_err(|error| CliError::usage(error.to_string(), "see `registries` in holdfast.yaml"))?;
    let blobs = Blobs::new(ledger.reader());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::io("the registries cannot be asked", source))?;
    let mut found = Vec::new();
    for (id, workload) in state.workloads.iter().filter(|(id, _)| wanted(id.as_str())) {
        for (release, state) in newest(workload, n) {
            let outcome = runtime.block_on(pullable(&registries, &blobs, state));
            found.push(Kept {
                workload: id.to_string(),
                release,
                missing: outcome.err().unwrap_or_default(),
            });
        }
    }
    Ok(found)
}

fn newest(workload: &WorkloadState, n: usize) -> impl Iterator<Item = (String, Option<&holdfast_core::state::ReleaseState>)> {
    let proven = workload.proven.iter().rev().take(n);
    proven.map(|release| (release.to_string(), workload.releases.get(release)))
}
