//! A table says what its ring says at the first position of each slot.

use alloc::{collections::BTreeSet, format, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{RingNode, Weight};

fn ring(nodes: u32, zones: u32) -> Ring {
    let mut ring = Ring::new(16);
    let nodes = (0..nodes).map(|i| {
        let weight = Weight::percent(50 + 25 * (i % 5)).unwrap();
        let node = RingNode::new(format!("node{i}")).weighing(weight);
        match i % (zones + 1) {
            0 => node,
            zone => node.in_zone(format!("zone{zone}")),
        }
    });
    ring.add_all(nodes).unwrap();
    ring
}

proptest! {
    #[test]
    fn a_slot_has_the_replica_set_of_its_first_position(
        (nodes, replicas) in (1..20u32).prop_flat_map(|nodes| (Just(nodes), 1..=nodes.min(8) as usize)),
        zones in 0..4u32,
        bits in 4..=9u32,
    ) {
        let ring = ring(nodes, zones);
        let table = ring.compile(bits, replicas).unwrap();
        for slot in 0..1_u64 << bits {
            let first = Position(slot << (64 - bits));
            let expected = ring.replica_set_at(first, replicas).unwrap();
            for at in [first.0, first.0 + 1, first.0 + (u64::MAX >> bits)] {
                let set = table.replica_set_at(Position(at));
                prop_assert_eq!(set.names().collect::<Vec<_>>(), expected.clone());
                prop_assert_eq!(table.owner_at(Position(at)), expected[0]);
            }
        }
    }
}

#[test]
fn a_fine_table_routes_nearly_every_key_as_its_ring_does() {
    let ring = ring(20, 3);
    let table = ring.compile(16, 3).unwrap();
    let differ = (0..10_000).filter(|partition| {
        let exact = ring.owner("orders", *partition).unwrap();
        table.owner("orders", *partition) != exact
    });
    // 320 tokens cut as many of 65,536 slots in two, on average in their middle.
    assert!(differ.count() < 100);
}

#[test]
fn a_joiner_takes_keys_and_nobody_else_does() {
    let before = ring(19, 3);
    let after = ring(20, 3);
    let (old, new) = (before.compile(12, 1).unwrap(), after.compile(12, 1).unwrap());
    let mut moved = 0;
    for partition in 0..4_000 {
        let (from, to) = (old.owner("orders", partition), new.owner("orders", partition));
        assert!(from == to || to.as_str() == "node19");
        moved += usize::from(from != to);
    }
    assert!((100..400).contains(&moved), "moved {moved} of 4,000");
}

#[test]
fn tables_that_route_alike_have_one_fingerprint() {
    let ring = ring(8, 3);
    let of = |bits, replicas| ring.compile(bits, replicas).unwrap().fingerprint();
    assert_eq!(of(8, 1), of(8, 3));
    let different = [
        of(8, 1),
        of(9, 1),
        self::ring(9, 3).compile(8, 1).unwrap().fingerprint(),
    ];
    assert_eq!(different.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(ring.compile(8, 1).unwrap().generation(), ring.generation());
}

#[test]
fn tables_beyond_the_limits_are_refused() {
    let ring = ring(4, 3);
    for (bits, replicas) in [(3, 1), (21, 1), (8, 0), (8, 9)] {
        let refused = RingError::InvalidTable { bits, replicas };
        assert_eq!(ring.compile(bits, replicas).unwrap_err(), refused);
    }
    let refused = RingError::NotEnoughNodes { wanted: 5, have: 4 };
    assert_eq!(ring.compile(8, 5).unwrap_err(), refused);
    assert_eq!(Ring::new(8).compile(8, 1).unwrap_err(), RingError::EmptyRing);
}
