//! `audit`: what ran where, when, by whose commit, and why. Read from the ledger alone.

mod attest;
mod deploy;
mod dora;
mod drift;
mod replay;
mod retention;
mod tags;
pub mod time;
mod why;

pub use deploy::deploy_and_workload;

use super::book::Book;
use super::error::{CliError, NEGATIVE};
use super::ledger::proofs::Prover;
use super::ledger::{ledger_dir, what};
use super::show::{Out, Tone};
use crate::api::FindBy;
use deploy::{Deploy, began, deploy, workloads_named};
use holdfast_core::entry::{Body, Entry};
use holdfast_core::ids::{Digest, Seq};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use time::AsOf;

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
    /// Where a workload ran, and when
    Workload {
        /// Workload, as in shop or main/shop
        workload: String,
        #[command(flatten)]
        of: Of,
    },
    /// What a tag was pinned to, when it moved, and what every poll saw
    Tags {
        #[command(flatten)]
        args: tags::TagsArgs,
        #[command(flatten)]
        of: Of,
    },
    /// Why a deploy happened, and why it ended as it did: the causal chain, decided once more
    Why {
        /// Deploy id, as in d1-42, or WORKLOAD@TARGET for its newest
        what: String,
        #[command(flatten)]
        of: Of,
    },
    /// A deploy as a signed statement: in-toto with a SLSA verification summary, in a DSSE envelope
    Attest {
        /// Deploy id, as in d1-42, or WORKLOAD@TARGET for its newest
        what: String,
        #[command(flatten)]
        of: Of,
    },
    /// What ran or was there without being authorised
    Drift {
        #[command(flatten)]
        args: drift::DriftArgs,
        #[command(flatten)]
        of: Of,
    },
    /// Deploys of commits whose signature is not proven
    Unsigned {
        #[command(flatten)]
        of: Of,
    },
    /// Whether the releases proven last can still be pulled: index, manifests, configs and layers
    Retention(retention::RetentionArgs),
    /// Delivery figures: success rate, lead time, time to detect and to roll back
    Dora {
        #[command(flatten)]
        args: dora::DoraArgs,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(clap::Args)]
pub struct Of {
    /// A copy of a ledger, instead of the configured one
    #[arg(long)]
    dir: Option<PathBuf>,
    /// As it was after this many entries, or at this time
    #[arg(long, value_name = "SEQ|TIME")]
    as_of: Option<AsOf>,
    /// Also write the entries that the answer rests on to DIR, each with its tlog-proof
    #[arg(long, value_name = "DIR")]
    proof: Option<PathBuf>,
    /// The newest so many rows; 0: all
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

impl Of {
    fn limit(&self) -> usize {
        if self.limit == 0 { usize::MAX } else { self.limit }
    }
}

pub fn run(config: &Path, command: &AuditCommand, out: &Out) -> Result<ExitCode, CliError> {
    let of = match command {
        AuditCommand::Digest { of, .. }
        | AuditCommand::Target { of, .. }
        | AuditCommand::Workload { of, .. }
        | AuditCommand::Tags { of, .. }
        | AuditCommand::Why { of, .. }
        | AuditCommand::Attest { of, .. }
        | AuditCommand::Drift { of, .. }
        | AuditCommand::Unsigned { of }
        | AuditCommand::Dora { of, .. } => of,
        AuditCommand::Retention(args) => return retention::retention(config, args, out),
    };
    let book = Book::open(config, of.dir.as_deref(), of.as_of.as_ref())?;
    let code = answer(config, &book, command, of, out)?;
    if let Some(into) = &of.proof {
        Prover::open(&ledger_dir(config, of.dir.as_deref())?)?.write(book.shown(), into)?;
    }
    Ok(code)
}

fn answer(config: &Path, book: &Book, command: &AuditCommand, of: &Of, out: &Out) -> Result<ExitCode, CliError> {
    match command {
        AuditCommand::Digest { digest, .. } => of_digest(book, digest, of.limit(), out),
        AuditCommand::Target { target, .. } => {
            let entries = book.find(&[(FindBy::Target, target), (FindBy::Kind, "attempt")])?;
            table(deploys(book, &entries)?, &[], of.limit(), book, out)
        }
        AuditCommand::Workload { workload, .. } => {
            let mut entries = Vec::new();
            for name in workloads_named(book, workload)? {
                entries.extend(book.find(&[(FindBy::Workload, &name), (FindBy::Kind, "attempt")])?);
            }
            table(deploys(book, &entries)?, &[], of.limit(), book, out)
        }
        AuditCommand::Tags { args, .. } => tags::tags(book, args, out),
        AuditCommand::Why { what: wanted, .. } => why::why(book, wanted, out),
        AuditCommand::Attest { what: wanted, .. } => attest::attest(config, book, wanted, out),
        AuditCommand::Drift { args, .. } => drift::drift(book, args, of.limit(), out),
        AuditCommand::Unsigned { .. } => unsigned(book, of.limit(), out),
        AuditCommand::Dora { args, .. } => dora::dora(config, book, args, of, out),
        AuditCommand::Retention(args) => retention::retention(config, args, out),
    }
}

fn deploys(book: &Book, entries: &[Entry]) -> Result<Vec<Deploy>, CliError> {
    began(entries).map(|entry| deploy(book, entry)).collect()
}

fn unsigned(book: &Book, limit: usize, out: &Out) -> Result<ExitCode, CliError> {
    let entries = book.find(&[(FindBy::Kind, "attempt")])?;
    let mut found = deploys(book, &entries)?;
    found.retain(|deploy| !deploy.signer.starts_with("verified"));
    let any = !found.is_empty();
    if any || out.is_json {
        table(found, &[], limit, book, out)?;
    } else {
        out.line(&out.paint(Tone::Good, "the commit of every deploy has a proven signature"));
        as_of_line(book, out);
    }
    Ok(ExitCode::from(if any { NEGATIVE } else { 0 }))
}

fn of_digest(book: &Book, digest: &str, limit: usize, out: &Out) -> Result<ExitCode, CliError> {
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
    table(deploys.into_values().collect(), &seen, limit, book, out)
}

/// The newest ones, and how many others there are.
fn within_limit<T>(mut found: Vec<T>, limit: usize) -> (Vec<T>, usize) {
    let left_out = found.len().saturating_sub(limit);
    (found.split_off(left_out), left_out)
}

fn more_line(left_out: usize, out: &Out) {
    if left_out > 0 {
        out.line(&out.paint(Tone::Dim, &format!("... and {left_out} older; --limit 0 shows all")));
    }
}

fn as_of_line(book: &Book, out: &Out) {
    let text = format!("as of entry {}, by {}", book.as_of().saturating_sub(1), book.by());
    out.line(&out.paint(Tone::Dim, &text));
}

fn table(found: Vec<Deploy>, seen: &[Value], limit: usize, book: &Book, out: &Out) -> Result<ExitCode, CliError> {
    let (found, left_out) = within_limit(found, limit);
    for deploy in &found {
        book.show(
            deploy
                .entries
                .iter()
                .copied()
                .chain(deploy.causes.iter().map(|cause| cause.seq)),
        );
    }
    if out.is_json {
        out.json(&json!({ "as_of": book.as_of(), "deploys": found, "seen": seen, "left_out": left_out }));
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
    more_line(left_out, out);
    as_of_line(book, out);
    Ok(ExitCode::SUCCESS)
}
