//! What a node knows of itself and its group.

mod delta;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use openraft::{Instant as _, ServerState, async_runtime::watch::WatchReceiver};
use openraft_rt_tokio::TokioWatchReceiver;
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Instant, sleep};

pub use self::delta::{StatusChange, StatusUpdate};
use crate::{core::Down, membership::MemberRefusal, snapshot_keeper::SnapshotNews, types::RaftMetrics};

/// What a node does in its group (Raft, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes proposals and replicates them.
    Leader,
    /// Follows a leader and votes. Also a leader that lost its quorum, see [`RaftStatus::leader`].
    Follower,
    /// Stands for election.
    Candidate,
    /// Receives the log and does not vote; also a node that is not initialised.
    Learner,
    /// Takes no part for the time being, for the reason in [`RaftStatus::suspended`].
    Suspended,
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
            Self::Suspended => "suspended",
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
    ///
    /// A leader that no quorum has confirmed for as long as the others need to replace it, which is the start of
    /// [`RaftConfig::election_timeout_ms`](crate::RaftConfig::election_timeout_ms), says that there is none: another
    /// node may lead by then. Once a quorum confirms it again, it does again.
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
    /// Why the node takes no part for the time being, and what it waits for: the disk is full. It goes on by
    /// itself once there is room.
    pub suspended: Option<String>,
    /// Why the newest snapshot could not be written, as long as that is so. The log grows meanwhile; the node
    /// tries again by itself.
    pub snapshot_failure: Option<String>,
    /// What is different on this replica from others, if anything is; see [`Digest`](crate::Digest). Compared
    /// every 10 s. A node that a majority of the voters differ from stops; this is the alarm before and without that.
    pub divergence: Option<String>,
    /// Whether the node was removed from the group, and stopped for that.
    pub removed: bool,
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
    life: tokio::sync::watch::Receiver<Life>,
    snapshots: tokio::sync::watch::Receiver<SnapshotNews>,
    last: RaftStatus,
    /// Whether all of it was delivered, so that changes are enough from here on.
    opened: bool,
}

impl fmt::Debug for RaftWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RaftWatch").field(&self.last).finish()
    }
}

pub(crate) type Metrics = TokioWatchReceiver<RaftMetrics>;

impl RaftWatch {
    pub(crate) fn new(source: Arc<StatusSource>) -> Self {
        let life = source.life.subscribe();
        let metrics = source.metrics();
        let last = source.status();
        Self {
            snapshots: source.snapshots.clone(),
            source,
            metrics,
            life,
            last,
            opened: false,
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
            let confirmed_for = self.source.confirmed_for(&self.metrics.borrow_watched());
            // The senders of both end only with their owners, which this borrow and the node keep.
            let core_ended = tokio::select! {
                biased;
                _ = self.life.changed() => true,
                Ok(()) = self.snapshots.changed() => false,
                // A leader that loses its quorum hears nothing.
                () = sleep(confirmed_for.unwrap_or_default()), if confirmed_for > Some(Duration::ZERO) => false,
                changed = self.metrics.changed() => match changed {
                    Ok(()) => false,
                    // What follows is up to whoever supervises it.
                    Err(_) => self.life.changed().await.is_ok(),
                }
            };
            if core_ended {
                self.metrics = self.source.metrics();
            }
        }
    }
}

/// Whether there is a core to ask.
#[derive(Debug, Default)]
struct Life {
    down: Option<Down>,
    divergence: Option<String>,
}

/// Whom this node follows, and since when in the present term.
#[derive(Clone, Copy, Debug)]
struct Leading {
    leader: Option<NodeId>,
    since: Instant,
}

/// Where status comes from: the core's metrics, and why there is no core.
pub(crate) struct StatusSource {
    /// Of the newest core.
    metrics: RwLock<Metrics>,
    /// The leader, announced only when it changes.
    leader: tokio::sync::watch::Sender<Leading>,
    /// How long this node counts as the leader without being confirmed again.
    patience: Duration,
    /// Announced whenever a core begins or ends.
    life: tokio::sync::watch::Sender<Life>,
    snapshots: tokio::sync::watch::Receiver<SnapshotNews>,
    /// Set before the node stops for having been removed from the group.
    removed: OnceLock<()>,
    /// Why the group does not let this node in, as last said.
    refused: tokio::sync::watch::Sender<Option<MemberRefusal>>,
}

impl StatusSource {
    pub(crate) fn new(
        metrics: Metrics,
        snapshots: tokio::sync::watch::Receiver<SnapshotNews>,
        patience: Duration,
    ) -> Self {
        let leading = Leading {
            leader: None,
            since: Instant::now(),
        };
        Self {
            metrics: RwLock::new(metrics),
            leader: tokio::sync::watch::Sender::new(leading),
            patience,
            life: tokio::sync::watch::Sender::default(),
            snapshots,
            removed: OnceLock::new(),
            refused: tokio::sync::watch::Sender::new(None),
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.metrics
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why no snapshot is written at present, though one was due or asked for.
    pub(crate) fn no_snapshot(&self) -> Option<String> {
        self.snapshots.borrow().refusal(Instant::now())
    }

    /// Notes who leads in a new term, or that nobody is known to.
    pub(crate) fn set_leader(&self, leader: Option<NodeId>) {
        self.leader.send_if_modified(|leading| {
            let changed = leading.leader != leader;
            *leading = Leading {
                leader,
                since: Instant::now(),
            };
            changed
        });
    }

    /// For how long this node yet counts as the leader without being confirmed again; `None` if it does not lead, or
    /// has the only vote.
    fn confirmed_for(&self, metrics: &RaftMetrics) -> Option<Duration> {
        let leads = metrics.state == ServerState::Leader;
        let alone = metrics.membership_config.voter_ids().eq([metrics.id]);
        if !leads || alone {
            return None;
        }
        let age = match metrics.last_quorum_acked {
            Some(acked) => acked.elapsed(),
            // The votes that made it the leader confirm it too.
            None => self.leader.borrow().since.elapsed(),
        };
        Some(self.patience.saturating_sub(age))
    }

    /// Waits until this node follows another leader than `leader`.
    pub(crate) async fn superseded(&self, leader: NodeId) {
        let mut watch = self.leader.subscribe();
        // The sender lives as long as this borrow.
        let other = |now: &Leading| now.leader.is_some_and(|now| now != leader);
        let _ = watch.wait_for(other).await;
    }

    /// The node was removed from the group: it has nobody to speak to any more.
    pub(crate) fn remove(&self) {
        if self.stop_reason().is_some() {
            return;
        }
        let _ = self.removed.set(());
        self.stop(
            "this node was removed from the cluster; stop it, or let its id in again with `rivven-node member \
             add` and start it with an empty data directory"
                .into(),
        );
    }

    /// Whether the newest membership that this node knows has `node`.
    pub(crate) fn has_member(&self, node: NodeId) -> bool {
        let metrics = self.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&node).is_some()
    }

    /// Waits until the node has learned that it was removed.
    pub(crate) async fn until_removed(&self) {
        self.until_stopped().await;
        if self.removed.get().is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes whether the group refuses to let this node in.
    pub(crate) fn refuse(&self, refusal: Option<MemberRefusal>) {
        self.refused.send_replace(refusal);
    }

    /// Follows why the group does not let this node in.
    pub(crate) fn refused(&self) -> tokio::sync::watch::Receiver<Option<MemberRefusal>> {
        self.refused.subscribe()
    }

    /// The node has stopped for good. Keeps the first reason given.
    pub(crate) fn stop(&self, reason: String) {
        self.life.send_if_modified(|life| {
            if matches!(life.down, Some(Down::Stopped(_))) {
                return false;
            }
            life.down = Some(Down::Stopped(reason));
            true
        });
        self.set_leader(None);
    }

    /// The node has no core until [`Self::resume`].
    pub(crate) fn suspend(&self, cause: String) {
        self.life.send_if_modified(|life| {
            let stopped = matches!(life.down, Some(Down::Stopped(_)));
            if !stopped {
                life.down = Some(Down::Suspended(cause));
            }
            !stopped
        });
        self.set_leader(None);
    }

    /// Notes what other replicas have differently.
    pub(crate) fn set_divergence(&self, found: Option<String>) {
        self.life.send_if_modified(|life| {
            let changed = life.divergence != found;
            life.divergence = found;
            changed
        });
    }

    /// There is a new core.
    pub(crate) fn resume(&self, metrics: Metrics) {
        *self.metrics.write().unwrap_or_else(PoisonError::into_inner) = metrics;
        self.life.send_if_modified(|life| {
            let stopped = matches!(life.down, Some(Down::Stopped(_)));
            if !stopped {
                life.down = None;
            }
            !stopped
        });
    }

    /// Waits until the node has stopped for good.
    pub(crate) async fn until_stopped(&self) {
        let mut watch = self.life.subscribe();
        // The sender lives as long as this borrow.
        let _ = watch
            .wait_for(|life| matches!(life.down, Some(Down::Stopped(_))))
            .await;
    }

    /// Waits until it is known what becomes of a core that has ended.
    pub(crate) async fn until_down(&self) {
        let mut watch = self.life.subscribe();
        // The sender lives as long as this borrow.
        let _ = watch.wait_for(|life| life.down.is_some()).await;
    }

    /// Why there is no core to ask, if so.
    pub(crate) fn down(&self) -> Option<Down> {
        self.life.borrow().down.clone()
    }

    /// Why the node no longer runs, if so.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        match &self.life.borrow().down {
            Some(Down::Stopped(cause)) => Some(cause.clone()),
            Some(Down::Suspended(_)) | None => None,
        }
    }

    /// The leader to ask, or why there is nobody. Cheaper than the whole status. A leader without a quorum is told
    /// by its core what it may do.
    pub(crate) fn leader(&self) -> Result<Option<NodeId>, Down> {
        if let Some(down) = &self.life.borrow().down {
            return Err(down.clone());
        }
        let metrics = self.metrics.read().unwrap_or_else(PoisonError::into_inner);
        let metrics = metrics.borrow_watched();
        Ok(metrics
            .running_state
            .is_ok()
            .then_some(metrics.current_leader)
            .flatten())
    }

    /// The leader, unless that is this node and no quorum confirms it any more.
    pub(crate) fn confirmed_leader(&self) -> Result<Option<NodeId>, Down> {
        let lost_quorum = self.confirmed_for(&self.metrics().borrow_watched()) == Some(Duration::ZERO);
        Ok(self.leader()?.filter(|_| !lost_quorum))
    }

    /// Where members are, as the membership says.
    pub(crate) fn addresses(&self) -> BTreeMap<NodeId, PeerAddr> {
        let metrics = self.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.nodes();
        nodes.map(|(node, seat)| (*node, seat.addr.clone())).collect()
    }

    pub(crate) fn status(&self) -> RaftStatus {
        let (suspended, stopped) = match self.down() {
            None => (None, None),
            Some(Down::Suspended(cause)) => (Some(cause), None),
            Some(Down::Stopped(cause)) => (None, Some(cause)),
        };
        let metrics = self.metrics();
        let metrics = metrics.borrow_watched();
        let runs = suspended.is_none() && stopped.is_none() && metrics.running_state.is_ok();
        let lost_quorum = self.confirmed_for(&metrics) == Some(Duration::ZERO);
        let role = match metrics.state {
            _ if stopped.is_some() => Role::Stopped,
            _ if !runs => Role::Suspended,
            ServerState::Leader if lost_quorum => Role::Follower,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Suspended,
        };
        let membership = &metrics.membership_config;
        RaftStatus {
            node_id: metrics.id,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| runs && !lost_quorum),
            commit_index: metrics.local_committed.map(|id| id.index),
            applied_index: metrics.last_applied.map(|id| id.index),
            last_log_index: metrics.last_log_index,
            snapshot_index: metrics.snapshot.map(|id| id.index),
            voters: membership.voter_ids().collect(),
            learners: membership.membership().learner_ids().collect(),
            initialized: membership.membership().nodes().next().is_some(),
            removed: self.removed.get().is_some(),
            suspended,
            snapshot_failure: self.snapshots.borrow().failure(),
            divergence: self.life.borrow().divergence.clone(),
            stopped,
        }
    }
}
