//! A new epoch after a loss: what is kept, what is set aside, and that an interruption at any moment loses nothing more.

mod common;

use common::{entry, fill, small_segments};
use holdfast_core::entry::{Body, Command, CommandVerb, Entry, Precondition};
use holdfast_ledger::disk::Disk;
use holdfast_ledger::epoch::begin_epoch_on;
use holdfast_ledger::index::{By, Filter, Index};
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::{Ledger, LedgerError, Loss, Options, RealDisk, SimDisk, Trust, load_state, state_bytes, verify_on};

/// In the second of small segments.
const DAMAGED: u64 = 55;
const WRITTEN: u64 = 130;

fn key() -> SignerKey {
    SignerKey::new("ledger.example/prod", KeyKind::Log, [5; 32]).unwrap()
}

fn command(seq: u64) -> Entry {
    let mut command = entry(seq);
    command.t = 10_000;
    command.blobs.clear();
    command.body = Body::Command(Command {
        verb: CommandVerb::NewEpoch {
            epoch: 2,
            acknowledged: WRITTEN,
            found: "a damaged disk".into(),
        },
        reason: "the disk of the old machine".into(),
        key: "k".into(),
        only_if: Precondition::default(),
    });
    command
}

/// A published, snapshotted log whose entry `DAMAGED` is damaged, and the first entry of its batch.
fn damaged() -> (SimDisk, u64) {
    let disk = SimDisk::new();
    let (mut log, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    fill(&mut log, &[10; 13]);
    let (state, _) = load_state(&mut log).unwrap();
    log.write_snapshot(WRITTEN, state_bytes(&state).unwrap()).unwrap();
    Publication::new(log.reader(), &key(), 1, Vec::new())
        .unwrap()
        .advance()
        .unwrap();
    let bytes = log.reader().raw_entry(DAMAGED).unwrap();
    log.close().unwrap();
    disk.damage("log/00000000000000000040.log", |content| {
        let at = content.windows(bytes.len()).position(|window| window == bytes).unwrap();
        content[at + 7] ^= 1;
    });
    // A mark below would spare the boot that segment.
    disk.remove("marks/00000000000000000040.mark").unwrap();
    disk.sync_dir("marks").unwrap();
    (disk, 50)
}

fn loss(disk: &SimDisk) -> Option<Loss> {
    Ledger::open_read_only_on(disk.copy(), small_segments()).unwrap().1.loss
}

fn lost_files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let files = disk.files();
    let lost = files
        .iter()
        .filter(|path| path.starts_with("lost/1/log") && path.ends_with(".log"));
    lost.map(|path| (path.clone(), disk.read(path).unwrap().unwrap())).collect()
}

fn assert_goes_on(disk: &SimDisk, kept: u64) {
    let (mut log, report) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    assert_eq!((report.loss, report.epoch, report.size), (None, 2, kept + 1));
    assert_eq!(log.reader().entry(kept).unwrap(), command(kept));
    assert_eq!(log.reader().entry(kept - 1).unwrap(), entry(kept - 1));
    let mut publication = Publication::new(log.reader(), &key(), 2, Vec::new()).unwrap();
    assert!(publication.published().is_none(), "the old name's checkpoint is still there");
    for _ in 0..20 {
        let mut next = entry(log.size());
        next.t = 20_000;
        next.blobs.clear();
        let batch = holdfast_ledger::Batch {
            entries: vec![next],
            blobs: Vec::new(),
        };
        log.append(&batch).unwrap();
    }
    let origin = publication.advance().unwrap().unwrap().checkpoint.origin.clone();
    assert_eq!(origin, "ledger.example/prod/2");
    log.close().unwrap();
    let trust = Trust {
        keys: vec![key().verifier().clone()],
        ..Trust::default()
    };
    let report = verify_on(disk, &small_segments(), &trust, false).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.epoch, report.entries), (2, kept + 21));
}

#[test]
fn what_is_intact_is_kept_and_the_rest_is_set_aside() {
    let (disk, kept) = damaged();
    assert_eq!(loss(&disk).unwrap().first_damaged_seq, DAMAGED);
    let before: Vec<(String, Vec<u8>)> = [40, 80, 120]
        .map(|first| format!("log/{first:020}.log"))
        .map(|path| (format!("lost/1/{path}"), disk.read(&path).unwrap().unwrap()))
        .into();
    let early = disk.read("tlog/checkpoint").unwrap().unwrap();
    for wrong in [kept - 1, kept + 1, WRITTEN] {
        assert!(matches!(
            begin_epoch_on(&disk, &small_segments(), &command(wrong)),
            Err(LedgerError::Log(_))
        ));
        assert!(loss(&disk).is_some() && lost_files(&disk).is_empty());
    }
    let report = begin_epoch_on(&disk, &small_segments(), &command(kept)).unwrap();
    assert_eq!((report.epoch, report.size), (2, kept + 1));
    assert!(lost_files(&disk) == before);
    let why = disk.read("lost/1/why").unwrap().unwrap();
    assert!(String::from_utf8(why).unwrap().contains("of log/00000000000000000040.log"));
    assert_eq!(disk.read("lost/1/tlog/checkpoint").unwrap().unwrap(), early);
    // Bundles of what is lost are kept too.
    assert!(disk.files().contains(&"lost/1/tlog/tile/entries/000.p/130".to_owned()));
    assert_goes_on(&disk, kept);
    // Whoever kept the old checkpoint sees what is gone.
    let note = holdfast_ledger::tlog::note::Note::parse(&early).unwrap();
    let trust = Trust {
        keys: vec![key().verifier().clone()],
        from: Some(note),
        ..Trust::default()
    };
    let report = verify_on(&disk, &small_segments(), &trust, false).unwrap();
    let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["acknowledged-lost", "claim-ahead"]);
}

#[test]
fn an_interruption_at_any_moment_loses_nothing_more() {
    let (whole, kept) = damaged();
    let expected = {
        let disk = whole.copy();
        begin_epoch_on(&disk, &small_segments(), &command(kept)).unwrap();
        lost_files(&disk)
    };
    let (mut done, mut again) = (0, 0);
    for at in 0..200 {
        for seed in 0..4 {
            let disk = whole.copy();
            disk.crash_after(at);
            let is_done = begin_epoch_on(&disk, &small_segments(), &command(kept)).is_ok();
            let disk = if seed == 0 { disk.kill() } else { disk.crash(seed) }.copy();
            match loss(&disk) {
                // Not begun, or not complete: the daemon does not start, and the command is given again.
                Some(_) => {
                    assert!(!is_done, "crash after {at}, seed {seed}");
                    begin_epoch_on(&disk, &small_segments(), &command(kept)).unwrap();
                    again += 1;
                }
                None => done += 1,
            }
            assert!(lost_files(&disk) == expected, "crash after {at}, seed {seed}");
            assert_goes_on(&disk, kept);
        }
    }
    assert!(done > 200 && again > 50, "{done} {again}");
}

#[test]
fn an_old_copy_begins_one_too_and_the_index_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Ledger::open(dir.path(), Options::default()).unwrap();
    fill(&mut log, &[70]);
    let index_dir = dir.path().join("index");
    let mut index = Index::open(&index_dir, &log.reader()).unwrap();
    index.catch_up(&log.reader()).unwrap();
    drop(index);
    drop(log);
    let report = begin_epoch_on(&RealDisk::existing(dir.path()), &Options::default(), &command(70)).unwrap();
    assert_eq!((report.epoch, report.size, report.loss), (2, 71, None));
    let (log, report) = Ledger::open(dir.path(), Options::default()).unwrap();
    assert_eq!((report.epoch, report.clean), (2, true));
    let mut index = Index::open(&index_dir, &log.reader()).unwrap();
    index.catch_up(&log.reader()).unwrap();
    let page = index.query(&Filter::by(By::Kind, "command"), None, 9).unwrap();
    assert_eq!((page.seqs, page.as_of), (vec![70], 71));
}
