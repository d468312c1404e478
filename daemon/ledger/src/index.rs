//! The sled index: where to look, never what is true. Off the write path, rebuilt from the log whenever it is missing,
//! damaged or behind; every answer says as of which entry it is.
//!
//! sled 0.34 cuts torn tails without a word and can be damaged by a kill while it opens, so nothing is trusted: an
//! `opening` marker that survives, or a panic inside `open`, means that the directory is thrown away.

use crate::store::{LedgerError, Reader};
use holdfast_core::entry::{Body, Entry};
use holdfast_core::ids::deploy_id;
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const SEGMENT_ENTRIES: u64 = 1_000_000;
const CACHE_BYTES: u64 = 8 << 20;
const BATCH_ENTRIES: u64 = 2_000;
const OPENING: &str = "opening";
const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index in {} cannot be used", dir.display())]
    Sled { dir: PathBuf, source: sled::Error },
    #[error("the index's directory {} cannot be used", dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error("sled panicked while it opened {}", .0.display())]
    Panicked(PathBuf),
    #[error("the log could not be read")]
    Log(#[source] Box<LedgerError>),
}

/// By what entries can be found. The text is matched whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Kind,
    Workload,
    Target,
    Commit,
    Digest,
    Reference,
    Deploy,
    Release,
}

impl By {
    const ALL: [By; 8] = [By::Kind, By::Workload, By::Target, By::Commit, By::Digest, By::Reference, By::Deploy, By::Release];
    fn tree(self) -> &'static str {
        match self {
            By::Kind => "kind",
            By::Workload => "workload",
            By::Target => "target",
            By::Commit => "commit",
            By::Digest => "digest",
            By::Reference => "reference",
            By::Deploy => "deploy",
            By::Release => "release",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub seqs: Vec<u64>,
    /// Entries below this are in the answer; later ones are not known to the index yet.
    pub as_of: u64,
}

pub struct Index {
    dir: PathBuf,
    segments: Vec<(u64, sled::Db)>,
    epoch: u64,
    /// Every entry below it is indexed.
    next: u64,
}

impl Index {
    /// Opens, and throws away what cannot be opened.
    pub fn open(dir: &Path, epoch: u64) -> Result<Self, IndexError> {
        let mut index = Self { dir: dir.to_owned(), segments: Vec::new(), epoch, next: 0 };
        let mut first = 0;
        while index.segment_dir(first).exists() {
            let db = index.open_segment(first)?;
            let next = read_next(&db).unwrap_or(first);
            index.segments.push((first, db));
            index.next = next;
            if next < first + SEGMENT_ENTRIES {
                break;
            }
            first += SEGMENT_ENTRIES;
        }
        Ok(index)
    }

    fn segment_dir(&self, first: u64) -> PathBuf {
        self.dir.join(format!("v{FORMAT}-{first:020}"))
    }

    fn open_segment(&self, first: u64) -> Result<sled::Db, IndexError> {
        let dir = self.segment_dir(first);
        let at = |source| IndexError::Directory { dir: dir.clone(), source };
        let marker = self.dir.join(OPENING);
        std::fs::create_dir_all(&self.dir).map_err(at)?;
        if marker.exists() && dir.exists() {
            tracing::warn!("the index was being opened when the process ended; building it anew");
            std::fs::remove_dir_all(&dir).map_err(at)?;
        }
        std::fs::write(&marker, b"").map_err(at)?;
        let db = match open_sled(&dir) {
            Ok(db) => db,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the index is damaged; building it anew");
                if dir.exists() {
                    std::fs::remove_dir_all(&dir).map_err(at)?;
                }
                open_sled(&dir)?
            }
        };
        std::fs::remove_file(&marker).map_err(at)?;
        Ok(db)
    }

    /// Indexes what was committed since the last time.
    pub fn catch_up(&mut self, log: &Reader) -> Result<u64, IndexError> {
        let size = log.size();
        if self.next > size {
            // An index of another log, or of one that was cut: nothing in it can be trusted.
            self.segments.clear();
            std::fs::remove_dir_all(&self.dir).map_err(|source| IndexError::Directory { dir: self.dir.clone(), source })?;
            self.next = 0;
        }
        while self.next < size {
            let first = self.next - self.next % SEGMENT_ENTRIES;
            if self.segments.last().is_none_or(|(last, _)| *last < first) {
                let db = self.open_segment(first)?;
                self.segments.push((first, db));
            }
            let to = size.min(self.next + BATCH_ENTRIES).min(first + SEGMENT_ENTRIES);
            let entries = log.entries(self.next, to).map_err(|error| IndexError::Log(Box::new(error)))?;
            if let Some((_, db)) = self.segments.last() {
                insert(db, &entries, self.epoch, to).map_err(|source| IndexError::Sled { dir: self.dir.clone(), source })?;
            }
            self.next = to;
        }
        Ok(self.next)
    }

    /// Entries found by `key`, newest first, below `before`.
    pub fn find(&self, by: By, key: &str, before: Option<u64>, limit: usize) -> Result<Page, IndexError> {
        let fail = |source| IndexError::Sled { dir: self.dir.clone(), source };
        let mut seqs = Vec::new();
        let prefix = key_prefix(key);
        for (first, db) in self.segments.iter().rev() {
            let tree = db.open_tree(by.tree()).map_err(fail)?;
            let end = before.unwrap_or(u64::MAX);
            if *first >= end {
                continue;
            }
            let range = key_of(&prefix, *first)..key_of(&prefix, end);
            for found in tree.range(range).rev().take(limit - seqs.len()) {
                let (key, _) = found.map_err(fail)?;
                if let Some(seq) = key.len().checked_sub(8).and_then(|at| key[at..].try_into().ok()) {
                    seqs.push(u64::from_be_bytes(seq));
                }
            }
            if seqs.len() >= limit {
                break;
            }
        }
        Ok(Page { seqs, as_of: self.next })
    }
}

fn open_sled(dir: &Path) -> Result<sled::Db, IndexError> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(Some(1_000));
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(source)) => Err(IndexError::Sled { dir: dir.to_owned(), source }),
        Err(_) => Err(IndexError::Panicked(dir.to_owned())),
    }
}

fn read_next(db: &sled::Db) -> Option<u64> {
    let bytes = db.get("next").ok()??;
    Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))
}

fn key_prefix(key: &str) -> Vec<u8> {
    // A separator that no name contains keeps "a" from finding "ab".
    [key.as_bytes(), &[0]].concat()
}

fn key_of(prefix: &[u8], seq: u64) -> Vec<u8> {
    [prefix, &seq.to_be_bytes()].concat()
}

fn insert(db: &sled::Db, entries: &[Entry], epoch: u64, next: u64) -> sled::Result<()> {
    let mut batches: Vec<(By, sled::Batch)> = By::ALL.into_iter().map(|by| (by, sled::Batch::default())).collect();
    for entry in entries {
        for (by, key) in keys(entry, epoch) {
            if let Some((_, batch)) = batches.iter_mut().find(|(one, _)| *one == by) {
                batch.insert(key_of(&key_prefix(&key), entry.seq), &[] as &[u8]);
            }
        }
    }
    for (by, batch) in batches {
        db.open_tree(by.tree())?.apply_batch(batch)?;
    }
    // Last: a kill in between only means that the same keys are written again.
    db.insert("next", &next.to_be_bytes())?;
    Ok(())
}

/// Everything by which an entry can be found.
pub fn keys(entry: &Entry, epoch: u64) -> BTreeSet<(By, String)> {
    let mut keys = BTreeSet::from([(By::Kind, entry.body.kind().to_owned())]);
    let on = &entry.on;
    keys.extend(on.workload.iter().map(|id| (By::Workload, id.to_string())));
    keys.extend(on.target.iter().map(|name| (By::Target, name.clone())));
    keys.extend(on.attempt.iter().map(|seq| (By::Deploy, deploy_id(epoch, *seq))));
    keys.extend(entry.blobs.values().map(|digest| (By::Digest, digest.to_string())));
    match &entry.body {
        Body::Source(source) => {
            keys.insert((By::Commit, source.new.clone()));
        }
        Body::Spec(spec) => {
            keys.insert((By::Commit, spec.commit.clone()));
        }
        Body::Pin(pin) => {
            keys.insert((By::Digest, pin.digest.to_string()));
            keys.insert((By::Reference, pin.reference.clone()));
        }
        Body::TagMoved(moved) => {
            keys.insert((By::Digest, moved.seen.to_string()));
            keys.insert((By::Digest, moved.pinned.to_string()));
            keys.insert((By::Reference, moved.reference.clone()));
        }
        Body::Rollout(change) => {
            keys.insert((By::Release, change.release.to_string()));
            keys.extend(change.artifacts.values().map(|digest| (By::Digest, digest.to_string())));
        }
        Body::Attempt(holdfast_core::entry::AttemptChange::Began { release, .. }) => {
            keys.insert((By::Release, release.to_string()));
            keys.insert((By::Deploy, deploy_id(epoch, entry.seq)));
        }
        Body::Quarantine(quarantine) => {
            keys.insert((By::Release, quarantine.release.to_string()));
        }
        _ => {}
    }
    keys
}
