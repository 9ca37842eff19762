//! Real bodies of calls: what three Raft nodes say to each other, overheard.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use rivven_raft::{Consistency, KvCommand, KvStore, RaftConfig, RaftNode};
use rivven_transport::{
    CallCtx, CallError, Caller, LocalIdentity, MethodSpec, Network, NodeId, PeerAddr, PeerIdentity,
    PeerStatus, Router, Transport, identity::Role,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Samples of each method and length that are kept.
const MAX_SAMPLES: usize = 256;

/// Everything said so far: the low byte of the method, then the body.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    routers: BTreeMap<NodeId, Router>,
    samples: BTreeSet<Vec<u8>>,
}

/// One end: hands every call to the router of its node, and keeps a copy.
struct Overheard {
    local: LocalIdentity,
    wire: Wire,
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, method: u16, body: &[u8]) {
        let [_, low] = method.to_be_bytes();
        let mut state = self.state();
        if state.samples.len() < MAX_SAMPLES {
            state.samples.insert([&[low], body].concat());
        }
    }
}

impl Network for Overheard {
    fn local(&self) -> &LocalIdentity {
        &self.local
    }

    fn call(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        async move {
            self.wire.keep(method.id, &body);
            let router = self.wire.state().routers.get(&to).cloned();
            let router = router.ok_or_else(|| CallError::Unreachable {
                node: to,
                cause: "nobody there".into(),
            })?;
            let caller = Caller {
                peer: self.peer_of(self.local.node),
                role: Some(Role::Node),
                deadline: ctx.deadline,
                trace: None,
            };
            timeout_at(ctx.deadline, router.dispatch(caller, method.id, body))
                .await
                .map_err(|_| CallError::Deadline)?
                .map_err(CallError::Rejected)
        }
        .boxed()
    }

    fn open_transfer(
        &self,
        to: NodeId,
        _: rivven_transport::TransferSpec,
        _: Instant,
    ) -> BoxFuture<'_, Result<rivven_transport::TransferPipe, CallError>> {
        let cause = "only calls are overheard".into();
        async move { Err(CallError::Unreachable { node: to, cause }) }.boxed()
    }

    fn set_address(&self, _: NodeId, _: PeerAddr) {}

    fn discover(&self, addr: PeerAddr, _: CallCtx) -> BoxFuture<'_, Result<PeerIdentity, CallError>> {
        let cause = format!("nobody answers at {addr}");
        async move { Err(CallError::Unreachable { node: 0, cause }) }.boxed()
    }

    fn status(&self, _: NodeId) -> PeerStatus {
        PeerStatus::Up
    }

    fn peer(&self, node: NodeId) -> Option<PeerIdentity> {
        Some(self.peer_of(node))
    }

    fn deny(&self, _: NodeId) {}

    fn allow(&self, _: NodeId) {}

    fn observed_ip(&self) -> Option<IpAddr> {
        None
    }

    fn shutdown(&self, _: Duration) -> BoxFuture<'_, ()> {
        self.wire.state().routers.clear();
        async {}.boxed()
    }
}

impl Overheard {
    fn peer_of(&self, node: NodeId) -> PeerIdentity {
        PeerIdentity {
            node,
            instance: self.local.instance,
            boot_epoch: self.local.boot_epoch,
        }
    }
}

/// What a group of three says while it elects, replicates, reads, and hands leadership over.
pub(super) async fn raft_bodies(local: impl Fn(u64) -> LocalIdentity) -> Result<Vec<Vec<u8>>> {
    let wire = Wire::default();
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let router = Router::new();
        wire.state().routers.insert(node_id, router.clone());
        let end = Overheard {
            local: local(node_id),
            wire: wire.clone(),
        };
        let config = RaftConfig {
            node_id,
            peers: (1..=3).filter(|peer| *peer != node_id).collect(),
            election_timeout_ms: 150..300,
            heartbeat_interval_ms: 50,
        };
        let node = RaftNode::builder(config)
            .transport(Transport::new(end), router)
            .state_machine(KvStore::new())
            .start()
            .await?;
        nodes.push(node);
    }
    let voters = (1..=3).map(|node| Ok((node, format!("10.0.0.{node}:9093").parse()?)));
    let voters: BTreeMap<NodeId, PeerAddr> = voters.collect::<Result<_>>()?;
    let first = nodes.first().context("there are three")?;
    first.initialize(voters).await?;
    let work = async {
        for node in &nodes {
            node.wait_for_leader(Duration::from_secs(10)).await?;
        }
        for (round, node) in nodes.iter().cycle().take(12).enumerate() {
            let value = "x".repeat(round * 7);
            node.propose(KvCommand::put(format!("key-{round}"), value))
                .await?;
            node.read(Consistency::Linearizable, KvStore::revision).await?;
        }
        for (from, to) in nodes.iter().zip([2, 3, 1]) {
            // A node that is not the leader asks the one that is; that one may have just changed.
            let _ = from.transfer_leader(to).await;
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    timeout(Duration::from_secs(30), work)
        .await
        .context("three nodes did not come to an end")??;
    for node in &nodes {
        node.shutdown().await;
    }
    let samples: Vec<_> = wire.state().samples.iter().cloned().collect();
    let methods: BTreeSet<_> = samples.iter().filter_map(|sample| sample.first()).collect();
    anyhow::ensure!(methods.len() >= 5, "only {methods:?} were heard");
    Ok(samples)
}
