//! `RaftNode`: the handle that applications hold.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use openraft::{async_runtime::watch::WatchReceiver, errors::RaftError};
use rivven_raft_store::NodeDir;
use rivven_transport::{CallCtx, CallError, PeerStatus, Transport};
use rivven_types::{InstanceId, NodeId, PeerAddr};
use tokio::{sync::watch, time::Instant};

use crate::{
    Fabric, InitializeError, KvStore, NoLeader, RaftBuilder, RaftConfig, RaftStatus, RaftWatch, StartError,
    StateMachine, TransferError,
    applied::Shared,
    arrivals::Arrivals,
    core::{CoreHandle, CoreSlot, Down},
    courier::Courier,
    divergence::compare_replicas,
    launch::{Disk, Plant},
    membership::Driver,
    promise::Promise,
    read::ReadRounds,
    reception::Reception,
    runtime::NodeScope,
    shelf::Shelf,
    snapshot::Snapshots,
    snapshot_rate::SnapshotRate,
    stages::Stages,
    status::StatusSource,
    submit::{RETRY_INTERVAL, Room},
    supervise::supervise,
    system::Levels,
    types::{Seat, Vote},
    wire::{Ping, TransferTo, WireTransferToResponse},
};

/// How long the consensus core may take to finish what it is doing when the node is shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How long a transfer of leadership may take: the new leader has to catch up and win a vote.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection to the leader may take to come up before the node looks for a leader again.
const REACH_TIMEOUT: Duration = Duration::from_millis(200);

/// A replica of a state machine, and a vote in the group that keeps the replicas equal.
///
/// Clones are the same node. When the last one is dropped the node ends at once; [`Self::shutdown`] ends
/// it in order and waits.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rivven_raft::{Consistency, KvCommand, RaftConfig, RaftNode};
///
/// // Three nodes of one process. Nothing is durable without a data directory.
/// let mut nodes = Vec::new();
/// for node_id in 1..=3 {
///     let config = RaftConfig {
///         node_id,
///         peers: (1..=3).filter(|peer| *peer != node_id).collect(),
///         election_timeout_ms: 150..300,
///         heartbeat_interval_ms: 50,
///     };
///     nodes.push(RaftNode::new(config).await?);
/// }
/// // Any node takes proposals and reads; they find the leader.
/// nodes[0].propose(KvCommand::put("greeting", "hello")).await?;
/// let read = nodes[2]
///     .read(Consistency::Linearizable, |kv| kv.get("greeting").cloned())
///     .await?;
/// assert_eq!(read.value.map(|entry| entry.value), Some("hello".into()));
/// # Ok(())
/// # }
/// ```
pub struct RaftNode<S: StateMachine>(Arc<Owner<S>>);

/// Ends the node when the last handle is gone; the node's own tasks and handlers do not count.
struct Owner<S: StateMachine>(Arc<Inner<S>>);

pub(crate) struct Inner<S: StateMachine> {
    pub(crate) node_id: NodeId,
    core: Arc<CoreSlot<S>>,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) snapshots: Snapshots,
    pub(crate) transport: Transport,
    /// The fabric joined, which this node then has to leave; `None` over a transport of the caller's.
    pub(crate) fabric: Option<Fabric>,
    pub(crate) scope: NodeScope,
    pub(crate) source: Arc<StatusSource>,
    pub(crate) reception: Reception,
    pub(crate) arrivals: Arrivals,
    pub(crate) driver: Arc<Driver<S>>,
    /// The feature levels of this release and this application.
    pub(crate) supported: Levels,
    pub(crate) room: Room,
    pub(crate) courier: Arc<Courier>,
    pub(crate) shelf: Mutex<Shelf>,
    pub(crate) rounds: ReadRounds,
    pub(crate) stages: Arc<Stages>,
    /// `None` while lease reads are off.
    pub(crate) promise: Option<Arc<Promise>>,
    pub(crate) snapshot_rate: Arc<SnapshotRate>,
    /// The lock of the data directory, given back once nothing writes there any more.
    dir: Mutex<Option<Arc<NodeDir>>>,
    /// Whether everything that the node did has ended.
    ended: watch::Sender<bool>,
}

impl<S: StateMachine> Clone for RaftNode<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: StateMachine> fmt::Debug for RaftNode<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RaftNode").field(&self.status()).finish()
    }
}

impl<S: StateMachine> Drop for Owner<S> {
    fn drop(&mut self) {
        self.0.end("the last handle was dropped");
    }
}

impl RaftNode<KvStore> {
    /// Starts a node of the default cluster of this process, with [`KvStore`] and its log in memory.
    ///
    /// Nodes that name each other find each other and elect a leader; this returns without waiting for
    /// that. It opens no port and no file, so nothing survives the process, which it warns of once.
    /// [`RaftNode::builder`] takes a data directory, a transport and any other state machine.
    ///
    /// # Errors
    /// The configuration is impossible, a live node of this process has the id, or the nodes do not name
    /// the same founders.
    pub async fn new(config: RaftConfig) -> Result<Self, StartError> {
        Self::builder(config).state_machine(KvStore::new()).start().await
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// A node with settings beyond [`RaftConfig`].
    #[must_use]
    pub fn builder(config: RaftConfig) -> RaftBuilder<S> {
        RaftBuilder::new(config)
    }

    pub(crate) fn of(inner: Arc<Inner<S>>) -> Self {
        Self(Arc::new(Owner(inner)))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner<S>> {
        &self.0.0
    }

    /// Founds the group with these voters. Once, on one founder or with the same set on several.
    ///
    /// # Errors
    /// [`InitializeError::AlreadyInitialized`] when the node has a log, as after a restart; otherwise
    /// nothing was changed either.
    pub async fn initialize(&self, voters: BTreeMap<NodeId, PeerAddr>) -> Result<(), InitializeError> {
        let unbound = |(node, addr)| (node, Seat::unbound(addr));
        self.inner()
            .initialize(voters.into_iter().map(unbound).collect())
            .await
    }

    /// As [`Self::initialize`], with the data directories of the founders: from the first entry on no other
    /// one can take the place of a founder. Without them the leader binds each founder to the directory that
    /// it first comes with.
    ///
    /// # Errors
    /// As [`Self::initialize`].
    pub async fn initialize_bound(
        &self,
        voters: BTreeMap<NodeId, (PeerAddr, InstanceId)>,
    ) -> Result<(), InitializeError> {
        let bound = |(node, (addr, instance))| {
            let instance = Some(instance);
            (node, Seat { addr, instance })
        };
        self.inner()
            .initialize(voters.into_iter().map(bound).collect())
            .await
    }

    /// This node's view of itself and its group.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        self.inner().status()
    }

    /// Follows [`Self::status`]: as it is and then what changes in it ([`RaftWatch::next`]), or each status that differs
    /// from the one before ([`RaftWatch::changed`]).
    #[must_use]
    pub fn watch(&self) -> RaftWatch {
        RaftWatch::new(Arc::clone(&self.inner().source))
    }

    /// Waits until this node follows a leader or leads, and says whom.
    ///
    /// # Errors
    /// There was none within `timeout`, or the node stopped.
    pub async fn wait_for_leader(&self, timeout: Duration) -> Result<NodeId, NoLeader> {
        let mut watch = self.watch();
        let found = tokio::time::timeout(timeout, async {
            loop {
                match self.inner().source.confirmed_leader() {
                    Ok(Some(leader)) => return Some(leader),
                    Ok(None) => drop(watch.changed().await),
                    Err(Down::Suspended(_)) => drop(watch.changed().await),
                    Err(Down::Stopped(_)) => return None,
                }
            }
        });
        found.await.ok().flatten().ok_or(NoLeader {
            node: self.inner().node_id,
            waited: timeout,
        })
    }

    /// Hands leadership to `to` once that has caught up. Proposals made during the hand-over wait for the new leader;
    /// until then the old one takes them, and if `to` does not catch up within five seconds it goes on leading.
    ///
    /// # Errors
    /// `to` cannot lead, no leader could be asked, or it did not take over in time.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        self.inner().transfer_to(to).await
    }

    /// Ends the node in order: the core finishes what it writes, then every task ends. Idempotent.
    ///
    /// A leader that is shut down lets the group wait for its election timeout; transfer leadership first.
    pub async fn shutdown(&self) {
        self.inner().shutdown().await;
    }

    /// Ends the node in the middle of whatever it does, as a crash would: for simulation.
    ///
    /// Returns once its tasks are gone, so that its directory can be opened again.
    pub async fn kill(&self) {
        self.inner().kill("it was killed").await;
    }
}

impl<S: StateMachine> Inner<S> {
    /// Starts the first core of a node, and has it supervised.
    pub(crate) async fn start(plant: Plant<S>, fabric: Option<Fabric>) -> Result<Arc<Self>, StartError> {
        let core = plant.start().await?;
        let metrics = core.raft.metrics();
        let source = StatusSource::new(metrics, plant.news.subscribe(), plant.patience());
        let source = Arc::new(source);
        let slot = Arc::new(CoreSlot::new(core.raft.clone()));
        let node = Self {
            node_id: plant.node_id,
            core: Arc::clone(&slot),
            shared: Arc::clone(&plant.shared),
            snapshots: plant.snapshots.clone(),
            transport: plant.transport.clone(),
            fabric,
            scope: plant.scope.clone(),
            source: Arc::clone(&source),
            reception: Reception::default(),
            arrivals: Arrivals::default(),
            driver: Driver::start(&plant, &slot, &source),
            supported: plant
                .shared
                .read_system(|system| system.features.supported().clone())
                .await,
            room: Room::default(),
            courier: Arc::new(Courier::new(plant.transport.clone(), plant.scope.group().clone())),
            shelf: Mutex::default(),
            rounds: ReadRounds::default(),
            stages: Arc::clone(&plant.stages),
            promise: plant.promise.clone(),
            snapshot_rate: Arc::clone(&plant.snapshot_rate),
            dir: Mutex::new(match &plant.disk {
                Disk::Dir { log, .. } => Some(Arc::clone(&log.dir)),
                Disk::Memory(_) => None,
            }),
            ended: watch::Sender::new(false),
        };
        let group = plant.scope.group().clone();
        let compare = compare_replicas(
            plant.node_id,
            Arc::clone(&plant.shared),
            plant.transport.clone(),
            Arc::clone(&source),
        );
        drop(group.spawn(compare));
        drop(group.spawn(supervise(plant, slot, source, core)));
        Ok(Arc::new(node))
    }

    /// The consensus core, or why there is none at this moment.
    pub(crate) fn raft(&self) -> Result<CoreHandle<S>, Down> {
        if let Some(down) = self.source.down() {
            return Err(down);
        }
        // Between two cores, for less than a moment.
        let none = || Down::Suspended("the consensus core is being replaced".into());
        self.core.get().ok_or_else(none)
    }

    /// Why the node no longer runs, if so.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        self.source.stop_reason()
    }

    pub(crate) fn status(&self) -> RaftStatus {
        let mut status = self.source.status();
        // Fresher than the core's own report, which comes after the next turn of its loop.
        status.applied_index = self.shared.applied_index().max(status.applied_index);
        status
    }

    /// The leader to ask, or why there is nobody to ask.
    pub(crate) fn leader(&self) -> Result<Option<NodeId>, Down> {
        self.source.leader()
    }

    /// Replies that wait to be fetched.
    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Each critical section leaves it whole.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current_vote(&self) -> Vote {
        self.source.metrics().borrow_watched().vote
    }

    pub(crate) async fn initialize(&self, voters: BTreeMap<NodeId, Seat>) -> Result<(), InitializeError> {
        let founders: Vec<NodeId> = voters.keys().copied().collect();
        let raft = self.raft().map_err(|down| InitializeError::Stopped {
            cause: down.to_string(),
        })?;
        let initialized = raft.call(|raft| async move { raft.initialize(voters).await });
        initialized.await.map_err(|error| match error {
            RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_)) => {
                InitializeError::AlreadyInitialized
            }
            RaftError::APIError(openraft::errors::InitializeError::NotInMembers(_)) => {
                InitializeError::NotAFounder {
                    node: self.node_id,
                    founders,
                }
            }
            RaftError::Fatal(fatal) => InitializeError::Stopped {
                cause: fatal.to_string(),
            },
        })
    }

    /// Makes sure of a connection to `leader`, so that what is then sent is not caught in dialling a node
    /// that is gone while another one takes over.
    pub(crate) async fn reach(&self, leader: NodeId) -> Result<(), String> {
        if self.transport.status(leader) == PeerStatus::Up {
            return Ok(());
        }
        let ctx = CallCtx::timeout(REACH_TIMEOUT);
        let reached = self.transport.call::<Ping>(leader, &(), ctx).await;
        reached.map_err(|error| format!("node {leader}: {error}"))
    }

    async fn transfer_to(&self, to: NodeId) -> Result<(), TransferError> {
        let deadline = Instant::now() + TRANSFER_TIMEOUT;
        let mut cause = String::from("there is none");
        let mut asked = None;
        loop {
            let status = self.status();
            if let Some(cause) = status.stopped {
                return Err(TransferError::Stopped { cause });
            }
            if status.leader == Some(to) {
                return Ok(());
            }
            if status.initialized && !status.voters.contains(&to) {
                let voters = status.voters.into_iter().collect();
                return Err(TransferError::NotAVoter { to, voters });
            }
            if Instant::now() >= deadline {
                return Err(match asked {
                    Some(_) => TransferError::Timeout {
                        to,
                        waited: TRANSFER_TIMEOUT,
                    },
                    None => TransferError::NoLeader { cause },
                });
            }
            // Each leader is asked once in its term; then it is a matter of waiting. Whoever was faster than `to`,
            // be it the one that handed over, leads another term.
            let leads = status.leader.map(|leader| (leader, status.term));
            if let Some(leads) = leads.filter(|leads| asked != Some(*leads)) {
                match self.ask_for_transfer(leads.0, to, deadline).await {
                    Ok(()) => asked = Some(leads),
                    Err(failure) => cause = failure,
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    async fn ask_for_transfer(&self, leader: NodeId, to: NodeId, deadline: Instant) -> Result<(), String> {
        if leader == self.node_id {
            // One that has not caught up in time is told apart by who leads then.
            return self.hand_over(to, deadline).await.map(|_in_time| ());
        }
        let response = self
            .transport
            .call::<TransferTo>(leader, &to, CallCtx::until(deadline))
            .await;
        match response {
            Ok(WireTransferToResponse::Started) | Err(CallError::Deadline) => Ok(()),
            Ok(WireTransferToResponse::NotLeader { leader: hint }) => {
                Err(format!("node {leader} does not lead; it names {hint:?}"))
            }
            Ok(WireTransferToResponse::Stopped { cause }) => Err(cause),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Ends every task at once.
    fn end(&self, reason: &str) {
        self.source.stop(reason.to_owned());
        self.scope.group().abort();
        if self.fabric.is_some() {
            // Leaving a process-local network takes no waiting, and frees the id this moment.
            let _ = self.transport.shutdown(Duration::ZERO).now_or_never();
        }
        let dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner).take();
        if *self.ended.borrow() {
            return;
        }
        // The lock on the directory goes last: what blocks on a disk cannot be interrupted, and nobody else
        // may write there meanwhile.
        let (group, ended) = (self.scope.group().clone(), self.ended.clone());
        let (reception, core) = (Arc::clone(&self.reception), Arc::clone(&self.core));
        let release = async move {
            core.set(None);
            while !group.join(SHUTDOWN_GRACE).await {
                tracing::warn!("a node that was ended still waits for its disk");
            }
            *reception.lock().await = None;
            drop(dir);
            ended.send_replace(true);
        };
        drop(self.scope.group().sibling().spawn(release));
    }

    async fn shutdown(&self) {
        let reason = "it was shut down";
        let raft = self.raft();
        self.source.stop(reason.into());
        if let Ok(raft) = raft {
            raft.end().await;
        }
        self.kill(reason).await;
    }

    async fn kill(&self, reason: &str) {
        let mut ended = self.ended.subscribe();
        self.end(reason);
        let ended = tokio::time::timeout(SHUTDOWN_GRACE, ended.wait_for(|ended| *ended)).await;
        if ended.is_err() {
            tracing::warn!(
                node_id = self.node_id,
                "some tasks have not ended yet; the data directory stays locked until they have"
            );
        }
    }
}
