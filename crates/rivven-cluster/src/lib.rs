//! Coordination for distributed systems: leader election, membership, partition assignment.

mod config;

pub use config::{
    AdminSection, ClusterConfig, ConfigError, ConfigErrorKind, GossipSection, MAX_CONFIG_BYTES,
    PartitioningSection, Profile, RaftSection,
};

pub use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId, PeerAddr};
