//! What the controller does about who is alive: a function of the state, nothing remembered.

mod balance;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use crate::{
    MAX_CHANGES_PER_COMMAND, MAX_CHANGES_PER_RECONCILE, MAX_STATUS_CHANGES_PER_RECONCILE, Node, NodeStatus,
    Partition, PartitionChange, PartitionCommand, PartitionState, Topic,
};

/// What is known of a member's life, as the controller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It may be dead. It keeps what it has and is given nothing. Who wants to act on a confirmed suspicion
    /// (and a failed probe of its own) says [`Self::Dead`].
    Suspect,
    /// It is dead: confirmed by others, and out of the controller's own reach.
    Dead,
    /// It said goodbye.
    Left,
    /// Nothing was heard of it yet, as after the controller's own start. Treated like [`Self::Suspect`]; the
    /// caller turns it into [`Self::Dead`] once the node has had time to be heard of.
    Unknown,
}

/// What follows from a node's life and status for its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Alive and in good order: in sync, may become a leader.
    Able,
    /// Alive and about to leave: in sync, leads only what nobody else can.
    Leaving,
    /// Neither known alive nor known dead: keeps what it has, unless it is about to leave.
    Doubtful { leaving: bool },
    /// Dead, left or removed: out of sync, leads nothing.
    Gone,
}

/// Standings of all registered nodes.
struct Standings(BTreeMap<NodeId, Standing>);

impl Standings {
    fn new(state: &PartitionState, members: &BTreeMap<NodeId, Liveness>) -> Self {
        let nodes = state.map().nodes();
        let standings = nodes.map(|node| (node.registration.node, standing(node, life(node, members))));
        Self(standings.collect())
    }

    fn of(&self, node: NodeId) -> Standing {
        self.0.get(&node).copied().unwrap_or(Standing::Gone)
    }
}

fn life(node: &Node, members: &BTreeMap<NodeId, Liveness>) -> Liveness {
    members
        .get(&node.registration.node)
        .copied()
        .unwrap_or(Liveness::Unknown)
}

const fn standing(node: &Node, life: Liveness) -> Standing {
    match (node.status, life) {
        (NodeStatus::Removed, _) | (_, Liveness::Dead | Liveness::Left) => Standing::Gone,
        (status, Liveness::Suspect | Liveness::Unknown) => Standing::Doubtful {
            leaving: matches!(status, NodeStatus::Draining),
        },
        (NodeStatus::Draining, Liveness::Alive) => Standing::Leaving,
        (NodeStatus::Active | NodeStatus::Down, Liveness::Alive) => Standing::Able,
    }
}

/// The commands that bring the state in line with who is alive; none if it is already.
///
/// Run it on the controller whenever the state or a member changes, on becoming the controller, and every
/// few seconds (balancing waits for [`LEADER_RETURN_HOLD_MS`](crate::LEADER_RETURN_HOLD_MS)). Propose all
/// of the answer, then run it again: each command carries the epochs that it is based on, so one that comes
/// too late is refused and harms nothing. `now_ms` is the caller's wall clock; only differences to
/// times in the state matter, and a clock that differs from the last controller's only shifts a hold.
///
/// - Nodes found dead become [`NodeStatus::Down`], nodes found alive again [`NodeStatus::Active`].
/// - A partition whose leader is gone, or draining while another can lead, is led by its in-sync live replica
///   that leads the fewest partitions. All such changes are one command as long as they fit into one.
/// - A partition with no live in-sync replica has no leader until one returns; its in-sync replicas stay
///   recorded. The leader epoch grows both times.
/// - Replicas hold metadata only: a live assigned replica counts as in sync, and a dead one does not.
/// - When nothing else is to do, leaders are balanced over nodes that are alive and have been so for a while.
///
/// If `members` has nobody alive, the view is wrong, since whoever asks is alive: nothing is done.
#[must_use]
pub fn reconcile(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    now_ms: u64,
) -> Vec<PartitionCommand> {
    if !members.values().any(|life| *life == Liveness::Alive) {
        return Vec::new();
    }
    let standings = Standings::new(state, members);
    let mut changes = repairs(state, &standings);
    if changes.is_empty() {
        changes.push(balance::moves(state, &standings, now_ms));
    }
    let batches = changes
        .iter()
        .flat_map(|changes| changes.chunks(MAX_CHANGES_PER_COMMAND));
    let batches = batches.map(|batch| PartitionCommand::ChangeLeaders {
        changes: batch.to_vec(),
    });
    statuses(state, members, now_ms).chain(batches).collect()
}

/// Statuses that differ from what is seen.
fn statuses(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    now_ms: u64,
) -> impl Iterator<Item = PartitionCommand> {
    let changed = state.map().nodes().filter_map(move |node| {
        let status = match (node.status, life(node, members)) {
            (NodeStatus::Active, Liveness::Dead | Liveness::Left) => NodeStatus::Down,
            (NodeStatus::Down, Liveness::Alive) => NodeStatus::Active,
            (NodeStatus::Active | NodeStatus::Draining | NodeStatus::Down | NodeStatus::Removed, _) => {
                return None;
            }
        };
        Some(PartitionCommand::SetNodeStatus {
            node: node.registration.node,
            boot_epoch: node.registration.boot_epoch,
            status,
            at_ms: now_ms,
        })
    });
    changed.take(MAX_STATUS_CHANGES_PER_RECONCILE)
}

/// Changes that life and death make necessary: those of leaders, then those of in-sync replicas alone.
fn repairs(state: &PartitionState, standings: &Standings) -> Vec<Vec<PartitionChange>> {
    let mut leads: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut elections = Vec::new();
    let mut others = Vec::new();
    for place in partitions(state) {
        let (_, _, partition) = place;
        let in_sync = in_sync(partition, standings);
        let kept = partition
            .leader
            .filter(|leader| keeps(*leader, &in_sync, standings));
        if let Some(leader) = kept {
            *leads.entry(leader).or_insert(0) += 1;
        }
        let same_in_sync = in_sync == partition.in_sync;
        let stays = match (kept, partition.leader) {
            (Some(_), _) => same_in_sync,
            (None, Some(_)) => false,
            // Leaderless and nobody to elect: there may be many of these, for long.
            (None, None) => same_in_sync && elect(&in_sync, standings, &leads).is_none(),
        };
        let list = if kept.is_some() {
            &mut others
        } else {
            &mut elections
        };
        if !stays && list.len() < MAX_CHANGES_PER_RECONCILE {
            list.push(change(place, in_sync, kept));
        }
    }
    // Only with all kept leaders counted is it known who leads the fewest.
    for election in &mut elections {
        election.leader = elect(&election.in_sync, standings, &leads);
        if let Some(leader) = election.leader {
            *leads.entry(leader).or_insert(0) += 1;
        }
    }
    others.truncate(MAX_CHANGES_PER_RECONCILE - elections.len());
    [elections, others]
        .into_iter()
        .filter(|changes| !changes.is_empty())
        .collect()
}

/// All partitions in the order in which batches name them.
fn partitions(state: &PartitionState) -> impl Iterator<Item = (&Topic, u32, &Partition)> {
    state
        .topics_by_id()
        .flat_map(|topic| (0..).zip(&topic.partitions).map(move |(at, p)| (topic, at, p)))
}

fn change(
    (topic, number, partition): (&Topic, u32, &Partition),
    in_sync: Vec<NodeId>,
    leader: Option<NodeId>,
) -> PartitionChange {
    PartitionChange {
        topic: topic.id,
        partition: number,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        in_sync,
        leader,
    }
}

/// The in-sync replicas where replicas hold metadata only; the last known ones if all are gone.
fn in_sync(partition: &Partition, standings: &Standings) -> Vec<NodeId> {
    let in_sync = |node: &NodeId| match standings.of(*node) {
        Standing::Able | Standing::Leaving => true,
        Standing::Doubtful { .. } => partition.in_sync.contains(node),
        Standing::Gone => false,
    };
    let alive: Vec<_> = partition.replicas.iter().copied().filter(in_sync).collect();
    if alive.is_empty() {
        partition.in_sync.clone()
    } else {
        alive
    }
}

/// Whether a leader stays: it is in sync, and if it is leaving nobody else can lead.
fn keeps(leader: NodeId, in_sync: &[NodeId], standings: &Standings) -> bool {
    in_sync.contains(&leader)
        && match standings.of(leader) {
            Standing::Able | Standing::Doubtful { leaving: false } => true,
            Standing::Leaving | Standing::Doubtful { leaving: true } => {
                !in_sync.iter().any(|node| standings.of(*node) == Standing::Able)
            }
            Standing::Gone => false,
        }
}

/// The in-sync replica that leads the fewest partitions, by preference among equals.
///
/// A node about to leave is taken only if no other is alive: a short leadership beats none.
fn elect(in_sync: &[NodeId], standings: &Standings, leads: &BTreeMap<NodeId, u64>) -> Option<NodeId> {
    let least = |wanted: Standing| {
        let able = in_sync
            .iter()
            .copied()
            .filter(|node| standings.of(*node) == wanted);
        able.min_by_key(|node| leads.get(node).copied().unwrap_or(0))
    };
    least(Standing::Able).or_else(|| least(Standing::Leaving))
}
