//! Nodes, topics and partitions as every member knows them.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use rivven_types::{BootEpoch, InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use crate::{MAX_TOPIC_NAME_LEN, PartitionError};

/// Number of a topic, never used twice: a topic created again under its old name gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub u64);

/// Counts the changes of a partition's leader, to none included.
///
/// The fencing token of leadership: whoever acts for a partition shows it, and lower ones are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaderEpoch(pub u64);

/// Counts all changes of a partition: of its leader and of its in-sync replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionEpoch(pub u64);

impl LeaderEpoch {
    /// The epoch of the first leader.
    pub const FIRST: Self = Self(1);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl PartitionEpoch {
    /// The epoch of a new partition.
    pub const FIRST: Self = Self(1);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

macro_rules! display_number {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

display_number!(TopicId LeaderEpoch PartitionEpoch);

/// Name of a topic: 1 to 249 characters of `a-z A-Z 0-9 . _ -`, but neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`PartitionError::InvalidTopicName`].
    pub fn new(name: &str) -> Result<Self, PartitionError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let valid = (1..=MAX_TOPIC_NAME_LEN).contains(&name.len()) && name.bytes().all(plain);
        if !valid || matches!(name, "." | "..") {
            return Err(PartitionError::InvalidTopicName);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TopicName {
    type Error = PartitionError;

    fn try_from(name: String) -> Result<Self, PartitionError> {
        Self::new(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.as_str().into()
    }
}

impl Deref for TopicName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

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
    /// Which start of that directory this is.
    pub boot_epoch: BootEpoch,
    /// Where to reach it.
    pub addrs: NodeAddrs,
    /// What it fails together with (rack, availability zone), if known.
    pub zone: Option<String>,
}

/// What the cluster has decided about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeStatus {
    /// May hold and lead partitions.
    Active,
    /// About to leave: leads nothing that another in-sync replica can lead. Ends when the node starts
    /// anew, because the mark belongs to one boot epoch.
    Draining,
    /// Found dead or gone: leads nothing, gets no new replicas.
    Down,
    /// Taken out for good. Its number is free only for another instance.
    Removed,
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
}

impl Node {
    /// The zone; nodes without one count as one zone, because nothing says that they fail apart.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.registration.zone.as_deref()
    }
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Number of the topic.
    pub id: TopicId,
    /// Name of the topic.
    pub name: TopicName,
    /// Replicas that a partition shall have; it may have fewer if that was allowed at creation.
    pub replication_factor: u16,
    /// Log index of the entry that created it.
    pub created: u64,
    /// The partitions; the index is the number.
    pub partitions: Vec<Partition>,
}

/// Who holds a partition and who leads it.
///
/// Invariants: `replicas` are distinct and not empty; `in_sync` is a part of them in the same order and not
/// empty; `leader` is one of `in_sync`; both epochs only grow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The nodes that hold it, by preference: the first leads when all is well.
    pub replicas: Vec<NodeId>,
    /// The replicas that have everything acknowledged. Keeps its last members when all are lost, since
    /// only they may lead again.
    pub in_sync: Vec<NodeId>,
    /// Who leads, if anybody that may is alive.
    pub leader: Option<NodeId>,
    /// Grows with every change of `leader`.
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change.
    pub partition_epoch: PartitionEpoch,
}

impl Partition {
    /// A new partition, all of whose replicas are in sync because all are empty.
    pub(crate) fn new(replicas: Vec<NodeId>) -> Self {
        Self {
            in_sync: replicas.clone(),
            leader: replicas.first().copied(),
            replicas,
            leader_epoch: LeaderEpoch::FIRST,
            partition_epoch: PartitionEpoch::FIRST,
        }
    }
}
