//! Writes a ledger for `examples/audit/verify.py` to read, always the same bytes:
//! `cargo run --release -p holdfast-ledger --example audit_sample DIR ENTRIES [KEY_CHANGE]`. Prints the log's vkey. At the entry
//! KEY_CHANGE another key takes over; `first-vkey` is the one before.

#[path = "../tests/common/mod.rs"]
mod common;

use holdfast_core::entry::{Body, LogKey};
use holdfast_ledger::tlog::checkpoint::SignedCheckpoint;
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::tlog::rotation::Rotation;
use holdfast_ledger::{Batch, Ledger, Options};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "audit_sample DIR ENTRIES";
    let dir: PathBuf = arguments.next().ok_or(usage)?.into();
    let entries: u64 = arguments.next().ok_or(usage)?.parse()?;
    let key_change: Option<u64> = arguments.next().map(|seq| seq.parse()).transpose()?;
    let options = Options {
        segment_entries: 256,
        ..Options::default()
    };
    let (mut ledger, _) = Ledger::open(&dir, options)?;
    // Keys for samples only: everybody knows them.
    let first = SignerKey::new("ledger.example/sample", KeyKind::Log, [7; 32])?;
    let mut key = first.clone();
    while ledger.size() < entries {
        let next = ledger.size();
        if key_change == Some(next) {
            key = SignerKey::new("ledger.example/sample", KeyKind::Log, [8; 32])?;
            let note = Rotation::sign(&first, &key)?;
            let mut entry = common::entry(next);
            entry.body = Body::LogKey(LogKey { note });
            entry.blobs.clear();
            let blobs = Vec::new();
            ledger.append(&Batch {
                entries: vec![entry],
                blobs,
            })?;
            continue;
        }
        let until = key_change.filter(|seq| *seq > next).unwrap_or(entries);
        ledger.append(&common::batch(next, (1 + next % 4).min(until - next)))?;
    }
    let reader = ledger.reader();
    Publication::new(reader.clone(), &key, 1, Vec::new())?.advance()?;
    let earlier = SignedCheckpoint::sign(&first, entries / 2, reader.root_at(entries / 2)?);
    std::fs::write(dir.join("earlier-checkpoint"), earlier.note.to_string())?;
    ledger.close()?;
    std::fs::write(dir.join("first-vkey"), format!("{}\n", first.verifier()))?;
    std::fs::write(dir.join("vkey"), format!("{}\n", key.verifier()))?;
    println!("{}", key.verifier());
    Ok(())
}
