//! Tasks that belong to somebody and end with them.

use std::{future::Future, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A set of tasks with one owner, ended together.
///
/// The seam through which everything is spawned: nothing outlives its owner, and a simulation can kill
/// a node by ending its group. Clones are the same group. Dropping a handle ends nothing; the owner
/// calls [`TaskGroup::abort`].
#[derive(Clone, Debug)]
pub struct TaskGroup {
    handle: Handle,
    tracker: TaskTracker,
    ended: CancellationToken,
}

impl TaskGroup {
    /// An empty group on `handle`'s runtime.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            tracker: TaskTracker::new(),
            ended: CancellationToken::new(),
        }
    }

    /// An empty group on the runtime of the calling task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn current() -> Self {
        Self::new(Handle::current())
    }

    /// An empty group of its own on the runtime of this one.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self::new(self.handle.clone())
    }

    /// Runs `task` until it ends or the group does; then it resolves to `None`.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let ended = self.ended.clone();
        let task = async move { ended.run_until_cancelled(task).await };
        self.tracker.spawn_on(task, &self.handle)
    }

    /// Runs `work` where blocking is allowed. It cannot be interrupted; [`Self::join`] waits for it.
    pub fn blocking<F, T>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.tracker.spawn_blocking_on(work, &self.handle)
    }

    /// Ends every task at its next await point, and every task spawned from this moment on at once.
    pub fn abort(&self) {
        self.ended.cancel();
    }

    /// Whether [`Self::abort`] was called.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits at most `grace` for every task to end. `false` when some still run.
    pub async fn join(&self, grace: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}
