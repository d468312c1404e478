//! The published log: what another implementation of C2SP tlog-tiles makes of its files, and what becomes of them when the
//! disk fails.

mod common;

use common::{Random, batch, fill, small_segments};
use holdfast_ledger::disk::Disk;
use holdfast_ledger::merkle::{self, Hash, leaf_hash, verify_consistency, verify_inclusion};
use holdfast_ledger::tlog::checkpoint::SignedCheckpoint;
use holdfast_ledger::tlog::note::{KeyKind, Note, SignerKey, VerifierKey};
use holdfast_ledger::tlog::proof::TlogProof;
use holdfast_ledger::tlog::publish::{Publication, PublishError};
use holdfast_ledger::tlog::tile::{self, Kind, Tile};
use holdfast_ledger::tlog::witness::Policy;
use holdfast_ledger::{Ledger, Options, Reader, SimDisk, Trust, VerifyReport, verify_on, verify_published};
use proptest::prelude::*;
use std::convert::Infallible;

fn key() -> SignerKey {
    SignerKey::new("ledger.example/prod", KeyKind::Log, [5; 32]).unwrap()
}

fn keys() -> Vec<VerifierKey> {
    vec![key().verifier().clone()]
}

fn ledger(disk: &SimDisk) -> Ledger<SimDisk> {
    Ledger::open_on(disk.clone(), small_segments()).unwrap().0
}

fn publication(log: Reader<SimDisk>) -> Publication<SimDisk> {
    Publication::new(log, &key(), 1, Vec::new()).unwrap()
}

/// A client as others write them, over our files.
struct Client<'a>(&'a SimDisk);

impl tlog_tiles::TileReader for Client<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            let path = format!("tlog/{}", tile.path().replace("tile/8/", "tile/"));
            self.0.read(&path).unwrap().unwrap_or_else(|| panic!("{path} is not there"))
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

fn hash(hash: &Hash) -> tlog_tiles::Hash {
    tlog_tiles::Hash(*hash)
}

#[test]
fn another_implementation_reads_our_tiles_and_makes_the_same_proofs() {
    let disk = SimDisk::new();
    let mut ledger = ledger(&disk);
    let mut publication = publication(ledger.reader());
    let mut random = Random(1);
    let mut published: Vec<(u64, Hash)> = Vec::new();
    while ledger.size() < 1_400 {
        fill(&mut ledger, &[1 + random.below(150)]);
        let signed = publication.advance().unwrap().unwrap().clone();
        let head = signed.checkpoint;
        assert_eq!((head.size, head.root), ledger.reader().head());
        let text = disk.read("tlog/checkpoint").unwrap().unwrap();
        let text = std::str::from_utf8(&text).unwrap().split_once("\n\n").unwrap().0.to_owned() + "\n";
        let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(
            (theirs.size(), theirs.hash().0, theirs.origin()),
            (head.size, head.root, "ledger.example/prod")
        );
        // Their reader authenticates every tile against the root.
        let client = Client(&disk);
        let hashes = tlog_tiles::TileHashReader::new(head.size, hash(&head.root), &client);
        for _ in 0..20 {
            let seq = random.below(head.size);
            let theirs = tlog_tiles::prove_record(head.size, seq, &hashes).unwrap();
            let ours = ledger.reader().inclusion_proof(seq, head.size).unwrap();
            assert_eq!(theirs.iter().map(|hash| hash.0).collect::<Vec<_>>(), ours);
            let leaf = leaf_hash(&ledger.reader().raw_entry(seq).unwrap());
            tlog_tiles::check_record(&theirs, head.size, hash(&head.root), seq, hash(&leaf)).unwrap();
            assert!(verify_inclusion(leaf, seq, head.size, &ours, &head.root));
        }
        for (old, root) in &published {
            let theirs = tlog_tiles::prove_tree(head.size, *old, &hashes).unwrap();
            let ours = ledger.reader().consistency_proof(*old, head.size).unwrap();
            assert_eq!(theirs.iter().map(|hash| hash.0).collect::<Vec<_>>(), ours);
            tlog_tiles::check_tree(&theirs, head.size, hash(&head.root), *old, hash(root)).unwrap();
            assert!(verify_consistency(*old, head.size, root, &head.root, &ours));
        }
        published.push((head.size, head.root));
    }
    assert!(published.len() > 10);
    assert!(publication.advance().unwrap().is_none(), "nothing is published twice");
}

#[test]
fn the_example_of_the_specification() {
    let path = |kind, index, width| Tile { kind, index, width }.to_string();
    let level = |level| Kind::Hashes { level };
    assert_eq!(path(level(0), 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(path(Kind::Entries, 0, 3), "tile/entries/000.p/3");
    // "273 full level 0 tiles, one partial level 0 tile of width 112, one full level 1 tile, one partial level 1 tile of
    // width 17, and one partial level 2 tile of width 1".
    let tiles: Vec<Tile> = tile::added(0, 70_000).filter(|tile| tile.kind != Kind::Entries).collect();
    let partial: Vec<String> = tiles.iter().filter(|tile| !tile.is_full()).map(Tile::to_string).collect();
    assert_eq!(partial, ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]);
    assert_eq!(tiles.iter().filter(|tile| tile.is_full()).count(), 274);
    let of_256: Vec<String> = tile::added(0, 256).map(|tile| tile.to_string()).collect();
    assert_eq!(of_256, ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]);
    for bad in [
        "tile/0/1",
        "tile/0/0001",
        "tile/0/x000/001",
        "tile/00/001",
        "tile/64/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/x001",
        "tile/0/001/002",
        "tile/0/+01",
        "/tile/0/001",
        "tile/0/001/",
        "tile/x/001",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
    ] {
        assert!(bad.parse::<Tile>().is_err(), "{bad}");
    }
}

/// Every tile of the published size is there and is what the log makes it.
fn assert_published(disk: &SimDisk, log: &Reader<SimDisk>) -> SignedCheckpoint {
    let signed = SignedCheckpoint::open(&disk.read("tlog/checkpoint").unwrap().unwrap(), &keys()).unwrap();
    let size = signed.checkpoint.size;
    assert_eq!(signed.checkpoint.root, log.root_at(size).unwrap());
    let mut builder = tile::Builder::default();
    let mut expected = Vec::new();
    for item in log.iter_raw(0, size) {
        let (_, bytes) = item.unwrap();
        let kept = builder.push(&bytes, leaf_hash(&bytes), |tile, content| {
            expected.push((tile, content.to_vec()));
            Ok::<_, Infallible>(())
        });
        kept.unwrap();
    }
    let kept = builder.partials(|tile, content| {
        expected.push((tile, content.to_vec()));
        Ok::<_, Infallible>(())
    });
    kept.unwrap();
    let mut named: Vec<Tile> = expected.iter().map(|(tile, _)| *tile).collect();
    named.sort();
    let mut added: Vec<Tile> = tile::added(0, size).collect();
    added.sort();
    assert_eq!(named, added);
    for (tile, content) in expected {
        assert!(tile::read(disk, &tile).unwrap().as_ref() == Some(&content), "{tile}");
    }
    signed
}

#[test]
fn tiles_that_are_gone_or_wrong_are_made_anew() {
    let disk = SimDisk::new();
    let mut log = ledger(&disk);
    fill(&mut log, &[300, 300]);
    publication(log.reader()).advance().unwrap();
    assert_published(&disk, &log.reader());
    assert!(
        disk.files().iter().all(|path| !path.starts_with("tlog/tile/0/000.p/")),
        "a full tile replaces its partial ones"
    );
    for path in disk.files().into_iter().filter(|path| path.starts_with("tlog/tile/")) {
        for damage in 0..3 {
            let disk = disk.copy();
            match damage {
                0 => disk.remove(&path).unwrap(),
                1 => disk.damage(&path, |bytes| bytes[3] ^= 1),
                _ => disk.damage(&path, |bytes| bytes.truncate(bytes.len() - 1)),
            }
            let mut log = ledger(&disk);
            let (size, root) = log.reader().head();
            // Proofs hold whatever the tiles say: what does not is made out of the log.
            let path = log.reader().inclusion_proof(123, size).unwrap();
            let leaf = leaf_hash(&log.reader().raw_entry(123).unwrap());
            assert!(verify_inclusion(leaf, 123, size, &path, &root));
            fill(&mut log, &[40]);
            let mut publication = publication(log.reader());
            publication.advance().unwrap();
            if damage > 0 {
                // Not looked for at every start, but by `verify`.
                publication.repair().unwrap();
            }
            assert_published(&disk, &log.reader());
        }
    }
    // All of them.
    disk.remove_dir("tlog/tile/0").unwrap();
    let mut log = ledger(&disk);
    fill(&mut log, &[1]);
    publication(log.reader()).advance().unwrap();
    assert_published(&disk, &log.reader());
}

#[test]
fn what_was_published_is_never_contradicted() {
    let disk = SimDisk::new();
    let mut log = ledger(&disk);
    fill(&mut log, &[100]);
    let old_copy = disk.copy();
    fill(&mut log, &[100]);
    publication(log.reader()).advance().unwrap();
    let published = disk.read("tlog/checkpoint").unwrap().unwrap();
    // An old copy of the log beside the newer checkpoint.
    old_copy.append("tlog/checkpoint", &published).unwrap();
    let mut log = ledger(&old_copy);
    let refused = Publication::new(log.reader(), &key(), 1, Vec::new()).err().unwrap();
    assert!(
        matches!(
            refused,
            PublishError::Ahead {
                published: 200,
                size: 100
            }
        ) && refused.is_conflict()
    );
    // The same, and then another history.
    let mut other = batch(100, 150);
    other.entries[50].wall = "2026-01-01T00:00:00.001Z".into();
    log.append(&other).unwrap();
    let refused = publication(log.reader()).advance().unwrap_err();
    assert!(
        matches!(refused, PublishError::Fork { size: 200 }) && refused.is_conflict(),
        "{refused:?}"
    );
    assert_eq!(old_copy.read("tlog/checkpoint").unwrap().unwrap(), published);
    // Another name, or a key that is not this log's.
    let stranger = SignerKey::new("ledger.example/test", KeyKind::Log, [5; 32]).unwrap();
    assert!(matches!(
        Publication::new(log.reader(), &stranger, 1, Vec::new()).err(),
        Some(PublishError::OtherLog { .. })
    ));
}

#[test]
fn publishing_survives_whatever_the_disk_does() {
    let mut outcomes = [0; 3];
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut disk = SimDisk::new();
        let mut seen: Option<SignedCheckpoint> = None;
        for life in 0..4 {
            let mut log = ledger(&disk);
            let reader = log.reader();
            let mut publication = publication(reader.clone());
            let fault = random.below(4);
            let mut acknowledged = log.size();
            for round in 0..4 {
                // What the fault before hit may have been left for the log.
                match log.append(&batch(log.size(), 1 + random.below(200))) {
                    Ok(committed) => acknowledged = committed.size,
                    Err(_) => break,
                }
                if round == 2 {
                    match fault {
                        0 => disk.crash_after(random.below(30)),
                        1 => disk.fail_sync(1 + random.below(12)),
                        2 => disk.set_room(Some((64 << 20) + random.below(40_000))),
                        _ => {}
                    }
                }
                match publication.advance() {
                    Ok(Some(signed)) => {
                        seen = Some(signed.clone());
                        outcomes[0] += 1;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        assert!(!error.is_conflict(), "seed {seed}, life {life}: {error:?}");
                        outcomes[1] += 1;
                        break;
                    }
                }
            }
            disk = if random.below(2) == 0 {
                disk.crash(seed + life)
            } else {
                disk.kill()
            };
            disk = disk.copy();
            let (log, report) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
            assert_eq!(report.loss, None, "seed {seed}, life {life}");
            assert!(log.size() >= acknowledged, "seed {seed}, life {life}");
            if let Some(seen) = &seen {
                // A checkpoint that was given away still is, or was followed by, what is published.
                let found = assert_published(&disk, &log.reader());
                assert!(found.checkpoint.size >= seen.checkpoint.size, "seed {seed}, life {life}");
                assert_eq!(log.reader().root_at(seen.checkpoint.size).unwrap(), seen.checkpoint.root);
                outcomes[2] += 1;
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}");
}

#[test]
fn a_proof_stands_alone_and_breaks_at_every_byte() {
    let disk = SimDisk::new();
    let mut log = ledger(&disk);
    fill(&mut log, &[300, 23]);
    let mut publication = publication(log.reader());
    let signed = publication.advance().unwrap().unwrap().clone();
    fill(&mut log, &[30]);
    for seq in [0, 5, 255, 256, 322] {
        let proof = log.reader().tlog_proof(seq, &signed).unwrap();
        let text = proof.to_string();
        assert_eq!(text.parse(), Ok(proof.clone()));
        let entry = log.reader().raw_entry(seq).unwrap();
        assert_eq!(proof.verify(&entry, &keys(), &Policy::default()).unwrap(), signed);
        let other = log.reader().raw_entry(seq + 1).unwrap();
        assert!(proof.verify(&other, &keys(), &Policy::default()).is_err());
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            let holds = String::from_utf8(damaged)
                .ok()
                .and_then(|text| text.parse::<TlogProof>().ok())
                .is_some_and(|proof| proof.verify(&entry, &keys(), &Policy::default()).is_ok());
            assert!(!holds, "entry {seq}, byte {at}");
        }
    }
    assert!(log.reader().tlog_proof(330, &signed).is_err(), "not published yet");
    let other = ledger(&SimDisk::new());
    assert!(other.reader().tlog_proof(0, &signed).is_err());
    let with_extra = TlogProof {
        extra: Some(b"anything".to_vec()),
        ..log.reader().tlog_proof(1, &signed).unwrap()
    };
    assert_eq!(with_extra.to_string().parse(), Ok(with_extra));
}

#[test]
fn cosignatures_go_to_the_checkpoint_that_they_are_of() {
    let disk = SimDisk::new();
    let mut log = ledger(&disk);
    fill(&mut log, &[9]);
    let mut publication = publication(log.reader());
    let text = publication.advance().unwrap().unwrap().note.text.clone();
    let witness = SignerKey::new("witness.example", KeyKind::Witness, [8; 32]).unwrap();
    publication.add_cosignatures(9, vec![witness.sign(&text, 77)]).unwrap();
    let policy = Policy::new(1, vec![witness.verifier().clone()]).unwrap();
    policy.check(&assert_published(&disk, &log.reader()).note).unwrap();
    fill(&mut log, &[1]);
    publication.advance().unwrap();
    assert!(publication.add_cosignatures(9, vec![witness.sign(&text, 77)]).is_err());
    policy.check(&assert_published(&disk, &log.reader()).note).unwrap_err();
}

/// A log whose first 30 entries are published, and which has grown since.
fn published_early(disk: &SimDisk) -> (Ledger<SimDisk>, Publication<SimDisk>, Note) {
    let mut log = ledger(disk);
    fill(&mut log, &[30]);
    let mut publication = publication(log.reader());
    let early = publication.advance().unwrap().unwrap().note.clone();
    fill(&mut log, &[270, 3]);
    (log, publication, early)
}

#[test]
fn what_is_published_is_verified_without_the_log() {
    let disk = SimDisk::new();
    let (_log, mut publication, early) = published_early(&disk);
    publication.advance().unwrap();
    let trust = Trust {
        keys: keys(),
        from: Some(early),
        witnesses: Policy::default(),
    };
    let verify = |disk: &SimDisk| verify_published(|path| disk.read(&format!("tlog/{path}")), &trust).unwrap();
    let report = verify(&disk);
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.entries, report.tiles, report.consistent_from), (303, 3, Some(30)));
    assert!(report.checkpoint.unwrap().signed_by.is_some());
    for path in tile::added(0, 303)
        .map(|tile| tile.file())
        .chain(["tlog/checkpoint".to_owned()])
    {
        let length = disk.len(&path).unwrap().unwrap() as usize;
        for at in (0..length).step_by(1 + length / 50) {
            let damaged = disk.copy();
            damaged.damage(&path, |bytes| bytes[at] ^= 1);
            assert!(!verify(&damaged).ok, "{path} byte {at}");
        }
        let missing = disk.copy();
        missing.remove(&path).unwrap();
        assert!(!verify(&missing).ok, "{path}");
    }
}

#[test]
fn the_format_is_still_the_one_that_was_frozen() {
    let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/audit/sample");
    let trust = Trust {
        keys: vec![
            std::fs::read_to_string(sample.join("vkey"))
                .unwrap()
                .trim_end()
                .parse()
                .unwrap(),
        ],
        from: Some(Note::parse(&std::fs::read(sample.join("earlier-checkpoint")).unwrap()).unwrap()),
        witnesses: Policy::default(),
    };
    let report = holdfast_ledger::verify(&sample, &trust).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(
        (report.entries, report.tiles, report.blobs, report.consistent_from),
        (6, 2, 1, Some(3))
    );
    // And what is written today is the same to the byte.
    let disk = SimDisk::new();
    let mut log = ledger(&disk);
    fill(&mut log, &[1, 2, 3]);
    let key = SignerKey::new("ledger.example/sample", KeyKind::Log, [7; 32]).unwrap();
    Publication::new(log.reader(), &key, 1, Vec::new())
        .unwrap()
        .advance()
        .unwrap();
    for path in disk
        .files()
        .iter()
        .filter(|path| ["log/", "blobs/", "tlog/"].iter().any(|dir| path.starts_with(dir)))
    {
        let frozen = std::fs::read(sample.join(path)).unwrap();
        assert!(disk.read(path).unwrap() == Some(frozen), "{path}");
    }
}

fn codes(report: &VerifyReport) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn verify_compares_everything_published_with_the_log() {
    let disk = SimDisk::new();
    let (mut log, mut publication, early) = published_early(&disk);
    let late = publication.advance().unwrap().unwrap().note.clone();
    fill(&mut log, &[9]);
    log.close().unwrap();
    let verify = |disk: &SimDisk, trust: &Trust| verify_on(disk, &small_segments(), trust, false).unwrap();
    let trust = Trust {
        keys: keys(),
        from: Some(early.clone()),
        witnesses: Policy::default(),
    };
    let report = verify(&disk, &trust);
    assert!(report.ok, "{:?}", report.findings);
    let checkpoint = report.checkpoint.clone().unwrap();
    assert_eq!(
        (report.entries, checkpoint.size, report.consistent_from),
        (312, 303, Some(30))
    );
    assert_eq!(checkpoint.signed_by, Some(keys()[0].to_string()));
    // A level 0 tile and bundle, full and partial, and one of level 1.
    assert_eq!(report.tiles, 5);
    // Without a key nothing is said about the signature, and nothing is wrong.
    let report = verify(&disk, &Trust::default());
    assert!(report.ok && report.checkpoint.unwrap().signed_by.is_none());

    // Partial tiles of earlier checkpoints are not needed any more.
    let needed: Vec<String> = tile::added(0, 303).map(|tile| tile.file()).collect();
    for path in &needed {
        for at in (0..disk.len(path).unwrap().unwrap() as usize).step_by(97) {
            let damaged = disk.copy();
            damaged.damage(path, |bytes| bytes[at] ^= 1);
            assert_eq!(codes(&verify(&damaged, &trust)), ["tile-damaged"], "{path} byte {at}");
        }
        let missing = disk.copy();
        missing.remove(path).unwrap();
        let report = verify(&missing, &trust);
        assert_eq!(
            (codes(&report), report.findings[0].file.as_str()),
            (vec!["tile-missing"], path.as_str())
        );
    }
    for at in 0..disk.len("tlog/checkpoint").unwrap().unwrap() as usize {
        let damaged = disk.copy();
        damaged.damage("tlog/checkpoint", |bytes| bytes[at] ^= 1);
        let report = verify(&damaged, &trust);
        assert!(codes(&report).iter().any(|code| code.starts_with("checkpoint-")), "byte {at}");
    }
    // Another key, an earlier checkpoint of another history, too few witnesses, an old copy of the log.
    let stranger = SignerKey::new("ledger.example/prod", KeyKind::Log, [6; 32]).unwrap();
    let strange = Trust {
        keys: vec![stranger.verifier().clone()],
        ..Trust::default()
    };
    assert_eq!(codes(&verify(&disk, &strange)), ["checkpoint-unsigned"]);
    let forged = SignedCheckpoint::sign(&key(), 30, [1; 32]).note;
    let report = verify(
        &disk,
        &Trust {
            from: Some(forged),
            ..trust.clone()
        },
    );
    assert_eq!((codes(&report), report.consistent_from), (vec!["claim-mismatch"], None));
    let witness = SignerKey::new("witness.example", KeyKind::Witness, [8; 32]).unwrap();
    let witnesses = Policy::new(1, vec![witness.verifier().clone()]).unwrap();
    assert_eq!(
        codes(&verify(
            &disk,
            &Trust {
                witnesses,
                ..trust.clone()
            }
        )),
        ["checkpoint-unwitnessed"]
    );
    let old = SimDisk::new();
    let mut log = ledger(&old);
    fill(&mut log, &[30, 100]);
    log.close().unwrap();
    let report = verify(
        &old,
        &Trust {
            from: Some(late.clone()),
            ..trust.clone()
        },
    );
    assert_eq!(codes(&report), ["acknowledged-lost", "claim-ahead"]);

    // And what a boot makes of a checkpoint that the log does not bear out.
    let options = Options {
        log_keys: keys(),
        ..small_segments()
    };
    old.create("tlog/checkpoint", late.to_string().as_bytes()).unwrap();
    let (_, boot) = Ledger::open_on(old.copy(), options.clone()).unwrap();
    assert_eq!(boot.loss.unwrap().acknowledged, 303);
    let forged = SignedCheckpoint::sign(&key(), 100, [1; 32]).note.to_string();
    old.create("tlog/checkpoint", forged.as_bytes()).unwrap();
    let (_, boot) = Ledger::open_on(old.copy(), options.clone()).unwrap();
    assert_eq!(boot.loss.unwrap().file, "tlog/checkpoint");
    // Unsigned, it is damage of the checkpoint and not of the log.
    old.damage("tlog/checkpoint", |bytes| bytes[20] ^= 1);
    let (_, boot) = Ledger::open_on(old.copy(), options).unwrap();
    assert_eq!((boot.loss, boot.ignored.len()), (None, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tile_paths_are_those_of_another_implementation(index: u64, level in 0u8..64, width in 1u16..=256, small in 0u64..2_000_000) {
        for index in [index, small] {
            let tile = Tile { kind: Kind::Hashes { level }, index, width };
            prop_assert_eq!(tile.to_string().parse(), Ok(tile));
            if level < 8 {
                let theirs = tlog_tiles::Tile::new(8, level, index, u32::from(width), false);
                prop_assert_eq!(tile.to_string(), theirs.path().replace("tile/8/", "tile/"));
            }
            let bundle = Tile { kind: Kind::Entries, ..tile };
            prop_assert_eq!(bundle.to_string().parse(), Ok(bundle));
        }
    }

    #[test]
    fn a_builder_taken_up_from_tiles_goes_on_as_the_one_that_wrote_them(size in 0u64..70_000, more in 0u64..600) {
        let disk = SimDisk::new();
        let mut builder = tile::Builder::default();
        let write = |tile: Tile, content: &[u8]| disk.create(&tile.file(), content);
        for n in 0..size {
            let entry = n.to_be_bytes();
            builder.push(&entry, leaf_hash(&entry), |tile, content| if tile.is_full() && n + 300 > size { write(tile, content) } else { Ok(()) }).unwrap();
        }
        builder.partials(write).unwrap();
        let mut restored = tile::Builder::restore(&disk, size).unwrap().unwrap();
        prop_assert_eq!((restored.size(), restored.root()), (size, builder.root()));
        let mut emitted = [Vec::new(), Vec::new()];
        for (builder, emitted) in [&mut builder, &mut restored].into_iter().zip(&mut emitted) {
            for n in size..size + more {
                builder.push(&n.to_be_bytes(), leaf_hash(&n.to_be_bytes()), |tile, content| { emitted.push((tile, content.to_vec())); Ok::<_, Infallible>(()) }).unwrap();
            }
            builder.partials(|tile, content| { emitted.push((tile, content.to_vec())); Ok::<_, Infallible>(()) }).unwrap();
        }
        prop_assert_eq!(&emitted[0], &emitted[1]);
        prop_assert_eq!(restored.root(), builder.root());
        prop_assert_eq!(merkle::root(&[]), merkle::empty_root());
    }
}
