//! Small clusters for the tests of this crate.

use std::collections::BTreeMap;

use rivven_types::{BootEpoch, InstanceId, NodeId};

use crate::{
    Liveness, NodeAddrs, NodeStatus, PartitionCommand, PartitionState, Registration, TopicSpec, place,
    reconcile,
};

pub(crate) type Members = BTreeMap<NodeId, Liveness>;

/// The registration of a node whose instance is numbered like it.
pub(crate) fn registration(node: NodeId, boot_epoch: u64, zone: Option<&str>) -> Registration {
    let [byte, ..] = node.to_le_bytes();
    Registration {
        node,
        instance: InstanceId::from_random([byte; 16]),
        boot_epoch: BootEpoch(boot_epoch),
        addrs: NodeAddrs {
            quic: format!("node{node}:9093").parse().unwrap(),
            gossip: format!("node{node}:7946").parse().unwrap(),
            admin: None,
        },
        zone: zone.map(Into::into),
        weight: crate::NORMAL_WEIGHT,
        endpoints: BTreeMap::new(),
    }
}

/// A cluster of one live node per zone given, numbered from 1; an empty zone is none.
pub(crate) fn cluster(zones: &[&str]) -> (PartitionState, Members) {
    let mut state = PartitionState::default();
    let mut members = Members::new();
    for (node, zone) in (1..).zip(zones) {
        let zone = (!zone.is_empty()).then_some(*zone);
        let command = PartitionCommand::RegisterNode(registration(node, 1, zone));
        state.apply(node, command).unwrap();
        set_status(&mut state, node, NodeStatus::Active);
        members.insert(node, Liveness::Alive);
    }
    (state, members)
}

/// Such a cluster with a topic `orders`.
pub(crate) fn with_orders(zones: &[&str], partitions: u32, replicas: u16) -> (PartitionState, Members) {
    let (mut state, members) = cluster(zones);
    create(
        &mut state,
        &members,
        "orders",
        &TopicSpec::new(partitions).replication_factor(replicas),
    );
    (state, members)
}

pub(crate) fn create(state: &mut PartitionState, members: &Members, name: &str, spec: &TopicSpec) {
    let command = place(state, members, name, spec).unwrap();
    apply(state, command);
}

/// Applies a command that must be accepted, at the next log index.
pub(crate) fn apply(state: &mut PartitionState, command: PartitionCommand) {
    let shown = format!("{command:?}");
    let applied = state.apply(state.generation() + 1, command);
    assert!(applied.is_ok(), "{shown} was refused: {applied:?}");
    state.check().unwrap();
}

pub(crate) fn set_status(state: &mut PartitionState, node: NodeId, status: NodeStatus) {
    let boot_epoch = state.map().node(node).unwrap().registration.boot_epoch;
    apply(
        state,
        PartitionCommand::SetNodeStatus {
            node,
            boot_epoch,
            status,
            at_ms: 0,
        },
    );
}

/// Reconciles until nothing is left to do; returns how many rounds that took.
pub(crate) fn settle(state: &mut PartitionState, members: &Members, now_ms: u64) -> usize {
    for round in 0..100 {
        let commands = reconcile(state, members, now_ms);
        if commands.is_empty() {
            return round;
        }
        commands.into_iter().for_each(|command| apply(state, command));
    }
    panic!("a hundred rounds have not settled {members:?}");
}

/// The leaders of `orders`, 0 for none.
pub(crate) fn leaders(state: &PartitionState) -> Vec<NodeId> {
    let topic = state.map().topic("orders").unwrap();
    topic
        .partitions()
        .map(|partition| partition.leader().unwrap_or(0))
        .collect()
}
