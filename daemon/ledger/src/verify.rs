//! The offline verifier: every frame, every root, every entry's form and order, every blob and tile, the head, the snapshots
//! and the published checkpoint. It cuts nothing, and names the first damaged entry and what is still provable. It reads in pieces.

mod published;
mod signed;

pub use published::verify_published;

use crate::blobs::{self, BlobError};
use crate::boot::{self, Loss};
use crate::claim::{self, Claim, Source};
use crate::disk::{Disk, RealDisk};
use crate::head::{self, HEAD_FILE, Slot};
use crate::log::{LOG_DIR, LogError, path_of};
use crate::merkle::{Frontier, Hash, empty_root};
use crate::options::Options;
use crate::snapshot::{self, Found};
use crate::store::{LOCK_FILE, LedgerError};
use crate::tlog::note::{Note, VerifierKey};
use crate::tlog::publish::checkpoint_file;
use crate::tlog::rotation;
use crate::tlog::tile::{self, Builder, Kind, Tile};
use crate::tlog::witness::Policy;
use crate::walk::{Place, Step, Stop, has_commit_beyond, walk_segment};
use holdfast_core::entry::{Body, Entry};
use holdfast_core::ids::{Digest, hex};
use serde::Serialize;
use signed::{Keys, judge_checkpoint, judge_earlier, read_checkpoint, read_earlier};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const FINDINGS_MAX: usize = 100;

/// What whoever verifies knows from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The log's keys. Without one, the checkpoint's signature is not checked, and the report says so.
    pub keys: Vec<VerifierKey>,
    /// An earlier checkpoint, which the log must still contain.
    pub from: Option<Note>,
    pub witnesses: Policy,
}

/// The published checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointReport {
    pub origin: String,
    pub size: u64,
    /// The key, of those given or of those that the log itself replaced them by.
    pub signed_by: Option<String>,
    /// Witnesses, and the seconds at which they cosigned.
    pub cosigned: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Nothing was found.
    pub ok: bool,
    /// Entries 0 to `entries` - 1 are intact and proven by `root`.
    pub entries: u64,
    pub root: String,
    pub epoch: u64,
    /// Distinct blobs that entries name, and that are stored and whole.
    pub blobs: u64,
    /// Intact snapshots that the log bears out.
    pub snapshots: u64,
    /// Tiles and entry bundles that are the log's.
    pub tiles: u64,
    /// Entries of which only the hashes are published, as an entry allows. 0 when the log itself was verified.
    pub pruned: u64,
    pub checkpoint: Option<CheckpointReport>,
    /// Size of the earlier checkpoint, when the log contains it.
    pub consistent_from: Option<u64>,
    /// So many entries were acknowledged, at least, by what was written after them.
    pub acknowledged: u64,
    /// A daemon is writing to this directory: an unfinished tail is not a finding.
    pub live: bool,
    /// In the order of the log; the first one names the first damage.
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable word.
    pub code: &'static str,
    /// The entry concerned, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    pub message: String,
}

impl VerifyReport {
    fn find(&mut self, code: &'static str, seq: Option<u64>, file: &str, offset: Option<u64>, message: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                code,
                seq,
                file: file.into(),
                offset,
                message: message.into(),
            });
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Damage to something acknowledged, if there is any.
    pub fn loss(&self) -> Option<Loss> {
        let lost = self
            .findings
            .iter()
            .find(|finding| ["entry-damaged", "root-mismatch", "acknowledged-lost"].contains(&finding.code))?;
        Some(Loss {
            first_damaged_seq: lost.seq.unwrap_or(self.entries),
            file: lost.file.clone(),
            offset: lost.offset.unwrap_or(0),
            what: lost.message.clone(),
            acknowledged: self.acknowledged,
        })
    }

    /// The first entry that is damaged or missing.
    pub fn first_damaged(&self) -> Option<&Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.seq.is_some())
            .min_by_key(|finding| finding.seq)
    }
}

/// Verifies a directory, whether a daemon writes to it or not.
pub fn verify(dir: &Path, trust: &Trust) -> Result<VerifyReport, LedgerError> {
    if !dir.join(LOG_DIR).is_dir() && !dir.join(HEAD_FILE).is_file() {
        let source = io::Error::new(io::ErrorKind::NotFound, "there is no ledger in this directory");
        return Err(LedgerError::Open {
            dir: dir.to_owned(),
            source,
        });
    }
    verify_on(&RealDisk::existing(dir), &Options::default(), trust, is_live(dir))
}

fn is_live(dir: &Path) -> bool {
    let Ok(lock) = std::fs::File::open(dir.join(LOCK_FILE)) else {
        return false;
    };
    matches!(
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared),
        Err(rustix::io::Errno::WOULDBLOCK)
    )
}

pub fn verify_on<D: Disk>(disk: &D, options: &Options, trust: &Trust, live: bool) -> Result<VerifyReport, LedgerError> {
    verify_paced(disk, options, trust, live, &mut |_| {})
}

/// `pace` hears of the bytes read, and may take its time.
pub(crate) fn verify_paced<D: Disk>(
    disk: &D,
    options: &Options,
    trust: &Trust,
    live: bool,
    pace: &mut dyn FnMut(u64),
) -> Result<VerifyReport, LedgerError> {
    let mut report = VerifyReport {
        epoch: 1,
        live,
        ..VerifyReport::default()
    };
    // What makes claims is read before the log: a writer at work can only be ahead of it.
    let mut claims = read_claims(disk, &mut report)?;
    let published = read_checkpoint(disk, &mut claims, &mut report)?;
    read_earlier(trust, &mut claims, &mut report);
    claim::settle(&mut claims, 0, empty_root());
    report.acknowledged = claims.iter().map(|claim| claim.size).max().unwrap_or(0);
    let mut checks = Checks {
        entries: Entries::new(trust),
        tiles: TileCheck {
            disk: disk.clone(),
            size: published.as_ref().map_or(0, |(checkpoint, _)| checkpoint.size),
            builder: Builder::default(),
            good: 0,
            findings: Vec::new(),
        },
        pace,
    };
    let mut frontier = Frontier::default();
    let files = boot::log_files(disk)?;
    let mut stopped = false;
    for (index, file) in files.iter().enumerate() {
        let path = path_of(file);
        let stop = verify_segment(disk, &path, &mut frontier, &mut claims, &mut checks, &mut report).map_err(|source| {
            LogError::Read {
                path: path.clone(),
                source,
            }
        })?;
        if let Some((committed_bytes, stop)) = stop {
            let later_segments = files.len() - index - 1;
            report_stop(
                disk,
                &path,
                committed_bytes,
                &stop,
                later_segments,
                frontier.size(),
                &mut report,
            )?;
            stopped = true;
            break;
        }
    }
    let Checks { entries, tiles, pace } = checks;
    report.entries = frontier.size();
    report.root = hex(&frontier.root());
    if !stopped && report.acknowledged > report.entries {
        let message = format!(
            "{} entries were acknowledged, {} are here",
            report.acknowledged, report.entries
        );
        report.find("acknowledged-lost", Some(report.entries), LOG_DIR, None, message);
    }
    if let Some((checkpoint, note)) = published {
        judge_checkpoint(checkpoint, &checkpoint_file(), &note, trust, &entries.keys, &mut report);
    }
    judge_earlier(trust, &entries.keys, &mut report);
    report.tiles = tiles.good;
    let is_pruned = |tile: &Tile| tile.kind == Kind::Entries && tile.entries().end <= entries.bundles_from;
    for (code, tile, message) in tiles.findings {
        if code == "tile-missing" && is_pruned(&tile) {
            continue;
        }
        report.find(code, None, &tile.file(), None, message);
    }
    for finding in entries
        .findings
        .into_iter()
        .filter(|finding| finding.seq.is_none_or(|seq| seq < frontier.size()))
    {
        report.find(finding.code, finding.seq, &finding.file, finding.offset, finding.message);
    }
    judge_claims(&claims, &mut report);
    verify_blobs(disk, options, &entries.named, frontier.size(), pace, &mut report);
    report.findings.sort_by_key(|finding| finding.seq.unwrap_or(u64::MAX));
    report.ok = report.findings.is_empty();
    Ok(report)
}

fn read_claims<D: Disk>(disk: &D, report: &mut VerifyReport) -> Result<Vec<Claim>, LedgerError> {
    let reading = |path: &str| {
        let path = path.to_owned();
        move |source| LogError::Read { path, source }
    };
    let slots = head::slots(disk).map_err(reading(HEAD_FILE))?;
    for (number, slot) in slots.iter().enumerate() {
        // A slot is within one sector: a crash does not tear it.
        if *slot == Slot::Damaged {
            report.find(
                "head-damaged",
                None,
                HEAD_FILE,
                Some(number as u64 * 512),
                format!("slot {number} is damaged"),
            );
        }
    }
    let mut claims = claim::of_heads(&slots);
    for name in snapshot::names(disk).map_err(reading(snapshot::SNAPSHOT_DIR))? {
        let path = snapshot::path_of(&name);
        match snapshot::read(disk, &name).map_err(reading(&path))? {
            Found::Intact(snapshot) => claims.push(Claim::new(Source::Snapshot, &path, snapshot.size, snapshot.root)),
            Found::Damaged => report.find(
                "snapshot-damaged",
                None,
                &path,
                None,
                "the snapshot is damaged; a boot ignores it",
            ),
            Found::Gone => {}
        }
    }
    Ok(claims)
}

/// Compares the published tiles with those that the log makes.
struct TileCheck<D> {
    disk: D,
    /// Of the published checkpoint.
    size: u64,
    builder: Builder,
    good: u64,
    findings: Vec<(&'static str, Tile, String)>,
}

impl<D: Disk> TileCheck<D> {
    fn entry(&mut self, payload: &[u8], leaf: Hash) {
        let Self {
            disk,
            size,
            builder,
            good,
            findings,
        } = self;
        if builder.size() >= *size {
            return;
        }
        let mut compare = |tile: Tile, expected: &[u8]| {
            let entries = tile.entries();
            let of = format!("of entries {} to {}", entries.start, entries.end - 1);
            match tile::read(disk, &tile) {
                Ok(Some(found)) if found == expected => *good += 1,
                Ok(None) if !disk.len(&tile.file()).is_ok_and(|length| length.is_some()) => {
                    findings.push(("tile-missing", tile, format!("the tile {of} is missing")));
                }
                Ok(_) => findings.push(("tile-damaged", tile, format!("the tile {of} is not what the log makes it"))),
                Err(error) => findings.push(("tile-damaged", tile, format!("the tile {of} cannot be read: {error}"))),
            }
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = builder.push(payload, leaf, &mut compare);
        if builder.size() == *size {
            let Ok(()) = builder.partials(&mut compare);
        }
    }
}

/// What is done with each entry of the log.
struct Checks<'a, D> {
    entries: Entries,
    tiles: TileCheck<D>,
    pace: &'a mut dyn FnMut(u64),
}

struct Entries {
    keys: Keys,
    /// The newest that an entry names.
    epoch: u64,
    /// Bundles below need not be there.
    bundles_from: u64,
    last_t: u64,
    /// Blob to the first entry that names it.
    named: BTreeMap<Digest, u64>,
    /// Kept back until it is known whether the entry is committed.
    findings: Vec<Finding>,
}

impl Entries {
    fn new(trust: &Trust) -> Self {
        Self {
            keys: Keys::new(&trust.keys),
            epoch: 1,
            bundles_from: 0,
            last_t: 0,
            named: BTreeMap::new(),
            findings: Vec::new(),
        }
    }
}

fn verify_segment<D: Disk>(
    disk: &D,
    path: &str,
    frontier: &mut Frontier,
    claims: &mut [Claim],
    checks: &mut Checks<'_, D>,
    report: &mut VerifyReport,
) -> io::Result<Option<(u64, Stop)>> {
    let sizes = claim::sizes(claims);
    let mut pending: Vec<(u64, Hash)> = Vec::new();
    let from = Place {
        first: frontier.size(),
        offset: 0,
    };
    let walked = walk_segment(disk, path, from, frontier, &sizes, |step| match step {
        Step::Entry {
            seq,
            offset,
            payload,
            leaf,
        } => {
            checks.tiles.entry(payload, leaf);
            verify_entry(payload, seq, path, offset, &mut checks.entries);
            (checks.pace)(payload.len() as u64);
        }
        Step::Claimed { frontier } => pending.push((frontier.size(), frontier.root())),
        Step::Commit { .. } => {}
    })?;
    for (size, root) in pending.into_iter().filter(|(size, _)| *size <= frontier.size()) {
        claim::settle(claims, size, root);
    }
    report.epoch = report.epoch.max(walked.epoch);
    Ok(walked.stop.map(|stop| (walked.committed_bytes, stop)))
}

fn verify_entry(payload: &[u8], seq: u64, path: &str, offset: u64, entries: &mut Entries) {
    let mut find = |code, message| {
        if entries.findings.len() < FINDINGS_MAX {
            entries.findings.push(Finding {
                code,
                seq: Some(seq),
                file: path.into(),
                offset: Some(offset),
                message,
            });
        }
    };
    let entry = match Entry::parse_canonical(payload) {
        Ok(entry) => entry,
        Err(error) => return find("entry-form", format!("entry {seq}: {error}")),
    };
    if entry.seq != seq {
        find("entry-order", format!("entry {seq} says it is {}", entry.seq));
    }
    if entry.t < entries.last_t {
        find(
            "time-back",
            format!("entry {seq}: ledger time goes back from {} to {}", entries.last_t, entry.t),
        );
    }
    if let Some(cause) = entry.because.iter().find(|cause| **cause >= seq) {
        find(
            "cause-order",
            format!("entry {seq} names entry {cause} as its cause, which comes after it"),
        );
    }
    entries.last_t = entries.last_t.max(entry.t);
    if let Some(note) = rotation::note_of(&entry)
        && let Err(error) = entries.keys.change(seq, note)
    {
        find(
            "entry-form",
            format!("entry {seq}: its change of keys does not hold: {error}"),
        );
    }
    match &entry.body {
        Body::Term(term) => entries.epoch = entries.epoch.max(term.epoch),
        Body::Retention(retention) => entries.bundles_from = entries.bundles_from.max(retention.bundles_from),
        _ => {}
    }
    for digest in entry.blobs.into_values() {
        entries.named.entry(digest).or_insert(seq);
    }
}

fn report_stop<D: Disk>(
    disk: &D,
    path: &str,
    committed_bytes: u64,
    stop: &Stop,
    later_segments: usize,
    size: u64,
    report: &mut VerifyReport,
) -> Result<(), LedgerError> {
    let beyond = has_commit_beyond(disk, path, committed_bytes, size).map_err(|source| LogError::Read {
        path: path.into(),
        source,
    })?;
    if later_segments == 0 && !beyond && report.acknowledged <= size {
        if !report.live {
            let message = format!(
                "an unacknowledged tail after entry {}: {}; a boot cuts it",
                size as i128 - 1,
                stop.what
            );
            report.find("torn-tail", Some(size), path, Some(committed_bytes), message);
        }
        return Ok(());
    }
    let provable = if size == 0 {
        "nothing before it is provable".to_owned()
    } else {
        format!("entries 0 to {} are intact and provable", size - 1)
    };
    let code = if stop.what.contains("root") {
        "root-mismatch"
    } else {
        "entry-damaged"
    };
    report.acknowledged = report.acknowledged.max(stop.seq + 1);
    let rest = if later_segments > 0 {
        format!("; {later_segments} later segments cannot be proven from here")
    } else {
        String::new()
    };
    report.find(
        code,
        Some(stop.seq),
        path,
        Some(stop.offset),
        format!("entry {}: {}; {provable}{rest}", stop.seq, stop.what),
    );
    Ok(())
}

fn judge_claims(claims: &[Claim], report: &mut VerifyReport) {
    for claim in claims {
        match claim.found {
            Some(root) if root == claim.root => match claim.source {
                Source::Snapshot => report.snapshots += 1,
                Source::Given => report.consistent_from = Some(claim.size),
                Source::Head | Source::Checkpoint => {}
            },
            Some(_) => report.find(
                "claim-mismatch",
                None,
                &claim.file,
                None,
                format!("it names another root for {} entries than the log has", claim.size),
            ),
            None if claim.size <= report.entries => {
                report.find(
                    "claim-mismatch",
                    None,
                    &claim.file,
                    None,
                    format!("it is of {} entries, where no batch of the log ends", claim.size),
                );
            }
            None => report.find(
                "claim-ahead",
                None,
                &claim.file,
                None,
                format!("it is of {} entries; {} are provable", claim.size, report.entries),
            ),
        }
    }
}

fn verify_blobs<D: Disk>(
    disk: &D,
    options: &Options,
    named: &BTreeMap<Digest, u64>,
    size: u64,
    pace: &mut dyn FnMut(u64),
    report: &mut VerifyReport,
) {
    for (digest, seq) in named.iter().filter(|(_, seq)| **seq < size) {
        // A cap set lower later does not make older blobs wrong.
        match blobs::get(disk, digest, options.blob_max_bytes.max(1 << 30)) {
            Ok(bytes) => {
                report.blobs += 1;
                pace(bytes.len() as u64);
            }
            Err(error) => {
                let code = if matches!(error, BlobError::Missing(_)) {
                    "blob-missing"
                } else {
                    "blob-damaged"
                };
                report.find(
                    code,
                    Some(*seq),
                    &blobs::path_of(digest),
                    None,
                    format!("{error}; entry {seq} names it"),
                );
            }
        }
    }
}
