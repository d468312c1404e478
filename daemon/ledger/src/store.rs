//! The ledger as the daemon uses it: one writer, any number of readers, one directory, one lock.

use crate::blobs::{self, BlobError, Durable};
use crate::boot::{self, Loss};
use crate::disk::{Disk, RealDisk, is_full};
use crate::epoch;
use crate::log::{self, Log, LogError, remove_asides};
use crate::mark;
use crate::merkle::Hash;
use crate::options::{Options, Room};
use crate::reader::Reader;
use crate::snapshot::{self, Snapshot};
use crate::tlog::tile::TileError;
use holdfast_core::entry::{Entry, EntryError};
use holdfast_core::ids::Digest;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const LOCK_FILE: &str = "lock";
/// Roots that are remembered, so that a snapshot may be of a little while ago.
const RECENT_ROOTS: usize = 4_096;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("another process uses the ledger in {}: stop that daemon first, or read with the commands that need no lock", .0.display())]
    Locked(PathBuf),
    #[error("opening the ledger in {}", dir.display())]
    Open { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("entry {seq} cannot be written")]
    Entry { seq: u64, source: EntryError },
    #[error("entry {seq} names blob {name:?}, {digest}, which is neither stored nor given with it")]
    NamesMissingBlob { seq: u64, name: String, digest: Digest },
    #[error("entry {seq} of the log cannot be read")]
    Unreadable { seq: u64, source: EntryError },
    #[error("the State in the snapshot of {size} entries cannot be read")]
    State { size: u64, source: serde_json::Error },
    #[error("a snapshot of {size} entries cannot be tied to the log: its root is not known any more")]
    SnapshotRoot { size: u64 },
    #[error("writing the snapshot of {size} entries")]
    Snapshot { size: u64, source: io::Error },
    #[error("the ledger's writer has ended")]
    WriterEnded,
    #[error(transparent)]
    Tile(#[from] TileError),
    #[error("the checkpoint of {size} entries has another root than this log")]
    ForeignCheckpoint { size: u64 },
}

impl LedgerError {
    /// No room on the disk: nothing was recorded, and it may work again later.
    pub fn is_disk_full(&self) -> bool {
        match self {
            LedgerError::Log(LogError::DiskFull { .. }) => true,
            LedgerError::Blob(error) => error.is_disk_full(),
            LedgerError::Snapshot { source, .. } => is_full(source),
            _ => false,
        }
    }

    /// Nothing can be written any more by this process: it has to stop.
    pub fn is_final(&self) -> bool {
        match self {
            LedgerError::Log(LogError::Poisoned(_) | LogError::Loss(_) | LogError::ReadOnly | LogError::Write { .. })
            | LedgerError::WriterEnded => true,
            LedgerError::Blob(error @ BlobError::Write { .. }) => !error.is_disk_full(),
            _ => false,
        }
    }

    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            error if error.is_disk_full() => "disk-full",
            LedgerError::Log(LogError::Loss(_)) => "ledger-loss",
            LedgerError::Locked(_) => "ledger-locked",
            LedgerError::Log(LogError::NoSuchEntry { .. }) => "no-such-entry",
            LedgerError::Log(LogError::Damaged { .. } | LogError::Rewritten) | LedgerError::Blob(BlobError::Damaged(_)) => {
                "ledger-damaged"
            }
            error if error.is_final() => "ledger-stopped",
            LedgerError::Log(LogError::Order { .. } | LogError::EntrySize(_))
            | LedgerError::Entry { .. }
            | LedgerError::NamesMissingBlob { .. } => "entry-refused",
            LedgerError::Blob(_) => "blob-refused",
            _ => "ledger-error",
        }
    }
}

/// Blobs first, then entries: what an entry names is durable before the entry is.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub entries: Vec<Entry>,
    pub blobs: Vec<(Digest, Arc<[u8]>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub size: u64,
    pub root: Hash,
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootReport {
    pub size: u64,
    pub root: Hash,
    pub epoch: u64,
    /// An unacknowledged tail that was cut (or, read-only, that was passed over).
    pub cut_bytes: u64,
    /// The run before ended by itself.
    pub clean: bool,
    /// Writing is refused; what lies below can be read.
    pub loss: Option<Loss>,
    /// Size of the newest snapshot that the log bears out.
    pub snapshot: Option<u64>,
    /// Snapshots that are damaged or of another log.
    pub ignored: Vec<String>,
}

/// Held by whoever writes to the directory.
pub(crate) fn lock(dir: &Path) -> Result<File, LedgerError> {
    let at = |source| LedgerError::Open {
        dir: dir.to_owned(),
        source,
    };
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK_FILE))
        .map_err(at)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LedgerError::Locked(dir.to_owned())),
        Err(error) => Err(at(error.into())),
    }
}

pub struct Ledger<D = RealDisk> {
    pub(crate) log: Log<D>,
    options: Options,
    durable: Durable,
    /// Sizes at which batches ended, with their roots.
    recent: VecDeque<Committed>,
    newest_snapshot: Option<Snapshot>,
    /// The epoch before and the entries that it left, when this one was only just begun.
    begun_after: Option<(u64, u64)>,
    /// Held for as long as the ledger is open.
    _lock: Option<File>,
}

impl Ledger<RealDisk> {
    /// Opens the directory, or makes it; cuts an unacknowledged tail; refuses a second process.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, BootReport), LedgerError> {
        let at = |source| LedgerError::Open {
            dir: dir.to_owned(),
            source,
        };
        let disk = RealDisk::create(dir).map_err(at)?;
        let lock = lock(dir)?;
        let (mut ledger, report) = Ledger::open_on(disk, options)?;
        ledger._lock = Some(lock);
        Ok((ledger, report))
    }

    /// A copy, or a directory that another process writes to: nothing is written, cut or locked.
    pub fn open_read_only(dir: &Path, options: Options) -> Result<(Self, BootReport), LedgerError> {
        if !dir.is_dir() {
            return Err(LedgerError::Open {
                dir: dir.to_owned(),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        Ledger::open_read_only_on(RealDisk::existing(dir), options)
    }
}

impl<D: Disk> Ledger<D> {
    pub fn open_on(disk: D, options: Options) -> Result<(Self, BootReport), LedgerError> {
        let (mut ledger, report) = Self::open_as(disk, options, false)?;
        if report.loss.is_none() {
            if let Some((before, kept)) = ledger.begun_after.take() {
                epoch::put_away(&ledger.log.disk, before, kept)?;
            }
            for dir in [snapshot::SNAPSHOT_DIR, mark::MARK_DIR, log::LOG_DIR] {
                remove_asides(&ledger.log.disk, dir).map_err(|source| LogError::Write {
                    path: dir.into(),
                    source,
                })?;
            }
            // From here on, until it is closed, the run has not ended by itself; and what was found is a witness.
            match ledger.log.write_head(false) {
                Err(error @ LogError::DiskFull { .. }) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "head not written")
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        Ok((ledger, report))
    }

    pub fn open_read_only_on(disk: D, options: Options) -> Result<(Self, BootReport), LedgerError> {
        Self::open_as(disk, options, true)
    }

    fn open_as(disk: D, options: Options, read_only: bool) -> Result<(Self, BootReport), LedgerError> {
        let mut booted = boot::boot(&disk, &options, read_only)?;
        let (size, root) = (booted.frontier.size(), booted.frontier.root());
        let newest_snapshot = booted.snapshot.take();
        let begun_after = booted.begun_after.take();
        let report = BootReport {
            size,
            root,
            epoch: booted.epoch,
            cut_bytes: booted.cut_bytes,
            clean: booted.loss.is_none() && booted.cut_bytes == 0 && booted.head.size == size && (booted.head.clean || size == 0),
            loss: booted.loss.clone(),
            snapshot: newest_snapshot.as_ref().map(|snapshot| snapshot.size),
            ignored: std::mem::take(&mut booted.ignored),
        };
        let log = Log::new(disk, options.clone(), booted, read_only);
        let recent = VecDeque::from([Committed { size, root }]);
        Ok((
            Self {
                log,
                options,
                durable: Durable::default(),
                recent,
                newest_snapshot,
                begun_after,
                _lock: None,
            },
            report,
        ))
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

    pub fn disk(&self) -> &D {
        &self.log.disk
    }

    /// Usable from other threads, while this ledger is written to and after it is gone.
    pub fn reader(&self) -> Reader<D> {
        Reader {
            disk: self.log.disk.clone(),
            shared: self.log.shared(),
            options: self.options.clone(),
        }
    }

    /// An error if nothing can be written, and why.
    pub fn writable(&self) -> Result<(), LedgerError> {
        Ok(self.log.writable()?)
    }

    pub fn room(&self) -> Result<Room, LedgerError> {
        self.reader().room()
    }

    /// Makes the batch durable: its blobs, then its entries. All of its entries, or none.
    pub fn append(&mut self, batch: &Batch) -> Result<Committed, LedgerError> {
        self.append_group(std::slice::from_ref(batch))
            .pop()
            .unwrap_or(Err(LedgerError::WriterEnded))
    }

    /// Several batches under one commit and one fdatasync. A batch that is refused for what it is does not harm the others.
    pub fn append_group(&mut self, batches: &[Batch]) -> Vec<Result<Committed, LedgerError>> {
        let mut encoded = Vec::new();
        let mut ends = Vec::new();
        let mut outcomes: Vec<Result<(), LedgerError>> = Vec::new();
        for batch in batches {
            let next = self.log.size() + encoded.len() as u64;
            let ready = self
                .log
                .writable()
                .map_err(LedgerError::from)
                .and_then(|()| encode(batch, next))
                .and_then(|bytes| {
                    self.store_blobs(batch)?;
                    Ok(bytes)
                });
            outcomes.push(ready.map(|bytes| {
                encoded.extend(bytes);
                let end = self.log.size() + encoded.len() as u64;
                if ends.last() != Some(&end) {
                    ends.push(end);
                }
            }));
        }
        let appended = self.log.append(&encoded, &ends).map(|roots| {
            for (size, root) in roots {
                self.remember(Committed { size, root });
            }
        });
        let committed = Committed {
            size: self.log.size(),
            root: self.log.root(),
        };
        // The error itself cannot be cloned: the first batch gets it, the others what it means for them.
        let mut failure = appended.err();
        let disk_full = matches!(failure, Some(LogError::DiskFull { .. }));
        let failed = failure.is_some();
        let mut again = || match failure.take() {
            Some(error) => error,
            None if disk_full => LogError::DiskFull {
                source: io::ErrorKind::StorageFull.into(),
            },
            None => self
                .log
                .writable()
                .err()
                .unwrap_or(LogError::Poisoned("the batch before it failed".into())),
        };
        outcomes
            .into_iter()
            .map(|outcome| outcome.and_then(|()| if failed { Err(again().into()) } else { Ok(committed) }))
            .collect()
    }

    fn remember(&mut self, committed: Committed) {
        if self.recent.len() == RECENT_ROOTS {
            self.recent.pop_front();
        }
        self.recent.push_back(committed);
    }

    fn store_blobs(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        let limit = self.options.blob_max_bytes;
        for (digest, bytes) in &batch.blobs {
            if let Err(error) = self.durable.put(&self.log.disk, digest, bytes, limit) {
                return Err(self.blob_failed(error));
            }
        }
        for entry in &batch.entries {
            for (name, digest) in &entry.blobs {
                match self.durable.settle(&self.log.disk, digest, limit) {
                    Ok(true) => {}
                    Ok(false) => {
                        return Err(LedgerError::NamesMissingBlob {
                            seq: entry.seq,
                            name: name.clone(),
                            digest: digest.clone(),
                        });
                    }
                    Err(error) => return Err(self.blob_failed(error)),
                }
            }
        }
        Ok(())
    }

    fn blob_failed(&mut self, error: BlobError) -> LedgerError {
        if matches!(error, BlobError::Write { .. }) && !error.is_disk_full() {
            self.log.poison(format!("{error}"));
        }
        error.into()
    }

    /// Off the acknowledged path; see `head`. True when there was something to write.
    pub fn write_head(&mut self) -> Result<bool, LedgerError> {
        let written = self.log.write_head(false)?;
        self.log.write_marks(mark::MARK_EVERY);
        Ok(written)
    }

    /// The last act of a run that ends by itself. Dropping the ledger instead is what a crash looks like.
    pub fn close(mut self) -> Result<(), LedgerError> {
        if self.log.writable().is_ok() {
            self.log.write_marks(1);
            self.log.write_head(true)?;
        }
        Ok(())
    }

    /// `body` is State as the fold of the first `size` entries: those of the log, or of a batch that ended lately.
    pub fn write_snapshot(&mut self, size: u64, body: Vec<u8>) -> Result<(), LedgerError> {
        self.log.writable()?;
        let known = self.recent.iter().rev().find(|committed| committed.size == size);
        let root = known.ok_or(LedgerError::SnapshotRoot { size })?.root;
        snapshot::write(&self.log.disk, &Snapshot { size, root, body }).map_err(|error| LedgerError::Snapshot {
            size,
            source: error.source,
        })
    }

    /// The newest snapshot that the log bears out, as found at boot. Gives its memory away.
    pub fn take_newest_snapshot(&mut self) -> Option<Snapshot> {
        self.newest_snapshot.take()
    }

    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, LedgerError> {
        Ok(blobs::get(&self.log.disk, digest, self.options.blob_max_bytes)?)
    }
}

fn encode(batch: &Batch, next: u64) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
    let in_order = |(entry, expected): (&Entry, u64)| {
        if entry.seq != expected {
            return Err(LogError::Order {
                expected,
                found: entry.seq,
            }
            .into());
        }
        let bytes = entry
            .to_bytes()
            .map_err(|source| LedgerError::Entry { seq: entry.seq, source })?;
        Ok((entry.seq, bytes))
    };
    batch.entries.iter().zip(next..).map(in_order).collect()
}
