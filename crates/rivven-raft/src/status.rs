//! What a node knows of itself and its group.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use openraft::{ServerState, async_runtime::watch::WatchReceiver};
use openraft_rt_tokio::TokioWatchReceiver;
use rivven_types::{NodeId, PeerAddr};

use crate::types::RaftMetrics;

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

/// There was no leader in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {node} saw no leader within {waited:?}; a quorum of voters must run and reach each other")]
#[non_exhaustive]
pub struct NoLeader {
    /// The node that waited.
    pub node: NodeId,
    /// How long.
    pub waited: Duration,
}

impl NoLeader {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "no-leader"
    }
}

/// Follows a node's status.
///
/// Holds no lock and does not keep the node alive.
pub struct RaftWatch {
    source: Arc<StatusSource>,
    metrics: Metrics,
    last: RaftStatus,
}

impl fmt::Debug for RaftWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RaftWatch").field(&self.last).finish()
    }
}

type Metrics = TokioWatchReceiver<RaftMetrics>;

impl RaftWatch {
    pub(crate) fn new(source: Arc<StatusSource>) -> Self {
        let metrics = source.metrics.clone();
        let last = source.status();
        Self {
            source,
            metrics,
            last,
        }
    }

    /// The next status that differs from the one seen last; changes in between are left out.
    ///
    /// A node that has stopped says so once, and then nothing more: the future stays pending.
    ///
    /// Cancel safety: a dropped future loses nothing.
    pub async fn changed(&mut self) -> RaftStatus {
        loop {
            let status = self.source.status();
            if status != self.last {
                self.last = status.clone();
                return status;
            }
            if self.metrics.changed().await.is_err() {
                // The core has ended.
                self.source.stop("the node was ended".into());
                if self.last.role == Role::Stopped {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Where status comes from: the core's metrics, and the reason for the end.
pub(crate) struct StatusSource {
    metrics: Metrics,
    /// The leader, announced only when it changes.
    leader: tokio::sync::watch::Sender<Option<NodeId>>,
    stopped: OnceLock<String>,
}

impl StatusSource {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            leader: tokio::sync::watch::Sender::new(None),
            stopped: OnceLock::new(),
        }
    }

    pub(crate) fn set_leader(&self, leader: Option<NodeId>) {
        self.leader.send_replace(leader);
    }

    /// Waits until this node follows another leader than `leader`.
    pub(crate) async fn superseded(&self, leader: NodeId) {
        let mut watch = self.leader.subscribe();
        // The sender lives as long as this borrow.
        let _ = watch.wait_for(|now| now.is_some_and(|now| now != leader)).await;
    }

    /// The reason given by whoever ended the node.
    pub(crate) fn stop_reason_given(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// Keeps the first reason given.
    pub(crate) fn stop(&self, reason: String) {
        let _ = self.stopped.set(reason);
        // Wakes who waits for the end; there is no leader to follow any more.
        self.leader.send_replace(None);
    }

    /// Waits until the node has stopped.
    pub(crate) async fn until_stopped(&self) {
        let mut watch = self.leader.subscribe();
        while self.stop_reason().is_none() {
            // The sender lives as long as this borrow.
            let _ = watch.changed().await;
        }
    }

    /// Why the node no longer runs, if so.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        let fatal = || {
            let metrics = self.metrics.borrow_watched();
            metrics.running_state.as_ref().err().map(ToString::to_string)
        };
        self.stopped.get().cloned().or_else(fatal)
    }

    /// The leader, or why the node no longer runs. Cheaper than the whole status.
    pub(crate) fn leader(&self) -> Result<Option<NodeId>, String> {
        if let Some(reason) = self.stopped.get() {
            return Err(reason.clone());
        }
        let metrics = self.metrics.borrow_watched();
        match &metrics.running_state {
            Ok(()) => Ok(metrics.current_leader),
            Err(fatal) => Err(fatal.to_string()),
        }
    }

    /// Where members are, as the membership says.
    pub(crate) fn addresses(&self) -> BTreeMap<NodeId, PeerAddr> {
        let metrics = self.metrics.borrow_watched();
        let nodes = metrics.membership_config.nodes();
        nodes.map(|(node, addr)| (*node, addr.clone())).collect()
    }

    pub(crate) fn status(&self) -> RaftStatus {
        let stopped = self.stop_reason();
        let metrics = self.metrics.borrow_watched();
        let role = match metrics.state {
            _ if stopped.is_some() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let membership = &metrics.membership_config;
        let leader = if stopped.is_some() {
            None
        } else {
            metrics.current_leader
        };
        RaftStatus {
            node_id: metrics.id,
            role,
            term: metrics.current_term,
            leader,
            commit_index: metrics.local_committed.map(|id| id.index),
            applied_index: metrics.last_applied.map(|id| id.index),
            last_log_index: metrics.last_log_index,
            snapshot_index: metrics.snapshot.map(|id| id.index),
            voters: membership.voter_ids().collect(),
            learners: membership.membership().learner_ids().collect(),
            initialized: membership.membership().nodes().next().is_some(),
            stopped,
        }
    }
}
