//! How inner nodes are stored: in tiles of up to 256 hashes, one row each.
//!
//! Tile (level t, index i) holds the nodes of level 8t from 256i on, as far as they are complete. The nodes of the seven
//! levels above are computed from it. So a proof in a log of a million records reads at most six tiles, and a million records
//! have 3,924 of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Frontier, Hash, NodeId, node, peaks};

/// Levels of the tree per level of tiles.
const HEIGHT: u32 = 8;
/// Hashes in a full tile.
const WIDTH: u64 = 1 << HEIGHT;

/// Names a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0 for the tiles that hold leaves.
    pub level: u32,
    /// How many tiles of this level are left of it.
    pub index: u64,
}

/// Tiles that were read or made, by their names. The value is the hashes, one behind the other.
pub type Tiles = BTreeMap<TileId, Vec<Hash>>;

impl TileId {
    /// Returns the tile from which a node is computed.
    #[must_use]
    pub fn of(id: NodeId) -> Self {
        let (level, above) = (id.level / HEIGHT, id.level % HEIGHT);
        Self { level, index: (id.index << above) / WIDTH }
    }
}

/// Returns a node of a stored tree; `None` if its tile is missing or too short.
#[must_use]
pub fn find(tiles: &Tiles, id: NodeId) -> Option<Hash> {
    let above = id.level % HEIGHT;
    let from = usize::try_from((id.index << above) % WIDTH).ok()?;
    let hashes = tiles.get(&TileId::of(id))?.get(from..from + (1 << above))?;
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.as_chunks::<2>().0.iter().map(|[left, right]| node(left, right)).collect();
    }
    row.first().copied()
}

/// Returns the tiles that must be read before a tree of this size can grow: the last of each level, unless it is full.
#[must_use]
pub fn edge(size: u64) -> Vec<TileId> {
    let mut tiles: Vec<_> = peaks(size).into_iter().map(TileId::of).collect();
    let (mut level, mut nodes) = (0, size);
    while nodes > 0 {
        if !nodes.is_multiple_of(WIDTH) {
            tiles.push(TileId { level, index: nodes / WIDTH });
        }
        (level, nodes) = (level + 1, nodes / WIDTH);
    }
    tiles.sort_unstable();
    tiles.dedup();
    tiles
}

/// A stored tree that grows.
#[derive(Debug, Clone)]
pub struct Growing {
    frontier: Frontier,
    tiles: Tiles,
    grown: BTreeSet<TileId>,
}

impl Growing {
    /// Returns the tree of this size with the tiles of its [`edge`]; `None` if they are not those of such a tree.
    #[must_use]
    pub fn resume(size: u64, mut tiles: Tiles) -> Option<Self> {
        let hashes = peaks(size).into_iter().map(|id| find(&tiles, id)).collect::<Option<Vec<_>>>()?;
        // What a tile holds beyond this size belongs to a tree that was never signed.
        let (mut level, mut nodes) = (0, size);
        loop {
            let last = TileId { level, index: nodes / WIDTH };
            let hashes = tiles.entry(last).or_default();
            hashes.truncate(usize::try_from(nodes % WIDTH).ok()?);
            if nodes == 0 {
                break;
            }
            (level, nodes) = (level + 1, nodes / WIDTH);
        }
        Some(Self { frontier: Frontier::resume(size, hashes)?, tiles, grown: BTreeSet::new() })
    }

    /// Returns how many leaves there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let Self { frontier, tiles, grown } = self;
        frontier.push(leaf, |id, hash| {
            if id.level.is_multiple_of(HEIGHT) {
                let tile = TileId::of(id);
                tiles.entry(tile).or_default().push(*hash);
                grown.insert(tile);
            }
        });
    }

    /// Returns the tiles that became longer.
    pub fn grown(&self) -> impl Iterator<Item = (TileId, &[Hash])> {
        self.grown.iter().filter_map(|id| Some((*id, self.tiles.get(id)?.as_slice())))
    }

    /// Returns the tiles that are known: those of the edge it began with, and all that were made since.
    #[must_use]
    pub fn tiles(&self) -> &Tiles {
        &self.tiles
    }
}
