//! Concurrent writers with unique keys, a record of what was promised to them, and the count of what was kept.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use rivven_cluster::NodeId;
use tokio::{task::JoinSet, time::Instant};

use super::Harness;
use crate::client::{AdminClient, ReadLevel};

/// Pause of a writer after an attempt failed, so that a node that refuses at once is not flooded.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Clients that read back at the same time.
const READERS: usize = 8;
/// Most writes one load makes; the record of each stays in memory.
const MAX_WRITES: u64 = 1_000_000;
/// How often one key is read before the answer counts as missing, and the pause between.
const READ_ATTEMPTS: u32 = 200;

/// How a load writes.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Distinguishes the keys of one load from those of another.
    pub name: String,
    /// Writers at the same time.
    pub writers: u32,
    /// Pause of a writer after an acknowledged write.
    pub pause: Duration,
    /// How long one attempt may take before the writer turns to the next node.
    pub attempt_timeout: Duration,
    /// How long a writer tries one key before it gives up on it.
    pub give_up: Duration,
}

impl LoadOptions {
    /// Eight writers that try hard.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            writers: 8,
            pause: Duration::from_millis(2),
            attempt_timeout: Duration::from_secs(1),
            give_up: Duration::from_secs(20),
        }
    }
}

/// What a writer was told about its key in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A node promised that the write is durable.
    Acknowledged,
    /// No attempt was acknowledged, and at least one may have happened.
    Unknown,
    /// Every attempt is known not to have happened.
    Failed,
}

/// One key and what became of it.
#[derive(Clone, Debug)]
pub struct WriteRecord {
    /// The key; the value follows from it.
    pub key: String,
    /// What the writer was told.
    pub outcome: Outcome,
    /// Attempts made.
    pub attempts: u32,
    /// When the last attempt began.
    pub attempted: Instant,
    /// When the writer was told.
    pub finished: Instant,
    /// The node that answered last.
    pub node: NodeId,
}

/// Everything a load wrote.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In no particular order.
    pub writes: Vec<WriteRecord>,
}

/// What reading back found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged writes looked for.
    pub acknowledged: usize,
    /// Found with the value that was written.
    pub found: usize,
}

impl Verdict {
    /// Acknowledged writes that are gone or altered.
    #[must_use]
    pub const fn lost(&self) -> usize {
        self.acknowledged - self.found
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    acknowledged: AtomicU64,
    writes: Mutex<Vec<WriteRecord>>,
}

impl Shared {
    fn record(&self, write: WriteRecord) {
        if write.outcome == Outcome::Acknowledged {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.writes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(write);
    }
}

impl Load {
    /// Starts writing to every node of `harness`, running or not: a writer finds out like any client.
    ///
    /// # Errors
    /// When the harness has no node.
    pub fn start(harness: &Harness, options: &LoadOptions) -> anyhow::Result<Self> {
        let mut targets = Vec::new();
        for id in harness.ids() {
            let node = harness.node(id)?;
            targets.push((id, node.client()));
        }
        anyhow::ensure!(!targets.is_empty(), "there is nobody to write to");
        let shared: Arc<Shared> = Arc::default();
        let mut writers = JoinSet::new();
        for number in 0..options.writers {
            let writer = Writer {
                number,
                options: options.clone(),
                targets: targets
                    .iter()
                    .map(|(id, client)| (*id, client.renew(options.attempt_timeout)))
                    .collect(),
                shared: Arc::clone(&shared),
            };
            writers.spawn(writer.run());
        }
        Ok(Self { shared, writers })
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are acknowledged.
    ///
    /// # Errors
    /// When `limit` passes before that.
    pub async fn wait_acknowledged(&self, more: u64, limit: Duration) -> anyhow::Result<()> {
        let goal = self.acknowledged() + more;
        super::until("writes are acknowledged", limit, || async move {
            let so_far = self.acknowledged();
            if so_far >= goal {
                return Ok(());
            }
            Err(format!("{so_far} of {goal}"))
        })
        .await
    }

    /// What was written so far, without the keys that writers are still trying.
    #[must_use]
    pub fn history(&self) -> History {
        let writes = self.shared.writes.lock().unwrap_or_else(PoisonError::into_inner);
        History {
            writes: writes.clone(),
        }
    }

    /// Lets every writer finish its key, and returns what all of them wrote.
    ///
    /// # Errors
    /// When a writer broke.
    pub async fn stop(mut self) -> anyhow::Result<History> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.context("a writer broke")?;
        }
        Ok(self.history())
    }
}

struct Writer {
    number: u32,
    options: LoadOptions,
    targets: Vec<(NodeId, AdminClient)>,
    shared: Arc<Shared>,
}

impl Writer {
    async fn run(mut self) {
        let limit = MAX_WRITES / u64::from(self.options.writers.max(1));
        let first = usize::try_from(self.number).unwrap_or(0);
        let count = self.targets.len();
        self.targets.rotate_left(first % count);
        for sequence in 0..limit {
            if self.shared.stopping.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("{}/{}/{sequence}", self.options.name, self.number);
            let write = self.write(key).await;
            self.shared.record(write);
            tokio::time::sleep(self.options.pause).await;
        }
    }

    /// Tries one key until it is acknowledged, turning to the next node after each failure.
    async fn write(&mut self, key: String) -> WriteRecord {
        let give_up = Instant::now() + self.options.give_up;
        let value = value_of(&key);
        let (mut attempts, mut maybe) = (0, false);
        loop {
            let attempted = Instant::now();
            attempts += 1;
            let Some((node, client)) = self.targets.first_mut() else {
                let (outcome, finished, node) = (Outcome::Failed, attempted, 0);
                return WriteRecord {
                    key,
                    outcome,
                    attempts,
                    attempted,
                    finished,
                    node,
                };
            };
            let node = *node;
            let result = client.put(&key, value.clone()).await;
            let finished = Instant::now();
            let outcome = match result {
                Ok(_) => Some(Outcome::Acknowledged),
                Err(error) => {
                    maybe |= error.may_have_happened();
                    self.targets.rotate_left(1);
                    tokio::time::sleep(RETRY_PAUSE).await;
                    let given_up = finished >= give_up;
                    given_up.then_some(if maybe { Outcome::Unknown } else { Outcome::Failed })
                }
            };
            if let Some(outcome) = outcome {
                return WriteRecord {
                    key,
                    outcome,
                    attempts,
                    attempted,
                    finished,
                    node,
                };
            }
        }
    }
}

impl History {
    /// How many writes ended in `outcome`.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.writes
            .iter()
            .filter(|write| write.outcome == outcome)
            .count()
    }

    /// Writes that needed more than one attempt.
    #[must_use]
    pub fn retried(&self) -> usize {
        self.writes.iter().filter(|write| write.attempts > 1).count()
    }

    /// Time from `moment` to the first acknowledgement of an attempt that was begun after it.
    ///
    /// An attempt that was under way at `moment` does not count: its answer may have been on the wire.
    #[must_use]
    pub fn first_acknowledged_after(&self, moment: Instant) -> Option<Duration> {
        let acknowledged = self.acknowledged().filter(|write| write.attempted >= moment);
        acknowledged.map(|write| write.finished - moment).min()
    }

    /// Median of how long the acknowledged attempts took.
    #[must_use]
    pub fn median_latency(&self) -> Option<Duration> {
        let mut latencies: Vec<_> = self
            .acknowledged()
            .map(|write| write.finished - write.attempted)
            .collect();
        latencies.sort_unstable();
        latencies.get(latencies.len() / 2).copied()
    }

    /// The writes that were promised to be kept.
    #[must_use]
    pub fn acknowledged_only(mut self) -> Self {
        self.writes.retain(|write| write.outcome == Outcome::Acknowledged);
        self
    }

    /// Adds the writes of another load.
    pub fn extend(&mut self, other: Self) {
        self.writes.extend(other.writes);
    }

    fn acknowledged(&self) -> impl Iterator<Item = &WriteRecord> {
        self.writes
            .iter()
            .filter(|write| write.outcome == Outcome::Acknowledged)
    }

    /// Reads every acknowledged key back from node `id` and counts those with the right value.
    ///
    /// # Errors
    /// When the node cannot be asked.
    pub async fn verify(&self, harness: &Harness, id: NodeId, level: ReadLevel) -> anyhow::Result<Verdict> {
        let keys: Vec<String> = self.acknowledged().map(|write| write.key.clone()).collect();
        let acknowledged = keys.len();
        let mut shares: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (i, key) in keys.into_iter().enumerate() {
            shares.entry(i % READERS).or_default().push(key);
        }
        let mut readers = JoinSet::new();
        for share in shares.into_values() {
            readers.spawn(count_found(harness.client(id)?, share, level));
        }
        let mut found = 0;
        while let Some(counted) = readers.join_next().await {
            found += counted.context("a reader broke")??;
        }
        Ok(Verdict { acknowledged, found })
    }
}

async fn count_found(mut client: AdminClient, keys: Vec<String>, level: ReadLevel) -> anyhow::Result<usize> {
    let mut found = 0;
    for key in keys {
        let mut attempt = 0;
        // Only being unable to answer is retried; an answer, right or wrong, counts.
        let answer = loop {
            match client.get(&key, level).await {
                Ok(answer) => break answer,
                Err(error) if attempt == READ_ATTEMPTS => {
                    return Err(error).with_context(|| format!("cannot read {key}"));
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
            attempt += 1;
        };
        found += usize::from(answer.is_some_and(|answer| answer.value == value_of(&key)));
    }
    Ok(found)
}

/// The value written at `key`: different for each, and long enough to be worth losing.
pub(super) fn value_of(key: &str) -> Bytes {
    Bytes::from(format!("{key}={}", key.repeat(4)))
}
