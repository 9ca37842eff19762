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

/// Largest boot epoch that a node may register with; kept small because every replica carries one.
pub const MAX_BOOT_EPOCH: u64 = (1 << 32) - 1;

/// Most data directories that one number of a node has had; a further one is refused, take another number.
pub const MAX_INSTANCES_PER_NODE: usize = 1_024;

/// Weight of a normal node, in percent.
pub const NORMAL_WEIGHT: u16 = 100;

/// Largest weight of a node, in percent of a normal one.
pub const MAX_WEIGHT: u16 = 10_000;

/// Most application addresses of a node.
pub const MAX_ENDPOINTS: usize = 16;

/// Longest name of an application address in bytes.
pub const MAX_ENDPOINT_NAME_LEN: usize = 64;

/// Longest key of a setting in bytes.
pub const MAX_SETTING_KEY_LEN: usize = 64;

/// Longest value of a setting in bytes.
pub const MAX_SETTING_VALUE_LEN: usize = 1_024;

/// Most settings of the application's own at one level.
pub const MAX_OWN_SETTINGS: usize = 64;

/// Most partitions that one command changes; a longer batch is refused.
pub const MAX_CHANGES_PER_COMMAND: usize = 16_384;

/// Batches are cut so that none is longer than this when encoded, in bytes: below the limit of a command
/// (4 MiB) with room for what carries it.
pub const MAX_BATCH_BYTES: usize = 3 << 20;

/// Commands whose changes one page of the history keeps; there are two pages.
pub const HISTORY_COMMANDS: usize = 1_024;

/// Changes that one page of the history keeps, unless a single command makes more.
pub const HISTORY_KEYS: usize = 65_536;

/// Unclean elections that are remembered; the oldest are forgotten.
pub const MAX_UNCLEAN_RECORDS: usize = 256;

/// Longest reason given for an unclean election or a rebalance, in bytes; a longer one is refused.
pub const MAX_REASON_LEN: usize = 256;

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

/// How long a node must be down before its replicas are rebuilt elsewhere, by default.
pub const REBUILD_HOLD_MS: u64 = 600_000;

/// A node found down again within this time of the last has flapped.
pub const FLAP_MEMORY_MS: u64 = 3_600_000;

/// Flaps that are counted. Each doubles how long the node must be back before it is given leaders.
pub const MAX_FLAPS: u32 = 6;

/// Flaps that count for the rebuilding of replicas. Each doubles the hold, so at most eightfold.
pub const MAX_REBUILD_FLAPS: u32 = 3;

/// Partitions that move at a time, by default.
pub const MOVES_IN_FLIGHT: usize = 256;

/// Partitions that move to one node at a time, by default.
pub const MOVES_IN_FLIGHT_PER_NODE: usize = 64;
