//! A Merkle tree over a log (RFC 9162 section 2.1, the hashing of RFC 6962): one hash that stands for all records up to a
//! position, with short proofs that a record is among them and that a longer log begins with a shorter one.
//!
//! A leaf is the chain hash of a record ([`crate::chain`]): position n is leaf n - 1. The chain hash covers every field of the
//! record and only a salted digest of its personal half, so erasing that half changes no leaf.
//!
//! Everything here is a function of its arguments; how the inner nodes are stored is [`tiles`].

pub mod tiles;

use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

/// Returns the hash of a leaf (RFC 9162 section 2.1.1).
#[must_use]
pub fn leaf(data: &[u8]) -> Hash {
    Sha256::new().chain_update(LEAF).chain_update(data).finalize().into()
}

/// Returns the hash of an inner node.
#[must_use]
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update(NODE).chain_update(left).chain_update(right).finalize().into()
}

/// Returns the root of a tree without leaves.
#[must_use]
pub fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// Names the root of a perfect subtree: that of 2^level leaves which begin at leaf index · 2^level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// 0 for a leaf.
    pub level: u32,
    /// How many subtrees of this level are left of it.
    pub index: u64,
}

/// Returns the perfect subtrees that leaves `from..to` consist of, largest first. `from` is a multiple of the largest.
fn subtrees(from: u64, to: u64) -> Vec<NodeId> {
    let (mut from, mut nodes) = (from, vec![]);
    while from < to {
        let level = (to - from).ilog2().min(from.trailing_zeros());
        nodes.push(NodeId { level, index: from >> level });
        from += 1 << level;
    }
    nodes
}

/// Returns the perfect subtrees that a tree of this size consists of, largest first: what a [`Frontier`] goes on from.
#[must_use]
pub fn peaks(size: u64) -> Vec<NodeId> {
    subtrees(0, size)
}

/// Returns the root over perfect subtrees, largest first.
fn joined(peaks: &[Hash]) -> Option<Hash> {
    let (last, before) = peaks.split_last()?;
    Some(before.iter().rev().fold(*last, |root, peak| node(peak, &root)))
}

/// The right edge of a tree: all that is needed to append leaves and to tell the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Returns the frontier of a tree with these [`peaks`]; `None` if a tree of this size has another number of them.
    #[must_use]
    pub fn resume(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (usize::try_from(size.count_ones()) == Ok(peaks.len())).then_some(Self { size, peaks })
    }

    /// Returns how many leaves there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf and tells every perfect subtree that it completes, the leaf itself first.
    pub fn push(&mut self, leaf: Hash, mut completed: impl FnMut(NodeId, &Hash)) {
        let (mut id, mut hash) = (NodeId { level: 0, index: self.size }, leaf);
        completed(id, &hash);
        while id.index % 2 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            hash = node(&left, &hash);
            id = NodeId { level: id.level + 1, index: id.index / 2 };
            completed(id, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> Hash {
        joined(&self.peaks).unwrap_or_else(empty)
    }
}

/// Which nodes a proof is made of: at most a few per level of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One element per hash of the proof: the perfect subtrees below it, largest first.
    hashes: Vec<Vec<NodeId>>,
}

impl Plan {
    /// Returns the nodes that must be known.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.hashes.iter().flatten().copied()
    }

    /// Returns the proof; `None` if a node is not known.
    #[must_use]
    pub fn proof(&self, known: impl Fn(NodeId) -> Option<Hash>) -> Option<Vec<Hash>> {
        let hash = |nodes: &Vec<NodeId>| joined(&nodes.iter().map(|id| known(*id)).collect::<Option<Vec<_>>>()?);
        self.hashes.iter().map(hash).collect()
    }
}

/// Returns the largest power of two below a number of at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// Returns what proves that a leaf is in a tree (RFC 9162 section 2.1.3.1); `None` if it is not.
#[must_use]
pub fn inclusion(leaf: u64, size: u64) -> Option<Plan> {
    if leaf >= size {
        return None;
    }
    let (mut from, mut to, mut hashes) = (0, size, vec![]);
    while to - from > 1 {
        let middle = from + split(to - from);
        if leaf < middle {
            hashes.push(subtrees(middle, to));
            to = middle;
        } else {
            hashes.push(subtrees(from, middle));
            from = middle;
        }
    }
    hashes.reverse();
    Some(Plan { hashes })
}

/// Returns what proves that a tree begins with a smaller one (RFC 9162 section 2.1.4.1); `None` unless
/// `1 <= smaller <= size`.
#[must_use]
pub fn consistency(smaller: u64, size: u64) -> Option<Plan> {
    if smaller == 0 || smaller > size {
        return None;
    }
    let (mut from, mut to, mut hashes) = (0, size, vec![]);
    // As long as nothing was cut off at the left, whoever verifies knows the smaller root itself.
    while smaller != to {
        let middle = from + split(to - from);
        if smaller <= middle {
            hashes.push(subtrees(middle, to));
            to = middle;
        } else {
            hashes.push(subtrees(from, middle));
            from = middle;
        }
    }
    if from > 0 {
        hashes.push(subtrees(from, to));
    }
    hashes.reverse();
    Some(Plan { hashes })
}

/// Returns whether a proof shows that a leaf with this hash is in the tree with this root (RFC 9162 section 2.1.3.2).
#[must_use]
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for step in proof {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            hash = node(step, &hash);
            while at.is_multiple_of(2) && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Returns whether a proof shows that the tree with one root begins with the tree with the other (RFC 9162 section
/// 2.1.4.2). Equal sizes have equal roots and no proof.
#[must_use]
pub fn verify_consistency(smaller: u64, size: u64, smaller_root: &Hash, root: &Hash, proof: &[Hash]) -> bool {
    if smaller == 0 || smaller > size {
        return false;
    }
    if smaller == size {
        return proof.is_empty() && smaller_root == root;
    }
    let mut steps = proof.iter();
    let first = if smaller.is_power_of_two() { Some(smaller_root) } else { steps.next() };
    let Some(first) = first else { return false };
    let (mut at, mut last) = (smaller - 1, size - 1);
    while at % 2 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old, mut new) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            (old, new) = (node(step, &old), node(step, &new));
            while at.is_multiple_of(2) && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new = node(&new, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old == *smaller_root && new == *root
}

#[cfg(test)]
mod tests;
