//! One simulated machine: a disk that outlives its processes, and the process that runs on it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rivven_raft::{
    InstanceId, JoinAs, KvStore, MemoryNetwork, NodeDir, NodeId, PeerAddr, RaftConfig, RaftNode, Replace,
    SimulatedDisk, TaskGroup,
};
use rivven_transport::{LocalIdentity, Router, Transport};
use rivven_types::ClusterId;
use tokio::time::{sleep, timeout};

use super::{
    chance::Chance,
    logs::Log,
    priority::{self, Priorities},
    trace::Trace,
};

/// The node that every host runs.
pub type Node = RaftNode<KvStore>;

/// The cluster of every simulation.
const CLUSTER: ClusterId = ClusterId::from_bytes([0x51; 16]);

/// How long a process may take from its start to its first answer, in simulated time.
const BOOT_TIME: Duration = Duration::from_secs(60);

/// Pause before a node says again who it is.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(500);

/// How long the tasks of a killed process may take to be gone.
const KILL_TIME: Duration = Duration::from_secs(1);

/// What all hosts of a run share.
#[derive(Clone, Debug)]
pub struct World {
    /// The network between them.
    pub network: MemoryNetwork,
    /// What happened.
    pub trace: Trace,
    /// Seed of the run.
    pub seed: u64,
    /// Entries after which a node takes a snapshot.
    pub snapshot_every: u64,
    /// Who founds the group.
    pub founders: Vec<NodeId>,
    /// Every node that there is; those that are no founders join.
    pub everybody: Vec<NodeId>,
    /// Election timeout in milliseconds.
    pub election_ms: std::ops::Range<u64>,
    /// Heartbeat interval in milliseconds.
    pub heartbeat_ms: u64,
    /// Whether leaders answer reads by their lease.
    pub lease_reads: bool,
    /// How the clocks of the machines pass.
    pub clocks: Clocks,
    /// What the leader does about a node with an empty disk.
    pub replace: Replace,
    /// Who should lead more than others.
    pub priorities: Priorities,
}

/// How fast the clocks of machines pass, in hundredths of true time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// All alike.
    True,
    /// Each somewhat off, and otherwise after each boot, but never further from one another than lease reads
    /// assume.
    Drifting,
    /// That of node 1 is so slow that its leases outlast what the others promised.
    Broken,
}

/// Slowest and fastest of clocks that drift: a tenth apart, which is all that lease reads bear.
const DRIFT: (u64, u64) = (95, 104);

/// The clock of node 1 where clocks are broken. It still sends its heartbeats often enough to lead.
const BROKEN: u32 = 30;

impl Clocks {
    /// The clock of a node in one of its boots.
    fn percent(self, seed: u64, node: NodeId, boot: u64) -> u32 {
        match self {
            Self::True => 100,
            Self::Drifting => {
                let (slowest, fastest) = DRIFT;
                let mut chance = Chance::new(seed, node << 16 | boot << 8 | 5);
                u32::try_from(slowest + chance.below(fastest - slowest + 1)).unwrap_or(100)
            }
            Self::Broken if node == 1 => BROKEN,
            Self::Broken => 100,
        }
    }
}

/// A machine of the simulation. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: NodeId,
    world: World,
    dir: PathBuf,
    disk: SimulatedDisk,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    boots: u64,
    /// Wipes of the disk, each of which makes another data directory.
    wipes: u64,
    part: Part,
    process: Option<Process>,
}

/// Whether a machine's node belongs to the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// It does.
    #[default]
    Taken,
    /// It may have been removed.
    Retired,
    /// It was removed, and its disk has been emptied since.
    Emptied,
}

#[derive(Clone, Debug)]
struct Process {
    /// Which start of the machine this is.
    boot: u64,
    tasks: TaskGroup,
    node: Option<(Node, Transport)>,
    paused: bool,
}

impl Host {
    /// A machine that is switched off, with an empty disk; the small files of its node go under `root`.
    #[must_use]
    pub fn new(id: NodeId, root: &std::path::Path, world: World) -> Self {
        let disk = SimulatedDisk::new(Chance::new(world.seed, id << 16 | 1).bits());
        Self(Arc::new(Inner {
            id,
            dir: root.join(id.to_string()),
            world,
            disk,
            state: Mutex::default(),
        }))
    }

    /// The id of its node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &SimulatedDisk {
        &self.0.disk
    }

    /// The running node and its tasks; `None` while it is off or still starting.
    #[must_use]
    pub fn node(&self) -> Option<(Node, TaskGroup)> {
        let state = self.state();
        let process = state.process.as_ref()?;
        let (node, _) = process.node.as_ref()?;
        Some((node.clone(), process.tasks.clone()))
    }

    /// How often it was started.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.state().boots
    }

    /// Whether a process runs, paused or not.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.state().process.is_some()
    }

    /// Whether its process stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state()
            .process
            .as_ref()
            .is_some_and(|process| process.paused)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves the state whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process, unless one runs, and waits until its node has started; it is stopped meanwhile by
    /// [`Self::kill`]. Gives the node, or `None` if the process did not get so far.
    pub async fn boot(&self) -> Option<Node> {
        let tasks = TaskGroup::simulated();
        let boot = {
            let mut state = self.state();
            if state.process.is_some() {
                return None;
            }
            state.boots += 1;
            state.process = Some(Process {
                boot: state.boots,
                tasks: tasks.clone(),
                node: None,
                paused: false,
            });
            state.boots
        };
        self.0.disk.power_up();
        let trace = &self.0.world.trace;
        trace.event(format_args!("node {} boot {boot}", self.id()));
        let start = tasks.spawn(start(Arc::clone(&self.0), tasks.clone(), boot));
        match timeout(BOOT_TIME, start).await {
            Ok(Ok(Some(Ok((node, transport))))) => {
                let mut state = self.state();
                let process = state.process.as_mut();
                process.filter(|process| process.boot == boot)?.node = Some((node.clone(), transport));
                Some(node)
            }
            // Killed meanwhile, or its disk was taken away in the middle of a write.
            Ok(Ok(None)) => None,
            Ok(Ok(Some(Err(_)))) if self.0.disk.is_off() => None,
            Ok(Ok(Some(Err(error)))) => {
                trace.violation(format!("node {} does not start: {error}", self.id()));
                None
            }
            Ok(Err(panic)) => {
                trace.violation(format!("node {} panicked at its start: {panic}", self.id()));
                None
            }
            Err(_) => {
                trace.violation(format!("node {} is not started after {BOOT_TIME:?}", self.id()));
                None
            }
        }
    }

    /// Reads the log that a power cut has left, on a machine that is off. `None`: there is none, or it is damaged,
    /// which is reported.
    #[must_use]
    pub fn log_left(&self) -> Option<Log> {
        let image = self.0.disk.image();
        if image.is_empty() {
            return None;
        }
        let path = self.0.dir.with_extension("log");
        let read = std::fs::write(&path, image)
            .map_err(|error| error.to_string())
            .and_then(|()| Log::read(self.id(), &path).map_err(|error| error.to_string()));
        match read {
            Ok(log) => Some(log),
            Err(error) => {
                let violation = format!("the log of node {} is damaged: {error}", self.id());
                self.0.world.trace.violation(violation);
                None
            }
        }
    }

    /// Cuts the power: the process is gone this moment, and of what its disk had not synced a random part is.
    pub async fn kill(&self) {
        self.0.disk.cut_power();
        let Some(process) = self.state().process.take() else {
            return;
        };
        self.0
            .world
            .trace
            .event(format_args!("node {} is killed", self.id()));
        let unfinished = unfinished(&self.0);
        process.tasks.abort();
        if let Some((node, transport)) = process.node {
            transport.shutdown(Duration::ZERO).await;
            node.kill().await;
        }
        if !process.tasks.join(KILL_TIME).await {
            let violation = format!("tasks of node {} outlive it", self.id());
            self.0.world.trace.violation(violation);
        }
        leave_unfinished(&self.0, unfinished, process.boot);
    }

    /// Leaves behind what a power cut in the middle of writing a snapshot leaves, on a machine that is off:
    /// the beginning of one more file. Says whether there was a snapshot to take the beginning of.
    pub fn leave_snapshot_half_written(&self) -> bool {
        let Ok(files) = std::fs::read_dir(self.0.dir.join("snapshots")) else {
            return false;
        };
        let newest = files.filter_map(|file| Some(file.ok()?.path())).max();
        let Some((newest, bytes)) = newest.and_then(|path| Some((path.clone(), std::fs::read(path).ok()?)))
        else {
            return false;
        };
        let half = (newest.with_extension("tmp"), bytes);
        leave_unfinished(&self.0, vec![half], self.boots());
        true
    }

    /// Replaces the disk of a machine that is off by an empty one.
    pub fn wipe(&self) {
        self.0.disk.wipe();
        self.state().wipes += 1;
        // It may never have been there.
        let _ = std::fs::remove_dir_all(&self.0.dir);
        self.0
            .world
            .trace
            .event(format_args!("the disk of node {} is replaced", self.id()));
    }

    /// Its node is about to be removed from the group.
    pub fn retire(&self) {
        self.state().part = Part::Retired;
    }

    /// Whether its node may have been removed from the group.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.state().part != Part::Taken
    }

    /// Replaces the disk of a machine that is off, whose node has been removed.
    pub fn empty(&self) {
        self.wipe();
        self.state().part = Part::Emptied;
    }

    /// Whether its disk was replaced after its node had been removed.
    #[must_use]
    pub fn is_emptied(&self) -> bool {
        self.state().part == Part::Emptied
    }

    /// Its node belongs to the group, again or still.
    pub fn takes_part(&self) {
        self.state().part = Part::Taken;
    }

    /// Suspends the process, if one runs.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Lets a suspended process go on.
    pub fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        let mut state = self.state();
        let Some(process) = state.process.as_mut().filter(|process| process.paused != paused) else {
            return;
        };
        process.paused = paused;
        let tasks = process.tasks.clone();
        drop(state);
        let what = if paused { "stands still" } else { "goes on" };
        self.0
            .world
            .trace
            .event(format_args!("node {} {what}", self.id()));
        if paused { tasks.pause() } else { tasks.resume() }
    }
}

/// The address of a node in memberships; nobody dials it.
fn addr(id: NodeId) -> Option<PeerAddr> {
    format!("node-{id}:9093").parse().ok()
}

/// What the data directory of a node is named by, after so many wipes.
fn disk(seed: u64, id: NodeId, wipes: u64) -> [u8; 16] {
    let random = Chance::new(seed, id << 16 | 2).bits();
    (u128::from(random) << 64 | u128::from(wipes)).to_le_bytes()
}

type Started = Result<(Node, Transport), String>;

async fn start(host: Arc<Inner>, tasks: TaskGroup, boot: u64) -> Started {
    let world = &host.world;
    let wipes = host.state.lock().unwrap_or_else(PoisonError::into_inner).wipes;
    let seed = Chance::new(world.seed, host.id << 16 | 3).bits();
    let dir = NodeDir::open(&host.dir, CLUSTER, host.id, disk(world.seed, host.id, wipes))
        .map_err(|error| error.to_string())?;
    let identity = LocalIdentity {
        cluster: CLUSTER,
        node: host.id,
        instance: dir.instance(),
        boot_epoch: dir.boot_epoch(),
    };
    let router = Router::new();
    let transport = world
        .network
        .join_in(identity, router.clone(), tasks.clone())
        .map_err(|error| error.to_string())?;
    let founds = world.founders.contains(&host.id) && wipes == 0;
    let peers = if founds { &world.founders } else { &world.everybody };
    let config = RaftConfig {
        node_id: host.id,
        peers: peers.iter().copied().filter(|peer| *peer != host.id).collect(),
        election_timeout_ms: world.election_ms.clone(),
        heartbeat_interval_ms: world.heartbeat_ms,
    };
    let mut builder = RaftNode::builder(config);
    if !founds {
        builder = builder.joining(join_as(host.id));
    }
    if world.lease_reads {
        builder = builder.lease_reads();
    }
    let node = builder
        .transport(transport.clone(), router)
        .data_dir(dir)
        .simulated_disk(&host.disk)
        .tasks(tasks.clone())
        .seed(seed.wrapping_add(boot))
        .clock_percent(world.clocks.percent(world.seed, host.id, boot))
        .snapshot_every(world.snapshot_every)
        .replace(world.replace)
        .priority_hold(priority::HOLD)
        .state_machine(KvStore::new())
        .start()
        .await
        .map_err(|error| error.to_string())?;
    if founds && !node.status().initialized {
        let founder = |id: &NodeId| {
            let instance = InstanceId::from_random(disk(world.seed, *id, 0));
            Some((*id, (addr(*id)?, instance)))
        };
        let voters: BTreeMap<_, _> = world.founders.iter().filter_map(founder).collect();
        // Another start of it may have done so.
        let _ = node.initialize_bound(voters).await;
    }
    if let Some(priority) = world.priorities.get(&host.id) {
        let join = join_as(host.id).priority(*priority);
        let text = format_args!("node {} is of priority {priority}", host.id);
        world.trace.event(text);
        drop(tasks.spawn(announce(node.clone(), join)));
    }
    Ok((node, transport))
}

fn join_as(id: NodeId) -> JoinAs {
    let join = JoinAs::new();
    match addr(id) {
        Some(addr) => join.addr(addr),
        None => join,
    }
}

/// Says who the node is until the group knows. Ends with the process.
async fn announce(node: Node, join: JoinAs) {
    while node.announce(join.clone()).await.is_err() {
        sleep(ANNOUNCE_PAUSE).await;
    }
}

/// The snapshot files that are being written or received, and what is in them.
fn unfinished(host: &Inner) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(files) = std::fs::read_dir(host.dir.join("snapshots")) else {
        return Vec::new();
    };
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    // What this node writes of its own, and what it has received so far of another one's.
    let ends = ["tmp", "partial"];
    let paths = paths.filter(|path| {
        path.extension()
            .is_some_and(|end| ends.iter().any(|one| end == *one))
    });
    let mut unfinished: Vec<_> = paths
        .filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?)))
        .collect();
    unfinished.sort();
    unfinished
}

/// Does to files that were being written what a power cut does: they are there, cut off somewhere.
fn leave_unfinished(host: &Inner, unfinished: Vec<(PathBuf, Vec<u8>)>, boot: u64) {
    let mut chance = Chance::new(host.world.seed, host.id << 16 | boot << 8 | 4);
    for (path, mut bytes) in unfinished {
        bytes.truncate(usize::try_from(chance.below(bytes.len() as u64 + 1)).unwrap_or_default());
        if std::fs::write(path, bytes).is_ok() {
            let text = format_args!("node {} leaves an unfinished snapshot", host.id);
            host.world.trace.event(text);
        }
    }
}
