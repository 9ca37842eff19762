//! The transport as a [`Network`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use quinn::VarInt;
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    dial::{discover, supervise},
    frame::Head,
    hello::{Refusal, close},
    lane::LaneError,
    limits::{CLOSE_TIME, max_frame},
    lock,
    peer::DialError,
    peer::Peer,
    refused::refused,
    runtime::IoRuntime,
    shared::{Shared, purpose},
};
use crate::{
    CallCtx, CallError, Caller, LocalIdentity, MethodSpec, Network, PeerIdentity, PeerStatus, TransferPipe,
    TransferSpec, identity::Subject,
};

/// Longest time for the last answers to arrive, and for peers to say that they wait for no more.
const LINGER: Duration = Duration::from_millis(100);

/// One end, shut down with its last handle.
pub(super) struct QuicNetwork {
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: IoRuntime,
}

impl Drop for QuicNetwork {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        let endpoint = lock(&self.shared.endpoint).take();
        if let Some(endpoint) = &endpoint {
            endpoint.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
        }
        self.shared.upkeep.abort();
        self.shared.lanes.abort();
        self.shared.forget_peers();
        self.shared.tasks.abort();
        self.runtime.stop_behind(endpoint);
    }
}

impl QuicNetwork {
    async fn call_peer(
        &self,
        to: NodeId,
        method: MethodSpec,
        mut body: Bytes,
        ctx: CallCtx,
    ) -> Result<Bytes, CallError> {
        let shared = &self.shared;
        let peer = self.dialable(to)?;
        let purpose = purpose(method.class);
        let way = peer.way(purpose);
        if way.start() {
            shared
                .tasks
                .spawn(supervise(Arc::clone(shared), Arc::clone(&peer), purpose));
        }
        let mut gone = None;
        loop {
            let line = tokio::select! {
                biased;
                () = shared.closing.cancelled() => return Err(shut_down()),
                line = way.line(gone.as_ref(), ctx.deadline) => line,
            };
            let line = line.map_err(|error| error.into_call_error(to))?;
            let Some(lane) = line.lane(method.class).cloned() else {
                return Err(no_address(to));
            };
            // A call must not hold the connection, and with it the socket, beyond a shutdown.
            let tried = Arc::downgrade(&line);
            drop(line);
            match lane.call(method, body, ctx).await {
                Ok(response) => return Ok(response),
                Err(LaneError::Final(error)) => return Err(error),
                Err(LaneError::Gone(unsent)) => (gone, body) = (Some(tried), unsent),
            }
        }
    }

    /// A peer that may have a connection and can be dialled.
    pub(super) fn dialable(&self, node: NodeId) -> Result<Arc<Peer>, CallError> {
        let peer = self.shared.peer(node).filter(|peer| peer.addr().is_some());
        let peer = peer.ok_or_else(|| no_address(node))?;
        if self.shared.is_denied(node) {
            let cause = Refusal::Removed(Subject::Node(node)).to_string();
            return Err(CallError::Unreachable { node, cause });
        }
        Ok(peer)
    }

    async fn call_self(&self, method: MethodSpec, body: Bytes, ctx: CallCtx) -> Result<Bytes, CallError> {
        let caller = Caller {
            peer: self.shared.identity(),
            role: Some(self.shared.trust.watch().current().name().subject.role()),
            deadline: ctx.deadline,
            trace: ctx.trace,
        };
        self.shared.router.call_here(caller, method, body).await
    }
}

fn no_address(node: NodeId) -> CallError {
    CallError::Unreachable {
        node,
        cause: "no address is known for this node".into(),
    }
}

pub(super) fn shut_down() -> CallError {
    CallError::NotSent {
        cause: "this node is shut down".into(),
    }
}

impl Network for QuicNetwork {
    fn local(&self) -> &LocalIdentity {
        &self.shared.local
    }

    fn call(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        async move {
            let _in_flight = self.shared.in_flight.token();
            if self.shared.is_closing() {
                return Err(shut_down());
            }
            if body.len() + Head::request_len(ctx.trace.is_some()) > max_frame(method.class) {
                let cause = format!("{}: {} bytes are too many for its class", method.name, body.len());
                return Err(CallError::NotSent { cause });
            }
            if to == self.shared.local.node {
                self.call_self(method, body, ctx).await
            } else {
                self.call_peer(to, method, body, ctx).await
            }
        }
        .boxed()
    }

    fn open_transfer(
        &self,
        to: NodeId,
        _spec: TransferSpec,
        until: Instant,
    ) -> BoxFuture<'_, Result<TransferPipe, CallError>> {
        async move {
            if self.shared.is_closing() {
                return Err(shut_down());
            }
            self.open_pipe(to, until).await
        }
        .boxed()
    }

    fn set_address(&self, node: NodeId, addr: PeerAddr) {
        if node == self.shared.local.node {
            return;
        }
        // A full table refuses; calls to the node then say that its address is unknown.
        if let Ok(peer) = self.shared.peer_or_insert(node) {
            peer.set_addr(addr);
        }
    }

    fn discover(&self, addr: PeerAddr, ctx: CallCtx) -> BoxFuture<'_, Result<PeerIdentity, CallError>> {
        async move {
            let shared = Arc::clone(&self.shared);
            let target = addr.clone();
            // A connection belongs to the runtime that it is made on.
            let dialling = self.shared.tasks.spawn(async move {
                let dialled = discover(&shared, &target, ctx.deadline).await?;
                // Here, since nobody may wait for the answer any more.
                let done = VarInt::from_u32(close::DONE);
                dialled.connection.close(done, b"discovered");
                Ok(dialled.identity)
            });
            let unreachable = |cause| CallError::Unreachable { node: 0, cause };
            let identity = timeout_at(ctx.deadline, dialling)
                .await
                .map_err(|_| unreachable(format!("nobody answered at {addr} before the deadline")))?
                .ok()
                .flatten()
                .ok_or_else(|| unreachable("this node is shut down".into()))?
                .map_err(|error: DialError| error.into_call_error(0))?;
            self.set_address(identity.node, addr);
            Ok(identity)
        }
        .boxed()
    }

    fn status(&self, node: NodeId) -> PeerStatus {
        self.shared
            .peer(node)
            .map_or(PeerStatus::Unknown, |peer| peer.status())
    }

    fn peer(&self, node: NodeId) -> Option<PeerIdentity> {
        self.shared.peer(node)?.identity()
    }

    fn deny(&self, node: NodeId) {
        self.shared
            .denied
            .send_if_modified(|denied| Arc::make_mut(denied).insert(node));
    }

    fn allow(&self, node: NodeId) {
        self.shared
            .denied
            .send_if_modified(|denied| Arc::make_mut(denied).remove(&node));
    }

    fn observed_ip(&self) -> Option<IpAddr> {
        *lock(&self.shared.observed)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        Some(self.shared.local_addr)
    }

    fn refused(&self, node: NodeId, patience: Duration) -> BoxFuture<'_, bool> {
        async move {
            let peer = self.shared.peer(node);
            // Where it was last met: names may lead elsewhere by now.
            let Some(remote) = peer.and_then(|peer| peer.remote()) else {
                return false;
            };
            let asking = self.shared.tasks.spawn(refused(remote, patience));
            asking.await.ok().flatten().unwrap_or(false)
        }
        .boxed()
    }

    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()> {
        async move {
            self.shared.closing.cancel();
            self.shared.in_flight.close();
            // Calls that outlast the grace end with their connection.
            let _ = timeout(grace, self.shared.in_flight.wait()).await;
            // Closing drops what QUIC has not sent yet, and the last answers were only just written. Each
            // connection closes by itself once its peer has all of them.
            self.shared.ends.close();
            let _ = timeout(LINGER.min(grace), self.shared.ends.wait()).await;
            let endpoint = lock(&self.shared.endpoint).take();
            if let Some(endpoint) = endpoint {
                endpoint.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
                // A peer that misses the close frame notices by its own timers.
                let _ = timeout(CLOSE_TIME, endpoint.wait_idle()).await;
            }
            self.shared.upkeep.abort();
            self.shared.tasks.abort();
            self.shared.forget_peers();
            self.shared.lanes.abort();
            // The streams of a lane hold the socket. A runtime that is blocked lets go of them later.
            self.shared.lanes.join(CLOSE_TIME).await;
            self.runtime.stop(&self.shared.callers).await;
            self.shared.router.clear();
        }
        .boxed()
    }
}
