//! Starting a core: opening the log, bringing the state to it, and wiring both.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use openraft::{Config, Raft, SnapshotPolicy, storage::RaftLogStorage};
use rivven_raft_store::{LogMonitor, MemLogStore, SnapshotGap, SnapshotStore};
use rivven_transport::Transport;
use rivven_types::NodeId;
use tokio::sync::watch;

use crate::{
    StartError, StateMachine,
    adapter::{FaultCell, Machine, Place, decode_or_set_aside},
    applied::Shared,
    codec::LogCodec,
    config::Timing,
    core::{Core, CoreHandle, END_GRACE},
    elections::pace_elections,
    growth::SnapshotRule,
    log_disk::LogDisk,
    membership::Policy,
    network::Peers,
    promise::Promise,
    repair::Patient,
    runtime::NodeScope,
    snapshot::Snapshots,
    snapshot_keeper::{SnapshotNews, keep_snapshots},
    snapshot_rate::SnapshotRate,
    stages::{Stages, TimedLog, tell_lag},
    status::StatusSource,
    tick::propose_ticks,
    types::TypeConfig,
};

/// Most entries read for one request to a follower; their bytes are bounded by the frame.
const MAX_PAYLOAD_ENTRIES: u64 = 256;

/// Pauses between attempts to reach a follower that cannot be reached: short, so that one that comes back
/// is not left waiting. The transport has its own pauses between connection attempts.
const BACKOFF: &str = "50ms 100ms ..200ms";

/// Snapshots of peers that are fetched for one start, while each of them turns out to be of no use.
const MAX_FETCHED: usize = 3;

/// A follower that lacks more entries is sent a snapshot in their place, unless snapshots are taken by entries.
const MAX_SENT_ENTRIES: u64 = 200_000;

/// What the consensus core is configured with.
pub(crate) struct CoreConfig {
    pub(crate) cluster_name: String,
    pub(crate) timing: Timing,
    pub(crate) snapshots: SnapshotRule,
    pub(crate) durable: bool,
    pub(crate) lease_reads: bool,
}

impl CoreConfig {
    pub(crate) fn build(self) -> Result<Arc<Config>, StartError> {
        let (snapshot_policy, replication_lag_threshold) = match self.snapshots {
            SnapshotRule::Entries(entries) => {
                (SnapshotPolicy::LogsSinceLast(entries), entries.saturating_mul(2))
            }
            // See `keep_snapshots`.
            SnapshotRule::Growth { .. } => (SnapshotPolicy::Never, MAX_SENT_ENTRIES),
        };
        let config = Config {
            cluster_name: self.cluster_name,
            heartbeat_interval: self.timing.heartbeat_ms,
            election_timeout_min: self.timing.election_min_ms,
            election_timeout_max: self.timing.election_max_ms,
            max_payload_entries: MAX_PAYLOAD_ENTRIES,
            snapshot_policy,
            replication_lag_threshold,
            // Never by itself: see `keep_snapshots`.
            max_in_snapshot_log_to_keep: u64::MAX,
            // A leader that restores itself after a restart answers reads from a state behind its own
            // acknowledged writes.
            enable_leader_restore: Some(false),
            enable_pre_vote: Some(true),
            // With lease reads only once a lease from before has run out, see `pace_elections`.
            enable_elect: !self.lease_reads,
            // A node without a disk comes back empty, and has to be sent everything again. A disk that has
            // lost its log must not be: its vote is lost too.
            allow_log_reversion: Some(!self.durable),
            backoff: BACKOFF.into(),
            ..Config::default()
        };
        config.validate().map(Arc::new).map_err(|error| StartError::Core {
            cause: error.to_string(),
        })
    }
}

/// Where the log and the snapshots of a node are.
pub(crate) enum Disk {
    /// In memory: both outlive the core, not the process.
    Memory(MemLogStore<TypeConfig>),
    /// In the data directory.
    Dir {
        log: LogDisk,
        snapshots: SnapshotStore<TypeConfig, LogCodec>,
    },
}

/// What a node's cores are started from, one after the other.
pub(crate) struct Plant<S: StateMachine> {
    pub(crate) node_id: NodeId,
    pub(crate) config: Arc<Config>,
    /// Who may have a snapshot for this node.
    pub(crate) peers: BTreeSet<NodeId>,
    pub(crate) transport: Transport,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) snapshots: Snapshots,
    pub(crate) news: watch::Sender<SnapshotNews>,
    pub(crate) scope: NodeScope,
    pub(crate) disk: Disk,
    pub(crate) stages: Arc<Stages>,
    /// `None` while lease reads are off.
    pub(crate) promise: Option<Arc<Promise>>,
    pub(crate) policy: Policy,
    pub(crate) snapshot_rate: Arc<SnapshotRate>,
}

impl<S: StateMachine> Plant<S> {
    /// How long the others need at least to replace a leader that they do not hear of: a lease and a timeout.
    pub(crate) fn patience(&self) -> Duration {
        let config = &self.config;
        Duration::from_millis(
            config
                .election_timeout_min
                .saturating_add(config.election_timeout_max),
        )
    }

    /// Opens the log and starts a core from it.
    ///
    /// # Errors
    /// [`StartError::Storage`] with code `disk-full` may be tried again once there is room.
    pub(crate) async fn start(&self) -> Result<Core<S>, StartError> {
        let scope = self.scope.child();
        let started = Box::pin(self.start_in(&scope)).await;
        if started.is_err() {
            // Nothing of a core that did not start may hold the log open.
            scope.group().abort();
            scope.group().join(END_GRACE).await;
        }
        started
    }

    async fn start_in(&self, scope: &NodeScope) -> Result<Core<S>, StartError> {
        match &self.disk {
            Disk::Memory(log) => {
                let at = Place::default();
                self.start_from(log.clone(), None, at, scope).await
            }
            Disk::Dir { log, snapshots } => {
                let (disk, group) = (log.clone(), scope.group().clone());
                let opened = self.scope.group().blocking(move || disk.open_log(&group)).await;
                let mut log = opened.map_err(ended)?.map_err(|error| StartError::Storage {
                    code: error.code(),
                    cause: error.into(),
                })?;
                let at = self.prepare(&mut log, snapshots).await?;
                let monitor = log.monitor();
                self.start_from(log, Some(monitor), at, scope).await
            }
        }
    }

    /// Brings the state at least as far as the newest snapshot that can be restored, and makes sure that the
    /// log goes on from there. Says up to where snapshots bear the state out.
    async fn prepare<L>(
        &self,
        log: &mut L,
        snapshots: &SnapshotStore<TypeConfig, LogCodec>,
    ) -> Result<Place, StartError>
    where
        L: RaftLogStorage<TypeConfig>,
    {
        let mut gap: Option<SnapshotGap<TypeConfig>> = None;
        for _ in 0..=MAX_FETCHED {
            let (shared, kept) = (Arc::clone(&self.shared), self.snapshots.clone());
            let restored = self
                .scope
                .group()
                .blocking(move || restore_newest(&shared, &kept));
            let place = restored.await.map_err(ended)?.map_err(storage)?;
            let state = log.get_log_state().await.map_err(storage)?;
            gap = snapshots.gap(&state);
            let Some(gap) = &gap else { return Ok(place) };
            let patient = Patient {
                transport: &self.transport,
                group: self.scope.group(),
                peers: &self.peers,
                snapshots,
            };
            patient.repair(log, gap).await?;
        }
        Err(StartError::NoSnapshot {
            gap: gap.map_or_else(String::new, |gap| gap.to_string()),
        })
    }

    async fn start_from<L>(
        &self,
        log: L,
        monitor: Option<LogMonitor<TypeConfig>>,
        at: Place,
        scope: &NodeScope,
    ) -> Result<Core<S>, StartError>
    where
        L: RaftLogStorage<TypeConfig>,
    {
        let fault = FaultCell::default();
        let machine = Machine {
            shared: Arc::clone(&self.shared),
            snapshots: self.snapshots.clone(),
            news: self.news.clone(),
            scope: scope.clone(),
            at,
            fault: Arc::clone(&fault),
        };
        let peers = Peers {
            transport: self.transport.clone(),
            gate: Arc::clone(self.shared.gate()),
            snapshot_rate: Arc::clone(&self.snapshot_rate),
        };
        if let Some(promise) = &self.promise {
            promise.forgotten();
        }
        let log = TimedLog::new(log, Arc::clone(&self.stages));
        let starting = Raft::new(self.node_id, Arc::clone(&self.config), peers, log, machine);
        let started = scope.run(starting).await;
        let raft = started.map_err(|fatal| not_started(monitor.as_ref(), &fatal))?;
        Ok(Core {
            raft: CoreHandle::new(raft, self.scope.clone()),
            group: scope.group().clone(),
            log: monitor,
            fault,
        })
    }

    /// Starts what goes on beside a core and ends with it.
    pub(crate) fn accompany(&self, core: &Core<S>, source: &Arc<StatusSource>) {
        let raft = core.raft.clone();
        let keeper = keep_snapshots(
            raft.clone(),
            self.snapshots.clone(),
            Arc::clone(self.shared.growth()),
            self.news.subscribe(),
        );
        drop(core.group.spawn(keeper));
        drop(core.group.spawn(tell_lag(raft.metrics())));
        // Whatever this node confirmed to a leader before has to run out first.
        let bound = self.promise.as_ref().map(|promise| promise.lasts());
        let timeout = Duration::from_millis(self.config.election_timeout_max);
        let elections = pace_elections(
            (raft.clone(), self.node_id),
            bound.unwrap_or_default(),
            timeout,
            self.scope.clone(),
        );
        drop(core.group.spawn(elections));
        let ticks = propose_ticks(self.node_id, raft, Arc::clone(&self.shared), Arc::clone(source));
        drop(core.group.spawn(ticks));
    }
}

/// Restores the newest snapshot, or the next older one if that fails, unless the state is as far already.
/// Blocks.
fn restore_newest<S: StateMachine>(shared: &Shared<S>, snapshots: &Snapshots) -> io::Result<Place> {
    while let Some((meta, data)) = snapshots.latest() {
        match decode_or_set_aside(shared, snapshots, &meta, &data) {
            Ok(decoded) => {
                if let Some(decoded) = decoded {
                    shared.restore(&meta, decoded, data.len())?;
                }
                return Ok(Place::of(&meta));
            }
            // Set aside, it is the newest no more.
            Err(error) if !same(snapshots, &meta) => {
                tracing::error!(%error, "an older snapshot takes its place")
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Place::default())
}

fn same(snapshots: &Snapshots, meta: &crate::types::SnapshotMeta) -> bool {
    snapshots.latest().is_some_and(|(latest, _)| latest == *meta)
}

fn ended(error: tokio::task::JoinError) -> StartError {
    StartError::Core {
        cause: error.to_string(),
    }
}

fn storage(cause: io::Error) -> StartError {
    StartError::Storage {
        code: "log-io",
        cause,
    }
}

/// What the log has stopped with says more than the core.
fn not_started(
    monitor: Option<&LogMonitor<TypeConfig>>,
    fatal: &openraft::errors::Fatal<TypeConfig>,
) -> StartError {
    match monitor.and_then(LogMonitor::failure) {
        Some(failure) => StartError::Storage {
            code: failure.code(),
            cause: io::Error::other(failure),
        },
        None => StartError::Core {
            cause: fatal.to_string(),
        },
    }
}
