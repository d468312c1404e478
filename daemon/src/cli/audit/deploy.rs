//! Deploys, put together from their entries.

use super::super::book::Book;
use super::super::error::CliError;
use crate::api::FindBy;
use holdfast_core::entry::{AttemptChange, Body, Entry};
use holdfast_core::ids::{Digest, Seq, deploy_id, parse_deploy_id};
use holdfast_core::plan::unit::percent;
use std::collections::{BTreeMap, BTreeSet};

/// One attempt, put together from its entries.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(super) struct Deploy {
    pub deploy: String,
    pub workload: String,
    pub target: String,
    pub generation: u32,
    pub release: String,
    pub artifacts: BTreeMap<String, Digest>,
    pub references: BTreeMap<String, String>,
    /// What asked for it: a commit, a tag that a selector took, or a command.
    pub request: String,
    /// The commit that wrote what was deployed. A command that brings a release back has none of its own.
    pub commit: String,
    pub author: String,
    /// What is known of the commit's signature.
    pub signer: String,
    pub summary: String,
    pub plugin: String,
    pub grants: String,
    pub began: String,
    pub ended: String,
    pub outcome: String,
    pub reason: String,
    pub highest_weight: String,
    /// What was judged and how, in order.
    pub verdicts: Vec<String>,
    pub entries: Vec<u64>,
    /// What it rests on: pins, rollout, request, commit.
    #[serde(skip)]
    pub causes: Vec<Entry>,
}

pub(super) fn began(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries
        .iter()
        .filter(|entry| matches!(entry.body, Body::Attempt(AttemptChange::Began { .. })))
}

pub(super) fn text_of(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn epoch_of(book: &Book, entry: &Entry) -> Result<u64, CliError> {
    let term = book.entries(&[entry.term])?;
    Ok(match term.first().map(|term| &term.body) {
        Some(Body::Term(term)) => term.epoch,
        _ => 1,
    })
}

pub(super) fn deploy(book: &Book, entry: &Entry) -> Result<Deploy, CliError> {
    let Body::Attempt(AttemptChange::Began {
        release,
        generation,
        plugin,
        request,
        ..
    }) = &entry.body
    else {
        return Ok(Deploy::default());
    };
    let mut deploy = Deploy {
        deploy: deploy_id(epoch_of(book, entry)?, entry.seq),
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
    let mut causes = causes(book, entry)?;
    let request = match changed_target(&causes) {
        true => newest_spec_of_target(book, &deploy.target, entry.seq)?,
        false => book.entries(&[*request])?,
    };
    let origin = origin(book, request.first(), release.as_str(), entry.seq)?;
    deploy.request = request.first().map(asked_by).unwrap_or_default();
    if let Some(Body::Source(source)) = origin.last().map(|entry| &entry.body) {
        deploy.commit.clone_from(&source.new);
        deploy.author.clone_from(&source.author);
        deploy.signer.clone_from(&source.signer);
        deploy.summary.clone_from(&source.summary);
    }
    causes.extend(request.into_iter().chain(origin));
    for cause in &causes {
        if let Body::Rollout(change) = &cause.body
            && change.release == *release
            && !change.artifacts.is_empty()
        {
            deploy.artifacts.clone_from(&change.artifacts);
        }
    }
    for cause in &causes {
        if let Body::Pin(pin) = &cause.body
            && deploy.artifacts.values().any(|digest| *digest == pin.digest)
        {
            deploy.references.insert(pin.reference.clone(), pin.digest.to_string());
        }
    }
    deploy.causes = causes;
    let own = book.find(&[(FindBy::Deploy, &deploy.deploy)])?;
    let mut highest = 0;
    for entry in &own {
        deploy.entries.push(entry.seq);
        match &entry.body {
            Body::Attempt(AttemptChange::Reached { weight }) => {
                highest = highest.max(*weight);
                deploy.highest_weight = format!("{}%", percent(highest));
            }
            Body::Verdict(verdict) => deploy.verdicts.push(
                format!("{} {} {}", verdict.about, text_of(&verdict.outcome), verdict.message)
                    .trim_end()
                    .to_owned(),
            ),
            Body::Attempt(AttemptChange::Ended {
                outcome,
                reason,
                message,
                ..
            }) => {
                deploy.outcome = text_of(outcome);
                deploy.reason = format!("{reason}: {message}");
                deploy.ended.clone_from(&entry.wall);
            }
            _ => {}
        }
    }
    Ok(deploy)
}

fn asked_by(request: &Entry) -> String {
    match &request.body {
        Body::Spec(spec) => format!("commit {}", spec.commit),
        Body::Selection(selection) => format!("tag {} of {}", selection.tag, selection.repository),
        Body::Command(command) => format!("{} by {}", command.verb.name(), request.by.id),
        body => body.kind().to_owned(),
    }
}

/// The entries by which a request goes back to the commit that wrote its content, the commit last. A pin tells nothing of
/// that: it may be inherited from a commit long ago.
fn origin(book: &Book, request: Option<&Entry>, release: &str, before: Seq) -> Result<Vec<Entry>, CliError> {
    let Some(request) = request else { return Ok(Vec::new()) };
    let spec = match &request.body {
        Body::Spec(_) => Some(request.clone()),
        Body::Selection(_) => newest_spec(book.entries(&request.because)?),
        // A command asks for what some commit wrote before.
        _ => {
            let rollouts = book.find(&[(FindBy::Release, release), (FindBy::Kind, "rollout")])?;
            let same = |entry: &&Entry| entry.on.workload == request.on.workload && entry.seq < before;
            let requests: Vec<Seq> = rollouts.iter().filter(same).filter_map(|entry| entry.on.rollout).collect();
            newest_spec(book.entries(&requests)?)
        }
    };
    let Some(spec) = spec else { return Ok(Vec::new()) };
    let sources = book.entries(&spec.because)?;
    let source = sources.into_iter().find(|entry| match (&entry.body, &spec.body) {
        (Body::Source(source), Body::Spec(spec)) => source.new == spec.commit,
        _ => false,
    });
    Ok(std::iter::once(spec).chain(source).collect())
}

/// The same request again, because a target's values or config changed: that commit is the one to name.
fn changed_target(causes: &[Entry]) -> bool {
    let reason = |entry: &Entry| match &entry.body {
        Body::Rollout(change) => change.reason == "target-changed",
        _ => false,
    };
    causes.iter().any(reason)
}

fn newest_spec_of_target(book: &Book, target: &str, before: Seq) -> Result<Vec<Entry>, CliError> {
    let specs = book.find(&[(FindBy::Target, target), (FindBy::Kind, "spec")])?;
    Ok(specs.into_iter().rfind(|entry| entry.seq < before).into_iter().collect())
}

fn newest_spec(entries: Vec<Entry>) -> Option<Entry> {
    entries
        .into_iter()
        .filter(|entry| matches!(entry.body, Body::Spec(_)))
        .max_by_key(|entry| entry.seq)
}

/// What an entry rests on, oldest first: its rollout, the pins, the request. Not what those rest on in turn.
fn causes(book: &Book, entry: &Entry) -> Result<Vec<Entry>, CliError> {
    let mut seen: BTreeMap<Seq, Entry> = BTreeMap::new();
    let mut open: BTreeSet<Seq> = entry.because.iter().copied().collect();
    while !open.is_empty() {
        let wanted: Vec<Seq> = std::mem::take(&mut open).into_iter().collect();
        for cause in book.entries(&wanted)? {
            let ends = matches!(
                cause.body,
                Body::Source(_) | Body::Spec(_) | Body::Selection(_) | Body::Pin(_) | Body::Command(_)
            );
            if !ends {
                open.extend(cause.because.iter().filter(|seq| !seen.contains_key(seq)));
            }
            seen.insert(cause.seq, cause);
        }
        open.retain(|seq| !seen.contains_key(seq));
    }
    Ok(seen.into_values().collect())
}

/// `shop`, or `main/shop`.
pub(super) fn workloads_named(book: &Book, name: &str) -> Result<Vec<String>, CliError> {
    if name.contains('/') {
        return Ok(vec![name.to_owned()]);
    }
    let mut all = book.complete(FindBy::Workload, "")?;
    all.retain(|known| known.ends_with(&format!("/{name}")));
    Ok(all)
}

/// The entry that began the deploy a person names.
pub(super) fn find_deploy(book: &Book, wanted: &str) -> Result<Option<Entry>, CliError> {
    if let Some((_, seq)) = parse_deploy_id(wanted) {
        let known = book.find(&[(FindBy::Deploy, wanted)])?;
        return Ok(began(&known).find(|entry| entry.seq == seq).cloned());
    }
    let Some((workload, target)) = wanted.split_once('@') else {
        return Ok(None);
    };
    let names = workloads_named(book, workload)?;
    let mut newest: Option<Entry> = None;
    for name in names {
        let entries = book.find(&[(FindBy::Target, target), (FindBy::Workload, &name), (FindBy::Kind, "attempt")])?;
        newest = began(&entries).cloned().chain(newest).max_by_key(|entry| entry.seq);
    }
    Ok(newest)
}

/// The deploy id and workload of what a person names.
pub fn deploy_and_workload(config: &std::path::Path, wanted: &str) -> Result<(String, String), CliError> {
    let book = Book::open(config, None, None)?;
    let began = find_deploy(&book, wanted)?.ok_or_else(|| no_deploy(wanted))?;
    let workload = began.on.workload.as_ref().map(ToString::to_string).unwrap_or_default();
    Ok((deploy_id(epoch_of(&book, &began)?, began.seq), workload))
}

pub(super) fn no_deploy(wanted: &str) -> CliError {
    CliError::usage(
        format!("there is no deploy {wanted:?}"),
        "a deploy id as in d1-42, or WORKLOAD@TARGET; `holdfast audit target` lists them",
    )
}
