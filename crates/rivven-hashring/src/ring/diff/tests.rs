//! Differences against a look at single positions, and sums that must come out exactly.

use alloc::{format, string::ToString, vec::Vec};

use proptest::prelude::*;

use super::*;

fn ring(names: impl IntoIterator<Item = u32>) -> Ring {
    let mut ring = Ring::new(16);
    ring.add_all(names.into_iter().map(|i| format!("node{i}")))
        .unwrap();
    ring
}

fn owner(ring: &Ring, at: u64) -> Option<&NodeName> {
    ring.owner_at(Position(at)).ok()
}

proptest! {
    #[test]
    fn a_range_moved_exactly_if_its_positions_have_another_owner(from in 0..64u32, to in 0..64u32) {
        let nodes = |bits: u32| ring((0..6).filter(move |i| bits >> i & 1 == 1));
        let (from, to) = (nodes(from), nodes(to));
        let diff = from.diff(&to);
        let mut next = 0_u128;
        let mut sum = 0;
        for moved in diff.ranges() {
            // In order, apart, and on both sides of each edge as the rings themselves say.
            prop_assert!(u128::from(moved.first.0) >= next && moved.last >= moved.first);
            for at in [moved.first.0, moved.first.0 / 2 + moved.last.0 / 2, moved.last.0] {
                prop_assert_eq!((owner(&from, at), owner(&to, at)), (moved.from, moved.to));
            }
            if let Some(before) = moved.first.0.checked_sub(1).filter(|at| u128::from(*at) >= next) {
                prop_assert_eq!(owner(&from, before), owner(&to, before));
            }
            next = u128::from(moved.last.0) + 1;
            sum += moved.positions();
        }
        prop_assert_eq!(sum, diff.positions());
        prop_assert_eq!(sum == 0, from == to);
        prop_assert_eq!(to.diff(&from).positions(), sum);
    }
}

#[test]
fn neighbours_with_the_same_fate_are_one_range() {
    let (from, to) = (ring(0..3), ring(0..4));
    let ranges: Vec<_> = from.diff(&to).ranges().collect();
    // No more than one range for each token of the joiner, and one that wraps around the circle.
    assert!((1..=17).contains(&ranges.len()), "{}", ranges.len());
    assert!(
        ranges
            .iter()
            .all(|moved| moved.to.is_some_and(|name| name.as_str() == "node3"))
    );
    for pair in ranges.windows(2) {
        let follows = pair[1].first.0 == pair[0].last.0 + 1;
        assert!(!follows || pair[0].from != pair[1].from);
    }
}

#[test]
fn a_first_node_gets_the_whole_circle_and_a_joiner_its_share() {
    let (none, one) = (ring(0..0), ring(0..1));
    assert_eq!(none.diff(&one).positions(), 1 << 64);
    assert_eq!(none.diff(&one).ranges().count(), 1);
    assert_eq!(none.diff(&ring(0..0)).positions(), 0);
    assert_eq!(none.shares(), []);

    let (from, to) = (ring(0..9), ring(0..10));
    let shares = to.shares();
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    assert!((total - 1.0).abs() < 1e-12, "{total}");
    let (joiner, share) = shares[9];
    assert_eq!(joiner.name().to_string(), "node9");
    assert!((from.diff(&to).fraction() - share).abs() < 1e-15);
}
