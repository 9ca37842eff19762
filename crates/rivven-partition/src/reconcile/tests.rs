//! The controller: failover, return, drain and balance, and that it always comes to rest.

mod model;
mod moves;
mod reported;

use std::collections::BTreeSet;

use super::*;
use crate::{
    LEADER_IMBALANCE_MIN, LEADER_RETURN_HOLD_MS, MAX_CHANGES_PER_COMMAND, PartitionChange, Step, TopicSpec,
    testing::{Members, apply, cluster, create, leaders, registration, set_status, settle, with_orders},
};

const LATER: u64 = LEADER_RETURN_HOLD_MS;

#[test]
fn a_healthy_cluster_is_left_alone() {
    let (state, members) = with_orders(&[""; 5], 100, 3);
    assert_eq!(reconcile(&state, &members, 0), []);
}

#[test]
fn leaders_of_a_dead_node_move_in_one_command_under_higher_epochs() {
    let (mut state, mut members) = with_orders(&[""; 3], 12, 3);
    let before = state.clone();
    members.insert(2, Liveness::Dead);
    let commands = reconcile(&state, &members, 7);
    let boot_epoch = rivven_types::BootEpoch(1);
    let down = PartitionCommand::SetNodeStatus {
        node: 2,
        boot_epoch,
        status: NodeStatus::Down,
        at_ms: 7,
    };
    assert_eq!(commands[0], down);
    let PartitionCommand::ChangePartitions { changes, .. } = &commands[1] else {
        panic!("{commands:?}")
    };
    assert_eq!(changes.len(), 4);
    assert!(
        changes
            .iter()
            .all(|change| change.leader.is_some_and(|leader| leader != 2))
    );

    settle(&mut state, &members, 7);
    for partition in 0..12 {
        let (was, is) = (
            before.map().leader("orders", partition),
            state.map().leader("orders", partition),
        );
        let (was, is) = (was.unwrap(), is.unwrap());
        assert_eq!(
            is.1.0,
            was.1.0 + u64::from(was.0 == 2),
            "only moved leaderships get a new epoch"
        );
        assert!(
            !state
                .map()
                .partition("orders", partition)
                .unwrap()
                .in_sync()
                .any(|node| node == 2)
        );
    }
    // Four orphans, shared by two survivors.
    assert_eq!(state.map().leaders_per_node(), BTreeMap::from([(1, 6), (3, 6)]));
}

#[test]
fn a_suspect_or_unknown_node_keeps_its_leaders_and_gains_none() {
    for doubt in [Liveness::Suspect, Liveness::Unknown] {
        let (mut state, mut members) = with_orders(&[""; 3], 12, 2);
        members.insert(2, doubt);
        assert_eq!(reconcile(&state, &members, 0), []);
        members.insert(1, Liveness::Dead);
        settle(&mut state, &members, 0);
        assert_eq!(state.map().leaders_per_node().get(&2), Some(&4), "{doubt:?}");
        // Partitions of the dead node and the doubtful one alone wait for the doubt to end.
        let waiting = leaders(&state).iter().filter(|leader| **leader == 0).count();
        assert!(waiting > 0);
        members.insert(2, Liveness::Alive);
        settle(&mut state, &members, 0);
        assert!(!leaders(&state).contains(&0));
    }
}

#[test]
fn a_partition_without_live_replicas_waits_for_one() {
    let (mut state, mut members) = with_orders(&[""; 4], 1, 2);
    let replicas: Vec<NodeId> = state.map().partition("orders", 0).unwrap().replicas().collect();
    for node in &replicas {
        members.insert(*node, Liveness::Dead);
    }
    settle(&mut state, &members, 0);
    let partition = state.map().partition("orders", 0).unwrap();
    assert_eq!((partition.leader(), partition.leader_epoch().0), (None, 2));
    assert!(
        partition.in_sync().eq(replicas.iter().copied()),
        "only these may lead again"
    );

    members.insert(replicas[1], Liveness::Alive);
    settle(&mut state, &members, 0);
    let partition = state.map().partition("orders", 0).unwrap();
    assert_eq!(
        (partition.leader(), partition.leader_epoch().0),
        (Some(replicas[1]), 3)
    );
    assert!(partition.in_sync().eq(replicas[1..].iter().copied()));

    // Also when all live members are strangers to the partition, and when nobody at all seems alive.
    for life in members.values_mut() {
        *life = Liveness::Dead;
    }
    assert_eq!(
        reconcile(&state, &members, 0),
        [],
        "whoever asks is alive, so this view is wrong"
    );
}

#[test]
fn a_returned_node_leads_again_after_a_hold() {
    let (mut state, mut members) = with_orders(&[""; 3], 12, 3);
    members.insert(2, Liveness::Dead);
    settle(&mut state, &members, 1_000);
    members.insert(2, Liveness::Alive);
    settle(&mut state, &members, 2_000);
    assert_eq!(state.map().node(2).unwrap().since_ms, 2_000);
    assert!(
        state
            .map()
            .partition("orders", 0)
            .unwrap()
            .in_sync()
            .any(|node| node == 2)
    );
    assert!(!leaders(&state).contains(&2), "a node just back may leave again");

    settle(&mut state, &members, 2_000 + LATER - 1);
    assert!(!leaders(&state).contains(&2));
    let before = leaders(&state);
    settle(&mut state, &members, 2_000 + LATER);
    let moved = before
        .iter()
        .zip(leaders(&state))
        .filter(|(was, is)| **was != *is)
        .count();
    assert_eq!(moved, 4, "as many as the returned node now leads");
    assert_eq!(
        state.map().leaders_per_node(),
        BTreeMap::from([(1, 4), (2, 4), (3, 4)])
    );
    // A clock behind the last controller's does not hold for ever.
    assert_eq!(reconcile(&state, &members, 0), []);
}

#[test]
fn balancing_moves_no_more_leaders_than_the_returned_node_gains() {
    let (mut state, mut members) = with_orders(&[""; 5], 100, 3);
    members.insert(2, Liveness::Dead);
    settle(&mut state, &members, 0);
    members.insert(2, Liveness::Alive);
    settle(&mut state, &members, 0);
    let before = leaders(&state);
    settle(&mut state, &members, LATER);
    let moved = before
        .iter()
        .zip(leaders(&state))
        .filter(|(was, is)| **was != *is)
        .count();
    let gained = leaders(&state).into_iter().filter(|leader| *leader == 2).count();
    assert!(gained >= 18, "{gained} of a hundred partitions and five nodes");
    assert_eq!(moved, gained);
}

#[test]
fn leaders_are_balanced_between_nodes_below_the_mean_too() {
    // Node 3 leads most and can hand nothing over; 1 and 2 share eight partitions, led 6 to 2.
    let (mut state, members) = cluster(&["", "", ""]);
    let shared = [vec![vec![1, 2]; 6], vec![vec![2, 1]; 2]].concat();
    for (name, replication_factor, assignment) in [("single", 1, vec![vec![3]; 10]), ("orders", 2, shared)] {
        let command = PartitionCommand::CreateTopic {
            name: name.into(),
            replication_factor,
            allow_fewer_replicas: false,
            settings: BTreeMap::new(),
            assignment,
        };
        apply(&mut state, command);
    }
    settle(&mut state, &members, LATER);
    assert_eq!(
        state.map().leaders_per_node(),
        BTreeMap::from([(1, 4), (2, 4), (3, 10)])
    );
}

#[test]
fn small_gaps_move_no_leaders() {
    let (mut state, members) = with_orders(&[""; 3], 12, 3);
    // 5, 4 and 3 leaders differ by no more than the threshold.
    let topic = state.map().topic("orders").unwrap();
    let (number, partition) = (0..)
        .zip(topic.partitions())
        .find(|(_, partition)| partition.leader() == Some(2))
        .unwrap();
    let moved = PartitionChange {
        topic: topic.id,
        partition: number,
        leader_epoch: partition.leader_epoch(),
        partition_epoch: partition.partition_epoch(),
        in_sync: partition.in_sync().collect(),
        leader: Some(1),
        step: Step::Stay,
    };
    let (starts, changes) = (Vec::new(), vec![moved]);
    apply(&mut state, PartitionCommand::ChangePartitions { starts, changes });
    let leads = state.map().leaders_per_node();
    assert_eq!(
        leads.values().max().unwrap() - leads.values().min().unwrap(),
        LEADER_IMBALANCE_MIN
    );
    assert_eq!(reconcile(&state, &members, LATER), []);
}

#[test]
fn a_draining_node_hands_its_leaders_over_where_another_can_lead() {
    let (mut state, members) = with_orders(&[""; 3], 12, 3);
    create(
        &mut state,
        &members,
        "single",
        &TopicSpec::new(6).replication_factor(1),
    );
    set_status(&mut state, 1, NodeStatus::Draining);
    settle(&mut state, &members, LATER);
    assert!(!leaders(&state).contains(&1));
    let single = state.map().topic("single").unwrap();
    assert!(
        single.partitions().all(|partition| partition.leader().is_some()),
        "a leader that leaves beats none"
    );
    assert!(single.partitions().any(|partition| partition.leader() == Some(1)));
    assert!(
        state
            .map()
            .partition("orders", 0)
            .unwrap()
            .in_sync()
            .any(|node| node == 1),
        "it still follows"
    );
}

#[test]
fn what_does_not_fit_into_one_call_follows_in_the_next() {
    let (mut state, mut members) = cluster(&["", "", ""]);
    for topic in 0..5 {
        create(
            &mut state,
            &members,
            &format!("t{topic}"),
            &TopicSpec::new(16_384).replication_factor(2),
        );
    }
    // Nobody can lead what node 1 and 2 hold together; that must not starve what node 3 can lead.
    members.insert(1, Liveness::Dead);
    members.insert(2, Liveness::Dead);
    for _ in 0..4 {
        let commands = reconcile(&state, &members, 0);
        let sizes = commands.iter().map(|command| match command {
            PartitionCommand::ChangePartitions { changes, .. } => changes.len(),
            _ => 0,
        });
        let sizes: Vec<_> = sizes.collect();
        assert!(sizes.iter().all(|size| *size <= MAX_CHANGES_PER_COMMAND));
        assert!(sizes.iter().sum::<usize>() <= MAX_CHANGES_PER_RECONCILE);
        for command in commands {
            assert!(postcard::to_allocvec(&command).unwrap().len() < 4 << 20);
            state.apply(9, command).unwrap();
        }
    }
    assert_eq!(reconcile(&state, &members, 0), []);
    let led = state.map().leaders_per_node();
    assert_eq!(led.get(&3), state.map().replicas_per_node().get(&3));
}
