//! The consensus core of a node: it ends with the first error of its store, and the node outlives it.

use std::{
    fmt,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use openraft::{Raft, async_runtime::watch::WatchReceiver};
use rivven_raft_store::LogMonitor;
use rivven_transport::TaskGroup;

use crate::{
    StateMachine,
    adapter::{FaultCell, Machine},
    types::TypeConfig,
};

/// How long a core may take to finish what it is doing when it is ended in order.
pub(crate) const END_GRACE: Duration = Duration::from_secs(5);

/// The consensus library's handle.
pub(crate) type RaftHandle<S> = Raft<TypeConfig, Machine<S>>;

/// Why a node has no core to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// Until the cause is gone.
    Suspended(String),
    /// For good.
    Stopped(String),
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended(cause) | Self::Stopped(cause) => f.write_str(cause),
        }
    }
}

/// A running core with everything that ends with it.
pub(crate) struct Core<S: StateMachine> {
    pub(crate) raft: RaftHandle<S>,
    pub(crate) group: TaskGroup,
    /// Tells why the log has stopped; none for one in memory.
    pub(crate) log: Option<LogMonitor<TypeConfig>>,
    /// Tells why the state machine has.
    pub(crate) fault: FaultCell,
}

impl<S: StateMachine> Core<S> {
    /// Ends what is left of it. Then its log is closed, and can be opened again.
    pub(crate) async fn end(self) {
        end_raft(&self.raft).await;
        self.group.abort();
        if !self.group.join(END_GRACE).await {
            tracing::warn!("some tasks of a core did not end in time");
        }
    }

    /// The core's last words.
    pub(crate) fn last_words(&self) -> String {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let fatal = metrics.running_state.as_ref().err();
        fatal.map_or_else(
            || "the consensus core ended without a word".to_owned(),
            ToString::to_string,
        )
    }
}

/// Lets a core finish what it is doing, but not for long.
pub(crate) async fn end_raft<S: StateMachine>(raft: &RaftHandle<S>) {
    if tokio::time::timeout(END_GRACE, raft.shutdown()).await.is_err() {
        tracing::warn!("the core did not stop in time");
    }
}

/// Where a node keeps its core, if it has one.
pub(crate) struct CoreSlot<S: StateMachine>(RwLock<Option<RaftHandle<S>>>);

impl<S: StateMachine> CoreSlot<S> {
    pub(crate) const fn new(raft: RaftHandle<S>) -> Self {
        Self(RwLock::new(Some(raft)))
    }

    pub(crate) fn get(&self) -> Option<RaftHandle<S>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, raft: Option<RaftHandle<S>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = raft;
    }
}
