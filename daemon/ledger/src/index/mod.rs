//! The sled index: where to look, never what is true. Off the write path, built again from the log whenever it is missing,
//! damaged or of another log; every answer says as of which entry it is.

mod indexer;
mod keys;
mod segment;

pub use indexer::Indexer;
pub use keys::{By, Filter, keys};

use crate::disk::Disk;
use crate::merkle::leaf_hash;
use crate::reader::Reader;
use crate::store::LedgerError;
use holdfast_core::entry::{Body, Entry};
use holdfast_core::ids::Seq;
use segment::{Progress, SegmentIndex, dir_of, discard};
use std::io;
use std::path::{Path, PathBuf};

const BATCH_ENTRIES: u64 = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index in {} cannot be used", dir.display())]
    Sled { dir: PathBuf, source: sled::Error },
    #[error("the index's directory {} cannot be used", dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error("sled panicked in {}", .0.display())]
    Panicked(PathBuf),
    #[error("the log could not be read")]
    Log(#[source] Box<LedgerError>),
}

fn from_log(error: LedgerError) -> IndexError {
    IndexError::Log(Box::new(error))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub seqs: Vec<Seq>,
    /// The answer is whole for entries below this; later ones are not known to the index yet.
    pub as_of: Seq,
}

pub struct Index {
    dir: PathBuf,
    segment_entries: u64,
    /// Without gaps; all but the last are full.
    segments: Vec<SegmentIndex>,
    next: u64,
    epoch: u64,
}

impl Index {
    /// Opens what there is, and throws away what cannot be opened or is not of this log.
    pub fn open<D: Disk>(dir: &Path, log: &Reader<D>) -> Result<Self, IndexError> {
        let mut index = Self {
            dir: dir.to_owned(),
            segment_entries: log.options().segment_entries.max(1),
            segments: Vec::new(),
            next: 0,
            epoch: 1,
        };
        while dir_of(dir, index.next).exists() && index.take_up(log)? {}
        Ok(index)
    }

    /// Opens the segment that begins at `next`. True when it is full, so that there may be another.
    fn take_up<D: Disk>(&mut self, log: &Reader<D>) -> Result<bool, IndexError> {
        let first = self.next;
        let mut segment = SegmentIndex::open(&self.dir, first)?;
        let mut progress = segment.progress()?.filter(|progress| progress.next > first);
        if let Some(found) = progress
            && !is_of(&found, log)
        {
            tracing::warn!(first, "the index is of another log; building it anew");
            drop(segment);
            discard(&self.dir, first)?;
            segment = SegmentIndex::open(&self.dir, first)?;
            progress = None;
        }
        self.segments.push(segment);
        if let Some(progress) = progress {
            self.next = progress.next;
            self.epoch = progress.epoch;
        }
        Ok(self.next == first + self.segment_entries)
    }

    /// Entries below it are indexed.
    pub fn as_of(&self) -> Seq {
        self.next
    }

    /// Indexes the next portion of what was committed. False when there is nothing left to do.
    pub fn advance<D: Disk>(&mut self, log: &Reader<D>) -> Result<bool, IndexError> {
        let size = log.size();
        if self.next >= size {
            return Ok(false);
        }
        let end = match self.segments.last() {
            Some(last) if self.next < last.first + self.segment_entries => last.first + self.segment_entries,
            _ => {
                self.take_up(log)?;
                return Ok(true);
            }
        };
        let to = size.min(self.next + BATCH_ENTRIES).min(end);
        let raw = log.raw(self.next, to).map_err(from_log)?;
        let parsed = raw
            .iter()
            .zip(self.next..)
            .map(|(bytes, seq)| Entry::parse(bytes).map_err(|source| LedgerError::Unreadable { seq, source }));
        let entries: Vec<Entry> = parsed.collect::<Result<_, _>>().map_err(from_log)?;
        if let (Some(last), Some(segment)) = (raw.last(), self.segments.last()) {
            let progress = segment.insert(&entries, leaf_hash(last), self.epoch)?;
            self.next = progress.next;
            self.epoch = progress.epoch;
        }
        Ok(true)
    }

    pub fn catch_up<D: Disk>(&mut self, log: &Reader<D>) -> Result<Seq, IndexError> {
        while self.advance(log)? {}
        Ok(self.next)
    }

    /// Throws everything away; `catch_up` builds it again.
    pub fn reset(&mut self) -> Result<(), IndexError> {
        let mut firsts: Vec<u64> = self.segments.iter().map(|segment| segment.first).collect();
        // The one that could not be opened, as well.
        firsts.push(self.next - self.next % self.segment_entries);
        self.segments.clear();
        self.next = 0;
        self.epoch = 1;
        firsts.into_iter().try_for_each(|first| discard(&self.dir, first))
    }

    /// Entries that `filter` has, newest first, below `before`.
    pub fn query(&self, filter: &Filter, before: Option<Seq>, limit: usize) -> Result<Page, IndexError> {
        let (mut from, mut to) = (0, before.unwrap_or(u64::MAX).min(self.next));
        // Ledger time never decreases: a span of it is a span of entries.
        if let Some(t) = filter.from_t {
            from = self.first_at(t)?;
        }
        if let Some(t) = filter.until_t {
            to = to.min(self.first_at(t)?);
        }
        let mut seqs = Vec::new();
        for segment in self.segments.iter().rev() {
            let (from, to) = (from.max(segment.first), to.min(segment.first + self.segment_entries));
            if from < to && seqs.len() < limit {
                seqs.extend(segment.find(&filter.keys, from, to, limit - seqs.len())?);
            }
        }
        Ok(Page { seqs, as_of: self.next })
    }

    fn first_at(&self, t: u64) -> Result<u64, IndexError> {
        for segment in &self.segments {
            if let Some(seq) = segment.first_at(t)? {
                return Ok(seq);
            }
        }
        Ok(self.next)
    }

    /// Distinct keys that begin with `start`, ascending: for names that people shorten.
    pub fn complete(&self, by: By, start: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        let mut found = std::collections::BTreeSet::new();
        for segment in &self.segments {
            found.extend(segment.keys(by, start, limit)?);
        }
        Ok(found.into_iter().take(limit).collect())
    }
}

fn is_of<D: Disk>(progress: &Progress, log: &Reader<D>) -> bool {
    progress
        .next
        .checked_sub(1)
        .and_then(|last| log.raw_entry(last).ok())
        .is_some_and(|bytes| leaf_hash(&bytes) == progress.last_leaf)
}

/// The same question without an index, for a copy of the directory: reads the log from its beginning.
pub fn scan<D: Disk>(log: &Reader<D>, filter: &Filter, before: Option<Seq>, limit: usize) -> Result<Page, LedgerError> {
    let as_of = log.size();
    let mut found = std::collections::VecDeque::new();
    let mut epoch = 1;
    for entry in log.iter(0, before.unwrap_or(u64::MAX).min(as_of)) {
        let entry = entry?;
        if let Body::Term(term) = &entry.body {
            epoch = term.epoch;
        }
        if filter.matches(&entry, epoch) {
            found.push_front(entry.seq);
            found.truncate(limit);
        }
    }
    Ok(Page {
        seqs: found.into(),
        as_of,
    })
}
