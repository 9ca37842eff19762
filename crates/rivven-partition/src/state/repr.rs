//! The state in serde: a version, then what cannot be derived.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PartitionState;
use crate::{
    Node, PartitionError, PartitionMap, Rebalance, Settings, Topic, UncleanElection,
    history::History,
    nodes::{Loads, Nodes},
    topic::Topics,
};

/// Version 0 is unstable: it may change until the first release.
const FORMAT_VERSION: u16 = 0;

#[derive(Serialize, Deserialize)]
struct Repr<N, T> {
    format: u16,
    generation: u64,
    placed: u64,
    next_topic: u64,
    offset: u64,
    removals: u64,
    /// By slot.
    nodes: Vec<N>,
    settings: Settings,
    rebalance: Option<Arc<Rebalance>>,
    unclean: Arc<Vec<UncleanElection>>,
    /// By number.
    topics: Vec<T>,
}

impl Serialize for PartitionState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let map = &self.map;
        let repr = Repr {
            format: FORMAT_VERSION,
            generation: map.generation,
            placed: map.placed,
            next_topic: self.next_topic,
            offset: self.offset,
            removals: map.removals,
            nodes: map.nodes.by_slot().collect(),
            settings: map.settings.clone(),
            rebalance: map.rebalance.clone(),
            unclean: Arc::clone(&map.unclean),
            topics: map.topics.iter().collect(),
        };
        repr.serialize(serializer)
    }
}

type Owned = Repr<Node, Topic>;

impl<'de> Deserialize<'de> for PartitionState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let repr = Owned::deserialize(deserializer)?;
        Self::try_from(repr).map_err(de::Error::custom)
    }
}

fn damaged(what: impl Into<String>) -> PartitionError {
    PartitionError::DamagedState { what: what.into() }
}

impl TryFrom<Owned> for PartitionState {
    type Error = PartitionError;

    fn try_from(repr: Owned) -> Result<Self, PartitionError> {
        if repr.format != FORMAT_VERSION {
            return Err(damaged(format!(
                "format {} is not known to this build",
                repr.format
            )));
        }
        let mut nodes = Nodes::default();
        let mut loads = Loads::default();
        for node in repr.nodes {
            let id = node.id();
            nodes
                .push(node)
                .ok_or_else(|| damaged(format!("node {id} twice")))?;
            loads.add_node();
        }
        let mut topics = Topics::default();
        let mut partitions = 0;
        for mut topic in repr.topics {
            if topics.get(topic.id).is_some() || topics.by_name(&topic.name).is_some() {
                return Err(damaged(format!("topic {} twice", topic.name)));
            }
            topic.cells.iter().for_each(|cell| loads.add(cell));
            topic.cells.shrink();
            partitions += topic.cells.len();
            topics.insert(topic);
        }
        let state = Self {
            next_topic: repr.next_topic,
            offset: repr.offset,
            map: PartitionMap {
                generation: repr.generation,
                placed: repr.placed,
                removals: repr.removals,
                nodes: Arc::new(nodes),
                loads: Arc::new(loads),
                topics: Arc::new(topics),
                partitions,
                settings: repr.settings,
                rebalance: repr.rebalance,
                unclean: repr.unclean,
                history: History::new(repr.generation),
            },
        };
        state.check()?;
        Ok(state)
    }
}
