//! Topics come and go.

use std::{collections::BTreeSet, sync::Arc};

use rivven_types::NodeId;

use super::PartitionState;
use crate::{
    Applied, MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR, MAX_TOPICS, NodeStatus,
    Partition, PartitionError, PartitionResponse, Topic, TopicId, TopicName,
};

impl PartitionState {
    /// Creates a topic with the assignment that its proposer has computed; `replicas` are the fewest and the
    /// most that a partition may have.
    pub(super) fn create_topic(
        &mut self,
        generation: u64,
        name: &str,
        replicas: (u16, u16),
        assignment: Vec<Vec<NodeId>>,
    ) -> PartitionResponse {
        let name = TopicName::new(name)?;
        if self.map.topics.contains_key(&name) {
            return Err(PartitionError::TopicExists { name: name.into() });
        }
        check_counts(assignment.len(), replicas.1)?;
        if self.map.topics.len() >= MAX_TOPICS {
            return Err(PartitionError::TooManyTopics);
        }
        if self.partitions + assignment.len() > MAX_PARTITIONS {
            return Err(PartitionError::TooManyPartitions);
        }
        for (partition, nodes) in assignment.iter().enumerate() {
            self.check_replicas(partition, nodes, replicas)?;
        }

        let id = TopicId(self.next_topic);
        self.next_topic += 1;
        self.partitions += assignment.len();
        let topic = Topic {
            id,
            name: name.clone(),
            replication_factor: replicas.1,
            created: generation,
            partitions: assignment.into_iter().map(Partition::new).collect(),
        };
        Arc::make_mut(&mut self.names).insert(id, name.clone());
        Arc::make_mut(&mut self.map.topics).insert(name, Arc::new(topic));
        Ok(Applied::TopicCreated {
            generation,
            topic: id,
        })
    }

    pub(super) fn delete_topic(&mut self, generation: u64, name: &str) -> PartitionResponse {
        if self.map.topic(name).is_none() {
            return Err(PartitionError::UnknownTopic);
        }
        if let Some(topic) = Arc::make_mut(&mut self.map.topics).remove(name) {
            Arc::make_mut(&mut self.names).remove(&topic.id);
            self.partitions -= topic.partitions.len();
        }
        Ok(Applied::Changed { generation })
    }

    fn check_replicas(
        &self,
        partition: usize,
        nodes: &[NodeId],
        (fewest, most): (u16, u16),
    ) -> Result<(), PartitionError> {
        let replicas = nodes.len();
        if replicas < usize::from(fewest) || replicas > usize::from(most) {
            return Err(PartitionError::WrongReplicaCount { partition, replicas });
        }
        let mut seen = BTreeSet::new();
        for &node in nodes {
            if !seen.insert(node) {
                return Err(PartitionError::DuplicateReplica { partition, node });
            }
            let known = self.map.node(node).ok_or(PartitionError::UnknownNode { node })?;
            if known.status == NodeStatus::Removed {
                return Err(PartitionError::NodeRemoved { node });
            }
        }
        Ok(())
    }
}

/// Whether a topic may have so many partitions and replicas of each.
pub(crate) fn check_counts(partitions: usize, replication_factor: u16) -> Result<(), PartitionError> {
    let most = usize::try_from(MAX_PARTITIONS_PER_TOPIC).unwrap_or(usize::MAX);
    if !(1..=most).contains(&partitions) {
        return Err(PartitionError::InvalidPartitionCount { partitions });
    }
    if !(1..=MAX_REPLICATION_FACTOR).contains(&replication_factor) {
        return Err(PartitionError::InvalidReplicationFactor { replication_factor });
    }
    Ok(())
}
