//! Copies a ledger while a daemon writes to it: a prefix that is whole, only what is new since the last time. A restore is the
//! same copy the other way, after everything that is known from elsewhere was asked whether the backup is an old one.

use crate::blobs::{self, BlobError};
use crate::disk::{self, Disk, RealDisk};
use crate::frame::COMMIT_BYTES;
use crate::head::{self, HEAD_FILE, Head};
use crate::log::{self, LOG_DIR, Published, path_of, read_lock};
use crate::merkle::Hash;
use crate::options::Options;
use crate::reader::Reader;
use crate::snapshot;
use crate::store::{Ledger, LedgerError};
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::note::Note;
use crate::tlog::publish::checkpoint_file;
use crate::tlog::tile;
use crate::verify::{Finding, Trust, VerifyReport, verify};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

const PIECE_BYTES: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("reading {path} of the ledger")]
    Read { path: String, source: io::Error },
    #[error("writing {path} of the copy")]
    Write { path: String, source: io::Error },
    #[error("the copy has {copy} entries and the ledger {ledger}: the copy is the newer one")]
    CopyIsNewer { copy: u64, ledger: u64 },
    #[error("the copy in that directory is of another ledger, or was changed; nothing was written")]
    OtherLog,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("{} has a ledger already; a restore writes into an empty directory only", .0.display())]
    NotEmpty(PathBuf),
    #[error("the backup is damaged, and is not restored: {}", .0.first().map_or("", |finding| finding.message.as_str()))]
    Damaged(Vec<Finding>),
    #[error(
        "the backup has {size} entries, and {who} knows of {known}: it is an old one; entries are missing from it that were acknowledged"
    )]
    Stale { size: u64, who: String, known: u64 },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct BackupReport {
    /// What the copy holds now.
    pub size: u64,
    #[serde(skip)]
    pub root: Hash,
    pub new_entries: u64,
    pub new_blobs: u64,
    pub new_tiles: u64,
}

fn reading(path: &str) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Read { path, source }
}

fn writing(path: &str) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Write { path, source }
}

fn replace<E: Disk>(to: &E, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
    disk::replace(to, path, bytes).map_err(|error| writing(path)(error.source))
}

/// Brings the copy in `to` up to what is committed now. It counts as far as its head says, which is written when all before it
/// is on the disk; what an interrupted run left above that is written again.
pub fn backup<D: Disk, E: Disk>(log: &Reader<D>, to: &E) -> Result<BackupReport, BackupError> {
    // Before the log: it must not be ahead of it.
    let checkpoint = log.disk.read(&checkpoint_file()).map_err(reading(&checkpoint_file()))?;
    let (size, root, segments) = {
        let Published {
            segments, size, root, ..
        } = &*read_lock(&log.shared);
        let parts = segments
            .iter()
            .map(|segment| (path_of(&segment.file), segment.first, segment.bytes));
        (*size, *root, parts.collect::<Vec<_>>())
    };
    let head = head::newest(&head::slots(to).map_err(reading(HEAD_FILE))?);
    let copied_bytes = copied_of(log, to, &head, size)?;
    let mut new_blobs = 0;
    for digest in named_blobs(log, head.size, size)? {
        let path = blobs::path_of(&digest);
        if to.len(&path).map_err(reading(&path))?.is_none() {
            replace(to, &path, &blobs::get(&log.disk, &digest, u64::MAX)?)?;
            new_blobs += 1;
        }
    }
    for (path, first, bytes) in &segments {
        match &copied_bytes {
            Some((last, offset)) if path == last => copy_bytes(log, to, path, *offset, *bytes)?,
            _ if *first < head.size => {}
            _ => copy_bytes(log, to, path, 0, *bytes)?,
        }
    }
    if size == 0 {
        return Ok(BackupReport::default());
    }
    to.sync_dir(LOG_DIR).map_err(writing(LOG_DIR))?;
    let next = Head {
        number: head.number + 1,
        epoch: epoch_of(log)?,
        size,
        root,
        clean: false,
    };
    head::write(to, &next)
        .and_then(|()| to.sync_data(HEAD_FILE))
        .and_then(|()| to.sync_dir(""))
        .map_err(writing(HEAD_FILE))?;
    let new_tiles = copy_tiles(log, to, checkpoint.as_deref())?;
    copy_snapshot(log, to, size)?;
    Ok(BackupReport {
        size,
        root,
        new_entries: size - head.size,
        new_blobs,
        new_tiles,
    })
}

fn epoch_of<D: Disk>(log: &Reader<D>) -> Result<u64, BackupError> {
    Ok(head::newest(&head::slots(&log.disk).map_err(reading(HEAD_FILE))?).epoch)
}

/// The segment that the copy ends in, and where; what lies behind that is removed. None when the copy is empty.
fn copied_of<D: Disk, E: Disk>(log: &Reader<D>, to: &E, head: &Head, size: u64) -> Result<Option<(String, u64)>, BackupError> {
    let files = to.list(LOG_DIR).map_err(reading(LOG_DIR))?;
    let paths: Vec<String> = files.iter().map(|file| path_of(file)).collect();
    if head.size > size {
        return Err(BackupError::CopyIsNewer {
            copy: head.size,
            ledger: size,
        });
    }
    let end = match head.size {
        0 => None,
        _ => Some(log::commit_end(&log.disk, &log.shared, head.size).map_err(LedgerError::from)?),
    };
    let Some((path, offset)) = end.map(|found| found.ok_or(BackupError::OtherLog)).transpose()? else {
        for path in &paths {
            to.remove(path).map_err(writing(path))?;
        }
        return Ok(None);
    };
    // The commit there holds the root of everything before it.
    let at = offset.saturating_sub(COMMIT_BYTES as u64);
    let is_there = paths.contains(&path) && to.len(&path).map_err(reading(&path))?.is_some_and(|bytes| bytes >= offset);
    let same = is_there
        && to.read_at(&path, at, COMMIT_BYTES).map_err(reading(&path))?
            == log.disk.read_at(&path, at, COMMIT_BYTES).map_err(reading(&path))?;
    if !same {
        return Err(BackupError::OtherLog);
    }
    to.truncate(&path, offset).map_err(writing(&path))?;
    for later in paths.iter().filter(|other| **other > path) {
        to.remove(later).map_err(writing(later))?;
    }
    Ok(Some((path, offset)))
}

fn named_blobs<D: Disk>(log: &Reader<D>, from: u64, to: u64) -> Result<BTreeSet<holdfast_core::ids::Digest>, BackupError> {
    let mut named = BTreeSet::new();
    for entry in log.iter(from, to) {
        named.extend(entry?.blobs.into_values());
    }
    Ok(named)
}

fn copy_bytes<D: Disk, E: Disk>(log: &Reader<D>, to: &E, path: &str, from: u64, end: u64) -> Result<(), BackupError> {
    let mut at = from;
    while at < end {
        let piece = log
            .disk
            .read_at(path, at, PIECE_BYTES.min(end - at) as usize)
            .map_err(reading(path))?;
        if piece.is_empty() {
            return Err(reading(path)(io::ErrorKind::UnexpectedEof.into()));
        }
        to.append(path, &piece).map_err(writing(path))?;
        at += piece.len() as u64;
    }
    to.sync_data(path).map_err(writing(path))
}

/// Tiles and then the checkpoint, if all of them can be had.
fn copy_tiles<D: Disk, E: Disk>(log: &Reader<D>, to: &E, checkpoint: Option<&[u8]>) -> Result<u64, BackupError> {
    let parsed = checkpoint.and_then(|bytes| Some((bytes, Checkpoint::parse(&Note::parse(bytes).ok()?.text).ok()?)));
    let Some((bytes, Checkpoint { size, .. })) = parsed else {
        return Ok(0);
    };
    let copied = tile::published_size(to);
    let mut new_tiles = 0;
    for tile in tile::added(copied, size) {
        let path = tile.file();
        let Some(content) = tile::read(&log.disk, &tile).map_err(reading(&path))? else {
            if tile.kind == tile::Kind::Entries && tile.is_full() {
                // Pruned, or to be made again from the log: `verify` knows which.
                continue;
            }
            tracing::warn!(%tile, "a tile is missing; the copy goes without newer ones");
            return Ok(new_tiles);
        };
        replace(to, &path, &content)?;
        new_tiles += 1;
    }
    replace(to, &checkpoint_file(), bytes)?;
    for full in tile::added(copied, size).filter(tile::Tile::is_full) {
        tile::remove_partials(to, &full).map_err(writing(&full.file()))?;
    }
    Ok(new_tiles)
}

fn copy_snapshot<D: Disk, E: Disk>(log: &Reader<D>, to: &E, size: u64) -> Result<(), BackupError> {
    let dir = snapshot::SNAPSHOT_DIR;
    for name in snapshot::names(&log.disk).map_err(reading(dir))?.iter().rev() {
        let path = snapshot::path_of(name);
        match snapshot::read(&log.disk, name).map_err(reading(&path))? {
            snapshot::Found::Intact(found) if found.size <= size => {
                return snapshot::write(to, &found).map_err(|error| writing(&path)(error.source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Somebody outside who knows how far the ledger had come: a witness, a pinned checkpoint, a target's fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub who: String,
    pub size: u64,
}

/// Findings that a restore mends, or that are not the ledger's.
const MENDED: [&str; 5] = [
    "tile-missing",
    "tile-damaged",
    "snapshot-damaged",
    "head-damaged",
    "checkpoint-unwitnessed",
];

/// Copies a backup into an empty directory, after verifying it and asking everything that is known; then verifies the copy.
/// `trust.from` is the newest checkpoint that was kept elsewhere.
pub fn restore(from: &Path, to: &Path, trust: &Trust, known: &[Known]) -> Result<VerifyReport, BackupError> {
    if to.join(LOG_DIR).exists() || to.join(HEAD_FILE).exists() {
        return Err(BackupError::NotEmpty(to.to_owned()));
    }
    let report = verify(from, trust)?;
    if let Some(Known { who, size }) = known
        .iter()
        .filter(|known| known.size > report.entries)
        .max_by_key(|known| known.size)
    {
        return Err(BackupError::Stale {
            size: report.entries,
            who: who.clone(),
            known: *size,
        });
    }
    refuse_damage(&report)?;
    let (ledger, _) = Ledger::open_read_only(from, Options::default())?;
    let disk = RealDisk::create(to).map_err(writing("."))?;
    backup(&ledger.reader(), &disk)?;
    let report = verify(to, trust)?;
    refuse_damage(&report)?;
    Ok(report)
}

fn refuse_damage(report: &VerifyReport) -> Result<(), BackupError> {
    let damage: Vec<Finding> = report
        .findings
        .iter()
        .filter(|finding| !MENDED.contains(&finding.code))
        .cloned()
        .collect();
    if damage.is_empty() {
        Ok(())
    } else {
        Err(BackupError::Damaged(damage))
    }
}
