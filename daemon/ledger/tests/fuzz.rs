//! Bytes that nobody wrote: no parser panics, and what one takes it gives back to the byte, so that nothing has two readings.
//! Inputs are random, or ones of the corpus (`tests/corpus`, each named after what becomes of it) with a few changes.

use holdfast_ledger::disk::Disk;
use holdfast_ledger::frame::{self, Commit, Frame};
use holdfast_ledger::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use holdfast_ledger::tlog::note::{KeyKind, Note, Signature, SignerKey, VerifierKey};
use holdfast_ledger::tlog::proof::TlogProof;
use holdfast_ledger::tlog::rotation::Rotation;
use holdfast_ledger::tlog::tile::{Tile, split_bundle};
use holdfast_ledger::tlog::witness::AddCheckpoint;
use holdfast_ledger::{Ledger, Options, SimDisk, head, mark, snapshot};
use proptest::prelude::*;

const CASES: u32 = 20_000;

fn key(kind: KeyKind) -> SignerKey {
    SignerKey::new("ledger.example/prod", kind, [5; 32]).unwrap()
}

fn checkpoint() -> String {
    let mut note = SignedCheckpoint::sign(&key(KeyKind::Log), 812, [7; 32]).note;
    note.add(key(KeyKind::Witness).sign(&note.text.clone(), 1_700_000_000));
    note.to_string()
}

fn proof() -> String {
    let proof = TlogProof {
        extra: Some(b"extra".to_vec()),
        index: 300,
        path: vec![[3; 32], [4; 32]],
        checkpoint: checkpoint(),
    };
    proof.to_string()
}

fn request() -> String {
    let request = AddCheckpoint {
        old_size: 20,
        proof: vec![[3; 32], [4; 32]],
        checkpoint: checkpoint(),
    };
    request.to_string()
}

fn frames() -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_entry(&mut bytes, br#"{"seq":0}"#);
    let commit = Commit {
        before: 0,
        size: 1,
        root: [1; 32],
    };
    frame::put_commit(&mut bytes, &commit);
    bytes
}

/// One of the seeds with a few bytes changed, cut out, doubled or put in; or something random.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    // What matters to these formats more often than chance would have it.
    let byte = prop_oneof![
        any::<u8>(),
        Just(b'\n'),
        Just(b' '),
        Just(b'+'),
        Just(b'0'),
        Just(b'='),
        Just(0x80),
        Just(0)
    ];
    let change = (any::<prop::sample::Index>(), 0..4u8, byte, 1usize..40);
    let changed = (prop::sample::select(seeds), prop::collection::vec(change, 0..4)).prop_map(|(mut bytes, changes)| {
        for (at, what, byte, length) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            match what {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => drop(bytes.drain(at..end)),
                2 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    });
    prop_oneof![4 => changed, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

/// The files of a kind, with what their names say of them: whether they are read.
fn corpus(kind: &str) -> Vec<(String, bool, Vec<u8>)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(kind);
    let files = std::fs::read_dir(dir).unwrap().map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let is_good = name.starts_with("ok-");
        assert!(is_good || name.starts_with("bad-"), "{name}");
        (name, is_good, std::fs::read(path).unwrap())
    });
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 12, "{kind}");
    files
}

/// With what the corpus has of the kind.
fn with_corpus(kind: &str, mut seeds: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    seeds.extend(corpus(kind).into_iter().map(|(_, _, bytes)| bytes));
    seeds
}

#[test]
fn the_corpus_is_read_as_its_names_say() {
    let is_frame = |bytes: &[u8]| frame::parse(bytes).is_ok();
    let is_note = |bytes: &[u8]| Note::parse(bytes).is_ok();
    let is_proof = |bytes: &[u8]| text(bytes).parse::<TlogProof>().is_ok();
    let is_tile = |bytes: &[u8]| text(bytes).parse::<Tile>().is_ok();
    type IsRead<'a> = &'a dyn Fn(&[u8]) -> bool;
    let kinds: [(&str, IsRead<'_>); 4] = [
        ("frames", &is_frame),
        ("notes", &is_note),
        ("proofs", &is_proof),
        ("tiles", &is_tile),
    ];
    for (kind, is_read) in kinds {
        for (name, is_good, bytes) in corpus(kind) {
            assert_eq!(is_read(&bytes), is_good, "{kind}/{name}");
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_are_read_one_way(bytes in mutated(with_corpus("frames", vec![frames()]))) {
        let mut rest = &bytes[..];
        while let Ok((frame, length)) = frame::parse(rest) {
            let mut again = Vec::new();
            match frame {
                Frame::Entry(payload) => frame::put_entry(&mut again, payload),
                Frame::Commit(commit) => frame::put_commit(&mut again, &commit),
            }
            prop_assert_eq!(&again[..], &rest[..length]);
            rest = &rest[length..];
        }
        frame::has_commit_beyond(&bytes, 0);
        prop_assert!(frame::Header::parse(&bytes).is_none_or(|header| header.to_bytes() == bytes[..32]));
    }

    #[test]
    fn notes_checkpoints_and_keys_are_read_one_way(bytes in mutated(with_corpus("notes", vec![checkpoint().into_bytes(), key(KeyKind::Log).verifier().to_string().into_bytes(), key(KeyKind::Log).to_secret_text().into_bytes()]))) {
        if let Ok(note) = Note::parse(&bytes) {
            prop_assert_eq!(note.to_string().into_bytes(), &bytes[..]);
            if let Ok(checkpoint) = Checkpoint::parse(&note.text) {
                prop_assert_eq!(checkpoint.to_string(), note.text);
            }
        }
        let opened = SignedCheckpoint::open(&bytes, &[key(KeyKind::Log).verifier().clone()]);
        prop_assert!(opened.is_err() || opened.unwrap().checkpoint.size == 812, "only what was signed is believed");
        if let Ok(signatures) = Signature::parse_lines(text(&bytes)) {
            prop_assert_eq!(signatures.iter().map(Signature::to_string).collect::<String>(), text(&bytes));
        }
        if let Ok(key) = text(&bytes).parse::<VerifierKey>() {
            prop_assert_eq!(key.to_string(), text(&bytes));
        }
        if let Ok(key) = SignerKey::parse_secret(text(&bytes)) {
            prop_assert_eq!(key.to_secret_text(), text(&bytes));
        }
        let rotated = Rotation::open(text(&bytes));
        prop_assert!(rotated.is_err());
    }

    #[test]
    fn proofs_and_requests_are_read_one_way(bytes in mutated(with_corpus("proofs", vec![proof().into_bytes(), request().into_bytes()]))) {
        if let Ok(proof) = text(&bytes).parse::<TlogProof>() {
            prop_assert_eq!(proof.to_string(), text(&bytes));
        }
        if let Some(request) = AddCheckpoint::parse(&bytes) {
            prop_assert_eq!(request.to_string(), text(&bytes));
        }
    }

    #[test]
    fn tile_paths_and_bundles_are_read_one_way(path in mutated(with_corpus("tiles", Vec::new())), count in 0u16..4, bundle in mutated(vec![b"\0\x02ab\0\x01c\0\0".to_vec()])) {
        if let Ok(tile) = text(&path).parse::<Tile>() {
            prop_assert_eq!(tile.to_string(), text(&path));
        }
        if let Some(entries) = split_bundle(&bundle, count) {
            let again: Vec<u8> = entries.iter().flat_map(|entry| [&(entry.len() as u16).to_be_bytes()[..], entry].concat()).collect();
            prop_assert_eq!((entries.len(), again), (usize::from(count), bundle));
        }
    }

    #[test]
    fn side_files_never_stop_a_boot(name in prop::sample::select(vec!["head", "marks/00000000000000000000.mark", "snapshots/00000000000000000001.snap", "tlog/checkpoint"]), bytes in mutated(vec![checkpoint().into_bytes(), b"HFMARK\0\x01".to_vec(), b"HFSNAP\0\x01".to_vec(), b"HFHD".to_vec()])) {
        let disk = SimDisk::new();
        disk.create(name, &bytes).unwrap();
        prop_assert!(head::slots(&disk).is_ok());
        prop_assert!(snapshot::read(&disk, "00000000000000000001.snap").is_ok());
        prop_assert!(mark::take_up(&disk, "00000000000000000000.log", 0).unwrap().is_none());
        let (ledger, report) = Ledger::open_on(disk, Options::default()).unwrap();
        prop_assert_eq!((ledger.size(), report.loss), (0, None));
    }
}
