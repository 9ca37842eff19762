//! A network inside one process, with the same contract as the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use rivven_types::{NodeId, PeerAddr};

use crate::{
    CallCtx, CallError, Caller, LocalIdentity, MethodSpec, Network, PeerIdentity, PeerStatus, Router,
    Transport,
};

/// A process-local network. Clones are the same network.
///
/// Bodies travel encoded, as on the wire. Links can be cut in one direction. Delay, loss and reordering
/// are not modelled.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork(Arc<Mutex<Hub>>);

#[derive(Debug, Default)]
struct Hub {
    ends: BTreeMap<NodeId, Arc<End>>,
    addrs: BTreeMap<PeerAddr, NodeId>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Pairs of a node and one that it denies.
    denied: BTreeSet<(NodeId, NodeId)>,
}

struct End {
    identity: LocalIdentity,
    router: Router,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Why a node cannot join a [`MemoryNetwork`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryNetworkError {
    /// A live node has this id. Drop or shut it down first.
    #[error("node {0} is already on this network")]
    DuplicateNode(NodeId),
    /// The network belongs to another cluster.
    #[error("this network carries another cluster")]
    OtherCluster,
}

impl MemoryNetwork {
    /// A network without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node, reachable until its transport is shut down or dropped.
    ///
    /// # Errors
    /// A live node of the same id, or of another cluster, is on the network already.
    pub fn join(&self, identity: LocalIdentity, router: Router) -> Result<Transport, MemoryNetworkError> {
        let mut hub = self.lock();
        if hub.ends.contains_key(&identity.node) {
            return Err(MemoryNetworkError::DuplicateNode(identity.node));
        }
        if hub
            .ends
            .values()
            .any(|end| end.identity.cluster != identity.cluster)
        {
            return Err(MemoryNetworkError::OtherCluster);
        }
        let end = Arc::new(End { identity, router });
        hub.ends.insert(end.identity.node, Arc::clone(&end));
        Ok(Transport::new(MemoryEnd {
            end,
            network: self.clone(),
        }))
    }

    /// Makes `addr` lead to `node`, for discovery.
    pub fn bind(&self, addr: PeerAddr, node: NodeId) {
        self.lock().addrs.insert(addr, node);
    }

    /// Loses every message from `from` to `to` until [`Self::heal`].
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Ends every cut.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        // A poisoned hub is still a consistent one: every change below is a single map operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct MemoryEnd {
    end: Arc<End>,
    network: MemoryNetwork,
}

impl MemoryEnd {
    fn leave(&self) {
        let mut hub = self.network.lock();
        let node = self.end.identity.node;
        if hub.ends.get(&node).is_some_and(|end| Arc::ptr_eq(end, &self.end)) {
            hub.ends.remove(&node);
        }
    }

    fn peer_end(&self, node: NodeId) -> Option<Arc<End>> {
        self.network.lock().ends.get(&node).cloned()
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.network.lock().cut.contains(&(from, to))
    }

    fn is_denied(&self, to: NodeId) -> bool {
        let from = self.end.identity.node;
        let denied = &self.network.lock().denied;
        denied.contains(&(from, to)) || denied.contains(&(to, from))
    }

    fn is_live(&self) -> bool {
        self.peer_end(self.end.identity.node)
            .is_some_and(|end| Arc::ptr_eq(&end, &self.end))
    }
}

impl Drop for MemoryEnd {
    fn drop(&mut self) {
        self.leave();
    }
}

fn identity_of(end: &End) -> PeerIdentity {
    let LocalIdentity {
        node,
        instance,
        boot_epoch,
        ..
    } = end.identity;
    PeerIdentity {
        node,
        instance,
        boot_epoch,
    }
}

impl Network for MemoryEnd {
    fn local(&self) -> &LocalIdentity {
        &self.end.identity
    }

    fn call(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let from = self.end.identity.node;
        async move {
            let peer = self.peer_end(to).filter(|_| self.is_live());
            let Some(peer) = peer else {
                let cause = "no such node on the memory network".into();
                return Err(CallError::Unreachable { node: to, cause });
            };
            if self.is_denied(to) {
                let cause = "one of the two nodes denies the other".into();
                return Err(CallError::Unreachable { node: to, cause });
            }
            if self.is_cut(from, to) {
                tokio::time::sleep_until(ctx.deadline).await;
                return Err(CallError::Deadline);
            }
            let caller = Caller {
                peer: identity_of(&self.end),
                deadline: ctx.deadline,
            };
            let answer = tokio::time::timeout_at(ctx.deadline, peer.router.dispatch(caller, method.id, body))
                .await
                .map_err(|_| CallError::Deadline)?;
            if self.is_cut(to, from) {
                tokio::time::sleep_until(ctx.deadline).await;
                return Err(CallError::Deadline);
            }
            answer.map_err(CallError::Rejected)
        }
        .boxed()
    }

    fn set_address(&self, node: NodeId, addr: PeerAddr) {
        self.network.bind(addr, node);
    }

    fn discover(&self, addr: PeerAddr, _ctx: CallCtx) -> BoxFuture<'_, Result<PeerIdentity, CallError>> {
        async move {
            let hub = self.network.lock();
            let end = hub.addrs.get(&addr).and_then(|node| hub.ends.get(node));
            end.map(|end| identity_of(end))
                .ok_or_else(|| CallError::Unreachable {
                    node: 0,
                    cause: format!("nobody answers at {addr}"),
                })
        }
        .boxed()
    }

    fn status(&self, node: NodeId) -> PeerStatus {
        if self.peer_end(node).is_some() {
            PeerStatus::Up
        } else {
            PeerStatus::Unknown
        }
    }

    fn peer(&self, node: NodeId) -> Option<PeerIdentity> {
        self.peer_end(node).map(|end| identity_of(&end))
    }

    fn deny(&self, node: NodeId) {
        let denied = (self.end.identity.node, node);
        self.network.lock().denied.insert(denied);
    }

    fn allow(&self, node: NodeId) {
        let denied = (self.end.identity.node, node);
        self.network.lock().denied.remove(&denied);
    }

    fn observed_ip(&self) -> Option<IpAddr> {
        None
    }

    fn shutdown(&self, _grace: Duration) -> BoxFuture<'_, ()> {
        self.leave();
        self.end.router.clear();
        async {}.boxed()
    }
}

#[cfg(test)]
mod tests {
    use rivven_types::{BootEpoch, ClusterId, InstanceId};

    use super::*;
    use crate::{Class, Method};

    struct Echo;

    impl Method for Echo {
        const ID: u16 = 0x8000;
        const NAME: &'static str = "echo";
        const CLASS: Class = Class::Client;
        const MAX_REQUEST: usize = 64;
        const MAX_RESPONSE: usize = 64;
        type Request = String;
        type Response = (NodeId, String);
    }

    fn join(network: &MemoryNetwork, node: NodeId) -> Transport {
        let identity = LocalIdentity {
            cluster: ClusterId::from_bytes([1; 16]),
            node,
            instance: InstanceId::from_bytes([2; 16]),
            boot_epoch: BootEpoch(1),
        };
        let router = Router::new();
        router.register::<Echo, _, _>(|caller, text| async move { Ok((caller.peer.node, text)) });
        network.join(identity, router).unwrap()
    }

    fn ctx() -> CallCtx {
        CallCtx::timeout(Duration::from_secs(1))
    }

    #[tokio::test(start_paused = true)]
    async fn calls_reach_the_named_peer_and_carry_the_callers_identity() {
        let network = MemoryNetwork::new();
        let (one, _two) = (join(&network, 1), join(&network, 2));
        assert_eq!(
            one.call::<Echo>(2, &"hi".into(), ctx()).await.unwrap(),
            (1, "hi".into())
        );
        let missing = one.call::<Echo>(3, &"hi".into(), ctx()).await.unwrap_err();
        assert_eq!(missing.code(), "unreachable");
        let long = one.call::<Echo>(2, &"x".repeat(65), ctx()).await.unwrap_err();
        assert_eq!(long.code(), "not-sent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_link_runs_into_the_deadline_in_either_direction() {
        let network = MemoryNetwork::new();
        let (one, _two) = (join(&network, 1), join(&network, 2));
        for (from, to) in [(1, 2), (2, 1)] {
            network.cut(from, to);
            assert_eq!(
                one.call::<Echo>(2, &"hi".into(), ctx()).await.unwrap_err().code(),
                "deadline"
            );
            network.heal();
        }
        assert!(one.call::<Echo>(2, &"hi".into(), ctx()).await.is_ok());
    }

    #[tokio::test]
    async fn a_dropped_node_frees_its_id_and_a_live_one_keeps_it() {
        let network = MemoryNetwork::new();
        let one = join(&network, 1);
        let again = network.join(one.local().clone(), Router::new());
        assert_eq!(again.unwrap_err(), MemoryNetworkError::DuplicateNode(1));
        drop(one);
        join(&network, 1);
    }
}
