//! Leaders and in-sync replicas change, many partitions at once or none.

use std::sync::Arc;

use rivven_types::NodeId;

use super::PartitionState;
use crate::{
    Applied, MAX_CHANGES_PER_COMMAND, NodeStatus, Partition, PartitionChange, PartitionError,
    PartitionResponse, Rule,
};

impl PartitionState {
    /// Applies a batch whose every change fits the current epochs and the rules; otherwise nothing.
    pub(super) fn change_leaders(
        &mut self,
        generation: u64,
        changes: Vec<PartitionChange>,
    ) -> PartitionResponse {
        if !(1..=MAX_CHANGES_PER_COMMAND).contains(&changes.len()) {
            return Err(PartitionError::InvalidBatchSize {
                changes: changes.len(),
            });
        }
        let mut before = None;
        for change in &changes {
            let at = (change.topic, change.partition);
            if before.is_some_and(|before| before >= at) {
                return Err(PartitionError::UnorderedBatch {
                    topic: at.0,
                    partition: at.1,
                });
            }
            before = Some(at);
            self.check_change(change)?;
        }

        let topics = Arc::make_mut(&mut self.map.topics);
        for change in changes {
            let topic = self
                .names
                .get(&change.topic)
                .and_then(|name| topics.get_mut(name));
            let at = usize::try_from(change.partition).unwrap_or(usize::MAX);
            if let Some(partition) = topic.and_then(|topic| Arc::make_mut(topic).partitions.get_mut(at)) {
                if partition.leader != change.leader {
                    partition.leader_epoch = partition.leader_epoch.next();
                }
                partition.partition_epoch = partition.partition_epoch.next();
                partition.leader = change.leader;
                partition.in_sync = change.in_sync;
            }
        }
        Ok(Applied::Changed { generation })
    }

    fn check_change(&self, change: &PartitionChange) -> Result<(), PartitionError> {
        let (topic, partition) = (change.topic, change.partition);
        let name = self.names.get(&topic);
        let current = name
            .and_then(|name| self.map.partition(name, partition))
            .ok_or(PartitionError::UnknownPartition { topic, partition })?;
        let based_on = (change.leader_epoch, change.partition_epoch);
        if based_on != (current.leader_epoch, current.partition_epoch) {
            return Err(PartitionError::StaleEpoch { topic, partition });
        }
        let removed = |node| {
            self.map
                .node(node)
                .is_none_or(|node| node.status == NodeStatus::Removed)
        };
        let rule = if !is_part_of(&change.in_sync, &current.replicas) {
            Rule::InSyncWithinReplicas
        } else if !change
            .leader
            .is_none_or(|leader| change.in_sync.contains(&leader))
        {
            Rule::LeaderInSync
        } else if change.leader.is_some_and(removed) {
            Rule::LeaderNotRemoved
        } else if (change.leader, &change.in_sync) == (current.leader, &current.in_sync) {
            Rule::SomethingChanges
        } else {
            return Ok(());
        };
        Err(PartitionError::IllegalChange {
            topic,
            partition,
            rule,
        })
    }
}

/// Whether `part` is a non-empty subsequence of `whole`, and so distinct where that is.
pub(super) fn is_part_of(part: &[NodeId], whole: &[NodeId]) -> bool {
    let mut rest = whole.iter();
    !part.is_empty() && part.iter().all(|node| rest.any(|other| other == node))
}

impl Partition {
    /// Whether the invariants of a partition hold.
    pub(super) fn is_sound(&self) -> bool {
        is_part_of(&self.in_sync, &self.replicas)
            && self.leader.is_none_or(|leader| self.in_sync.contains(&leader))
            && self.leader_epoch.0 >= 1
            && self.leader_epoch.0 <= self.partition_epoch.0
    }
}
