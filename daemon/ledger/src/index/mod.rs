//! The sled index: where to look, never what is true. Off the write path, built again from the log whenever it is missing,
//! damaged or of another log; every answer says as of which entry it is.

mod indexer;
mod keys;
mod sealed;
mod segment;

pub use indexer::Indexer;
pub use keys::{By, Filter, keys};

use crate::disk::Disk;
use crate::merkle::leaf_hash;
use crate::reader::Reader;
use crate::store::LedgerError;
use holdfast_core::entry::{Body, Entry};
use holdfast_core::ids::Seq;
use sealed::{OpenSegments, Sealed};
use segment::{Progress, SegmentIndex, dir_of, discard};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whole blocks of the records.
const BATCH_ENTRIES: u64 = 4_096;

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
    /// Without gaps, from the first entry on.
    sealed: Vec<Sealed>,
    open_sealed: OpenSegments,
    /// Positions in `sealed` of segments whose database turned out not to be usable.
    broken: Mutex<BTreeSet<usize>>,
    /// One of these, while it is built again.
    mending: Option<Filling>,
    /// Behind the last of `sealed`.
    last: Option<Filling>,
    next: u64,
    epoch: u64,
}

/// A segment that is not complete.
struct Filling {
    segment: SegmentIndex,
    next: u64,
    epoch: u64,
    progress: Option<Progress>,
}

impl Filling {
    /// What is in the directory, or nothing when that is not of this log.
    fn open<D: Disk>(dir: &Path, first: u64, epoch: u64, log: &Reader<D>) -> Result<Self, IndexError> {
        let mut segment = SegmentIndex::open(dir, first)?;
        let mut progress = segment.progress()?.filter(|progress| progress.next > first);
        if let Some(found) = progress
            && !is_of(&found, log)
        {
            tracing::warn!(first, "the index is of another log; building it anew");
            drop(segment);
            discard(dir, first)?;
            segment = SegmentIndex::open(dir, first)?;
            progress = None;
        }
        Ok(Self {
            segment,
            next: progress.map_or(first, |progress| progress.next),
            epoch: progress.map_or(epoch, |progress| progress.epoch),
            progress,
        })
    }

    /// Indexes the next portion below `end`. False when there is nothing left to do.
    fn advance<D: Disk>(&mut self, log: &Reader<D>, end: u64) -> Result<bool, IndexError> {
        let to = log.size().min(self.next + BATCH_ENTRIES).min(end);
        if self.next >= to {
            return Ok(false);
        }
        let raw = log.raw(self.next, to).map_err(from_log)?;
        let parsed = raw
            .iter()
            .zip(self.next..)
            .map(|(bytes, seq)| Entry::parse(bytes).map_err(|source| LedgerError::Unreadable { seq, source }));
        let entries: Vec<Entry> = parsed.collect::<Result<_, _>>().map_err(from_log)?;
        if let Some(last) = raw.last() {
            let progress = self.segment.insert(&entries, leaf_hash(last), self.epoch)?;
            (self.next, self.epoch, self.progress) = (progress.next, progress.epoch, Some(progress));
        }
        Ok(true)
    }
}

impl Index {
    /// Opens the last segment that there is, and takes the others by their notes. What cannot be used is built anew.
    pub fn open<D: Disk>(dir: &Path, log: &Reader<D>) -> Result<Self, IndexError> {
        let mut index = Self {
            dir: dir.to_owned(),
            segment_entries: log.options().segment_entries.max(1),
            sealed: Vec::new(),
            open_sealed: OpenSegments::default(),
            broken: Mutex::default(),
            mending: None,
            last: None,
            next: 0,
            epoch: 1,
        };
        loop {
            let first = index.next;
            let noted = sealed::read_note(dir, first)
                .filter(|progress| progress.next == first + index.segment_entries && is_of(progress, log));
            if let Some(progress) = noted {
                index.seal(first, progress, log)?;
                continue;
            }
            if !dir_of(dir, first).exists() {
                return Ok(index);
            }
            index.take_up(log)?;
            // Complete, but the process ended before it noted so.
            if !index.seal_last(log)? {
                return Ok(index);
            }
        }
    }

    fn end_of(&self, first: u64) -> u64 {
        first + self.segment_entries
    }

    fn seal<D: Disk>(&mut self, first: u64, progress: Progress, log: &Reader<D>) -> Result<(), IndexError> {
        let last_t = log.entry(progress.next - 1).map_err(from_log)?.t;
        self.sealed.push(Sealed { first, progress, last_t });
        (self.next, self.epoch) = (progress.next, progress.epoch);
        Ok(())
    }

    /// Opens the segment that begins at `next`.
    fn take_up<D: Disk>(&mut self, log: &Reader<D>) -> Result<(), IndexError> {
        let filling = Filling::open(&self.dir, self.next, self.epoch, log)?;
        (self.next, self.epoch) = (filling.next, filling.epoch);
        self.last = Some(filling);
        Ok(())
    }

    /// True when the last segment was complete, and is noted so from now on.
    fn seal_last<D: Disk>(&mut self, log: &Reader<D>) -> Result<bool, IndexError> {
        let complete = self.last.as_ref().and_then(|last| {
            let is_complete = last.next == self.end_of(last.segment.first);
            last.progress
                .filter(|_| is_complete)
                .map(|progress| (last.segment.first, progress))
        });
        let Some((first, progress)) = complete else { return Ok(false) };
        sealed::write_note(&self.dir, first, &progress)?;
        self.last = None;
        self.seal(first, progress, log)?;
        Ok(true)
    }

    fn broken(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries below it are indexed.
    pub fn as_of(&self) -> Seq {
        let broken = self.broken().first().map(|at| self.sealed[*at].first);
        broken.unwrap_or(self.next)
    }

    /// Complete segments that are open.
    pub fn open_segments(&self) -> usize {
        self.open_sealed.count()
    }

    /// Indexes the next portion of what was committed. False when there is nothing left to do.
    pub fn advance<D: Disk>(&mut self, log: &Reader<D>) -> Result<bool, IndexError> {
        if self.mend(log)? {
            return Ok(true);
        }
        if self.next >= log.size() {
            return Ok(false);
        }
        let Some(last) = &mut self.last else {
            self.take_up(log)?;
            return Ok(true);
        };
        let end = last.segment.first + self.segment_entries;
        last.advance(log, end)?;
        (self.next, self.epoch) = (last.next, last.epoch);
        self.seal_last(log)?;
        Ok(true)
    }

    /// The next portion of a segment that has to be built again. False when there is none.
    fn mend<D: Disk>(&mut self, log: &Reader<D>) -> Result<bool, IndexError> {
        let Some(at) = self.broken().first().copied() else {
            return Ok(false);
        };
        let first = self.sealed[at].first;
        let end = self.end_of(first);
        if self.mending.is_none() {
            self.open_sealed.close(first);
            discard(&self.dir, first)?;
            let epoch = at.checked_sub(1).map_or(1, |before| self.sealed[before].progress.epoch);
            self.mending = Some(Filling::open(&self.dir, first, epoch, log)?);
        }
        let Some(mending) = &mut self.mending else { return Ok(false) };
        if mending.advance(log, end)? {
            return Ok(true);
        }
        if let Some(progress) = mending.progress {
            sealed::write_note(&self.dir, first, &progress)?;
            self.sealed[at].progress = progress;
        }
        self.mending = None;
        self.broken().remove(&at);
        Ok(true)
    }

    pub fn catch_up<D: Disk>(&mut self, log: &Reader<D>) -> Result<Seq, IndexError> {
        while self.advance(log)? {}
        Ok(self.next)
    }

    /// Throws away what was being written to; `open` and `catch_up` build it again. Complete segments stay.
    pub fn discard_open(mut self) -> Result<(), IndexError> {
        // The one behind the complete ones, whether it could be opened or not.
        let mut firsts = vec![self.sealed.last().map_or(0, |sealed| self.end_of(sealed.first))];
        firsts.extend(self.mending.take().map(|mending| mending.segment.first));
        self.last = None;
        firsts.into_iter().try_for_each(|first| discard(&self.dir, first))
    }

    /// Entries that `filter` has, newest first, below `before`.
    pub fn query(&self, filter: &Filter, before: Option<Seq>, limit: usize) -> Result<Page, IndexError> {
        loop {
            if let Some(page) = self.query_once(filter, before, limit)? {
                return Ok(page);
            }
        }
    }

    /// None when a segment turned out to be broken: the answer is as of an earlier entry then.
    fn query_once(&self, filter: &Filter, before: Option<Seq>, limit: usize) -> Result<Option<Page>, IndexError> {
        let as_of = self.as_of();
        let (mut from, mut to) = (0, before.unwrap_or(u64::MAX).min(as_of));
        // Ledger time never decreases: a span of it is a span of entries.
        if let Some(t) = filter.from_t {
            let Some(seq) = self.first_at(t)? else { return Ok(None) };
            from = seq;
        }
        if let Some(t) = filter.until_t {
            let Some(seq) = self.first_at(t)? else { return Ok(None) };
            to = to.min(seq);
        }
        let mut seqs = Vec::new();
        if let Some(last) = &self.last {
            let from = from.max(last.segment.first);
            if from < to && limit > 0 {
                seqs = last.segment.find(&filter.keys, from, to, limit)?;
            }
        }
        for at in (0..self.sealed.len()).rev() {
            let first = self.sealed[at].first;
            let (from, to) = (from.max(first), to.min(self.end_of(first)));
            if from < to && seqs.len() < limit {
                let wanted = limit - seqs.len();
                let found = self.ask_sealed(at, |segment| segment.find(&filter.keys, from, to, wanted))?;
                let Some(found) = found else { return Ok(None) };
                seqs.extend(found);
            }
        }
        Ok(Some(Page { seqs, as_of }))
    }

    fn ask_sealed<T>(
        &self,
        at: usize,
        ask: impl FnOnce(&SegmentIndex) -> Result<T, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        let answer = self.open_sealed.ask(&self.dir, &self.sealed[at], ask)?;
        if answer.is_none() {
            tracing::warn!(first = self.sealed[at].first, "a segment of the index is built anew");
            self.broken().insert(at);
        }
        Ok(answer)
    }

    /// The first entry at or after ledger time `t`. None when a segment turned out to be broken.
    fn first_at(&self, t: u64) -> Result<Option<u64>, IndexError> {
        let at = self.sealed.partition_point(|sealed| sealed.last_t < t);
        if at < self.sealed.len() {
            if self.sealed[at].first >= self.as_of() {
                return Ok(Some(self.as_of()));
            }
            let found = self.ask_sealed(at, |segment| segment.first_at(t))?;
            return Ok(found.map(|seq| seq.unwrap_or(self.next)));
        }
        let found = match &self.last {
            Some(last) => last.segment.first_at(t)?,
            None => None,
        };
        Ok(Some(found.unwrap_or(self.next)))
    }

    /// Distinct keys that begin with `start`, ascending, of the newest segments: for names that people shorten.
    pub fn complete(&self, by: By, start: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        let mut found = BTreeSet::new();
        if let Some(last) = &self.last {
            found.extend(last.segment.keys(by, start, limit)?);
        }
        for at in (0..self.sealed.len()).rev().take(sealed::OPEN_MAX) {
            if !self.broken().contains(&at) {
                found.extend(
                    self.ask_sealed(at, |segment| segment.keys(by, start, limit))?
                        .into_iter()
                        .flatten(),
                );
            }
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
