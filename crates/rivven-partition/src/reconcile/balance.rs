//! Leaders spread evenly again after nodes return, with hysteresis so that they do not oscillate.

use std::collections::{BTreeMap, BTreeSet};

use rivven_types::NodeId;

use super::{Standing, Standings, change, partitions};
use crate::{
    LEADER_IMBALANCE_MIN, LEADER_IMBALANCE_PERCENT, LEADER_RETURN_HOLD_MS, MAX_LEADER_MOVES_PER_RECONCILE,
    NodeStatus, Partition, PartitionChange, PartitionState,
};

/// Moves of leaders that even out how many each node leads; none while they are even enough.
///
/// A move goes to an in-sync replica that leads at least two fewer, so that each lowers the sum of squares
/// and repeated calls come to an end. They begin only once some gap exceeds the threshold.
pub(super) fn moves(state: &PartitionState, standings: &Standings, now_ms: u64) -> Vec<PartitionChange> {
    let takers = takers(state, standings, now_ms);
    let leads = state.map().leaders_per_node();
    let total: u64 = leads.values().sum();
    let mean = total / u64::try_from(takers.len().max(1)).unwrap_or(u64::MAX);
    let threshold = LEADER_IMBALANCE_MIN.max(mean * LEADER_IMBALANCE_PERCENT / 100);

    let best = |partition: &Partition, leads: &Leads| {
        let count = |node: NodeId| leads.get(&node).copied().unwrap_or(0);
        let leader = partition.leader?;
        let others = partition.in_sync.iter().filter(|node| takers.contains(node));
        let least = others.copied().min_by_key(|node| count(*node))?;
        Some((leader, least, count(leader).saturating_sub(count(least))))
    };
    let uneven = |partition| best(partition, &leads).is_some_and(|(_, _, gap)| gap > threshold);
    if !state.map().partitions().any(uneven) {
        return Vec::new();
    }

    // First from nodes above the mean to nodes below it, where no move is in vain; only if there is no such
    // pair, between any two.
    let moves = greedy(
        state,
        leads.clone(),
        |count, gap| count > mean && count - gap < mean,
        best,
    );
    if moves.is_empty() {
        greedy(state, leads, |_, gap| gap >= 2, best)
    } else {
        moves
    }
}

type Leads = BTreeMap<NodeId, u64>;

/// Moves each partition in turn whose leader's count and gap to its best replica are `worth` it.
fn greedy(
    state: &PartitionState,
    mut leads: Leads,
    worth: impl Fn(u64, u64) -> bool,
    best: impl Fn(&Partition, &Leads) -> Option<(NodeId, NodeId, u64)>,
) -> Vec<PartitionChange> {
    let mut moves = Vec::new();
    for place in partitions(state) {
        let Some((leader, taker, gap)) = best(place.2, &leads) else {
            continue;
        };
        let count = leads.get(&leader).copied().unwrap_or(0);
        if !worth(count, gap) || moves.len() == MAX_LEADER_MOVES_PER_RECONCILE {
            continue;
        }
        *leads.entry(leader).or_insert(0) -= 1;
        *leads.entry(taker).or_insert(0) += 1;
        moves.push(change(place, place.2.in_sync.clone(), Some(taker)));
    }
    moves
}

/// Nodes that may be given leaders for balance: alive and active, and back for long enough.
fn takers(state: &PartitionState, standings: &Standings, now_ms: u64) -> BTreeSet<NodeId> {
    let settled = |since_ms: u64| {
        // A time in the future comes from another controller's clock; waiting for it could take for ever.
        now_ms
            .checked_sub(since_ms)
            .is_none_or(|up| up >= LEADER_RETURN_HOLD_MS)
    };
    let nodes = state
        .map()
        .nodes()
        .filter(|node| node.status == NodeStatus::Active && settled(node.since_ms));
    let nodes = nodes.map(|node| node.registration.node);
    nodes
        .filter(|node| standings.of(*node) == Standing::Able)
        .collect()
}
