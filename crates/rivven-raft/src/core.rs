//! The consensus core of a node: it ends with the first error of its store, and the node outlives it.

use std::{
    fmt,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use openraft::{
    Raft, async_runtime::watch::WatchReceiver, errors::Fatal, type_config::alias::WatchReceiverOf,
};
use rivven_raft_store::LogMonitor;
use rivven_transport::TaskGroup;
use tokio::sync::Semaphore;

use crate::{
    StateMachine,
    adapter::{FaultCell, Machine},
    runtime::NodeScope,
    types::{RaftMetrics, RaftServerMetrics, TypeConfig},
};

/// How long a core may take to finish what it is doing when it is ended in order.
pub(crate) const END_GRACE: Duration = Duration::from_secs(5);

/// Calls that are under way in a core at a time. Those that somebody waits for are bounded by their callers, and far
/// fewer; the rest is for calls whose callers gave up while the core stood still, on a stalled disk. Beyond it callers
/// wait, as long as they care to.
const MAX_CALLS: usize = 1 << 18;

/// The consensus library's handle.
pub(crate) type RaftHandle<S> = Raft<TypeConfig, Machine<S>>;

/// A core, for those who call it. Clones are the same core.
pub(crate) struct CoreHandle<S: StateMachine> {
    raft: RaftHandle<S>,
    scope: NodeScope,
    calls: Arc<Semaphore>,
}

impl<S: StateMachine> Clone for CoreHandle<S> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            scope: self.scope.clone(),
            calls: Arc::clone(&self.calls),
        }
    }
}

impl<S: StateMachine> CoreHandle<S> {
    /// A core whose calls run in `scope`, that of the node: it outlives every core.
    pub(crate) fn new(raft: RaftHandle<S>, scope: NodeScope) -> Self {
        let calls = Arc::new(Semaphore::new(MAX_CALLS));
        Self { raft, scope, calls }
    }

    /// Calls into the core, in a task of the node. Dropped, this only stops to listen: the call goes on to its end.
    ///
    /// Whoever first calls a core that has ended waits for its last task on behalf of all who call it after. Dropped
    /// in that wait, it would leave nobody to end it, and the library panics in each of the others
    /// (`RaftInner::join_core_task`).
    pub(crate) async fn call<T, E, F>(&self, call: impl FnOnce(RaftHandle<S>) -> F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Fatal<TypeConfig>> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        // Never closed: without a place there is only one call more.
        let place = Arc::clone(&self.calls).acquire_owned().await;
        let (scope, call) = (self.scope.clone(), call(self.raft.clone()));
        let called = self.scope.group().spawn(async move {
            let _place = place;
            scope.run(call).await
        });
        match called.await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Fatal::Stopped.into()),
            Err(_panic) => Err(Fatal::Panicked.into()),
        }
    }

    /// Follows what the core says of itself.
    pub(crate) fn metrics(&self) -> WatchReceiverOf<TypeConfig, RaftMetrics> {
        self.raft.metrics()
    }

    /// Follows what changes with the leader and the members only.
    pub(crate) fn server_metrics(&self) -> WatchReceiverOf<TypeConfig, RaftServerMetrics> {
        self.raft.server_metrics()
    }

    /// Whether the core stands for election by itself when it hears of no leader.
    pub(crate) fn let_stand(&self, stand: bool) {
        self.raft.runtime_config().elect(stand);
    }

    /// Lets the core finish what it is doing, but not for long.
    pub(crate) async fn end(&self) {
        let ended = self.call(|raft| async move {
            let _joined = raft.shutdown().await;
            Ok::<(), Fatal<TypeConfig>>(())
        });
        if tokio::time::timeout(END_GRACE, ended).await.is_err() {
            tracing::warn!("the core did not stop in time");
        }
    }
}

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
    pub(crate) raft: CoreHandle<S>,
    pub(crate) group: TaskGroup,
    /// Tells why the log has stopped; none for one in memory.
    pub(crate) log: Option<LogMonitor<TypeConfig>>,
    /// Tells why the state machine has.
    pub(crate) fault: FaultCell,
}

impl<S: StateMachine> Core<S> {
    /// Ends what is left of it. Then its log is closed, and can be opened again.
    pub(crate) async fn end(self) {
        self.raft.end().await;
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

/// Where a node keeps its core, if it has one.
pub(crate) struct CoreSlot<S: StateMachine>(RwLock<Option<CoreHandle<S>>>);

impl<S: StateMachine> CoreSlot<S> {
    pub(crate) const fn new(raft: CoreHandle<S>) -> Self {
        Self(RwLock::new(Some(raft)))
    }

    pub(crate) fn get(&self) -> Option<CoreHandle<S>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, raft: Option<CoreHandle<S>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = raft;
    }
}
