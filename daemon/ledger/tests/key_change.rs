//! A change of the log's key: the entry that both sign, and who believes which key for which part of the log.

mod common;

use common::{entry, fill, small_segments};
use holdfast_core::entry::{Body, LogKey};
use holdfast_core::state::LogKeyChange;
use holdfast_ledger::disk::Disk;
use holdfast_ledger::tlog::checkpoint::SignedCheckpoint;
use holdfast_ledger::tlog::note::{KeyKind, Note, SignerKey};
use holdfast_ledger::tlog::publish::{Publication, PublishError};
use holdfast_ledger::tlog::rotation::{Former, Rotation, former};
use holdfast_ledger::tlog::witness::{AddCheckpoint, Policy, Witness};
use holdfast_ledger::{Batch, Ledger, SimDisk, Trust, VerifyReport, load_state, verify_on, verify_published};

fn key(byte: u8) -> SignerKey {
    SignerKey::new("ledger.example/prod", KeyKind::Log, [byte; 32]).unwrap()
}

fn ledger(disk: &SimDisk) -> Ledger<SimDisk> {
    Ledger::open_on(disk.clone(), small_segments()).unwrap().0
}

fn change(log: &mut Ledger<SimDisk>, old: &SignerKey, new: &SignerKey) -> u64 {
    let seq = log.size();
    let mut changed = entry(seq);
    changed.body = Body::LogKey(LogKey {
        note: Rotation::sign(old, new).unwrap(),
    });
    changed.blobs.clear();
    let batch = Batch {
        entries: vec![changed],
        blobs: Vec::new(),
    };
    log.append(&batch).unwrap();
    seq
}

fn verify(disk: &SimDisk, by: &SignerKey, from: Option<&Note>) -> [VerifyReport; 2] {
    let trust = Trust {
        keys: vec![by.verifier().clone()],
        from: from.cloned(),
        witnesses: Policy::default(),
    };
    let whole = verify_on(disk, &small_segments(), &trust, false).unwrap();
    let published = verify_published(|path| disk.read(&format!("tlog/{path}")), &trust).unwrap();
    [whole, published]
}

#[test]
fn from_the_entry_on_only_the_new_key_signs() {
    let disk = SimDisk::new();
    let mut log = ledger(&disk);
    fill(&mut log, &[10]);
    let (old, new) = (key(5), key(6));
    let mut publication = Publication::new(log.reader(), &old, 1, Vec::new()).unwrap();
    let next_keys = publication.next_keys();
    let early = publication.advance().unwrap().unwrap().note.clone();
    // Given before the entry is committed; nothing changes until it is.
    next_keys.give(12, new.clone());
    fill(&mut log, &[2]);
    assert_eq!(publication.advance().unwrap().unwrap().signed_by, *old.verifier());
    assert_eq!(change(&mut log, &old, &new), 12);
    let signed = publication.advance().unwrap().unwrap();
    assert_eq!((signed.checkpoint.size, &signed.signed_by), (13, new.verifier()));
    fill(&mut log, &[30]);
    assert_eq!(publication.advance().unwrap().unwrap().signed_by, *new.verifier());

    // Whoever trusts one of the two follows to the other, and the earlier checkpoint counts for both.
    for by in [&old, &new] {
        for report in verify(&disk, by, Some(&early)) {
            assert!(report.ok, "{:?}", report.findings);
            let signed_by = report.checkpoint.unwrap().signed_by;
            assert_eq!(
                (signed_by, report.consistent_from),
                (Some(new.verifier().to_string()), Some(10))
            );
        }
    }
    // The old key signs on: nobody believes it, and the daemon does not either.
    let (size, root) = log.reader().head();
    let forged = SignedCheckpoint::sign(&old, size, root).note;
    disk.create("tlog/checkpoint", forged.to_string().as_bytes()).unwrap();
    for by in [&old, &new] {
        for report in verify(&disk, by, Some(&early)) {
            assert_eq!(report.findings[0].code, "checkpoint-unsigned", "{:?}", report.findings);
        }
    }
    let replaced = vec![Former {
        key: old.verifier().clone(),
        replaced: 12,
    }];
    let refused = Publication::new(log.reader(), &new, 1, replaced).err().unwrap();
    assert!(
        matches!(refused, PublishError::Replaced { replaced: 12, .. }) && refused.is_conflict(),
        "{refused}"
    );
    assert_eq!(verify(&disk, &new, Some(&forged))[0].findings[0].code, "checkpoint-unsigned");
    // And a key that nobody introduced is a stranger's.
    let refused = Publication::new(log.reader(), &key(7), 1, Vec::new()).err();
    assert!(matches!(refused, Some(PublishError::OtherLog { .. })));
}

#[test]
fn a_crash_between_the_entry_and_the_first_checkpoint_changes_nothing() {
    let disk = SimDisk::new();
    let (first, second, third) = (key(5), key(6), key(7));
    {
        let mut log = ledger(&disk);
        fill(&mut log, &[10]);
        let mut publication = Publication::new(log.reader(), &first, 1, Vec::new()).unwrap();
        publication.advance().unwrap();
        change(&mut log, &first, &second);
        change(&mut log, &second, &third);
        // Killed: neither of the new keys has signed anything.
    }
    let mut log = ledger(&disk);
    let (state, _) = load_state(&mut log).unwrap();
    let seqs: Vec<u64> = state.log_keys.iter().map(|LogKeyChange { seq, .. }| *seq).collect();
    assert_eq!(seqs, [10, 11]);
    for stale in [&first, &second] {
        assert!(former(stale.verifier(), &state.log_keys).is_err());
    }
    let before = former(third.verifier(), &state.log_keys).unwrap();
    let mut publication = Publication::new(log.reader(), &third, 1, before).unwrap();
    assert_eq!(publication.published().unwrap().signed_by, *first.verifier());
    let signed = publication.advance().unwrap().unwrap();
    assert_eq!((signed.checkpoint.size, &signed.signed_by), (12, third.verifier()));
    for by in [&first, &second, &third] {
        for report in verify(&disk, by, None) {
            assert!(report.ok, "{:?}", report.findings);
        }
    }
}

#[test]
fn a_key_that_is_not_committed_signs_nothing() {
    let disk = SimDisk::new();
    let mut log = ledger(&disk);
    let (old, new) = (key(5), key(6));
    fill(&mut log, &[10]);
    let mut publication = Publication::new(log.reader(), &old, 1, Vec::new()).unwrap();
    publication.next_keys().give(10, new.clone());
    assert_eq!(publication.advance().unwrap().unwrap().signed_by, *old.verifier());
    // The daemon was killed before the entry was synced; the next one begins with the key that the log names.
    let mut publication = Publication::new(log.reader(), &old, 1, Vec::new()).unwrap();
    fill(&mut log, &[1]);
    assert_eq!(publication.advance().unwrap().unwrap().signed_by, *old.verifier());
}

#[test]
fn a_witness_cosigns_for_the_keys_that_its_people_name() {
    let (old, new) = (key(5), key(6));
    let by = SignerKey::new("witness.example", KeyKind::Witness, [8; 32]).unwrap();
    let disk = SimDisk::new();
    let ask = |known: &[&SignerKey], signer: &SignerKey| {
        let known = known.iter().map(|key| key.verifier().clone()).collect();
        let request = AddCheckpoint {
            old_size: 0,
            proof: Vec::new(),
            checkpoint: SignedCheckpoint::sign(signer, 1, [1; 32]).note.to_string(),
        };
        Witness::new(disk.copy(), by.clone(), known)
            .add_checkpoint(request.to_string().as_bytes(), 1)
            .status
    };
    assert_eq!((ask(&[&old], &old), ask(&[&old], &new)), (200, 403));
    assert_eq!((ask(&[&old, &new], &new), ask(&[&new], &old)), (200, 403));
    // A new epoch is another log to a witness, which has to be told of it.
    let epoch = old.renamed("ledger.example/prod/2").unwrap();
    assert_eq!((ask(&[&old], &epoch), ask(&[&old, &epoch], &epoch)), (404, 200));
}
