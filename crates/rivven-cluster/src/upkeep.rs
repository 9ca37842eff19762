//! What every node keeps doing: register itself, learn addresses, report what is wrong.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use rivven_partition::{InSyncRule, NodeAddrs, PartitionCommand, PartitionError, Registration};
use rivven_raft::RaftNode;
use rivven_swim::{MemberEvent, MemberState};
use rivven_transport::PeerStatus;
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    WriteError, founding::bootstrap::introduce_to, inner::Inner, ring_meta::RingMeta, state::ClusterState,
};

/// How often a lost connection is turned into a probe, and a failed registration repeated.
const TICK: Duration = Duration::from_millis(250);

/// How often nodes compare their foundings.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a registration may take to be committed.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Registers this node, follows the registrations of the others, and compares foundings. Never returns.
///
/// Three loops, so that a registration that waits for a quorum does not hold up the rest.
pub(crate) async fn run(inner: Arc<Inner>, raft: RaftNode<ClusterState>) {
    tokio::join!(
        keep_registered(&inner, &raft),
        follow_others(&inner, &raft),
        compare_foundings(&inner)
    );
}

async fn keep_registered(inner: &Inner, raft: &RaftNode<ClusterState>) {
    let mut changes = inner.published.subscribe();
    let mut tick = ticker(TICK);
    loop {
        if raft.status().leader.is_some() {
            register(inner).await;
        }
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            _ = tick.tick() => {}
        }
    }
}

async fn follow_others(inner: &Inner, raft: &RaftNode<ClusterState>) {
    let mut dialled = BTreeMap::new();
    let mut tick = ticker(TICK);
    loop {
        tick.tick().await;
        follow_addresses(inner, &mut dialled);
        hint(inner);
        forget_strangers(inner, raft);
    }
}

fn ticker(period: Duration) -> Interval {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Before a node that holds data is given replicas, nobody may take a live replica for one in sync.
async fn in_sync_is_reported(inner: &Inner) -> bool {
    let rule = inner.published.read(|state| state.map().effective().in_sync());
    let missing = rule == InSyncRule::Reported && !inner.holds_data;
    let problem = "the nodes of this cluster hold data and report what is in sync, and this one holds none: what it \
                   leads is stuck; start it with a data plane, or give it the weight 0";
    inner.note("no-data-plane", missing.then(|| problem.to_owned()));
    if rule == InSyncRule::Reported || !inner.holds_data {
        return true;
    }
    let command = PartitionCommand::Configure {
        topic: None,
        changes: [("in-sync".to_owned(), Some("reported".to_owned()))].into(),
    };
    match inner.propose_partitions(command, REGISTER_TIMEOUT).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(
                node_id = inner.local.node,
                code = error.code(),
                %error,
                "the cluster was not told that this node holds data; trying again"
            );
            false
        }
    }
}

/// Proposes this node's registration unless the state has it already.
async fn register(inner: &Inner) {
    if !in_sync_is_reported(inner).await {
        return;
    }
    let quic = inner.quic_addr().await;
    let registration = Registration {
        node: inner.local.node,
        instance: inner.local.instance,
        boot_epoch: inner.local.boot_epoch,
        addrs: NodeAddrs {
            gossip: inner.gossip_addr(&quic),
            quic,
            admin: None,
        },
        zone: inner.config.zone.clone(),
        weight: inner.config.weight,
        endpoints: inner.config.endpoints.clone(),
    };
    let known = inner.published.read(|state| {
        let node = state.map().node(inner.local.node);
        node.is_some_and(|node| node.registration == registration)
    });
    if known {
        return;
    }
    let command = PartitionCommand::RegisterNode(registration);
    match inner.propose_partitions(command, REGISTER_TIMEOUT).await {
        Ok(_) => {
            tracing::info!(node_id = inner.local.node, "registered");
            inner.note("instance-mismatch", None);
        }
        // The controller takes a replaced disk out of the assignments within moments.
        Err(WriteError::Partition(PartitionError::InstanceMismatch { registered, .. }))
            if inner.is_shut_out(inner.local.node, registered) => {}
        Err(WriteError::Partition(error @ PartitionError::InstanceMismatch { .. })) => {
            inner.note("instance-mismatch", Some(error.to_string()));
        }
        Err(error) => tracing::warn!(
            node_id = inner.local.node,
            code = error.code(),
            %error,
            "not registered yet; trying again"
        ),
    }
}

/// Tells the transport where registered nodes are, so that one that moved is found again.
fn follow_addresses(inner: &Inner, dialled: &mut BTreeMap<NodeId, PeerAddr>) {
    inner.published.read(|state| {
        for node in state.map().nodes() {
            let (id, addr) = (node.registration.node, &node.registration.addrs.quic);
            if id != inner.local.node && dialled.get(&id) != Some(addr) {
                inner.transport.set_address(id, addr.clone());
                dialled.insert(id, addr.clone());
            }
        }
    });
}

/// A connection that went down is no proof, but a good reason to look.
fn hint(inner: &Inner) {
    for member in inner.swim.members() {
        let down = inner.transport.status(member.node) == PeerStatus::Down;
        if down && member.state == MemberState::Alive && member.node != inner.local.node {
            inner.swim.hint(member.node);
        }
    }
}

/// Gossip lets go of those who are no members any more, so that a number is free for another disk.
fn forget_strangers(inner: &Inner, raft: &RaftNode<ClusterState>) {
    for member in inner.swim.members() {
        if member.node != inner.local.node && raft.is_shut_out(member.node, member.instance) {
            inner.swim.forget(member.node, member.instance);
        }
    }
    let mut double = inner
        .newcomer
        .double
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if double.is_some_and(|other| raft.is_shut_out(inner.local.node, other)) {
        // What gossip has met was news of the disk that this one replaces.
        *double = None;
        inner.note("duplicate-node-id", None);
    }
}

/// Two histories under one certificate authority are noticed by both sides.
async fn compare_foundings(inner: &Inner) {
    let mut tick = ticker(COMPARE_INTERVAL);
    loop {
        tick.tick().await;
        let nodes: Vec<NodeId> = inner.published.read(|state| {
            let nodes = state.map().nodes().map(|node| node.registration.node);
            nodes.filter(|node| *node != inner.local.node).collect()
        });
        let compared = nodes
            .into_iter()
            .map(|node| introduce_to(&inner.founders, &inner.transport, node));
        join_all(compared).await;
    }
}

/// Turns what gossip reports about this node itself into problems. Ends with gossip.
pub(crate) async fn watch_gossip(inner: Arc<Inner>) {
    let mut events = inner.swim.events();
    while let Some(event) = events.next().await {
        match event {
            MemberEvent::Conflict {
                node, other, addr, ..
            } if node == inner.local.node => {
                *inner
                    .newcomer
                    .double
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(other);
                let problem = format!(
                    "another process at {addr} uses node id {node} with data directory {other}; give each node \
                     an id and a certificate of its own"
                );
                inner.note("duplicate-node-id", Some(problem));
            }
            MemberEvent::Superseded { known } => {
                let problem = format!(
                    "the members know start {known} of this data directory, and this is start {}: it is an old \
                     copy, or in use twice; stop the other process, or restore the newest copy",
                    inner.local.boot_epoch
                );
                inner.note("superseded", Some(problem));
            }
            MemberEvent::Alive(view) | MemberEvent::Updated(view) => {
                let (ours, theirs) = (RingMeta::of(&inner.config), RingMeta::decode(&view.meta));
                if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
                    let problem = format!(
                        "node {} has {} virtual nodes of ring version {}, this node {} of version {}: they \
                         route differently; give every node the same `partitioning.virtual_nodes` and release",
                        view.node, theirs.virtual_nodes, theirs.spec, ours.virtual_nodes, ours.spec
                    );
                    inner.note("ring-differs", Some(problem));
                }
            }
            _ => {}
        }
    }
}
