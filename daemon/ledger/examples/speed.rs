//! How fast the ledger is on this machine: `cargo run --release -p holdfast-ledger --example speed DIR [ENTRIES] [--no-index]`. DIR
//! lies on the disk to be measured and is left as it is filled, to be looked at. Prints, and asserts nothing.

#![allow(clippy::disallowed_methods, reason = "measures in real time")]

use holdfast_core::entry::{Body, By, ENTRY_VERSION, Entry, On, Pin};
use holdfast_core::ids::{Digest, WorkloadId, deploy_id};
use holdfast_ledger::index::{By as Key, Filter, Index};
use holdfast_ledger::merkle::leaf_hash;
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::{Batch, Ledger, LedgerError, Options, Reader, Trust, Writer, verify};
use sha2::{Digest as _, Sha256};
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

const SINGLY: u64 = 2_000;

fn entry(seq: u64) -> Entry {
    let pin = Pin {
        reference: format!("registry.example/app:{}", seq / 100),
        digest: Digest::of(&seq.to_be_bytes()),
        source: "registry.example/app".into(),
        evidence: serde_json::json!({"headers": "x".repeat(140)}),
    };
    Entry {
        v: ENTRY_VERSION,
        seq,
        term: 0,
        t: seq,
        wall: "2026-01-01T00:00:00.000Z".into(),
        by: By::daemon(),
        on: On {
            workload: WorkloadId::new("main", &format!("app-{}", seq % 500)).ok(),
            target: Some(format!("site-{}", seq % 100)),
            attempt: Some(seq / 6),
            ..On::default()
        },
        because: vec![],
        blobs: Default::default(),
        body: Body::Pin(pin),
    }
}

fn one(seq: u64) -> Batch {
    Batch {
        entries: vec![entry(seq)],
        blobs: vec![],
    }
}

fn timed<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let value = work();
    let seconds = begun.elapsed().as_secs_f64();
    let each = count as f64 / seconds;
    println!("{what:<58} {:>10.1} ms {each:>12.0} /s", seconds * 1e3);
    value
}

fn latencies(what: &str, mut measured_us: Vec<u128>) {
    measured_us.sort_unstable();
    let at = |percent: usize| measured_us[(measured_us.len() - 1) * percent / 100] as f64 / 1e3;
    println!(
        "{what:<58} p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        at(50),
        at(99),
        at(100)
    );
}

fn bytes_in(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        bytes += if item.file_type()?.is_dir() {
            bytes_in(&item.path())?
        } else {
            item.metadata()?.len()
        };
    }
    Ok(bytes)
}

fn append(dir: &Path, entries: u64) -> Result<(), Box<dyn Error>> {
    let (mut ledger, _) = Ledger::open(dir, Options::default())?;
    let singly = SINGLY.min(entries);
    let bytes = entry(0).to_bytes()?.len();
    println!("entries of {bytes} bytes");
    let mut bare = File::create(dir.join("bare"))?;
    let record = vec![7; bytes];
    timed("bare write and fdatasync of the same size", singly, || {
        (0..singly).try_for_each(|_| bare.write_all(&record).and_then(|()| bare.sync_data()))
    })?;
    std::fs::remove_file(dir.join("bare"))?;
    let mut measured_us = Vec::new();
    timed("append, one entry and one fdatasync each", singly, || {
        (0..singly).try_for_each(|seq| {
            let begun = Instant::now();
            let done = ledger.append(&one(seq)).map(drop);
            measured_us.push(begun.elapsed().as_micros());
            done
        })
    })?;
    latencies("  of which", measured_us);
    let writer = Writer::spawn(ledger)?;
    timed("append through the writer, group commit", entries - singly, || {
        let (done, outcomes) = channel();
        for seq in singly..entries {
            let done = done.clone();
            writer.submit(one(seq), move |outcome| {
                let _ = done.send(outcome.is_ok());
            });
        }
        drop(done);
        assert!(outcomes.iter().all(|ok| ok));
    });
    Ok(writer.close()?)
}

fn prove(reader: &Reader, entries: u64) -> Result<(), Box<dyn Error>> {
    let raw: Vec<Vec<u8>> = reader
        .iter_raw(0, entries.min(200_000))
        .map(|item| item.map(|(_, raw)| raw))
        .collect::<Result<_, _>>()?;
    let count = raw.len() as u64;
    let size: u64 = raw.iter().map(|entry| entry.len() as u64).sum();
    timed("SHA-256 of the same bytes, one by one", count, || {
        raw.iter().fold(0u8, |sum, entry| sum ^ Sha256::digest(entry)[0])
    });
    timed("leaf hashes and root in memory", count, || {
        let leaves: Vec<_> = raw.iter().map(|entry| leaf_hash(entry)).collect();
        holdfast_ledger::merkle::root(&leaves)
    });
    println!("  {:.0} bytes an entry", size as f64 / count as f64);
    let key = SignerKey::new("ledger.example/speed", KeyKind::Log, [1; 32])?;
    let mut publication = Publication::new(reader.clone(), &key, 1, Vec::new())?;
    timed("tiles and checkpoint of everything", entries, || {
        publication.advance().map(drop)
    })?;
    let signed = publication.published().cloned().ok_or("nothing was published")?;
    let mut measured_us = Vec::new();
    for n in 0..200 {
        let begun = Instant::now();
        reader.tlog_proof(n * 7_919 % entries, &signed)?;
        measured_us.push(begun.elapsed().as_micros());
    }
    latencies("inclusion proof out of tiles, with checkpoint", measured_us);
    let mut measured_us = Vec::new();
    for n in 0..50 {
        let begun = Instant::now();
        reader.consistency_proof(1 + n * 104_729 % (entries - 1), entries)?;
        measured_us.push(begun.elapsed().as_micros());
    }
    latencies("consistency proof out of tiles", measured_us);
    timed("read single entries", 5_000, || {
        (0..5_000).try_for_each(|n| reader.entry(n * 7_919 % entries).map(drop))
    })?;
    Ok(())
}

fn ask(reader: &Reader, dir: &Path, entries: u64) -> Result<(), Box<dyn Error>> {
    let at = dir.join("index");
    {
        let mut index = Index::open(&at, reader)?;
        timed("index, from nothing", entries, || index.catch_up(reader))?;
    }
    let index = timed("open the index", 1, || Index::open(&at, reader))?;
    let filters = |n: u64| {
        [
            Filter::by(Key::Digest, Digest::of(&(n * 7_919 % entries).to_be_bytes()).to_string()),
            Filter::by(Key::Target, format!("site-{}", n % 100)),
            Filter::by(Key::Workload, format!("main/app-{}", n % 500)),
            Filter::by(Key::Reference, format!("registry.example/app:{}", n * 7_919 % entries / 100)),
            Filter::by(Key::Deploy, deploy_id(1, n * 7_919 % entries / 6)),
            Filter::by(Key::Target, format!("site-{}", n % 100)).and(Key::Workload, format!("main/app-{}", n % 500)),
        ]
    };
    let names = ["digest", "target", "workload", "reference", "deploy", "target and workload"];
    for (which, name) in names.iter().enumerate() {
        let mut measured_us = Vec::new();
        for n in 0..if entries > 2_000_000 { 20 } else { 200 } {
            let begun = Instant::now();
            index.query(&filters(n)[which], None, 20)?;
            measured_us.push(begun.elapsed().as_micros());
        }
        // What was cold is opened by the first ones.
        latencies(&format!("first page by {name} (the first may open segments)"), measured_us);
    }
    println!("  complete segments open: {}", index.open_segments());
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = Path::new(arguments.first().ok_or("speed DIR [ENTRIES] [--no-index]")?);
    let entries: u64 = arguments.get(1).map_or(Ok(200_000), |text| text.parse())?;
    append(dir, entries)?;
    let open = |what| timed(what, entries, || Ledger::open(dir, Options::default()));
    drop(open("open, from marks")?);
    let marks = dir.join("marks");
    std::fs::remove_dir_all(&marks)?;
    let (ledger, _) = open("open without marks: every frame, leaf and root")?;
    ledger.close()?;
    let (ledger, report) = open("open, from marks, after a clean end")?;
    println!("  size {}, clean {}", report.size, report.clean);
    let reader = ledger.reader();
    prove(&reader, entries)?;
    timed("verify: frames, roots, tiles, entry semantics", entries, || {
        verify(dir, &Trust::default()).map(|report| assert!(report.ok))
    })?;
    if !arguments.iter().any(|argument| argument == "--no-index") {
        ask(&reader, dir, entries)?;
    }
    for part in ["log", "tlog", "index", "marks"] {
        let path = dir.join(part);
        if path.is_dir() {
            println!("{part:<10} {:>8.1} bytes an entry", bytes_in(&path)? as f64 / entries as f64);
        }
    }
    Ok::<_, Box<dyn Error>>(ledger.close().map_err(|error: LedgerError| error)?)
}
