//! SIGKILL at random moments: whatever the child printed as acknowledged is there, and the directory goes on.
//!
//! The child is this very program, run again with an environment variable. It prints each phase that it enters and each
//! size that was acknowledged to a pipe; the parent kills it within a phase that it chose beforehand.

#![allow(clippy::disallowed_methods, reason = "waits and measures in real time")]

mod common;

use common::{Random, assert_holds, batch};
use holdfast_ledger::index::{By, Filter, Index, Indexer, scan};
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::{Ledger, Options, Publisher, RealDisk, Trust, Writer, verify};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const CHILD: &str = "HOLDFAST_LEDGER_KILLED_CHILD";
const PHASES: [&str; 5] = ["boot", "append", "publish", "snapshot", "index"];
const DIRECTORIES: u64 = 8;
const KILLS_PER_DIRECTORY: u64 = 16;

/// A directory meets several, and does not spend its time opening their indexes.
fn segments() -> Options {
    Options {
        segment_entries: 300,
        ..Options::default()
    }
}

fn say(line: &str) {
    // Straight to the pipe: what was said before a kill was said.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Lives until it is killed.
fn child(dir: &Path) -> ! {
    let mut threads = false;
    loop {
        say("phase boot");
        let (ledger, report) = Ledger::open(dir, segments()).unwrap();
        assert_eq!(report.loss, None);
        threads = !threads;
        if threads {
            live_in_threads(dir, ledger)
        } else {
            live(dir, ledger)
        }
    }
}

fn publication(ledger: &Ledger) -> Publication<RealDisk> {
    let key = SignerKey::new("ledger.example/prod", KeyKind::Log, [5; 32]).unwrap();
    Publication::new(ledger.reader(), &key, 1, Vec::new()).unwrap()
}

fn live(dir: &Path, mut ledger: Ledger) {
    for round in 0..3 {
        say("phase append");
        for entries in [1, 3, 8, 2, 5] {
            let committed = ledger.append(&batch(ledger.size(), entries)).unwrap();
            say(&format!("acknowledged {}", committed.size));
        }
        ledger.write_head().unwrap();
        say("phase publish");
        publication(&ledger).advance().unwrap();
        say("phase snapshot");
        ledger.write_snapshot(ledger.size(), vec![7; 300_000]).unwrap();
        if round != 1 {
            say("phase index");
            let reader = ledger.reader();
            let mut index = Index::open(&dir.join("index"), &reader).unwrap();
            assert_eq!(index.catch_up(&reader).unwrap(), ledger.size());
        }
    }
}

fn live_in_threads(dir: &Path, ledger: Ledger) {
    let reader = ledger.reader();
    let mut next = ledger.size();
    let pace = Duration::from_millis(2);
    let publisher = Publisher::spawn(publication(&ledger), pace, |published| assert!(published.is_ok())).unwrap();
    let indexer = Indexer::spawn(&dir.join("index"), reader.clone()).unwrap();
    let writer = Writer::spawn(ledger).unwrap();
    for _ in 0..3 {
        say("phase append");
        let (done, outcomes) = channel();
        for entries in [1, 1, 4, 9, 2] {
            let done = done.clone();
            writer.submit(batch(next, entries), move |outcome| {
                say(&format!("acknowledged {}", outcome.unwrap().size));
                done.send(()).unwrap();
            });
            next += entries;
        }
        assert_eq!(outcomes.iter().take(5).count(), 5);
        say("phase publish");
        publisher.wake();
        let deadline = Instant::now() + Duration::from_secs(20);
        while publisher.published().is_none_or(|published| published.checkpoint.size < next) {
            assert!(Instant::now() < deadline, "nothing is published");
            std::thread::yield_now();
        }
        say("phase snapshot");
        let (done, outcome) = channel();
        writer.snapshot(next, vec![9; 300_000], move |written| done.send(written).unwrap());
        outcome.recv().unwrap().unwrap();
        say("phase index");
        indexer.wake();
        let deadline = Instant::now() + Duration::from_secs(20);
        while indexer.as_of() < next {
            assert!(Instant::now() < deadline, "the index does not catch up");
            std::thread::yield_now();
        }
    }
    writer.close().unwrap();
}

#[derive(Default)]
struct Died {
    phase: String,
    acknowledged: u64,
}

/// Starts the child, kills it in or shortly after the `nth` time that it enters `phase`, and says what it had said.
fn kill_once(dir: &Path, phase: &str, nth: u64, delay: Duration) -> Died {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_loses_nothing", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut died = Died::default();
    let mut seen = 0;
    let mut killed = false;
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some(size) = line.strip_prefix("acknowledged ") {
            died.acknowledged = size.parse().unwrap();
        }
        if let Some(entered) = line.strip_prefix("phase ") {
            died.phase = entered.to_owned();
            seen += u64::from(entered == phase);
        }
        if seen == nth && !killed {
            let begun = Instant::now();
            while begun.elapsed() < delay {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
            killed = true;
        }
        said = line;
    }
    let output = child.wait_with_output().unwrap();
    assert!(
        killed,
        "the child ended by itself, having said {said:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    died
}

fn assert_index_agrees(dir: &Path, ledger: &Ledger, place: &str) {
    let reader = ledger.reader();
    let mut index = Index::open(&dir.join("index"), &reader).unwrap();
    assert_eq!(index.catch_up(&reader).unwrap(), ledger.size(), "{place}");
    for filter in [
        Filter::by(By::Kind, "pin"),
        Filter::by(By::Workload, "main/app-3").and(By::Target, "site-1"),
        Filter::default(),
    ] {
        assert_eq!(
            index.query(&filter, None, 10_000).unwrap(),
            scan(&reader, &filter, None, 10_000).unwrap(),
            "{place}: {filter:?}"
        );
    }
}

#[test]
fn a_killed_process_loses_nothing() {
    if let Some(dir) = std::env::var_os(CHILD) {
        child(Path::new(&dir));
    }
    let seed = std::env::var("HOLDFAST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()));
    println!("HOLDFAST_SEED={seed}");
    let mut random = Random(seed);
    let mut kills: BTreeMap<String, u64> = BTreeMap::new();
    let mut entries = 0;
    for directory in 0..DIRECTORIES {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ledger");
        let mut acknowledged = 0;
        for kill in 0..KILLS_PER_DIRECTORY {
            let phase = PHASES[(kill % 5) as usize];
            // From within the first system calls of the phase to well after it.
            let scale_us = 1 << random.below(13);
            let delay = Duration::from_micros(random.below(scale_us));
            let died = kill_once(&dir, phase, 1 + random.below(3), delay);
            *kills.entry(died.phase.clone()).or_default() += 1;
            acknowledged = died.acknowledged.max(acknowledged);
            let place = format!("seed {seed}, directory {directory}, kill {kill} in {}", died.phase);
            if dir.join("log").is_dir() {
                let report = verify(&dir, &Trust::default()).unwrap();
                assert!(
                    report.findings.iter().all(|finding| finding.code == "torn-tail"),
                    "{place}: {:?}",
                    report.findings
                );
                let (ledger, report) = Ledger::open_read_only(&dir, segments()).unwrap();
                assert_eq!(report.loss, None, "{place}");
                assert!(report.ignored.is_empty(), "{place}: {:?}", report.ignored);
                assert_holds(&ledger, acknowledged);
                // Of the others the next child makes what it can.
                if kill % 3 == 0 {
                    assert_index_agrees(&dir, &ledger, &place);
                }
            }
        }
        let (ledger, report) = Ledger::open(&dir, segments()).unwrap();
        assert_eq!(report.loss, None);
        assert_holds(&ledger, acknowledged);
        assert_index_agrees(&dir, &ledger, "at the end");
        std::fs::remove_dir_all(dir.join("index")).unwrap();
        assert_index_agrees(&dir, &ledger, "built again");
        entries += ledger.size();
        ledger.close().unwrap();
        let report = verify(&dir, &Trust::default()).unwrap();
        assert!(report.ok, "{:?}", report.findings);
    }
    println!("{entries} entries, kills by phase: {kills:?}");
    assert!(kills.values().sum::<u64>() >= 100);
    for phase in PHASES {
        assert!(
            kills.get(phase).is_some_and(|count| *count > 0),
            "no kill fell in {phase}: {kills:?}"
        );
    }
}
