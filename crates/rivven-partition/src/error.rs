//! Why a command is refused or a topic cannot be placed.

use rivven_types::{BootEpoch, InstanceId, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    MAX_BOOT_EPOCH, MAX_CHANGES_PER_COMMAND, MAX_ENDPOINT_NAME_LEN, MAX_ENDPOINTS, MAX_INSTANCES_PER_NODE,
    MAX_NODES, MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, MAX_REASON_LEN, MAX_REPLICATION_FACTOR,
    MAX_TOPIC_NAME_LEN, MAX_TOPICS, MAX_WEIGHT, MAX_ZONE_LEN, RebalanceStatus, SettingError, TopicId,
};

/// Why a command was refused.
///
/// Commands are checked completely before anything changes, so whatever the error, nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PartitionError {
    /// The name of a topic is empty, too long, or has a character that names do not have.
    #[error(
        "the topic name is not 1 to {MAX_TOPIC_NAME_LEN} characters of a-z A-Z 0-9 . _ -; choose another"
    )]
    InvalidTopicName,
    /// A topic of that name exists. Use it, or choose another name.
    #[error("topic {name} exists already; choose another name or delete it first")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// There is no topic of that name. Create it first.
    #[error("there is no topic of that name; create it or check the name")]
    UnknownTopic,
    /// The number of partitions is zero or too large.
    #[error("{partitions} partitions are not from 1 to {MAX_PARTITIONS_PER_TOPIC}; choose another number")]
    InvalidPartitionCount {
        /// The number asked for.
        partitions: usize,
    },
    /// The replication factor is zero or too large.
    #[error("a replication factor of {replication_factor} is not from 1 to {MAX_REPLICATION_FACTOR}")]
    InvalidReplicationFactor {
        /// The factor asked for.
        replication_factor: u16,
    },
    /// The cluster has as many topics as it takes. Delete one first.
    #[error("the cluster has {MAX_TOPICS} topics, the most it takes; delete some first")]
    TooManyTopics,
    /// The cluster would have too many partitions. Ask for fewer, or delete a topic first.
    #[error(
        "the cluster would have more than {MAX_PARTITIONS} partitions; ask for fewer or delete some first"
    )]
    TooManyPartitions,
    /// The cluster has as many nodes as it takes.
    #[error("the cluster has {MAX_NODES} nodes, the most it takes")]
    TooManyNodes,
    /// Fewer nodes can take replicas than each partition shall have.
    ///
    /// Start more nodes, ask for a smaller factor, or allow fewer replicas.
    #[error(
        "{wanted} replicas need as many live and active nodes, and there are {available}; start more nodes, \
         lower the replication factor, or allow fewer replicas"
    )]
    NotEnoughNodes {
        /// Replicas per partition.
        wanted: u16,
        /// Nodes that can take them.
        available: usize,
    },
    /// The assignment gives a partition another number of replicas than the topic asks for.
    #[error("partition {partition} is given {replicas} replicas; place the topic again")]
    WrongReplicaCount {
        /// The partition.
        partition: usize,
        /// Its replicas in the command.
        replicas: usize,
    },
    /// The assignment names a node twice for one partition.
    #[error("partition {partition} is given node {node} twice; place the topic again")]
    DuplicateReplica {
        /// The partition.
        partition: usize,
        /// The node named twice.
        node: NodeId,
    },
    /// No node of that number is registered.
    #[error("node {node} is not registered; start it first or check the number")]
    UnknownNode {
        /// The number.
        node: NodeId,
    },
    /// The node was removed from the cluster. Start it with an empty data directory to join anew.
    #[error("node {node} was removed from the cluster; start it with an empty data directory to join anew")]
    NodeRemoved {
        /// The node.
        node: NodeId,
    },
    /// The node leads partitions and so cannot be removed yet. Drain it first.
    #[error("node {node} leads {partitions} partitions; drain it first")]
    NodeLeads {
        /// The node.
        node: NodeId,
        /// How many it leads.
        partitions: usize,
    },
    /// A node arrived with another data directory than the cluster knows: its disk was lost or swapped.
    ///
    /// Give it back its directory, or remove the old instance so that this one may join.
    #[error(
        "node {node} arrived with data directory {offered} but is known with {registered}; give it back its \
         directory, or replace the member"
    )]
    InstanceMismatch {
        /// The node.
        node: NodeId,
        /// The instance that the cluster knows.
        registered: InstanceId,
        /// The instance that arrived.
        offered: InstanceId,
    },
    /// The command speaks of an earlier or later start of the node than the registered one.
    ///
    /// A registration with a lower epoch comes from a rolled-back disk or from the past; a decision about
    /// another start is to be made again.
    #[error("node {node} is registered with boot epoch {registered}, not {offered}; look again and retry")]
    StaleBootEpoch {
        /// The node.
        node: NodeId,
        /// The epoch that the cluster knows.
        registered: BootEpoch,
        /// The epoch in the command.
        offered: BootEpoch,
    },
    /// The name of a zone is empty, too long, or has control characters.
    #[error(
        "the zone of node {node} is not 1 to {MAX_ZONE_LEN} bytes of printable text; correct its configuration"
    )]
    InvalidZone {
        /// The node.
        node: NodeId,
    },
    /// The weight of a node is too large.
    #[error("a weight of {weight} percent is not from 0 to {MAX_WEIGHT}; choose another")]
    InvalidWeight {
        /// The weight asked for.
        weight: u16,
    },
    /// A node registers too many application addresses, or one whose name is empty, too long or not plain.
    #[error(
        "node {node} has more than {MAX_ENDPOINTS} endpoints, or one whose name is not 1 to \
         {MAX_ENDPOINT_NAME_LEN} characters of a-z A-Z 0-9 . _ -; correct its configuration"
    )]
    InvalidEndpoints {
        /// The node.
        node: NodeId,
    },
    /// The boot epoch of a node is larger than can be recorded; its data directory is damaged.
    #[error(
        "boot epoch {offered} of node {node} is larger than {MAX_BOOT_EPOCH}; give it an empty directory"
    )]
    BootEpochTooLarge {
        /// The node.
        node: NodeId,
        /// The epoch in the command.
        offered: BootEpoch,
    },
    /// The number has been used for too many data directories. Give the node another number.
    #[error("node {node} has had {MAX_INSTANCES_PER_NODE} data directories; give it another number")]
    TooManyInstances {
        /// The node.
        node: NodeId,
    },
    /// A decision speaks of a start of a node that is not the registered one. Look again and retry.
    #[error("node {node} has started anew since, or has another data directory; look again and retry")]
    StaleStart {
        /// The node.
        node: NodeId,
    },
    /// A setting does not exist or does not take its value.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The topic has another number of partitions than the command says. Look again and retry.
    #[error("the topic has {partitions} partitions by now; look again and retry")]
    PartitionCountChanged {
        /// How many it has.
        partitions: u32,
    },
    /// A topic cannot have fewer partitions than it has: their records would be lost.
    #[error("the topic has {partitions} partitions and cannot have fewer; create another topic")]
    PartitionsOnlyGrow {
        /// How many it has.
        partitions: u32,
    },
    /// Zones are a hard rule, and there are too few zones for so many replicas.
    #[error(
        "{wanted} replicas in zones of their own need as many zones, and there are {zones}; add zones, lower the \
         replication factor, or set `zones` to `preferred`"
    )]
    NotEnoughZones {
        /// Replicas per partition.
        wanted: u16,
        /// Zones with nodes that can take them.
        zones: usize,
    },
    /// The plan was made against an older state. Plan again.
    #[error(
        "the plan was made against generation {against}, and nodes or replicas changed at {placed}; plan again"
    )]
    StalePlan {
        /// The generation that the plan was made against.
        against: u64,
        /// The placement generation of the state.
        placed: u64,
    },
    /// A rebalance is under way already. Wait for its end, or cancel it.
    #[error("rebalance {id} is under way; wait for its end or cancel it")]
    RebalanceUnderWay {
        /// The rebalance.
        id: u64,
    },
    /// There is no such rebalance, or no longer.
    #[error("there is no rebalance {id}; look again")]
    UnknownRebalance {
        /// The number in the command.
        id: u64,
    },
    /// The rebalance cannot do that as it is.
    #[error("the rebalance is {}; look again", .status.as_str())]
    RebalanceStatus {
        /// How it goes on.
        status: RebalanceStatus,
    },
    /// A reason is too long.
    #[error("the reason is longer than {MAX_REASON_LEN} bytes; shorten it")]
    ReasonTooLong,
    /// The cluster has no more numbers for topics, which takes longer than anything lasts.
    #[error("no numbers for topics are left")]
    TopicNumbersUsedUp,
    /// A batch is empty or too long.
    #[error("{changes} changes are not from 1 to {MAX_CHANGES_PER_COMMAND}; split the batch")]
    InvalidBatchSize {
        /// Changes in the batch.
        changes: usize,
    },
    /// A batch is not strictly ascending by topic and partition, so it may name a partition twice.
    #[error("the batch is out of order at partition {partition} of topic {topic}; sort it")]
    UnorderedBatch {
        /// The topic of the change that is out of order.
        topic: TopicId,
        /// Its partition.
        partition: u32,
    },
    /// A change names a partition that does not exist, or no longer.
    #[error("there is no partition {partition} of topic {topic}; look again and retry")]
    UnknownPartition {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
    },
    /// A change is based on epochs that have passed. Decide again on the current state.
    #[error("partition {partition} of topic {topic} has changed since; look again and retry")]
    StaleEpoch {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
    },
    /// A change would leave a partition in a state that must not be: nobody in sync, an in-sync node
    /// that is no replica, or a leader that is not in sync.
    #[error("the change of partition {partition} of topic {topic} breaks a rule: {rule}; decide again")]
    IllegalChange {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
        /// The rule.
        rule: Rule,
    },
    /// A stored state is not one that commands can lead to. Restore another snapshot.
    #[error("the stored partition state is damaged ({what}); restore another snapshot")]
    DamagedState {
        /// What is wrong.
        what: String,
    },
}

/// A rule of partitions that a change would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rule {
    /// The in-sync replicas are a non-empty part of the replicas, in their order.
    #[error("the in-sync replicas are a non-empty part of the replicas, in their order")]
    InSyncWithinReplicas,
    /// The leader is in sync.
    #[error("the leader is in sync")]
    LeaderInSync,
    /// The leader has not been removed from the cluster.
    #[error("the leader has not been removed from the cluster")]
    LeaderNotRemoved,
    /// A change changes something.
    #[error("a change changes something")]
    SomethingChanges,
    /// Who reports or lets go is the leader, in that epoch.
    #[error("who reports or lets go is the leader")]
    ByLeader,
    /// A replica becomes in sync only under a start that the command names.
    #[error("a replica becomes in sync only under a start that the command names")]
    StartNamed,
    /// Replicas are distinct registered nodes that were not removed, as many as a topic may have.
    #[error("replicas are distinct registered nodes that were not removed, as many as a topic may have")]
    SoundTarget,
    /// The step fits how far the move is.
    #[error("the step fits how far the move is")]
    StepInOrder,
    /// Replicas leave only when all their successors are in sync.
    #[error("replicas leave only when all their successors are in sync")]
    SuccessorsInSync,
    /// A move leaves as many in-sync replicas as the topic asks for.
    #[error("a move leaves as many in-sync replicas as the topic asks for")]
    EnoughInSync,
    /// The leader is handed over to another in-sync replica.
    #[error("the leader is handed over to another in-sync replica")]
    HandOverToInSync,
}

impl PartitionError {
    /// A stable name of the kind of error, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidTopicName => "invalid-topic-name",
            Self::TopicExists { .. } => "topic-exists",
            Self::UnknownTopic => "unknown-topic",
            Self::InvalidPartitionCount { .. } => "invalid-partition-count",
            Self::InvalidReplicationFactor { .. } => "invalid-replication-factor",
            Self::TooManyTopics => "too-many-topics",
            Self::TooManyPartitions => "too-many-partitions",
            Self::TooManyNodes => "too-many-nodes",
            Self::NotEnoughNodes { .. } => "not-enough-nodes",
            Self::WrongReplicaCount { .. } => "wrong-replica-count",
            Self::DuplicateReplica { .. } => "duplicate-replica",
            Self::UnknownNode { .. } => "unknown-node",
            Self::NodeRemoved { .. } => "node-removed",
            Self::NodeLeads { .. } => "node-leads",
            Self::InstanceMismatch { .. } => "instance-mismatch",
            Self::StaleBootEpoch { .. } => "stale-boot-epoch",
            Self::InvalidZone { .. } => "invalid-zone",
            Self::InvalidWeight { .. } => "invalid-weight",
            Self::InvalidEndpoints { .. } => "invalid-endpoints",
            Self::BootEpochTooLarge { .. } => "boot-epoch-too-large",
            Self::TooManyInstances { .. } => "too-many-instances",
            Self::StaleStart { .. } => "stale-start",
            Self::Setting(error) => error.code(),
            Self::PartitionCountChanged { .. } => "partition-count-changed",
            Self::PartitionsOnlyGrow { .. } => "partitions-only-grow",
            Self::NotEnoughZones { .. } => "not-enough-zones",
            Self::StalePlan { .. } => "stale-plan",
            Self::RebalanceUnderWay { .. } => "rebalance-under-way",
            Self::UnknownRebalance { .. } => "unknown-rebalance",
            Self::RebalanceStatus { .. } => "rebalance-status",
            Self::ReasonTooLong => "reason-too-long",
            Self::TopicNumbersUsedUp => "topic-numbers-used-up",
            Self::InvalidBatchSize { .. } => "invalid-batch-size",
            Self::UnorderedBatch { .. } => "unordered-batch",
            Self::UnknownPartition { .. } => "unknown-partition",
            Self::StaleEpoch { .. } => "stale-epoch",
            Self::IllegalChange { .. } => "illegal-change",
            Self::DamagedState { .. } => "damaged-state",
        }
    }
}
