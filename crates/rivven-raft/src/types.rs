//! The consensus core's types, filled in: ids, entries, votes, memberships.

use std::fmt;

use bytes::Bytes;
use openraft::{impls::leader_id_std, vote::RaftVote};
use rivven_types::{InstanceId, NodeId, PeerAddr};

use crate::runtime::NodeRuntime;

openraft::declare_raft_types!(
    /// One group: commands and responses are opaque bytes, so that the core is compiled once for every state
    /// machine, and the log can be read without knowing it.
    ///
    /// At most one leader per term, as in the paper (Raft, section 5.2): terms serve as fencing tokens.
    pub(crate) TypeConfig:
        D = LogCommand,
        R = LogReply,
        NodeId = NodeId,
        Node = Seat,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = NodeRuntime,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type LogEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<NodeId, Seat>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot<D> = openraft::type_config::alias::SnapshotOf<TypeConfig, D>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<TypeConfig>;
pub(crate) type RaftServerMetrics = openraft::metrics::RaftServerMetrics<TypeConfig>;

/// What the membership says of a member: where it was when it was added, and which disk it is.
///
/// The data directory stands in the membership itself, so that a candidate or leader knows whose answers
/// count from the very entry that makes a node a member, applied or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) addr: PeerAddr,
    pub(crate) instance: Option<InstanceId>,
}

impl Seat {
    /// A place whose data directory is not known.
    pub(crate) const fn unbound(addr: PeerAddr) -> Self {
        Self { addr, instance: None }
    }
}

/// Namespace of commands to the system state that wraps every state machine.
pub(crate) const NAMESPACE_SYSTEM: u16 = 0;

/// Namespace of commands to the application's state machine.
pub(crate) const NAMESPACE_APPLICATION: u16 = 1;

/// Namespace of commands to the application's state machine in a session, whose tag stands before them.
pub(crate) const NAMESPACE_SESSION: u16 = 2;

/// A command in the log: whose it is, and its bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LogCommand {
    pub(crate) namespace: u16,
    pub(crate) body: Bytes,
}

impl fmt::Display for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes for namespace {}", self.body.len(), self.namespace)
    }
}

impl fmt::Debug for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values stay out of logs.
        fmt::Display::fmt(self, f)
    }
}

/// The encoded reply to a command; empty for entries that are not commands.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogReply(pub(crate) Bytes);

/// A log id from its parts.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// Term of a log id.
pub(crate) fn term_of(id: &LogId) -> u64 {
    **id.committed_leader_id()
}

/// A vote from its parts.
pub(crate) fn vote(term: u64, node: NodeId, committed: bool) -> Vote {
    let leader_id = leader_id_std::LeaderId {
        term,
        voted_for: node,
    };
    Vote::from_leader_id(leader_id, committed)
}
