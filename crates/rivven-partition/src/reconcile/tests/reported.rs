//! Where leaders report who is in sync: leases are waited out, leaders are asked to let go, disks are told apart.

use rivven_types::InstanceId;

use super::*;
use crate::{InSyncReport, Start, UncleanElection};

const POLICY: Policy = Policy {
    in_sync: InSyncRule::Reported,
    lease_ms: 3_000,
    release_ms: 2_000,
};

fn settle_reported(state: &mut PartitionState, members: &Members, now_ms: u64) {
    let mut reconciler = Reconciler::new(POLICY);
    for _ in 0..50 {
        let commands = reconciler.reconcile(state, members, now_ms);
        if commands.is_empty() {
            return;
        }
        commands.into_iter().for_each(|command| apply(state, command));
    }
    panic!("fifty rounds have not settled it");
}

fn start(state: &PartitionState, node: NodeId) -> Start {
    state.map().node(node).unwrap().registration.start()
}

fn partition(state: &PartitionState) -> crate::Partition<'_> {
    state.map().partition("orders", 0).unwrap()
}

/// The report of a leader that these nodes are in sync.
fn report(state: &PartitionState, by: NodeId, in_sync: &[NodeId]) -> PartitionCommand {
    let topic = state.map().topic("orders").unwrap();
    let partition = partition(state);
    PartitionCommand::ReportInSync {
        leader: start(state, by),
        starts: in_sync.iter().map(|node| start(state, *node)).collect(),
        reports: vec![InSyncReport {
            topic: topic.id,
            partition: 0,
            leader_epoch: partition.leader_epoch(),
            partition_epoch: partition.partition_epoch(),
            in_sync: in_sync.to_vec(),
        }],
    }
}

fn refused(state: &mut PartitionState, command: PartitionCommand) -> &'static str {
    let before = state.clone();
    let error = state.apply(state.generation() + 1, command).unwrap_err();
    assert_eq!(*state, before);
    error.code()
}

/// One partition on nodes 1, 2 and 3, led by the node that is returned.
fn one() -> (PartitionState, Members, NodeId) {
    let (state, members) = with_orders(&[""; 3], 1, 3);
    let leader = partition(&state).leader().unwrap();
    (state, members, leader)
}

#[test]
fn the_lease_of_a_dead_leader_is_waited_out() {
    let (mut state, mut members, leader) = one();
    members.insert(leader, Liveness::Dead);
    settle_reported(&mut state, &members, 1_000);
    assert_eq!(partition(&state).leader(), Some(leader), "it may believe to lead");
    settle_reported(&mut state, &members, 1_000 + POLICY.lease_ms - 1);
    assert_eq!(partition(&state).leader(), Some(leader));
    settle_reported(&mut state, &members, 1_000 + POLICY.lease_ms);
    assert_ne!(partition(&state).leader(), Some(leader));
}

#[test]
fn a_proof_of_death_is_not_waited_for() {
    // It said goodbye.
    let (mut state, mut members, leader) = one();
    members.insert(leader, Liveness::Left);
    settle_reported(&mut state, &members, 0);
    assert_ne!(partition(&state).leader(), Some(leader));
    // It has started anew, and leads on under another epoch.
    let (mut state, members, leader) = one();
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(leader, 2, None)),
    );
    settle_reported(&mut state, &members, 0);
    assert_eq!(
        (partition(&state).leader(), partition(&state).leader_epoch().0),
        (Some(leader), 2)
    );
    assert_eq!(partition(&state).leader_start(), Some(start(&state, leader)));
}

#[test]
fn nobody_is_in_sync_unless_the_leader_says_so() {
    let (mut state, mut members, leader) = one();
    let other = leader % 3 + 1;
    members.insert(other, Liveness::Dead);
    settle_reported(&mut state, &members, 0);
    assert!(!partition(&state).in_sync().any(|node| node == other));
    members.insert(other, Liveness::Alive);
    settle_reported(&mut state, &members, 0);
    assert!(
        !partition(&state).in_sync().any(|node| node == other),
        "it has not caught up"
    );
    let all: Vec<NodeId> = partition(&state).replicas().collect();
    let command = report(&state, leader, &all);
    apply(&mut state, command.clone());
    assert_eq!(partition(&state).in_sync().count(), 3);
    assert_eq!(refused(&mut state, command), "stale-epoch");
    // Only the leader, only in its present start, only starts that are.
    let command = report(&state, other, &all);
    assert_eq!(refused(&mut state, command), "illegal-change");
    let command = report(&state, leader, &all[..2]);
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(other, 2, None)),
    );
    let expected = if all[..2].contains(&other) {
        "stale-start"
    } else {
        ""
    };
    if !expected.is_empty() {
        assert_eq!(refused(&mut state, command.clone()), expected);
    }
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(leader, 2, None)),
    );
    assert_eq!(refused(&mut state, command), "stale-start");
}

#[test]
fn a_replica_that_lost_its_disk_is_not_in_sync_under_its_old_name() {
    let (mut state, mut members, leader) = one();
    let (other, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // Everybody but one dies, and that one is then removed and comes back with an empty disk.
    members.insert(third, Liveness::Left);
    members.insert(leader, Liveness::Left);
    settle_reported(&mut state, &members, 0);
    assert_eq!(partition(&state).leader(), Some(other));
    members.insert(other, Liveness::Left);
    members.insert(9, Liveness::Alive);
    settle_reported(&mut state, &members, 0);
    assert_eq!(
        (partition(&state).leader(), partition(&state).in_sync().collect()),
        (None, vec![other])
    );
    set_status(&mut state, other, NodeStatus::Removed);
    let mut empty = registration(other, 1, None);
    empty.instance = InstanceId::from_random([99; 16]);
    apply(&mut state, PartitionCommand::RegisterNode(empty));
    members.insert(other, Liveness::Alive);
    members.insert(leader, Liveness::Alive);
    settle_reported(&mut state, &members, 0);
    assert_eq!(partition(&state).leader(), None, "neither has everything");
    assert_ne!(
        partition(&state).in_sync_starts().next(),
        Some(start(&state, other))
    );

    // An operator may give up what is lost, by name, and that is remembered.
    let election = UncleanElection {
        topic: state.map().topic("orders").unwrap().id,
        partition: 0,
        partition_epoch: partition(&state).partition_epoch(),
        leader: start(&state, leader),
        at_ms: 5,
        reason: "the others burnt down".into(),
    };
    let before = partition(&state).leader_epoch();
    apply(&mut state, PartitionCommand::ElectUnclean(election.clone()));
    assert!(partition(&state).leader_epoch() > before);
    settle_reported(&mut state, &members, 0);
    assert_eq!(partition(&state).leader(), Some(leader));
    assert_eq!(state.map().unclean_elections(), [election]);
}

#[test]
fn a_draining_leader_is_asked_and_the_deadline_ends_its_silence() {
    let (mut state, members, leader) = one();
    set_status(&mut state, leader, NodeStatus::Draining);
    settle_reported(&mut state, &members, 1_000);
    let to = partition(&state).hand_over_to().unwrap();
    assert_eq!(partition(&state).leader(), Some(leader), "until it has let go");
    let mut other = state.clone();
    let released = PartitionCommand::Release {
        leader: start(&state, leader),
        released: vec![(
            state.map().topic("orders").unwrap().id,
            0,
            partition(&state).leader_epoch(),
        )],
    };
    apply(&mut state, released);
    settle_reported(&mut state, &members, 1_001);
    assert_eq!(
        (partition(&state).leader(), partition(&state).hand_over_to()),
        (Some(to), None)
    );
    // The other leader never answers.
    settle_reported(&mut other, &members, 1_000 + POLICY.release_ms - 1);
    assert_eq!(partition(&other).leader(), Some(leader));
    settle_reported(&mut other, &members, 1_000 + POLICY.release_ms);
    assert_eq!(partition(&other).leader(), Some(to));
}

#[test]
fn balancing_asks_for_no_more_leaderships_while_some_are_on_their_way() {
    let (mut state, mut members) = with_orders(&[""; 3], 12, 3);
    members.insert(1, Liveness::Left);
    settle_reported(&mut state, &members, 0);
    members.insert(1, Liveness::Alive);
    settle_reported(&mut state, &members, 1);
    let topic = state.map().topic("orders").unwrap().get().clone();
    for leader in [2, 3] {
        let led = state.map().topic("orders").unwrap();
        let led = (0..).zip(led.partitions());
        let led = led.filter(|(_, partition)| partition.leader() == Some(leader));
        let reports = led.map(|(number, partition)| InSyncReport {
            topic: topic.id,
            partition: number,
            leader_epoch: partition.leader_epoch(),
            partition_epoch: partition.partition_epoch(),
            in_sync: partition.replicas().collect(),
        });
        let reports = reports.collect();
        let starts = (1..=3).map(|node| start(&state, node)).collect();
        let leader = start(&state, leader);
        let command = PartitionCommand::ReportInSync {
            leader,
            starts,
            reports,
        };
        apply(&mut state, command);
    }
    let now_ms = 2 * LEADER_RETURN_HOLD_MS;
    settle_reported(&mut state, &members, now_ms);
    let topic = state.map().topic("orders").unwrap();
    let asked = topic
        .partitions()
        .filter(|partition| partition.hand_over_to().is_some());
    assert_eq!(asked.count(), 4, "two of each of the others");
    // They take their time, and nothing else is asked of them.
    settle_reported(&mut state, &members, now_ms + POLICY.release_ms - 1);
    let topic = state.map().topic("orders").unwrap();
    assert_eq!(
        topic
            .partitions()
            .filter(|partition| partition.hand_over_to().is_some())
            .count(),
        4
    );
}

#[test]
fn nobody_is_waited_for_who_has_let_go_or_is_over() {
    let cleared = |state: &PartitionState| (partition(state).leader_epoch().0, partition(state).is_cleared());
    let (mut state, mut members, leader) = one();
    assert_eq!(cleared(&state), (1, true));
    // It is only believed dead.
    members.insert(leader, Liveness::Dead);
    settle_reported(&mut state, &members, 0);
    settle_reported(&mut state, &members, POLICY.lease_ms);
    assert_eq!(cleared(&state), (2, false));
    let bytes = postcard::to_allocvec(&state).unwrap();
    assert_eq!(postcard::from_bytes::<PartitionState>(&bytes).unwrap(), state);
    // Its successor starts anew: that is over, but may have begun to lead while the first went on.
    let second = partition(&state).leader().unwrap();
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(second, 2, None)),
    );
    settle_reported(&mut state, &members, POLICY.lease_ms);
    assert_eq!(cleared(&state), (3, false));
    // A leader lets go only after everybody before it has.
    let third = partition(&state).leader().unwrap();
    set_status(&mut state, third, NodeStatus::Draining);
    settle_reported(&mut state, &members, POLICY.lease_ms);
    let topic = state.map().topic("orders").unwrap().id;
    let released = vec![(topic, 0, partition(&state).leader_epoch())];
    let leader = start(&state, third);
    apply(&mut state, PartitionCommand::Release { leader, released });
    settle_reported(&mut state, &members, POLICY.lease_ms);
    assert_eq!(cleared(&state), (4, true));
    // Its successor starts anew, with nobody before it that could go on.
    let fourth = partition(&state).leader().unwrap();
    apply(
        &mut state,
        PartitionCommand::RegisterNode(registration(fourth, 3, None)),
    );
    settle_reported(&mut state, &members, POLICY.lease_ms);
    assert_eq!(cleared(&state), (5, true));
}

#[test]
fn a_leader_that_nobody_can_succeed_goes_on_under_a_new_epoch() {
    let (mut state, mut members, leader) = one();
    set_status(&mut state, leader, NodeStatus::Draining);
    settle_reported(&mut state, &members, 1_000);
    for node in (1..4).filter(|node| *node != leader) {
        members.insert(node, Liveness::Suspect);
    }
    settle_reported(&mut state, &members, 1_000 + POLICY.release_ms);
    assert_eq!(
        (partition(&state).leader(), partition(&state).leader_epoch().0),
        (Some(leader), 2)
    );
    assert_eq!(partition(&state).hand_over_to(), None);
}

#[test]
fn a_rebuilt_replica_replaces_the_lost_one_only_once_it_is_in_sync() {
    let (mut state, mut members) = with_orders(&[""; 4], 1, 3);
    let lost = partition(&state).replicas().last().unwrap();
    let leader = partition(&state).leader().unwrap();
    members.insert(lost, Liveness::Dead);
    settle_reported(&mut state, &members, 0);
    settle_reported(&mut state, &members, crate::REBUILD_HOLD_MS);
    let new = partition(&state).adding().next().unwrap();
    assert!(
        partition(&state).replicas().any(|node| node == lost),
        "no successor is in sync"
    );
    let mut in_sync: Vec<NodeId> = partition(&state).in_sync().collect();
    in_sync.push(new);
    let command = report(&state, leader, &in_sync);
    apply(&mut state, command);
    settle_reported(&mut state, &members, crate::REBUILD_HOLD_MS);
    assert!(!partition(&state).replicas().any(|node| node == lost));
    assert_eq!(partition(&state).in_sync().count(), 3);
}
