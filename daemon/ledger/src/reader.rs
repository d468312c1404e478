//! Reads what is committed, from any thread, while the writer goes on; and proves it.

use crate::blobs;
use crate::disk::{Disk, RealDisk};
use crate::log::{LogError, Shared, read_lock, read_range};
use crate::merkle::{self, Frontier, Hash, leaf_hash};
use crate::options::{Options, Room};
use crate::store::LedgerError;
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
        if size == now {
            return Ok(root);
        }
        let mut frontier = Frontier::default();
        for leaf in self.leaves(size)? {
            frontier.push(leaf);
        }
        Ok(frontier.root())
    }

    /// Proof that entry `seq` is in the tree of `size` entries.
    pub fn inclusion_proof(&self, seq: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        let leaves = self.leaves(size)?;
        merkle::inclusion_proof(&leaves, seq as usize).ok_or_else(|| LogError::NoSuchEntry { seq, size }.into())
    }

    /// Proof that the tree of `old` entries is the beginning of the tree of `new`.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
        let leaves = self.leaves(new)?;
        merkle::consistency_proof(&leaves, old as usize).ok_or_else(|| LogError::NoSuchEntry { seq: old, size: new }.into())
    }

    fn leaves(&self, size: u64) -> Result<Vec<Hash>, LedgerError> {
        if size > self.size() {
            return Err(LogError::NoSuchEntry {
                seq: size.saturating_sub(1),
                size: self.size(),
            }
            .into());
        }
        self.iter_raw(0, size)
            .map(|item| item.map(|(_, bytes)| leaf_hash(&bytes)))
            .collect()
    }
}

fn parse(seq: u64, bytes: &[u8]) -> Result<Entry, LedgerError> {
    Entry::parse(bytes).map_err(|source| LedgerError::Unreadable { seq, source })
}
