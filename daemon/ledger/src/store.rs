//! The ledger as the daemon uses it: one writer, any number of readers, one directory, one lock.

use crate::blobs::{self, BlobError};
use crate::disk::{Disk, RealDisk};
use crate::log::{Boot, Log, LogError, Segments, read_range};
use crate::merkle::Hash;
use crate::snapshot::{self, Snapshot};
use holdfast_core::entry::{Entry, EntryError};
use holdfast_core::ids::Digest;
use holdfast_core::state::State;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "lock";

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("another process uses the ledger in {}", .0.display())]
    Locked(PathBuf),
    #[error("opening the ledger in {}", dir.display())]
    Open { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("entry {seq} cannot be written")]
    Entry { seq: u64, source: EntryError },
    #[error("entry {seq} of the log cannot be read")]
    Unreadable { seq: u64, source: EntryError },
    #[error("writing the snapshot of entry {size}")]
    Snapshot { size: u64, source: io::Error },
}

impl LedgerError {
    /// No room on the disk: nothing was recorded, and it may work again later.
    pub fn is_disk_full(&self) -> bool {
        let full = |source: &io::Error| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            LedgerError::Log(LogError::DiskFull { .. }) => true,
            LedgerError::Blob(BlobError::Write { source, .. }) => full(source),
            _ => false,
        }
    }
}

/// Blobs first, then entries: what an entry names is durable before the entry is.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub entries: Vec<Entry>,
    pub blobs: Vec<(Digest, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub size: u64,
    pub root: Hash,
}

pub struct Ledger<D> {
    log: Log<D>,
    /// Held for as long as the ledger is open.
    _lock: Option<File>,
}

/// What opening found.
pub struct Opened<D> {
    pub ledger: Ledger<D>,
    pub boot: Boot,
    pub state: State,
    /// The snapshot that State was begun from, if any.
    pub snapshot_size: Option<u64>,
}

impl Ledger<RealDisk> {
    pub fn open(dir: &Path) -> Result<Opened<RealDisk>, LedgerError> {
        let at = |source| LedgerError::Open { dir: dir.to_owned(), source };
        let disk = RealDisk::create(dir).map_err(at)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE)).map_err(at)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| LedgerError::Locked(dir.to_owned()))?;
        let mut opened = Ledger::open_on(disk, false)?;
        opened.ledger._lock = Some(lock);
        Ok(opened)
    }

    /// A copy, or a directory that another process writes to: nothing is cut, nothing is locked.
    pub fn open_read_only(dir: &Path) -> Result<Opened<RealDisk>, LedgerError> {
        if !dir.is_dir() {
            return Err(LedgerError::Open { dir: dir.to_owned(), source: io::ErrorKind::NotFound.into() });
        }
        Ledger::open_on(RealDisk::existing(dir), true)
    }

    pub fn reader(&self, dir: &Path) -> Reader {
        Reader { dir: dir.to_owned(), segments: self.log.segments() }
    }
}

impl<D: Disk> Ledger<D> {
    pub fn open_on(disk: D, read_only: bool) -> Result<Opened<D>, LedgerError> {
        let (log, boot) = Log::open(disk, read_only)?;
        let (state, snapshot_size) = load_state(&log)?;
        Ok(Opened { ledger: Ledger { log, _lock: None }, boot, state, snapshot_size })
    }

    pub fn size(&self) -> u64 {
        self.log.size()
    }

    pub fn root(&self) -> Hash {
        self.log.root()
    }

    pub fn epoch(&self) -> u64 {
        self.log.epoch()
    }

    pub fn disk(&mut self) -> &mut D {
        &mut self.log.disk
    }

    pub fn into_disk(self) -> D {
        self.log.disk
    }

    /// Appends several batches under one fsync.
    pub fn append(&mut self, batches: &[Batch]) -> Result<Committed, LedgerError> {
        let mut encoded = Vec::new();
        for entry in batches.iter().flat_map(|batch| &batch.entries) {
            let bytes = entry.to_bytes().map_err(|source| LedgerError::Entry { seq: entry.seq, source })?;
            encoded.push((entry.seq, bytes));
        }
        for (digest, bytes) in batches.iter().flat_map(|batch| &batch.blobs) {
            blobs::put(&mut self.log.disk, digest, bytes)?;
        }
        self.log.append(&encoded)?;
        Ok(Committed { size: self.log.size(), root: self.log.root() })
    }

    pub fn write_head(&mut self) -> Result<bool, LedgerError> {
        Ok(self.log.write_head()?)
    }

    /// `state` is the fold of everything appended so far.
    pub fn write_snapshot(&mut self, state: &State) -> Result<(), LedgerError> {
        let size = self.log.size();
        let fail = |source| LedgerError::Snapshot { size, source };
        let body = serde_json::to_vec(state).map_err(|error| fail(io::Error::other(error)))?;
        let snapshot = Snapshot { size, root: self.log.root(), body };
        snapshot::write(&mut self.log.disk, &snapshot).map_err(fail)
    }

    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, LedgerError> {
        Ok(blobs::get(&self.log.disk, digest)?)
    }

    pub fn entries(&self, from: u64, to: u64) -> Result<Vec<Entry>, LedgerError> {
        parse_all(from, self.log.read(from, to)?)
    }
}

fn parse_all(from: u64, raw: Vec<Vec<u8>>) -> Result<Vec<Entry>, LedgerError> {
    raw.iter()
        .zip(from..)
        .map(|(bytes, seq)| Entry::parse(bytes).map_err(|source| LedgerError::Unreadable { seq, source }))
        .collect()
}

/// State as of the log's end: the newest snapshot that the log bears out, and the entries after it.
pub fn load_state<D: Disk>(log: &Log<D>) -> Result<(State, Option<u64>), LedgerError> {
    const FOLDED_AT_ONCE: u64 = 10_000;
    let names = snapshot::names(&log.disk).unwrap_or_default();
    let newest = names.iter().rev().find_map(|name| {
        let snapshot = snapshot::read(&log.disk, name).ok()??;
        let state: State = serde_json::from_slice(&snapshot.body).ok()?;
        // The root is checked by whoever verifies; here it is enough that State stands where the log does.
        (snapshot.size <= log.size() && state.size == snapshot.size).then_some((state, snapshot.size))
    });
    let (mut state, from) = match newest {
        Some((state, size)) => (state, Some(size)),
        None => (State::default(), None),
    };
    let mut at = state.size;
    while at < log.size() {
        let to = (at + FOLDED_AT_ONCE).min(log.size());
        for entry in parse_all(at, log.read(at, to)?)? {
            state.fold(&entry);
        }
        at = to;
    }
    Ok((state, from))
}

/// Reads what is committed, from any thread, while the writer goes on.
#[derive(Clone)]
pub struct Reader {
    dir: PathBuf,
    segments: Segments,
}

impl Reader {
    fn disk(&self) -> RealDisk {
        RealDisk::existing(&self.dir)
    }

    pub fn size(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        segments.last().map_or(0, |segment| segment.first + segment.entries)
    }

    pub fn raw(&self, from: u64, to: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        Ok(read_range(&self.disk(), &self.segments, from, to)?)
    }

    pub fn entries(&self, from: u64, to: u64) -> Result<Vec<Entry>, LedgerError> {
        parse_all(from, self.raw(from, to)?)
    }

    pub fn entry(&self, seq: u64) -> Result<Entry, LedgerError> {
        let size = self.size();
        let found = self.entries(seq, seq.saturating_add(1))?.pop();
        found.ok_or(LedgerError::Log(LogError::NoSuchEntry { seq, size }))
    }

    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, LedgerError> {
        Ok(blobs::get(&self.disk(), digest)?)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
