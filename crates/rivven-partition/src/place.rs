//! Where a new topic goes: exact quotas per node and zone, the ring to break ties.

mod quota;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rivven_hashring::{DEFAULT_VIRTUAL_NODES, Ring, TopicKey};
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use self::quota::Quotas;
use crate::{
    DEFAULT_REPLICATION_FACTOR, Liveness, NodeStatus, PartitionCommand, PartitionError, PartitionState,
    TopicName, state::check_counts,
};

/// What is asked of a new topic.
///
/// ```
/// use rivven_partition::TopicSpec;
/// let spec = TopicSpec::new(12).replication_factor(3);
/// assert_eq!((spec.partitions, spec.replication_factor), (12, Some(3)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// Number of partitions, from 1 to [`MAX_PARTITIONS_PER_TOPIC`](crate::MAX_PARTITIONS_PER_TOPIC).
    pub partitions: u32,
    /// Replicas per partition, from 1 to [`MAX_REPLICATION_FACTOR`](crate::MAX_REPLICATION_FACTOR);
    /// [`DEFAULT_REPLICATION_FACTOR`] if not given.
    pub replication_factor: Option<u16>,
    /// Whether fewer replicas will do while the cluster has too few nodes. Off by default, because such a
    /// topic survives fewer failures than its factor says.
    pub allow_fewer_replicas: bool,
}

impl TopicSpec {
    /// A topic of so many partitions with the default replication factor.
    #[must_use]
    pub const fn new(partitions: u32) -> Self {
        Self {
            partitions,
            replication_factor: None,
            allow_fewer_replicas: false,
        }
    }

    /// Sets the number of replicas per partition.
    #[must_use]
    pub const fn replication_factor(mut self, replicas: u16) -> Self {
        self.replication_factor = Some(replicas);
        self
    }

    /// Lets partitions have fewer replicas while the cluster has too few nodes.
    #[must_use]
    pub const fn allow_fewer_replicas(mut self) -> Self {
        self.allow_fewer_replicas = true;
        self
    }
}

/// Computes the command that creates a topic.
///
/// Takes the nodes that are [`NodeStatus::Active`] and alive. Within the topic every node of a zone gets the
/// same number of replicas but for one; zones get shares by their number of nodes, as far as no zone holds
/// more replicas of a partition than it must. Who gets the one more is decided by what nodes hold already,
/// then by the ring. Preferred leaders are spread likewise.
///
/// # Errors
/// [`PartitionError::NotEnoughNodes`], or what is wrong with the name or the numbers. That a topic of that
/// name exists is found when the command is applied.
pub fn place(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    name: &str,
    spec: &TopicSpec,
) -> Result<PartitionCommand, PartitionError> {
    let name = TopicName::new(name)?;
    let replication_factor = spec.replication_factor.unwrap_or(DEFAULT_REPLICATION_FACTOR);
    let partitions = usize::try_from(spec.partitions).unwrap_or(usize::MAX);
    check_counts(partitions, replication_factor)?;

    let map = state.map();
    let nodes: Vec<_> = map
        .nodes()
        .filter(|node| node.status == NodeStatus::Active)
        .filter(|node| members.get(&node.registration.node) == Some(&Liveness::Alive))
        .map(|node| (node.registration.node, node.zone()))
        .collect();
    let (available, wanted) = (nodes.len(), replication_factor);
    if available == 0 || available < usize::from(wanted) && !spec.allow_fewer_replicas {
        return Err(PartitionError::NotEnoughNodes { wanted, available });
    }

    let replicas = available.min(usize::from(wanted));
    let walks = Walks::new(&nodes, &name);
    let held = map.replicas_per_node();
    let order = walks.order(0);
    let quotas = Quotas::new(&nodes, partitions, replicas, |node| {
        let turn = order.iter().position(|other| *other == node);
        (held.get(&node).copied().unwrap_or(0), turn)
    });
    let sets = assign(quotas, &walks, spec.partitions);
    Ok(PartitionCommand::CreateTopic {
        name: name.into(),
        replication_factor,
        allow_fewer_replicas: spec.allow_fewer_replicas,
        assignment: lead(sets, map.leaders_per_node()),
    })
}

/// The ring of the nodes, which gives each partition its own order of them.
struct Walks {
    ring: Ring,
    topic: TopicKey,
}

impl Walks {
    fn new(nodes: &[(NodeId, Option<&str>)], topic: &TopicName) -> Self {
        let mut ring = Ring::new(DEFAULT_VIRTUAL_NODES);
        // Numbers are valid names, distinct, and no more than a ring takes. Were the ring to refuse them, sets
        // would be too small and the command refused when applied.
        let _ = ring.add_all(nodes.iter().map(|(node, _)| node.to_string()));
        Self {
            ring,
            topic: TopicKey::new(topic),
        }
    }

    fn walk(&self, partition: u32) -> impl Iterator<Item = NodeId> {
        let walk = self.ring.walk(self.topic.partition(partition));
        walk.filter_map(|node| node.name().parse().ok())
    }

    fn order(&self, partition: u32) -> Vec<NodeId> {
        self.walk(partition).collect()
    }
}

/// Gives each partition its replicas: first those whose quota leaves no choice, then along the ring.
fn assign(mut quotas: Quotas, walks: &Walks, partitions: u32) -> Vec<Vec<NodeId>> {
    let sets = (0..partitions).map(|partition| {
        let chosen = quotas.choose(|| walks.walk(partition));
        let mut left: BTreeSet<_> = chosen.into_iter().collect();
        let mut set: Vec<_> = Vec::with_capacity(left.len());
        let mut walk = walks.walk(partition);
        while !left.is_empty() {
            let Some(node) = walk.next() else { break };
            if left.remove(&node) {
                set.push(node);
            }
        }
        set.extend(left);
        set
    });
    sets.collect()
}

/// Moves the preferred leader of each partition to the front, so that nodes lead equally often.
fn lead(mut sets: Vec<Vec<NodeId>>, leads: BTreeMap<NodeId, u64>) -> Vec<Vec<NodeId>> {
    // Leaderships within the topic come first, those of all topics break ties.
    let mut here: BTreeMap<NodeId, u64> = BTreeMap::new();
    let load = |here: &BTreeMap<NodeId, u64>, node: &NodeId| {
        let here = here.get(node).copied().unwrap_or(0);
        (here, here + leads.get(node).copied().unwrap_or(0))
    };
    for set in &mut sets {
        let least = (0..set.len()).min_by_key(|at| set.get(*at).map(|node| load(&here, node)));
        if let Some(front) = set.get_mut(..=least.unwrap_or(0)) {
            front.rotate_right(1);
        }
        if let Some(leader) = set.first() {
            *here.entry(*leader).or_insert(0) += 1;
        }
    }
    // What greed left uneven: hand a partition over wherever that narrows a gap. Every exchange lowers the
    // sum of squares, and the rounds are bounded besides.
    for _ in 0..MAX_EXCHANGE_ROUNDS {
        let mut settled = true;
        for set in &mut sets {
            let Some((leader, others)) = set.split_first_mut() else {
                continue;
            };
            let count = |node: &NodeId| here.get(node).copied().unwrap_or(0);
            let Some(least) = others.iter_mut().min_by_key(|node| count(node)) else {
                continue;
            };
            if count(leader) > count(least) + 1 {
                *here.entry(*leader).or_insert(0) -= 1;
                *here.entry(*least).or_insert(0) += 1;
                std::mem::swap(leader, least);
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    sets
}

/// Most rounds of evening out preferred leaders; two or three settle all but contrived cases.
const MAX_EXCHANGE_ROUNDS: usize = 16;
