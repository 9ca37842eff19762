//! Starting a node: what is given, what is checked, what is wired.

mod members;

use std::{collections::BTreeMap, fmt, num::NonZeroU64, sync::Arc, time::Duration};

use rivven_raft_store::{MemLogStore, NodeDir, SimulatedDisk, WriterMode};
use rivven_transport::{Router, TaskGroup, Transport};
use rivven_types::NodeId;
use tokio::sync::watch;

use crate::{
    Fabric, InitializeError, RaftConfig, RaftNode, StartError, StateMachine,
    applied::Shared,
    clock::Pace,
    config::Timing,
    fabric::fabric_addr,
    features::finalize_when_agreed,
    growth::{DEFAULT_MAX_GROWTH_BYTES, SnapshotRule},
    hint::watch_leader,
    launch::{CoreConfig, Disk, Plant},
    log_disk::LogDisk,
    node::Inner,
    promise::Promise,
    runtime::{NodeScope, entropy},
    service,
    snapshot::Snapshots,
    snapshot_rate::SnapshotRate,
    system::{Features, RIVVEN_FEATURE},
};

use self::members::{MemberSettings, introduce_as};

/// Name of the cluster that nodes without another name belong to.
const DEFAULT_CLUSTER: &str = "rivven";

/// Settings of a node; [`Self::start`] starts it.
pub struct RaftBuilder<S: StateMachine> {
    config: RaftConfig,
    cluster_name: String,
    fabric: Option<Fabric>,
    dir: Option<NodeDir>,
    transport: Option<(Transport, Router)>,
    machine: Option<S>,
    snapshots: SnapshotRule,
    writer: WriterMode,
    disk: Option<SimulatedDisk>,
    tasks: Option<TaskGroup>,
    seed: Option<u64>,
    pace: Pace,
    features: BTreeMap<String, u32>,
    auto_finalize: Option<Duration>,
    lease_reads: bool,
    max_snapshot_rate: Option<NonZeroU64>,
    members: MemberSettings,
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
            snapshots: SnapshotRule::Growth {
                most: DEFAULT_MAX_GROWTH_BYTES,
            },
            writer: WriterMode::default(),
            disk: None,
            tasks: None,
            seed: None,
            pace: Pace::TRUE,
            features: BTreeMap::new(),
            auto_finalize: None,
            lease_reads: false,
            max_snapshot_rate: None,
            members: MemberSettings::default(),
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

    /// Takes a snapshot whenever this many entries were committed since the last, however large the state is. Default:
    /// by growth, see [`Self::max_log_growth`].
    ///
    /// The log is purged behind the older of the two snapshots kept, so it holds between one and two times
    /// as many entries.
    #[must_use]
    pub const fn snapshot_every(mut self, entries: u64) -> Self {
        self.snapshots = SnapshotRule::Entries(if entries == 0 { 1 } else { entries });
        self
    }

    /// Takes a snapshot whenever the log has grown by as many bytes as the last snapshot has, by 8 MiB at least, and
    /// by `bytes` at most. Default 256 MiB; less than 8 MiB counts as 8 MiB.
    ///
    /// So snapshots are about as much to write as the log is. A larger bound writes less where the state is large; a
    /// smaller one has less to read at a start. The log is purged behind the older of the two snapshots kept, so it
    /// holds between one and two times as many bytes.
    #[must_use]
    pub const fn max_log_growth(mut self, bytes: u64) -> Self {
        self.snapshots = SnapshotRule::Growth { most: bytes };
        self
    }

    /// Sends snapshots at no more than so many bytes per second, to all nodes together. Default: no limit; less than
    /// [`MIN_SNAPSHOT_RATE`](crate::MIN_SNAPSHOT_RATE) counts as that.
    ///
    /// Without a limit a snapshot takes what others leave: it has a connection of its own, which sends less as soon as
    /// a queue builds up before it, wherever that is. A limit is for what is not noticed so: a line that is paid for by
    /// the byte, or a disk of a follower that others write to.
    ///
    /// A transfer may take as long as the rate makes it, and goes on where it stopped. But it should be over before the
    /// log behind the snapshot is purged, or a follower that lags is sent one snapshot after another: the rate must be
    /// higher than that at which the log is written, and as many times higher as the state is larger than
    /// [`Self::max_log_growth`]. Backups are not held back.
    #[must_use]
    pub const fn max_snapshot_rate(mut self, bytes_per_second: NonZeroU64) -> Self {
        self.max_snapshot_rate = Some(bytes_per_second);
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

    /// Has the clock of the consensus core count so many seconds in a hundred: for simulation. Default 100.
    ///
    /// Election timeouts, leases and heartbeats go by it; deadlines of calls do not.
    #[must_use]
    pub const fn clock_percent(mut self, percent: u32) -> Self {
        self.pace = Pace::percent(percent);
        self
    }

    /// Lets [`Consistency::Lease`](crate::Consistency::Lease) reads do without a round to a quorum. Off by default.
    ///
    /// A leader that a quorum has lately confirmed answers such reads by itself: no voter of that quorum helps to
    /// elect another while its own lease runs. Must be the same on every node. It assumes that while a lease runs, the
    /// monotonic clocks of any two nodes pass within a tenth of each other, and that they go on while a process or its
    /// machine stands still. The second is not so on a machine that is put to sleep or moved while it is paused
    /// (Linux does not count suspended time): where that happens, leave this off. A lease read under a broken
    /// assumption may miss writes; nothing else is harmed.
    ///
    /// A node that has just started does not vote or stand for election for one lease, since it does not know what it
    /// had confirmed before; and the death of the leader's process is noticed by the election timeout alone.
    #[must_use]
    pub const fn lease_reads(mut self) -> Self {
        self.lease_reads = true;
        self
    }

    /// Says that this node supports a feature of the application up to `level`.
    ///
    /// Commands that [`require`](StateMachine::requires) a level are refused until it is finalised by
    /// [`RaftNode::finalize_feature`], or by itself with [`Self::auto_finalize`]. A node stops when a level beyond its
    /// own is finalised.
    #[must_use]
    pub fn feature(mut self, name: &str, level: u32) -> Self {
        // This library's own level is not for others to say.
        if name != RIVVEN_FEATURE {
            self.features.insert(name.to_owned(), level);
        }
        self
    }

    /// Finalises levels by itself: those that every member has supported for `after`, without a break. Off by default.
    ///
    /// Until then any member can go back to its earlier release; from then on none can. So `after` is how long a new
    /// release is given to prove itself on all nodes; a member that does not answer begins that time anew. The leader's
    /// setting counts; it looks every 10 s, and as often as `after` if that is shorter.
    #[must_use]
    pub const fn auto_finalize(mut self, after: Duration) -> Self {
        self.auto_finalize = Some(after);
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
        let node_id = self.config.node_id;
        let mut voters = self.config.voters()?;
        if self.members.joining.is_some() {
            voters.remove(&node_id);
        }
        let durable = self.dir.is_some();
        let machine = self.machine.ok_or(StartError::NoStateMachine)?;
        if let Some(dir) = &self.dir {
            check_identity(node_id, dir.node(), "data directory")?;
        }
        let (transport, router, fabric) = match self.transport {
            Some((transport, router)) => (transport, router, None),
            None => {
                let fabric = self.fabric.unwrap_or_else(|| Fabric::named(&self.cluster_name));
                let founders = self.members.joining.is_none().then_some(&voters);
                let router = Router::new();
                let node = (node_id, self.cluster_name.as_str());
                let transport = fabric.join(node, self.dir.as_ref(), founders, router.clone())?;
                (transport, router, Some(fabric))
            }
        };
        check_identity(node_id, transport.local().node, "transport")?;
        let tasks = self.tasks.unwrap_or_else(TaskGroup::current);
        let scope = NodeScope::new(tasks, self.seed.unwrap_or_else(entropy))
            .with_pace(self.pace)
            .with_vote_ttl(Duration::from_millis(timing.election_min_ms));
        let config = CoreConfig {
            cluster_name: self.cluster_name,
            timing,
            snapshots: self.snapshots,
            durable,
            lease_reads: self.lease_reads,
        };
        let (disk, snapshots) = match self.dir {
            Some(dir) => open(dir, self.writer, self.disk, &scope).await?,
            None => {
                warn_not_durable(node_id);
                (Disk::Memory(MemLogStore::new()), Snapshots::memory())
            }
        };
        let shared = Shared::new(machine, Features::supporting(self.features), self.snapshots);
        let plant = Plant {
            node_id,
            config: config.build()?,
            peers: voters.clone(),
            transport,
            shared: Arc::new(shared),
            snapshots,
            news: watch::Sender::default(),
            scope,
            disk,
            stages: Arc::default(),
            promise: self
                .lease_reads
                .then(|| Arc::new(Promise::new(timing.lease(), self.pace))),
            policy: self.members.policy(timing, durable),
            snapshot_rate: Arc::new(SnapshotRate::new(self.max_snapshot_rate)),
        };
        let inner = Inner::start(plant, fabric).await?;
        serve(&router, &inner, timing, self.auto_finalize);
        let node = RaftNode::of(inner);
        match self.members.joining {
            Some(join) => introduce_as(&node, join, voters.into_iter().collect()),
            None if node.inner().fabric.is_some() => found(&node, voters.into_iter()).await?,
            None => {}
        }
        Ok(node)
    }
}

/// Answers peers, looks after the leader unless lease reads count on its lease, and finalises levels if asked to.
fn serve<S: StateMachine>(
    router: &Router,
    node: &Arc<Inner<S>>,
    timing: Timing,
    auto_finalize: Option<Duration>,
) {
    service::register(router, node);
    if let Some(after) = auto_finalize {
        let finalize = finalize_when_agreed(Arc::downgrade(node), after);
        drop(node.scope.group().spawn(finalize));
    }
    if node.promise.is_none() {
        let watch = watch_leader(Arc::downgrade(node), timing.knock_interval());
        drop(node.scope.group().spawn(watch));
    }
}

/// Opens the snapshots of a data directory; its log is opened with each core.
async fn open(
    dir: NodeDir,
    writer: WriterMode,
    simulated: Option<SimulatedDisk>,
    scope: &NodeScope,
) -> Result<(Disk, Snapshots), StartError> {
    let open = move || {
        let snapshots = dir.open_snapshots().map_err(|error| StartError::Storage {
            code: error.code(),
            cause: error.into(),
        })?;
        Ok((Arc::new(dir), snapshots))
    };
    let opened = scope.group().blocking(open).await;
    let (dir, snapshots) = opened.map_err(|error| StartError::Core {
        cause: error.to_string(),
    })??;
    let kept = Snapshots::Files(snapshots.clone());
    let log = LogDisk {
        dir,
        writer,
        simulated,
    };
    let disk = Disk::Dir { log, snapshots };
    Ok((disk, kept))
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
