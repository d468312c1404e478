//! The append-only log: what is acknowledged here is never lost, and damage to it is never mistaken for a torn write.

use crate::boot::{Booted, Loss};
use crate::disk::{self, Disk, is_full};
use crate::frame::{self, Broken, COMMIT_BYTES, Commit, Frame, HEADER_BYTES, Header};
use crate::head::{self, Head};
use crate::mark::{self, Mark};
use crate::merkle::{Frontier, Hash, leaf_hash};
use crate::options::Options;
use crate::walk::file_of;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub const LOG_DIR: &str = "log";
/// One offset is remembered for so many entries.
pub const SPARSE: u64 = 64;
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct Segment {
    pub file: String,
    pub first: u64,
    pub entries: u64,
    /// Bytes up to the end of the last commit.
    pub bytes: u64,
    /// Offset of every SPARSE-th entry.
    pub offsets: Vec<u64>,
}

impl Segment {
    fn end(&self) -> u64 {
        self.first + self.entries
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("reading {path} of the ledger")]
    Read { path: String, source: io::Error },
    #[error("writing {path} of the ledger")]
    Write { path: String, source: io::Error },
    #[error("the ledger's disk is full; nothing was recorded and nothing will be done until there is room")]
    DiskFull { source: io::Error },
    #[error("the ledger stopped writing after an earlier error ({0}); mend its cause and start the daemon again")]
    Poisoned(String),
    #[error("LEDGER_LOSS: {}, at byte {} of {}: entries from {} on are damaged although they were acknowledged; writing is refused", .0.what, .0.offset, .0.file, .0.first_damaged_seq)]
    Loss(Loss),
    #[error("the ledger is open for reading only")]
    ReadOnly,
    #[error("entry {found} is out of order; the next one is {expected}")]
    Order { expected: u64, found: u64 },
    #[error("entry {0} is empty or larger than an entry may be")]
    EntrySize(u64),
    #[error("entry {seq} is not in the ledger, which has {size}")]
    NoSuchEntry { seq: u64, size: u64 },
    #[error("{path} of the ledger is damaged at entry {seq}: {what}")]
    Damaged { path: String, seq: u64, what: &'static str },
    #[error("the log's entries are not those that its root was made of")]
    Rewritten,
}

/// What readers in other threads share with the writer: nothing in it is less than committed.
#[derive(Debug)]
pub struct Published {
    pub segments: Vec<Segment>,
    pub size: u64,
    pub root: Hash,
    /// Damage to what was acknowledged, as boot or a scrub found it. Writing is refused from then on.
    pub loss: Option<Loss>,
}

pub type Shared = Arc<RwLock<Published>>;

// A poisoned lock only means that another thread panicked between two whole values.
pub fn read_lock(shared: &Shared) -> RwLockReadGuard<'_, Published> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn write_lock(shared: &Shared) -> RwLockWriteGuard<'_, Published> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

pub fn path_of(file: &str) -> String {
    format!("{LOG_DIR}/{file}")
}

pub struct Log<D> {
    pub disk: D,
    options: Options,
    shared: Shared,
    frontier: Frontier,
    epoch: u64,
    head: Head,
    /// The tree where a segment ended that has no whole mark yet.
    ended: Vec<(u64, Frontier)>,
    marked_size: u64,
    read_only: bool,
    poisoned: Option<String>,
}

impl<D: Disk> Log<D> {
    pub fn new(disk: D, options: Options, booted: Booted, read_only: bool) -> Self {
        let Booted {
            segments,
            frontier,
            epoch,
            head,
            loss,
            marked_size,
            unmarked,
            ..
        } = booted;
        let published = Published {
            segments,
            size: frontier.size(),
            root: frontier.root(),
            loss,
        };
        Self {
            disk,
            options,
            shared: Arc::new(RwLock::new(published)),
            frontier,
            epoch,
            head,
            ended: unmarked,
            marked_size,
            read_only,
            poisoned: None,
        }
    }

    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// File and committed bytes of the last segment that has any.
    pub fn last_segment(&self) -> Option<(String, u64)> {
        let published = read_lock(&self.shared);
        published.segments.last().map(|last| (last.file.clone(), last.bytes))
    }

    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Whether anything can be written at all.
    pub fn writable(&self) -> Result<(), LogError> {
        match (&read_lock(&self.shared).loss, &self.poisoned) {
            (Some(loss), _) => Err(LogError::Loss(loss.clone())),
            (_, Some(cause)) => Err(LogError::Poisoned(cause.clone())),
            _ if self.read_only => Err(LogError::ReadOnly),
            _ => Ok(()),
        }
    }

    /// Nothing is written from here on: what the disk holds is no longer known.
    pub fn poison(&mut self, cause: String) {
        tracing::error!(cause, "the ledger stops writing");
        self.poisoned.get_or_insert(cause);
    }

    /// Appends entries with their commit frame and makes them durable. All of them, or none. Gives the root at each of the
    /// sizes `ends`, ascending.
    pub fn append(&mut self, entries: &[(u64, Vec<u8>)], ends: &[u64]) -> Result<Vec<(u64, Hash)>, LogError> {
        self.writable()?;
        let mut ends = ends.iter().peekable();
        let mut roots = Vec::new();
        let mut frontier = self.frontier.clone();
        for (seq, bytes) in entries {
            if *seq != frontier.size() {
                return Err(LogError::Order {
                    expected: frontier.size(),
                    found: *seq,
                });
            }
            if bytes.is_empty() || bytes.len() > holdfast_core::entry::ENTRY_MAX_BYTES {
                return Err(LogError::EntrySize(*seq));
            }
            frontier.push(leaf_hash(bytes));
            if ends.next_if(|size| **size == frontier.size()).is_some() {
                roots.push((frontier.size(), frontier.root()));
            }
        }
        if entries.is_empty() {
            return Ok(roots);
        }
        let (first, old_entries, old_bytes) = self.segment_to_append();
        let path = path_of(&file_of(first));
        let mut out =
            Vec::with_capacity(entries.iter().map(|(_, bytes)| bytes.len() + 8).sum::<usize>() + HEADER_BYTES + COMMIT_BYTES);
        if old_bytes == 0 {
            out.extend_from_slice(
                &Header {
                    epoch: self.epoch,
                    first,
                }
                .to_bytes(),
            );
        }
        let mut offsets = Vec::new();
        for (seq, bytes) in entries {
            if (seq - first).is_multiple_of(SPARSE) {
                offsets.push(old_bytes + out.len() as u64);
            }
            frame::put_entry(&mut out, bytes);
        }
        let root = frontier.root();
        frame::put_commit(
            &mut out,
            &Commit {
                before: self.frontier.size(),
                size: frontier.size(),
                root,
            },
        );
        if let Err(source) = self.disk.append(&path, &out) {
            return Err(self.append_failed(path, old_bytes, source));
        }
        let new_name = old_bytes == 0;
        let synced = self
            .disk
            .sync_data(&path)
            .and_then(|()| if new_name { self.disk.sync_dir(LOG_DIR) } else { Ok(()) });
        if let Err(source) = synced {
            // What the kernel kept of these pages is unknown: they are never written again by this process.
            self.poison(format!("syncing {path}: {source}"));
            return Err(LogError::Write { path, source });
        }
        let before = std::mem::replace(&mut self.frontier, frontier);
        let mut published = write_lock(&self.shared);
        if old_entries == 0 {
            if let Some(last) = published.segments.last() {
                self.ended.push((last.first, before));
            }
            published.segments.push(Segment {
                file: file_of(first),
                first,
                entries: 0,
                bytes: 0,
                offsets: Vec::new(),
            });
        }
        if let Some(last) = published.segments.last_mut() {
            last.entries = self.frontier.size() - first;
            last.bytes = old_bytes + out.len() as u64;
            last.offsets.append(&mut offsets);
        }
        published.size = self.frontier.size();
        published.root = root;
        Ok(roots)
    }

    /// First entry, entries and bytes of the segment that the next batch goes to.
    fn segment_to_append(&self) -> (u64, u64, u64) {
        match read_lock(&self.shared).segments.last() {
            Some(last) if last.entries < self.options.segment_entries && last.bytes < self.options.segment_bytes => {
                (last.first, last.entries, last.bytes)
            }
            _ => (self.frontier.size(), 0, 0),
        }
    }

    /// Takes a half-written batch back when only room was missing. Otherwise, or if that fails, nothing more is written.
    fn append_failed(&mut self, path: String, keep_bytes: u64, source: io::Error) -> LogError {
        if !is_full(&source) {
            self.poison(format!("writing {path}: {source}"));
            return LogError::Write { path, source };
        }
        let taken_back = match self.disk.len(&path) {
            Ok(None) => Ok(()),
            Ok(Some(_)) if keep_bytes == 0 => self.disk.remove(&path).and_then(|()| self.disk.sync_dir(LOG_DIR)),
            Ok(Some(_)) => self
                .disk
                .truncate(&path, keep_bytes)
                .and_then(|()| self.disk.sync_data(&path)),
            Err(error) => Err(error),
        };
        if let Err(error) = taken_back {
            self.poison(format!("taking back a half-written batch of {path}: {error}"));
        }
        LogError::DiskFull { source }
    }

    /// Notes where a boot may begin to read, off the acknowledged path, when that has moved by `every` entries. A mark that
    /// cannot be written costs the next boot time, nothing else.
    pub fn write_marks(&mut self, every: u64) {
        if self.writable().is_err() || (self.ended.is_empty() && self.size() - self.marked_size < every) {
            return;
        }
        let last = read_lock(&self.shared).segments.last().map(|last| last.first);
        let mut trees = std::mem::take(&mut self.ended);
        trees.extend(last.map(|first| (first, self.frontier.clone())));
        for at in 0..trees.len() {
            let Some(mark) = self.mark_of(&trees[at]) else { continue };
            if let Err(error) = mark::write(&self.disk, &mark) {
                let (first, error) = (mark.first, &error.source as &dyn std::error::Error);
                tracing::warn!(error, first, "mark not written");
                trees.pop();
                self.ended = trees.split_off(at.min(trees.len()));
                return;
            }
        }
        self.marked_size = self.size();
    }

    fn mark_of(&self, (first, frontier): &(u64, Frontier)) -> Option<Mark> {
        let published = read_lock(&self.shared);
        let segment = published.segments.iter().rev().find(|segment| segment.first == *first)?;
        Some(Mark {
            first: *first,
            frontier: frontier.clone(),
            offset: segment.bytes,
            offsets: segment.offsets.clone(),
        })
    }

    /// Writes the head, off the acknowledged path: what it names can from now on not be taken for a torn tail. True when
    /// there was something to write.
    pub fn write_head(&mut self, clean: bool) -> Result<bool, LogError> {
        if self.writable().is_err() || (self.head.size == self.size() && self.head.clean == clean) {
            return Ok(false);
        }
        let head = Head {
            number: self.head.number + 1,
            epoch: self.epoch,
            size: self.size(),
            root: self.root(),
            clean,
        };
        let failed = |source| LogError::Write {
            path: head::HEAD_FILE.into(),
            source,
        };
        match head::write(&self.disk, &head) {
            // The other slot still stands; there may be room the next time.
            Err(source) if is_full(&source) => return Err(LogError::DiskFull { source }),
            Err(source) => {
                self.poison(format!("writing {}: {source}", head::HEAD_FILE));
                return Err(failed(source));
            }
            Ok(()) => {}
        }
        let new_name = self.head.number == 0;
        let synced = self
            .disk
            .sync_data(head::HEAD_FILE)
            .and_then(|()| if new_name { self.disk.sync_dir("") } else { Ok(()) });
        if let Err(source) = synced {
            self.poison(format!("syncing {}: {source}", head::HEAD_FILE));
            return Err(failed(source));
        }
        self.head = head;
        Ok(true)
    }
}

/// A place in a segment to begin reading at.
struct Start {
    path: String,
    seq: u64,
    offset: u64,
    end_seq: u64,
    end_offset: u64,
}

fn locate(shared: &Shared, seq: u64) -> Option<Start> {
    let published = read_lock(shared);
    let at = published
        .segments
        .partition_point(|segment| segment.first <= seq)
        .checked_sub(1)?;
    let segment = published.segments.get(at).filter(|segment| seq < segment.end())?;
    let slot = (seq - segment.first) / SPARSE;
    Some(Start {
        path: path_of(&segment.file),
        seq: segment.first + slot * SPARSE,
        offset: *segment.offsets.get(slot as usize)?,
        end_seq: segment.end(),
        end_offset: segment.bytes,
    })
}

/// The file and offset at which the commit of a batch that made `size` entries ends; none when no batch did.
pub fn commit_end<D: Disk>(disk: &D, shared: &Shared, size: u64) -> Result<Option<(String, u64)>, LogError> {
    let Some(mut start) = size.checked_sub(1).and_then(|last| locate(shared, last)) else {
        return Ok(None);
    };
    let reading = |source| LogError::Read {
        path: start.path.clone(),
        source,
    };
    // Entries of one slot and their commits.
    let most = SPARSE as usize * (holdfast_core::entry::ENTRY_MAX_BYTES + frame::FRAME_HEAD_BYTES + COMMIT_BYTES);
    let most = most.min((start.end_offset - start.offset) as usize);
    let bytes = disk.read_at(&start.path, start.offset, most).map_err(reading)?;
    let mut rest = &bytes[..];
    while let Ok((frame, length)) = frame::parse(rest) {
        rest = &rest[length..];
        start.offset += length as u64;
        match frame {
            Frame::Commit(commit) if commit.size == size => return Ok(Some((start.path, start.offset))),
            Frame::Commit(commit) if commit.size > size => break,
            _ => {}
        }
    }
    Ok(None)
}

/// Committed entries in `from..to`, as stored, with their checksums checked. Stops early once `limit_bytes` are found, but
/// never before the first entry.
pub fn read_range<D: Disk>(disk: &D, shared: &Shared, from: u64, to: u64, limit_bytes: usize) -> Result<Vec<Vec<u8>>, LogError> {
    let mut found = Vec::new();
    let (mut seq, mut room) = (from, limit_bytes);
    while seq < to && room > 0 {
        let Some(start) = locate(shared, seq) else { break };
        seq = read_segment(disk, &start, seq, to.min(start.end_seq), &mut room, &mut found)?;
    }
    Ok(found)
}

fn read_segment<D: Disk>(
    disk: &D,
    start: &Start,
    from: u64,
    to: u64,
    room: &mut usize,
    found: &mut Vec<Vec<u8>>,
) -> Result<u64, LogError> {
    let (mut seq, mut offset) = (start.seq, start.offset);
    let (mut buffer, mut at) = (Vec::new(), 0);
    let piece = if to - from > SPARSE { READ_BYTES } else { 64 << 10 };
    let damaged = |seq, what| LogError::Damaged {
        path: start.path.clone(),
        seq,
        what,
    };
    while seq < to && *room > 0 {
        match frame::parse(&buffer[at..]) {
            Ok((Frame::Entry(payload), length)) => {
                if seq >= from {
                    *room = room.saturating_sub(payload.len());
                    found.push(payload.to_vec());
                }
                seq += 1;
                at += length;
            }
            Ok((Frame::Commit(_), length)) => at += length,
            Err(Broken::Short) if offset < start.end_offset => {
                buffer.drain(..at);
                at = 0;
                let want = (start.end_offset - offset).min(piece as u64) as usize;
                let more = disk.read_at(&start.path, offset, want).map_err(|source| LogError::Read {
                    path: start.path.clone(),
                    source,
                })?;
                if more.is_empty() {
                    return Err(damaged(seq, "the file is shorter than it was"));
                }
                offset += more.len() as u64;
                buffer.extend_from_slice(&more);
            }
            Err(broken) => return Err(damaged(seq, broken.what())),
        }
    }
    Ok(seq.max(from))
}

/// The most a batch takes on disk beyond its entries' bytes.
pub fn batch_overhead_bytes(entries: usize) -> usize {
    HEADER_BYTES + COMMIT_BYTES + entries * frame::FRAME_HEAD_BYTES
}

/// Removes what a killed process left half-written beside the files of `dir`.
pub fn remove_asides<D: Disk>(disk: &D, dir: &str) -> io::Result<()> {
    for name in disk.list(dir)?.into_iter().filter(|name| name.ends_with(disk::ASIDE)) {
        disk.remove(&format!("{dir}/{name}"))?;
    }
    Ok(())
}
