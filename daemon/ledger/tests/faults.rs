//! The real log code over a disk that crashes, fills up and fails its syncs.

mod common;

use common::{Random, assert_holds, batch, fill, small_segments};
use holdfast_ledger::{Ledger, LedgerError, LogError, SimDisk, Trust, load_state, verify_on};

/// Runs a life of appends, snapshots, heads and reopenings until the power goes; gives what was acknowledged.
fn live(disk: &SimDisk, random: &mut Random) -> u64 {
    let mut acknowledged = 0;
    'boot: loop {
        let Ok((mut ledger, report)) = Ledger::open_on(disk.clone(), small_segments()) else {
            return acknowledged;
        };
        assert_eq!(report.loss, None);
        acknowledged = acknowledged.max(ledger.size());
        loop {
            let done = match random.below(12) {
                0 => ledger
                    .write_snapshot(ledger.size(), format!("state {}", ledger.size()).into_bytes())
                    .map(|()| ledger.size()),
                1 => ledger.write_head().map(|_| ledger.size()),
                2 => {
                    if ledger.close().is_err() {
                        return acknowledged;
                    }
                    continue 'boot;
                }
                _ => ledger
                    .append(&batch(ledger.size(), 1 + random.below(12)))
                    .map(|committed| committed.size),
            };
            match done {
                Ok(size) => acknowledged = size,
                Err(_) => return acknowledged,
            }
        }
    }
}

#[test]
fn no_crash_loses_an_acknowledged_entry() {
    let mut torn = 0;
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut disk = SimDisk::new();
        let mut acknowledged = 0;
        for crash in 0..4 {
            disk.crash_after(random.below(120));
            acknowledged = live(&disk, &mut random).max(acknowledged);
            disk = if random.below(4) == 0 {
                disk.kill()
            } else {
                disk.crash(random.below(u64::MAX))
            };
            let place = format!("seed {seed}, crash {crash}");
            let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
            assert!(
                report.findings.iter().all(|finding| finding.code == "torn-tail"),
                "{place}: {:?}",
                report.findings
            );
            let (ledger, report) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
            assert_eq!(report.loss, None, "{place}");
            torn += u64::from(report.cut_bytes > 0);
            assert_holds(&ledger, acknowledged);
            acknowledged = ledger.size();
            drop(ledger);
            let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
            assert!(report.ok, "{place}: {:?}", report.findings);
        }
    }
    assert!(
        torn > 30,
        "only {torn} crashes left a torn tail: the simulated disk is too kind"
    );
}

#[test]
fn a_full_disk_at_any_byte_of_a_batch_records_nothing_and_recovers() {
    // Within a segment, and at the beginning of one.
    for sizes in [&[7, 5][..], &[33, 10]] {
        let prepared = SimDisk::new();
        let (mut ledger, _) = Ledger::open_on(prepared.clone(), small_segments()).unwrap();
        fill(&mut ledger, sizes);
        drop(ledger);
        let size = sizes.iter().sum();
        let mut full = 0;
        while !full_at(&prepared, size, full) {
            full += 1;
        }
        assert!(full > 500, "{full}");
    }
}

/// False when the disk was full with so much room; true when it was enough.
fn full_at(prepared: &SimDisk, size: u64, room: u64) -> bool {
    let disk = prepared.copy();
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    let before = (ledger.size(), ledger.root());
    disk.set_room(Some(room));
    match ledger.append(&batch(size, 2)) {
        Ok(committed) => {
            assert_eq!(committed.size, size + 2);
            return true;
        }
        Err(error) => assert!(
            error.is_disk_full() && !error.is_final() && error.reason() == "disk-full",
            "room {room}: {error:?}"
        ),
    }
    assert_eq!((ledger.size(), ledger.root()), before);
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert!(report.ok, "room {room}: {:?}", report.findings);
    disk.set_room(None);
    ledger.append(&batch(size, 2)).unwrap();
    drop(ledger);
    let (ledger, report) = Ledger::open_on(disk.crash(room), small_segments()).unwrap();
    assert_eq!((report.cut_bytes, report.loss), (0, None));
    assert_holds(&ledger, size + 2);
    false
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    // Blob, its directory, log, its directory, head ... whichever of the first 12 syncs it is.
    let mut failures = 0;
    for nth in 1..=12 {
        let disk = SimDisk::new();
        let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
        disk.fail_sync(nth);
        let mut acknowledged = 0;
        let mut failed = false;
        for _ in 0..4 {
            let appended = ledger.append(&batch(ledger.size(), 4));
            let noted = ledger.write_head();
            assert!(
                !(failed && (appended.is_ok() || noted.as_ref().is_ok_and(|written| *written))),
                "sync {nth}: written after a failed sync"
            );
            if let Ok(committed) = &appended {
                acknowledged = committed.size;
            }
            for error in [appended.err(), noted.err()].into_iter().flatten() {
                assert!(error.is_final(), "{error:?}");
                failed = true;
            }
        }
        failures += u64::from(failed);
        if failed {
            assert!(matches!(
                ledger.append(&batch(ledger.size(), 1)),
                Err(LedgerError::Log(LogError::Poisoned(_)))
            ));
        }
        for seed in 0..20 {
            let (ledger, report) = Ledger::open_on(disk.copy().crash(seed), small_segments()).unwrap();
            assert_eq!(report.loss, None, "sync {nth}, seed {seed}");
            assert_holds(&ledger, acknowledged);
        }
    }
    assert_eq!(failures, 12);
}

#[test]
fn a_blob_of_a_killed_process_is_made_durable_before_it_is_named() {
    for seed in 0..50 {
        // Killed at each step of storing the blob; its bytes are in the page cache, its name perhaps not on the disk.
        for changes in 1..5 {
            let disk = SimDisk::new();
            drop(Ledger::open_on(disk.clone(), small_segments()).unwrap());
            let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
            disk.crash_after(changes);
            assert!(ledger.append(&batch(0, 4)).is_err());
            let disk = disk.kill();
            let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
            ledger.append(&batch(0, 4)).unwrap();
            let (ledger, _) = Ledger::open_on(disk.crash(seed), small_segments()).unwrap();
            assert_holds(&ledger, 4);
        }
    }
}

#[test]
fn the_reserve_is_what_admits() {
    let disk = SimDisk::new();
    let (ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    let reserve = small_segments().reserve_bytes;
    disk.set_room(Some(reserve + 10));
    assert!(ledger.room().unwrap().admits(10));
    assert!(!ledger.room().unwrap().admits(11));
}

#[test]
fn state_is_snapshot_and_tail() {
    let disk = SimDisk::new();
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    fill(&mut ledger, &[30, 30, 30]);
    let (whole, spared) = load_state(&mut ledger).unwrap();
    assert_eq!((whole.size, spared), (90, 0));
    ledger
        .write_snapshot(90, holdfast_ledger::state_bytes(&whole).unwrap())
        .unwrap();
    fill(&mut ledger, &[7]);
    let (mut again, _) = Ledger::open_on(disk.kill(), small_segments()).unwrap();
    let (state, spared) = load_state(&mut again).unwrap();
    assert_eq!((state.size, spared), (97, 90));
    let (mut unaided, _) = Ledger::open_on(again.disk().copy(), small_segments()).unwrap();
    unaided.take_newest_snapshot();
    assert_eq!(load_state(&mut unaided).unwrap(), (state, 0));
}

#[test]
fn a_batch_whose_sync_failed_is_written_again_before_anything_is_built_upon_it() {
    // The kernel holds pages for clean that never came to the disk; the next process finds the batch whole and counts it.
    let mut taken_up = 0;
    for nth in 1..=12 {
        for seed in 0..20 {
            let disk = SimDisk::new();
            let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
            fill(&mut ledger, &[38]);
            if seed % 2 == 0 {
                ledger.write_head().unwrap();
            }
            disk.fail_sync(nth);
            let mut rounds = 0;
            while rounds < 4 && ledger.append(&batch(ledger.size(), 4)).is_ok() {
                rounds += 1;
            }
            let size = ledger.size();
            drop(ledger);
            let disk = disk.kill();
            let (mut ledger, report) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
            assert_eq!(report.loss, None);
            taken_up += u64::from(ledger.size() > size);
            fill(&mut ledger, &[1, 6]);
            let acknowledged = ledger.size();
            let (ledger, report) = Ledger::open_on(disk.crash(seed), small_segments()).unwrap();
            assert_eq!(report.loss, None, "sync {nth}, seed {seed}");
            assert_holds(&ledger, acknowledged);
        }
    }
    assert!(taken_up > 20, "{taken_up}");
}

#[test]
fn a_blob_that_cannot_be_read_is_not_called_missing() {
    let disk = SimDisk::new();
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    fill(&mut ledger, &[4]);
    let mut naming = batch(4, 1);
    naming.entries[0].blobs = batch(3, 1).entries.remove(0).blobs;
    let path = holdfast_ledger::blobs::path_of(&naming.entries[0].blobs["file"]);
    let (mut ledger, _) = Ledger::open_on(disk.kill(), small_segments()).unwrap();
    ledger.disk().fail_reads(&path);
    let refused = ledger.append(&naming).unwrap_err();
    assert!(!matches!(refused, LedgerError::NamesMissingBlob { .. }), "{refused:?}");
    let (mut ledger, _) = Ledger::open_on(ledger.disk().copy(), small_segments()).unwrap();
    ledger.append(&naming).unwrap();
}
