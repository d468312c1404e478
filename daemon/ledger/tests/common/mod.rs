//! Entries to write: each is a function of its sequence number, so that a reader knows what it must find.
#![allow(dead_code)]

use holdfast_core::entry::{
    Body, By, ClockTick, ENTRY_VERSION, Entry, On, Pin, RolloutChange, RolloutState, Source, TagMoved, Term,
};
use holdfast_core::ids::{Digest, ReleaseId, WorkloadId};
use holdfast_ledger::{Batch, Disk, Ledger, Options};
use std::sync::Arc;

/// Content of the blob that some entries name.
pub fn blob(seq: u64) -> Vec<u8> {
    format!("blob of entry {seq}: {}", "x".repeat((seq * 37 % 2_000) as usize)).into_bytes()
}

pub fn has_blob(seq: u64) -> bool {
    seq % 5 == 3
}

pub fn entry(seq: u64) -> Entry {
    let workload = WorkloadId::new("main", &format!("app-{}", seq % 7)).unwrap();
    let body = match seq % 6 {
        _ if seq == 0 => Body::Term(Term {
            binary: "0.1.0".into(),
            planner: 1,
            config: Digest::of(b"config"),
            previous_size: 0,
            previous_root: String::new(),
            clean: true,
            epoch: 1,
            owner: "abcdefgh".into(),
        }),
        0 => Body::Clock(ClockTick {}),
        1 => Body::Pin(Pin {
            reference: format!("registry.example/app:{}", seq / 60),
            digest: Digest::of(&seq.to_be_bytes()),
            source: "registry.example/app".into(),
            evidence: serde_json::json!({"padding": "y".repeat((seq * 13 % 900) as usize)}),
        }),
        2 => Body::TagMoved(TagMoved {
            reference: "registry.example/app:1".into(),
            pinned: Digest::of(b"a"),
            seen: Digest::of(&seq.to_be_bytes()),
            evidence: serde_json::Value::Null,
        }),
        3 => Body::Source(Source {
            repository: "main".into(),
            reference: "main".into(),
            old: None,
            new: format!("{seq:040x}"),
            fast_forward: true,
            adopted: true,
            untrusted: false,
            signer: "unverified".into(),
            author: "h".into(),
            summary: "a change".into(),
            committed_s: 1,
            changed: vec![workload.clone()],
            problems: vec![],
            held: vec![],
            contributors: Default::default(),
        }),
        _ => Body::Rollout(RolloutChange {
            to: RolloutState::Rolling,
            release: ReleaseId::of(&(seq / 10).to_be_bytes()),
            reason: String::new(),
            message: String::new(),
            sources: Default::default(),
            artifacts: Default::default(),
            wave: 0,
            before: Vec::new(),
            after: Vec::new(),
        }),
    };
    let on = On {
        workload: Some(workload),
        target: Some(format!("site-{}", seq % 3)),
        attempt: seq.is_multiple_of(4).then_some(seq / 2),
        ..On::default()
    };
    Entry {
        v: ENTRY_VERSION,
        seq,
        term: 0,
        t: seq / 3 * 10,
        wall: "2026-01-01T00:00:00.000Z".into(),
        by: By::daemon(),
        on,
        because: seq.checked_sub(1).into_iter().collect(),
        blobs: if has_blob(seq) {
            [("file".to_owned(), Digest::of(&blob(seq)))].into()
        } else {
            Default::default()
        },
        body,
    }
}

pub fn batch(from: u64, entries: u64) -> Batch {
    let seqs = from..from + entries;
    let blobs = seqs
        .clone()
        .filter(|seq| has_blob(*seq))
        .map(|seq| (Digest::of(&blob(seq)), Arc::from(blob(seq))))
        .collect();
    Batch {
        entries: seqs.map(entry).collect(),
        blobs,
    }
}

/// Appends `sizes.len()` batches of so many entries each.
pub fn fill<D: Disk>(ledger: &mut Ledger<D>, sizes: &[u64]) {
    for entries in sizes {
        ledger.append(&batch(ledger.size(), *entries)).unwrap();
    }
}

/// Small enough that a test meets several segments.
pub fn small_segments() -> Options {
    Options {
        segment_entries: 40,
        ..Options::default()
    }
}

/// Entries below `size` are there, are the ones that were written, and so are their blobs.
pub fn assert_holds<D: Disk>(ledger: &Ledger<D>, size: u64) {
    assert!(
        ledger.size() >= size,
        "the ledger has {} entries, {size} were acknowledged",
        ledger.size()
    );
    let mut next = 0;
    for found in ledger.reader().iter(0, ledger.size()) {
        let found = found.unwrap();
        assert_eq!(found, entry(next));
        if has_blob(next) {
            assert_eq!(ledger.blob(&found.blobs["file"]).unwrap(), blob(next));
        }
        next += 1;
    }
    assert_eq!(next, ledger.size());
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}
