//! Writes a ledger for `examples/audit/verify.py` to read, always the same bytes:
//! `cargo run --release -p holdfast-ledger --example audit_sample DIR ENTRIES`. Prints the log's vkey.

#[path = "../tests/common/mod.rs"]
mod common;

use holdfast_ledger::tlog::checkpoint::SignedCheckpoint;
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::{Ledger, Options};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "audit_sample DIR ENTRIES";
    let dir: PathBuf = arguments.next().ok_or(usage)?.into();
    let entries: u64 = arguments.next().ok_or(usage)?.parse()?;
    let options = Options {
        segment_entries: 256,
        ..Options::default()
    };
    let (mut ledger, _) = Ledger::open(&dir, options)?;
    // A key for samples only: everybody knows it.
    let key = SignerKey::new("ledger.example/sample", KeyKind::Log, [7; 32])?;
    while ledger.size() < entries {
        let next = ledger.size();
        ledger.append(&common::batch(next, (1 + next % 4).min(entries - next)))?;
    }
    let reader = ledger.reader();
    Publication::new(reader.clone(), &key, 1, Vec::new())?.advance()?;
    let earlier = SignedCheckpoint::sign(&key, entries / 2, reader.root_at(entries / 2)?);
    std::fs::write(dir.join("earlier-checkpoint"), earlier.note.to_string())?;
    ledger.close()?;
    std::fs::write(dir.join("vkey"), format!("{}\n", key.verifier()))?;
    println!("{}", key.verifier());
    Ok(())
}
