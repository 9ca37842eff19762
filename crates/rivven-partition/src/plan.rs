//! How replicas and leaders would be spread exactly, and the least that must move for it.

mod layout;
mod leaders;
mod moves;
mod quota;
mod spare;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rivven_types::NodeId;
use serde::Serialize;

use self::layout::Layout;
use crate::{
    Liveness, MAX_BATCH_BYTES, MAX_CHANGES_PER_COMMAND, PartitionError, PartitionState, PlannedMove, TopicId,
    ZoneRule, cell::Slot, ids::Spot, nodes::Nodes,
};

/// What a plan is to reach, beside replicas and leaders spread by the weights of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Goal {
    /// Nodes to be emptied, as those of weight 0 and removed ones are in any case.
    pub exclude: BTreeSet<NodeId>,
    /// Whether nodes that are down are to be emptied too. Otherwise what they hold waits for them.
    pub replace_down: bool,
    /// Partitions that stay as they are.
    pub pins: BTreeSet<(TopicId, u32)>,
    /// Topics that stay as they are.
    pub pinned_topics: BTreeSet<TopicId>,
    /// Whether replicas may share a zone, in place of what the settings of cluster and topics say.
    pub zones: Option<ZoneRule>,
}

/// Where partitions should move, what that costs, and what it is good for. Nothing has happened yet.
///
/// A plan is made against a placement generation; begun on another, it is refused. Its moves may be made in
/// any order, and every prefix of them is as legal as the whole.
#[derive(Clone, Debug)]
pub struct Plan {
    against: u64,
    /// Numbers of the nodes, by slot.
    ids: Vec<NodeId>,
    /// Partitions to change, and where their targets end in `targets`.
    changed: Vec<(Spot, usize)>,
    targets: Vec<Slot>,
    summary: PlanSummary,
}

/// What a plan costs and reaches.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PlanSummary {
    /// Partitions that get other replicas or another preferred leader.
    pub partitions: u64,
    /// Replicas that must be copied to a node that has none.
    pub replica_moves: u64,
    /// The fewest copies with which any plan could reach these shares.
    pub lower_bound: u64,
    /// Partitions whose preferred leader changes, by order alone or with a move.
    pub leader_moves: u64,
    /// Replicas that should move and cannot, because no node can take them.
    pub stuck: u64,
    /// How evenly replicas are spread over the nodes that take some.
    pub replicas: Spread,
    /// How evenly preferred leaders are spread over them.
    pub leaders: Spread,
}

impl PlanSummary {
    /// Copies for each that is unavoidable; 1 if none is.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.lower_bound == 0 {
            return if self.replica_moves == 0 {
                1.0
            } else {
                f64::INFINITY
            };
        }
        self.replica_moves as f64 / self.lower_bound as f64
    }
}

/// How much the fullest node has of what a node of its weight should have on average: 1 is even.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Before the plan.
    pub before: f64,
    /// After it.
    pub after: f64,
}

/// Plans how to spread replicas and leaders by the weights of the nodes, within one of the exact shares, with as
/// few copies as can be found.
///
/// Shares go to zones first, as a zone holds no more of a partition than it must, then to nodes. What stays is
/// kept in place; a replica goes straight where room is, and where zones forbid that, another makes room.
/// Nodes that are suspect, down or draining keep what they have and get nothing. Partitions that move already
/// are left alone.
///
/// # Errors
/// [`PartitionError::NotEnoughNodes`]: no node can take anything.
pub fn plan(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    goal: &Goal,
) -> Result<Plan, PartitionError> {
    let map = state.map();
    let mut layout = Layout::new(map, members, goal)?;
    let before = layout.loads();
    let quotas = quota::replicas(&layout, &before.replicas);
    let lower_bound = layout.lower_bound(&quotas);
    let stuck = moves::make(&mut layout, &quotas, &before.replicas);
    leaders::spread(&mut layout);
    let after = layout.loads();

    let mut plan = Plan {
        against: map.placement_generation(),
        ids: ids(&map.nodes),
        changed: Vec::new(),
        targets: Vec::new(),
        summary: PlanSummary {
            partitions: 0,
            replica_moves: 0,
            lower_bound,
            leader_moves: 0,
            stuck,
            replicas: Spread {
                before: layout.max_over_mean(&before.replicas),
                after: layout.max_over_mean(&after.replicas),
            },
            leaders: Spread {
                before: layout.max_over_mean(&before.leaders),
                after: layout.max_over_mean(&after.leaders),
            },
        },
    };
    layout.each_changed(|spot, was, is| plan.note(spot, was, is));
    Ok(plan)
}

fn ids(nodes: &Nodes) -> Vec<NodeId> {
    nodes.by_slot().map(crate::Node::id).collect()
}

impl Plan {
    fn note(&mut self, spot: Spot, was: &[Slot], is: &[Slot]) {
        let copies = is.iter().filter(|slot| !was.contains(slot)).count();
        self.summary.partitions += 1;
        self.summary.replica_moves += copies as u64;
        self.summary.leader_moves += u64::from(was.first() != is.first());
        self.targets.extend_from_slice(is);
        self.changed.push((spot, self.targets.len()));
    }

    /// The placement generation that it was made against.
    #[must_use]
    pub const fn against(&self) -> u64 {
        self.against
    }

    /// What it costs and reaches.
    #[must_use]
    pub const fn summary(&self) -> &PlanSummary {
        &self.summary
    }

    /// Whether nothing is to be moved.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// The moves, ascending by topic and partition.
    pub fn moves(&self) -> impl Iterator<Item = PlannedMove> {
        let starts = std::iter::once(0).chain(self.changed.iter().map(|(_, end)| *end));
        starts.zip(&self.changed).map(|(start, (spot, end))| {
            let target = self.targets.get(start..*end).unwrap_or_default();
            let id = |slot: &Slot| self.ids.get(usize::from(*slot)).copied();
            PlannedMove {
                topic: spot.topic(),
                partition: spot.partition(),
                target: target.iter().filter_map(id).collect(),
            }
        })
    }

    /// The moves in batches that each fit one command, the first of [`RebalanceCommand::Begin`] and the others
    /// of [`RebalanceCommand::Fill`].
    ///
    /// [`RebalanceCommand::Begin`]: crate::RebalanceCommand::Begin
    /// [`RebalanceCommand::Fill`]: crate::RebalanceCommand::Fill
    #[must_use]
    pub fn batches(&self) -> Vec<Vec<PlannedMove>> {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for planned in self.moves() {
            let size = MOVE_BYTES + NODE_BYTES * planned.target.len();
            if batch.len() == MAX_CHANGES_PER_COMMAND || bytes + size > MAX_BATCH_BYTES {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += size;
            batch.push(planned);
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }
}

/// At most so many bytes make up the numbers of a move, and a node in it.
const MOVE_BYTES: usize = 20;
const NODE_BYTES: usize = 10;
