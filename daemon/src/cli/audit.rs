//! `audit`: what ran where, when, by whose commit, and why. Read from the ledger alone.

use super::book::Book;
use super::error::CliError;
use super::ledger::what;
use super::show::{Out, Tone};
use crate::api::FindBy;
use holdfast_core::entry::{AttemptChange, Body, Entry, PhaseName};
use holdfast_core::ids::{Digest, Seq, deploy_id, parse_deploy_id};
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
        /// Name of the target
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
    /// What asked for it: a commit, a tag that a selector took, or a command.
    request: String,
    /// The commit that wrote what was deployed. A command that brings a release back has none of its own.
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
    /// What it rests on: pins, rollout, request, commit.
    #[serde(skip)]
    causes: Vec<Entry>,
}

pub fn run(config: &Path, command: &AuditCommand, out: &Out) -> Result<ExitCode, CliError> {
    let of = match command {
        AuditCommand::Digest { of, .. } | AuditCommand::Target { of, .. } | AuditCommand::Why { of, .. } => of,
    };
    let book = Book::open(config, of.dir.as_deref(), of.as_of)?;
    match command {
        AuditCommand::Digest { digest, .. } => of_digest(&book, digest, out),
        AuditCommand::Target { target, .. } => {
            let entries = book.find(&[(FindBy::Target, target), (FindBy::Kind, "attempt")])?;
            let found: Result<Vec<Deploy>, CliError> = began(&entries).map(|entry| deploy(&book, entry)).collect();
            table(&found?, &[], &book, out)
        }
        AuditCommand::Why { what: wanted, .. } => why(&book, wanted, out),
    }
}

fn of_digest(book: &Book, digest: &str, out: &Out) -> Result<ExitCode, CliError> {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    if hex.len() < 6 {
        return Err(CliError::usage(
            format!("{digest:?} is too short to name a digest"),
            "give at least 6 hex digits",
        ));
    }
    let mut about: BTreeMap<Seq, Entry> = BTreeMap::new();
    for digest in book.complete(FindBy::Digest, &format!("sha256:{hex}"))? {
        about.extend(
            book.find(&[(FindBy::Digest, &digest)])?
                .into_iter()
                .map(|entry| (entry.seq, entry)),
        );
    }
    let is_it = |digest: &Digest| digest.hex().starts_with(hex);
    let mut seen = Vec::new();
    let mut releases = BTreeSet::new();
    for entry in about.values() {
        match &entry.body {
            Body::Rollout(change) if change.artifacts.values().any(is_it) => {
                releases.insert(change.release.clone());
            }
            Body::Pin(pin) if !is_it(&pin.digest) => continue,
            Body::TagMoved(moved) if !is_it(&moved.seen) => continue,
            Body::Pin(_) | Body::TagMoved(_) => {
                seen.push(json!({ "entry": entry.seq, "wall": entry.wall, "kind": entry.body.kind(), "what": what(&entry.body) }))
            }
            _ => {}
        }
    }
    let mut deploys = BTreeMap::new();
    for release in releases {
        let entries = book.find(&[(FindBy::Release, release.as_str()), (FindBy::Kind, "attempt")])?;
        for entry in began(&entries) {
            deploys.insert(entry.seq, deploy(book, entry)?);
        }
    }
    table(&deploys.into_values().collect::<Vec<_>>(), &seen, book, out)
}

fn began(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries
        .iter()
        .filter(|entry| matches!(entry.body, Body::Attempt(AttemptChange::Began { .. })))
}

fn text_of(value: &impl serde::Serialize) -> String {
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

fn deploy(book: &Book, entry: &Entry) -> Result<Deploy, CliError> {
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

fn as_of_line(book: &Book, out: &Out) {
    let text = format!("as of entry {}, by {}", book.as_of().saturating_sub(1), book.by());
    out.line(&out.paint(Tone::Dim, &text));
}

fn table(found: &[Deploy], seen: &[Value], book: &Book, out: &Out) -> Result<ExitCode, CliError> {
    if out.is_json {
        out.json(&json!({ "as_of": book.as_of(), "deploys": found, "seen": seen }));
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
        out.line("it never ran");
        as_of_line(book, out);
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
    as_of_line(book, out);
    Ok(ExitCode::SUCCESS)
}

/// The entry that began the deploy a person names.
fn find_deploy(book: &Book, wanted: &str) -> Result<Option<Entry>, CliError> {
    let is_began = |entry: &Entry| matches!(entry.body, Body::Attempt(AttemptChange::Began { .. }));
    if let Some((_, seq)) = parse_deploy_id(wanted) {
        let known = book.find(&[(FindBy::Deploy, wanted)])?;
        return Ok(known.into_iter().find(|entry| entry.seq == seq && is_began(entry)));
    }
    let Some((workload, target)) = wanted.split_once('@') else {
        return Ok(None);
    };
    let names = match workload.contains('/') {
        true => vec![workload.to_owned()],
        false => {
            let mut all = book.complete(FindBy::Workload, "")?;
            all.retain(|name| name.ends_with(&format!("/{workload}")));
            all
        }
    };
    let mut newest: Option<Entry> = None;
    for name in names {
        let entries = book.find(&[(FindBy::Target, target), (FindBy::Workload, &name), (FindBy::Kind, "attempt")])?;
        newest = entries
            .into_iter()
            .filter(is_began)
            .chain(newest)
            .max_by_key(|entry| entry.seq);
    }
    Ok(newest)
}

fn why(book: &Book, wanted: &str, out: &Out) -> Result<ExitCode, CliError> {
    let Some(began) = find_deploy(book, wanted)? else {
        return Err(CliError::usage(
            format!("there is no deploy {wanted:?}"),
            "a deploy id as in d1-42, or WORKLOAD@TARGET; `holdfast audit target` lists them",
        ));
    };
    let deploy = deploy(book, &began)?;
    let mut chain = deploy.causes.clone();
    let own = book.entries(&deploy.entries)?;
    for entry in own.into_iter().filter(|entry| !is_detail(entry)) {
        // What stopped it may have been decided elsewhere: a quarantine on another target, a command.
        chain.extend(book.entries(&entry.because)?);
        chain.push(entry);
    }
    // What was decided because of it, but is not on the attempt itself.
    let of_release = book.find(&[(FindBy::Release, &deploy.release)])?;
    let effects = of_release.into_iter().filter(|entry| {
        matches!(entry.body, Body::Quarantine(_) | Body::Rollout(_))
            && entry.because.iter().any(|cause| deploy.entries.contains(cause))
    });
    chain.extend(effects);
    chain.sort_by_key(|entry| entry.seq);
    chain.dedup_by_key(|entry| entry.seq);
    if out.is_json {
        out.json(&json!({ "as_of": book.as_of(), "deploy": deploy, "chain": chain }));
        return Ok(ExitCode::SUCCESS);
    }
    out.line(&out.paint(
        Tone::Bold,
        &format!(
            "{} {}@{} generation {}: {} {}",
            deploy.deploy, deploy.workload, deploy.target, deploy.generation, deploy.outcome, deploy.reason
        ),
    ));
    out.line(&format!("asked for by {}", deploy.request));
    out.line(&format!(
        "content of commit {} {} by author {}",
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
    as_of_line(book, out);
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
