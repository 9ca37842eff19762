//! What a node says of itself: phase, status, named checks.

use rivven_raft::{RaftStatus, Role};
use rivven_types::NodeId;
use serde::Serialize;

/// How far a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// The founders look for each other and agree on who they are.
    Founding,
    /// The node asks to join a cluster that runs, or waits for the members to let it have the log.
    Joining,
    /// The cluster is founded; no Raft leader is known to this node yet.
    Electing,
    /// The node takes part.
    Running,
    /// The node is on its way out.
    Stopping,
    /// The node has stopped.
    Stopped,
}

impl Phase {
    /// Name as in the status JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Founding => "founding",
            Self::Joining => "joining",
            Self::Electing => "electing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// Something an operator must mend; the node keeps trying meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    pub code: &'static str,
    /// Cause and remedy.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// A node's view of itself and its cluster at one moment. Views of different nodes differ for a while
/// after every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The cluster, as in every certificate.
    pub cluster_id: String,
    /// This node.
    pub node_id: NodeId,
    /// Its data directory.
    pub instance_id: String,
    /// How often that was started.
    pub boot_epoch: u64,
    /// How far the node is.
    pub phase: Phase,
    /// What an operator must mend.
    pub problems: Vec<Problem>,
    /// The history this node belongs to, once founded.
    pub founding_id: Option<String>,
    /// The Raft leader, which acts as controller, if this node knows one.
    pub controller: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Raft role of this node.
    pub role: Role,
    /// Last log index known to be committed; 0 before the first.
    pub commit_index: u64,
    /// Last log index applied here; 0 before the first.
    pub applied_index: u64,
    /// Last log index here; 0 before the first.
    pub last_log_index: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who receives the log without voting.
    pub learners: Vec<NodeId>,
    /// Log index of the last change of the assignment map.
    pub generation: u64,
    /// Epoch of the key this node seals gossip under; none until it has one.
    pub gossip_key_epoch: Option<u64>,
}

impl ClusterStatus {
    /// Takes over what Raft says.
    pub(crate) fn with_raft(mut self, raft: RaftStatus) -> Self {
        self.controller = raft.leader;
        self.term = raft.term;
        self.role = raft.role;
        self.commit_index = raft.commit_index.unwrap_or(0);
        self.applied_index = raft.applied_index.unwrap_or(0);
        self.last_log_index = raft.last_log_index.unwrap_or(0);
        self.voters = raft.voters.into_iter().collect();
        self.learners = raft.learners.into_iter().collect();
        // A node that was removed has stopped for that alone.
        let (removed, stopped) = if raft.removed {
            (raft.stopped, None)
        } else {
            (None, raft.stopped)
        };
        let problems = [
            ("member-removed", removed),
            ("raft-stopped", stopped),
            ("disk-full", raft.suspended),
            ("snapshot-not-written", raft.snapshot_failure),
            ("replicas-differ", raft.divergence),
        ];
        for (code, cause) in problems {
            self.problems.extend(cause.map(|cause| Problem::new(code, cause)));
        }
        self
    }
}

/// One named health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name in snake case, stable.
    pub name: &'static str,
    /// Whether it passed.
    pub ok: bool,
    /// What was seen, for people.
    pub detail: String,
}

impl Check {
    pub(crate) fn new(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok,
            detail: detail.into(),
        }
    }
}
