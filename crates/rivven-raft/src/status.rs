//! What a node knows of itself and its group.

use std::collections::BTreeSet;

use rivven_types::NodeId;

/// What a node does in its group (Raft, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes proposals and replicates them.
    Leader,
    /// Follows a leader and votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Receives the log and does not vote; also a node that is not initialised.
    Learner,
    /// Has stopped: shut down, or failed for the reason in [`RaftStatus::stopped`].
    Stopped,
}

impl Role {
    /// Name as in the status JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        }
    }
}

/// A node's view at one moment. Views of different nodes differ for a while after every change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct RaftStatus {
    /// This node.
    pub node_id: NodeId,
    /// What it does.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader it follows, itself included.
    pub leader: Option<NodeId>,
    /// Last index known to be committed.
    pub commit_index: Option<u64>,
    /// Last index applied to the state machine.
    pub applied_index: Option<u64>,
    /// Last index in the log.
    pub last_log_index: Option<u64>,
    /// Last index covered by a snapshot.
    pub snapshot_index: Option<u64>,
    /// Who votes, in the newest membership in the log.
    pub voters: BTreeSet<NodeId>,
    /// Who receives the log without voting.
    pub learners: BTreeSet<NodeId>,
    /// Whether the node has ever been a member: it has a membership in its log or snapshot.
    pub initialized: bool,
    /// Why the node has stopped, if it has.
    pub stopped: Option<String>,
}
