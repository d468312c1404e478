//! Reads what is committed, from any thread, while the writer goes on; and proves it.

use crate::blobs;
use crate::disk::{Disk, RealDisk};
use crate::log::{LogError, Shared, read_lock, read_range, write_lock};
use crate::mark;
use crate::merkle::{self, Frontier, Hash, Subtrees, leaf_hash};
use crate::options::{Options, Room};
use crate::store::LedgerError;
use crate::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::tlog::proof::TlogProof;
use crate::tlog::tile::{self, Tiles};
use crate::verify::{Trust, VerifyReport, verify_paced};
use crate::walk::first_of;
use holdfast_core::entry::Entry;
use holdfast_core::ids::Digest;

/// Entries are read from disk in portions of so many bytes.
const PORTION_BYTES: usize = 4 << 20;

#[derive(Clone)]
pub struct Reader<D = RealDisk> {
    pub(crate) disk: D,
    pub(crate) shared: Shared,
    pub(crate) options: Options,
}

impl<D: Disk> Reader<D> {
    /// Number of committed entries.
    pub fn size(&self) -> u64 {
        read_lock(&self.shared).size
    }

    /// Size, and the RFC 6962 root over so many entries.
    pub fn head(&self) -> (u64, Hash) {
        let published = read_lock(&self.shared);
        (published.size, published.root)
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Canonical bytes of entries from `from` on, below `to`: as many as fit a portion, at least one if there is one.
    pub fn raw(&self, from: u64, to: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        Ok(read_range(&self.disk, &self.shared, from, to, PORTION_BYTES)?)
    }

    pub fn raw_entry(&self, seq: u64) -> Result<Vec<u8>, LedgerError> {
        let found = self.raw(seq, seq.saturating_add(1))?.pop();
        found.ok_or_else(|| LogError::NoSuchEntry { seq, size: self.size() }.into())
    }

    pub fn entry(&self, seq: u64) -> Result<Entry, LedgerError> {
        parse(seq, &self.raw_entry(seq)?)
    }

    /// All committed entries in `from..to`.
    pub fn entries(&self, from: u64, to: u64) -> Result<Vec<Entry>, LedgerError> {
        self.iter(from, to).collect()
    }

    /// The same one by one, in bounded memory. Checksums are checked; an error ends it.
    pub fn iter(&self, from: u64, to: u64) -> impl Iterator<Item = Result<Entry, LedgerError>> + use<'_, D> {
        self.iter_raw(from, to)
            .map(|item| item.and_then(|(seq, bytes)| parse(seq, &bytes)))
    }

    /// Sequence numbers and canonical bytes.
    pub fn iter_raw(&self, from: u64, to: u64) -> impl Iterator<Item = Result<(u64, Vec<u8>), LedgerError>> + use<'_, D> {
        let to = to.min(self.size());
        let mut next = from;
        let mut portion = Vec::new().into_iter();
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || next >= to {
                return None;
            }
            if portion.len() == 0 {
                match self.raw(next, to) {
                    Ok(more) => portion = more.into_iter(),
                    Err(error) => {
                        failed = true;
                        return Some(Err(error));
                    }
                }
            }
            let bytes = portion.next()?;
            next += 1;
            Some(Ok((next - 1, bytes)))
        })
    }

    /// Content of a blob, its hash checked.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, LedgerError> {
        Ok(blobs::get(&self.disk, digest, self.options.blob_max_bytes)?)
    }

    /// Reads everything, beside a writer at work, and stops the writing when something acknowledged turns out to be damaged:
    /// what a boot does not read again. Nothing is repaired; the next boot reads what was damaged. `pace` hears of the bytes
    /// read, and may take its time.
    pub fn scrub(&self, trust: &Trust, pace: &mut dyn FnMut(u64)) -> Result<VerifyReport, LedgerError> {
        let report = verify_paced(&self.disk, &self.options, trust, true, pace)?;
        if let Some(loss) = report.loss() {
            tracing::error!(seq = loss.first_damaged_seq, what = loss.what, "LEDGER_LOSS");
            if let Some(first) = first_of(&loss.file) {
                mark::remove(&self.disk, first).map_err(|source| LogError::Write {
                    path: mark::MARK_DIR.into(),
                    source,
                })?;
            }
            write_lock(&self.shared).loss.get_or_insert(loss);
        }
        Ok(report)
    }

    pub fn room(&self) -> Result<Room, LedgerError> {
        let available = self.disk.available_bytes().map_err(|source| LogError::Read {
            path: ".".into(),
            source,
        })?;
        Ok(Room {
            available_bytes: available,
            reserve_bytes: self.options.reserve_bytes,
        })
    }

    /// Root over the first `size` entries.
    pub fn root_at(&self, size: u64) -> Result<Hash, LedgerError> {
        let (now, root) = self.head();
        self.must_have(size)?;
        if size == now {
            return Ok(root);
        }
        self.proven(|tree| {
            let old = merkle::root_of(tree, size)?;
            let proof = merkle::consistency_proof(tree, size, now)?;
            let holds = size == 0 || proof.is_some_and(|proof| merkle::verify_consistency(size, now, &old, &root, &proof));
            Ok((old, holds))
        })
    }

    /// Proof that entry `seq` is in the tree of `size` entries.
    pub fn inclusion_proof(&self, seq: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        self.must_have(size)?;
        let leaf = leaf_hash(&self.raw_entry(seq)?);
        let root = self.root_at(size)?;
        self.proven(|tree| {
            let path = merkle::inclusion_proof(tree, seq, size)?.ok_or(LogError::NoSuchEntry { seq, size })?;
            let holds = merkle::verify_inclusion(leaf, seq, size, &path, &root);
            Ok((path, holds))
        })
    }

    /// Proof that the tree of `old` entries is the beginning of the tree of `new`.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
        let (old_root, new_root) = (self.root_at(old)?, self.root_at(new)?);
        self.proven(|tree| {
            let proof = merkle::consistency_proof(tree, old, new)?;
            let proof = proof.ok_or(LogError::NoSuchEntry { seq: old, size: new })?;
            let holds = merkle::verify_consistency(old, new, &old_root, &new_root, &proof);
            Ok((proof, holds))
        })
    }

    /// The entry's place under a checkpoint of this log, for somebody who has neither.
    pub fn tlog_proof(&self, seq: u64, signed: &SignedCheckpoint) -> Result<TlogProof, LedgerError> {
        let Checkpoint { size, root, .. } = signed.checkpoint;
        if self.root_at(size)? != root {
            return Err(LedgerError::ForeignCheckpoint { size });
        }
        Ok(TlogProof {
            extra: None,
            index: seq,
            path: self.inclusion_proof(seq, size)?,
            checkpoint: signed.note.to_string(),
        })
    }

    fn must_have(&self, size: u64) -> Result<(), LedgerError> {
        if size > self.size() {
            let seq = size.saturating_sub(1);
            return Err(LogError::NoSuchEntry { seq, size: self.size() }.into());
        }
        Ok(())
    }

    /// Makes something out of tiles; and if it does not hold, because they are damaged or of another log, out of the log.
    fn proven<T>(&self, make: impl Fn(&LogTree<'_, D>) -> Result<(T, bool), LedgerError>) -> Result<T, LedgerError> {
        let tiles = Tiles::new(self.disk.clone(), tile::published_size(&self.disk));
        if let Ok((made, true)) = make(&LogTree { log: self, tiles }) {
            return Ok(made);
        }
        let tiles = Tiles::new(self.disk.clone(), 0);
        match make(&LogTree { log: self, tiles })? {
            (made, true) => Ok(made),
            // Every frame has a right checksum, and still they are not what was committed.
            (_, false) => Err(LogError::Rewritten.into()),
        }
    }
}

/// Subtrees from tiles, as far as they go, and from the log.
struct LogTree<'a, D> {
    log: &'a Reader<D>,
    tiles: Tiles<D>,
}

impl<D: Disk> Subtrees for LogTree<'_, D> {
    type Error = LedgerError;

    fn subtree(&self, level: u32, index: u64) -> Result<Hash, LedgerError> {
        let (from, to) = (index << level, (index + 1) << level);
        if to <= self.tiles.size() {
            return Ok(self.tiles.subtree(level, index)?);
        }
        if from < self.tiles.size() {
            let [left, right] = [2 * index, 2 * index + 1].map(|index| self.subtree(level - 1, index));
            return Ok(merkle::node_hash(&left?, &right?));
        }
        let mut frontier = Frontier::default();
        for item in self.log.iter_raw(from, to) {
            frontier.push(leaf_hash(&item?.1));
        }
        Ok(frontier.root())
    }
}

fn parse(seq: u64, bytes: &[u8]) -> Result<Entry, LedgerError> {
    Entry::parse(bytes).map_err(|source| LedgerError::Unreadable { seq, source })
}
