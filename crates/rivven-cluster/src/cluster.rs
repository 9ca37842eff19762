//! [`Cluster`]: one node of a cluster, started and held.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use rivven_hashring::{HashRing, RingError, RingNode, Weight};
use rivven_partition::{Node, NodeStatus};
use rivven_raft::NodeDir;
use rivven_swim::{SwimConfig, SwimNode};
use rivven_transport::{
    LocalIdentity, QuicKeys, QuicTransport, QuicTransportBuilder, Router, TaskGroup, Transport,
    gossip_keys::KeyKeeper, identity::IdentityWatch, random_bytes,
};
use rivven_types::NodeId;
use tokio::sync::{SetOnce, watch};

use crate::{
    Check, ClusterConfig, ClusterStatus, ClusterWatch, DataPlane, Kv, Members, MetadataOnly,
    PartitionManager, RotateError, ShutdownReport, StartError, TransferError,
    config::CheckedConfig,
    controller, data_plane,
    founding::{Founders, Founding, Introduce, Propose, View, bootstrap, bootstrap::Resolver},
    gossip_keys::{self, KeyRequests},
    health,
    inner::{Inner, Newcomer, Stage},
    joining, membership, offline, probe,
    published::Published,
    ring_meta::RingMeta,
    upkeep,
};

/// How long a call through a handle may take unless the handle says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often [`Cluster::wait_ready`] looks.
const READY_INTERVAL: Duration = Duration::from_millis(20);

/// One node of a cluster. Clones are the same node.
///
/// It runs on the tokio runtime that [`Self::start`] was called on, beside one thread for the log file and
/// the transport's own. When the last clone is dropped the node ends at once, as in a crash;
/// [`Self::shutdown`] lets it leave in order.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Owner>);

/// Ends the node with the last handle; tasks and the handles of parts do not count.
#[derive(Debug)]
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The node was not ready in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not ready within {waited:?}: {}", failed.iter().map(|check| format!("{}: {}", check.name, check.detail)).collect::<Vec<_>>().join("; "))]
#[non_exhaustive]
pub struct NotReady {
    /// How long was waited.
    pub waited: Duration,
    /// The checks that do not pass.
    pub failed: Vec<Check>,
}

impl NotReady {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "not-ready"
    }
}

impl Cluster {
    /// Starts a node.
    ///
    /// Returns once its ports are open and its data is loaded. Founding the cluster, joining gossip and
    /// finding a leader go on in the background for as long as they take, since peers may start later:
    /// [`Self::wait_ready`] waits for them, [`Self::status`] says how far they are.
    ///
    /// # Errors
    /// [`StartError`] names cause and remedy. Nothing keeps running and nothing on disk was harmed.
    pub async fn start(config: ClusterConfig) -> Result<Self, StartError> {
        Self::start_with(config, MetadataOnly).await
    }

    /// As [`Self::start`], with the program that holds the data of partitions on this node.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with<D: DataPlane>(config: ClusterConfig, plane: D) -> Result<Self, StartError> {
        let cluster = Self::open(config, D::HOLDS_DATA).await?;
        let inner = cluster.inner();
        if D::HOLDS_DATA {
            let plane = Arc::new(plane);
            let driven = data_plane::drive(Arc::clone(inner), inner.desk(), plane);
            inner.tasks.spawn(driven);
        } else {
            let node_id = inner.local.node;
            tracing::info!(
                node_id,
                "replicas hold only metadata: one that is assigned and alive counts as in sync"
            );
        }
        Ok(cluster)
    }

    async fn open(config: ClusterConfig, holds_data: bool) -> Result<Self, StartError> {
        let config = config.check()?;
        let (identity, issuer) = joining::load(&config)?;
        let (cluster, node) = (identity.cluster(), identity.node());
        let dir = NodeDir::open(&config.data_dir, cluster, node, random_bytes()?)?;
        let local = LocalIdentity {
            cluster,
            node,
            instance: dir.instance(),
            boot_epoch: dir.boot_epoch(),
        };
        offline::settle(&dir)?;
        let keys = QuicKeys::load_or_create(&dir.path().join("quic.key"))?;
        let tasks = TaskGroup::current();
        let first_key = gossip_keys::bootstrap(&config.tls_dir)?;
        let keeper = gossip_keys::open(first_key.clone(), dir.path(), &tasks)?;
        let founding = dir.path().join(offline::FOUNDING_FILE);
        let founders = Arc::new(Founders::open(local.clone(), founding, tasks.clone())?);
        let router = Router::new();
        serve(&router, &founders);
        let identity = IdentityWatch::from(identity);
        let builder = QuicTransport::builder(identity.clone(), local.clone()).keys(keys);
        let transport = start_quic(builder, &config, &router)?;
        let bound = transport.local_addr().unwrap_or(config.bind_address);
        let peers_file = dir.path().join("gossip.peers");
        let streams = (transport.clone(), router.clone());
        let swim = match start_gossip(&config, &local, &keeper, streams, peers_file).await {
            Ok(swim) => swim,
            Err(error) => {
                transport.shutdown(Duration::ZERO).await;
                return Err(error);
            }
        };
        let inner = Arc::new(Inner {
            resolver: Resolver::new(transport.clone(), config.peers.clone()),
            config,
            local,
            bound,
            tasks,
            transport,
            router,
            swim,
            keeper,
            key_demand: KeyRequests::default(),
            published: Arc::new(Published::new()),
            founders,
            identity,
            ledger: Arc::default(),
            issues: OnceLock::new(),
            raft: SetOnce::new(),
            dir: Mutex::new(Some(dir)),
            stage: watch::Sender::new(Stage::Up),
            newcomer: Newcomer::default(),
            problems: Mutex::default(),
            report: tokio::sync::Mutex::default(),
            holds_data,
            desk: OnceLock::new(),
        });
        let cluster = Self(Arc::new(Owner(Arc::clone(&inner))));
        joining::start(&inner, issuer, first_key);
        if let Err(error) = launch(&inner).await {
            inner.kill().await;
            return Err(error);
        }
        Ok(cluster)
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.inner().local.node
    }

    /// The address QUIC listens on.
    #[must_use]
    pub fn local_addr(&self) -> std::net::SocketAddr {
        self.inner().bound
    }

    /// This node's view of itself and its cluster.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        self.inner().status()
    }

    /// Follows [`Self::status`]: leader, term, role, indexes, membership, problems.
    #[must_use]
    pub fn watch(&self) -> ClusterWatch {
        ClusterWatch::new(self.inner())
    }

    /// The replicated key-value map.
    #[must_use]
    pub fn kv(&self) -> Kv {
        Kv::new(Arc::downgrade(self.inner()), DEFAULT_TIMEOUT)
    }

    /// Topics and partitions.
    #[must_use]
    pub fn partitions(&self) -> PartitionManager {
        PartitionManager::new(self.inner(), DEFAULT_TIMEOUT)
    }

    /// The members, as gossip has it.
    #[must_use]
    pub fn members(&self) -> Members {
        Members::new(self.inner().swim.clone())
    }

    /// The hash ring of the active nodes, under their ids, with their weights and zones and the configured virtual
    /// nodes. Nodes of weight 0 are left out.
    ///
    /// The ring routes where no assignment is kept; who leads a partition says [`Self::partitions`].
    ///
    /// # Errors
    /// There are more nodes or tokens than a ring takes.
    pub fn ring(&self) -> Result<HashRing, RingError> {
        let inner = self.inner();
        let ring = HashRing::try_new(inner.config.virtual_nodes)?;
        let nodes: Vec<RingNode> = inner.published.read(|state| {
            let nodes = state
                .map()
                .nodes()
                .filter(|node| node.status == NodeStatus::Active);
            nodes.filter_map(ring_node).collect()
        });
        ring.update(|ring| ring.add_all(nodes))?;
        Ok(ring)
    }

    /// Whether this process should go on living. Never asks for a quorum.
    #[must_use]
    pub fn liveness(&self) -> Vec<Check> {
        health::liveness(self.inner())
    }

    /// Whether this node can serve: every check must pass.
    #[must_use]
    pub fn readiness(&self) -> Vec<Check> {
        health::readiness(self.inner())
    }

    /// Waits until every check of [`Self::readiness`] passes.
    ///
    /// # Errors
    /// Some check did not pass within `timeout`.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let failed: Vec<Check> = self.readiness().into_iter().filter(|check| !check.ok).collect();
            if failed.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(NotReady {
                    waited: timeout,
                    failed,
                });
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }

    /// Hands the Raft leadership to `to`, from whichever node has it.
    ///
    /// # Errors
    /// [`TransferError`]; the group has a leader, or elects one, all the same.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        let raft = self.inner().raft().ok_or_else(|| TransferError::NotReady {
            cause: self.inner().waiting_for(),
        })?;
        Ok(raft.transfer_leader(to).await?)
    }

    /// Has the keys that seal gossip replaced, from whichever node, and says the epoch of the next one.
    ///
    /// Returns once the change has begun. It ends when every live member has the new key, or a minute later
    /// without those that do not answer; [`ClusterStatus::gossip_key_epoch`] shows it. The old key opens
    /// nothing a minute after that. Cancel safety: what was begun goes on.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn rotate_gossip_keys(&self) -> Result<u64, RotateError> {
        gossip_keys::rotate(self.inner()).await
    }

    /// Leaves in order: not ready any more, partition leaderships moved, Raft leadership handed over,
    /// goodbye said, everything flushed, the data directory given back. Idempotent.
    ///
    /// Takes about a second with peers, some more without their help. Cancel safety: a dropped
    /// future leaves the node half way out; call again.
    pub async fn shutdown(&self) -> ShutdownReport {
        self.inner().shutdown().await
    }

    /// Ends the node at once, as a crash would: nothing is handed over, nobody is told. For tests.
    ///
    /// When it returns, ports and data directory are free.
    pub async fn kill(&self) {
        self.inner().kill().await;
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }
}

/// A node as the ring has it; none if it is to take nothing.
fn ring_node(node: &Node) -> Option<RingNode> {
    let weight = Weight::percent(node.weight().into()).ok()?;
    let named = RingNode::new(node.id().to_string()).weighing(weight);
    Some(match node.zone() {
        Some(zone) => named.in_zone(zone.to_owned()),
        None => named,
    })
}

/// Answers what founders ask of each other, from the first packet on.
fn serve(router: &Router, founders: &Arc<Founders>) {
    let introduced = Arc::clone(founders);
    router.register::<Introduce, _, _>(move |caller, view: View| {
        let mine = introduced.introduced(caller.peer.node, &view);
        async move { Ok(mine) }
    });
    let proposed = Arc::clone(founders);
    router.register::<Propose, _, _>(move |caller, founding: Founding| {
        Arc::clone(&proposed).proposed(caller.peer.node, founding)
    });
    probe::serve(router, founders);
}

/// Opens the QUIC endpoint.
fn start_quic(
    builder: QuicTransportBuilder,
    config: &CheckedConfig,
    router: &Router,
) -> Result<Transport, StartError> {
    let builder = builder.bind(config.bind_address).router(router.clone());
    Ok(builder.provider(config.provider.clone()).start()?)
}

async fn start_gossip(
    config: &CheckedConfig,
    local: &LocalIdentity,
    keeper: &KeyKeeper,
    (transport, router): (Transport, Router),
    peers_file: PathBuf,
) -> Result<SwimNode, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let swim = SwimConfig {
        bind_addr: config.gossip_bind.into(),
        known_peers: config.known_peers.clone(),
        protocol_period_ms: millis(config.protocol_period),
        suspect_timeout_ms: millis(config.suspect_timeout),
    };
    let mut builder = SwimNode::builder(swim)
        .identity(local.clone())
        .key(keeper.keys())
        .streams(transport, router)
        .peers_file(peers_file)
        .meta(RingMeta::of(config).encode());
    if let Some(addr) = &config.gossip_advertise {
        builder = builder.advertise(addr.clone());
    }
    Ok(builder.start().await?)
}

/// Starts what runs: Raft at once if this disk has accepted a founding, else as soon as it has.
async fn launch(inner: &Arc<Inner>) -> Result<(), StartError> {
    inner.tasks.spawn(Arc::clone(&inner.resolver).run());
    inner.tasks.spawn(upkeep::watch_gossip(Arc::clone(inner)));
    gossip_keys::serve(inner);
    inner.tasks.spawn(gossip_keys::follow(Arc::clone(inner)));
    if let Some(founding) = inner.founders.accepted() {
        inner.start_raft(&founding).await?;
    }
    inner.tasks.spawn(found(Arc::clone(inner)));
    let running = Arc::clone(inner);
    inner.tasks.spawn(async move {
        let raft = running.raft.wait().await.clone();
        tokio::join!(
            controller::run(Arc::clone(&running), raft.clone()),
            gossip_keys::lead(Arc::clone(&running), raft.clone()),
            membership::keep_known(Arc::clone(&running), raft.clone()),
            upkeep::run(Arc::clone(&running), raft)
        )
    });
    Ok(())
}

/// Agrees on a founding and, on the lowest id, initialises Raft; nothing to do for a node that has state.
async fn found(inner: Arc<Inner>) {
    let founding = bootstrap::agree(&inner).await;
    let raft = match inner.raft.get() {
        Some(raft) => raft.clone(),
        None => match inner.start_raft(&founding).await {
            Ok(raft) => raft,
            Err(error) => {
                inner.note(error.code(), Some(error.to_string()));
                return;
            }
        },
    };
    if !founding.is_led_by(&inner.local) || inner.is_initialized() {
        return;
    }
    // The others ask to join, and stand by.
    let voters = founding.founders.iter().take(inner.config.members.voter_target);
    let voters = voters.map(|(node, founder)| (*node, (founder.addr.clone(), founder.instance)));
    match raft.initialize_bound(voters.collect()).await {
        Ok(()) => {
            tracing::info!(node_id = inner.local.node, founding_id = %founding.id, "founded the cluster");
        }
        Err(rivven_raft::InitializeError::AlreadyInitialized) => {}
        Err(error) => inner.note(error.code(), Some(error.to_string())),
    }
}
