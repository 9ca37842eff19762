//! Nodes as every member knows them.

use std::collections::BTreeMap;

use rivven_types::{BootEpoch, InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

/// Where a node can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddrs {
    /// Calls and bulk streams.
    pub quic: PeerAddr,
    /// Gossip datagrams.
    pub gossip: PeerAddr,
    /// The admin API, if the node serves it to others.
    pub admin: Option<PeerAddr>,
}

/// What a node says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Number of the node.
    pub node: NodeId,
    /// Its data directory.
    pub instance: InstanceId,
    /// Which start of that directory this is, at most [`MAX_BOOT_EPOCH`](crate::MAX_BOOT_EPOCH).
    pub boot_epoch: BootEpoch,
    /// Where to reach it.
    pub addrs: NodeAddrs,
    /// What it fails together with (rack, availability zone), if known.
    pub zone: Option<String>,
    /// How much it takes of partitions and leaderships, in percent of a normal node: from 0 to
    /// [`MAX_WEIGHT`](crate::MAX_WEIGHT), normally [`NORMAL_WEIGHT`](crate::NORMAL_WEIGHT).
    pub weight: u16,
    /// Addresses of the application by name, at most [`MAX_ENDPOINTS`](crate::MAX_ENDPOINTS).
    pub endpoints: BTreeMap<String, PeerAddr>,
}

impl Registration {
    /// One process: this start of this data directory of this node.
    #[must_use]
    pub const fn start(&self) -> Start {
        Start {
            node: self.node,
            instance: self.instance,
            boot_epoch: self.boot_epoch,
        }
    }
}

/// One process: a start of a data directory of a node.
///
/// Who decides about a node or speaks for it names the start that is meant, so that nothing said of one
/// process is ever believed of another, least of all of one with an empty disk under an old number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Start {
    /// Number of the node.
    pub node: NodeId,
    /// Its data directory.
    pub instance: InstanceId,
    /// Which start of that directory.
    pub boot_epoch: BootEpoch,
}

/// What the cluster has decided about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeStatus {
    /// Registered, and not yet seen alive by the controller.
    Joining,
    /// May hold and lead partitions.
    Active,
    /// About to stop: leads nothing that another in-sync replica can lead, and keeps its replicas. Ends when
    /// the node starts anew, because the mark belongs to one boot epoch. A node that is to be emptied for
    /// good is given the weight 0.
    Draining,
    /// Found dead or gone: leads nothing, gets no new replicas, and loses those it has after a hold.
    Down,
    /// Taken out for good. Its number is free only for another instance.
    Removed,
}

impl NodeStatus {
    /// The status in lower case, for people and programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Removed => "removed",
        }
    }
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it said of itself at its last start.
    pub registration: Registration,
    /// What was decided about it.
    pub status: NodeStatus,
    /// When it entered that status, in milliseconds of the controller's wall clock; 0 at registration.
    pub since_ms: u64,
    /// The weight that an operator has set in place of the registered one.
    pub weight_override: Option<u16>,
    /// When it was last found down, in milliseconds of the controller's wall clock; 0 if never.
    pub last_down_ms: u64,
    /// How often it has been found down again within [`FLAP_MEMORY_MS`](crate::FLAP_MEMORY_MS) of the time
    /// before, at most [`MAX_FLAPS`](crate::MAX_FLAPS).
    pub flaps: u32,
    /// Data directories that this number had before, oldest first.
    pub former: Vec<InstanceId>,
}

impl Node {
    pub(crate) const fn new(registration: Registration) -> Self {
        Self {
            registration,
            status: NodeStatus::Joining,
            since_ms: 0,
            weight_override: None,
            last_down_ms: 0,
            flaps: 0,
            former: Vec::new(),
        }
    }

    /// Number of the node.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.registration.node
    }

    /// The zone; nodes without one count as one zone, because nothing says that they fail apart.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.registration.zone.as_deref()
    }

    /// The weight in force, in percent of a normal node. A node of weight 0 takes nothing and is emptied.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.weight_override.unwrap_or(self.registration.weight)
    }

    /// Whether it may be given partitions at all: neither on its way out nor emptied.
    pub(crate) fn takes_replicas(&self) -> bool {
        matches!(self.status, NodeStatus::Joining | NodeStatus::Active) && self.weight() > 0
    }
}
