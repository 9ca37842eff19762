//! Steps and waits in words, and the short names by which programs tell them apart.

use std::fmt;

use rivven_types::NodeId;

use super::{MemberHold, MemberStep, QuorumState};

impl MemberStep {
    /// Stable name in kebab case, as in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::FinishChange => "finish-change",
            Self::Bind { .. } => "bind",
            Self::AddLearner { .. } => "add-learner",
            Self::Promote { .. } => "promote",
            Self::Demote { .. } => "demote",
            Self::Exchange { .. } => "exchange",
            Self::HandOver { .. } => "hand-over",
            Self::RemoveLearner { .. } => "remove-learner",
            Self::Forget { .. } => "forget",
        }
    }

    /// The nodes it is about: in an exchange first the one that gets the vote.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        match *self {
            Self::FinishChange => Vec::new(),
            Self::Bind { node }
            | Self::AddLearner { node }
            | Self::Promote { node }
            | Self::Demote { node }
            | Self::RemoveLearner { node }
            | Self::Forget { node }
            | Self::HandOver { to: node } => vec![node],
            Self::Exchange { promote, demote } => vec![promote, demote],
        }
    }
}

impl fmt::Display for MemberStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FinishChange => write!(f, "end the change of voters that an earlier leader began"),
            Self::Bind { node } => write!(f, "bind node {node} to the data directory that it has"),
            Self::AddLearner { node } => write!(f, "send the log to node {node}"),
            Self::Promote { node } => write!(f, "node {node} votes, once it has caught up"),
            Self::Demote { node } => write!(f, "node {node} votes no more"),
            Self::Exchange { promote, demote } => write!(f, "node {promote} votes in place of node {demote}"),
            Self::HandOver { to } => write!(f, "node {to} leads"),
            Self::RemoveLearner { node } => write!(f, "node {node} receives the log no more"),
            Self::Forget { node } => write!(f, "node {node} is shut out for good"),
        }
    }
}

impl MemberHold {
    /// Stable name in kebab case, as in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoQuorum { .. } => "no-quorum",
            Self::Awaited { .. } => "awaited",
            Self::CatchingUp { .. } => "catching-up",
            Self::Differs { .. } => "instance-differs",
            Self::NoReplacement { .. } => "no-replacement",
            Self::LosesQuorum { .. } => "loses-quorum",
            Self::LosesSpare { .. } => "loses-tolerance",
            Self::LastVoter { .. } => "last-voter",
            Self::NoSuccessor { .. } => "no-successor",
        }
    }
}

impl fmt::Display for MemberHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQuorum { quorum } => write!(f, "too few voters live: {quorum}"),
            Self::Awaited { node } => write!(
                f,
                "node {node} may join; start it with an empty data directory and its certificate"
            ),
            Self::CatchingUp { node, lag: Some(lag) } => {
                write!(f, "node {node} lacks {lag} entries of the log")
            }
            Self::CatchingUp { node, lag: None } => write!(f, "node {node} has not begun to receive the log"),
            Self::Differs { node, bound, found } => write!(
                f,
                "node {node} comes with the data directory {found} and is bound to {bound}; if that is lost: \
                 `rivven-node member replace {node}`"
            ),
            Self::NoReplacement { node } => {
                write!(
                    f,
                    "node {node} has been dead for long, and nobody stands by to vote in its place"
                )
            }
            Self::LosesQuorum { node, after, .. } => {
                write!(f, "without node {node} too few voters would live: {after}")
            }
            Self::LosesSpare { node, after, .. } => {
                write!(f, "without node {node} no failure is survived any more: {after}")
            }
            Self::LastVoter { node } => write!(f, "node {node} is the only voter; add another one first"),
            Self::NoSuccessor { node } => write!(f, "node {node} leads, and nobody else can take over"),
        }
    }
}

impl fmt::Display for QuorumState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { voters, live, needed } = self;
        write!(f, "{live} of {voters} voters live, {needed} must agree")
    }
}
