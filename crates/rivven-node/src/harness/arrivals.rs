//! Writes that begin at a fixed pace, whatever becomes of those before them: the clock of a fail-over.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use rivven_cluster::NodeId;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{Harness, History, Outcome, WriteRecord, load::value_of};
use crate::client::AdminClient;

/// Time from one write to the next.
pub const PACE: Duration = Duration::from_millis(5);
/// How long one write may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Writes under way at the same time; at the limit a beat is left out.
const MAX_IN_FLIGHT: usize = 256;
/// Beats of one run; the record of each stays in memory.
const MAX_WRITES: u64 = 100_000;

/// A client that begins a new write every [`PACE`] at the next node in turn, and never repeats one.
///
/// Closed-loop writers are all caught in a call to the leader when it dies. This one shows when the cluster
/// takes writes again.
#[derive(Debug)]
pub struct Arrivals {
    shared: Arc<Shared>,
    pacer: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    history: Mutex<History>,
}

impl Shared {
    fn history(&self) -> History {
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Arrivals {
    /// Starts writing below `name` to every node of `harness`, running or not.
    ///
    /// # Errors
    /// When the harness has no node.
    pub fn start(harness: &Harness, name: &str) -> anyhow::Result<Self> {
        let mut lanes = Vec::new();
        for id in harness.ids() {
            let client = harness.node(id)?.client().renew(ATTEMPT_TIMEOUT);
            lanes.push((id, Arc::new(Mutex::new(Vec::new())), client));
        }
        anyhow::ensure!(!lanes.is_empty(), "there is nobody to write to");
        let shared: Arc<Shared> = Arc::default();
        let mut pacer = JoinSet::new();
        pacer.spawn(pace(lanes, name.to_owned(), Arc::clone(&shared)));
        Ok(Self { shared, pacer })
    }

    /// What became of the writes that have ended.
    #[must_use]
    pub fn history(&self) -> History {
        self.shared.history()
    }

    /// Begins no further write, waits for those under way, and returns all of them.
    ///
    /// # Errors
    /// When the client broke.
    pub async fn stop(mut self) -> anyhow::Result<History> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.pacer.join_next().await {
            ended.context("the pacer broke")?;
        }
        Ok(self.shared.history())
    }
}

/// A node, its idle connections, and a client to make more of them.
type Lane = (NodeId, Arc<Mutex<Vec<AdminClient>>>, AdminClient);

async fn pace(lanes: Vec<Lane>, name: String, shared: Arc<Shared>) {
    let mut beat = tokio::time::interval(PACE);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut writes = JoinSet::new();
    for (sequence, (node, idle, spare)) in (0..MAX_WRITES).zip(lanes.iter().cycle()) {
        beat.tick().await;
        if shared.stopping.load(Ordering::Relaxed) {
            break;
        }
        while writes.try_join_next().is_some() {}
        if writes.len() >= MAX_IN_FLIGHT {
            continue;
        }
        let unused = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let client = unused.unwrap_or_else(|| spare.renew(ATTEMPT_TIMEOUT));
        let (node, idle, shared) = (*node, Arc::clone(idle), Arc::clone(&shared));
        let key = format!("{name}/{sequence}");
        writes.spawn(async move {
            let (client, write) = attempt(client, key, node).await;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
            let mut history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.writes.push(write);
        });
    }
    while writes.join_next().await.is_some() {}
}

async fn attempt(mut client: AdminClient, key: String, node: NodeId) -> (AdminClient, WriteRecord) {
    let attempted = Instant::now();
    let outcome = match client.put(&key, value_of(&key)).await {
        Ok(_) => Outcome::Acknowledged,
        Err(error) if error.may_have_happened() => Outcome::Unknown,
        Err(_) => Outcome::Failed,
    };
    let write = WriteRecord {
        key,
        outcome,
        attempts: 1,
        attempted,
        finished: Instant::now(),
        node,
    };
    (client, write)
}
