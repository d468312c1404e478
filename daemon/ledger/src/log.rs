//! The append-only log: what is acknowledged here is never lost, and damage to it is never mistaken for a torn write.

use crate::disk::Disk;
use crate::frame::{self, Broken, COMMIT_BYTES, Frame, HEADER_BYTES, Header};
use crate::head::{self, Head};
use crate::merkle::{Frontier, Hash, leaf_hash};
use std::io;
use std::sync::{Arc, RwLock};

pub const LOG_DIR: &str = "log";
/// A segment is closed at this many entries or bytes, whichever comes first.
const SEGMENT_ENTRIES: u64 = 1_000_000;
const SEGMENT_BYTES: u64 = 512 << 20;
/// One offset is remembered for so many entries.
const SPARSE: u64 = 64;
const SCAN_CHUNK_BYTES: usize = 4 << 20;

#[derive(Debug, Clone)]
pub struct Segment {
    pub file: String,
    pub first: u64,
    pub entries: u64,
    /// Bytes up to the end of the last commit.
    pub bytes: u64,
    /// Offset of every SPARSE-th entry.
    offsets: Vec<u64>,
}

/// Damage to something that was acknowledged. Writing is refused; reading works below it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Loss {
    /// The first entry that cannot be proven any more.
    pub first_damaged: u64,
    pub file: String,
    pub offset: u64,
    pub what: String,
    /// How many entries were acknowledged, as far as can be told.
    pub acknowledged: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Boot {
    pub size: u64,
    pub epoch: u64,
    /// An unacknowledged tail that was cut (or, read-only, would be).
    pub tail_bytes: u64,
    pub loss: Option<Loss>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("reading {path} of the ledger")]
    Read { path: String, source: io::Error },
    #[error("writing {path} of the ledger")]
    Write { path: String, source: io::Error },
    #[error("the ledger's disk is full; nothing was recorded and nothing will be done until there is room")]
    DiskFull { source: io::Error },
    #[error("the ledger stopped writing after an earlier error ({0}); restart the daemon once its cause is mended")]
    Poisoned(String),
    #[error("LEDGER_LOSS: {} at byte {} of {}: entries from {} on are damaged although they were acknowledged; writing is refused", .0.what, .0.offset, .0.file, .0.first_damaged)]
    Loss(Loss),
    #[error("entry {found} is out of order; the next one is {expected}")]
    Order { expected: u64, found: u64 },
    #[error("entry {0} is larger than an entry may be")]
    TooLarge(u64),
    #[error("entry {seq} is not in the ledger, which has {size}")]
    NoSuchEntry { seq: u64, size: u64 },
}

/// What readers in other threads share with the writer.
pub type Segments = Arc<RwLock<Vec<Segment>>>;

pub struct Log<D> {
    pub disk: D,
    segments: Segments,
    frontier: Frontier,
    epoch: u64,
    head: Head,
    poisoned: Option<String>,
    loss: Option<Loss>,
}

struct Scan {
    segments: Vec<Segment>,
    frontier: Frontier,
    epoch: u64,
    /// Where the first bytes that are not committed begin, and why they are not.
    stop: Option<(usize, u64, &'static str)>,
}

impl<D: Disk> Log<D> {
    /// Opens and, unless `read_only`, cuts an unacknowledged tail.
    pub fn open(mut disk: D, read_only: bool) -> Result<(Self, Boot), LogError> {
        let head = head::read(&disk).map_err(|source| LogError::Read { path: head::HEAD_FILE.into(), source })?;
        let scan = scan(&disk)?;
        let size = scan.frontier.size();
        let mut boot = Boot { size, epoch: scan.epoch.max(1), tail_bytes: 0, loss: None };
        let below_head = size < head.size || (size == head.size && size > 0 && scan.frontier.root() != head.root);
        if let Some((at, offset, what)) = scan.stop {
            let segment = &scan.segments[at];
            let path = path_of(&segment.file);
            let len = disk.len(&path).map_err(|source| LogError::Read { path: path.clone(), source })?.unwrap_or(0);
            let rest = disk.read_at(&path, offset, (len - offset) as usize).map_err(|source| LogError::Read { path: path.clone(), source })?;
            let later = at + 1 < scan.segments.len() || frame::has_commit_above(&rest, size);
            if below_head || later {
                boot.loss = Some(Loss { first_damaged: size, file: segment.file.clone(), offset, what: what.into(), acknowledged: head.size.max(size + 1) });
            } else {
                boot.tail_bytes = len - offset;
                if !read_only {
                    disk.truncate(&path, offset).map_err(|source| LogError::Write { path, source })?;
                }
            }
        } else if below_head {
            let (file, offset) = scan.segments.last().map_or((String::new(), 0), |segment| (segment.file.clone(), segment.bytes));
            let what = "the log ends before the head that was written after it".to_owned();
            boot.loss = Some(Loss { first_damaged: size, file, offset, what, acknowledged: head.size });
        }
        let mut segments = scan.segments;
        // A segment of which nothing was committed is begun anew.
        segments.retain(|segment| segment.entries > 0);
        let log = Self {
            disk,
            segments: Arc::new(RwLock::new(segments)),
            frontier: scan.frontier,
            epoch: boot.epoch,
            head,
            poisoned: None,
            loss: boot.loss.clone(),
        };
        Ok((log, boot))
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

    pub fn segments(&self) -> Segments {
        self.segments.clone()
    }

    /// Appends entries with their commit frame and makes them durable. All of them, or none.
    pub fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> Result<(), LogError> {
        if let Some(loss) = &self.loss {
            return Err(LogError::Loss(loss.clone()));
        }
        if let Some(cause) = &self.poisoned {
            return Err(LogError::Poisoned(cause.clone()));
        }
        let mut frontier = self.frontier.clone();
        for (seq, bytes) in entries {
            if *seq != frontier.size() {
                return Err(LogError::Order { expected: frontier.size(), found: *seq });
            }
            if bytes.is_empty() || bytes.len() > holdfast_core::entry::ENTRY_MAX_BYTES {
                return Err(LogError::TooLarge(*seq));
            }
            frontier.push(leaf_hash(bytes));
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut segment = self.segment_to_append();
        let before = segment.bytes;
        let mut out = Vec::new();
        if before == 0 {
            out.extend_from_slice(&Header { epoch: self.epoch, first: segment.first }.to_bytes());
        }
        for (_, bytes) in entries {
            if segment.entries.is_multiple_of(SPARSE) {
                segment.offsets.push(before + out.len() as u64);
            }
            frame::put_entry(&mut out, bytes);
            segment.entries += 1;
        }
        frame::put_commit(&mut out, frontier.size(), &frontier.root());
        segment.bytes = before + out.len() as u64;
        let path = path_of(&segment.file);
        if let Err(source) = self.disk.append(&path, &out) {
            return Err(self.append_failed(&path, before, source));
        }
        if let Err(source) = self.disk.sync(&path) {
            // What the kernel kept of these pages is unknown: they are never written again by this process.
            self.poisoned = Some(format!("syncing {path}: {source}"));
            return Err(LogError::Write { path, source });
        }
        self.frontier = frontier;
        let mut segments = write_lock(&self.segments);
        match segments.last_mut().filter(|last| last.first == segment.first) {
            Some(last) => *last = segment,
            None => segments.push(segment),
        }
        Ok(())
    }

    fn segment_to_append(&self) -> Segment {
        let segments = read_lock(&self.segments);
        match segments.last() {
            Some(last) if last.entries < SEGMENT_ENTRIES && last.bytes < SEGMENT_BYTES => last.clone(),
            _ => {
                let first = self.frontier.size();
                Segment { file: format!("{first:020}.log"), first, entries: 0, bytes: 0, offsets: Vec::new() }
            }
        }
    }

    /// Takes a half-written batch back. If even that fails, nothing more is written.
    fn append_failed(&mut self, path: &str, before: u64, source: io::Error) -> LogError {
        if let Err(error) = self.disk.truncate(path, before) {
            self.poisoned = Some(format!("taking back a failed append to {path}: {error}"));
        }
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::DiskFull { source },
            _ => LogError::Write { path: path.into(), source },
        }
    }

    /// Writes the head, off the acknowledged path: what it names can from now on not be taken for a torn tail.
    pub fn write_head(&mut self) -> Result<bool, LogError> {
        let head = Head { epoch: self.epoch, size: self.size(), root: self.root(), slot: 1 - self.head.slot };
        if head.size == self.head.size || self.poisoned.is_some() || self.loss.is_some() {
            return Ok(false);
        }
        head::write(&mut self.disk, &head).map_err(|source| LogError::Write { path: head::HEAD_FILE.into(), source })?;
        self.head = head;
        Ok(true)
    }

    pub fn read(&self, from: u64, to: u64) -> Result<Vec<Vec<u8>>, LogError> {
        read_range(&self.disk, &self.segments, from, to)
    }
}

pub fn path_of(file: &str) -> String {
    format!("{LOG_DIR}/{file}")
}

// A poisoned lock only means that another thread panicked between two whole values.
fn read_lock(segments: &Segments) -> std::sync::RwLockReadGuard<'_, Vec<Segment>> {
    segments.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write_lock(segments: &Segments) -> std::sync::RwLockWriteGuard<'_, Vec<Segment>> {
    segments.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Committed entries in `from..to`, as stored.
pub fn read_range<D: Disk>(disk: &D, segments: &Segments, from: u64, to: u64) -> Result<Vec<Vec<u8>>, LogError> {
    let segments = read_lock(segments).clone();
    let size = segments.last().map_or(0, |segment| segment.first + segment.entries);
    let mut found = Vec::new();
    let mut seq = from;
    while seq < to.min(size) {
        let at = segments.partition_point(|segment| segment.first <= seq).saturating_sub(1);
        let segment = &segments[at];
        let end = to.min(segment.first + segment.entries);
        read_segment(disk, segment, seq, end, &mut found)?;
        seq = end;
    }
    Ok(found)
}

fn read_segment<D: Disk>(disk: &D, segment: &Segment, from: u64, to: u64, found: &mut Vec<Vec<u8>>) -> Result<(), LogError> {
    let path = path_of(&segment.file);
    let slot = ((from - segment.first) / SPARSE) as usize;
    let mut offset = segment.offsets.get(slot).copied().unwrap_or(HEADER_BYTES as u64);
    let mut seq = segment.first + slot as u64 * SPARSE;
    let mut buffer: Vec<u8> = Vec::new();
    let mut at = 0;
    while seq < to {
        match frame::parse(&buffer[at..]) {
            Ok((Frame::Entry(payload), length)) => {
                if seq >= from {
                    found.push(payload.to_vec());
                }
                seq += 1;
                at += length;
            }
            Ok((Frame::Commit { .. }, length)) => at += length,
            Err(Broken::Short) if offset < segment.bytes => {
                buffer.drain(..at);
                at = 0;
                let want = (segment.bytes - offset).min(if to - seq > 256 { SCAN_CHUNK_BYTES } else { 256 << 10 } as u64) as usize;
                let more = disk.read_at(&path, offset, want).map_err(|source| LogError::Read { path: path.clone(), source })?;
                if more.is_empty() {
                    return Err(LogError::Read { path, source: io::ErrorKind::UnexpectedEof.into() });
                }
                offset += more.len() as u64;
                buffer.extend_from_slice(&more);
            }
            Err(broken) => {
                let source = io::Error::new(io::ErrorKind::InvalidData, broken.what());
                return Err(LogError::Read { path, source });
            }
        }
    }
    Ok(())
}

/// Reads every frame, checks every checksum and every commit's root.
fn scan<D: Disk>(disk: &D) -> Result<Scan, LogError> {
    let files = disk.list(LOG_DIR).map_err(|source| LogError::Read { path: LOG_DIR.into(), source })?;
    let mut scan = Scan { segments: Vec::new(), frontier: Frontier::default(), epoch: 1, stop: None };
    for file in files.into_iter().filter(|file| file.ends_with(".log")) {
        let path = path_of(&file);
        let index = scan.segments.len();
        let first = scan.frontier.size();
        scan.segments.push(Segment { file, first, entries: 0, bytes: 0, offsets: Vec::new() });
        if scan.stop.is_some() {
            continue;
        }
        scan_segment(disk, &path, &mut scan, index)?;
    }
    Ok(scan)
}

fn scan_segment<D: Disk>(disk: &D, path: &str, scan: &mut Scan, index: usize) -> Result<(), LogError> {
    let read = |offset: u64, len: usize| disk.read_at(path, offset, len).map_err(|source| LogError::Read { path: path.into(), source });
    let first = scan.segments[index].first;
    let head = read(0, HEADER_BYTES)?;
    match Header::parse(&head) {
        Some(header) if header.first == first && format!("{first:020}.log") == scan.segments[index].file => scan.epoch = scan.epoch.max(header.epoch),
        Some(_) => {
            scan.stop = Some((index, 0, "the segment is not the one that belongs here"));
            return Ok(());
        }
        None => {
            scan.stop = Some((index, 0, "the segment's header is damaged"));
            return Ok(());
        }
    }
    let mut frontier = scan.frontier.clone();
    let mut entries = 0;
    let mut offsets = Vec::new();
    let mut offset = HEADER_BYTES as u64;
    let mut committed = 0;
    let mut buffer: Vec<u8> = Vec::new();
    let mut at = 0;
    loop {
        match frame::parse(&buffer[at..]) {
            Ok((Frame::Entry(payload), length)) => {
                if entries % SPARSE == 0 {
                    offsets.push(offset + at as u64);
                }
                frontier.push(leaf_hash(payload));
                entries += 1;
                at += length;
            }
            Ok((Frame::Commit { size, root }, length)) => {
                if size != frontier.size() || root != frontier.root() || committed == entries {
                    scan.stop = Some((index, committed_bytes(scan, index), "a commit's root does not match its entries"));
                    return Ok(());
                }
                at += length;
                committed = entries;
                scan.frontier = frontier.clone();
                let segment = &mut scan.segments[index];
                segment.entries = entries;
                segment.bytes = offset + at as u64;
                segment.offsets.clone_from(&offsets);
            }
            Err(Broken::Short) => {
                offset += at as u64;
                buffer.drain(..at);
                at = 0;
                let more = read(offset + buffer.len() as u64, SCAN_CHUNK_BYTES)?;
                if more.is_empty() {
                    if committed < entries || !buffer.is_empty() {
                        scan.stop = Some((index, committed_bytes(scan, index), Broken::Short.what()));
                    } else if entries == 0 {
                        scan.stop = Some((index, 0, "the segment holds no entries"));
                    }
                    return Ok(());
                }
                buffer.extend_from_slice(&more);
            }
            Err(broken) => {
                scan.stop = Some((index, committed_bytes(scan, index), broken.what()));
                return Ok(());
            }
        }
    }
}

fn committed_bytes(scan: &Scan, index: usize) -> u64 {
    scan.segments[index].bytes
}

/// The bytes a batch takes beyond its entries.
pub fn batch_overhead_bytes(entries: usize) -> usize {
    HEADER_BYTES + COMMIT_BYTES + entries * frame::FRAME_HEAD_BYTES
}
