//! A cluster that begins anew gives out no number that a lost end of its history may have given out.

use super::*;
use crate::testing::{leaders, settle};

const GAP: u64 = 1 << 40;

/// What a survivor has, and what it has lost: the same up to `at`, then `lost` on another member.
fn history_that_split() -> (PartitionState, PartitionState, crate::testing::Members) {
    let (survivor, members) = with_orders(&["", "", ""], 4, 3);
    let mut lost = survivor.clone();
    apply(&mut lost, create_topic("late", 1, &[&[1]]));
    for (node, leader) in [(1, 2), (2, 3), (3, 1)] {
        set_status(&mut lost, node, NodeStatus::Draining);
        settle(&mut lost, &members, 1);
        assert!(!leaders(&lost).contains(&node) && leaders(&lost).contains(&leader));
        set_status(&mut lost, node, NodeStatus::Active);
    }
    (survivor, lost, members)
}

#[test]
fn no_epoch_generation_or_topic_number_of_a_lost_history_comes_again() {
    let (mut state, lost, members) = history_that_split();
    let index = state.generation() + 1;
    state.refounded(index, GAP);
    state.check().unwrap();
    assert_eq!(leaders(&state), [0; 4], "whoever led last is not known here");
    assert!(state.generation() > lost.generation() && state.generation() >= index + GAP);
    assert_eq!(state.map().placement_generation(), state.generation());
    assert!(state.map().changes_since(lost.generation()).is_err());
    // Generations go on with the log.
    let mut next = state.clone();
    let done = next.apply(index + 100, create_topic("late", 1, &[&[1]])).unwrap();
    assert_eq!(done.generation(), index + 100 + GAP);
    let number = |state: &PartitionState| state.map().topic("late").unwrap().get().id;
    assert!(number(&next) > number(&lost));
    settle(&mut state, &members, 1);
    for partition in 0..4 {
        let new = state.map().partition("orders", partition).unwrap();
        let old = lost.map().partition("orders", partition).unwrap();
        assert!(new.leader_epoch() > old.leader_epoch() && new.leader_epoch().0 > GAP);
        assert!(new.partition_epoch() > old.partition_epoch());
        assert!(
            new.leader().is_some() && !new.is_cleared(),
            "{new:?} waits out a lease"
        );
    }
}

#[test]
fn what_a_refounding_moved_survives_a_snapshot_and_adds_up() {
    let (mut state, _) = with_orders(&["", "", ""], 2, 3);
    for _ in 0..3 {
        let index = state.generation() + 1;
        state.refounded(index, GAP);
    }
    let bytes = postcard::to_allocvec(&state).unwrap();
    let mut restored: PartitionState = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(restored, state);
    let epoch = restored.map().partition("orders", 0).unwrap().leader_epoch().0;
    assert!((3 * GAP..3 * GAP + 10).contains(&epoch), "{epoch}");
    let index = restored.generation();
    let again = [&mut state, &mut restored].map(|state| {
        let done = state.apply(index, create_topic("late", 1, &[&[1]]));
        done.unwrap().generation()
    });
    assert_eq!(again[0], again[1]);
}

/// The leader was about to hand over: that is over, too.
#[test]
fn a_hand_over_under_way_ends_with_the_leadership() {
    let mut state = one_partition();
    let mut asked = change(0, (1, 1), &[1, 2, 3], Some(1));
    asked.step = Step::HandOver { to: 2, at_ms: 1 };
    apply(&mut state, batch(&[asked]));
    let index = state.generation() + 1;
    state.refounded(index, GAP);
    state.check().unwrap();
    let partition = state.map().partition("orders", 0).unwrap();
    assert_eq!((partition.leader(), partition.hand_over_to()), (None, None));
    assert_eq!(partition.in_sync().collect::<Vec<_>>(), [1, 2, 3]);
}
