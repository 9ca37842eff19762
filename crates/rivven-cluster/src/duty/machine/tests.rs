//! Duties follow from the assignments, and no two processes may act as the leader at a time.

mod model;

use rivven_partition::{
    Liveness, NORMAL_WEIGHT, NodeAddrs, NodeStatus, PartitionCommand, PartitionState, Policy, Reconciler,
    Registration, TopicSpec, place,
};
use rivven_types::{BootEpoch, InstanceId};

use super::*;

pub(super) const POLICY: Policy = Policy {
    in_sync: rivven_partition::InSyncRule::Reported,
    lease_ms: 0,
    release_ms: 1_000,
};

pub(super) type Members = BTreeMap<NodeId, Liveness>;

pub(super) fn registration(node: NodeId, boot_epoch: u64) -> Registration {
    let addr = |port| format!("node{node}:{port}").parse().unwrap();
    let [byte, ..] = node.to_le_bytes();
    Registration {
        node,
        instance: InstanceId::from_random([byte; 16]),
        boot_epoch: BootEpoch(boot_epoch),
        addrs: NodeAddrs {
            quic: addr(9093),
            gossip: addr(7946),
            admin: None,
        },
        zone: None,
        weight: NORMAL_WEIGHT,
        endpoints: BTreeMap::new(),
    }
}

pub(super) fn apply(state: &mut PartitionState, command: PartitionCommand) {
    state.apply(state.generation() + 1, command).unwrap();
}

pub(super) fn settle(state: &mut PartitionState, members: &Members, now_ms: u64) {
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

/// Three live nodes, and a topic of so many partitions on all of them.
pub(super) fn cluster(partitions: u32) -> (PartitionState, Members) {
    let mut state = PartitionState::default();
    for node in 1..=3 {
        apply(&mut state, PartitionCommand::RegisterNode(registration(node, 1)));
    }
    let members: Members = (1..=3).map(|node| (node, Liveness::Alive)).collect();
    settle(&mut state, &members, 0);
    let spec = TopicSpec::new(partitions).replication_factor(3);
    let command = place(&state, &members, "orders", &spec).unwrap();
    apply(&mut state, command);
    (state, members)
}

fn start(state: &PartitionState, node: NodeId) -> Start {
    state.map().node(node).unwrap().registration.start()
}

fn machine(state: &PartitionState, node: NodeId) -> Machine {
    Machine::new(start(state, node))
}

fn leader(state: &PartitionState) -> NodeId {
    state.map().partition("orders", 0).unwrap().leader().unwrap()
}

/// Everything that the machine says now.
fn steps(machine: &mut Machine, state: &PartitionState, now: Instant) -> Vec<Step> {
    machine.note(state.map());
    let said = std::iter::from_fn(|| machine.pop(state.map(), now, &BTreeSet::new()));
    said.map(|(_, name, step)| {
        assert_eq!(&*name, "orders");
        step
    })
    .collect()
}

fn lead(epoch: u64) -> Step {
    let epoch = LeaderEpoch(epoch);
    Step::Lead { epoch }
}

fn release(state: &mut PartitionState, by: NodeId) {
    let topic = state.map().topic("orders").unwrap().id;
    let partition = state.map().partition("orders", 0).unwrap();
    let command = PartitionCommand::Release {
        leader: start(state, by),
        released: vec![(topic, 0, partition.leader_epoch())],
    };
    apply(state, command);
}

fn drain(state: &mut PartitionState, node: NodeId) {
    let command = PartitionCommand::SetNodeStatus {
        node,
        boot_epoch: start(state, node).boot_epoch,
        status: NodeStatus::Draining,
        at_ms: 0,
    };
    apply(state, command);
}

#[test]
fn a_new_topic_is_led_at_once_by_one_and_followed_by_the_others() {
    let (state, _) = cluster(1);
    let leading = leader(&state);
    for node in 1..=3 {
        let mut machine = machine(&state, node);
        let expected = if node == leading {
            lead(1)
        } else {
            let (leader, epoch) = (Some(start(&state, leading)), LeaderEpoch(1));
            Step::Follow { leader, epoch }
        };
        assert_eq!(steps(&mut machine, &state, Instant::now()), [expected]);
        assert_eq!(steps(&mut machine, &state, Instant::now()), [], "said once");
    }
}

#[test]
fn the_successor_of_a_dead_leader_waits_out_its_lease() {
    let (mut state, mut members) = cluster(1);
    let dead = leader(&state);
    members.insert(dead, Liveness::Dead);
    settle(&mut state, &members, 0);
    let now = Instant::now();
    let mut successor = machine(&state, leader(&state));
    assert_eq!(steps(&mut successor, &state, now), []);
    assert_eq!(successor.due(), Some(now + SUCCESSOR_WAIT));
    assert_eq!(steps(&mut successor, &state, now + LEADER_LEASE), []);
    assert_eq!(steps(&mut successor, &state, now + SUCCESSOR_WAIT), [lead(2)]);
    assert_eq!(successor.due(), None);
}

#[test]
fn a_leader_that_has_let_go_is_not_waited_for() {
    let (mut state, members) = cluster(1);
    let first = leader(&state);
    let now = Instant::now();
    let mut machine_of_first = machine(&state, first);
    assert_eq!(steps(&mut machine_of_first, &state, now), [lead(1)]);
    drain(&mut state, first);
    settle(&mut state, &members, 0);
    let to = state.map().partition("orders", 0).unwrap().hand_over_to();
    let epoch = LeaderEpoch(1);
    assert_eq!(
        steps(&mut machine_of_first, &state, now),
        [Step::Release { epoch, to }]
    );
    release(&mut state, first);
    assert_eq!(steps(&mut machine_of_first, &state, now), []);
    settle(&mut state, &members, 0);
    let next = leader(&state);
    assert_eq!(Some(next), to);
    assert_eq!(steps(&mut machine(&state, next), &state, now), [lead(2)]);
    let (leader, epoch) = (Some(start(&state, next)), LeaderEpoch(2));
    let follow = Step::Follow { leader, epoch };
    assert_eq!(steps(&mut machine_of_first, &state, now), [follow]);
}

#[test]
fn who_is_asked_to_let_go_while_it_waits_lets_go_after_the_wait() {
    let (mut state, mut members) = cluster(1);
    members.insert(leader(&state), Liveness::Dead);
    settle(&mut state, &members, 0);
    let waiting = leader(&state);
    let now = Instant::now();
    let mut machine = machine(&state, waiting);
    assert_eq!(steps(&mut machine, &state, now), []);
    drain(&mut state, waiting);
    settle(&mut state, &members, 0);
    assert_eq!(steps(&mut machine, &state, now + LEADER_LEASE), []);
    let to = state.map().partition("orders", 0).unwrap().hand_over_to();
    let epoch = LeaderEpoch(2);
    let expected = Step::Release { epoch, to };
    assert_eq!(steps(&mut machine, &state, now + SUCCESSOR_WAIT), [expected]);
}

#[test]
fn a_leader_that_nobody_succeeds_goes_on_and_one_that_has_started_anew_begins_at_once() {
    let (mut state, mut members) = cluster(1);
    let first = leader(&state);
    let now = Instant::now();
    let mut before = machine(&state, first);
    steps(&mut before, &state, now);
    drain(&mut state, first);
    settle(&mut state, &members, 0);
    steps(&mut before, &state, now);
    for node in (1..=3).filter(|node| *node != first) {
        members.insert(node, Liveness::Suspect);
    }
    settle(&mut state, &members, POLICY.release_ms);
    assert_eq!(steps(&mut before, &state, now), [lead(2)]);
    apply(&mut state, PartitionCommand::RegisterNode(registration(first, 2)));
    let mut after = machine(&state, first);
    let epoch = LeaderEpoch(2);
    let said = steps(&mut after, &state, now);
    assert!(
        matches!(&said[..], [Step::Follow { epoch: of, .. }] if *of == epoch),
        "{said:?}: the earlier start leads"
    );
    settle(&mut state, &members, POLICY.release_ms);
    assert_eq!(steps(&mut after, &state, now), [lead(3)]);
}

#[test]
fn what_is_taken_away_is_closed_and_a_busy_partition_waits() {
    let (mut state, _) = cluster(2);
    let now = Instant::now();
    let mut machine = machine(&state, 1);
    machine.note(state.map());
    let (first, ..) = machine.pop(state.map(), now, &BTreeSet::new()).unwrap();
    let busy = BTreeSet::from([first]);
    let (second, ..) = machine.pop(state.map(), now, &busy).unwrap();
    assert_ne!(first, second);
    let name = "orders".into();
    apply(&mut state, PartitionCommand::DeleteTopic { name });
    machine.note(state.map());
    let (spot, _, step) = machine.pop(state.map(), now, &busy).unwrap();
    assert_eq!((spot, step), (second, Step::Close));
    assert_eq!(machine.pop(state.map(), now, &busy), None);
    assert_eq!(steps(&mut machine, &state, now), [Step::Close]);
    assert!(machine.told.is_empty() && machine.dirty.is_empty() && machine.waits.is_empty());
}
