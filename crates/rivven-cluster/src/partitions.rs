//! Topics and partitions: asked for here, decided in the replicated state, read without waiting.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rivven_partition::{
    Applied, Changes, Compacted, LeaderEpoch, PartitionCommand, PartitionMap, PartitionState, Start, Topic,
    TopicId, TopicSpec, place,
};
use rivven_types::{NodeId, PeerAddr};
use tokio::sync::watch;

use crate::{
    Duties, WriteError,
    inner::Inner,
    kv::{dropped_write, unexpected},
    published::Published,
};

/// Topics, and who leads their partitions. From [`Cluster::partitions`](crate::Cluster::partitions).
///
/// Cheap to clone. Reading is local and never waits; what is read is what this node has applied, which may
/// trail other nodes by a moment. Whoever acts as a leader therefore shows its [`LeaderEpoch`], and whoever
/// is asked refuses a lower one than it has seen.
#[derive(Clone, Debug)]
pub struct PartitionManager {
    pub(crate) inner: Weak<Inner>,
    published: Arc<Published>,
    default_replication_factor: u16,
    pub(crate) timeout: Duration,
    me: Start,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLeader {
    /// The node.
    pub node: NodeId,
    /// Fencing token of this leadership: higher than that of every earlier leader.
    pub epoch: LeaderEpoch,
}

/// Why no leader can be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaderError {
    /// There is no such topic, or this node has not heard of it yet. Create it, or wait.
    #[error("there is no topic `{topic}` here; create it, or wait until this node has heard of it")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic `{topic}` has {partitions} partitions, so there is no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// No in-sync replica is alive. Wait until one is back.
    #[error("partition {partition} of `{topic}` has no leader until one of its in-sync replicas is back")]
    Leaderless {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
}

impl LeaderError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownTopic { .. } => "unknown-topic",
            Self::UnknownPartition { .. } => "unknown-partition",
            Self::Leaderless { .. } => "leaderless",
        }
    }
}

/// Follows the assignments. From [`PartitionManager::watch`].
#[derive(Debug)]
pub struct AssignmentWatch {
    published: Arc<Published>,
    changed: watch::Receiver<u64>,
    /// Generation of what was given last.
    seen: u64,
}

/// Newer assignments, and what in them is new. From [`AssignmentWatch::next`].
#[derive(Clone, Debug)]
pub struct AssignmentUpdate {
    /// The assignments.
    pub map: PartitionMap,
    /// What has changed since those given before; an error when so much has that it is no longer known, and
    /// everything in `map` is to be looked at.
    pub changes: Result<Changes, Compacted>,
}

impl AssignmentWatch {
    /// The assignments as of this moment.
    #[must_use]
    pub fn current(&self) -> PartitionMap {
        self.published.read(|state| state.map().clone())
    }

    /// Waits for the next change and gives the newest assignments; changes in between are skipped.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn changed(&mut self) -> PartitionMap {
        // The sender lives in `published`, which this watch keeps, so the wait cannot fail.
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let map = self.current();
        self.seen = map.generation();
        map
    }

    /// Waits for the next change and gives the newest assignments with what has changed since those given
    /// before, or since the watch began.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn next(&mut self) -> AssignmentUpdate {
        let seen = self.seen;
        let map = self.changed().await;
        let changes = map.changes_since(seen);
        AssignmentUpdate { map, changes }
    }
}

impl PartitionManager {
    pub(crate) fn new(inner: &Arc<Inner>, timeout: Duration) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            published: Arc::clone(&inner.published),
            default_replication_factor: inner.config.replication_factor,
            timeout,
            me: inner.start(),
        }
    }

    /// Creates a topic and places its partitions on the nodes that are alive. Returns once that is durable
    /// on a quorum.
    ///
    /// A replication factor that is not given is that of the configuration.
    ///
    /// Cancel safety: a creation whose future is dropped may still happen.
    ///
    /// # Errors
    /// [`WriteError`]: the topic exists, there are too few nodes, or no quorum answered.
    pub async fn create_topic(&self, name: &str, spec: TopicSpec) -> Result<TopicId, WriteError> {
        let inner = self.running()?;
        let mut spec = spec;
        spec.replication_factor
            .get_or_insert(self.default_replication_factor);
        let state = self.newest(&inner).await?;
        let command =
            place(&state, &inner.liveness_hint(&state), name, &spec).map_err(WriteError::Partition)?;
        match inner.propose_partitions(command, self.timeout).await? {
            Applied::TopicCreated { topic, .. } => Ok(topic),
            other @ (Applied::Changed { .. } | Applied::Unchanged { .. }) => Err(unexpected(&other)),
        }
    }

    /// Deletes a topic and its partitions. Returns the generation of the assignments that lack it.
    ///
    /// # Errors
    /// [`WriteError`]: there is no such topic, or no quorum answered.
    pub async fn delete_topic(&self, name: &str) -> Result<u64, WriteError> {
        let inner = self.inner.upgrade().ok_or_else(dropped_write)?;
        let command = PartitionCommand::DeleteTopic {
            name: name.to_owned(),
        };
        Ok(inner
            .propose_partitions(command, self.timeout)
            .await?
            .generation())
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&PartitionMap) -> T) -> T {
        self.published.read(|state| read(state.map()))
    }

    /// The topics this node knows, in the order of their creation; their partitions are in
    /// [`Self::assignments`].
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        self.published
            .read(|state| state.map().topics().map(|topic| topic.get().clone()).collect())
    }

    /// Who leads a partition. Local, a few nanoseconds.
    ///
    /// # Errors
    /// There is no such topic or partition, or nobody leads it.
    pub fn leader(&self, topic: &str, partition: u32) -> Result<PartitionLeader, LeaderError> {
        self.published.read(|state| {
            let found = state.map().leader(topic, partition);
            let leader = found.map(|(node, epoch)| PartitionLeader { node, epoch });
            leader.ok_or_else(|| match state.map().topic(topic) {
                None => LeaderError::UnknownTopic {
                    topic: topic.to_owned(),
                },
                Some(known) if known.partition_count() <= partition => LeaderError::UnknownPartition {
                    topic: topic.to_owned(),
                    partition,
                    partitions: known.partition_count(),
                },
                Some(_) => LeaderError::Leaderless {
                    topic: topic.to_owned(),
                    partition,
                },
            })
        })
    }

    /// Where the application of `node` is reached under `name`, as that node has registered it: `endpoints` of its
    /// configuration.
    ///
    /// `None` if it has registered none of that name, or is not known here yet.
    #[must_use]
    pub fn endpoint(&self, node: NodeId, name: &str) -> Option<PeerAddr> {
        self.read(|map| map.node(node)?.registration.endpoints.get(name).cloned())
    }

    /// Every node, topic and partition at one generation. Cheap: it shares what does not change.
    #[must_use]
    pub fn assignments(&self) -> PartitionMap {
        self.published.read(|state| state.map().clone())
    }

    /// What this node must do about the partitions that it holds: lead, follow, release, close.
    ///
    /// For a program that acts on partitions itself. One that holds data is better told through
    /// [`Cluster::start_with`](crate::Cluster::start_with), since without it every live replica counts as in sync, and
    /// no leader is asked before another one takes over. Proofs of leadership ([`Lead::check`](crate::Lead::check))
    /// hold all the same: a successor that could not wait for its predecessor's word waits out its lease.
    #[must_use]
    pub fn local(&self) -> Duties {
        let inner = self.inner.upgrade();
        Duties::new(inner.as_ref().map(Inner::desk), self.me)
    }

    /// Follows the assignments from this moment on.
    #[must_use]
    pub fn watch(&self) -> AssignmentWatch {
        // Subscribed first: a change in between is given rather than missed.
        let changed = self.published.subscribe();
        AssignmentWatch {
            published: Arc::clone(&self.published),
            changed,
            seen: self.published.read(PartitionState::generation),
        }
    }
}
