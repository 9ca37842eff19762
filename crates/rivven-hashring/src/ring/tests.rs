//! Properties of the ring, most of them over random rings; proptest prints the case and how to replay it.

use alloc::{collections::BTreeSet, format, string::ToString, vec, vec::Vec};

use proptest::{collection::vec as vec_of, prelude::*, sample::subsequence};

use super::*;
use crate::{NameFault, Weight};

/// Positions on a coarse grid and at its edges, so that tokens at, before and after them all occur.
fn positions() -> impl Iterator<Item = Position> {
    (0..512u64).map(|i| Position(i.wrapping_mul(u64::MAX / 511)))
}

fn owners(ring: &Ring) -> Vec<NodeName> {
    positions().map(|at| ring.owner_at(at).unwrap().clone()).collect()
}

/// Some nodes with weights and zones, in a random order.
fn nodes() -> impl Strategy<Value = Vec<RingNode>> {
    let names: Vec<u32> = (0..12).collect();
    let picked = subsequence(names, 2..=12).prop_shuffle();
    (picked, vec_of((1..300u32, 0..4u32), 12)).prop_map(|(names, traits)| {
        let nodes = names.iter().zip(traits).map(|(name, (percent, zone))| {
            let node = RingNode::new(format!("node{name}")).weighing(Weight::percent(percent).unwrap());
            if zone == 0 {
                node
            } else {
                node.in_zone(format!("zone{zone}"))
            }
        });
        nodes.collect()
    })
}

/// A ring of these nodes whose tokens keep only `bits` bits, so that few bits force collisions.
fn ring_of(nodes: &[RingNode], bits: u32) -> Ring {
    let mut ring = Ring::new(16);
    nodes.iter().for_each(|node| join(&mut ring, node, bits));
    ring
}

/// Such a ring, made of two groups of nodes at once.
fn ring_at_once(nodes: &[RingNode], bits: u32) -> Ring {
    let mut ring = Ring::new(16);
    let (some, others) = nodes.split_at(nodes.len() / 2);
    for group in [some, others] {
        let joiners = group.iter().map(|node| (node.clone(), short_tokens(node, bits)));
        ring.insert(joiners.collect()).unwrap();
    }
    ring
}

fn short_tokens(node: &RingNode, bits: u32) -> Vec<u64> {
    spec::tokens(node, 16)
        .map(|token| token >> (64 - bits) << (64 - bits))
        .collect()
}

fn join(ring: &mut Ring, node: &RingNode, bits: u32) {
    ring.insert(vec![(node.clone(), short_tokens(node, bits))])
        .unwrap();
}

/// What the specification says, without an index: the least token at or after the position.
fn owner_by_definition(ring: &Ring, position: Position) -> NodeName {
    let tokens = ring.tokens.iter().zip(&ring.owners);
    let name = |owner: &u16| ring.nodes[usize::from(*owner)].node.name.clone();
    let mut all: Vec<_> = tokens.map(|(token, owner)| (*token, name(owner))).collect();
    all.sort();
    let after = all.iter().find(|(token, _)| *token >= position.0);
    after.unwrap_or(&all[0]).1.clone()
}

proptest! {
    #[test]
    fn the_order_of_joining_does_not_matter_even_when_tokens_collide(nodes in nodes(), bits in 2..=64u32) {
        let mut sorted = nodes.clone();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let (one, other) = (ring_of(&nodes, bits), ring_of(&sorted, bits));
        prop_assert_eq!(one.fingerprint(), other.fingerprint());
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(ring_at_once(&nodes, bits), one);
    }

    #[test]
    fn the_owner_is_the_one_that_the_specification_defines(nodes in nodes(), bits in 2..=64u32) {
        let ring = ring_of(&nodes, bits);
        for at in positions().step_by(16) {
            prop_assert_eq!(ring.owner_at(at).unwrap(), &owner_by_definition(&ring, at));
        }
        // At a token, just before it and just after it.
        for token in ring.tokens.iter().step_by(7) {
            for at in [token.wrapping_sub(1), *token, token.wrapping_add(1)] {
                prop_assert_eq!(ring.owner_at(Position(at)).unwrap(), &owner_by_definition(&ring, Position(at)));
            }
        }
    }

    #[test]
    fn keys_move_only_to_a_joiner_and_only_from_a_leaver(nodes in nodes(), bits in 2..=64u32) {
        let (joiner, rest) = nodes.split_first().unwrap();
        let without = ring_of(rest, bits);
        let mut ring = without.clone();
        join(&mut ring, joiner, bits);
        for (before, after) in owners(&without).iter().zip(owners(&ring)) {
            prop_assert!(*before == after || after == joiner.name);
        }
        // Removing the joiner gives back the very same ring.
        ring.remove(&joiner.name).unwrap();
        prop_assert_eq!(ring, without);
    }

    #[test]
    fn a_new_weight_moves_keys_only_from_or_to_its_node(nodes in nodes(), percent in 1..500u32) {
        let mut ring = ring_of(&nodes, 64);
        let before = owners(&ring);
        let name = nodes[0].name.clone();
        let heavier = Weight::percent(percent).unwrap();
        let grows = heavier >= nodes[0].weight;
        ring.replace(nodes[0].clone().weighing(heavier)).unwrap();
        for (before, after) in before.iter().zip(owners(&ring)) {
            let gainer_or_loser = if grows { &after } else { before };
            prop_assert!(*before == after || *gainer_or_loser == name);
        }
    }

    #[test]
    fn replicas_are_distinct_spread_over_zones_and_prefixes(nodes in nodes(), bits in 2..=64u32) {
        let ring = ring_of(&nodes, bits);
        let zones: BTreeSet<_> = nodes.iter().map(|node| &node.zone).collect();
        for partition in 0..16 {
            let all = ring.replica_set("orders", partition, nodes.len()).unwrap();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), nodes.len());
            prop_assert_eq!(all[0], ring.owner("orders", partition).unwrap());
            for count in 0..nodes.len() {
                let set = ring.replica_set("orders", partition, count).unwrap();
                prop_assert_eq!(&set[..], &all[..count]);
                let used: BTreeSet<_> = set.iter().map(|name| &ring.node(name).unwrap().zone).collect();
                prop_assert_eq!(used.len(), count.min(zones.len()));
            }
        }
    }

    #[test]
    fn a_walk_meets_every_node_once(nodes in nodes(), at in any::<u64>(), bits in 2..=64u32) {
        let ring = ring_of(&nodes, bits);
        let walk: Vec<_> = ring.walk(Position(at)).map(|node| &node.name).collect();
        prop_assert_eq!(walk.len(), nodes.len());
        prop_assert_eq!(walk.iter().collect::<BTreeSet<_>>().len(), nodes.len());
        prop_assert_eq!(walk[0], ring.owner_at(Position(at)).unwrap());
    }
}

#[test]
fn shares_vary_as_the_square_root_of_virtual_nodes_says() {
    // 100 nodes of 128 tokens: the standard deviation of arc shares is 1 / sqrt(128), 8.8 %.
    let mut ring = Ring::new(128);
    for i in 0..100 {
        ring.add(format!("node{i}")).unwrap();
    }
    let mut arcs = vec![0f64; 100];
    let mut before = *ring.tokens.last().unwrap();
    for (token, owner) in ring.tokens.iter().zip(&ring.owners) {
        arcs[usize::from(*owner)] += token.wrapping_sub(before) as f64 / 2f64.powi(64) * 100.0;
        before = *token;
    }
    let deviation = (arcs.iter().map(|share| (share - 1.0).powi(2)).sum::<f64>() / 100.0).powf(0.5);
    let most = arcs.iter().copied().fold(0.0, f64::max);
    assert!(
        deviation <= 1.15 / 128f64.powf(0.5),
        "standard deviation {deviation}"
    );
    assert!(most <= 1.45, "max/mean {most}");
}

#[test]
fn a_large_ring_finds_the_owner_that_its_tokens_say() {
    let mut ring = Ring::new(128);
    ring.add_all((0..300).map(|i| format!("node{i}"))).unwrap();
    let mut check = |at: u64| {
        let expected = ring.owners[ring.token_index(Position(at))];
        assert_eq!(ring.owner_index(Position(at)), Some(expected), "{at:#x}");
    };
    // Every token, its neighbours, and the first and last position with the same 40 leading bits.
    for token in &ring.tokens {
        let low = u64::MAX >> 40;
        for at in [token - 1, *token, token + 1, token & !low, token | low] {
            check(at);
        }
    }
    [0, 1, u64::MAX - 1, u64::MAX].into_iter().for_each(&mut check);
    for partition in 0..10_000 {
        check(TopicKey::new("orders").partition(partition).0);
    }
}

#[test]
fn replicas_in_zones_of_their_own_need_as_many_zones() {
    let mut ring = Ring::new(8);
    ring.add_all(["a", "b"].map(|zone| RingNode::new(format!("node-{zone}")).in_zone(zone)))
        .unwrap();
    ring.add_all(["node-c", "node-d"]).unwrap();
    let set = ring.replica_set("orders", 0, 3).unwrap();
    assert_eq!(ring.replica_set_across_zones("orders", 0, 3).unwrap(), set);
    let refused = RingError::NotEnoughZones { wanted: 4, have: 3 };
    assert_eq!(ring.replica_set_across_zones("orders", 0, 4), Err(refused));
    let refused = RingError::NotEnoughNodes { wanted: 5, have: 4 };
    assert_eq!(ring.replica_set_across_zones("orders", 0, 5), Err(refused));
}

#[test]
fn mistakes_are_refused_and_change_nothing() {
    let mut ring = Ring::new(8);
    let asked = ring.owner("orders", 0);
    assert_eq!(asked, Err(RingError::EmptyRing));
    assert_eq!(ring.replica_set("orders", 0, 0), Err(RingError::EmptyRing));
    ring.add("node1").unwrap();

    let before = ring.clone();
    let name = || NodeName::from("node1");
    assert_eq!(ring.add("node1"), Err(RingError::DuplicateNode { name: name() }));
    let name = || NodeName::from("node2");
    assert_eq!(ring.remove("node2"), Err(RingError::UnknownNode { name: name() }));
    assert_eq!(
        ring.replace(RingNode::new("node2")),
        Err(RingError::UnknownNode { name: name() })
    );
    let wanted = ring.replica_set("orders", 0, 2);
    assert_eq!(wanted, Err(RingError::NotEnoughNodes { wanted: 2, have: 1 }));
    let twice = ring.add_all(["node3", "node2", "node3"]);
    assert_eq!(twice, Err(RingError::DuplicateNode { name: "node3".into() }));
    let crowd = ring.add_all((0..MAX_NODES).map(|i| i.to_string()));
    assert_eq!(crowd, Err(RingError::TooManyNodes));
    let long = "x".repeat(256);
    for (name, fault) in [
        ("", NameFault::Empty),
        (long.as_str(), NameFault::TooLong),
        ("a\nb", NameFault::ControlCharacter),
    ] {
        assert_eq!(ring.add(name), Err(RingError::InvalidName { fault }));
        let zoned = RingNode::new("node2").in_zone(name);
        assert_eq!(ring.add(zoned), Err(RingError::InvalidName { fault }));
    }
    assert_eq!((&ring, ring.generation()), (&before, Generation(1)));
}

#[test]
fn numbers_outside_of_the_limits_are_refused_or_clamped() {
    for (virtual_nodes, clamped) in [(0, 1), (MAX_VIRTUAL_NODES + 1, MAX_VIRTUAL_NODES)] {
        let refused = RingError::InvalidVirtualNodes { virtual_nodes };
        assert_eq!(Ring::try_new(virtual_nodes), Err(refused));
        assert_eq!(Ring::new(virtual_nodes).virtual_nodes(), clamped);
    }
    for percent in [0, 10_001] {
        assert_eq!(
            Weight::percent(percent),
            Err(RingError::InvalidWeight { percent })
        );
    }
    let mut ring = Ring::new(MAX_VIRTUAL_NODES);
    let heavy = |i: u32| RingNode::new(i.to_string()).weighing(Weight::MAX);
    ring.add_all((0..5).map(heavy)).unwrap();
    assert!(ring.tokens.len() <= MAX_TOKENS);
    assert_eq!(ring.add(heavy(5)), Err(RingError::TooManyTokens));
}

#[test]
fn what_a_fingerprint_tells_apart() {
    let ring = |node: RingNode, virtual_nodes| {
        let mut ring = Ring::new(virtual_nodes);
        ring.add(node).unwrap();
        ring.fingerprint()
    };
    let plain = || RingNode::new("node1");
    let all = [
        Ring::new(8).fingerprint(),
        ring(plain(), 8),
        ring(plain(), 9),
        ring(RingNode::new("node2"), 8),
        ring(plain().in_zone("a"), 8),
        ring(plain().weighing(Weight::percent(101).unwrap()), 8),
    ];
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}

#[cfg(feature = "serde")]
mod serde {
    use super::*;

    proptest! {
        #[test]
        fn a_ring_comes_back_from_its_bytes(nodes in nodes()) {
            let mut ring = Ring::new(16);
            for node in nodes {
                ring.add(node).unwrap();
            }
            let bytes = postcard::to_allocvec(&ring).unwrap();
            let back: Ring = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!((&back, back.generation()), (&ring, ring.generation()));
        }

        #[test]
        fn arbitrary_bytes_are_no_reason_to_panic(bytes in vec_of(any::<u8>(), 0..200)) {
            let _ = postcard::from_bytes::<Ring>(&bytes);
        }
    }

    #[test]
    fn a_ring_of_an_unknown_specification_is_refused() {
        let mut bytes = postcard::to_allocvec(&Ring::default()).unwrap();
        assert_eq!(bytes[0], 1);
        bytes[0] = 2;
        assert!(postcard::from_bytes::<Ring>(&bytes).is_err());
    }
}
