//! The asynchronous runtime that the consensus core sees: tokio, with every task owned by its node.

use std::{
    collections::hash_map::RandomState,
    fmt,
    future::Future,
    hash::{BuildHasher, Hasher},
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use rivven_transport::TaskGroup;

use crate::{
    clock::{NodeInstant, Pace},
    elections::VOTE_TIMEOUT,
};

tokio::task_local! {
    /// The node that the running task belongs to.
    static NODE: NodeScope;
}

/// Where a node's tasks and random numbers come from, and how fast its clock passes. Clones are the same scope.
#[derive(Clone)]
pub(crate) struct NodeScope {
    group: TaskGroup,
    random: Arc<Mutex<Pcg64>>,
    pace: Pace,
    /// How long the core means to wait for a vote; nothing else has a timeout of this length.
    vote_ttl: Option<Duration>,
}

/// The pace of the clock of the running task's node; true time outside of any.
pub(crate) fn pace_here() -> Pace {
    NODE.try_with(|scope| scope.pace).unwrap_or(Pace::TRUE)
}

impl NodeScope {
    pub(crate) fn new(group: TaskGroup, seed: u64) -> Self {
        Self {
            group,
            random: Arc::new(Mutex::new(Pcg64::seed_from_u64(seed))),
            pace: Pace::TRUE,
            vote_ttl: None,
        }
    }

    /// The same with a clock of this pace.
    pub(crate) const fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The same for a core that waits this long for votes. Whoever has to write a vote to a stalled disk may need
    /// longer, so they get [`VOTE_TIMEOUT`]: what comes after the next election counts no more anyway.
    pub(crate) const fn with_vote_ttl(mut self, ttl: Duration) -> Self {
        self.vote_ttl = Some(ttl);
        self
    }

    /// How long to wait where the core means to wait for `timeout`.
    fn patience(&self, timeout: Duration) -> Duration {
        if self.vote_ttl == Some(timeout) {
            VOTE_TIMEOUT
        } else {
            timeout
        }
    }

    pub(crate) const fn group(&self) -> &TaskGroup {
        &self.group
    }

    /// A scope whose tasks can be ended by themselves, and end with this one's. Random numbers are shared.
    pub(crate) fn child(&self) -> Self {
        Self {
            group: self.group.child(),
            random: Arc::clone(&self.random),
            pace: self.pace,
            vote_ttl: self.vote_ttl,
        }
    }

    /// Runs `work` so that everything the core spawns in it, and in what it spawns, belongs to this node.
    pub(crate) async fn run<F: Future>(&self, work: F) -> F::Output {
        NODE.scope(self.clone(), work).await
    }

    pub(crate) fn next_u64(&self) -> u64 {
        // A poisoned generator still generates.
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64()
    }

    /// The running task's node. Outside of any, as in the runtime's conformance suite, a scope without an
    /// owner.
    fn current() -> Self {
        NODE.try_with(Self::clone)
            .unwrap_or_else(|_| Self::new(TaskGroup::current(), entropy()))
    }
}

/// Randomness from the operating system by way of the standard library's hash seeds, which a simulation
/// takes over.
pub(crate) fn entropy() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// [`AsyncRuntime`] on tokio. Tasks join the group of the node that spawns them and end with it; random
/// numbers come from the node's seed.
#[derive(Debug)]
pub(crate) struct NodeRuntime(TokioRuntime);

/// Waits for a task of a group.
#[derive(Debug)]
pub(crate) struct NodeJoinHandle<T>(tokio::task::JoinHandle<Option<T>>);

/// Why a task gave no result.
#[derive(Debug)]
pub(crate) enum NodeJoinError {
    /// It panicked, or the runtime shut down.
    Task(tokio::task::JoinError),
    /// Its node was ended.
    NodeEnded,
}

impl fmt::Display for NodeJoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(error) => error.fmt(f),
            Self::NodeEnded => f.write_str("the node was ended"),
        }
    }
}

impl<T> Future for NodeJoinHandle<T> {
    type Output = Result<T, NodeJoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|joined| match joined {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(NodeJoinError::NodeEnded),
            Err(error) => Err(NodeJoinError::Task(error)),
        })
    }
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = NodeJoinError;
    type JoinHandle<T: OptionalSend + 'static> = NodeJoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = NodeInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = Pcg64;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let scope = NodeScope::current();
        let group = scope.group.clone();
        NodeJoinHandle(group.spawn(NODE.scope(scope, future)))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(pace_here().takes(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline.truly())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        let patience = NODE.try_with(|scope| scope.patience(duration));
        TokioRuntime::timeout(pace_here().takes(patience.unwrap_or(duration)), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline.truly(), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        matches!(error, NodeJoinError::Task(error) if error.is_panic())
    }

    /// A generator seeded from the node's, so that callers on several threads do not share one.
    fn thread_rng() -> Self::ThreadLocalRng {
        Pcg64::seed_from_u64(NodeScope::current().next_u64())
    }

    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let task = NodeScope::current().group.blocking(work);
        async { task.await.map_err(io::Error::other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_conforms() {
        openraft_rt::testing::Suite::<NodeRuntime>::test_all();
    }

    #[tokio::test]
    async fn tasks_end_with_their_node_and_the_seed_decides_the_numbers() {
        let scope = NodeScope::new(TaskGroup::current(), 7);
        let task = scope
            .run(async {
                let nested = async { NodeRuntime::spawn(std::future::pending::<()>()).await };
                [NodeRuntime::spawn(nested)]
            })
            .await;
        scope.group().abort();
        for task in task {
            assert!(matches!(task.await, Err(NodeJoinError::NodeEnded)));
        }
        assert!(scope.group().join(Duration::from_secs(1)).await);

        assert_eq!(numbers(1).await, numbers(1).await);
        assert_ne!(numbers(1).await, numbers(2).await);
    }

    async fn numbers(seed: u64) -> [u64; 4] {
        let scope = NodeScope::new(TaskGroup::current(), seed);
        scope
            .run(async { [(); 4].map(|()| NodeRuntime::thread_rng().next_u64()) })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn votes_are_waited_for_longer_than_the_core_means_to() {
        let ttl = Duration::from_millis(60);
        let scope = NodeScope::new(TaskGroup::current(), 7).with_vote_ttl(ttl);
        let waits = async |timeout| {
            let begun = tokio::time::Instant::now();
            let never = std::future::pending::<()>();
            let child = scope.child();
            let waited = child.run(async { NodeRuntime::timeout(timeout, never).await });
            waited.await.unwrap_err();
            begun.elapsed()
        };
        for (timeout, waited) in [(ttl, VOTE_TIMEOUT), (ttl / 2, ttl / 2), (ttl * 2, ttl * 2)] {
            let over = waits(timeout).await.checked_sub(waited).unwrap();
            assert!(over <= Duration::from_millis(2), "{timeout:?}: {over:?} too long");
        }
    }
}
