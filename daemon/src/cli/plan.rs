//! `plan`: what a commit or a directory would do now, by the real planners on the daemon's State, or on the ledger's when no
//! daemon runs. Nothing is asked of registries and targets: what that leaves open is said.

use super::error::{CliError, NEGATIVE};
use super::manifests::{desired_of, read_directory};
use super::show::{Out, Tone};
use crate::adapters::git::GitSource;
use crate::api::{Ask, ClientError, ask};
use crate::operator::{self, Operator};
use crate::shell::{Trust, load_desired};
use holdfast_core::engine::Revision;
use holdfast_core::ids::Digest;
use holdfast_core::manifest::{Desired, Problem, Severity, render};
use holdfast_core::preview::{Preview, preview};
use holdfast_core::state::State;
use holdfast_ledger::{Ledger, Options, load_state};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

pub fn plan(config: &Path, path: Option<&Path>, out: &Out) -> Result<ExitCode, CliError> {
    let operator = operator::load(config)?;
    let (state, from) = state(&operator)?;
    let (revision, problems, texts) = match path {
        Some(path) => directory(&operator, path)?,
        None => tip(&operator, &state)?,
    };
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let engine_config = operator.engine_config(plugin_digests(&operator), Default::default())?;
    let seen = preview(engine_config, state, revision, crate::shell::unix_ms());
    if out.is_json {
        out.json(&json!({
            "ok": errors == 0, "as_of": seen.as_of, "from": from, "steps": seen.steps, "assumed": seen.assumed,
            "entries": seen.entries, "problems": problems,
        }));
        return Ok(ExitCode::from(if errors == 0 { 0 } else { NEGATIVE }));
    }
    for problem in &problems {
        out.lines(&render(problem, texts.get(&problem.file).map(String::as_str)));
    }
    draw(&seen, from, out);
    Ok(ExitCode::from(if errors == 0 { 0 } else { NEGATIVE }))
}

fn draw(seen: &Preview, from: &str, out: &Out) {
    if seen.steps.is_empty() {
        out.line("nothing to do: everything is as the manifests say");
    } else {
        let rows: Vec<Vec<String>> = seen
            .steps
            .iter()
            .map(|step| {
                vec![
                    step.action.clone(),
                    step.workload.clone(),
                    step.target.clone(),
                    step.detail.clone(),
                ]
            })
            .collect();
        out.table(&["ACTION", "WORKLOAD", "TARGET", "DETAIL"], &rows);
    }
    for assumed in &seen.assumed {
        out.line(&out.paint(Tone::Dim, &format!("if {assumed}")));
    }
    let as_of = match seen.as_of {
        0 => "an empty ledger".to_owned(),
        size => format!("entry {}", size - 1),
    };
    out.line(&out.paint(Tone::Dim, &format!("as of {as_of}, by {from}")));
}

/// The daemon's, or what the ledger says when none runs.
fn state(operator: &Operator) -> Result<(State, &'static str), CliError> {
    match ask(&operator.socket(), &Ask::State) {
        Ok(value) => {
            let state = serde_json::from_value(value).map_err(ClientError::Json)?;
            return Ok((state, "the daemon's State"));
        }
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let dir = operator.ledger_dir();
    if !dir.is_dir() {
        return Ok((State::default(), "no ledger yet"));
    }
    let (mut ledger, _) = Ledger::open_read_only(&dir, Options::default())?;
    Ok((load_state(&mut ledger)?.0, "the ledger's directory; no daemon runs"))
}

type Texts = BTreeMap<String, String>;
type Wanted = (Revision, Vec<Problem>, Texts);

/// A directory, as if it were committed and trusted.
fn directory(operator: &Operator, path: &Path) -> Result<Wanted, CliError> {
    let directory = read_directory(path)?;
    let desired = desired_of(&directory, &operator.repository.name);
    let revision = Revision {
        commit: "0".repeat(40),
        fast_forward: true,
        adopted: true,
        signer: "unverified".into(),
        ..Revision::default()
    };
    Ok(with(revision, desired, directory.texts))
}

/// The branch as it is now, with what the daemon would make of its history and its signature.
fn tip(operator: &Operator, state: &State) -> Result<Wanted, CliError> {
    // A mirror of its own: the daemon's may be in use.
    let mirror = tempfile::tempdir().map_err(|source| CliError::io("a temporary directory cannot be made", source))?;
    let source = GitSource::open(&operator.repository, mirror.path())?;
    let known = state.source.as_ref().map(|head| head.commit.as_str());
    let accepted = state.source.as_ref().and_then(|head| head.accepted.as_deref());
    let head = source.fetch(known)?;
    let trust = operator.repository.trust.clone().map(Trust::load).transpose()?;
    let verdict = source.verdict(&head.commit, trust.as_ref().map(Trust::allowed))?;
    let untrusted = known != Some(&*head.commit) && trust.as_ref().is_some_and(|trust| trust.refuses(&verdict));
    let is_growth = head.fast_forward || accepted.is_some_and(|accepted| source.grew(accepted, &head.commit));
    let (desired, _) = load_desired(&source, &head.commit, &operator.repository.name, &mut BTreeMap::new())?;
    let revision = Revision {
        commit: head.commit,
        fast_forward: head.fast_forward,
        adopted: is_growth && !untrusted,
        untrusted,
        signer: verdict.text(str::to_owned),
        ..Revision::default()
    };
    Ok(with(revision, desired, Texts::new()))
}

fn with(revision: Revision, mut desired: Desired, texts: Texts) -> Wanted {
    let problems = std::mem::take(&mut desired.problems);
    let desired = desired.into();
    (Revision { desired, ..revision }, problems, texts)
}

/// As the daemon would load them, without compiling anything.
fn plugin_digests(operator: &Operator) -> BTreeMap<String, Digest> {
    let built_in = crate::builtin::plugins();
    let built_in = built_in.iter().map(|(name, bytes)| ((*name).to_owned(), Digest::of(bytes)));
    let named = operator
        .plugins
        .iter()
        .map(|(name, plugin)| (name.clone(), plugin.digest.clone()));
    built_in.chain(named).collect()
}
