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
const FORMAT: u32 = 3;
/// A key has one record for so many entries: the low bits of those that have it, ascending, two bytes each. Large, so that names
/// that come again and again cost little; a record is written again with each batch of its block.
const BLOCK_BITS: u32 = 12;
const LOW_MASK: u64 = (1 << BLOCK_BITS) - 1;
/// Ledger times have a record for so many entries, eight bytes each.
const TIME_BITS: u32 = 8;

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
        let mut times: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let first = entries.first().map_or(0, |entry| entry.seq);
        for entry in entries {
            if let Body::Term(term) = &entry.body {
                epoch = term.epoch;
            }
            for (by, key) in keys(entry, epoch) {
                let record = records[by.at()].entry(key_of(&key_prefix(&key), entry.seq >> BLOCK_BITS));
                record.or_default().extend_from_slice(&low_of(entry.seq).to_be_bytes());
            }
            let block = times.entry(entry.seq >> TIME_BITS).or_default();
            block.extend_from_slice(&entry.t.to_be_bytes());
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
                        let earlier = lows(&before).take_while(|low| *low < low_of(first));
                        record = earlier.flat_map(u16::to_be_bytes).chain(record).collect();
                    }
                    batch.insert(key, record);
                }
                tree.apply_batch(batch)?;
            }
            let mut batch = sled::Batch::default();
            for (block, mut record) in times {
                if block == first >> TIME_BITS
                    && let Some(before) = self.time.get(block.to_be_bytes())?
                {
                    let kept = ((first - self.time_base(block)) * 8) as usize;
                    record = [before.get(..kept).unwrap_or_default(), &record].concat();
                }
                batch.insert(&block.to_be_bytes(), record);
            }
            self.time.apply_batch(batch)?;
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
                let mut found_lows: Vec<u16> = lows(&record).collect();
                for (tree, prefix) in &others {
                    let other: Vec<u16> = lows(&tree.get(key_of(prefix, block))?.unwrap_or_default()).collect();
                    found_lows.retain(|low| other.binary_search(low).is_ok());
                }
                let seqs = found_lows.iter().rev().map(|low| block << BLOCK_BITS | u64::from(*low));
                found.extend(seqs.filter(|seq| (from..to).contains(seq)).take(limit - found.len()));
            }
            Ok(found)
        })
    }

    /// The first entry at or after ledger time `t`.
    pub fn first_at(&self, t: u64) -> Result<Option<u64>, IndexError> {
        let Some(Progress { next, .. }) = self.progress()? else {
            return Ok(None);
        };
        let times = |block: u64| self.time.get(block.to_be_bytes()).map(Option::unwrap_or_default);
        guarded(&self.dir, || {
            // Time does not go back: the first block that ends at or after `t`.
            let (mut low, mut high) = (self.first >> TIME_BITS, next.div_ceil(1 << TIME_BITS));
            while low < high {
                let middle = low.midpoint(high);
                if last_time(&times(middle)?) < Some(t) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            let record = times(low)?;
            let before = record.chunks_exact(8).filter(|time| **time < t.to_be_bytes()[..]).count() as u64;
            let found = self.time_base(low) + before;
            Ok((found < next).then_some(found))
        })
    }

    /// The first entry of a block of times that is of this segment.
    fn time_base(&self, block: u64) -> u64 {
        (block << TIME_BITS).max(self.first)
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

fn low_of(seq: u64) -> u16 {
    (seq & LOW_MASK) as u16
}

fn lows(record: &[u8]) -> impl Iterator<Item = u16> {
    record.chunks_exact(2).map(|low| u16::from_be_bytes([low[0], low[1]]))
}

fn last_time(record: &[u8]) -> Option<u64> {
    record.last_chunk::<8>().map(|time| u64::from_be_bytes(*time))
}

fn seq_of(key: &[u8]) -> Option<u64> {
    let at = key.len().checked_sub(8)?;
    Some(u64::from_be_bytes(key[at..].try_into().ok()?))
}
