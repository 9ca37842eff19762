//! The transport as a [`Network`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use quinn::VarInt;
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{timeout, timeout_at};

use super::{
    dial::{dial, supervise},
    frame::{DEADLINE_LEN, PREFIX_LEN},
    hello::{Purpose, close},
    lane::LaneError,
    limits::max_frame,
    lock,
    shared::{Shared, purpose},
};
use crate::{CallCtx, CallError, Caller, LocalIdentity, MethodSpec, Network, PeerIdentity, PeerStatus};

/// Time for close frames to leave after a shutdown.
const CLOSE_TIME: Duration = Duration::from_millis(300);

/// Time for the last answers to leave before connections are closed.
const LINGER: Duration = Duration::from_millis(30);

/// One end, shut down with its last handle.
pub(super) struct QuicNetwork(pub(super) Arc<Shared>);

impl Drop for QuicNetwork {
    fn drop(&mut self) {
        self.0.closing.store(true, Ordering::Relaxed);
        if let Some(endpoint) = lock(&self.0.endpoint).take() {
            endpoint.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
        }
        self.0.tasks.abort();
    }
}

impl QuicNetwork {
    async fn call_peer(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> Result<Bytes, CallError> {
        let shared = &self.0;
        let unknown = || CallError::Unreachable {
            node: to,
            cause: "no address is known for this node".into(),
        };
        let peer = shared
            .peer(to)
            .filter(|peer| peer.addr().is_some())
            .ok_or_else(unknown)?;
        let purpose = purpose(method.class);
        let way = peer.way(purpose);
        if way.start() {
            shared
                .tasks
                .spawn(supervise(Arc::clone(shared), Arc::clone(&peer), purpose));
        }
        let mut gone = None;
        loop {
            let line = way.line(gone.as_ref(), ctx.deadline).await;
            let line = line.map_err(|error| error.into_call_error(to))?;
            let Some(lane) = line.lane(method.class) else {
                return Err(unknown());
            };
            match lane.call(method, body.clone(), ctx.deadline).await {
                Ok(response) => return Ok(response),
                Err(LaneError::Final(error)) => return Err(error),
                Err(LaneError::Gone) => gone = Some(line),
            }
        }
    }

    async fn call_self(&self, method: MethodSpec, body: Bytes, ctx: CallCtx) -> Result<Bytes, CallError> {
        let caller = Caller {
            peer: self.0.identity(),
            deadline: ctx.deadline,
        };
        timeout_at(ctx.deadline, self.0.router.dispatch(caller, method.id, body))
            .await
            .map_err(|_| CallError::Deadline)?
            .map_err(CallError::Rejected)
    }
}

impl Network for QuicNetwork {
    fn local(&self) -> &LocalIdentity {
        &self.0.local
    }

    fn call(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        async move {
            let _in_flight = self.0.in_flight.token();
            if self.0.is_closing() {
                let cause = "this node is shut down".into();
                return Err(CallError::NotSent { cause });
            }
            if body.len() + PREFIX_LEN + DEADLINE_LEN > max_frame(method.class) {
                let cause = format!("{}: {} bytes are too many for its class", method.name, body.len());
                return Err(CallError::NotSent { cause });
            }
            if to == self.0.local.node {
                self.call_self(method, body, ctx).await
            } else {
                self.call_peer(to, method, body, ctx).await
            }
        }
        .boxed()
    }

    fn set_address(&self, node: NodeId, addr: PeerAddr) {
        if node == self.0.local.node {
            return;
        }
        // A full table refuses; calls to the node then say that its address is unknown.
        if let Ok(peer) = self.0.peer_or_insert(node) {
            peer.set_addr(addr);
        }
    }

    fn discover(&self, addr: PeerAddr, ctx: CallCtx) -> BoxFuture<'_, Result<PeerIdentity, CallError>> {
        async move {
            let dialled = timeout_at(ctx.deadline, dial(&self.0, &addr, None, Purpose::Discover, 0)).await;
            let dialled = dialled.map_err(|_| CallError::Unreachable {
                node: 0,
                cause: format!("nobody answered at {addr} before the deadline"),
            })?;
            let dialled = dialled.map_err(|error| error.into_call_error(0))?;
            dialled
                .connection
                .close(VarInt::from_u32(close::DONE), b"discovered");
            self.set_address(dialled.identity.node, addr);
            Ok(dialled.identity)
        }
        .boxed()
    }

    fn status(&self, node: NodeId) -> PeerStatus {
        self.0
            .peer(node)
            .map_or(PeerStatus::Unknown, |peer| peer.status())
    }

    fn peer(&self, node: NodeId) -> Option<PeerIdentity> {
        self.0.peer(node)?.identity()
    }

    fn observed_ip(&self) -> Option<IpAddr> {
        *lock(&self.0.observed)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        Some(self.0.local_addr)
    }

    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()> {
        async move {
            self.0.closing.store(true, Ordering::Relaxed);
            self.0.in_flight.close();
            // Calls that outlast the grace end with their connection.
            let _ = timeout(grace, self.0.in_flight.wait()).await;
            // Closing drops what QUIC has not sent yet, and the last answers were only just written.
            tokio::time::sleep(LINGER.min(grace)).await;
            let endpoint = lock(&self.0.endpoint).take();
            if let Some(endpoint) = endpoint {
                endpoint.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
                // A peer that misses the close frame notices by its own timers.
                let _ = timeout(CLOSE_TIME, endpoint.wait_idle()).await;
            }
            self.0.tasks.abort();
            self.0.tasks.join(CLOSE_TIME).await;
            lock(&self.0.peers).clear();
            self.0.router.clear();
        }
        .boxed()
    }
}
