//! The calling side, and the rest of what a network offers.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use rivven_types::{NodeId, PeerAddr};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    MemoryNetwork,
    end::{End, MemoryEnd},
    limits::{FRAME_OVERHEAD, IDLE_TIMEOUT, RECONNECT, max_frame},
    link::{Fate, Frame, Kind},
    serve::{Answer, Delivery, Request, Waiter},
};
use crate::{
    CallCtx, CallError, Caller, Class, LocalIdentity, MethodSpec, Network, PeerIdentity, PeerStatus,
    TransferPipe, TransferSpec,
};

impl MemoryEnd {
    fn node(&self) -> NodeId {
        self.end.identity.node
    }

    /// The way to a peer, waited for until the deadline if its connection is dead.
    pub(super) async fn way(&self, to: NodeId, deadline: Instant) -> Result<Arc<End>, CallError> {
        loop {
            let peer = self.peer_end(to).filter(|_| !self.end.gone.is_cancelled());
            let Some(peer) = peer else {
                let cause = "no such node on the memory network".into();
                return Err(CallError::Unreachable { node: to, cause });
            };
            if self.network.lock().denies(to, self.node()) {
                let cause = format!("node {} has been removed from the cluster", self.node());
                return Err(CallError::Removed { node: to, cause });
            }
            if self.network.lock().is_denied(self.node(), to) {
                let cause = "one of the two nodes denies the other".into();
                return Err(CallError::Unreachable { node: to, cause });
            }
            let now = Instant::now();
            if self
                .network
                .dies_at(self.node(), to)
                .is_none_or(|dies| dies > now)
            {
                return Ok(peer);
            }
            if now >= deadline {
                let cause = "no connection before the deadline: the link is cut".into();
                return Err(CallError::Unreachable { node: to, cause });
            }
            tokio::select! {
                biased;
                () = self.end.closing.cancelled() => return Err(shut_down()),
                () = sleep_until(deadline.min(now + RECONNECT)) => {}
            }
        }
    }

    async fn call_peer(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> Result<Bytes, CallError> {
        let deadline = ctx.deadline;
        self.way(to, deadline).await?;
        let lane = self.lane(to, method.class);
        let in_time = Instant::now() < deadline;
        let _turn = lane.turn(body.len(), deadline).await?;
        // The connection may have died while the call waited for its turn.
        let peer = self.way(to, deadline).await?;
        if deadline <= Instant::now() {
            return Err(if in_time {
                CallError::Overloaded { node: to }
            } else {
                CallError::unsent_in_time()
            });
        }
        let mut call = Call::start(self, &peer, method, body, ctx);
        let result = call.wait(self, &peer, deadline).await;
        // A call that ran out of time is cancelled at the peer when it is dropped.
        call.ended = !matches!(result, Err(CallError::Deadline));
        result
    }

    async fn call_self(&self, method: MethodSpec, body: Bytes, ctx: CallCtx) -> Result<Bytes, CallError> {
        let caller = Caller {
            peer: self.end.proven(),
            role: Some(self.end.role),
            deadline: ctx.deadline,
            trace: ctx.trace,
        };
        self.end.router.call_here(caller, method, body).await
    }

    /// One exchange of hellos, repeated when a frame is lost, as a handshake is.
    async fn greet(&self, to: NodeId, deadline: Instant) -> Result<(), CallError> {
        let frame = Frame {
            kind: Kind::Cancel,
            class: Class::Control,
            method: 0,
            len: 0,
        };
        for (from, to) in [(self.node(), to), (to, self.node())] {
            while let Some(wait) = {
                let fate = self.network.lock().send(from, to, frame);
                match fate {
                    Fate::Arrives { at, .. } if at <= Instant::now() => None,
                    Fate::Arrives { at, .. } => Some((at, true)),
                    Fate::Lost => Some((Instant::now() + RECONNECT, false)),
                }
            } {
                let (until, arrived) = wait;
                sleep_until(until.min(deadline)).await;
                if until > deadline {
                    let cause = "no answer before the deadline".into();
                    return Err(CallError::Unreachable { node: 0, cause });
                }
                if arrived {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn shut_down() -> CallError {
    CallError::NotSent {
        cause: "this node is shut down".into(),
    }
}

/// A request on its way. Dropping it before the end tells the peer that nobody waits.
struct Call {
    network: MemoryNetwork,
    from: NodeId,
    peer: Arc<End>,
    method: MethodSpec,
    abandoned: CancellationToken,
    answered: oneshot::Receiver<Answer>,
    /// Kept, so that a lost request looks like one that is not answered yet.
    _waiter: Waiter,
    ended: bool,
}

impl Call {
    fn start(here: &MemoryEnd, peer: &Arc<End>, method: MethodSpec, body: Bytes, ctx: CallCtx) -> Self {
        // The handler runs on the peer's tasks, which need a runtime: this one, if there is none yet.
        peer.tasks();
        let (waiter, answered) = Waiter::new();
        let abandoned = CancellationToken::new();
        let frame = Frame {
            kind: Kind::Request,
            class: method.class,
            method: method.id,
            len: body.len(),
        };
        let request = Request {
            method,
            body,
            caller: Caller {
                peer: here.end.proven(),
                role: Some(here.end.role),
                deadline: ctx.deadline,
                trace: ctx.trace,
            },
            end: Arc::clone(&here.end),
            abandoned: abandoned.clone(),
            waiter: waiter.clone(),
        };
        here.end.tasks();
        here.network
            .send(here.node(), peer, frame, Delivery::Request(Box::new(request)));
        Self {
            network: here.network.clone(),
            from: here.node(),
            peer: Arc::clone(peer),
            method,
            abandoned,
            answered,
            _waiter: waiter,
            ended: false,
        }
    }

    async fn wait(&mut self, here: &MemoryEnd, peer: &End, deadline: Instant) -> Result<Bytes, CallError> {
        let node = peer.identity.node;
        let severed = here.network.lock().severed(here.node(), node);
        let interrupted = |cause: &str| CallError::MaybeExecuted {
            node,
            cause: cause.into(),
        };
        loop {
            // A cut that begins after this look kills the connection no earlier than the next one.
            let dies = here.network.dies_at(here.node(), node);
            let look = dies.unwrap_or_else(|| Instant::now() + IDLE_TIMEOUT);
            tokio::select! {
                biased;
                answer = &mut self.answered => return match answer {
                    Ok(Answer::Response(body)) => Ok(body),
                    Ok(Answer::Rejected(rejection)) => Err(CallError::Rejected(rejection)),
                    Ok(Answer::Lost) | Err(_) => {
                        Err(interrupted("the handler ended without an answer; see the peer's log"))
                    }
                },
                () = peer.gone.cancelled() => return Err(interrupted("the peer has left")),
                () = here.end.gone.cancelled() => return Err(interrupted("this node has left")),
                () = severed.cancelled() => {
                    // The connection is closed on both sides, and the handler ends with it.
                    self.abandoned.cancel();
                    return Err(interrupted("one of the two nodes denies the other"));
                }
                () = sleep_until(deadline) => return Err(CallError::Deadline),
                () = sleep_until(look) => {}
            }
            let dies = here.network.dies_at(here.node(), node);
            if dies.is_some_and(|dies| dies <= Instant::now()) {
                // The peer's connection dies of the same silence, and its handler with it.
                self.abandoned.cancel();
                return Err(interrupted("the connection died of silence"));
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let frame = Frame {
            kind: Kind::Cancel,
            class: self.method.class,
            method: self.method.id,
            len: 0,
        };
        let cancel = Delivery::Cancel(self.abandoned.clone());
        self.network.send(self.from, &self.peer, frame, cancel);
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
        async move {
            let _in_flight = self.end.in_flight.token();
            if self.end.closing.is_cancelled() {
                return Err(shut_down());
            }
            if body.len().saturating_add(FRAME_OVERHEAD) > max_frame(method.class) {
                let cause = format!("{}: {} bytes are too long for its class", method.name, body.len());
                return Err(CallError::NotSent { cause });
            }
            if to == self.node() {
                self.call_self(method, body, ctx).await
            } else {
                self.call_peer(to, method, body, ctx).await
            }
        }
        .boxed()
    }

    /// A node that left the network, or never was there, refuses whoever reaches its host.
    fn refused(&self, node: NodeId, patience: Duration) -> BoxFuture<'_, bool> {
        let refused = {
            let wire = self.network.lock();
            let (here, there) = (self.node(), node);
            let reached = !wire.is_cut(here, there) && !wire.is_cut(there, here);
            reached && !wire.ends.contains_key(&node)
        };
        async move {
            if !refused {
                tokio::time::sleep(patience).await;
            }
            refused
        }
        .boxed()
    }

    fn open_transfer(
        &self,
        to: NodeId,
        spec: TransferSpec,
        until: Instant,
    ) -> BoxFuture<'_, Result<TransferPipe, CallError>> {
        self.open_pipe(to, spec, until).boxed()
    }

    fn set_address(&self, node: NodeId, addr: PeerAddr) {
        self.network.bind(addr, node);
    }

    fn discover(&self, addr: PeerAddr, ctx: CallCtx) -> BoxFuture<'_, Result<PeerIdentity, CallError>> {
        async move {
            let found = {
                let hub = self.network.lock();
                let end = hub.addrs.get(&addr).and_then(|node| hub.ends.get(node));
                end.map(|end| end.proven())
            };
            let found = found.ok_or_else(|| CallError::Unreachable {
                node: 0,
                cause: format!("nobody answers at {addr}"),
            })?;
            if found.node != self.node() {
                self.greet(found.node, ctx.deadline).await?;
            }
            Ok(found)
        }
        .boxed()
    }

    fn status(&self, node: NodeId) -> PeerStatus {
        if self.peer_end(node).is_none() {
            return PeerStatus::Unknown;
        }
        match self.network.dies_at(self.node(), node) {
            Some(dies) if dies <= Instant::now() => PeerStatus::Down,
            Some(_) | None => PeerStatus::Up,
        }
    }

    fn peer(&self, node: NodeId) -> Option<PeerIdentity> {
        self.peer_end(node).map(|end| end.proven())
    }

    fn deny(&self, node: NodeId) {
        self.network.lock().deny(self.node(), node);
    }

    fn allow(&self, node: NodeId) {
        self.network.lock().allow(self.node(), node);
    }

    fn observed_ip(&self) -> Option<IpAddr> {
        None
    }

    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.close(grace).boxed()
    }
}
