//! The state that the replicated log builds: every command checked completely, then applied.

mod check;
mod nodes;
mod partitions;
mod repr;
#[cfg(test)]
mod tests;
mod topics;

use std::{collections::BTreeMap, sync::Arc};

use rivven_types::NodeId;

pub(crate) use self::topics::check_counts;
use crate::{Applied, PartitionCommand, PartitionMap, PartitionResponse, Topic, TopicId, TopicName};

/// Nodes, topics and partitions, alike on every member at the same log index.
///
/// A clone is a snapshot: it shares what does not change and costs a few counters. In serde the state
/// carries a format version, and one that commands could not have led to is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    map: PartitionMap,
    next_topic: u64,
    /// The topics by number, in step with `map.topics`.
    names: Arc<BTreeMap<TopicId, TopicName>>,
    /// Partitions over all topics.
    partitions: usize,
}

impl PartitionState {
    /// Applies one command of the log entry at `log_index`.
    ///
    /// Deterministic: equal states and commands give equal states and responses everywhere.
    ///
    /// # Errors
    /// Why the command was refused. The state is then unchanged.
    pub fn apply(&mut self, log_index: u64, command: PartitionCommand) -> PartitionResponse {
        let generation = self.map.generation.max(log_index);
        let applied = match command {
            PartitionCommand::RegisterNode(registration) => self.register(generation, registration),
            PartitionCommand::SetNodeStatus {
                node,
                boot_epoch,
                status,
                at_ms,
            } => self.set_status(generation, node, boot_epoch, (status, at_ms)),
            PartitionCommand::CreateTopic {
                name,
                replication_factor,
                allow_fewer_replicas,
                assignment,
            } => {
                let fewest = if allow_fewer_replicas {
                    1
                } else {
                    replication_factor
                };
                self.create_topic(generation, &name, (fewest, replication_factor), assignment)
            }
            PartitionCommand::DeleteTopic { name } => self.delete_topic(generation, &name),
            PartitionCommand::ChangeLeaders { changes } => self.change_leaders(generation, changes),
        }?;
        match applied {
            Applied::Unchanged { .. } => {}
            Applied::Changed { generation } | Applied::TopicCreated { generation, .. } => {
                self.map.generation = generation;
            }
        }
        Ok(applied)
    }

    /// The reader's view. Clone it to keep it.
    #[must_use]
    pub const fn map(&self) -> &PartitionMap {
        &self.map
    }

    /// Log index of the last change; 0 before the first.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.map.generation
    }

    /// The topics in the order of their numbers.
    pub(crate) fn topics_by_id(&self) -> impl Iterator<Item = &Topic> {
        self.names.values().filter_map(|name| self.map.topic(name))
    }

    fn unchanged(&self) -> Applied {
        Applied::Unchanged {
            generation: self.map.generation,
        }
    }

    fn leads(&self, node: NodeId) -> usize {
        self.map
            .partitions()
            .filter(|partition| partition.leader == Some(node))
            .count()
    }
}
