//! Tasks that belong to somebody and end with them.

use std::{
    future::{Future, poll_fn},
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

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
    /// Of the groups that this one ends with, and whose [`Self::join`] waits for its tasks too.
    ancestors: Vec<TaskTracker>,
    /// `None` outside of a simulation.
    gate: Option<Gate>,
}

impl TaskGroup {
    /// An empty group on `handle`'s runtime.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            tracker: TaskTracker::new(),
            ended: CancellationToken::new(),
            ancestors: Vec::new(),
            gate: None,
        }
    }

    /// An empty group on the runtime of the calling task, for a simulated process: it can be
    /// [suspended](Self::pause), and [`Self::blocking`] work is done before the call returns, so that nothing
    /// depends on the pace of threads.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn simulated() -> Self {
        let gate = Some(Gate::default());
        Self {
            gate,
            ..Self::current()
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

    /// An empty group that can be ended by itself, and ends with this one at the latest. In a simulation it
    /// is suspended with this one.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut ancestors = self.ancestors.clone();
        ancestors.push(self.tracker.clone());
        Self {
            handle: self.handle.clone(),
            tracker: TaskTracker::new(),
            ended: self.ended.child_token(),
            ancestors,
            gate: self.gate.clone(),
        }
    }

    /// Runs `task` until it ends or the group does; then it resolves to `None`.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let ended = self.ended.clone();
        let counted = self.counted();
        match self.gate.clone() {
            None => {
                let task = async move {
                    let _counted = counted;
                    ended.run_until_cancelled(task).await
                };
                self.tracker.spawn_on(task, &self.handle)
            }
            Some(gate) => {
                let task = async move {
                    let _counted = counted;
                    ended.run_until_cancelled(gate.hold(task)).await
                };
                self.tracker.spawn_on(task, &self.handle)
            }
        }
    }

    /// Runs `work` where blocking is allowed. It cannot be interrupted; [`Self::join`] waits for it.
    pub fn blocking<F, T>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.gate.is_none() {
            let counted = self.counted();
            let work = move || {
                let _counted = counted;
                work()
            };
            return self.tracker.spawn_blocking_on(work, &self.handle);
        }
        // A thread of its own, since some of what may block refuses to on a thread that drives tasks.
        let done = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("simulated-blocking".into());
            let on_runtime = || {
                let _runtime = self.handle.enter();
                work()
            };
            builder
                .spawn_scoped(scope, on_runtime)
                .map(|thread| thread.join())
        });
        let done = async move {
            match done {
                Ok(Ok(done)) => done,
                Ok(Err(panic)) => resume_unwind(panic),
                // As where tokio has no thread left for blocking work.
                Err(error) => resume_unwind(Box::new(format!("no thread for blocking work: {error}"))),
            }
        };
        self.tracker.spawn_on(done, &self.handle)
    }

    /// Has a task count with every ancestor for as long as it lives.
    fn counted(&self) -> Vec<TaskTrackerToken> {
        self.ancestors.iter().map(TaskTracker::token).collect()
    }

    /// Suspends every task at its next await point until [`Self::resume`], as SIGSTOP does with a process;
    /// time goes on. Without effect on a group that is not [simulated](Self::simulated).
    pub fn pause(&self) {
        if let Some(gate) = &self.gate {
            gate.state().closed = true;
        }
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
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

/// What holds the tasks of a simulated process back while it is suspended.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<Mutex<GateState>>);

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    /// Those who were to run meanwhile, in the order in which they were woken.
    waiting: Vec<Waker>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        // Each critical section leaves the state whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        let waiting = {
            let mut state = self.state();
            state.closed = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn passes(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        if state.closed {
            state.waiting.push(cx.waker().clone());
        }
        !state.closed
    }

    async fn hold<F: Future>(self, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(|cx| {
            if self.passes(cx) {
                return task.as_mut().poll(cx);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_child_ends_by_itself_and_with_its_parent_which_waits_for_it() {
        let parent = TaskGroup::current();
        let (one, two) = (parent.child(), parent.child().child());
        let own = parent.spawn(std::future::pending::<()>());
        let of_one = one.spawn(std::future::pending::<()>());
        let of_two = two.spawn(std::future::pending::<()>());
        one.abort();
        assert!(of_one.await.unwrap().is_none() && one.join(GRACE).await);
        assert!(!own.is_finished() && !of_two.is_finished() && !parent.is_aborted());
        assert!(!parent.join(GRACE).await, "a grandchild still runs");
        parent.abort();
        assert!(two.is_aborted() && parent.join(GRACE).await);
        assert!(own.await.unwrap().is_none() && of_two.await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_process_does_nothing_while_time_goes_on() {
        let group = TaskGroup::simulated();
        let task = group.spawn(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tokio::time::Instant::now()
        });
        let begun = tokio::time::Instant::now();
        tokio::task::yield_now().await;
        group.pause();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!task.is_finished());
        group.resume();
        let woke = task.await.unwrap().unwrap();
        assert_eq!(woke - begun, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_process_can_be_killed() {
        let group = TaskGroup::simulated();
        let task = group.spawn(std::future::pending::<()>());
        group.pause();
        group.abort();
        assert_eq!(task.await.unwrap(), None);
        assert!(group.join(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_blocking_work_is_done_when_the_call_returns() {
        let group = TaskGroup::simulated();
        let shared = Arc::new(tokio::sync::Mutex::new(0));
        let held = Arc::clone(&shared);
        let work = group.blocking(move || *held.blocking_lock() = 7);
        assert_eq!(*shared.try_lock().unwrap(), 7);
        work.await.unwrap();
        let panicked = group.blocking(|| panic!("on purpose")).await;
        assert!(panicked.unwrap_err().is_panic());
    }
}
