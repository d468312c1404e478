//! `ledger`: the log as it is, and whether it is whole. Works on a live daemon's directory and on a copy alike.

mod copies;
mod epoch;
pub mod proofs;
mod retention;

use super::error::CliError;
use super::show::{Out, Tone};
use crate::operator;
use holdfast_core::entry::{Body, Entry};
use holdfast_core::ids::deploy_id;
use holdfast_ledger::tlog::rotation::Rotation;
use holdfast_ledger::{Ledger, Options, Reader};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum LedgerCommand {
    /// List entries, newest last
    Log {
        /// How many
        #[arg(long, short, default_value_t = 40)]
        n: u64,
        /// Only entries below this number
        #[arg(long)]
        before: Option<u64>,
        /// Only of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only about this workload
        #[arg(long)]
        workload: Option<String>,
        /// A copy of a ledger, instead of the configured one
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Show one entry, whole
    Show {
        /// Number of the entry, from 0
        seq: u64,
        /// A copy of a ledger, instead of the configured one
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Check every frame, root, entry, tile, signature and blob, offline; nothing is cut or repaired
    Verify {
        /// Directory of a ledger, or URL of what is published of one; default: the configured one
        place: Option<String>,
        #[command(flatten)]
        keys: proofs::Keys,
        /// A checkpoint that was kept from earlier: the log must still contain it
        #[arg(long, value_name = "CHECKPOINT")]
        from: Option<PathBuf>,
    },
    /// The log's key, which signs what others verify
    #[command(subcommand)]
    Key(proofs::KeyCommand),
    /// Write entries with their tlog-proofs: each can be checked alone, without the ledger
    Prove {
        /// Numbers of entries
        #[arg(required = true)]
        seqs: Vec<u64>,
        /// Directory for SEQ.json and SEQ.json.tlog-proof
        #[arg(long, default_value = ".")]
        into: PathBuf,
        /// A copy of a ledger, instead of the configured one
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Check an entry against its tlog-proof and the log's key
    Check {
        /// The entry's file, as `prove` wrote it
        entry: PathBuf,
        /// Default: the same name with .tlog-proof behind it
        #[arg(long)]
        proof: Option<PathBuf>,
        #[command(flatten)]
        keys: proofs::Keys,
    },
    /// Print entries for other tools
    Export(copies::ExportArgs),
    /// Publish no bundles any more of entries that are exported; the log, all hashes and all proofs stay
    Prune(retention::PruneArgs),
    /// Erase the salt of an e-mail address: nobody can tell it from its hash in the ledger any more
    Forget(retention::ForgetArgs),
    /// Print new entries as they come
    Tail {
        /// A copy of a ledger, instead of the configured one
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Bring a copy of the ledger up to date, also while the daemon runs
    Backup {
        /// Directory of the copy
        to: PathBuf,
        /// A copy of a ledger, instead of the configured one
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Go on after acknowledged entries were lost, without the daemon: what is whole is kept, the rest is set aside
    NewEpoch(epoch::NewEpochArgs),
    /// Put a backup in the place of a ledger that is lost, after verifying it
    Restore {
        /// Directory of the backup
        backup: PathBuf,
        /// Where to; default: the configured place
        #[arg(long)]
        to: Option<PathBuf>,
        #[command(flatten)]
        keys: proofs::Keys,
        /// The newest checkpoint that was kept elsewhere: an older backup is refused
        #[arg(long, value_name = "CHECKPOINT")]
        from: Option<PathBuf>,
    },
}

pub fn ledger_dir(config: &Path, dir: Option<&Path>) -> Result<PathBuf, CliError> {
    match dir {
        Some(dir) => Ok(dir.to_owned()),
        None => Ok(operator::load(config)?.ledger_dir()),
    }
}

pub fn run(config: &Path, command: &LedgerCommand, out: &Out) -> Result<ExitCode, CliError> {
    match command {
        LedgerCommand::Log {
            n,
            before,
            kind,
            workload,
            dir,
        } => log(
            &ledger_dir(config, dir.as_deref())?,
            *n,
            *before,
            kind.as_deref(),
            workload.as_deref(),
            out,
        ),
        LedgerCommand::Show { seq, dir } => show(&ledger_dir(config, dir.as_deref())?, *seq, out),
        LedgerCommand::Verify { place, keys, from } => copies::verify_any(config, place.as_deref(), keys, from.as_deref(), out),
        LedgerCommand::Key(command) => proofs::key(config, command, out),
        LedgerCommand::Prove { seqs, into, dir } => proofs::prove(config, seqs, into, dir.as_deref(), out),
        LedgerCommand::Check { entry, proof, keys } => proofs::check(config, entry, proof.as_deref(), keys, out),
        LedgerCommand::Export(args) => copies::export(config, args, out),
        LedgerCommand::Tail { dir } => copies::tail(config, dir.as_deref(), out),
        LedgerCommand::Backup { to, dir } => copies::back_up(config, to, dir.as_deref(), out),
        LedgerCommand::Prune(args) => retention::prune(config, args, out),
        LedgerCommand::Forget(args) => retention::forget(config, args, out),
        LedgerCommand::NewEpoch(args) => epoch::new_epoch(config, args, out),
        LedgerCommand::Restore { backup, to, keys, from } => {
            copies::come_back(config, backup, to.as_deref(), keys, from.as_deref(), out)
        }
    }
}

/// A ledger to read: the daemon's own while it runs, or a copy. Damage shows as damage, and only where it is.
pub fn open(dir: &Path) -> Result<Reader, CliError> {
    Ok(Ledger::open_read_only(dir, Options::default())?.0.reader())
}

fn log(
    dir: &Path,
    n: u64,
    before: Option<u64>,
    kind: Option<&str>,
    workload: Option<&str>,
    out: &Out,
) -> Result<ExitCode, CliError> {
    if let Some(kind) = kind.filter(|kind| !Body::KINDS.contains(kind)) {
        return Err(CliError::usage(
            format!("there is no kind {kind:?}"),
            format!("there are {}", Body::KINDS.join(", ")),
        ));
    }
    let ledger = open(dir)?;
    let size = ledger.size();
    let mut end = before.unwrap_or(size).min(size);
    let mut found: Vec<Entry> = Vec::new();
    while end > 0 && (found.len() as u64) < n {
        let start = end.saturating_sub(1_000);
        let mut entries = ledger.entries(start, end)?;
        entries.reverse();
        let wanted = entries
            .into_iter()
            .filter(|entry| kind.is_none_or(|kind| entry.body.kind() == kind))
            .filter(|entry| {
                workload.is_none_or(|wanted| {
                    entry
                        .on
                        .workload
                        .as_ref()
                        .is_some_and(|id| id.as_str() == wanted || id.name() == wanted)
                })
            });
        found.extend(wanted);
        end = start;
    }
    found.truncate(n as usize);
    found.reverse();
    if out.is_json {
        out.json(&json!({ "as_of": size, "entries": found }));
    } else if found.is_empty() {
        out.line(&format!("no such entries (as of entry {})", size.saturating_sub(1)));
    } else {
        let epoch = epoch_of(&ledger)?;
        let rows: Vec<Vec<String>> = found.iter().map(|entry| row(entry, epoch)).collect();
        out.table(&["SEQ", "WALL", "KIND", "ON", "WHAT"], &rows);
        out.line(&out.paint(Tone::Dim, &format!("as of entry {}", size.saturating_sub(1))));
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest term says which epoch it is.
pub fn epoch_of(ledger: &Reader) -> Result<u64, CliError> {
    if ledger.size() == 0 {
        return Ok(1);
    }
    let last = ledger.entry(ledger.size() - 1)?;
    Ok(match ledger.entry(last.term)?.body {
        Body::Term(term) => term.epoch,
        _ => 1,
    })
}

fn row(entry: &Entry, epoch: u64) -> Vec<String> {
    let on: Vec<String> = [
        entry.on.workload.as_ref().map(|id| id.name().to_owned()),
        entry.on.target.clone().map(|target| format!("@{target}")),
        entry.on.attempt.map(|attempt| deploy_id(epoch, attempt)),
    ]
    .into_iter()
    .flatten()
    .collect();
    vec![
        entry.seq.to_string(),
        entry.wall.clone(),
        entry.body.kind().to_owned(),
        on.join(" "),
        what(&entry.body),
    ]
}

/// One line for people.
pub fn what(body: &Body) -> String {
    use holdfast_core::entry::{AttemptChange, SpecObject};
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let name = |value: &dyn erased::Named| value.named();
    match body {
        Body::Term(term) => format!(
            "{} begins after {} entries{}",
            term.binary,
            term.previous_size,
            if term.clean { "" } else { ", not cleanly" }
        ),
        Body::Source(source) => format!(
            "{} {}{}",
            &source.new[..12.min(source.new.len())],
            source.summary,
            match (source.adopted, source.untrusted) {
                (true, _) => String::new(),
                (false, true) => format!(" (not taken: {})", source.signer),
                (false, false) => " (rewritten: not taken)".into(),
            }
        ),
        Body::Spec(spec) => match &spec.object {
            SpecObject::Workload { presence, .. } => format!("workload {}", name(presence)),
            SpecObject::Target { presence, .. } => format!("target {}", name(presence)),
        },
        Body::Pin(pin) => format!("{} is {}", pin.reference, pin.digest),
        Body::TagMoved(moved) => format!(
            "{} points at {} now; {} stays pinned",
            moved.reference,
            moved.seen.short(),
            moved.pinned.short()
        ),
        Body::Rollout(change) => format!(
            "{} release {} {} {}",
            name(&change.to),
            change.release.short(),
            change.reason,
            change.message
        ),
        Body::Attempt(change) => match change {
            AttemptChange::Began { release, generation, .. } => {
                format!("began: generation {generation} of release {}", release.short())
            }
            AttemptChange::Phase { to, message, .. } => format!("{}: {message}", name(to)),
            AttemptChange::Reached { weight } => format!("{}% read back", holdfast_core::plan::unit::percent(*weight)),
            AttemptChange::Passed { weight } => format!("{}% passed", holdfast_core::plan::unit::percent(*weight)),
            AttemptChange::Undo { reason, message, .. } => format!("turns back: {reason}: {message}"),
            AttemptChange::Ended {
                outcome,
                reason,
                message,
                ..
            } => format!("ended {}: {reason}: {message}", name(outcome)),
            AttemptChange::Fingerprint { fingerprint } => format!("fingerprint {fingerprint}"),
        },
        Body::Intent(intent) => word(json!(serde_json::to_value(&intent.verb).unwrap_or_default().to_string())),
        Body::Result(outcome) => match outcome.class {
            None => format!("of {}: done ({})", outcome.intent, outcome.sent.join(", ")),
            Some(class) => format!("of {}: {}: {}", outcome.intent, class.as_str(), outcome.message),
        },
        Body::Verdict(verdict) => format!("{} {}: {}", verdict.about, name(&verdict.outcome), verdict.message),
        Body::Quarantine(quarantine) => format!(
            "{} release {}: {}",
            name(&quarantine.action),
            quarantine.release.short(),
            quarantine.message
        ),
        Body::Command(command) => format!("{} {}", command.verb.name(), command.reason),
        Body::Target(change) => serde_json::to_string(change).unwrap_or_default(),
        Body::Plugin(plugin) => format!("{} {}", plugin.name, plugin.digest),
        Body::Selection(selection) => format!(
            "{} of {}, best of {} tags",
            selection.tag, selection.repository, selection.candidates
        ),
        Body::Drift(drift) => format!(
            "{}: wanted {}, seen {}: {}",
            name(&drift.what),
            drift.wanted,
            drift.seen,
            drift.answer.as_str()
        ),
        Body::Guard(guard) => format!("limit {} of {} is reached", guard.limit, guard.class),
        Body::Clock(_) => String::new(),
        Body::ObservationRoot(root) => format!("{} polls of {} tags", root.polls, root.references),
        Body::Retention(retention) => format!("bundles are published from entry {} on", retention.bundles_from),
        Body::LogKey(change) => match Rotation::open(&change.note) {
            Ok(Rotation { old, new }) => format!("{new} signs the log from here on, and {old} no more"),
            Err(error) => format!("a change of the log's key that does not hold: {error}"),
        },
    }
}

mod erased {
    //! Names of enum values as the ledger spells them.
    pub trait Named {
        fn named(&self) -> String;
    }
    impl<T: serde::Serialize> Named for T {
        fn named(&self) -> String {
            serde_json::to_value(self)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_default()
        }
    }
}

fn show(dir: &Path, seq: u64, out: &Out) -> Result<ExitCode, CliError> {
    let ledger = open(dir)?;
    let entry = ledger.entries(seq, seq + 1)?.pop();
    match entry {
        Some(entry) => {
            out.json(&serde_json::to_value(entry).unwrap_or_default());
            Ok(ExitCode::SUCCESS)
        }
        None => Err(CliError::usage(
            format!("there is no entry {seq}"),
            format!("the ledger has {} entries, from 0", ledger.size()),
        )),
    }
}
