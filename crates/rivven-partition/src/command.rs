//! What the log says to the partition state, and what the state answers.

use rivven_types::{BootEpoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::{LeaderEpoch, NodeStatus, PartitionEpoch, PartitionError, Registration, TopicId};

/// A change of the partition state, from the replicated log.
///
/// Commands carry decisions as data: applying one computes nothing that two builds could compute
/// differently. Format version 0: variants and fields are appended, never reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionCommand {
    /// A node has started. Saying the same again changes nothing.
    RegisterNode(Registration),
    /// The controller or an operator has decided about a node.
    SetNodeStatus {
        /// The node.
        node: NodeId,
        /// The start of the node that the decision is about; refused if it has started anew since.
        boot_epoch: BootEpoch,
        /// The decision.
        status: NodeStatus,
        /// When, in milliseconds of the proposer's wall clock.
        at_ms: u64,
    },
    /// Creates a topic, placed by [`place`](crate::place).
    CreateTopic {
        /// Name of the topic.
        name: String,
        /// Replicas that each partition shall have.
        replication_factor: u16,
        /// Whether `assignment` may name fewer than that.
        allow_fewer_replicas: bool,
        /// Per partition its replicas, the preferred leader first.
        assignment: Vec<Vec<NodeId>>,
    },
    /// Deletes a topic and its partitions.
    DeleteTopic {
        /// Name of the topic.
        name: String,
    },
    /// Changes leaders and in-sync replicas of many partitions, all of them or none.
    ChangeLeaders {
        /// The changes, ascending by topic and partition, at most
        /// [`MAX_CHANGES_PER_COMMAND`](crate::MAX_CHANGES_PER_COMMAND).
        changes: Vec<PartitionChange>,
    },
}

/// The next leader and in-sync replicas of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChange {
    /// The topic.
    pub topic: TopicId,
    /// The partition of the topic.
    pub partition: u32,
    /// The leader epoch that the decision is based on.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the decision is based on.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync replicas from here on, in the order of the replicas.
    pub in_sync: Vec<NodeId>,
    /// The leader from here on, one of `in_sync`.
    pub leader: Option<NodeId>,
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The state was so already.
    Unchanged {
        /// Generation of the state.
        generation: u64,
    },
    /// The state has changed.
    Changed {
        /// Generation of the state: the log index of the change.
        generation: u64,
    },
    /// A topic was created.
    TopicCreated {
        /// Generation of the state: the log index of the change.
        generation: u64,
        /// Number of the topic.
        topic: TopicId,
    },
}

impl Applied {
    /// Generation of the state after the command.
    #[must_use]
    pub const fn generation(self) -> u64 {
        match self {
            Self::Unchanged { generation }
            | Self::Changed { generation }
            | Self::TopicCreated { generation, .. } => generation,
        }
    }
}

/// What a command did, or why it was refused; a refused command has changed nothing.
pub type PartitionResponse = Result<Applied, PartitionError>;
