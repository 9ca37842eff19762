//! What the handles and tasks of one node share.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use rivven_partition::{Applied, Liveness, PartitionCommand, PartitionState, Start};
use rivven_raft::{Consistency, NodeDir, ProposeOptions, RaftConfig, RaftNode, Read, Role};
use rivven_swim::{MemberState, SwimNode};
use rivven_transport::{
    LocalIdentity, PeerStatus, Router, TaskGroup, Transport, gossip_keys::KeyKeeper, identity::IdentityWatch,
};
use rivven_types::{InstanceId, NodeId, PeerAddr};
use tokio::sync::{SetOnce, watch};

use crate::{
    ReadError, StartError, WriteError,
    config::{CheckedConfig, with_port},
    duty::Desk,
    founding::{Founders, Founding, bootstrap::Resolver},
    gossip_keys::KeyRequests,
    joining::{self, Ledger},
    kv::unexpected,
    published::Published,
    shutdown::ShutdownReport,
    state::{ClusterState, Op, OpResponse},
    status::{ClusterStatus, Phase, Problem},
};

/// How long an address may stay unknown because nobody has said yet what it looks like from outside.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(50);

/// Founders that Raft is told of, beside this node. They matter until the membership is known; a node that joins
/// is none of them, and would be one too many where the most there can be have founded the cluster.
const MAX_CONTACTS: usize = 14;

/// Whether the node runs, is on its way out, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Up,
    Stopping,
    Stopped,
}

/// What a node knows of its own place while the cluster does not know it yet.
#[derive(Debug, Default)]
pub(crate) struct Newcomer {
    /// While this node asks to join a cluster that runs: whom, and what came of it.
    joins: Mutex<Option<String>>,
    /// Another data directory that gossip has met under this node's id.
    pub(crate) double: Mutex<Option<InstanceId>>,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: CheckedConfig,
    pub(crate) local: LocalIdentity,
    /// Where QUIC really listens.
    pub(crate) bound: SocketAddr,
    pub(crate) tasks: TaskGroup,
    pub(crate) transport: Transport,
    pub(crate) router: Router,
    pub(crate) swim: SwimNode,
    /// This node's gossip keys, and what was asked of whoever changes them.
    pub(crate) keeper: Arc<KeyKeeper>,
    pub(crate) key_demand: KeyRequests,
    pub(crate) published: Arc<Published>,
    pub(crate) founders: Arc<Founders>,
    pub(crate) resolver: Arc<Resolver>,
    /// This node's certificate and authorities, at this moment.
    pub(crate) identity: IdentityWatch,
    pub(crate) ledger: Arc<Ledger>,
    /// The authority this node issues for, by its hash, once it does.
    pub(crate) issues: OnceLock<[u8; 32]>,
    /// Set once a founding is accepted: before, this disk takes no part in Raft.
    pub(crate) raft: SetOnce<RaftNode<ClusterState>>,
    /// The data directory, until Raft takes it over.
    pub(crate) dir: Mutex<Option<NodeDir>>,
    pub(crate) stage: watch::Sender<Stage>,
    pub(crate) newcomer: Newcomer,
    /// What an operator must mend, by code.
    pub(crate) problems: Mutex<BTreeMap<&'static str, String>>,
    pub(crate) report: tokio::sync::Mutex<Option<ShutdownReport>>,
    /// Whether the replicas of this node hold more than metadata.
    pub(crate) holds_data: bool,
    /// For the duties of this node, once somebody asks for them.
    pub(crate) desk: OnceLock<Arc<Desk>>,
}

impl Inner {
    /// This process, as partitions name it.
    pub(crate) const fn start(&self) -> Start {
        Start {
            node: self.local.node,
            instance: self.local.instance,
            boot_epoch: self.local.boot_epoch,
        }
    }

    /// Where the duties of this node are handed out.
    pub(crate) fn desk(self: &Arc<Self>) -> Arc<Desk> {
        Arc::clone(self.desk.get_or_init(|| Desk::open(self)))
    }

    /// Has one operation committed.
    pub(crate) async fn propose(&self, op: Op, timeout: Duration) -> Result<OpResponse, WriteError> {
        let options = ProposeOptions {
            deadline: timeout,
            ..ProposeOptions::default()
        };
        self.propose_with(op, options).await
    }

    /// The Raft node, or what a write has to wait for.
    pub(crate) fn raft_or_wait(&self) -> Result<&RaftNode<ClusterState>, WriteError> {
        self.raft().ok_or_else(|| WriteError::NotReady {
            cause: self.waiting_for(),
        })
    }

    /// As [`Self::propose`], in a session too.
    pub(crate) async fn propose_with(
        &self,
        op: Op,
        options: ProposeOptions,
    ) -> Result<OpResponse, WriteError> {
        let response = self.raft_or_wait()?.propose_with(op.into(), options).await?;
        response.only()
    }

    /// Has one operation on the partitions committed.
    pub(crate) async fn propose_partitions(
        &self,
        command: PartitionCommand,
        timeout: Duration,
    ) -> Result<Applied, WriteError> {
        match self.propose(Op::Partitions(command), timeout).await? {
            OpResponse::Partitions(response) => response.map_err(WriteError::Partition),
            other @ (OpResponse::Kv(_) | OpResponse::Tokens(_)) => Err(unexpected(&other)),
        }
    }

    /// Reads the replicated state.
    pub(crate) async fn read<T>(
        &self,
        consistency: Consistency,
        timeout: Duration,
        read: impl FnOnce(&ClusterState) -> T,
    ) -> Result<Read<T>, ReadError> {
        let raft = self.raft().ok_or_else(|| ReadError::NotReady {
            cause: self.waiting_for(),
        })?;
        Ok(raft.read_within(consistency, timeout, read).await?)
    }

    /// The Raft node, unless it has not started or has been shut down.
    pub(crate) fn raft(&self) -> Option<&RaftNode<ClusterState>> {
        self.raft.get().filter(|_| *self.stage.borrow() < Stage::Stopped)
    }

    /// Whether Raft has a membership: the cluster is founded for good.
    pub(crate) fn is_initialized(&self) -> bool {
        self.raft.get().is_some_and(|raft| raft.status().initialized)
    }

    /// Starts Raft in the data directory. Only for a node that has accepted `founding`.
    pub(crate) async fn start_raft(&self, founding: &Founding) -> Result<RaftNode<ClusterState>, StartError> {
        let dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner).take();
        let peers = founding
            .founders
            .keys()
            .copied()
            .filter(|node| *node != self.local.node)
            .take(MAX_CONTACTS);
        let config = RaftConfig {
            node_id: self.local.node,
            peers: peers.collect(),
            election_timeout_ms: self.config.election_timeout_ms.clone(),
            heartbeat_interval_ms: self.config.heartbeat_interval_ms,
        };
        let members = &self.config.members;
        let mut builder = RaftNode::builder(config)
            .cluster_name(&self.local.cluster.to_string())
            .voter_target(members.voter_target)
            .voter_replace_after(members.voter_replace_after)
            .priority_hold(members.priority_hold)
            .replace(members.replace)
            .transport(self.transport.clone(), self.router.clone())
            .state_machine(ClusterState::new(Arc::clone(&self.published)));
        if let Some(dir) = dir {
            builder = builder.data_dir(dir);
        }
        if self.config.lease_reads {
            builder = builder.lease_reads();
        }
        if let Some(after) = members.auto_finalize_after {
            builder = builder.auto_finalize(after);
        }
        if let Some(rate) = self.config.max_snapshot_rate {
            builder = builder.max_snapshot_rate(rate);
        }
        let raft = builder.start().await?;
        // Started once: by `Cluster::start` or, without a founding, by the task that found one.
        let _ = self.raft.set(raft.clone());
        Ok(raft)
    }

    /// Where peers reach this node. Waits until a peer has said what it observes, if it must.
    pub(crate) async fn quic_addr(&self) -> PeerAddr {
        loop {
            if let Some(addr) = self.known_quic_addr() {
                return addr;
            }
            tokio::time::sleep(OBSERVE_INTERVAL).await;
        }
    }

    pub(crate) fn known_quic_addr(&self) -> Option<PeerAddr> {
        if let Some(addr) = &self.config.advertise_address {
            return Some(addr.clone());
        }
        let port = self.bound.port();
        if !self.bound.ip().is_unspecified() {
            return Some(self.bound.into());
        }
        let observed = self.transport.observed_ip();
        // A cluster of one is seen by nobody, and nobody needs to reach it.
        let alone = self.config.peers.is_empty().then_some(Ipv4Addr::LOCALHOST.into());
        observed.or(alone).map(|ip| SocketAddr::new(ip, port).into())
    }

    /// Where members reach this node's gossip.
    pub(crate) fn gossip_addr(&self, quic: &PeerAddr) -> PeerAddr {
        if let Some(addr) = &self.config.gossip_advertise {
            return addr.clone();
        }
        let own = self.swim.member(self.local.node).map(|view| view.addr);
        match own.filter(|addr| !addr.ip().is_unspecified()) {
            Some(addr) => addr.into(),
            None => with_port(quic, self.swim.local_addr().port()).unwrap_or_else(|| quic.clone()),
        }
    }

    /// Who lives, for placing a topic: gossip's view, and this node's own connections where it has none yet.
    pub(crate) fn liveness_hint(&self, state: &PartitionState) -> BTreeMap<NodeId, Liveness> {
        let nodes = state.map().nodes().map(|node| node.registration.node);
        nodes.map(|node| (node, self.life_of(node))).collect()
    }

    pub(crate) fn life_of(&self, node: NodeId) -> Liveness {
        if node == self.local.node {
            return Liveness::Alive;
        }
        match self.swim.member(node).map(|view| view.state) {
            Some(MemberState::Alive) => Liveness::Alive,
            Some(MemberState::Suspect) => Liveness::Suspect,
            Some(MemberState::Dead) => Liveness::Dead,
            Some(MemberState::Left) => Liveness::Left,
            None if self.transport.status(node) == PeerStatus::Up => Liveness::Alive,
            None => Liveness::Unknown,
        }
    }

    /// Notes a problem, or that it has passed, and says so in the log when it is news.
    pub(crate) fn note(&self, code: &'static str, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            None => {
                problems.remove(code);
            }
            Some(problem) if problems.get(code) == Some(&problem) => {}
            Some(problem) => {
                tracing::error!(
                    node_id = self.local.node,
                    code,
                    problem,
                    "this node needs an operator"
                );
                problems.insert(code, problem);
            }
        }
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let own = self
            .problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let own = own.into_iter().map(|(code, message)| Problem::new(code, message));
        own.chain(self.founders.problems())
            .chain(self.resolver.turned_away())
            .chain(joining::problem(self))
            .collect()
    }

    /// Notes that this node asks to join by way of `contact`, and what came of it.
    pub(crate) fn wait_to_join(&self, contact: NodeId, cause: impl fmt::Display) {
        let waits = format!("this node asks to join the cluster through node {contact}: {cause}");
        *self.newcomer.joins.lock().unwrap_or_else(PoisonError::into_inner) = Some(waits);
    }

    fn asks_to_join(&self) -> Option<String> {
        let joins = self.newcomer.joins.lock().unwrap_or_else(PoisonError::into_inner);
        joins.clone().filter(|_| self.founders.accepted().is_none())
    }

    /// Whether the cluster was founded without this data directory.
    fn is_newcomer(&self) -> bool {
        let founding = self.founders.accepted();
        founding.is_some_and(|founding| !founding.names(&self.local))
    }

    /// Whether the node was removed, or this data directory of it given up.
    pub(crate) fn is_shut_out(&self, node: NodeId, instance: InstanceId) -> bool {
        self.raft
            .get()
            .is_some_and(|raft| raft.is_shut_out(node, instance))
    }

    /// How far the node is.
    pub(crate) fn phase(&self) -> Phase {
        match (*self.stage.borrow(), self.raft.get()) {
            (Stage::Stopping, _) => Phase::Stopping,
            (Stage::Stopped, _) => Phase::Stopped,
            (Stage::Up, None) if self.asks_to_join().is_some() => Phase::Joining,
            (Stage::Up, None) => Phase::Founding,
            (Stage::Up, Some(raft)) if !raft.status().initialized && self.is_newcomer() => Phase::Joining,
            (Stage::Up, Some(raft)) if raft.status().leader.is_none() => Phase::Electing,
            (Stage::Up, Some(_)) => Phase::Running,
        }
    }

    /// What a node without Raft waits for, for people.
    pub(crate) fn waiting_for(&self) -> String {
        if *self.stage.borrow() > Stage::Up {
            return "this node is stopping; ask another one".into();
        }
        if let Some(problem) = self.problems().first() {
            return format!("{} ({})", problem.message, problem.code);
        }
        if let Some(asked) = self.asks_to_join() {
            return asked;
        }
        let missing: Vec<String> = self.resolver.missing().iter().map(ToString::to_string).collect();
        if missing.is_empty() {
            "the founders are agreeing; wait a moment".into()
        } else {
            format!(
                "the cluster is not founded yet; waiting for {}",
                missing.join(", ")
            )
        }
    }

    /// Ends every task at once, when nobody is left to wait for their end.
    pub(crate) fn abandon(&self) {
        if *self.stage.borrow() == Stage::Stopped {
            return;
        }
        tracing::warn!(
            node_id = self.local.node,
            "the last handle was dropped without a shutdown"
        );
        self.stage.send_replace(Stage::Stopped);
        self.tasks.abort();
        self.router.clear();
        // Closes what can be closed without waiting; the rest ends with the last reference.
        let _ = self.transport.shutdown(Duration::ZERO).now_or_never();
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        let status = ClusterStatus {
            cluster_id: self.local.cluster.to_string(),
            node_id: self.local.node,
            instance_id: self.local.instance.to_string(),
            boot_epoch: self.local.boot_epoch.0,
            phase: self.phase(),
            problems: self.problems(),
            founding_id: self.founders.accepted().map(|founding| founding.id.to_string()),
            controller: None,
            term: 0,
            role: Role::Learner,
            commit_index: 0,
            applied_index: 0,
            last_log_index: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            generation: self.published.read(PartitionState::generation),
            gossip_key_epoch: self.keeper.keys().ring().map(|ring| ring.current().epoch()),
        };
        match self.raft.get() {
            Some(raft) => status.with_raft(raft.status()),
            None => status,
        }
    }
}
