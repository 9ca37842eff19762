//! Following a node's status.

use std::{
    fmt,
    future::pending,
    sync::{Arc, Weak},
    time::Duration,
};

use rivven_raft::{RaftNode, RaftWatch};
use tokio::{sync::watch, time::sleep};

use crate::{
    ClusterStatus, Phase,
    inner::{Inner, Stage},
};

/// How often a watch looks for what does not announce itself: problems, and the founding.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Follows [`Cluster::status`](crate::Cluster::status): first as it is, then whenever it has changed.
///
/// Nothing is buffered for it: a slow reader gets the latest status, and what came and went between is left out.
/// It holds no lock and does not keep the node alive.
pub struct ClusterWatch {
    inner: Weak<Inner>,
    stage: watch::Receiver<Stage>,
    raft: Option<RaftWatch>,
    last: Option<ClusterStatus>,
}

impl fmt::Debug for ClusterWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterWatch").field(&self.last).finish()
    }
}

impl ClusterWatch {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            stage: inner.stage.subscribe(),
            raft: None,
            last: None,
        }
    }

    /// The status as it is at the first call, then the next that differs from the one seen last. None once the
    /// node has stopped, which is said before.
    ///
    /// Cancel safety: a dropped future loses nothing.
    pub async fn next(&mut self) -> Option<ClusterStatus> {
        loop {
            let inner = self.inner.upgrade()?;
            let status = inner.status();
            if self.last.as_ref() != Some(&status) {
                self.last = Some(status.clone());
                return Some(status);
            }
            if status.phase == Phase::Stopped {
                return None;
            }
            if self.raft.is_none() {
                self.raft = inner.raft.get().map(RaftNode::watch);
            }
            drop(inner);
            let raft = &mut self.raft;
            let raft_changed = async {
                match raft {
                    Some(raft) => drop(raft.changed().await),
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender goes with the node, which the next turn finds out.
                _ = self.stage.changed() => {}
                () = raft_changed => {}
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}
