//! The reader's view: an immutable picture of nodes, topics and leaders at one generation.

use std::{collections::BTreeMap, sync::Arc};

use rivven_types::NodeId;

use crate::{LeaderEpoch, Node, Partition, Topic, TopicName};

/// Nodes, topics and partitions at one generation.
///
/// Immutable and cheap to clone: clones, snapshots and the state itself share what has not changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionMap {
    pub(crate) generation: u64,
    pub(crate) removals: u64,
    pub(crate) nodes: Arc<BTreeMap<NodeId, Node>>,
    pub(crate) topics: Arc<BTreeMap<TopicName, Arc<Topic>>>,
}

impl PartitionMap {
    /// Log index of the last change; 0 before the first.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Who leads a partition and the epoch of that leadership, which fences earlier leaders.
    ///
    /// `None` if there is no such partition or nobody leads it; [`Self::partition`] tells these apart.
    #[must_use]
    pub fn leader(&self, topic: &str, partition: u32) -> Option<(NodeId, LeaderEpoch)> {
        let partition = self.partition(topic, partition)?;
        partition.leader.map(|leader| (leader, partition.leader_epoch))
    }

    /// A partition of a topic.
    #[must_use]
    pub fn partition(&self, topic: &str, partition: u32) -> Option<&Partition> {
        let at = usize::try_from(partition).ok()?;
        self.topic(topic)?.partitions.get(at)
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name).map(|topic| &**topic)
    }

    /// The topics in the order of their names.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.topics.values().map(|topic| &**topic)
    }

    /// A registered node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    /// How often a node has been removed, ever.
    ///
    /// Only grows: another instance that takes the number of a removed node undoes nothing, because the
    /// removed one keeps what it knows.
    #[must_use]
    pub const fn removals(&self) -> u64 {
        self.removals
    }

    /// The registered nodes in the order of their numbers, removed ones included.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// How many partitions each node leads; nodes that lead none are left out.
    #[must_use]
    pub fn leaders_per_node(&self) -> BTreeMap<NodeId, u64> {
        count(self.partitions().filter_map(|partition| partition.leader))
    }

    /// How many replicas each node holds; nodes that hold none are left out.
    #[must_use]
    pub fn replicas_per_node(&self) -> BTreeMap<NodeId, u64> {
        count(
            self.partitions()
                .flat_map(|partition| partition.replicas.iter().copied()),
        )
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.topics().flat_map(|topic| &topic.partitions)
    }
}

fn count(nodes: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, u64> {
    let mut counts = BTreeMap::new();
    for node in nodes {
        *counts.entry(node).or_insert(0) += 1;
    }
    counts
}
