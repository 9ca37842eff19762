//! The reader's view: an immutable picture of nodes, topics and leaders at one generation.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use rivven_types::NodeId;

use crate::{
    Changes, Compacted, Effective, LeaderEpoch, Node, Partition, Rebalance, Settings, Topic, TopicId,
    UncleanElection,
    history::History,
    ids::Spot,
    nodes::{Loads, Nodes},
    topic::Topics,
};

/// Nodes, topics and partitions at one generation.
///
/// Immutable and cheap to clone: clones, snapshots and the state itself share what has not changed.
#[derive(Clone, Debug)]
pub struct PartitionMap {
    pub(crate) generation: u64,
    /// Log index of the last change of what a plan is made from.
    pub(crate) placed: u64,
    pub(crate) removals: u64,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) loads: Arc<Loads>,
    pub(crate) topics: Arc<Topics>,
    /// Partitions over all topics.
    pub(crate) partitions: usize,
    pub(crate) settings: Settings,
    pub(crate) rebalance: Option<Arc<Rebalance>>,
    pub(crate) unclean: Arc<Vec<UncleanElection>>,
    pub(crate) history: History,
}

impl Default for PartitionMap {
    fn default() -> Self {
        Self {
            generation: 0,
            placed: 0,
            removals: 0,
            nodes: Arc::default(),
            loads: Arc::default(),
            topics: Arc::default(),
            partitions: 0,
            settings: Settings::default(),
            rebalance: None,
            unclean: Arc::default(),
            history: History::new(0),
        }
    }
}

/// Equal maps say the same; how much they remember of what changed before may differ.
impl PartialEq for PartitionMap {
    fn eq(&self, other: &Self) -> bool {
        self.generation == other.generation
            && self.placed == other.placed
            && self.removals == other.removals
            && self.nodes == other.nodes
            && self.loads == other.loads
            && self.topics == other.topics
            && self.partitions == other.partitions
            && self.settings == other.settings
            && self.rebalance == other.rebalance
            && self.unclean == other.unclean
    }
}

impl Eq for PartitionMap {}

impl PartitionMap {
    /// Log index of the last change; 0 before the first. Higher since the cluster began anew.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Log index of the last change of nodes, topics, replicas or their settings: of anything that a plan
    /// rests on. Leaders and in-sync replicas come and go without it.
    #[must_use]
    pub const fn placement_generation(&self) -> u64 {
        self.placed
    }

    /// Who leads a partition and the epoch of that leadership, which fences earlier leaders.
    ///
    /// `None` if there is no such partition or nobody leads it; [`Self::partition`] tells these apart.
    #[must_use]
    pub fn leader(&self, topic: &str, partition: u32) -> Option<(NodeId, LeaderEpoch)> {
        let cell = self.topics.by_name(topic)?.cells.get(partition)?;
        let leader = cell.leader()?;
        Some((self.nodes.id(leader.slot), cell.leader_epoch))
    }

    /// A partition of a topic.
    #[must_use]
    pub fn partition(&self, topic: &str, partition: u32) -> Option<Partition<'_>> {
        let cell = self.topics.by_name(topic)?.cells.get(partition)?;
        Some(Partition::new(&self.nodes, cell))
    }

    /// A partition of the topic of that number.
    #[must_use]
    pub fn partition_of(&self, topic: TopicId, partition: u32) -> Option<Partition<'_>> {
        let cell = self.topics.cell(Spot::new(topic, partition)?)?;
        Some(Partition::new(&self.nodes, cell))
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<TopicRef<'_>> {
        let topic = self.topics.by_name(name)?;
        Some(TopicRef { map: self, topic })
    }

    /// A topic by number.
    #[must_use]
    pub fn topic_of(&self, id: TopicId) -> Option<TopicRef<'_>> {
        let topic = self.topics.get(id)?;
        Some(TopicRef { map: self, topic })
    }

    /// The topics in the order of their creation.
    pub fn topics(&self) -> impl Iterator<Item = TopicRef<'_>> {
        self.topics.iter().map(|topic| TopicRef { map: self, topic })
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions there are over all topics.
    #[must_use]
    pub const fn partition_count(&self) -> usize {
        self.partitions
    }

    /// A registered node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node)
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
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.by_id()
    }

    /// Settings of the cluster.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What holds for the cluster, defaults included.
    #[must_use]
    pub const fn effective(&self) -> Effective<'_> {
        Effective {
            topic: None,
            cluster: &self.settings,
        }
    }

    /// The rebalance under way, if any.
    #[must_use]
    pub fn rebalance(&self) -> Option<&Rebalance> {
        self.rebalance.as_deref()
    }

    /// The last elections of replicas that were not in sync, oldest first.
    #[must_use]
    pub fn unclean_elections(&self) -> &[UncleanElection] {
        &self.unclean
    }

    /// What has changed since a generation.
    ///
    /// # Errors
    /// [`Compacted`]: that is no longer known. Read the whole map and go on from its generation.
    pub fn changes_since(&self, generation: u64) -> Result<Changes, Compacted> {
        self.history.changes(generation, self.generation)
    }

    /// How many partitions a node leads.
    #[must_use]
    pub fn leaders_of(&self, node: NodeId) -> u32 {
        self.nodes
            .slot(node)
            .map_or(0, |slot| self.loads.of(slot).leaders)
    }

    /// How many replicas a node holds, those that are being added included.
    #[must_use]
    pub fn replicas_of(&self, node: NodeId) -> u32 {
        self.nodes
            .slot(node)
            .map_or(0, |slot| self.loads.of(slot).replicas)
    }

    /// How many partitions each node leads; nodes that lead none are left out.
    #[must_use]
    pub fn leaders_per_node(&self) -> BTreeMap<NodeId, u64> {
        self.per_node(|node| self.leaders_of(node))
    }

    /// How many replicas each node holds; nodes that hold none are left out.
    #[must_use]
    pub fn replicas_per_node(&self) -> BTreeMap<NodeId, u64> {
        self.per_node(|node| self.replicas_of(node))
    }

    fn per_node(&self, count: impl Fn(NodeId) -> u32) -> BTreeMap<NodeId, u64> {
        let counts = self.nodes.by_id().map(|node| (node.id(), count(node.id())));
        counts
            .filter(|(_, count)| *count > 0)
            .map(|(node, count)| (node, count.into()))
            .collect()
    }

    /// Bytes that topics and partitions take, about.
    #[must_use]
    pub fn heap_size(&self) -> usize {
        self.topics.heap_size()
    }
}

/// A topic in a map.
#[derive(Clone, Copy, Debug)]
pub struct TopicRef<'a> {
    map: &'a PartitionMap,
    topic: &'a Topic,
}

impl Deref for TopicRef<'_> {
    type Target = Topic;

    fn deref(&self) -> &Topic {
        self.topic
    }
}

impl<'a> TopicRef<'a> {
    /// The topic for as long as the map lives.
    #[must_use]
    pub const fn get(self) -> &'a Topic {
        self.topic
    }

    /// The partitions in the order of their numbers.
    pub fn partitions(self) -> impl Iterator<Item = Partition<'a>> {
        let nodes = &self.map.nodes;
        self.topic.cells.iter().map(|cell| Partition::new(nodes, cell))
    }

    /// A partition.
    #[must_use]
    pub fn partition(self, number: u32) -> Option<Partition<'a>> {
        let cell = self.topic.cells.get(number)?;
        Some(Partition::new(&self.map.nodes, cell))
    }

    /// The partition that records of a key belong to, by the frozen hash of the ring's specification.
    #[must_use]
    pub fn partition_for_key(self, key: &[u8]) -> u32 {
        rivven_hashring::key_partition(key, self.topic.partition_count())
    }

    /// What holds for the topic, settings of the cluster and defaults included.
    #[must_use]
    pub const fn effective(self) -> Effective<'a> {
        Effective {
            topic: Some(&self.topic.settings),
            cluster: &self.map.settings,
        }
    }
}
