//! Starting a node: what is given, what is checked, what is wired.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{Arc, Mutex},
};

use openraft::{
    Config, Raft, SnapshotPolicy,
    async_runtime::watch::WatchReceiver,
    storage::{RaftLogStorage, RaftStateMachine},
};
use openraft_rt_tokio::TokioWatchReceiver;
use rivven_raft_store::{MemLogStore, NodeDir, SimulatedDisk, WriterMode};
use rivven_transport::{Router, TaskGroup, Transport};
use rivven_types::NodeId;

use crate::{
    Fabric, InitializeError, RaftConfig, RaftNode, StartError, StateMachine,
    adapter::{Machine, Shared},
    config::Timing,
    courier::Courier,
    fabric::fabric_addr,
    log_disk::LogDisk,
    network::Peers,
    node::Inner,
    repair::Patient,
    runtime::{NodeScope, entropy},
    service,
    snapshot::Snapshots,
    status::StatusSource,
    submit::Room,
    system::{Features, RIVVEN_FEATURE},
    tick::propose_ticks,
    types::{RaftMetrics, TypeConfig},
};

/// Name of the cluster that nodes without another name belong to.
const DEFAULT_CLUSTER: &str = "rivven";

/// Entries after which a new snapshot is taken.
const DEFAULT_SNAPSHOT_EVERY: u64 = 10_000;

/// Most entries read for one request to a follower; their bytes are bounded by the frame.
const MAX_PAYLOAD_ENTRIES: u64 = 256;

/// Pauses between attempts to reach a follower that cannot be reached: short, so that one that comes back
/// is not left waiting. The transport has its own pauses between connection attempts.
const BACKOFF: &str = "50ms 100ms ..200ms";

/// Settings of a node; [`Self::start`] starts it.
pub struct RaftBuilder<S: StateMachine> {
    config: RaftConfig,
    cluster_name: String,
    fabric: Option<Fabric>,
    dir: Option<NodeDir>,
    transport: Option<(Transport, Router)>,
    machine: Option<S>,
    snapshot_every: u64,
    writer: WriterMode,
    disk: Option<SimulatedDisk>,
    tasks: Option<TaskGroup>,
    seed: Option<u64>,
    features: BTreeMap<String, u32>,
}

impl<S: StateMachine> fmt::Debug for RaftBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftBuilder")
            .field("config", &self.config)
            .field("cluster_name", &self.cluster_name)
            .field("dir", &self.dir.as_ref().map(NodeDir::path))
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> RaftBuilder<S> {
    pub(crate) fn new(config: RaftConfig) -> Self {
        Self {
            config,
            cluster_name: DEFAULT_CLUSTER.into(),
            fabric: None,
            dir: None,
            transport: None,
            machine: None,
            snapshot_every: DEFAULT_SNAPSHOT_EVERY,
            writer: WriterMode::default(),
            disk: None,
            tasks: None,
            seed: None,
            features: BTreeMap::new(),
        }
    }

    /// The replicated state, empty. Required.
    #[must_use]
    pub fn state_machine(mut self, machine: S) -> Self {
        self.machine = Some(machine);
        self
    }

    /// Name of the cluster: which process-local fabric to join, and a field of log lines. Default `rivven`.
    #[must_use]
    pub fn cluster_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.cluster_name);
        self
    }

    /// Joins this fabric, whatever the name of the cluster. Without effect beside [`Self::transport`].
    #[must_use]
    pub fn fabric(mut self, fabric: &Fabric) -> Self {
        self.fabric = Some(fabric.clone());
        self
    }

    /// Keeps log, vote and snapshots in this directory. Without it nothing is durable.
    #[must_use]
    pub fn data_dir(mut self, dir: NodeDir) -> Self {
        self.dir = Some(dir);
        self
    }

    /// Reaches peers over `transport`, whose table of methods is `router`, in place of a fabric.
    ///
    /// The caller keeps ownership: it tells the transport where peers are, says who votes by
    /// [`RaftNode::initialize`], and shuts the transport down after the node.
    #[must_use]
    pub fn transport(mut self, transport: Transport, router: Router) -> Self {
        self.transport = Some((transport, router));
        self
    }

    /// Takes a snapshot whenever this many entries were committed since the last. Default 10,000.
    ///
    /// The log is purged behind the older of the two snapshots kept, so it holds between one and two times
    /// as many entries.
    #[must_use]
    pub const fn snapshot_every(mut self, entries: u64) -> Self {
        self.snapshot_every = if entries == 0 { 1 } else { entries };
        self
    }

    /// Writes the log inside the calling task, without a thread or group commit: for simulation.
    #[must_use]
    pub const fn inline_writes(mut self) -> Self {
        self.writer = WriterMode::Inline;
        self
    }

    /// Keeps the log of the data directory on a simulated disk, written by a task: for simulation.
    #[must_use]
    pub fn simulated_disk(mut self, disk: &SimulatedDisk) -> Self {
        self.disk = Some(disk.clone());
        self
    }

    /// Runs everything in this group, which is the node's alone, in place of one that the node makes: for
    /// simulation, where a [simulated](TaskGroup::simulated) group can be suspended.
    #[must_use]
    pub fn tasks(mut self, tasks: TaskGroup) -> Self {
        self.tasks = Some(tasks);
        self
    }

    /// Seeds the random election timeouts: for simulation. Default: randomness of the operating system.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Says that this node supports a feature of the application up to `level`.
    ///
    /// Commands that [`require`](StateMachine::requires) a level are refused until it is finalised by
    /// [`RaftNode::finalize_feature`]. A node stops when a level beyond its own is finalised.
    #[must_use]
    pub fn feature(mut self, name: &str, level: u32) -> Self {
        // This library's own level is not for others to say.
        if name != RIVVEN_FEATURE {
            self.features.insert(name.to_owned(), level);
        }
        self
    }

    /// Starts the node on the calling tokio runtime. Does not wait for a leader.
    ///
    /// On a fabric a node without a log founds the group with the configured voters; every founder may,
    /// since all write the same first entry.
    ///
    /// # Errors
    /// The settings contradict each other or the data directory cannot be used; nothing was changed.
    pub async fn start(self) -> Result<RaftNode<S>, StartError> {
        let timing = Timing::of(&self.config)?;
        let voters = self.config.voters()?;
        let node_id = self.config.node_id;
        let machine = self.machine.ok_or(StartError::NoStateMachine)?;
        if let Some(dir) = &self.dir {
            check_identity(node_id, dir.node(), "data directory")?;
        }
        let (transport, router, fabric) = match self.transport {
            Some((transport, router)) => (transport, router, None),
            None => {
                let fabric = self.fabric.unwrap_or_else(|| Fabric::named(&self.cluster_name));
                let router = Router::new();
                let transport = fabric.join(node_id, &self.cluster_name, &voters, router.clone())?;
                (transport, router, Some(fabric))
            }
        };
        check_identity(node_id, transport.local().node, "transport")?;
        let seed = self.seed.unwrap_or_else(entropy);
        let core = CoreConfig {
            node_id,
            cluster_name: self.cluster_name,
            timing,
            snapshot_every: self.snapshot_every,
            durable: self.dir.is_some(),
            voters: voters.clone(),
        };
        let parts = Parts {
            machine,
            transport,
            fabric,
            scope: NodeScope::new(self.tasks.unwrap_or_else(TaskGroup::current), seed),
            features: Features::supporting(self.features),
        };
        let inner = match self.dir {
            Some(dir) => {
                let disk = LogDisk {
                    dir,
                    writer: self.writer,
                    simulated: self.disk,
                };
                parts.start_durable(core, disk).await?
            }
            None => {
                warn_not_durable(node_id);
                let snapshots = Snapshots::memory();
                parts.start(core, MemLogStore::new(), snapshots, None).await?
            }
        };
        service::register(&router, &inner);
        let node = RaftNode::of(inner);
        if node.inner().fabric.is_some() {
            found(&node, voters.into_iter()).await?;
        }
        Ok(node)
    }
}

fn check_identity(configured: NodeId, found: NodeId, what: &'static str) -> Result<(), StartError> {
    if configured == found {
        return Ok(());
    }
    Err(StartError::IdentityMismatch {
        configured,
        found,
        what,
    })
}

fn warn_not_durable(node_id: NodeId) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            node_id,
            "the Raft log is in memory and nothing is durable; give `RaftNode::builder` a data directory"
        );
    });
}

async fn found<S: StateMachine>(
    node: &RaftNode<S>,
    voters: impl Iterator<Item = NodeId>,
) -> Result<(), StartError> {
    let voters = voters.map(|voter| (voter, fabric_addr(voter))).collect();
    match node.initialize(voters).await {
        // A node with a log is a member already.
        Ok(()) | Err(InitializeError::AlreadyInitialized) => Ok(()),
        Err(error) => Err(StartError::Core {
            cause: error.to_string(),
        }),
    }
}

/// What the consensus core is configured with.
struct CoreConfig {
    node_id: NodeId,
    cluster_name: String,
    timing: Timing,
    snapshot_every: u64,
    durable: bool,
    voters: BTreeSet<NodeId>,
}

impl CoreConfig {
    fn build(&self) -> Result<Arc<Config>, StartError> {
        let config = Config {
            cluster_name: self.cluster_name.clone(),
            heartbeat_interval: self.timing.heartbeat_ms,
            election_timeout_min: self.timing.election_min_ms,
            election_timeout_max: self.timing.election_max_ms,
            max_payload_entries: MAX_PAYLOAD_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            replication_lag_threshold: self.snapshot_every.saturating_mul(2),
            // Never by itself: see `purge_behind_snapshots`.
            max_in_snapshot_log_to_keep: u64::MAX,
            // A leader that restores itself after a restart answers reads from a state behind its own
            // acknowledged writes.
            enable_leader_restore: Some(false),
            enable_pre_vote: Some(true),
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

/// What every node is made of, durable or not.
struct Parts<S> {
    machine: S,
    transport: Transport,
    fabric: Option<Fabric>,
    scope: NodeScope,
    features: Features,
}

impl<S: StateMachine> Parts<S> {
    async fn start_durable(self, core: CoreConfig, disk: LogDisk) -> Result<Arc<Inner<S>>, StartError> {
        let group = self.scope.group().clone();
        let open = move || {
            let log = disk.open_log(&group).map_err(|error| StartError::Storage {
                code: error.code(),
                cause: io::Error::other(error),
            })?;
            let dir = disk.dir;
            let snapshots = dir.open_snapshots().map_err(|error| StartError::Storage {
                code: error.code(),
                cause: io::Error::other(error),
            })?;
            Ok((dir, log, snapshots))
        };
        let opened = self.scope.group().blocking(open).await;
        let (dir, mut log, snapshots) = opened.map_err(|error| StartError::Core {
            cause: error.to_string(),
        })??;
        let patient = Patient {
            transport: &self.transport,
            group: self.scope.group(),
            peers: &core.voters,
            snapshots: &snapshots,
        };
        patient.repair(&mut log).await?;
        self.start(core, log, Snapshots::Files(snapshots), Some(dir))
            .await
    }

    async fn start<L: RaftLogStorage<TypeConfig>>(
        self,
        core: CoreConfig,
        log: L,
        snapshots: Snapshots,
        dir: Option<NodeDir>,
    ) -> Result<Arc<Inner<S>>, StartError> {
        let Self {
            machine,
            transport,
            fabric,
            scope,
            features,
        } = self;
        let supported = features.supported().clone();
        let shared = Arc::new(Shared::new(machine, features));
        let machine = Machine {
            shared: Arc::clone(&shared),
            snapshots: snapshots.clone(),
            scope: scope.clone(),
        };
        let peers = Peers {
            transport: transport.clone(),
        };
        let config = core.build()?;
        let starting = scope.run(Raft::new(core.node_id, config, peers, log, machine));
        let raft = starting.await.map_err(|fatal| StartError::Core {
            cause: fatal.to_string(),
        })?;
        let source = Arc::new(StatusSource::new(raft.metrics()));
        drop(
            scope
                .group()
                .spawn(supervise(core.node_id, raft.metrics(), Arc::clone(&source))),
        );
        drop(
            scope
                .group()
                .spawn(purge_behind_snapshots(raft.clone(), snapshots.clone())),
        );
        let ticks = propose_ticks(
            core.node_id,
            raft.clone(),
            Arc::clone(&shared),
            Arc::clone(&source),
        );
        drop(scope.group().spawn(ticks));
        let courier = Courier::new(transport.clone(), scope.group().clone());
        let courier = Arc::new(courier);
        Ok(Arc::new(Inner {
            node_id: core.node_id,
            raft,
            shared,
            snapshots,
            transport,
            fabric,
            scope,
            source,
            reception: Arc::default(),
            supported,
            room: Room::default(),
            courier,
            shelf: Mutex::default(),
            dir: tokio::sync::Mutex::new(dir),
        }))
    }
}

/// Says in the log why the core ended, if it ended by itself, and who leads whenever that changes.
async fn supervise(node_id: NodeId, mut metrics: TokioWatchReceiver<RaftMetrics>, source: Arc<StatusSource>) {
    let mut seen = (0, None);
    loop {
        let (running, now) = {
            let metrics = metrics.borrow_and_update();
            let leading = (metrics.current_term, metrics.current_leader);
            (metrics.running_state.clone(), leading)
        };
        if let Err(fatal) = running {
            if source.stop_reason_given().is_none() {
                tracing::error!(node_id, cause = %fatal, "the Raft node has stopped; repair the cause and restart it");
                source.stop(fatal.to_string());
            }
            return;
        }
        if now != seen {
            seen = now;
            source.set_leader(now.1);
            tracing::info!(node_id, term = now.0, leader = now.1, "leadership");
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Purges the log behind the older of the two snapshots kept, whenever there is a new one.
async fn purge_behind_snapshots<M>(raft: Raft<TypeConfig, M>, snapshots: Snapshots)
where
    M: RaftStateMachine<TypeConfig>,
{
    let mut metrics = raft.metrics();
    let (mut newest, mut purged) = (None, None);
    loop {
        let snapshot = metrics.borrow_and_update().snapshot;
        if snapshot != newest {
            newest = snapshot;
            let upto = snapshots.purge_upto();
            if let Some(upto) = upto.filter(|upto| purged < Some(*upto)) {
                purged = Some(upto);
                if raft.trigger().purge_log(upto).await.is_err() {
                    return;
                }
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
