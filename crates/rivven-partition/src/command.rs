//! What the log says to the partition state, and what the state answers.

use std::collections::BTreeMap;

use rivven_types::{BootEpoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::{LeaderEpoch, NodeStatus, PartitionEpoch, PartitionError, Registration, Start, TopicId};

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
        /// Settings of the topic.
        settings: BTreeMap<String, String>,
        /// Per partition its replicas, the preferred leader first.
        assignment: Vec<Vec<NodeId>>,
    },
    /// Deletes a topic and its partitions.
    DeleteTopic {
        /// Name of the topic.
        name: String,
    },
    /// The controller changes leaders, in-sync replicas and moves of many partitions, all of them or none.
    ChangePartitions {
        /// The starts of the nodes that become in sync or are confirmed so; refused if one has started anew.
        starts: Vec<Start>,
        /// The changes, ascending by topic and partition, at most
        /// [`MAX_CHANGES_PER_COMMAND`](crate::MAX_CHANGES_PER_COMMAND).
        changes: Vec<PartitionChange>,
    },
    /// An operator gives a node another weight, or with `None` the one it registered with.
    SetNodeWeight {
        /// The node.
        node: NodeId,
        /// The weight in percent of a normal node; 0 empties the node.
        weight: Option<u16>,
    },
    /// Adds partitions to a topic, placed by [`grow`](crate::grow).
    AddPartitions {
        /// The topic.
        topic: TopicId,
        /// How many it has; refused if it has others by now.
        first: u32,
        /// Per new partition its replicas, the preferred leader first.
        assignment: Vec<Vec<NodeId>>,
    },
    /// Changes how many replicas the partitions of a topic shall have. The controller then adds or takes away.
    SetReplicationFactor {
        /// The topic.
        topic: TopicId,
        /// Replicas that each partition shall have.
        replication_factor: u16,
    },
    /// Sets and unsets settings of the cluster or of a topic.
    Configure {
        /// The topic, or `None` for the cluster.
        topic: Option<TopicId>,
        /// Per key its value, or `None` to unset it.
        changes: BTreeMap<String, Option<String>>,
    },
    /// A leader of partitions says which of their replicas are in sync, of all of them or none.
    ReportInSync {
        /// Who reports; refused if it does not lead one of them, or has started anew.
        leader: Start,
        /// The starts of the nodes that become in sync or are confirmed so; refused if one has started anew.
        starts: Vec<Start>,
        /// The reports, ascending by topic and partition, at most
        /// [`MAX_CHANGES_PER_COMMAND`](crate::MAX_CHANGES_PER_COMMAND).
        reports: Vec<InSyncReport>,
    },
    /// A leader that was asked to hand partitions over has let go of them.
    Release {
        /// Who lets go; refused if it does not lead one of them, or has started anew.
        leader: Start,
        /// Topic, partition and the leader epoch that ends, ascending.
        released: Vec<(TopicId, u32, LeaderEpoch)>,
    },
    /// An operator makes a replica the leader that was not in sync, and so gives up what it has not.
    ElectUnclean(UncleanElection),
    /// An operator begins, fills, pauses, resumes or cancels a rebalance; the controller ends it.
    Rebalance(RebalanceCommand),
}

/// The next state of one partition.
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
    /// The in-sync replicas from here on, in the order of the replicas after `step`.
    pub in_sync: Vec<NodeId>,
    /// The leader from here on, one of `in_sync`.
    pub leader: Option<NodeId>,
    /// What becomes of the replicas.
    pub step: Step,
}

/// A step of a partition between sets of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The replicas stay.
    #[default]
    Stay,
    /// The replicas of this list that it lacks are added, and catch up; nothing is taken away.
    Begin(Vec<NodeId>),
    /// All added replicas are in sync: those that are not in the target leave.
    Finish,
    /// The added replicas leave again.
    Revert,
    /// The partition is taken out of the rebalance as it is.
    Forget,
    /// The leader is asked to let go, so that another can lead. Nothing else changes.
    HandOver {
        /// Who is to lead, one of the in-sync replicas.
        to: NodeId,
        /// When it was asked, in milliseconds of the proposer's wall clock.
        at_ms: u64,
    },
}

/// What a leader says of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSyncReport {
    /// The topic.
    pub topic: TopicId,
    /// The partition of the topic.
    pub partition: u32,
    /// The epoch of the leadership that reports.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the report is based on.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync replicas from here on, in the order of the replicas, the leader among them.
    pub in_sync: Vec<NodeId>,
}

/// A leader elected by an operator from replicas that were not in sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncleanElection {
    /// The topic.
    pub topic: TopicId,
    /// The partition of the topic.
    pub partition: u32,
    /// The partition epoch that the decision is based on.
    pub partition_epoch: PartitionEpoch,
    /// The start of the node that leads from here on, as the only in-sync replica.
    pub leader: Start,
    /// When, in milliseconds of the proposer's wall clock.
    pub at_ms: u64,
    /// Why, for people, at most [`MAX_REASON_LEN`](crate::MAX_REASON_LEN) bytes.
    pub reason: String,
}

/// What is done with a rebalance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebalanceCommand {
    /// Begins one with its first moves. There is one at a time.
    Begin {
        /// The placement generation that the plan was made against; refused if it has changed.
        against: u64,
        /// When, in milliseconds of the proposer's wall clock.
        at_ms: u64,
        /// The first moves.
        moves: Vec<PlannedMove>,
        /// Whether more are to come. Nothing moves before the last has come.
        more: bool,
    },
    /// Adds moves to one that is being filled.
    Fill {
        /// The rebalance.
        id: u64,
        /// More moves.
        moves: Vec<PlannedMove>,
        /// Whether more are to come.
        more: bool,
    },
    /// Begins no further moves; those under way go on.
    Pause {
        /// The rebalance.
        id: u64,
    },
    /// Goes on.
    Resume {
        /// The rebalance.
        id: u64,
    },
    /// Brings every partition back to the replicas that it had, in their order.
    Cancel {
        /// The rebalance.
        id: u64,
    },
    /// Nothing is left to move. Said by the controller.
    End {
        /// The rebalance.
        id: u64,
    },
}

/// A partition and the replicas that it shall have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The topic.
    pub topic: TopicId,
    /// The partition of the topic.
    pub partition: u32,
    /// The replicas, the preferred leader first.
    pub target: Vec<NodeId>,
}

/// A rebalance under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// Log index of the command that began it.
    pub id: u64,
    /// How it goes on.
    pub status: RebalanceStatus,
    /// When it was begun, in milliseconds of the proposer's wall clock.
    pub since_ms: u64,
    /// Moves in all.
    pub moves: u32,
    /// Moves that have not begun.
    pub queued: u32,
    /// Moves that are under way, there or back.
    pub active: u32,
    /// Moves that are done, and not undone.
    pub done: u32,
}

impl Rebalance {
    /// Moves that will not be made, or were undone: the partition was deleted, or repaired after a failure.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.moves
            .saturating_sub(self.queued)
            .saturating_sub(self.active)
            .saturating_sub(self.done)
    }
}

/// How a rebalance goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RebalanceStatus {
    /// Its moves are still being handed in. One that stays so for long is cancelled.
    Filling,
    /// Moves begin as others end.
    Running,
    /// No move begins.
    Paused,
    /// Partitions go back to where they were.
    Cancelling,
}

impl RebalanceStatus {
    /// The status in lower case, for people and programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filling => "filling",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
        }
    }
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
