//! The shared map against `BTreeMap`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Checks what the tree promises of its nodes, and returns its depth.
fn check_nodes(node: &Node<u32, u32>, lower: Option<u32>, upper: Option<u32>) -> usize {
    let inside = |key: u32| lower.is_none_or(|lower| key >= lower) && upper.is_none_or(|upper| key < upper);
    assert!((1..=MAX_NODE).contains(&node.len()), "{} entries", node.len());
    let capacity = match node {
        Node::Leaf(entries) => entries.capacity(),
        Node::Inner(children) => children.capacity(),
    };
    assert!(
        capacity <= MAX_NODE,
        "{} entries have room for {capacity}",
        node.len()
    );
    match node {
        Node::Leaf(entries) => {
            assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
            assert!(entries.iter().all(|(key, _)| inside(*key)));
            1
        }
        Node::Inner(children) => {
            let depths = children.iter().enumerate().map(|(at, (name, child))| {
                let lower = if at == 0 { lower } else { Some(*name) };
                let upper = children.get(at + 1).map_or(upper, |(name, _)| Some(*name));
                check_nodes(child, lower, upper)
            });
            let depths: Vec<usize> = depths.collect();
            assert!(depths.windows(2).all(|pair| pair[0] == pair[1]), "{depths:?}");
            depths[0] + 1
        }
    }
}

fn check(map: &SharedMap<u32, u32>, model: &BTreeMap<u32, u32>) {
    if let Some(root) = &map.root {
        check_nodes(root, None, None);
    }
    assert_eq!(map.len(), model.len());
    assert!(map.iter().eq(model.iter()));
    for from in [0, 7, 500, 2_000] {
        assert!(map.iter_from(|key| *key < from).eq(model.range(from..)));
        assert_eq!(map.get(&from), model.get(&from));
    }
    assert_eq!(map.first(), model.first_key_value());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_map_and_its_clones_agree_with_simple_ones(
        operations in proptest::collection::vec((0_u32..1_500, 0_u8..8), 0..4_000),
    ) {
        let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
        let mut clones = Vec::new();
        for (at, (key, kind)) in (0_u32..).zip(operations) {
            match kind {
                0..=2 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                _ => prop_assert_eq!(map.insert(key, at), model.insert(key, at)),
            }
            if at % 500 == 0 {
                clones.push((map.clone(), model.clone()));
            }
        }
        clones.push((map, model));
        for (map, model) in &clones {
            check(map, model);
        }
    }
}

#[test]
fn a_queue_leaves_nothing_behind_and_fills_its_nodes() {
    let mut map = SharedMap::default();
    for key in 0..10_000_u32 {
        map.insert(key, key);
    }
    let depth = check_nodes(map.root.as_deref().unwrap(), None, None);
    assert_eq!(depth, 4, "10,000 entries fill 625 leaves of 16");
    for key in 0..10_000_u32 {
        assert_eq!(map.first(), Some((&key, &key)));
        assert_eq!(map.remove(&key), Some(key));
        assert_eq!(map.remove(&key), None);
    }
    assert!(map.is_empty() && map.root.is_none());
}
