//! The invariants of a whole state, checked when one comes from outside and after every step of the tests.

use std::collections::BTreeSet;

use super::{PartitionState, nodes::is_zone, topics::check_counts};
use crate::{MAX_NODES, MAX_PARTITIONS, MAX_TOPICS, NodeStatus, PartitionError, Topic};

impl PartitionState {
    /// Whether commands could have led to this state.
    pub(crate) fn check(&self) -> Result<(), PartitionError> {
        let (nodes, topics) = (&self.map.nodes, &self.map.topics);
        ensure(nodes.len() <= MAX_NODES, || "too many nodes".into())?;
        ensure(topics.len() <= MAX_TOPICS, || "too many topics".into())?;
        ensure(self.partitions <= MAX_PARTITIONS, || "too many partitions".into())?;
        for (id, node) in &**nodes {
            let zone = node.zone().is_none_or(is_zone);
            ensure(*id == node.registration.node && zone, || format!("node {id}"))?;
        }
        let removed = nodes
            .values()
            .filter(|node| node.status == NodeStatus::Removed)
            .count();
        let removals = self.map.removals;
        let plausible = removed as u64 <= removals && removals <= self.map.generation;
        ensure(plausible, || {
            format!("{removals} removals, {removed} removed nodes")
        })?;
        let counted = self.map.partitions().count();
        ensure(counted == self.partitions, || "partition count".into())?;
        ensure(self.names.len() == topics.len(), || "a topic number twice".into())?;
        for (name, topic) in &**topics {
            let here = *name == topic.name && topic.id.0 < self.next_topic;
            ensure(here && self.names.get(&topic.id) == Some(name), || {
                format!("topic {name}")
            })?;
            ensure(topic.created <= self.map.generation, || {
                format!("age of topic {name}")
            })?;
            self.check_topic(topic)?;
        }
        Ok(())
    }

    fn check_topic(&self, topic: &Topic) -> Result<(), PartitionError> {
        check_counts(topic.partitions.len(), topic.replication_factor)?;
        for (number, partition) in topic.partitions.iter().enumerate() {
            let distinct: BTreeSet<_> = partition.replicas.iter().collect();
            let status = |id| self.map.node(id).map(|node| node.status);
            let sound = partition.is_sound()
                && distinct.len() == partition.replicas.len()
                && partition.replicas.len() <= usize::from(topic.replication_factor)
                && partition.replicas.iter().all(|id| status(*id).is_some())
                && partition
                    .leader
                    .is_none_or(|id| status(id) != Some(NodeStatus::Removed));
            ensure(sound, || format!("partition {number} of topic {}", topic.name))?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), PartitionError> {
    if holds {
        Ok(())
    } else {
        Err(PartitionError::DamagedState { what: what() })
    }
}
