//! The state in serde: a version, then what cannot be derived.

use std::{collections::BTreeMap, sync::Arc};

use rivven_types::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PartitionState;
use crate::{Node, PartitionError, PartitionMap, Topic, TopicName};

/// Version 0 is unstable: it may change until the first release.
const FORMAT_VERSION: u16 = 0;

#[derive(Serialize, Deserialize)]
struct Repr<Nodes, Topics> {
    format: u16,
    generation: u64,
    next_topic: u64,
    removals: u64,
    nodes: Nodes,
    topics: Topics,
}

impl Serialize for PartitionState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let repr = Repr {
            format: FORMAT_VERSION,
            generation: self.map.generation,
            next_topic: self.next_topic,
            removals: self.map.removals,
            nodes: &*self.map.nodes,
            topics: &*self.map.topics,
        };
        repr.serialize(serializer)
    }
}

type Owned = Repr<BTreeMap<NodeId, Node>, BTreeMap<TopicName, Arc<Topic>>>;

impl<'de> Deserialize<'de> for PartitionState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let repr = Owned::deserialize(deserializer)?;
        Self::try_from(repr).map_err(de::Error::custom)
    }
}

impl TryFrom<Owned> for PartitionState {
    type Error = PartitionError;

    fn try_from(repr: Owned) -> Result<Self, PartitionError> {
        if repr.format != FORMAT_VERSION {
            let what = format!("format {} is not known to this build", repr.format);
            return Err(PartitionError::DamagedState { what });
        }
        let names = repr.topics.iter().map(|(name, topic)| (topic.id, name.clone()));
        let state = Self {
            next_topic: repr.next_topic,
            names: Arc::new(names.collect()),
            partitions: repr.topics.values().map(|topic| topic.partitions.len()).sum(),
            map: PartitionMap {
                generation: repr.generation,
                removals: repr.removals,
                nodes: Arc::new(repr.nodes),
                topics: Arc::new(repr.topics),
            },
        };
        state.check()?;
        Ok(state)
    }
}
