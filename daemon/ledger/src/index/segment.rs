//! One sled database for the entries of one segment. sled 0.34 cuts torn tails without a word, panics on damage and can be
//! damaged by a kill while it opens, so nothing it says is trusted to be complete: a marker that survives an opening, an
//! error or a panic means that the directory is thrown away and filled again from the log.

use super::IndexError;
use super::keys::{By, keys};
use crate::merkle::Hash;
use holdfast_core::entry::{Body, Entry};
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const CACHE_BYTES: u64 = 32 << 20;
const META: &str = "meta";
const TIME: &str = "time";
const PROGRESS: &str = "progress";
/// Part of the directory's name: another layout never meets these bytes.
const FORMAT: u32 = 2;
/// A key has one record for so many entries: their low bytes, ascending.
const BLOCK_BITS: u32 = 8;

/// How far a segment has come, and of which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Entries below it are indexed.
    pub next: u64,
    /// Leaf hash of the last of them.
    pub last_leaf: Hash,
    /// Epoch after the last of them.
    pub epoch: u64,
}

impl Progress {
    pub fn to_bytes(self) -> Vec<u8> {
        [&self.next.to_be_bytes()[..], &self.last_leaf, &self.epoch.to_be_bytes()].concat()
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let u64_at = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let last_leaf = bytes.get(8..40)?.try_into().ok()?;
        (bytes.len() == 48).then_some(Self {
            next: u64_at(0)?,
            last_leaf,
            epoch: u64_at(40)?,
        })
    }
}

pub struct SegmentIndex {
    pub first: u64,
    dir: PathBuf,
    meta: sled::Tree,
    time: sled::Tree,
    trees: Vec<sled::Tree>,
    // Last: a tree must not outlive what it lies in.
    _db: sled::Db,
}

pub fn dir_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("v{FORMAT}-{first:020}"))
}

fn marker_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("v{FORMAT}-{first:020}.opening"))
}

/// Beside a complete segment.
pub fn note_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("v{FORMAT}-{first:020}.complete"))
}

/// Throws a segment's index away.
pub fn discard(dir: &Path, first: u64) -> Result<(), IndexError> {
    match std::fs::remove_file(note_of(dir, first)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(IndexError::Directory {
                dir: dir.to_owned(),
                source,
            });
        }
        _ => {}
    }
    let segment_dir = dir_of(dir, first);
    match std::fs::remove_dir_all(&segment_dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(IndexError::Directory {
            dir: segment_dir,
            source,
        }),
        _ => Ok(()),
    }
}

impl SegmentIndex {
    /// Opens, or makes anew what cannot be opened.
    pub fn open(dir: &Path, first: u64) -> Result<Self, IndexError> {
        let at = |source| IndexError::Directory {
            dir: dir.to_owned(),
            source,
        };
        let marker = marker_of(dir, first);
        std::fs::create_dir_all(dir).map_err(at)?;
        if marker.exists() && dir_of(dir, first).exists() {
            tracing::warn!(first, "the index was being opened when the process ended; building it anew");
            discard(dir, first)?;
        }
        std::fs::write(&marker, b"").map_err(at)?;
        let opened = Self::open_once(dir, first).or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                first,
                "the index cannot be used; building it anew"
            );
            discard(dir, first)?;
            Self::open_once(dir, first)
        })?;
        std::fs::remove_file(&marker).map_err(at)?;
        Ok(opened)
    }

    fn open_once(dir: &Path, first: u64) -> Result<Self, IndexError> {
        let dir = dir_of(dir, first);
        guarded(&dir, || {
            let db = sled::Config::new()
                .path(&dir)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(500))
                .open()?;
            let trees = By::ALL
                .iter()
                .map(|by| db.open_tree(by.name()))
                .collect::<sled::Result<_>>()?;
            Ok(Self {
                first,
                dir: dir.clone(),
                meta: db.open_tree(META)?,
                time: db.open_tree(TIME)?,
                trees,
                _db: db,
            })
        })
    }

    pub fn progress(&self) -> Result<Option<Progress>, IndexError> {
        let bytes = guarded(&self.dir, || self.meta.get(PROGRESS))?;
        Ok(bytes.and_then(|bytes| Progress::parse(&bytes)))
    }

    /// Adds entries, and only then says that it has them: a kill in between means that the same records are written again.
    pub fn insert(&self, entries: &[Entry], last_leaf: Hash, mut epoch: u64) -> Result<Progress, IndexError> {
        let mut records: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = vec![BTreeMap::new(); self.trees.len()];
        let mut times = sled::Batch::default();
        let mut last_t = None;
        let first = entries.first().map_or(0, |entry| entry.seq);
        for entry in entries {
            if let Body::Term(term) = &entry.body {
                epoch = term.epoch;
            }
            for (by, key) in keys(entry, epoch) {
                let record = records[by.at()].entry(key_of(&key_prefix(&key), entry.seq >> BLOCK_BITS));
                record.or_default().push(entry.seq as u8);
            }
            // The first of those that came at the same time is enough to find them.
            if last_t.replace(entry.t) != Some(entry.t) {
                times.insert(key_of(&entry.t.to_be_bytes(), entry.seq), &[] as &[u8]);
            }
        }
        let next = first + entries.len() as u64;
        let progress = Progress { next, last_leaf, epoch };
        guarded(&self.dir, || {
            for (tree, records) in self.trees.iter().zip(records) {
                let mut batch = sled::Batch::default();
                for (key, mut record) in records {
                    // The block's beginning may have been indexed before.
                    if seq_of(&key) == Some(first >> BLOCK_BITS)
                        && let Some(before) = tree.get(&key)?
                    {
                        let earlier = before.iter().filter(|low| **low < first as u8).copied();
                        record = earlier.chain(record).collect();
                    }
                    batch.insert(key, record);
                }
                tree.apply_batch(batch)?;
            }
            self.time.apply_batch(times)?;
            self.meta.insert(PROGRESS, progress.to_bytes())
        })?;
        Ok(progress)
    }

    /// Entries in `from..to` that have all of `keys`, newest first.
    pub fn find(&self, keys: &[(By, String)], from: u64, to: u64, limit: usize) -> Result<Vec<u64>, IndexError> {
        let Some(((by, key), others)) = keys.split_first() else {
            return Ok((from..to).rev().take(limit).collect());
        };
        let prefix = key_prefix(key);
        let others: Vec<(&sled::Tree, Vec<u8>)> = others
            .iter()
            .map(|(by, key)| (&self.trees[by.at()], key_prefix(key)))
            .collect();
        guarded(&self.dir, || {
            let mut found = Vec::new();
            let blocks = key_of(&prefix, from >> BLOCK_BITS)..=key_of(&prefix, to.saturating_sub(1) >> BLOCK_BITS);
            for item in self.trees[by.at()].range(blocks).rev() {
                if found.len() >= limit {
                    break;
                }
                let (key, record) = item?;
                let Some(block) = seq_of(&key) else { continue };
                let mut lows = record.to_vec();
                for (tree, prefix) in &others {
                    let other = tree.get(key_of(prefix, block))?.unwrap_or_default();
                    lows.retain(|low| other.binary_search(low).is_ok());
                }
                let seqs = lows.iter().rev().map(|low| block << BLOCK_BITS | u64::from(*low));
                found.extend(seqs.filter(|seq| (from..to).contains(seq)).take(limit - found.len()));
            }
            Ok(found)
        })
    }

    /// The first entry at or after ledger time `t`.
    pub fn first_at(&self, t: u64) -> Result<Option<u64>, IndexError> {
        guarded(&self.dir, || match self.time.range(key_of(&t.to_be_bytes(), 0)..).next() {
            Some(item) => Ok(seq_of(&item?.0)),
            None => Ok(None),
        })
    }

    /// Distinct keys that begin with `start`, ascending.
    pub fn keys(&self, by: By, start: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        guarded(&self.dir, || {
            let mut found = Vec::new();
            let mut from = start.as_bytes().to_vec();
            while found.len() < limit {
                let Some(item) = self.trees[by.at()].range(from..).next() else {
                    break;
                };
                let (key, _) = item?;
                let text = &key[..key.len().saturating_sub(9)];
                if !text.starts_with(start.as_bytes()) {
                    break;
                }
                found.push(String::from_utf8_lossy(text).into_owned());
                // Just above every entry of this key.
                from = [text, &[1]].concat();
            }
            Ok(found)
        })
    }
}

/// sled panics where others answer errors.
fn guarded<T>(dir: &Path, work: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(IndexError::Sled {
            dir: dir.to_owned(),
            source,
        }),
        Err(_) => Err(IndexError::Panicked(dir.to_owned())),
    }
}

/// The text, and a separator that keeps "a" from finding "ab".
fn key_prefix(key: &str) -> Vec<u8> {
    let mut prefix = key.replace('\0', "\u{fffd}").into_bytes();
    prefix.push(0);
    prefix
}

fn key_of(prefix: &[u8], seq: u64) -> Vec<u8> {
    [prefix, &seq.to_be_bytes()].concat()
}

fn seq_of(key: &[u8]) -> Option<u64> {
    let at = key.len().checked_sub(8)?;
    Some(u64::from_be_bytes(key[at..].try_into().ok()?))
}
