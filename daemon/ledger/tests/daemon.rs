//! The ledger as the daemon uses it: a real directory, the writer's thread, readers beside it, the index.

#![allow(clippy::disallowed_methods, reason = "waits and measures in real time")]

mod common;

use common::{assert_holds, batch, entry, fill, small_segments};
use holdfast_ledger::index::{By, Filter, Index, Indexer, scan};
use holdfast_ledger::{Ledger, LedgerError, LogError, Trust, Writer, verify};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn batches_are_committed_in_order_and_read_while_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path(), small_segments()).unwrap();
    let reader = ledger.reader();
    let writer = Writer::spawn(ledger).unwrap();
    let (done, outcomes) = channel();
    for round in 0..100 {
        let done = done.clone();
        writer.submit(batch(round * 3, 3), move |outcome| done.send((round, outcome)).unwrap());
    }
    for round in 0..100 {
        let (at, outcome) = outcomes.recv().unwrap();
        let committed = outcome.unwrap();
        assert_eq!(at, round);
        assert!(committed.size >= (round + 1) * 3);
        assert!(reader.size() >= committed.size);
        assert_eq!(reader.entry(committed.size - 1).unwrap(), entry(committed.size - 1));
    }
    assert!(matches!(
        reader.entry(300),
        Err(LedgerError::Log(LogError::NoSuchEntry { seq: 300, size: 300 }))
    ));
    let (done, outcome) = channel();
    writer.snapshot(300, b"state".to_vec(), move |written| done.send(written).unwrap());
    outcome.recv().unwrap().unwrap();

    // Another process may read, and is told that it may not write.
    let (copy, report) = Ledger::open_read_only(dir.path(), small_segments()).unwrap();
    assert_eq!((report.size, report.loss), (300, None));
    assert_holds(&copy, 300);
    let mut copy = copy;
    assert!(matches!(
        copy.append(&batch(300, 1)),
        Err(LedgerError::Log(LogError::ReadOnly))
    ));
    assert!(verify(dir.path(), &Trust::default()).unwrap().live);
    assert!(matches!(
        Ledger::open(dir.path(), small_segments()),
        Err(LedgerError::Locked(_))
    ));

    // The head follows by itself, without another append.
    until("the head is written", || {
        verify(dir.path(), &Trust::default()).unwrap().acknowledged == 300
    });
    writer.close().unwrap();
    let report = verify(dir.path(), &Trust::default()).unwrap();
    assert!(report.ok && !report.live, "{report:?}");
    let (_, report) = Ledger::open(dir.path(), small_segments()).unwrap();
    assert_eq!((report.clean, report.snapshot), (true, Some(300)));
    let (_, report) = Ledger::open(dir.path(), small_segments()).unwrap();
    assert!(!report.clean, "the run before was dropped, not closed");
}

#[test]
fn what_is_not_a_ledger_is_said() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Ledger::open_read_only(&dir.path().join("none"), small_segments()),
        Err(LedgerError::Open { .. })
    ));
    assert!(matches!(verify(dir.path(), &Trust::default()), Err(LedgerError::Open { .. })));
}

fn filters() -> Vec<Filter> {
    let release = holdfast_core::ids::ReleaseId::of(&4u64.to_be_bytes());
    vec![
        Filter::default(),
        Filter::by(By::Kind, "pin"),
        Filter::by(By::Workload, "main/app-3"),
        Filter::by(By::Workload, "main/app"),
        Filter::by(By::Target, "site-1").and(By::Kind, "rollout"),
        Filter::by(By::Commit, format!("{:040x}", 33)),
        Filter::by(By::Reference, "registry.example/app:1"),
        Filter::by(By::Deploy, holdfast_core::ids::deploy_id(1, 30)),
        Filter::by(By::Release, release.to_string()),
        Filter::by(By::Digest, holdfast_core::ids::Digest::of(&common::blob(33)).to_string()),
        Filter {
            from_t: Some(200),
            until_t: Some(555),
            ..Filter::by(By::Target, "site-2")
        },
        Filter {
            from_t: Some(9_999_999),
            ..Filter::default()
        },
    ]
}

fn assert_agrees(index: &Index, ledger: &Ledger) {
    let reader = ledger.reader();
    for filter in filters() {
        for (before, limit) in [(None, 1_000), (None, 3), (Some(101), 7), (Some(0), 5), (Some(40), 0)] {
            assert_eq!(
                index.query(&filter, before, limit).unwrap(),
                scan(&reader, &filter, before, limit).unwrap(),
                "{filter:?} {before:?} {limit}"
            );
        }
    }
}

#[test]
fn the_index_answers_as_the_log_does() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(&dir.path().join("ledger"), small_segments()).unwrap();
    let at = dir.path().join("index");
    fill(&mut ledger, &[50, 60]);
    let reader = ledger.reader();
    {
        let mut index = Index::open(&at, &reader).unwrap();
        assert_eq!(index.catch_up(&reader).unwrap(), 110);
        assert_agrees(&index, &ledger);
        fill(&mut ledger, &[33]);
        assert_eq!(index.query(&Filter::default(), None, 1).unwrap().as_of, 110);
        index.catch_up(&reader).unwrap();
        assert_agrees(&index, &ledger);
        assert_eq!(
            index.complete(By::Target, "site", 10).unwrap(),
            ["site-0", "site-1", "site-2"]
        );
        assert_eq!(index.complete(By::Workload, "main/app-5", 10).unwrap(), ["main/app-5"]);
        assert_eq!(index.complete(By::Kind, "r", 1).unwrap(), ["rollout"]);
    }
    let index = Index::open(&at, &reader).unwrap();
    assert_eq!(index.as_of(), 143, "nothing is indexed twice");
    assert_agrees(&index, &ledger);
}

#[test]
fn an_index_of_another_log_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("index");
    let (mut one, _) = Ledger::open(&dir.path().join("one"), small_segments()).unwrap();
    fill(&mut one, &[50]);
    Index::open(&at, &one.reader()).unwrap().catch_up(&one.reader()).unwrap();
    let (mut other, _) = Ledger::open(&dir.path().join("other"), small_segments()).unwrap();
    let mut differing = batch(0, 70);
    differing
        .entries
        .iter_mut()
        .for_each(|entry| entry.wall = "2027-01-01T00:00:00.000Z".into());
    other.append(&differing).unwrap();
    let mut index = Index::open(&at, &other.reader()).unwrap();
    assert_eq!(index.as_of(), 0);
    index.catch_up(&other.reader()).unwrap();
    assert_agrees(&index, &other);
}

fn sled_files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for item in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if item.path().is_dir() {
            sled_files(&item.path(), found)
        } else {
            found.push(item.path())
        }
    }
}

#[test]
fn a_damaged_index_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(&dir.path().join("ledger"), small_segments()).unwrap();
    fill(&mut ledger, &[130]);
    let reader = ledger.reader();
    let at = dir.path().join("index");
    for seed in 0..12 {
        {
            let mut index = Index::open(&at, &reader).unwrap();
            index.catch_up(&reader).unwrap();
        }
        let mut random = common::Random(seed);
        if seed % 4 == 0 {
            // Killed while it opened.
            std::fs::write(at.join("v3-00000000000000000000.opening"), b"").unwrap();
        }
        let mut files = Vec::new();
        sled_files(&at, &mut files);
        for path in files {
            let mut bytes = std::fs::read(&path).unwrap();
            for _ in 0..bytes.len().min(40) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            std::fs::write(&path, bytes).unwrap();
        }
        let indexer = Indexer::spawn(&at, reader.clone()).unwrap();
        // Complete segments are looked at when somebody asks, and are built anew then; until that is done, an answer says as of
        // which entry it is.
        until("the index is whole", || {
            let page = indexer.query(&Filter::by(By::Kind, "term"), None, 1_000).unwrap();
            assert!(page.as_of < 130 || page.seqs == [0], "{page:?}");
            page.as_of == 130
        });
        drop(indexer);
        let index = Index::open(&at, &reader).unwrap();
        assert_agrees(&index, &ledger);
    }
}

#[test]
fn complete_segments_are_opened_when_somebody_asks() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(&dir.path().join("ledger"), small_segments()).unwrap();
    fill(&mut ledger, &[290]);
    let reader = ledger.reader();
    let at = dir.path().join("index");
    Index::open(&at, &reader).unwrap().catch_up(&reader).unwrap();
    let index = Index::open(&at, &reader).unwrap();
    assert_eq!((index.as_of(), index.open_segments()), (290, 0));
    // Answered by the last one alone.
    assert_eq!(index.query(&Filter::by(By::Kind, "pin"), None, 1).unwrap().seqs, [289]);
    assert_eq!(index.open_segments(), 0);
    assert_agrees(&index, &ledger);
    assert_eq!(index.open_segments(), 2);
    // One that is gone is built anew, and only that one.
    drop(index);
    std::fs::remove_dir_all(at.join("v3-00000000000000000080")).unwrap();
    let mut index = Index::open(&at, &reader).unwrap();
    assert_eq!(index.as_of(), 290);
    let page = index.query(&Filter::by(By::Workload, "main/app-3"), None, 1_000).unwrap();
    assert!(page.as_of == 80 && page.seqs.iter().all(|seq| *seq < 80), "{page:?}");
    let mut portions = 0;
    while index.advance(&reader).unwrap() {
        portions += 1;
    }
    assert!(portions <= 3, "{portions}");
    assert_agrees(&index, &ledger);
}

#[test]
fn the_indexer_follows_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(&dir.path().join("ledger"), small_segments()).unwrap();
    let indexer = Indexer::spawn(&dir.path().join("index"), ledger.reader()).unwrap();
    let writer = Writer::spawn(ledger).unwrap();
    for round in 0..20 {
        let indexer = indexer.clone();
        writer.submit(batch(round * 5, 5), move |outcome| {
            outcome.unwrap();
            indexer.wake();
        });
    }
    until("the index has all", || indexer.as_of() == 100);
    let page = indexer.query(&Filter::by(By::Kind, "pin"), None, 2).unwrap();
    assert_eq!((page.seqs, page.as_of), (vec![97, 91], 100));
    writer.close().unwrap();
}
