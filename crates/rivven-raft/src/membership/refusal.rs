//! Why a change of the membership is refused.

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use super::QuorumState;
use crate::Refusal;

/// Why a change of the membership is refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemberRefusal {
    /// No member has the id.
    #[error("node {node} is not a member; `rivven-node member list` shows who is")]
    UnknownMember {
        /// The id asked for.
        node: NodeId,
    },
    /// The node to be added is a member.
    #[error("node {node} is a member already")]
    AlreadyMember {
        /// The node.
        node: NodeId,
    },
    /// The member is leaving. Let it leave, then add it again.
    #[error("node {node} is leaving; add it again once it has left")]
    Leaving {
        /// The member.
        node: NodeId,
    },
    /// The member to be replaced answers with the data directory that it is bound to. Stop it first, or force.
    #[error(
        "node {node} lives and has its data directory; stop it first, or force if what answers must be shut out"
    )]
    Lives {
        /// The member.
        node: NodeId,
    },
    /// Members of the group keep nothing on disks, so there is none to be replaced.
    #[error("node {node} keeps nothing on a disk, so there is none to replace; start it again")]
    NotBound {
        /// The member.
        node: NodeId,
    },
    /// The leader itself cannot be replaced. Transfer leadership first.
    #[error("node {node} leads, so its data directory is not lost; transfer leadership first")]
    Leads {
        /// The leader.
        node: NodeId,
    },
    /// Too few voters live for anything to be agreed on. Start more of them.
    #[error("{} of {} voters live and {} must agree; start more of them", quorum.live, quorum.voters, quorum.needed)]
    NoQuorum {
        /// The voters.
        quorum: QuorumState,
    },
    /// Without the node the voters that live would be too few. Cannot be forced: the change itself needs them.
    #[error(
        "without node {node} only {} of {} voters live and {} must agree; start the others first, or add a node",
        after.live, after.voters, after.needed
    )]
    LosesQuorum {
        /// The voter.
        node: NodeId,
        /// The voters with it.
        before: QuorumState,
        /// The voters without it.
        after: QuorumState,
    },
    /// Without the node the next failure would stop the cluster. Add a node first, or force.
    #[error(
        "without node {node} no failure is survived any more ({} of {} voters live, {} must agree); add a node \
         first, or force it with a reason",
        after.live, after.voters, after.needed
    )]
    LosesSpare {
        /// The voter.
        node: NodeId,
        /// The voters with it.
        before: QuorumState,
        /// The voters without it.
        after: QuorumState,
    },
    /// The node is the only voter. Add another one first.
    #[error("node {node} is the only voter; add another one first")]
    LastVoter {
        /// The voter.
        node: NodeId,
    },
    /// The node leads, and nobody could take over.
    #[error("node {node} leads, and no other node can take over; start or add one first")]
    NoSuccessor {
        /// The leader.
        node: NodeId,
    },
    /// The records refuse it.
    #[error("{0}")]
    Refused(Refusal),
}

impl MemberRefusal {
    /// Stable code in kebab case, listed in `docs/errors.md`. That of a refusal is in the [`Refusal`].
    #[must_use]
    pub const fn code(&self) -> &str {
        match self {
            Self::UnknownMember { .. } => "unknown-member",
            Self::AlreadyMember { .. } => "already-member",
            Self::Leaving { .. } => "member-leaving",
            Self::Lives { .. } => "member-lives",
            Self::NotBound { .. } => "member-not-bound",
            Self::Leads { .. } => "member-leads",
            Self::NoQuorum { .. } => "no-quorum",
            Self::LosesQuorum { .. } => "loses-quorum",
            Self::LosesSpare { .. } => "loses-tolerance",
            Self::LastVoter { .. } => "last-voter",
            Self::NoSuccessor { .. } => "no-successor",
            Self::Refused(refusal) => refusal.code.as_str(),
        }
    }

    /// Whether the change is carried out all the same when it is forced.
    #[must_use]
    pub const fn can_force(&self) -> bool {
        matches!(self, Self::LosesSpare { .. } | Self::Lives { .. })
    }
}
