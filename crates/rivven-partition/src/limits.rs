//! Every bound of this crate, and what happens at it.

/// Most nodes that can be registered, removed ones included; further ones are refused.
pub const MAX_NODES: usize = 10_000;

/// Most topics; further ones are refused.
pub const MAX_TOPICS: usize = 100_000;

/// Most partitions over all topics; a topic that would exceed it is refused.
pub const MAX_PARTITIONS: usize = 1_000_000;

/// Most partitions of one topic.
///
/// With [`MAX_REPLICATION_FACTOR`] the command that creates the topic stays below 3 MiB.
pub const MAX_PARTITIONS_PER_TOPIC: u32 = 16_384;

/// Most replicas of a partition.
pub const MAX_REPLICATION_FACTOR: u16 = 15;

/// Replicas of a partition when nobody asks for a number.
pub const DEFAULT_REPLICATION_FACTOR: u16 = 3;

/// Longest name of a topic in bytes.
pub const MAX_TOPIC_NAME_LEN: usize = 249;

/// Longest name of a zone in bytes.
pub const MAX_ZONE_LEN: usize = 255;

/// Most partitions that one command changes; a longer batch is refused.
///
/// With [`MAX_REPLICATION_FACTOR`] the command stays below 4 MiB.
pub const MAX_CHANGES_PER_COMMAND: usize = 16_384;

/// Most partitions that one call of [`reconcile`](crate::reconcile) changes; the rest follows in the
/// next call, leaderless partitions first.
pub const MAX_CHANGES_PER_RECONCILE: usize = 65_536;

/// Most nodes whose status one call of [`reconcile`](crate::reconcile) changes; the rest follows.
pub const MAX_STATUS_CHANGES_PER_RECONCILE: usize = 1_024;

/// Most leaderships that one call of [`reconcile`](crate::reconcile) moves for balance alone.
pub const MAX_LEADER_MOVES_PER_RECONCILE: usize = 1_024;

/// Leaders are balanced once a move would narrow a gap larger than this share of the mean, in percent.
///
/// The gap between what triggers and what balancing reaches keeps leaderships from oscillating.
pub const LEADER_IMBALANCE_PERCENT: u64 = 10;

/// Leaders are not balanced for a gap of this or fewer, whatever the mean.
pub const LEADER_IMBALANCE_MIN: u64 = 2;

/// How long a node must be back before balancing gives it leaders, so that a flapping node gets none.
pub const LEADER_RETURN_HOLD_MS: u64 = 5_000;
