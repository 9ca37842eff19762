//! What nodes say to each other about the membership.

use std::collections::BTreeSet;

use rivven_transport::{Class, Method};
use rivven_types::{InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use super::{MemberChange, MemberHold, MemberRefusal, MemberRole, MemberStep, MembershipPlan, QuorumState};

/// Most bytes of an answer: a view of the most members with the longest names of hosts and zones.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Most bytes of a question.
const MAX_ASK_BYTES: usize = 4 << 10;

/// Asks the leader about the membership, or for a change of it.
#[derive(Debug)]
pub(crate) struct AskMembership;

impl Method for AskMembership {
    const ID: u16 = 0x0130;
    const NAME: &'static str = "raft.membership";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = MAX_ASK_BYTES;
    const MAX_RESPONSE: usize = MAX_ANSWER_BYTES;
    type Request = WireAsk;
    type Response = WireAnswer;
}

/// Tells a node that it is no member any more. Believed of the leader that it follows.
#[derive(Debug)]
pub(crate) struct RemovedNotice;

impl Method for RemovedNotice {
    const ID: u16 = 0x0131;
    const NAME: &'static str = "raft.removed";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 0;
    const MAX_RESPONSE: usize = 0;
    type Request = ();
    type Response = ();
}

/// A node says who it is: to join, or as the member that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    pub instance: InstanceId,
    /// Where members reach it.
    pub addr: PeerAddr,
    /// Its zone; empty if it is in none.
    pub zone: String,
    /// What it may become.
    pub role: MemberRole,
    /// How much it should lead.
    pub priority: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireAsk {
    View,
    Plan {
        change: Option<MemberChange>,
        force: Option<String>,
    },
    Change {
        change: MemberChange,
        force: Option<String>,
    },
    Join(JoinRequest),
    /// As `Join`, by way of a member that has made sure of who asks.
    ForwardedJoin(JoinRequest),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireAnswer {
    View(Box<MembershipView>),
    Plan(Box<MembershipPlan>),
    /// The node is known, with this data directory.
    Joined,
    Refused(MemberRefusal),
    /// Nothing was done.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// Nothing was done: the leader is new and does not know everything yet.
    NotSettled,
    /// The change may or may not be written down.
    Unknown {
        cause: String,
    },
}

/// What a member is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemberStanding {
    /// It leads.
    Leader,
    /// It votes.
    Voter,
    /// It receives the log without voting.
    Learner,
    /// It may join and has not yet.
    Awaited,
}

impl MemberStanding {
    /// Name as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Awaited => "awaited",
        }
    }
}

/// A member, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberInfo {
    /// The node.
    pub node: NodeId,
    /// What it is at present.
    pub standing: MemberStanding,
    /// What it may become.
    pub role: MemberRole,
    /// Its zone; empty if it is in none.
    pub zone: String,
    /// Where it was when it joined.
    pub addr: Option<PeerAddr>,
    /// The data directory that it is bound to, if it is.
    pub instance: Option<InstanceId>,
    /// Whether it answers, with that directory.
    pub lives: bool,
    /// Milliseconds since its last answer. Of a member that never answered this leader: since it leads.
    pub silent_ms: u64,
    /// Entries of the log that it lacks; `None` if that is not known.
    pub lag: Option<u64>,
    /// Whether it is to leave for good.
    pub leaving: bool,
    /// How much it should lead.
    pub priority: u16,
}

/// The membership, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MembershipView {
    /// Who leads.
    pub leader: NodeId,
    /// In which term.
    pub term: u64,
    /// Index of the newest membership in the log.
    pub index: u64,
    /// The members, and those that may join, by id.
    pub members: Vec<MemberInfo>,
    /// Node ids that were removed and may not come back.
    pub removed: BTreeSet<NodeId>,
    /// What the voters survive.
    pub quorum: QuorumState,
    /// What the leader does next, if anything.
    pub next: Option<MemberStep>,
    /// What it waits for.
    pub holds: Vec<MemberHold>,
    /// The last changes, oldest first, at most [`MAX_MEMBERSHIP_EVENTS`](crate::MAX_MEMBERSHIP_EVENTS).
    pub events: Vec<super::MembershipEvent>,
}
