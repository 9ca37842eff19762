//! Coordination for distributed systems: leader election, membership, partition assignment.
//!
//! A [`Cluster`] is one node. Give it a [`ClusterConfig`] and it finds its peers over QUIC with mutual TLS,
//! replicates a key-value map and the assignment of partitions with Raft, and watches the members with
//! SWIM. Each layer is a crate of its own and works without this one: [`RaftNode`], [`SwimNode`],
//! [`HashRing`].
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use rivven_cluster::{Cluster, ClusterConfig, Consistency, TopicSpec, identity};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! // A cluster of one, with certificates of its own. Real ones come from `rivven-node cert init`.
//! identity::write_cluster(&dir.join("certs"), &[1])?;
//! let mut config = ClusterConfig::dev(dir.join("data"));
//! config.tls_dir = Some(dir.join("certs/node-1"));
//! let cluster = Cluster::start(config).await?;
//! cluster.wait_ready(Duration::from_secs(10)).await?;
//!
//! let revision = cluster.kv().put("greeting", "hello").await?;
//! let entry = cluster.kv().get("greeting", Consistency::Linearizable).await?.ok_or("lost")?;
//! assert_eq!((entry.value, entry.mod_revision), ("hello".into(), revision));
//!
//! cluster.partitions().create_topic("orders", TopicSpec::new(12)).await?;
//! let leader = cluster.partitions().leader("orders", 0)?;
//! assert_eq!(leader.node, cluster.node_id());
//! cluster.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod backup;
mod client;
mod clock;
mod cluster;
mod config;
mod controller;
mod data_plane;
mod duty;
mod error;
mod features;
mod founding;
mod gossip_keys;
mod health;
mod inner;
mod joining;
mod kv;
mod members;
mod membership;
pub mod offline;
mod partitions;
mod probe;
mod published;
mod rebalance;
mod ring_meta;
mod shutdown;
mod state;
mod status;
mod status_watch;
mod tokens;
mod upkeep;

pub use backup::BackupError;
pub use client::{Client, ClientConfig, ClientError};
pub use cluster::{Cluster, NotReady};
pub use config::{
    AdminSection, ClusterConfig, ConfigError, ConfigErrorKind, GossipSection, IssuerSection,
    MAX_CONFIG_BYTES, PartitioningSection, Profile, RaftSection, Renewal, TlsSection,
};
pub use data_plane::{DataPlane, MetadataOnly};
pub use duty::{Duties, Duty, Fence, Follow, LEADER_LEASE, Lapsed, Lead, Release, Replica, ReportError};
pub use error::{ReadError, RotateError, StartError, TransferError, WriteError};
pub use features::FeatureError;
pub use joining::JoinTokenError;
pub use kv::{Kv, KvCommitted, KvListing, KvWatch, KvWritten, Swap};
pub use members::{Member, MemberEvent, MemberEvents, Members};
pub use membership::MembershipError;
pub use partitions::{AssignmentUpdate, AssignmentWatch, LeaderError, PartitionLeader, PartitionManager};
pub use rebalance::{RebalanceAction, TopicChange};
pub use shutdown::ShutdownReport;
pub use status::{Check, ClusterStatus, Phase, Problem};
pub use status_watch::ClusterWatch;

pub use rivven_hashring::{HashRing, RingError, RingReader};
pub use rivven_partition::{
    Changes, Compacted, Effective, Goal, KEYS as SETTING_KEYS, Key as SettingKey, LeaderEpoch, Node,
    NodeStatus, Partition, PartitionEpoch, PartitionError, PartitionMap, Plan, PlanSummary, Rebalance,
    RebalanceStatus, Settings, Spread, Start, Topic, TopicId, TopicName, TopicRef, TopicSpec,
    UncleanElection, ZoneRule,
};
pub use rivven_raft::{
    CompareTarget, Comparison, Consistency, DEFAULT_PRIORITY, Fabric, FeatureLevels, FeatureView,
    FinalizeError, KeyRange, KvCommand, KvCompare, KvEntry, KvEvent, KvLease, KvOp, KvOpResult, KvReadError,
    KvResponse, KvStore, KvTxn, KvUpdate, KvWatchError, LeaseId, Lifetime, MAX_KEY_BYTES, MAX_VALUE_BYTES,
    MemberChange, MemberChanged, MemberError, MemberHold, MemberInfo, MemberOptions, MemberRefusal,
    MemberRole, MemberStanding, MemberStep, MembershipEvent, MembershipEventKind, MembershipPlan,
    MembershipView, Outcome, QuorumState, RaftConfig, RaftNode, RaftStatus, Read, Refusal, Replace, Role,
    SessionId, StateMachine, WatchFrom,
};
pub use rivven_swim::{SwimConfig, SwimNode};
pub use rivven_transport::{TraceContext, identity, join};
pub use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId, PeerAddr};
