//! Copies of a ledger at work, and the way back from them.

mod common;

use common::{Random, assert_holds, batch, fill, small_segments};
use holdfast_ledger::backup::{BackupError, Known, backup, restore};
use holdfast_ledger::disk::Disk;
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::{Ledger, Options, RealDisk, SimDisk, Trust, Writer, verify, verify_on};

fn key() -> SignerKey {
    SignerKey::new("ledger.example/prod", KeyKind::Log, [5; 32]).unwrap()
}

fn trust() -> Trust {
    Trust {
        keys: vec![key().verifier().clone()],
        ..Trust::default()
    }
}

fn assert_whole(copy: &SimDisk, size: u64) {
    let report = verify_on(copy, &small_segments(), &trust(), false).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.entries, report.acknowledged), (size, size));
    let (ledger, boot) = Ledger::open_on(copy.copy(), small_segments()).unwrap();
    assert_eq!((boot.loss, boot.cut_bytes), (None, 0));
    assert_holds(&ledger, size);
}

#[test]
fn a_backup_copies_what_is_new() {
    let (disk, copy) = (SimDisk::new(), SimDisk::new());
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    let mut publication = Publication::new(ledger.reader(), &key(), 1, Vec::new()).unwrap();
    let mut copied = 0;
    for round in 0u8..14 {
        fill(&mut ledger, &[3, 1, 27]);
        if round % 3 == 0 {
            publication.advance().unwrap();
        }
        if round % 4 == 1 {
            ledger.write_snapshot(ledger.size(), vec![round; 100]).unwrap();
        }
        let report = backup(&ledger.reader(), &copy).unwrap();
        assert_eq!(
            (report.size, report.root, report.new_entries),
            (ledger.size(), ledger.root(), ledger.size() - copied)
        );
        copied = report.size;
        assert_whole(&copy, copied);
    }
    let report = backup(&ledger.reader(), &copy).unwrap();
    assert_eq!((report.new_entries, report.new_blobs, report.new_tiles), (0, 0, 0));
    for path in disk
        .files()
        .iter()
        .filter(|path| path.starts_with("log/") || path.starts_with("blobs/"))
    {
        assert!(copy.read(path).unwrap() == disk.read(path).unwrap(), "{path}");
    }
}

#[test]
fn an_interrupted_backup_is_taken_up_again() {
    let disk = SimDisk::new();
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    let mut publication = Publication::new(ledger.reader(), &key(), 1, Vec::new()).unwrap();
    let mut interrupted = 0;
    for seed in 0..150 {
        let mut random = Random(seed);
        let mut copy = SimDisk::new();
        for _ in 0..3 {
            if ledger.size() < 600 {
                fill(&mut ledger, &[1 + random.below(9), 1 + random.below(30)]);
                publication.advance().unwrap();
            }
            match random.below(4) {
                0 => copy.crash_after(random.below(60)),
                1 => copy.fail_sync(1 + random.below(40)),
                2 => copy.set_room(Some(random.below(200_000))),
                _ => {}
            }
            let done = backup(&ledger.reader(), &copy).is_ok();
            interrupted += u64::from(!done);
            copy = copy.crash(random.below(1_000));
            if done {
                assert_whole(&copy, ledger.size());
            }
        }
        backup(&ledger.reader(), &copy).unwrap();
        assert_whole(&copy, ledger.size());
    }
    assert!(interrupted > 100, "{interrupted}");
}

#[test]
fn a_copy_of_something_else_is_left_alone() {
    let (one, other) = (SimDisk::new(), SimDisk::new());
    let (mut ledger, _) = Ledger::open_on(one.clone(), small_segments()).unwrap();
    fill(&mut ledger, &[10, 20]);
    let mut differing = batch(0, 10);
    differing.entries[3].wall = "2026-01-01T00:00:00.001Z".into();
    let (mut stranger, _) = Ledger::open_on(other.clone(), small_segments()).unwrap();
    stranger.append(&differing).unwrap();
    let before = one.read("log/00000000000000000000.log").unwrap();
    let copy = SimDisk::new();
    backup(&ledger.reader(), &copy).unwrap();
    assert!(matches!(
        backup(&stranger.reader(), &copy),
        Err(BackupError::CopyIsNewer { copy: 30, ledger: 10 })
    ));
    fill(&mut stranger, &[20, 20]);
    assert!(matches!(backup(&stranger.reader(), &copy), Err(BackupError::OtherLog)));
    assert_eq!(copy.read("log/00000000000000000000.log").unwrap(), before);
}

#[test]
fn a_ledger_at_work_is_backed_up_and_restored() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let (ledger, _) = Ledger::open(&at("ledger"), small_segments()).unwrap();
    let reader = ledger.reader();
    let writer = Writer::spawn(ledger).unwrap();
    let copy = RealDisk::create(&at("backup")).unwrap();
    let (done, outcomes) = std::sync::mpsc::channel();
    let mut last = None;
    for round in 0..60 {
        let done = done.clone();
        writer.submit(batch(round * 5, 5), move |outcome| done.send(outcome.is_ok()).unwrap());
        if round % 7 == 0 {
            let report = backup(&reader, &copy).unwrap();
            assert!(report.size == 0 || verify(&at("backup"), &Trust::default()).unwrap().ok);
            last = Some(report);
        }
    }
    assert!(outcomes.iter().take(60).all(|ok| ok));
    assert!(last.unwrap().size <= 300);
    // Another process reads the daemon's directory as it is.
    let (other, _) = Ledger::open_read_only(&at("ledger"), Options::default()).unwrap();
    assert_eq!(backup(&other.reader(), &copy).unwrap().size, 300);
    Publication::new(reader.clone(), &key(), 1, Vec::new())
        .unwrap()
        .advance()
        .unwrap();
    backup(&reader, &copy).unwrap();
    writer.close().unwrap();

    let known = |size| {
        [Known {
            who: "witness.example".into(),
            size,
        }]
    };
    let stale = restore(&at("backup"), &at("restored"), &trust(), &known(301)).unwrap_err();
    assert!(
        matches!(
            &stale,
            BackupError::Stale {
                size: 300,
                known: 301,
                ..
            }
        ) && !at("restored").exists(),
        "{stale}"
    );
    let report = restore(&at("backup"), &at("restored"), &trust(), &known(300)).unwrap();
    assert!(report.ok && report.entries == 300 && report.checkpoint.unwrap().signed_by.is_some());
    let (ledger, boot) = Ledger::open(&at("restored"), small_segments()).unwrap();
    assert_eq!(boot.loss, None);
    assert_holds(&ledger, 300);
    assert!(matches!(
        restore(&at("backup"), &at("restored"), &trust(), &[]),
        Err(BackupError::NotEmpty(_))
    ));
    let log = at("backup").join("log/00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[500] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    assert!(matches!(
        restore(&at("backup"), &at("other"), &trust(), &[]),
        Err(BackupError::Damaged(_))
    ));
}
