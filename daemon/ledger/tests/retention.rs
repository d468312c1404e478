//! Bundles that are not published any more: what is left still proves everything, and nothing else may be missing.

mod common;

use common::{entry, fill, small_segments};
use holdfast_core::entry::{Body, Retention};
use holdfast_core::ids::Digest;
use holdfast_ledger::backup::backup;
use holdfast_ledger::disk::Disk;
use holdfast_ledger::tlog::note::{KeyKind, SignerKey};
use holdfast_ledger::tlog::proof::TlogProof;
use holdfast_ledger::tlog::publish::Publication;
use holdfast_ledger::tlog::witness::Policy;
use holdfast_ledger::{Batch, Ledger, Reader, SimDisk, Trust, VerifyReport, load_state, verify_on, verify_published};

fn key() -> SignerKey {
    SignerKey::new("ledger.example/prod", KeyKind::Log, [5; 32]).unwrap()
}

fn publication(log: Reader<SimDisk>) -> Publication<SimDisk> {
    Publication::new(log, &key(), 1, Vec::new()).unwrap()
}

fn verify(disk: &SimDisk) -> [VerifyReport; 2] {
    let trust = Trust {
        keys: vec![key().verifier().clone()],
        ..Trust::default()
    };
    let whole = verify_on(disk, &small_segments(), &trust, false).unwrap();
    let published = verify_published(|path| disk.read(&format!("tlog/{path}")), &trust).unwrap();
    [whole, published]
}

fn bundles(disk: &SimDisk) -> Vec<String> {
    let files = disk.files();
    let bundles = files.iter().filter_map(|path| path.strip_prefix("tlog/tile/entries/"));
    bundles.map(str::to_owned).collect()
}

fn say_retention(log: &mut Ledger<SimDisk>, bundles_from: u64) -> u64 {
    let seq = log.size();
    let mut said = entry(seq);
    said.blobs.clear();
    said.body = Body::Retention(Retention {
        bundles_from,
        export: Digest::of(b"an export"),
    });
    let batch = Batch {
        entries: vec![said],
        blobs: Vec::new(),
    };
    log.append(&batch).unwrap();
    seq
}

#[test]
fn pruned_bundles_are_proven_by_their_hashes() {
    let disk = SimDisk::new();
    let (mut log, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    fill(&mut log, &[300, 300, 300]);
    let mut publication_ = publication(log.reader());
    let signed = publication_.advance().unwrap().unwrap().clone();
    let exported: TlogProof = log.reader().tlog_proof(77, &signed).unwrap();
    let bytes = log.reader().raw_entry(77).unwrap();
    assert_eq!(bundles(&disk), ["000", "001", "002", "003.p/132"]);

    // Given before the entry is committed, and nothing goes before it is.
    publication_.retention().keep_from(900, 512);
    publication_.advance().unwrap();
    assert_eq!(bundles(&disk).len(), 4);
    assert_eq!(say_retention(&mut log, 512), 900);
    publication_.advance().unwrap();
    fill(&mut log, &[9]);
    publication_.advance().unwrap();
    assert!(
        bundles(&disk)
            .iter()
            .all(|bundle| bundle.starts_with("002") || bundle.starts_with("003.p/")),
        "{:?}",
        bundles(&disk)
    );
    let [whole, published] = verify(&disk);
    assert!(whole.ok && published.ok, "{:?} {:?}", whole.findings, published.findings);
    assert_eq!(
        (whole.entries, whole.pruned, published.entries, published.pruned),
        (910, 0, 910, 512)
    );
    // What was exported is proven as before, and can be proven anew.
    let policy = Policy::default();
    exported.verify(&bytes, &[key().verifier().clone()], &policy).unwrap();
    let anew = publication_.published().unwrap().clone();
    let proof = log.reader().tlog_proof(77, &anew).unwrap();
    proof.verify(&bytes, &[key().verifier().clone()], &policy).unwrap();

    // A copy has no more, and is whole.
    let copy = SimDisk::new();
    backup(&log.reader(), &copy).unwrap();
    assert!(!bundles(&copy).contains(&"000".to_owned()));
    let [whole, published] = verify(&copy);
    assert!(whole.ok && published.ok, "{:?} {:?}", whole.findings, published.findings);
    drop(publication_);
    drop(log);

    // The next daemon knows it from the log; tiles made anew do not bring bundles back.
    disk.remove("tlog/tile/0/001").unwrap();
    let (mut log, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    let (state, _) = load_state(&mut log).unwrap();
    assert_eq!(state.bundles_from, 512);
    let mut next = publication(log.reader()).without_bundles_below(state.bundles_from);
    fill(&mut log, &[120]);
    next.advance().unwrap();
    assert!(!bundles(&disk).contains(&"000".to_owned()) && bundles(&disk).contains(&"003".to_owned()));
    let [whole, published] = verify(&disk);
    assert!(whole.ok && published.ok, "{:?} {:?}", whole.findings, published.findings);

    // No more than the entry allows may be missing, and hashes may not be touched.
    disk.remove("tlog/tile/entries/002").unwrap();
    let [whole, published] = verify(&disk);
    assert_eq!(
        (whole.findings[0].code, published.findings[0].code),
        ("tile-missing", "entry-damaged")
    );
    assert_eq!(published.findings[0].seq, Some(512));
    for at in [0, 77 * 32 + 3, 255 * 32] {
        let damaged = disk.copy();
        damaged.damage("tlog/tile/0/000", |content| content[at] ^= 1);
        for report in verify(&damaged) {
            let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code).collect();
            assert!(
                codes.contains(&"tile-damaged") || codes.contains(&"claim-mismatch"),
                "byte {at}: {codes:?}"
            );
        }
    }
}

#[test]
fn a_bundle_that_no_entry_gives_up_is_missed() {
    let disk = SimDisk::new();
    let (mut log, _) = Ledger::open_on(disk.clone(), small_segments()).unwrap();
    fill(&mut log, &[600]);
    publication(log.reader()).advance().unwrap();
    disk.remove("tlog/tile/entries/000").unwrap();
    let [whole, published] = verify(&disk);
    assert_eq!(
        (whole.findings[0].code, published.findings[0].code),
        ("tile-missing", "entry-damaged")
    );
    assert_eq!((published.findings[0].seq, published.pruned), (Some(0), 0));
}
