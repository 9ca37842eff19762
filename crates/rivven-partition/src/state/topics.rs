//! Topics come and go, grow and are set up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rivven_types::NodeId;

use super::{Effect, PartitionState, planned};
use crate::{
    MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR, MAX_TOPICS, NodeStatus, PartitionError,
    Scope, Settings, Topic, TopicId, TopicName,
    cell::{Cell, Seat},
    history::Changed,
    ids::MAX_TOPIC_ID,
    topic::Cells,
};

impl PartitionState {
    /// Creates a topic with the assignment that its proposer has computed.
    pub(super) fn create_topic(
        &mut self,
        generation: u64,
        name: &str,
        (replication_factor, allow_fewer_replicas): (u16, bool),
        settings: BTreeMap<String, String>,
        assignment: &[Vec<NodeId>],
    ) -> Result<Effect, PartitionError> {
        let name = TopicName::new(name)?;
        if self.map.topic(&name).is_some() {
            return Err(PartitionError::TopicExists { name: name.into() });
        }
        check_counts(assignment.len(), replication_factor)?;
        if self.map.topics.len() >= MAX_TOPICS {
            return Err(PartitionError::TooManyTopics);
        }
        if self.map.partitions + assignment.len() > MAX_PARTITIONS {
            return Err(PartitionError::TooManyPartitions);
        }
        if self.next_topic >= MAX_TOPIC_ID {
            return Err(PartitionError::TopicNumbersUsedUp);
        }
        let settings = settings.into_iter().map(|(key, value)| (key, Some(value)));
        let settings = Settings::default().with(Scope::Topic, &settings.collect())?;
        let cells = self.cells(assignment, (replication_factor, allow_fewer_replicas))?;

        let id = TopicId(self.next_topic);
        self.next_topic += 1;
        let mut topic = Topic {
            id,
            name,
            replication_factor,
            allow_fewer_replicas,
            created: generation,
            settings,
            cells: Cells::default(),
        };
        self.count_in(&cells);
        cells.into_iter().for_each(|cell| topic.cells.push(cell));
        topic.cells.shrink();
        Arc::make_mut(&mut self.map.topics).insert(topic);
        Ok(Effect {
            created: Some(id),
            ..Effect::placed(Changed::Topic(id))
        })
    }

    pub(super) fn delete_topic(&mut self, name: &str) -> Result<Effect, PartitionError> {
        let id = self.map.topic(name).ok_or(PartitionError::UnknownTopic)?.id;
        let mut effect = Effect::placed(Changed::Topic(id));
        if let Some(topic) = Arc::make_mut(&mut self.map.topics).remove(id) {
            let loads = Arc::make_mut(&mut self.map.loads);
            topic.cells.iter().for_each(|cell| loads.remove(cell));
            self.map.partitions -= topic.cells.len();
            let phases = topic.cells.iter().map(planned).filter(Option::is_some);
            let phases: Vec<_> = phases.map(|phase| (phase, None)).collect();
            if !phases.is_empty() {
                self.count_phases(&phases);
                effect.changed.push(Changed::Rebalance);
            }
        }
        Ok(effect)
    }

    pub(super) fn add_partitions(
        &mut self,
        id: TopicId,
        first: u32,
        assignment: &[Vec<NodeId>],
    ) -> Result<Effect, PartitionError> {
        let topic = self.map.topics.get(id).ok_or(PartitionError::UnknownTopic)?;
        let partitions = topic.partition_count();
        if partitions != first {
            return Err(PartitionError::PartitionCountChanged { partitions });
        }
        let factor = topic.replication_factor;
        if assignment.is_empty() {
            return Err(PartitionError::InvalidPartitionCount { partitions: 0 });
        }
        check_counts(topic.cells.len() + assignment.len(), factor)?;
        if self.map.partitions + assignment.len() > MAX_PARTITIONS {
            return Err(PartitionError::TooManyPartitions);
        }
        let cells = self.cells(assignment, (factor, topic.allow_fewer_replicas))?;
        self.count_in(&cells);
        if let Some(topic) = Arc::make_mut(&mut self.map.topics).get_mut(id) {
            cells.into_iter().for_each(|cell| topic.cells.push(cell));
        }
        Ok(Effect::placed(Changed::Topic(id)))
    }

    pub(super) fn set_replication_factor(
        &mut self,
        id: TopicId,
        replication_factor: u16,
    ) -> Result<Effect, PartitionError> {
        let topic = self.map.topics.get(id).ok_or(PartitionError::UnknownTopic)?;
        check_counts(topic.cells.len(), replication_factor)?;
        if topic.replication_factor == replication_factor {
            return Ok(Effect::none());
        }
        if let Some(topic) = Arc::make_mut(&mut self.map.topics).get_mut(id) {
            topic.replication_factor = replication_factor;
        }
        Ok(Effect::placed(Changed::Topic(id)))
    }

    pub(super) fn configure(
        &mut self,
        topic: Option<TopicId>,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Effect, PartitionError> {
        let Some(id) = topic else {
            let next = self.map.settings.with(Scope::Cluster, changes)?;
            if next == self.map.settings {
                return Ok(Effect::none());
            }
            self.map.settings = next;
            return Ok(Effect::placed(Changed::Settings));
        };
        let topic = self.map.topics.get(id).ok_or(PartitionError::UnknownTopic)?;
        let next = topic.settings.with(Scope::Topic, changes)?;
        if next == topic.settings {
            return Ok(Effect::none());
        }
        if let Some(topic) = Arc::make_mut(&mut self.map.topics).get_mut(id) {
            topic.settings = next;
        }
        Ok(Effect::placed(Changed::Topic(id)))
    }

    fn count_in(&mut self, cells: &[Cell]) {
        let loads = Arc::make_mut(&mut self.map.loads);
        cells.iter().for_each(|cell| loads.add(cell));
        self.map.partitions += cells.len();
    }

    /// New partitions as assigned, all of whose replicas are in sync because all are empty.
    fn cells(
        &self,
        assignment: &[Vec<NodeId>],
        (replication_factor, allow_fewer): (u16, bool),
    ) -> Result<Vec<Cell>, PartitionError> {
        let most = usize::from(replication_factor);
        let fewest = if allow_fewer { 1 } else { most };
        let cell = |(partition, nodes): (usize, &Vec<NodeId>)| {
            let replicas = nodes.len();
            if !(fewest..=most).contains(&replicas) {
                return Err(PartitionError::WrongReplicaCount { partition, replicas });
            }
            Ok(Cell::new(&self.seats(partition, nodes)?))
        };
        assignment.iter().enumerate().map(cell).collect()
    }

    fn seats(&self, partition: usize, nodes: &[NodeId]) -> Result<Vec<Seat>, PartitionError> {
        let mut seen = BTreeSet::new();
        let seat = |&node: &NodeId| {
            if !seen.insert(node) {
                return Err(PartitionError::DuplicateReplica { partition, node });
            }
            let slot = self.map.nodes.slot(node);
            let slot = slot.ok_or(PartitionError::UnknownNode { node })?;
            let known = self.map.nodes.at(slot);
            if known.is_none_or(|known| known.status == NodeStatus::Removed) {
                return Err(PartitionError::NodeRemoved { node });
            }
            Ok(self.map.nodes.seat(slot))
        };
        nodes.iter().map(seat).collect()
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
