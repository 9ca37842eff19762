//! Commands: what each does, what is refused, and that no sequence of them breaks an invariant.

mod model;
mod nodes;
mod refounded;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use rivven_types::{BootEpoch, NodeId};

use super::*;
use crate::{
    LeaderEpoch, MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR, NodeStatus, Partition,
    PartitionChange, PartitionEpoch, PartitionError, Rule, Step,
    cell::{HandOver, Move, Seat, Seats},
    testing::{apply, cluster, registration, set_status, with_orders},
};

/// Applies a command that must be refused and change nothing.
fn refused(state: &mut PartitionState, command: PartitionCommand) -> PartitionError {
    let before = state.clone();
    let error = state.apply(state.generation() + 1, command).unwrap_err();
    assert_eq!(*state, before, "a refused command has changed the state");
    assert!(!error.code().is_empty() && !error.to_string().is_empty());
    error
}

fn create_topic(name: &str, replication_factor: u16, assignment: &[&[NodeId]]) -> PartitionCommand {
    PartitionCommand::CreateTopic {
        name: name.into(),
        replication_factor,
        allow_fewer_replicas: false,
        settings: BTreeMap::new(),
        assignment: assignment.iter().map(|nodes| nodes.to_vec()).collect(),
    }
}

/// Two nodes' worth of one partition: replicas 1, 2 and 3, led by 1.
fn one_partition() -> PartitionState {
    let (mut state, _) = cluster(&["", "", "", ""]);
    apply(&mut state, create_topic("orders", 3, &[&[1, 2, 3], &[2, 3, 1]]));
    state
}

fn change(partition: u32, epochs: (u64, u64), in_sync: &[NodeId], leader: Option<NodeId>) -> PartitionChange {
    PartitionChange {
        topic: TopicId(0),
        partition,
        leader_epoch: LeaderEpoch(epochs.0),
        partition_epoch: PartitionEpoch(epochs.1),
        in_sync: in_sync.to_vec(),
        leader,
        step: Step::Stay,
    }
}

fn batch(changes: &[PartitionChange]) -> PartitionCommand {
    PartitionCommand::ChangePartitions {
        starts: Vec::new(),
        changes: changes.to_vec(),
    }
}

/// The same, with the starts of nodes that become in sync.
fn batch_with(starts: &[NodeId], changes: &[PartitionChange]) -> PartitionCommand {
    let start = |node: &NodeId| registration(*node, 1, None).start();
    PartitionCommand::ChangePartitions {
        starts: starts.iter().map(start).collect(),
        changes: changes.to_vec(),
    }
}

fn partition(state: &PartitionState) -> Partition<'_> {
    state.map().partition("orders", 0).unwrap()
}

#[test]
fn a_created_topic_is_led_by_its_first_replicas() {
    let mut state = one_partition();
    let topic = state.map().topic("orders").unwrap();
    assert_eq!((topic.id, topic.replication_factor), (TopicId(0), 3));
    assert_eq!((topic.created, state.generation()), (6, 6));
    assert_eq!(state.map().leader("orders", 1), Some((2, LeaderEpoch(1))));
    assert!(partition(&state).in_sync().eq([1, 2, 3]));
    assert_eq!(state.map().leader("orders", 2), None);
    assert_eq!(state.map().leader("payments", 0), None);

    // Created again, it is another topic.
    apply(
        &mut state,
        PartitionCommand::DeleteTopic {
            name: "orders".into(),
        },
    );
    assert_eq!(state.map().topic_count(), 0);
    let created = state.apply(9, create_topic("orders", 1, &[&[4]]));
    assert_eq!(
        created,
        Ok(Applied::TopicCreated {
            generation: 9,
            topic: TopicId(1)
        })
    );
    let stale = batch(&[change(0, (1, 1), &[4], None)]);
    let error = refused(&mut state, stale);
    assert_eq!(
        error,
        PartitionError::UnknownPartition {
            topic: TopicId(0),
            partition: 0
        }
    );
}

#[test]
fn an_unfit_topic_is_refused() {
    let mut state = one_partition();
    set_status(&mut state, 4, NodeStatus::Removed);
    let mut check = |command, expected| assert_eq!(refused(&mut state, command), expected);
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a/b", "a b", "\u{e9}", long.as_str()] {
        check(create_topic(name, 1, &[&[1]]), PartitionError::InvalidTopicName);
    }
    let name = "orders".into();
    check(
        create_topic("orders", 1, &[&[1]]),
        PartitionError::TopicExists { name },
    );
    check(
        create_topic("new", 1, &[]),
        PartitionError::InvalidPartitionCount { partitions: 0 },
    );
    let partitions = MAX_PARTITIONS_PER_TOPIC as usize + 1;
    let command = create_topic("new", 1, &vec![&[1][..]; partitions]);
    check(command, PartitionError::InvalidPartitionCount { partitions });
    for replication_factor in [0, MAX_REPLICATION_FACTOR + 1] {
        let error = PartitionError::InvalidReplicationFactor { replication_factor };
        check(create_topic("new", replication_factor, &[&[1]]), error);
    }
    for (nodes, replicas) in [(&[1][..], 1), (&[1, 2, 3], 3)] {
        let error = PartitionError::WrongReplicaCount {
            partition: 1,
            replicas,
        };
        check(create_topic("new", 2, &[&[1, 2], nodes]), error);
    }
    let error = PartitionError::DuplicateReplica {
        partition: 0,
        node: 2,
    };
    check(create_topic("new", 2, &[&[2, 2]]), error);
    check(
        create_topic("new", 1, &[&[9]]),
        PartitionError::UnknownNode { node: 9 },
    );
    check(
        create_topic("new", 1, &[&[4]]),
        PartitionError::NodeRemoved { node: 4 },
    );
    check(
        PartitionCommand::DeleteTopic { name: "new".into() },
        PartitionError::UnknownTopic,
    );
}

#[test]
fn topics_and_partitions_are_limited_in_number() {
    let (mut state, _) = cluster(&[""]);
    let wide = vec![&[1][..]; MAX_PARTITIONS_PER_TOPIC as usize];
    for topic in 0..MAX_PARTITIONS / MAX_PARTITIONS_PER_TOPIC as usize {
        state
            .apply(2, create_topic(&format!("t{topic}"), 1, &wide))
            .unwrap();
    }
    assert_eq!(
        refused(&mut state, create_topic("new", 1, &wide)),
        PartitionError::TooManyPartitions
    );
    state
        .apply(3, PartitionCommand::DeleteTopic { name: "t0".into() })
        .unwrap();
    state.apply(4, create_topic("new", 1, &wide)).unwrap();
}

#[test]
fn a_topic_may_have_fewer_replicas_where_that_is_allowed() {
    let (mut state, _) = cluster(&["", ""]);
    let command = |nodes: &[NodeId]| PartitionCommand::CreateTopic {
        name: "orders".into(),
        replication_factor: 3,
        allow_fewer_replicas: true,
        settings: BTreeMap::new(),
        assignment: vec![nodes.to_vec()],
    };
    let error = refused(&mut state, command(&[]));
    assert_eq!(
        error,
        PartitionError::WrongReplicaCount {
            partition: 0,
            replicas: 0
        }
    );
    apply(&mut state, command(&[1, 2]));
    assert_eq!(state.map().topic("orders").unwrap().replication_factor, 3);
}

#[test]
fn a_change_bumps_the_epochs_that_it_should() {
    let mut state = one_partition();
    let mut check = |change: PartitionChange, expected: (u64, u64)| {
        apply(&mut state, batch_with(&[1, 2, 3], &[change]));
        let partition = partition(&state);
        assert_eq!(
            (partition.leader_epoch().0, partition.partition_epoch().0),
            expected
        );
    };
    check(change(0, (1, 1), &[1, 3], Some(1)), (1, 2));
    check(change(0, (1, 2), &[3], Some(3)), (2, 3));
    check(change(0, (2, 3), &[3], None), (3, 4));
    check(change(0, (3, 4), &[1, 2, 3], Some(3)), (4, 5));
    assert!(partition(&state).in_sync().eq([1, 2, 3]));
}

#[test]
fn a_batch_changes_everything_or_nothing() {
    let mut state = one_partition();
    let good = change(0, (1, 1), &[2], Some(2));
    let at = |partition| (TopicId(0), partition);
    let stale = |partition| PartitionError::StaleEpoch {
        topic: TopicId(0),
        partition,
    };
    let illegal = |rule| PartitionError::IllegalChange {
        topic: TopicId(0),
        partition: 1,
        rule,
    };
    let unordered = |(topic, partition)| PartitionError::UnorderedBatch { topic, partition };
    let unknown = |(topic, partition)| PartitionError::UnknownPartition { topic, partition };
    for (second, expected) in [
        (change(1, (2, 1), &[2], Some(2)), stale(1)),
        (change(1, (1, 0), &[2], Some(2)), stale(1)),
        (change(0, (2, 2), &[2], Some(2)), unordered(at(0))),
        (change(2, (1, 1), &[2], Some(2)), unknown(at(2))),
        (change(1, (1, 1), &[], None), illegal(Rule::InSyncWithinReplicas)),
        (
            change(1, (1, 1), &[4], Some(4)),
            illegal(Rule::InSyncWithinReplicas),
        ),
        (
            change(1, (1, 1), &[2, 2], Some(2)),
            illegal(Rule::InSyncWithinReplicas),
        ),
        (
            change(1, (1, 1), &[3, 2], Some(2)),
            illegal(Rule::InSyncWithinReplicas),
        ),
        (change(1, (1, 1), &[2], Some(3)), illegal(Rule::LeaderInSync)),
        (
            change(1, (1, 1), &[2, 3, 1], Some(2)),
            illegal(Rule::SomethingChanges),
        ),
    ] {
        assert_eq!(refused(&mut state, batch(&[good.clone(), second])), expected);
    }
    assert_eq!(
        refused(&mut state, batch(&[])),
        PartitionError::InvalidBatchSize { changes: 0 }
    );
    let changes = crate::MAX_CHANGES_PER_COMMAND + 1;
    let error = refused(&mut state, batch(&vec![good.clone(); changes]));
    assert_eq!(error, PartitionError::InvalidBatchSize { changes });

    set_status(&mut state, 3, NodeStatus::Removed);
    let error = refused(
        &mut state,
        batch(&[good.clone(), change(1, (1, 1), &[3], Some(3))]),
    );
    assert_eq!(error, illegal(Rule::LeaderNotRemoved));
    apply(&mut state, batch(&[good, change(1, (1, 1), &[2], Some(2))]));
    assert_eq!(state.map().leader("orders", 0), Some((2, LeaderEpoch(2))));
}

#[test]
fn a_snapshot_does_not_follow_later_changes() {
    let mut state = one_partition();
    let (snapshot, map) = (state.clone(), state.map().clone());
    apply(&mut state, batch(&[change(0, (1, 1), &[2], Some(2))]));
    assert_eq!(snapshot.map(), &map);
    assert_eq!(map.leader("orders", 0), Some((1, LeaderEpoch(1))));
}

#[test]
fn a_state_comes_back_from_its_bytes() {
    let (state, _) = with_orders(&["a", "b", "", "a"], 50, 3);
    let bytes = postcard::to_allocvec(&state).unwrap();
    assert_eq!(postcard::from_bytes::<PartitionState>(&bytes).unwrap(), state);

    let mut unknown = bytes.clone();
    unknown[0] = 1;
    assert!(postcard::from_bytes::<PartitionState>(&unknown).is_err());
}

#[test]
fn a_damaged_state_is_refused() {
    let state = one_partition();
    let damage = |edit: fn(&mut Cell)| {
        let mut damaged = state.clone();
        let topics = Arc::make_mut(&mut damaged.map.topics);
        edit(topics.cell_mut(Spot::new(TopicId(0), 0).unwrap()).unwrap());
        let bytes = postcard::to_allocvec(&damaged).unwrap();
        assert!(postcard::from_bytes::<PartitionState>(&bytes).is_err());
    };
    damage(|cell| cell.set_leader(Some(3)));
    damage(|cell| cell.in_sync = 0);
    damage(|cell| cell.in_sync = 0b110);
    damage(|cell| cell.in_sync = 0b1111);
    damage(|cell| cell.seats = seats_of(&[0, 1, 2, 0]));
    damage(|cell| cell.seats = seats_of(&[0, 1, 9]));
    damage(|cell| cell.seats.as_mut_slice()[1].instance = 1);
    damage(|cell| cell.leader_epoch = LeaderEpoch(0));
    damage(|cell| cell.leader_epoch = LeaderEpoch(2));
    damage(|cell| cell.set_moving(Some(queued(&[0, 1, 2], &[1]))));
    damage(|cell| {
        cell.set_hand_over(Some(HandOver {
            to: 0,
            since_ms: 0,
            released: false,
        }))
    });
}

fn seats_of(slots: &[u16]) -> Seats {
    let seat = |slot: &u16| Seat {
        slot: *slot,
        instance: 0,
        boot: 1,
    };
    Seats::from(slots.iter().map(seat).collect::<Vec<_>>().as_slice())
}

/// A move of a rebalance that the state has not.
fn queued(prior: &[u16], target: &[u16]) -> Move {
    Move {
        phase: MovePhase::Queued,
        planned: true,
        prior: prior.into(),
        target: target.into(),
    }
}

proptest! {
    #[test]
    fn no_damage_to_the_bytes_of_a_state_makes_it_panic(
        at in any::<prop::sample::Index>(),
        garbage in vec(any::<u8>(), 1..8),
    ) {
        let (state, _) = with_orders(&["a", "b", ""], 6, 2);
        let mut bytes = postcard::to_allocvec(&state).unwrap();
        let at = at.index(bytes.len());
        for (byte, garbage) in bytes[at..].iter_mut().zip(&garbage) {
            *byte = *garbage;
        }
        if let Ok(read) = postcard::from_bytes::<PartitionState>(&bytes) {
            read.check().unwrap();
        }
        bytes.truncate(at);
        prop_assert!(postcard::from_bytes::<PartitionState>(&bytes).is_err());
        let _ = postcard::from_bytes::<PartitionCommand>(&garbage);
    }
}
