//! Replicas: rebuilt after a hold, never for a flap, moved as planned, brought back when cancelled.

use super::*;
use crate::{
    FLAP_MEMORY_MS, Goal, MAX_REBUILD_FLAPS, MovePhase, REBUILD_HOLD_MS, RebalanceCommand, RebalanceStatus,
    plan,
};

fn replicas(state: &PartitionState) -> Vec<Vec<NodeId>> {
    let topic = state.map().topic("orders").unwrap();
    topic
        .partitions()
        .map(|partition| partition.replicas().collect())
        .collect()
}

fn holds(state: &PartitionState, node: NodeId) -> u32 {
    state.map().replicas_of(node)
}

fn set(state: &mut PartitionState, key: &str, value: &str) {
    let changes = BTreeMap::from([(key.into(), Some(value.into()))]);
    apply(state, PartitionCommand::Configure { topic: None, changes });
}

#[test]
fn a_lost_replica_is_rebuilt_after_the_hold_and_not_before() {
    let (mut state, mut members) = with_orders(&["a", "b", "c", "a", "b", "c"], 30, 3);
    let before = replicas(&state);
    members.insert(2, Liveness::Dead);
    settle(&mut state, &members, 1_000);
    settle(&mut state, &members, 1_000 + REBUILD_HOLD_MS - 1);
    assert_eq!(replicas(&state), before, "it may return");
    settle(&mut state, &members, 1_000 + REBUILD_HOLD_MS);
    assert_eq!(holds(&state, 2), 0);
    for set in replicas(&state) {
        let zones: BTreeSet<_> = set.iter().map(|node| (node - 1) % 3).collect();
        assert_eq!((set.len(), zones.len()), (3, 3), "{set:?}");
    }
    // Node 5 is alone in zone b now, so it gets what node 2 had.
    assert_eq!(holds(&state, 5), 30);
}

#[test]
fn a_flapping_node_moves_no_replica_and_waits_longer_each_time() {
    let (mut state, mut members) = with_orders(&[""; 5], 40, 3);
    let before = replicas(&state);
    let mut now_ms = 1_000;
    for flap in 0..6 {
        members.insert(2, Liveness::Dead);
        settle(&mut state, &members, now_ms);
        assert_eq!(state.map().node(2).unwrap().flaps, flap);
        now_ms += REBUILD_HOLD_MS - 1;
        settle(&mut state, &members, now_ms);
        members.insert(2, Liveness::Alive);
        settle(&mut state, &members, now_ms);
        assert_eq!(replicas(&state), before, "flap {flap}");
        // Leaders wait twice as long for each flap.
        let hold_ms = LEADER_RETURN_HOLD_MS << flap;
        settle(&mut state, &members, now_ms + hold_ms - 1);
        assert_eq!(state.map().leaders_of(2), 0, "flap {flap}");
        settle(&mut state, &members, now_ms + hold_ms);
        assert!(state.map().leaders_of(2) > 0, "flap {flap}");
        now_ms += hold_ms;
    }
    members.insert(2, Liveness::Dead);
    settle(&mut state, &members, now_ms);
    let hold_ms = REBUILD_HOLD_MS << MAX_REBUILD_FLAPS;
    settle(&mut state, &members, now_ms + hold_ms - 1);
    assert_eq!(replicas(&state), before);
    settle(&mut state, &members, now_ms + hold_ms);
    assert_eq!(holds(&state, 2), 0);
    // Long after, it starts anew.
    now_ms += hold_ms + FLAP_MEMORY_MS;
    members.insert(2, Liveness::Alive);
    settle(&mut state, &members, now_ms);
    members.insert(2, Liveness::Dead);
    settle(&mut state, &members, now_ms);
    assert_eq!(state.map().node(2).unwrap().flaps, 0);
}

#[test]
fn weight_zero_empties_a_live_node_and_it_can_then_be_removed() {
    let (mut state, members) = with_orders(&[""; 4], 24, 2);
    apply(
        &mut state,
        PartitionCommand::SetNodeWeight {
            node: 3,
            weight: Some(0),
        },
    );
    settle(&mut state, &members, LATER);
    assert_eq!((holds(&state, 3), state.map().leaders_of(3)), (0, 0));
    assert!(replicas(&state).iter().all(|set| set.len() == 2));
    set_status(&mut state, 3, NodeStatus::Removed);
    assert_eq!(reconcile(&state, &members, LATER), []);
}

#[test]
fn rebuilding_can_be_switched_off_and_is_limited() {
    let (mut state, members) = with_orders(&[""; 4], 24, 2);
    set(&mut state, "rebuild", "off");
    apply(
        &mut state,
        PartitionCommand::SetNodeWeight {
            node: 3,
            weight: Some(0),
        },
    );
    settle(&mut state, &members, LATER);
    assert_eq!(holds(&state, 3), 12);
    set(&mut state, "moves-in-flight", "5");
    set(&mut state, "moves-in-flight-per-node", "2");
    set(&mut state, "rebuild", "on");
    let begun = reconcile(&state, &members, LATER);
    let PartitionCommand::ChangePartitions { changes, .. } = &begun[0] else {
        panic!("{begun:?}")
    };
    assert_eq!(changes.len(), 5, "three nodes would take six");
    settle(&mut state, &members, LATER);
    assert_eq!(holds(&state, 3), 0);
}

#[test]
fn a_changed_replication_factor_is_brought_about() {
    let (mut state, members) = with_orders(&["a", "b", "c"], 12, 2);
    let topic = state.map().topic("orders").unwrap().id;
    for (replication_factor, expected) in [(3, 12), (1, 4), (2, 8)] {
        let command = PartitionCommand::SetReplicationFactor {
            topic,
            replication_factor,
        };
        apply(&mut state, command);
        settle(&mut state, &members, LATER);
        assert!(
            replicas(&state)
                .iter()
                .all(|set| set.len() == usize::from(replication_factor))
        );
        let most = (1..4).map(|node| holds(&state, node)).max().unwrap();
        assert!(most.abs_diff(expected) <= 1, "{most} of {expected}");
        assert!(!leaders(&state).contains(&0));
    }
}

/// A cluster of five that a rebalance of some moves has been begun on, one at a time.
fn begun() -> (PartitionState, Members, Vec<Vec<NodeId>>) {
    let (mut state, mut members) = with_orders(&[""; 4], 40, 2);
    let registration = registration(5, 1, None);
    apply(&mut state, PartitionCommand::RegisterNode(registration));
    set_status(&mut state, 5, NodeStatus::Active);
    members.insert(5, Liveness::Alive);
    set(&mut state, "moves-in-flight", "1");
    let before = replicas(&state);
    let made = plan(&state, &members, &Goal::default()).unwrap();
    assert_eq!(made.summary().replica_moves, 16);
    let command = RebalanceCommand::Begin {
        against: made.against(),
        at_ms: LATER,
        moves: made.moves().collect(),
        more: false,
    };
    apply(&mut state, PartitionCommand::Rebalance(command));
    (state, members, before)
}

fn step(state: &mut PartitionState, members: &Members) {
    for command in reconcile(state, members, LATER) {
        apply(state, command);
    }
}

fn rebalance(state: &mut PartitionState, command: fn(u64) -> RebalanceCommand) {
    let id = state.map().rebalance().unwrap().id;
    apply(state, PartitionCommand::Rebalance(command(id)));
}

#[test]
fn a_rebalance_pauses_resumes_and_cancelled_restores_the_exact_map() {
    let (mut state, members, before) = begun();
    for _ in 0..9 {
        step(&mut state, &members);
    }
    let running = state.map().rebalance().unwrap().clone();
    assert!(running.done > 0 && running.queued > 0, "{running:?}");
    rebalance(&mut state, |id| RebalanceCommand::Pause { id });
    settle(&mut state, &members, LATER);
    let paused = state.map().rebalance().unwrap().clone();
    assert_eq!((paused.status, paused.active), (RebalanceStatus::Paused, 0));
    assert!(paused.queued > 0, "nothing begins");
    rebalance(&mut state, |id| RebalanceCommand::Resume { id });
    step(&mut state, &members);
    assert_eq!(state.map().rebalance().unwrap().active, 1);
    rebalance(&mut state, |id| RebalanceCommand::Cancel { id });
    settle(&mut state, &members, LATER);
    assert_eq!(state.map().rebalance(), None);
    assert_eq!(replicas(&state), before);
}

#[test]
fn a_rebalance_goes_on_when_its_target_is_lost() {
    let (mut state, mut members, _) = begun();
    for _ in 0..5 {
        step(&mut state, &members);
    }
    members.insert(5, Liveness::Dead);
    settle(&mut state, &members, LATER);
    settle(&mut state, &members, LATER + REBUILD_HOLD_MS);
    assert_eq!((holds(&state, 5), state.map().rebalance()), (0, None));
    assert!(replicas(&state).iter().all(|set| set.len() == 2));
}

#[test]
fn a_stale_plan_is_refused_and_so_is_a_second_rebalance() {
    let (mut state, members, _) = begun();
    let second = RebalanceCommand::Begin {
        against: state.map().placement_generation(),
        at_ms: 0,
        moves: Vec::new(),
        more: false,
    };
    let refused = state.apply(900, PartitionCommand::Rebalance(second)).unwrap_err();
    assert_eq!(refused.code(), "rebalance-under-way");
    settle(&mut state, &members, LATER);
    apply(
        &mut state,
        PartitionCommand::SetNodeWeight {
            node: 1,
            weight: Some(200),
        },
    );
    let made = plan(&state, &members, &Goal::default()).unwrap();
    apply(
        &mut state,
        PartitionCommand::SetNodeWeight {
            node: 1,
            weight: None,
        },
    );
    let stale = RebalanceCommand::Begin {
        against: made.against(),
        at_ms: 0,
        moves: made.moves().collect(),
        more: false,
    };
    let refused = state.apply(901, PartitionCommand::Rebalance(stale)).unwrap_err();
    assert_eq!(refused.code(), "stale-plan");
}

#[test]
fn a_rebalance_that_nobody_goes_on_filling_is_cancelled() {
    let (mut state, members) = with_orders(&[""; 3], 6, 2);
    let set = replicas(&state)[0].clone();
    let target = vec![set[1], set[0]];
    let topic = state.map().topic("orders").unwrap().id;
    let command = RebalanceCommand::Begin {
        against: state.map().placement_generation(),
        at_ms: 10,
        moves: vec![crate::PlannedMove {
            topic,
            partition: 0,
            target,
        }],
        more: true,
    };
    apply(&mut state, PartitionCommand::Rebalance(command));
    settle(&mut state, &members, 10 + FILL_LIMIT_MS);
    assert_eq!(state.map().rebalance().unwrap().status, RebalanceStatus::Filling);
    settle(&mut state, &members, 11 + FILL_LIMIT_MS);
    assert_eq!(
        (state.map().rebalance(), replicas(&state)[0].clone()),
        (None, set)
    );
}

#[test]
fn every_prefix_of_a_rebalance_is_legal_and_keeps_enough_in_sync() {
    let (mut state, members, before) = begun();
    set(&mut state, "min-in-sync-replicas", "2");
    for round in 0..200 {
        let commands = reconcile(&state, &members, LATER);
        if commands.is_empty() {
            assert!(round > 16, "one move at a time");
            return;
        }
        for command in commands {
            apply(&mut state, command);
            let topic = state.map().topic("orders").unwrap();
            for (partition, before) in topic.partitions().zip(&before) {
                assert!(partition.in_sync().count() >= 2, "{partition:?}");
                assert!(partition.leader().is_some());
                let moving = partition.move_phase() == Some(MovePhase::Adding);
                assert!(
                    !moving
                        || before
                            .iter()
                            .all(|node| partition.replicas().any(|other| other == *node))
                );
            }
        }
    }
    panic!("it does not end");
}
