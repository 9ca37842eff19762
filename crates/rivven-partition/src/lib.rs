//! The replicated map of topics and partitions, and the pure decisions about it.
//!
//! [`PartitionState`] is what every member holds alike: it changes only by [`PartitionCommand`]s from the
//! replicated log. [`place`] and [`reconcile`] decide which commands to propose; they are functions of
//! the state and of who is alive, and do no I/O. [`PartitionMap`] is the reader's view.
//!
//! ```
//! use std::collections::BTreeMap;
//! use rivven_partition::{
//!     Liveness, NORMAL_WEIGHT, NodeAddrs, PartitionCommand, PartitionState, Registration, TopicSpec, place,
//!     reconcile,
//! };
//! use rivven_types::{BootEpoch, InstanceId};
//!
//! let mut state = PartitionState::default();
//! for node in 1..=3 {
//!     let addrs = NodeAddrs { quic: "host:9093".parse()?, gossip: "host:7946".parse()?, admin: None };
//!     let instance = InstanceId::from_random([node as u8; 16]);
//!     let registration = Registration {
//!         node,
//!         instance,
//!         boot_epoch: BootEpoch(1),
//!         addrs,
//!         zone: None,
//!         weight: NORMAL_WEIGHT,
//!         endpoints: BTreeMap::new(),
//!     };
//!     state.apply(node, PartitionCommand::RegisterNode(registration))?;
//! }
//! let mut members = BTreeMap::from([(1, Liveness::Alive), (2, Liveness::Alive), (3, Liveness::Alive)]);
//! let command = place(&state, &members, "orders", &TopicSpec::new(12).replication_factor(3))?;
//! state.apply(4, command)?;
//! let (leader, epoch) = state.map().leader("orders", 0).ok_or("no leader")?;
//!
//! // The leader dies: another replica takes over, under a higher epoch.
//! members.insert(leader, Liveness::Dead);
//! for command in reconcile(&state, &members, 0) {
//!     state.apply(5, command)?;
//! }
//! let (successor, later) = state.map().leader("orders", 0).ok_or("no leader")?;
//! assert!(successor != leader && later > epoch);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cell;
mod command;
mod error;
mod fill;
mod history;
mod ids;
mod limits;
mod map;
mod node;
mod nodes;
mod partition;
mod place;
mod plan;
mod reconcile;
mod settings;
mod state;
#[cfg(test)]
mod testing;
mod topic;

pub use cell::MovePhase;
pub use command::{
    Applied, InSyncReport, PartitionChange, PartitionCommand, PartitionResponse, PlannedMove, Rebalance,
    RebalanceCommand, RebalanceStatus, Step, UncleanElection,
};
pub use error::{PartitionError, Rule};
pub use history::{Changes, Compacted};
pub use ids::{LeaderEpoch, PartitionEpoch, TopicId, TopicName};
pub use limits::*;
pub use map::{PartitionMap, TopicRef};
pub use node::{Node, NodeAddrs, NodeStatus, Registration, Start};
pub use partition::Partition;
pub use place::{TopicSpec, grow, place};
pub use plan::{Goal, Plan, PlanSummary, Spread, plan};
pub use reconcile::{InSyncRule, Liveness, Policy, Reconciler, reconcile};
pub use settings::{Effective, KEYS, Key, Scope, SettingError, Settings, ZoneRule};
pub use state::PartitionState;
pub use topic::Topic;
