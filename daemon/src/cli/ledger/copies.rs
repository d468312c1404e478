//! Whether a ledger is whole, and copies of it: to keep, to come back from, and for people with other tools.

use super::proofs::{Keys, Prover};
use super::{ledger_dir, open, what};
use crate::adapters::web::WebServer;
use crate::cli::error::{CliError, NEGATIVE};
use crate::cli::show::{Out, Tone};
use base64::Engine as _;
use holdfast_core::entry::Entry;
use holdfast_ledger::backup::{backup, restore};
use holdfast_ledger::tlog::note::Note;
use holdfast_ledger::verify::Trust;
use holdfast_ledger::{LedgerError, RealDisk, VerifyReport, verify, verify_published};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// The largest bundle: 256 entries of 65,535 bytes and their lengths.
const FETCH_MAX_BYTES: usize = 256 * 65_537;
const TAIL_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Format {
    /// An entry a line
    Jsonl,
    /// For spreadsheets: seq, wall, kind, workload, target, by, what
    Csv,
}

#[derive(clap::Args)]
pub struct ExportArgs {
    /// How an entry is printed
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// From this entry on
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Below this entry; default: all
    #[arg(long)]
    to: Option<u64>,
    /// With jsonl: each line is {"entry": base64 of its bytes, "proof": its tlog-proof}
    #[arg(long)]
    proof: bool,
    /// A copy of a ledger, instead of the configured one
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn trust(config: &Path, keys: &Keys, from: Option<&Path>) -> Result<Trust, CliError> {
    let (keys, witnesses) = keys.with_configured(config)?;
    let from = match from {
        None => None,
        Some(file) => {
            let bytes =
                std::fs::read(file).map_err(|source| CliError::io(format!("{} cannot be read", file.display()), source))?;
            let note = Note::parse(&bytes).map_err(|error| {
                CliError::usage(format!("{}: {error}", file.display()), "a checkpoint, as in tlog/checkpoint")
            })?;
            Some(note)
        }
    };
    Ok(Trust { keys, from, witnesses })
}

pub fn verify_any(config: &Path, place: Option<&str>, keys: &Keys, from: Option<&Path>, out: &Out) -> Result<ExitCode, CliError> {
    if let Some(url) = place.filter(|place| place.starts_with("http://") || place.starts_with("https://")) {
        let report = verify_url(url, &trust(config, keys, from)?)?;
        say(&report, out);
        return Ok(ExitCode::from(if report.ok { 0 } else { NEGATIVE }));
    }
    let dir = ledger_dir(config, place.map(Path::new))?;
    if !dir.is_dir() {
        return Err(CliError::usage(
            format!("{} is no directory", dir.display()),
            "name a ledger's directory: the one with `log` in it",
        ));
    }
    let report = verify(&dir, &trust(config, keys, from)?)?;
    say(&report, out);
    Ok(ExitCode::from(if report.ok { 0 } else { NEGATIVE }))
}

/// What is published below a URL: checkpoint, tiles and entries. Blobs are not there.
fn verify_url(url: &str, trust: &Trust) -> Result<VerifyReport, CliError> {
    let server =
        WebServer::new("the published log", url, None, FETCH_DEADLINE).map_err(|error| CliError::usage(error.to_string(), ""))?;
    let runtime = crate::cli::run::runtime()?;
    let fetch = |path: &str| -> io::Result<Option<Vec<u8>>> {
        let url = format!("{}/{path}", server.base);
        runtime.block_on(async {
            let mut response = server.client.get(&url).send().await.map_err(io::Error::other)?;
            match response.status().as_u16() {
                404 => return Ok(None),
                200 => {}
                status => return Err(io::Error::other(format!("{url} answered {status}"))),
            }
            let mut body = Vec::new();
            while let Some(part) = response.chunk().await.map_err(io::Error::other)? {
                body.extend_from_slice(&part);
                if body.len() > FETCH_MAX_BYTES {
                    return Err(io::Error::other(format!("{url} has more than {FETCH_MAX_BYTES} bytes")));
                }
            }
            Ok(Some(body))
        })
    };
    verify_published(fetch, trust).map_err(|source| CliError::io(format!("{url} cannot be read"), source))
}

fn say(report: &VerifyReport, out: &Out) {
    if out.is_json {
        out.json(&serde_json::to_value(report).unwrap_or_default());
        return;
    }
    for finding in &report.findings {
        let offset = finding.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        out.line(&out.paint(
            Tone::Bad,
            &format!("{}: {} ({}{offset})", finding.code, finding.message, finding.file),
        ));
    }
    if report.findings_left_out > 0 {
        out.line(&format!("... and {} more findings", report.findings_left_out));
    }
    if report.ok {
        let text = format!(
            "ok: {} entries, root {}, {} blobs, {} snapshots, {} tiles, {} acknowledged",
            report.entries, report.root, report.blobs, report.snapshots, report.tiles, report.acknowledged
        );
        out.line(&out.paint(Tone::Good, &text));
    } else {
        out.line(&format!("{} entries are provable, with root {}", report.entries, report.root));
    }
    match &report.checkpoint {
        Some(checkpoint) => {
            let by = match &checkpoint.signed_by {
                Some(key) => format!("signed by {key}"),
                None => "its signature was not checked: give --key".to_owned(),
            };
            let witnesses = checkpoint.cosigned.len();
            out.line(&format!(
                "checkpoint of {} at {} entries, {by}, cosigned by {witnesses}",
                checkpoint.origin, checkpoint.size
            ));
        }
        None => out.line("no checkpoint is published: nobody signed this ledger"),
    }
    out.lines(
        &report
            .consistent_from
            .map(|size| format!("the earlier checkpoint of {size} entries is contained"))
            .unwrap_or_default(),
    );
}

pub fn back_up(config: &Path, to: &Path, dir: Option<&Path>, out: &Out) -> Result<ExitCode, CliError> {
    let ledger = open(&ledger_dir(config, dir)?)?;
    let disk = RealDisk::create(to).map_err(|source| CliError::io(format!("{} cannot be used", to.display()), source))?;
    let report = backup(&ledger, &disk)?;
    if out.is_json {
        out.json(&serde_json::to_value(report).unwrap_or_default());
    } else {
        out.line(&format!(
            "{} has {} entries now: {} new, with {} blobs and {} tiles",
            to.display(),
            report.size,
            report.new_entries,
            report.new_blobs,
            report.new_tiles
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub fn come_back(
    config: &Path,
    backup: &Path,
    to: Option<&Path>,
    keys: &Keys,
    from: Option<&Path>,
    out: &Out,
) -> Result<ExitCode, CliError> {
    let to = ledger_dir(config, to)?;
    let report = restore(backup, &to, &trust(config, keys, from)?, &[])?;
    say(&report, out);
    if !out.is_json {
        out.line(&format!(
            "{} is restored. The daemon compares it with witnesses and with what targets have seen before it changes anything.",
            to.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub fn export(config: &Path, args: &ExportArgs, out: &Out) -> Result<ExitCode, CliError> {
    if args.proof && matches!(args.format, Format::Csv) {
        return Err(CliError::usage("proofs do not fit into CSV".to_owned(), "--format jsonl"));
    }
    let dir = ledger_dir(config, args.dir.as_deref())?;
    let prover = if args.proof { Some(Prover::open(&dir)?) } else { None };
    let ledger = open(&dir)?;
    if matches!(args.format, Format::Csv) {
        out.write("seq,wall,kind,workload,target,by,what\r\n");
    }
    for item in ledger.iter_raw(args.from, args.to.unwrap_or(u64::MAX)) {
        let (seq, bytes) = item?;
        let line = match (args.format, &prover) {
            (Format::Csv, _) => csv(&Entry::parse(&bytes).map_err(|source| LedgerError::Unreadable { seq, source })?),
            (Format::Jsonl, Some(prover)) => {
                let entry = base64::engine::general_purpose::STANDARD.encode(&bytes);
                format!("{}\n", json!({ "entry": entry, "proof": prover.proof(seq)?.to_string() }))
            }
            (Format::Jsonl, None) => format!("{}\n", String::from_utf8_lossy(&bytes)),
        };
        out.write(&line);
        if out.has_failed() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// RFC 4180. A cell that a spreadsheet would take for a formula gets an apostrophe.
fn csv(entry: &Entry) -> String {
    let cells = [
        entry.seq.to_string(),
        entry.wall.clone(),
        entry.body.kind().to_owned(),
        entry.on.workload.as_ref().map(ToString::to_string).unwrap_or_default(),
        entry.on.target.clone().unwrap_or_default(),
        entry.by.id.clone(),
        what(&entry.body),
    ];
    let quoted = cells.map(|cell| {
        let guarded = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            format!("'{cell}")
        } else {
            cell
        };
        if guarded.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", guarded.replace('"', "\"\""))
        } else {
            guarded
        }
    });
    format!("{}\r\n", quoted.join(","))
}

/// New entries as they come, until it is interrupted.
#[allow(clippy::disallowed_methods, reason = "follows in real time")]
pub fn tail(config: &Path, dir: Option<&Path>, out: &Out) -> Result<ExitCode, CliError> {
    let dir = ledger_dir(config, dir)?;
    let mut next = open(&dir)?.size();
    while !out.has_failed() {
        let ledger = open(&dir)?;
        for entry in ledger.iter(next, u64::MAX) {
            let entry = entry?;
            next = entry.seq + 1;
            if out.is_json {
                out.write(&format!("{}\n", serde_json::to_value(&entry).unwrap_or(Value::Null)));
            } else {
                out.line(&format!(
                    "{} {} {} {}",
                    entry.seq,
                    entry.wall,
                    entry.body.kind(),
                    what(&entry.body)
                ));
            }
        }
        std::thread::sleep(TAIL_EVERY);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_formulas() {
        let entry = json!({
            "v": 1, "seq": 7, "term": 0, "t": 1, "wall": "2026-11-24T00:00:00.000Z", "by": { "kind": "user", "id": "=cmd()", "auth": "peercred" },
            "on": { "workload": "main/shop", "target": "a" }, "kind": "command",
            "body": { "command": "pause", "reason": "a \"slow\", day", "key": "k" },
        });
        let entry: Entry = serde_json::from_value(entry).unwrap();
        let expected = "7,2026-11-24T00:00:00.000Z,command,main/shop,a,'=cmd(),\"pause a \"\"slow\"\", day\"\r\n";
        assert_eq!(csv(&entry), expected);
    }
}
