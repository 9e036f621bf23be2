//! The tree against the examples of RFC 6962, a second definition of it, and proofs that must fail.

use std::collections::HashMap;

use proptest::prelude::*;

use super::tiles::{Growing, TileId, Tiles, edge, find};
use super::*;

/// The leaves and roots that implementations of RFC 6962 test with.
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn bytes(text: &str) -> Hash {
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    hash
}

fn content(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// MTH of RFC 9162 section 2.1.1, word for word.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty(),
        [one] => *one,
        more => {
            let k = more.len().next_power_of_two() / 2;
            node(&root(&more[..k]), &root(&more[k..]))
        }
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|n| leaf(&n.to_be_bytes())).collect()
}

/// Every perfect subtree of a tree, and its roots at all sizes.
fn nodes(leaves: &[Hash]) -> (HashMap<NodeId, Hash>, Vec<Hash>) {
    let (mut frontier, mut nodes) = (Frontier::default(), HashMap::new());
    let mut roots = vec![frontier.root()];
    for leaf in leaves {
        frontier.push(*leaf, |id, hash| assert_eq!(nodes.insert(id, *hash), None));
        roots.push(frontier.root());
    }
    (nodes, roots)
}

/// A stored tree, grown in steps as checkpoints would grow it.
fn stored(count: u64, step: u64) -> Tiles {
    let (all, mut tiles, mut size) = (leaves(count), Tiles::new(), 0);
    while size < count {
        let known = edge(size).into_iter().map(|id| (id, tiles.get(&id).cloned().unwrap())).collect();
        let mut tree = Growing::resume(size, known).unwrap();
        size = (size + step).min(count);
        for n in tree.size()..size {
            tree.push(all[usize::try_from(n).unwrap()]);
        }
        assert_eq!(tree.root(), root(&all[..usize::try_from(size).unwrap()]));
        tiles.extend(tree.grown().map(|(id, hashes)| (id, hashes.to_vec())));
    }
    tiles
}

#[test]
fn the_examples_of_rfc_6962_give_their_roots() {
    assert_eq!(empty(), bytes("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    let mut frontier = Frontier::default();
    for (data, expected) in LEAVES.iter().zip(ROOTS) {
        frontier.push(leaf(&content(data)), |_, _| {});
        assert_eq!(frontier.root(), bytes(expected));
    }
}

#[test]
fn the_examples_of_rfc_6962_give_their_proofs() {
    let all: Vec<_> = LEAVES.iter().map(|data| leaf(&content(data))).collect();
    let hash = |id: NodeId| {
        let from = usize::try_from(id.index << id.level).unwrap();
        Some(root(all.get(from..from + (1 << id.level))?))
    };
    // Path of leaf 5 in a tree of 8 (0-based), and from 6 to 8 leaves.
    let proof = inclusion(5, 8).unwrap().proof(hash).unwrap();
    assert_eq!(
        proof,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
        .map(bytes)
    );
    let proof = consistency(6, 8).unwrap().proof(hash).unwrap();
    assert_eq!(
        proof,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
        .map(bytes)
    );
}

#[test]
fn every_node_is_found_in_the_tiles() {
    let (nodes, roots) = nodes(&leaves(700));
    let tiles = stored(700, 41);
    for (id, hash) in &nodes {
        assert_eq!(find(&tiles, *id), Some(*hash), "{id:?}");
    }
    assert_eq!(find(&tiles, NodeId { level: 0, index: 700 }), None);
    assert_eq!(find(&tiles, NodeId { level: 9, index: 1 }), None);
    for size in [0, 1, 255, 256, 257, 699, 700] {
        assert_eq!(roots[size], root(&leaves(700)[..size]));
    }
}

#[test]
fn every_leaf_of_every_tree_up_to_300_is_proven_and_no_other() {
    let all = leaves(300);
    let (nodes, roots) = nodes(&all);
    for size in 1..=300u64 {
        let top = roots[usize::try_from(size).unwrap()];
        for index in 0..size {
            let proof = inclusion(index, size).unwrap().proof(|id| nodes.get(&id).copied()).unwrap();
            let hash = &all[usize::try_from(index).unwrap()];
            assert!(verify_inclusion(index, size, hash, &proof, &top), "{index} in {size}");
            if (index + size) % 7 > 0 {
                continue;
            }
            let other = &all[usize::try_from((index + 1) % 300).unwrap()];
            assert!(!verify_inclusion(index, size, other, &proof, &top));
            assert!(!verify_inclusion(index + 1, size, hash, &proof, &top));
            assert!(index == 0 || !verify_inclusion(index - 1, size, hash, &proof, &top));
            let shorter = &proof[..proof.len().saturating_sub(1)];
            assert!(proof.is_empty() || !verify_inclusion(index, size, hash, shorter, &top));
            assert!(!verify_inclusion(index, size, hash, &[proof.clone(), vec![top]].concat(), &top));
        }
        assert_eq!(inclusion(size, size), None);
    }
}

#[test]
fn every_pair_of_sizes_up_to_300_is_proven_consistent_and_no_other_root_is() {
    let (nodes, roots) = nodes(&leaves(300));
    for size in 1..=300usize {
        for smaller in 1..=size {
            let (a, b) = (u64::try_from(smaller).unwrap(), u64::try_from(size).unwrap());
            let proof = consistency(a, b).unwrap().proof(|id| nodes.get(&id).copied()).unwrap();
            assert!(verify_consistency(a, b, &roots[smaller], &roots[size], &proof), "{a} to {b}");
            if (a + b) % 7 > 0 {
                continue;
            }
            assert!(!verify_consistency(a, b, &roots[smaller - 1], &roots[size], &proof));
            assert!(!verify_consistency(a, b, &roots[smaller], &roots[size - 1], &proof));
            assert!(proof.is_empty() || !verify_consistency(a, b, &roots[smaller], &roots[size], &proof[1..]));
        }
    }
    assert_eq!((consistency(0, 5), consistency(6, 5)), (None, None));
    assert!(!verify_consistency(0, 5, &empty(), &roots[5], &[]));
}

#[test]
fn a_proof_in_a_million_leaves_needs_few_tiles() {
    let tiles_of = |plan: Plan| {
        let mut tiles: Vec<_> = plan.nodes().map(TileId::of).collect();
        tiles.sort_unstable();
        tiles.dedup();
        tiles.len()
    };
    for n in [0, 1, 255, 256, 65_535, 65_536, 499_999, 999_998, 999_999] {
        assert!(tiles_of(inclusion(n, 1_000_000).unwrap()) <= 6, "{n}");
        assert!(tiles_of(consistency(n + 1, 1_000_000).unwrap()) <= 6, "{n}");
        assert!(edge(n).len() <= 6, "{n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_changed_bit_of_a_proof_is_noticed(size in 2..700u64, at in any::<prop::sample::Index>(), bit in 0..256usize) {
        let (all, tiles) = (leaves(size), stored(size, 333));
        let top = root(&all);
        let index = at.index(all.len());
        let mut proof = inclusion(index as u64, size).unwrap().proof(|id| find(&tiles, id)).unwrap();
        prop_assert!(verify_inclusion(index as u64, size, &all[index], &proof, &top));
        let step = at.index(proof.len());
        proof[step][bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!verify_inclusion(index as u64, size, &all[index], &proof, &top));
        let smaller = (index as u64).max(1);
        let before = root(&all[..usize::try_from(smaller).unwrap()]);
        let mut proof = consistency(smaller, size).unwrap().proof(|id| find(&tiles, id)).unwrap();
        prop_assert!(verify_consistency(smaller, size, &before, &top, &proof));
        let step = at.index(proof.len());
        proof[step][bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!verify_consistency(smaller, size, &before, &top, &proof));
    }

    #[test]
    fn a_tree_that_grew_in_any_steps_is_the_same(size in 1..900u64, step in 100..400u64) {
        prop_assert_eq!(stored(size, step), stored(size, size));
    }
}
