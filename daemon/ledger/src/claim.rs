//! What something outside the log's frames says of the log: so many entries, this root. Read before the log is, so that a
//! writer at work in another process can only be ahead of it.

use crate::disk::Disk;
use crate::head::{HEAD_FILE, Slot};
use crate::merkle::{self, Hash};
use crate::tlog::tile::Tiles;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Head,
    Snapshot,
    /// The published checkpoint.
    Checkpoint,
    /// An earlier checkpoint that somebody kept.
    Given,
}

#[derive(Debug, Clone)]
pub struct Claim {
    pub size: u64,
    pub root: Hash,
    pub source: Source,
    pub file: String,
    /// The log's own root at that size, once it is known.
    pub found: Option<Hash>,
}

impl Claim {
    pub fn new(source: Source, file: &str, size: u64, root: Hash) -> Self {
        let file = file.to_owned();
        Self {
            size,
            root,
            source,
            file,
            found: None,
        }
    }

    /// Whether the log is damaged, and not the claim, where they differ.
    pub fn is_witness(&self) -> bool {
        self.source != Source::Snapshot
    }
}

/// A slot of an epoch before says nothing of what came after it.
pub fn of_heads(slots: &[Slot; 2]) -> Vec<Claim> {
    let epoch = |slot: &Slot| match slot {
        Slot::Valid(head) => head.epoch,
        Slot::Empty | Slot::Damaged => 0,
    };
    let newest = epoch(&slots[0]).max(epoch(&slots[1]));
    let valid = slots.iter().filter_map(|slot| match slot {
        Slot::Valid(head) if head.epoch == newest => Some(Claim::new(Source::Head, HEAD_FILE, head.size, head.root)),
        Slot::Valid(_) | Slot::Empty | Slot::Damaged => None,
    });
    valid.collect()
}

/// Fills in what the log says at a claimed size.
pub fn settle(claims: &mut [Claim], size: u64, root: Hash) {
    for claim in claims.iter_mut().filter(|claim| claim.size == size) {
        claim.found = Some(root);
    }
}

/// Sizes that anybody claims a root for, ascending.
pub fn sizes(claims: &[Claim]) -> Vec<u64> {
    let mut sizes: Vec<u64> = claims.iter().map(|claim| claim.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Settles what is claimed of sizes between `first` and `size` by proofs out of the tiles, that lead to the known `root` of
/// `size` entries. False when a claim is left.
pub fn settle_by_tiles<D: Disk>(claims: &mut [Claim], tiles: &Tiles<D>, first: u64, size: u64, root: &Hash) -> bool {
    let open = claims
        .iter_mut()
        .filter(|claim| claim.found.is_none() && claim.size > first && claim.size < size);
    open.fold(true, |all, claim| {
        let proof = merkle::consistency_proof(tiles, claim.size, size).ok().flatten();
        let holds = proof.is_some_and(|proof| merkle::verify_consistency(claim.size, size, &claim.root, root, &proof));
        if holds {
            claim.found = Some(claim.root);
        }
        all && holds
    })
}
