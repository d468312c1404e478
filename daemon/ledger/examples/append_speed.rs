//! How fast the ledger is on this machine's disk: `cargo run --release -p holdfast-ledger --example append_speed [ENTRIES]`.
//! Prints, and asserts nothing.

#![allow(clippy::disallowed_methods, reason = "waits and measures in real time")]

use holdfast_core::entry::{Body, By, ENTRY_VERSION, Entry, On, Pin};
use holdfast_core::ids::Digest;
use holdfast_ledger::index::{By as Key, Filter, Index};
use holdfast_ledger::{Batch, Ledger, Options, Trust, Writer, load_state, verify};
use std::sync::mpsc::channel;
use std::time::Instant;

fn entry(seq: u64) -> Entry {
    let pin = Pin {
        reference: format!("registry.example/app:{}", seq / 100),
        digest: Digest::of(&seq.to_be_bytes()),
        source: "registry.example/app".into(),
        evidence: serde_json::json!({"headers": "x".repeat(200)}),
    };
    Entry {
        v: ENTRY_VERSION,
        seq,
        term: 0,
        t: seq,
        wall: "2026-01-01T00:00:00.000Z".into(),
        by: By::daemon(),
        on: On {
            target: Some(format!("site-{}", seq % 100)),
            ..On::default()
        },
        because: vec![],
        blobs: Default::default(),
        body: Body::Pin(pin),
    }
}

fn timed<T>(what: &str, entries: u64, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let value = work();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{what:<44} {:>9.1} ms {:>12.0} entries/s",
        seconds * 1e3,
        entries as f64 / seconds
    );
    value
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let entries: u64 = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let root = tempfile::tempdir()?;
    let dir = root.path().join("ledger");
    let (mut ledger, _) = Ledger::open(&dir, Options::default())?;
    let singly = (entries / 50).max(1);
    let mut latencies_us = Vec::new();
    timed("append, one entry and one fdatasync each", singly, || {
        for seq in 0..singly {
            let begun = Instant::now();
            ledger.append(&Batch {
                entries: vec![entry(seq)],
                blobs: vec![],
            })?;
            latencies_us.push(begun.elapsed().as_micros());
        }
        Ok::<_, holdfast_ledger::LedgerError>(())
    })?;
    latencies_us.sort_unstable();
    println!(
        "  of which p50 {} us, p99 {} us",
        latencies_us[latencies_us.len() / 2],
        latencies_us[latencies_us.len() * 99 / 100]
    );
    let writer = Writer::spawn(ledger)?;
    timed("append through the writer, group commit", entries - singly, || {
        let (done, outcomes) = channel();
        for seq in singly..entries {
            let done = done.clone();
            writer.submit(
                Batch {
                    entries: vec![entry(seq)],
                    blobs: vec![],
                },
                move |outcome| {
                    let _ = done.send(outcome.is_ok());
                },
            );
        }
        drop(done);
        assert!(outcomes.iter().all(|ok| ok));
    });
    writer.close()?;
    let (mut ledger, report) = timed("open (every frame, hash and root)", entries, || {
        Ledger::open(&dir, Options::default())
    })?;
    println!("  size {}, clean {}", report.size, report.clean);
    timed("fold into State without a snapshot", entries, || load_state(&mut ledger))?;
    let reader = ledger.reader();
    timed("inclusion proof, from the log", entries, || {
        reader.inclusion_proof(entries / 3, entries)
    })?;
    timed("read single entries", 10_000, || {
        (0..10_000).try_for_each(|n| reader.entry(n * 7_919 % entries).map(drop))
    })?;
    let mut index = Index::open(&dir.join("index"), &reader)?;
    timed("index, from nothing", entries, || index.catch_up(&reader))?;
    timed("1000 questions of the index, 20 answers each", 20_000, || {
        (0..1_000).try_for_each(|n| {
            index
                .query(&Filter::by(Key::Target, format!("site-{}", n % 100)), None, 20)
                .map(drop)
        })
    })?;
    timed("verify", entries, || verify(&dir, &Trust::default()))?;
    Ok(())
}
