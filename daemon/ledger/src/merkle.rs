//! The Merkle tree of RFC 6962 section 2.1 over the entries' bytes: incremental root, inclusion and consistency proofs.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0u8]).chain_update(entry).finalize().into()
}

pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([1u8])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// Root of the empty tree.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The complete subtrees on the right edge, largest first: all that appending needs to remember.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// `peaks` as `peaks()` gave them. None when their number does not fit the size.
    pub fn restore(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        let mut size = self.size;
        while size & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                node = node_hash(&left, &node);
            }
            size >>= 1;
        }
        self.peaks.push(node);
        self.size += 1;
    }

    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => empty_root(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

/// Root over a slice of leaf hashes.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier.root()
}

/// Where complete subtrees come from: tiles, the log, or a slice of leaf hashes.
pub trait Subtrees {
    type Error;

    /// The hash over the leaves `index << level` up to `(index + 1) << level`.
    fn subtree(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

impl Subtrees for [Hash] {
    type Error = std::convert::Infallible;

    fn subtree(&self, level: u32, index: u64) -> Result<Hash, Self::Error> {
        let from = (index << level) as usize;
        Ok(root(&self[from..from + (1 << level)]))
    }
}

/// Largest power of two below `n`, for n > 1.
fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// Root over the first `size` leaves.
pub fn root_of<S: Subtrees + ?Sized>(tree: &S, size: u64) -> Result<Hash, S::Error> {
    if size == 0 {
        Ok(empty_root())
    } else {
        range_root(tree, 0, size)
    }
}

/// `from` is a multiple of the largest power of two that fits the range.
fn range_root<S: Subtrees + ?Sized>(tree: &S, from: u64, to: u64) -> Result<Hash, S::Error> {
    let leaves = to - from;
    if leaves.is_power_of_two() {
        let level = leaves.trailing_zeros();
        return tree.subtree(level, from >> level);
    }
    let middle = from + split(leaves);
    Ok(node_hash(&range_root(tree, from, middle)?, &range_root(tree, middle, to)?))
}

/// Audit path of leaf `index` in the tree of `size`; none when it is not in the tree.
pub fn inclusion_proof<S: Subtrees + ?Sized>(tree: &S, index: u64, size: u64) -> Result<Option<Vec<Hash>>, S::Error> {
    if index >= size {
        return Ok(None);
    }
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(range_root(tree, middle, to)?);
            to = middle;
        } else {
            path.push(range_root(tree, from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// Checks an audit path (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, path: &[Hash], expected: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut node) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            node = node_hash(sibling, &node);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            node = node_hash(&node, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && node == *expected
}

/// Proof that the tree of `old` leaves is the beginning of the tree of `new`; none when it is empty or larger.
pub fn consistency_proof<S: Subtrees + ?Sized>(tree: &S, old: u64, new: u64) -> Result<Option<Vec<Hash>>, S::Error> {
    if old == 0 || old > new {
        return Ok(None);
    }
    let (mut from, mut to) = (0, new);
    let mut proof = Vec::new();
    while to != old {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(range_root(tree, middle, to)?);
            to = middle;
        } else {
            proof.push(range_root(tree, from, middle)?);
            from = middle;
        }
    }
    // What is left is whole in both trees. When it is the whole old tree, the verifier has its root already.
    if from > 0 {
        proof.push(range_root(tree, from, to)?);
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Checks a consistency proof (RFC 9162 section 2.1.4.2).
pub fn verify_consistency(old: u64, new: u64, old_root: &Hash, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 || old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let mut path = proof.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut from_old, mut from_new) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaves of the certificate-transparency reference tests.
    const LEAVES: [&[u8]; 8] = [
        b"",
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[
            0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f,
        ],
    ];

    #[test]
    fn published_roots() {
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut frontier = Frontier::default();
        for (leaf, expected) in LEAVES.iter().zip(roots) {
            frontier.push(leaf_hash(leaf));
            assert_eq!(holdfast_core::ids::hex(&frontier.root()), expected);
        }
    }

    #[test]
    fn published_proofs() {
        const A: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
        const B: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
        const C: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
        const D: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
        const E: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
        const F: &str = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7";
        const G: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";
        let leaves: Vec<Hash> = LEAVES.iter().map(|leaf| leaf_hash(leaf)).collect();
        let text = |proof: Vec<Hash>| -> Vec<String> { proof.iter().map(|hash| holdfast_core::ids::hex(hash)).collect() };
        assert_eq!(text(inclusion(&leaves, 0)), [A, B, C]);
        assert_eq!(text(inclusion(&leaves, 5)), [D, E, F]);
        assert_eq!(text(consistency(&leaves, 1)), [A, B, C]);
        assert_eq!(text(consistency(&leaves, 6)), [G, E, F]);
        let root = |size: usize| root(&leaves[..size]);
        assert!(verify_inclusion(leaves[5], 5, 8, &inclusion(&leaves, 5), &root(8)));
        assert!(verify_consistency(6, 8, &root(6), &root(8), &consistency(&leaves, 6)));
    }

    fn inclusion(tree: &[Hash], index: u64) -> Vec<Hash> {
        inclusion_proof(tree, index, tree.len() as u64).unwrap().unwrap()
    }

    fn consistency(tree: &[Hash], old: u64) -> Vec<Hash> {
        consistency_proof(tree, old, tree.len() as u64).unwrap().unwrap()
    }

    #[test]
    fn proofs_hold_and_break() {
        let leaves: Vec<Hash> = (0u8..70).map(|n| leaf_hash(&[n])).collect();
        for size in 1..leaves.len() {
            let tree = &leaves[..size];
            let whole = root(tree);
            assert_eq!(root_of(tree, size as u64), Ok(whole));
            for index in 0..size {
                let path = inclusion(tree, index as u64);
                assert!(verify_inclusion(tree[index], index as u64, size as u64, &path, &whole));
                assert!(!verify_inclusion(
                    leaf_hash(b"other"),
                    index as u64,
                    size as u64,
                    &path,
                    &whole
                ));
                if size > 1 {
                    assert!(!verify_inclusion(
                        tree[index],
                        ((index + 1) % size) as u64,
                        size as u64,
                        &path,
                        &whole
                    ));
                }
            }
            for old in 1..=size {
                let proof = consistency(tree, old as u64);
                let before = root(&tree[..old]);
                assert!(
                    verify_consistency(old as u64, size as u64, &before, &whole, &proof),
                    "{old} of {size}"
                );
                assert!(!verify_consistency(old as u64, size as u64, &leaf_hash(b"x"), &whole, &proof));
            }
        }
    }
}
