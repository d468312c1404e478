//! A new epoch: how a log goes on after something acknowledged was lost, or after an old copy of it was put in its place. What
//! is intact is kept, what is left of the rest is set aside, and a segment with the next epoch's number begins with the entry
//! that says who decided so. The name of the log changes with its epoch, so that no name ever vouches for two histories.

use crate::disk::{self, ASIDE, Disk, RealDisk};
use crate::frame::{self, COMMIT_BYTES, Commit, HEADER_BYTES, Header};
use crate::head::HEAD_FILE;
use crate::log::{LOG_DIR, LogError, path_of};
use crate::mark;
use crate::merkle::leaf_hash;
use crate::options::Options;
use crate::snapshot;
use crate::store::{BootReport, Ledger, LedgerError, lock};
use crate::tlog::publish::checkpoint_file;
use crate::tlog::tile;
use crate::walk::file_of;
use holdfast_core::entry::Entry;
use std::io;
use std::path::Path;

/// What an epoch left that cannot be proven any more, by its number.
pub const LOST_DIR: &str = "lost";
const PIECE_BYTES: usize = 4 << 20;

fn lost_path(epoch: u64, path: &str) -> String {
    format!("{LOST_DIR}/{epoch}/{path}")
}

/// Written before anything is changed: while the log is still of that epoch, a new one was begun and is not there yet.
fn why_path(epoch: u64) -> String {
    lost_path(epoch, "why")
}

pub(crate) fn is_half_begun<D: Disk>(disk: &D, epoch: u64) -> io::Result<bool> {
    Ok(disk.len(&why_path(epoch))?.is_some())
}

fn reading(path: &str) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Read { path, source }
}

fn writing(path: &str) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Write { path, source }
}

/// Begins the epoch after the present one in a directory that no daemon uses; after an interruption it is called again.
/// `command` is the first entry of the new epoch, numbered with the first entry that is given up.
pub fn begin_epoch(dir: &Path, options: &Options, command: &Entry) -> Result<BootReport, LedgerError> {
    let disk = RealDisk::existing(dir);
    let _lock = lock(dir)?;
    begin_epoch_on(&disk, options, command)
}

pub fn begin_epoch_on<D: Disk>(disk: &D, options: &Options, command: &Entry) -> Result<BootReport, LedgerError> {
    let (ledger, report) = Ledger::open_read_only_on(disk.sibling(), options.clone())?;
    let size = report.size;
    if command.seq != size {
        return Err(LogError::Order {
            expected: size,
            found: command.seq,
        }
        .into());
    }
    let entry = command
        .to_bytes()
        .map_err(|source| LedgerError::Entry { seq: size, source })?;
    let kept = ledger.log.last_segment();
    set_aside(disk, &report, kept.as_ref())?;

    let mut tree = ledger.log.frontier().clone();
    tree.push(leaf_hash(&entry));
    let mut bytes = Vec::with_capacity(entry.len() + HEADER_BYTES + COMMIT_BYTES + frame::FRAME_HEAD_BYTES);
    let epoch = report.epoch + 1;
    bytes.extend_from_slice(&Header { epoch, first: size }.to_bytes());
    frame::put_entry(&mut bytes, &entry);
    let (before, root) = (size, tree.root());
    frame::put_commit(
        &mut bytes,
        &Commit {
            before,
            size: size + 1,
            root,
        },
    );
    let path = path_of(&file_of(size));
    let aside = format!("{path}{ASIDE}");
    disk.create(&aside, &bytes)
        .and_then(|()| disk.sync_data(&aside))
        .map_err(writing(&aside))?;

    for file in log_files(disk)? {
        let path = path_of(&file);
        match &kept {
            Some((last, keep_bytes)) if file == *last => disk
                .truncate(&path, *keep_bytes)
                .and_then(|()| disk.sync_data(&path))
                .map_err(writing(&path))?,
            Some((last, _)) if file < *last => {}
            _ => disk.remove(&path).map_err(writing(&path))?,
        }
    }
    disk.sync_dir(LOG_DIR).map_err(writing(LOG_DIR))?;
    // From here on the log is of the new epoch; opening it does what is left.
    disk.rename(&aside, &path)
        .and_then(|()| disk.sync_dir(LOG_DIR))
        .map_err(writing(&path))?;
    drop(ledger);
    let (ledger, report) = Ledger::open_on(disk.sibling(), options.clone())?;
    ledger.close()?;
    Ok(report)
}

fn log_files<D: Disk>(disk: &D) -> Result<Vec<String>, LogError> {
    crate::boot::log_files(disk)
}

/// Copies of everything that is about to be changed. What was copied before an interruption stays as it is.
fn set_aside<D: Disk>(disk: &D, report: &BootReport, kept: Option<&(String, u64)>) -> Result<(), LogError> {
    let epoch = report.epoch;
    let why = match &report.loss {
        Some(loss) => format!("{}, at byte {} of {}\n", loss.what, loss.offset, loss.file),
        None => "the log was whole, and an old copy\n".to_owned(),
    };
    let mut paths = Vec::new();
    for file in log_files(disk)? {
        let path = path_of(&file);
        let is_changed = match kept {
            Some((last, keep_bytes)) if file == *last => disk.len(&path).map_err(reading(&path))? > Some(*keep_bytes),
            Some((last, _)) => file > *last,
            None => true,
        };
        if is_changed {
            paths.push(path);
        }
    }
    paths.extend([HEAD_FILE.to_owned(), checkpoint_file()]);
    for path in &paths {
        copy(disk, path, &lost_path(epoch, path))?;
    }
    let path = why_path(epoch);
    if disk.len(&path).map_err(reading(&path))?.is_none() {
        disk::replace(disk, &path, why.as_bytes()).map_err(|error| writing(&path)(error.source))?;
    }
    Ok(())
}

fn copy<D: Disk>(disk: &D, from: &str, to: &str) -> Result<(), LogError> {
    if disk.len(to).map_err(reading(to))?.is_some() {
        return Ok(());
    }
    let Some(bytes) = disk.len(from).map_err(reading(from))? else {
        return Ok(());
    };
    let aside = format!("{to}{ASIDE}");
    disk.create(&aside, &[]).map_err(writing(&aside))?;
    let mut at = 0;
    while at < bytes {
        let piece = disk.read_at(from, at, PIECE_BYTES).map_err(reading(from))?;
        if piece.is_empty() {
            return Err(reading(from)(io::ErrorKind::UnexpectedEof.into()));
        }
        at += piece.len() as u64;
        disk.append(&aside, &piece).map_err(writing(&aside))?;
    }
    disk.sync_data(&aside)
        .and_then(|()| disk.rename(&aside, to))
        .and_then(|()| disk.sync_dir(disk::parent(to)))
        .map_err(writing(to))
}

/// Puts away what the epoch before wrote beside the log, of which `kept` entries are left: none of it may speak for this one.
/// The head, which is written next, is the last sign of it.
pub(crate) fn put_away<D: Disk>(disk: &D, epoch_before: u64, kept: u64) -> Result<(), LogError> {
    for name in snapshot::names(disk).map_err(reading(snapshot::SNAPSHOT_DIR))? {
        let path = snapshot::path_of(&name);
        if snapshot::size_in(&name).is_none_or(|size| size > kept) {
            disk.remove(&path)
                .and_then(|()| disk.sync_dir(snapshot::SNAPSHOT_DIR))
                .map_err(writing(&path))?;
        }
    }
    // Tiles of entries that are lost may be all that is left of them.
    for tile in tile::added(0, tile::published_size(disk)).filter(|tile| tile.entries().end > kept) {
        let path = tile.file();
        if disk.len(&path).map_err(reading(&path))?.is_some() {
            let to = lost_path(epoch_before, &path);
            disk.rename(&path, &to).map_err(writing(&to))?;
            disk.sync_dir(disk::parent(&to)).map_err(writing(&to))?;
        }
    }
    let path = checkpoint_file();
    if disk.len(&path).map_err(reading(&path))?.is_some() {
        disk.remove(&path)
            .and_then(|()| disk.sync_dir(disk::parent(&path)))
            .map_err(writing(&path))?;
    }
    mark::remove_beyond(disk, kept).map_err(writing(mark::MARK_DIR))
}
