//! Damage on the disk: never a panic, never silently shorter, and named by where it is.

mod common;

use common::{Random, assert_holds, batch, entry, fill, small_segments};
use holdfast_ledger::disk::Disk;
use holdfast_ledger::{Ledger, LedgerError, LogError, SimDisk, Trust, verify_on};
use proptest::prelude::*;

/// Three segments, blobs, two snapshots, both slots of the head; closed well.
fn sample() -> SimDisk {
    let disk = SimDisk::new();
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    for round in 0..9 {
        fill(&mut ledger, &[3, 1, 7]);
        if round % 4 == 1 {
            ledger.write_snapshot(ledger.size(), vec![round; 600]).unwrap();
        }
    }
    assert_eq!(ledger.size(), 99);
    ledger.close().unwrap();
    disk.kill()
}

/// The same, so that a boot reads everything.
fn unmarked(disk: &SimDisk) -> SimDisk {
    let disk = disk.copy();
    disk.remove_dir("marks").unwrap();
    disk
}

const LAST_SEGMENT: &str = "log/00000000000000000088.log";

#[test]
fn a_sound_ledger_verifies_and_says_what_it_holds() {
    let disk = sample();
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(
        (report.entries, report.acknowledged, report.snapshots, report.epoch),
        (99, 99, 2, 1)
    );
    assert_eq!(report.blobs, (0..99).filter(|seq| common::has_blob(*seq)).count() as u64);
    let (ledger, boot) = Ledger::open_on(disk, small_segments()).unwrap();
    assert_eq!(
        (boot.size, boot.clean, boot.cut_bytes, boot.snapshot, boot.loss),
        (99, true, 0, Some(66), None)
    );
    assert_eq!(report.root, holdfast_core::ids::hex(&ledger.root()));
}

#[test]
fn every_byte_of_the_log_matters() {
    let disk = sample();
    for path in disk.files().iter().filter(|path| path.starts_with("log/")) {
        let len = disk.len(path).unwrap().unwrap() as usize;
        for at in (0..len).step_by(7) {
            let damaged = disk.copy();
            damaged.damage(path, |bytes| bytes[at] ^= 0x10);
            let report = verify_on(&damaged, &small_segments(), &Trust::default(), false).unwrap();
            assert!(!report.ok, "{path} byte {at}");
            let first = report.first_damaged().unwrap();
            assert_eq!(&first.file, path);
            assert!(first.offset.unwrap() <= at as u64, "{path} byte {at}: {first:?}");
            under_a_mark(&damaged, first.seq);
            let damaged = unmarked(&damaged);
            let (mut ledger, boot) = Ledger::open_on(damaged.clone(), small_segments()).unwrap();
            let loss = boot.loss.unwrap_or_else(|| panic!("{path} byte {at}: taken for a torn tail"));
            assert_eq!(Some(loss.first_damaged_seq), first.seq);
            assert_eq!(
                damaged.len(path).unwrap().unwrap() as usize,
                len,
                "cut although it was acknowledged"
            );
            // Reading works below the damage; writing is refused.
            assert_holds(&ledger, 0);
            assert!(ledger.size() <= loss.first_damaged_seq + 7);
            let refused = ledger.append(&batch(ledger.size(), 1));
            assert!(matches!(&refused, Err(error @ LedgerError::Log(LogError::Loss(_))) if error.reason() == "ledger-loss"));
        }
    }
}

/// A boot that begins at a mark does not read what lies below it again: it is found by whoever reads it, and by a scrub, which
/// stops the writing.
fn under_a_mark(damaged: &SimDisk, first_damaged: Option<u64>) {
    let (mut ledger, boot) = Ledger::open_on(damaged.copy(), small_segments()).unwrap();
    for (seq, found) in (0..).zip(ledger.reader().iter(0, u64::MAX)) {
        match found {
            Ok(found) => assert_eq!(found, entry(seq)),
            Err(error) => assert_eq!(error.reason(), "ledger-damaged"),
        }
    }
    let mut read_bytes = 0;
    let report = ledger
        .reader()
        .scrub(&Trust::default(), &mut |bytes| read_bytes += bytes)
        .unwrap();
    assert!(read_bytes > 0 || report.entries == 0);
    assert_eq!(boot.loss.or(report.loss()).map(|loss| loss.first_damaged_seq), first_damaged);
    let refused = ledger.append(&batch(ledger.size(), 1)).unwrap_err();
    assert_eq!(refused.reason(), "ledger-loss");
    // The next boot reads that segment whole, and finds it by itself.
    drop(ledger);
    let disk = damaged.copy();
    let (ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    ledger.reader().scrub(&Trust::default(), &mut |_| {}).unwrap();
    drop(ledger);
    let (_, boot) = Ledger::open_on(disk, small_segments()).unwrap();
    assert_eq!(boot.loss.map(|loss| loss.first_damaged_seq), first_damaged);
}

#[test]
fn a_boot_begins_at_the_marks_and_ends_at_the_same_tree() {
    let disk = sample();
    let (marked, report) = Ledger::open_read_only_on(disk.copy(), small_segments()).unwrap();
    let (whole, same) = Ledger::open_read_only_on(unmarked(&disk), small_segments()).unwrap();
    assert_eq!(report.root, same.root);
    assert_holds(&whole, 99);
    assert_holds(&marked, 99);
    // An older snapshot lies between two marks, and nothing says that it is the log's but the log itself.
    assert_eq!((report.snapshot, same.snapshot), (Some(66), Some(66)));
    // Marks that are damaged, of another segment or of another log are not believed.
    let marks: Vec<String> = disk.files().into_iter().filter(|path| path.starts_with("marks/")).collect();
    assert_eq!(marks.len(), 3);
    for path in &marks {
        for at in (0..disk.len(path).unwrap().unwrap() as usize).step_by(3) {
            let damaged = disk.copy();
            damaged.damage(path, |bytes| bytes[at] ^= 1);
            let (ledger, report) = Ledger::open_on(damaged, small_segments()).unwrap();
            assert_eq!((report.root, report.loss), (same.root, None), "{path} byte {at}");
            assert_holds(&ledger, 99);
        }
        let swapped = disk.copy();
        let other = swapped
            .read(&marks[(marks.iter().position(|mark| mark == path).unwrap() + 1) % 3])
            .unwrap()
            .unwrap();
        swapped.damage(path, |bytes| *bytes = other);
        let (ledger, report) = Ledger::open_on(swapped.clone(), small_segments()).unwrap();
        assert_eq!((report.root, report.loss), (same.root, None));
        // Written anew.
        ledger.close().unwrap();
        assert_eq!(swapped.read(path).unwrap(), disk.read(path).unwrap(), "{path}");
    }
}

#[test]
fn a_damaged_entry_is_named_by_its_number_and_place() {
    let disk = sample();
    let needle = entry(50).to_bytes().unwrap();
    let path = "log/00000000000000000044.log";
    let at = disk
        .read(path)
        .unwrap()
        .unwrap()
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap();
    disk.damage(path, |bytes| bytes[at + 20] ^= 1);
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    let first = report.first_damaged().unwrap();
    assert_eq!(
        (first.code, first.seq, first.offset, first.file.as_str()),
        ("entry-damaged", Some(50), Some(at as u64 - 8), path)
    );
    assert!(first.message.contains("entries 0 to 47 are intact"), "{}", first.message);
    assert_eq!(report.entries, 48);
}

#[test]
fn a_forged_entry_with_a_right_checksum_does_not_match_the_root() {
    let disk = sample();
    let (path, old, new) = ("log/00000000000000000044.log", entry(50).to_bytes().unwrap(), {
        let mut forged = entry(50);
        forged.t += 1;
        forged.to_bytes().unwrap()
    });
    assert_eq!(old.len(), new.len());
    disk.damage(path, |bytes| {
        let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
        bytes[at..at + new.len()].copy_from_slice(&new);
        bytes[at - 4..at].copy_from_slice(&crc32c::crc32c(&new).to_be_bytes());
    });
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert_eq!(report.first_damaged().unwrap().code, "root-mismatch");
    assert!(Ledger::open_on(unmarked(&disk), small_segments()).unwrap().1.loss.is_some());
}

#[test]
fn another_log_under_the_same_head_is_a_loss() {
    let (disk, other) = (sample(), SimDisk::new());
    let (mut ledger, _) = Ledger::open_on(other.clone(), small_segments()).unwrap();
    // The same entries in other batches: every frame and root is valid, and there are more of them.
    let mut forged = batch(0, 40);
    forged.entries[7].wall = "2026-01-01T00:00:00.001Z".into();
    ledger.append(&forged).unwrap();
    fill(&mut ledger, &[40, 40]);
    ledger.close().unwrap();
    for path in disk.files().iter().filter(|path| path.starts_with("log/")) {
        disk.remove(path).unwrap();
    }
    for path in other.files().iter().filter(|path| path.starts_with("log/")) {
        disk.append(path, &other.read(path).unwrap().unwrap()).unwrap();
    }
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.code == "claim-mismatch" && finding.file == "head"),
        "{:?}",
        report.findings
    );
    let (_, boot) = Ledger::open_on(disk, small_segments()).unwrap();
    assert!(boot.loss.unwrap().what.contains("another log"));
    assert_eq!(boot.ignored.len(), 2);
}

#[test]
fn the_end_of_a_batch_may_reach_the_disk_before_its_beginning() {
    let disk = SimDisk::new();
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    fill(&mut ledger, &[4]);
    ledger.write_head().unwrap();
    let path = "log/00000000000000000000.log";
    let before = disk.len(path).unwrap().unwrap() as usize;
    fill(&mut ledger, &[9]);
    // The batch's own commit is whole, and nothing above it: torn.
    disk.damage(path, |bytes| bytes[before..before + 60].fill(0));
    let (ledger, boot) = Ledger::open_on(disk.copy(), small_segments()).unwrap();
    assert_eq!((boot.loss, boot.size, boot.clean), (None, 4, false));
    assert!(boot.cut_bytes > 0);
    assert_holds(&ledger, 4);
    // One more batch proves that the damaged one was acknowledged, although no head was written.
    let (mut ledger, _) = Ledger::open_on(SimDisk::new(), small_segments()).unwrap();
    fill(&mut ledger, &[4, 9, 1]);
    ledger.disk().damage(path, |bytes| bytes[before..before + 60].fill(0));
    let (_, boot) = Ledger::open_on(ledger.disk().kill(), small_segments()).unwrap();
    assert_eq!(boot.loss.unwrap().first_damaged_seq, 4);
}

#[test]
fn a_missing_segment_or_log_is_a_loss() {
    for path in sample().files().iter().filter(|path| path.starts_with("log/")) {
        let disk = sample();
        disk.remove(path).unwrap();
        let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
        assert!(!report.ok && report.first_damaged().is_some(), "{path}");
        assert!(Ledger::open_on(disk, small_segments()).unwrap().1.loss.is_some(), "{path}");
    }
}

#[test]
fn snapshots_that_do_not_hold_are_passed_over_and_said() {
    let disk = sample();
    disk.damage("snapshots/00000000000000000066.snap", |bytes| *bytes.last_mut().unwrap() ^= 1);
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].code, "snapshot-damaged");
    let (_, boot) = Ledger::open_on(disk, small_segments()).unwrap();
    assert_eq!((boot.snapshot, boot.ignored.len(), boot.loss), (Some(22), 1, None));
}

#[test]
fn blobs_are_checked_when_read_and_by_verify() {
    let disk = sample();
    let digest = holdfast_core::ids::Digest::of(&common::blob(33));
    let path = holdfast_ledger::blobs::path_of(&digest);
    disk.damage(&path, |bytes| bytes[0] ^= 1);
    let (ledger, _) = Ledger::open_on(disk.copy(), small_segments()).unwrap();
    assert_eq!(ledger.blob(&digest).unwrap_err().reason(), "ledger-damaged");
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert_eq!(
        (
            report.findings[0].code,
            report.findings[0].seq,
            report.findings[0].file.as_str()
        ),
        ("blob-damaged", Some(33), path.as_str())
    );
    disk.remove(&path).unwrap();
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert_eq!((report.findings[0].code, report.findings[0].seq), ("blob-missing", Some(33)));
}

#[test]
fn bad_batches_write_nothing_and_harm_no_other() {
    let disk = SimDisk::new();
    let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    let with = |change: fn(&mut holdfast_ledger::Batch)| {
        let mut changed = batch(2, 2);
        change(&mut changed);
        changed
    };
    let huge = with(|batch| batch.entries[1].wall = "x".repeat(70_000));
    let gap = with(|batch| batch.entries[1].seq += 1);
    let unnamed = with(|batch| batch.blobs.clear());
    let wrong = with(|batch| batch.blobs[0].1 = std::sync::Arc::from(&b"other"[..]));
    for bad in [huge, gap, unnamed, wrong] {
        let outcomes = ledger.append_group(&[batch(ledger.size(), 2), bad.clone(), batch(ledger.size() + 2, 1)]);
        let said: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(said, [true, false, true], "{outcomes:?}");
        assert!(!outcomes[1].as_ref().unwrap_err().is_final());
        ledger = Ledger::open_on(SimDisk::new(), small_segments()).unwrap().0;
    }
    let outcome = ledger.append(&holdfast_ledger::Batch {
        blobs: batch(3, 1).blobs,
        entries: vec![],
    });
    assert_eq!(outcome.unwrap().size, 0, "a batch may be of blobs only");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any damage to any file: no panic, and no acknowledged entry goes missing without a word.
    #[test]
    fn any_damage_is_noticed(seed: u64, damages in 1usize..4) {
        let disk = sample();
        let files = disk.files();
        let mut random = Random(seed);
        for _ in 0..damages {
            let path = &files[random.below(files.len() as u64) as usize];
            disk.damage(path, |bytes| {
                let at = random.below(bytes.len() as u64) as usize;
                match random.below(5) {
                    0 => bytes.truncate(at),
                    1 => bytes.extend(vec![random.below(256) as u8; at]),
                    2 => {
                        let end = (at + 200).min(bytes.len());
                        bytes[at..end].fill(0);
                    }
                    3 => bytes.insert(at, random.below(256) as u8),
                    _ if bytes.is_empty() => {}
                    _ => bytes[at] ^= 1 << random.below(8),
                }
            });
        }
        let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
        let (marked, boot) = Ledger::open_on(disk.copy(), small_segments()).unwrap();
        for (seq, found) in (0..).zip(marked.reader().iter(0, u64::MAX)) {
            prop_assert!(found.is_err() || found.unwrap() == entry(seq));
        }
        prop_assert!(marked.size() == 99 || boot.loss.is_some() || head_is_gone(&disk), "{boot:?}");
        let (ledger, boot) = Ledger::open_on(unmarked(&disk), small_segments()).unwrap();
        assert_holds_unless_blobs(&ledger);
        prop_assert!(ledger.size() == 99 || boot.loss.is_some() || head_is_gone(&disk), "{boot:?}");
        prop_assert!(ledger.size() == 99 || !report.ok);
        prop_assert_eq!(ledger.size(), report.entries);
    }

    #[test]
    fn what_is_appended_is_what_is_read(sizes in prop::collection::vec(1u64..30, 1..12), reopen: u8) {
        let disk = SimDisk::new();
        let (mut ledger, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
        for (at, entries) in sizes.iter().enumerate() {
            fill(&mut ledger, &[*entries]);
            if at % 8 == usize::from(reopen % 8) {
                let root = ledger.root();
                ledger = Ledger::open_on(disk.clone(), small_segments()).unwrap().0;
                prop_assert_eq!(ledger.root(), root);
            }
        }
        assert_holds(&ledger, sizes.iter().sum());
        let (size, root) = ledger.reader().head();
        let reader = ledger.reader();
        for seq in [0, size / 2, size - 1] {
            let leaf = holdfast_ledger::merkle::leaf_hash(&reader.raw_entry(seq).unwrap());
            let proof = reader.inclusion_proof(seq, size).unwrap();
            prop_assert!(holdfast_ledger::merkle::verify_inclusion(leaf, seq, size, &proof, &root));
            let old = reader.root_at(seq + 1).unwrap();
            let proof = reader.consistency_proof(seq + 1, size).unwrap();
            prop_assert!(holdfast_ledger::merkle::verify_consistency(seq + 1, size, &old, &root, &proof));
        }
    }
}

fn assert_holds_unless_blobs(ledger: &Ledger<SimDisk>) {
    for (seq, found) in (0..).zip(ledger.reader().iter(0, u64::MAX)) {
        assert_eq!(found.unwrap(), entry(seq));
    }
}

/// Without a head and a snapshot above it, an end that is missing cannot be told from one that never was.
fn head_is_gone(disk: &SimDisk) -> bool {
    let slots = holdfast_ledger::head::slots(disk).unwrap();
    !slots
        .iter()
        .any(|slot| matches!(slot, holdfast_ledger::head::Slot::Valid(head) if head.size == 99))
}

#[test]
fn only_the_last_segment_can_have_a_torn_tail() {
    let disk = sample();
    disk.append(LAST_SEGMENT, &[1, 2, 3]).unwrap();
    let report = verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap();
    assert_eq!(
        (report.findings[0].code, report.entries, report.findings.len()),
        ("torn-tail", 99, 1)
    );
    assert!(
        verify_on(&disk, &small_segments(), &Trust::default(), true).unwrap().ok,
        "a live daemon's unfinished batch is no finding"
    );
    let read_only = Ledger::open_read_only_on(disk.clone(), small_segments()).unwrap();
    assert_eq!(read_only.1.cut_bytes, 3);
    assert_eq!(
        disk.copy().len(LAST_SEGMENT).unwrap(),
        disk.len(LAST_SEGMENT).unwrap(),
        "reading cuts nothing"
    );
    let (_, boot) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    assert_eq!((boot.cut_bytes, boot.size, boot.loss), (3, 99, None));
    assert!(verify_on(&disk, &small_segments(), &Trust::default(), false).unwrap().ok);
}
