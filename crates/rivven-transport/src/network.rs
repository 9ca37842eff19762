//! What any network of nodes offers: calls by node id, discovery by address.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId, PeerAddr};
use tokio::time::Instant;

use crate::{
    CallCtx, CallError, MAX_CALL_TIME, Method, MethodSpec, TraceContext, TransferPipe, TransferSpec,
    metrics::{CallMetrics, End},
    stream::Slots,
};

/// Who this node says it is, beside what its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// The cluster of this node's certificate.
    pub cluster: ClusterId,
    /// The node id of this node's certificate.
    pub node: NodeId,
    /// The data directory in use.
    pub instance: InstanceId,
    /// This start of it.
    pub boot_epoch: BootEpoch,
}

/// Who a peer proved (cluster, node) and said (instance, boot epoch) it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Node id, bound to the peer's certificate.
    pub node: NodeId,
    /// The peer's data directory.
    pub instance: InstanceId,
    /// The peer's start.
    pub boot_epoch: BootEpoch,
}

/// What is known of the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerStatus {
    /// No address or no call yet.
    Unknown,
    /// A connection has passed the hello of both sides.
    Up,
    /// The last attempt failed, and the next one waits for its back-off; or the peer is shutting down.
    Down,
}

/// A network of nodes, as bytes. Use it through [`Transport`].
pub trait Network: Send + Sync + 'static {
    /// Identity of this end.
    fn local(&self) -> &LocalIdentity;

    /// Sends `body` to `to` and waits for the response until the deadline.
    ///
    /// Dropping the future cancels the call; the peer may have acted.
    fn call(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> BoxFuture<'_, Result<Bytes, CallError>>;

    /// Opens the way of one transfer to `to`, waiting for a connection until `until`.
    ///
    /// Dropping what it gives ends the transfer at both ends. What the two ends say to each other is decided
    /// above the network; see [`Transport::send_stream`].
    fn open_transfer(
        &self,
        to: NodeId,
        spec: TransferSpec,
        until: Instant,
    ) -> BoxFuture<'_, Result<TransferPipe, CallError>>;

    /// Tells where `node` can be dialled. The last word wins; existing connections stay.
    fn set_address(&self, node: NodeId, addr: PeerAddr);

    /// Dials `addr` without knowing who answers, and says who did.
    ///
    /// The peer's address is remembered under its id. A dial of this node's own address answers with
    /// this node's identity.
    fn discover(&self, addr: PeerAddr, ctx: CallCtx) -> BoxFuture<'_, Result<PeerIdentity, CallError>>;

    /// What is known of the way to `node`.
    fn status(&self, node: NodeId) -> PeerStatus;

    /// The peer's latest proven identity, if it was ever connected.
    fn peer(&self, node: NodeId) -> Option<PeerIdentity>;

    /// Refuses `node` from this moment on: its connections are closed, in both directions, and new ones
    /// are not made. Calls to it are [`CallError::Unreachable`]. Idempotent; not kept across restarts.
    fn deny(&self, node: NodeId);

    /// Takes [`Self::deny`] back. Idempotent.
    fn allow(&self, node: NodeId);

    /// The address that peers see this node come from, once one has said so.
    ///
    /// What a node bound to `0.0.0.0` without an advertised address tells others to dial.
    fn observed_ip(&self) -> Option<IpAddr>;

    /// The address this node listens on, with the port that was picked; `None` without a socket.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Whether the host of `node` says within `patience` that no process listens where the node did: the process has
    /// ended. Silence says nothing, and neither does a network that cannot tell.
    ///
    /// Whoever acts on it should ask others too: this is one host's word, and not authenticated.
    fn refused(&self, _node: NodeId, _patience: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Takes and begins no further call, tells the peers so, waits at most `grace` for calls in flight, and closes
    /// every connection. Calls that have not begun at the peer are refused as [`CallError::NotSent`] by theirs,
    /// or rejected with `shutting-down`. When it returns, the port is free. Idempotent.
    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()>;
}

/// Handle to a [`Network`]: typed calls to peers. Cheap to clone; all clones are the same network end.
#[derive(Clone)]
pub struct Transport {
    network: Arc<dyn Network>,
    calls: Arc<CallMetrics>,
    slots: Arc<Slots>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transport").field(self.network.local()).finish()
    }
}

impl Transport {
    /// Wraps a network end.
    pub fn new(network: impl Network) -> Self {
        Self {
            network: Arc::new(network),
            calls: Arc::new(CallMetrics::new(End::Caller)),
            slots: Arc::default(),
        }
    }

    /// The network end behind this handle.
    pub(crate) fn network(&self) -> &dyn Network {
        &*self.network
    }

    /// Room for transfers.
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What metrics call `node`.
    pub(crate) fn peer_label(&self, node: NodeId) -> String {
        self.calls.label(node)
    }

    /// The network end behind this handle, for a layer around it.
    pub(crate) fn into_network(self) -> Arc<dyn Network> {
        self.network
    }

    /// Calls method `M` of node `to`, for at most [`MAX_CALL_TIME`].
    ///
    /// Cancel safety: dropping the future cancels the call; the peer may have acted.
    ///
    /// # Errors
    /// [`CallError`]; its [`outcome`](CallError::outcome) says whether the peer may have acted.
    pub async fn call<M: Method>(
        &self,
        to: NodeId,
        request: &M::Request,
        ctx: CallCtx,
    ) -> Result<M::Response, CallError> {
        let spec = MethodSpec::of::<M>();
        let body = postcard::to_allocvec(request).map_err(|error| CallError::NotSent {
            cause: format!("{}: cannot encode: {error}", spec.name),
        })?;
        if body.len() > spec.max_request {
            let cause = format!(
                "{}: {} bytes, the limit is {}",
                spec.name,
                body.len(),
                spec.max_request
            );
            return Err(CallError::NotSent { cause });
        }
        let ctx = CallCtx {
            deadline: ctx.deadline.min(Instant::now() + MAX_CALL_TIME),
            trace: ctx.trace.or_else(TraceContext::sampled),
        };
        let begun = self.calls.begin(to, spec.class, body.len());
        let response = match self.network.call(to, spec, body.into(), ctx).await {
            Ok(response) => response,
            Err(error) => {
                begun.failed(&error);
                return Err(error);
            }
        };
        begun.answered(response.len());
        // The peer has acted; only what it says of it is not understood.
        postcard::from_bytes(&response).map_err(|error| CallError::MaybeExecuted {
            node: to,
            cause: format!("{}: the response is not understood: {error}", spec.name),
        })
    }

    /// Identity of this end.
    #[must_use]
    pub fn local(&self) -> &LocalIdentity {
        self.network.local()
    }

    /// See [`Network::set_address`].
    pub fn set_address(&self, node: NodeId, addr: PeerAddr) {
        self.network.set_address(node, addr);
    }

    /// See [`Network::discover`].
    ///
    /// # Errors
    /// [`CallError::Unreachable`] with node 0 when nobody answers; [`CallError::Incompatible`] when the
    /// one who answers belongs to another cluster.
    pub async fn discover(&self, addr: PeerAddr, ctx: CallCtx) -> Result<PeerIdentity, CallError> {
        self.network.discover(addr, ctx).await
    }

    /// See [`Network::status`].
    #[must_use]
    pub fn status(&self, node: NodeId) -> PeerStatus {
        self.network.status(node)
    }

    /// See [`Network::peer`].
    #[must_use]
    pub fn peer(&self, node: NodeId) -> Option<PeerIdentity> {
        self.network.peer(node)
    }

    /// Refuses a node that is no longer a member, see [`Network::deny`].
    pub fn deny(&self, node: NodeId) {
        self.network.deny(node);
    }

    /// Takes [`Self::deny`] back, see [`Network::allow`].
    pub fn allow(&self, node: NodeId) {
        self.network.allow(node);
    }

    /// See [`Network::refused`].
    pub async fn refused(&self, node: NodeId, patience: Duration) -> bool {
        self.network.refused(node, patience).await
    }

    /// See [`Network::observed_ip`].
    #[must_use]
    pub fn observed_ip(&self) -> Option<IpAddr> {
        self.network.observed_ip()
    }

    /// See [`Network::local_addr`].
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.network.local_addr()
    }

    /// See [`Network::shutdown`].
    pub async fn shutdown(&self, grace: Duration) {
        self.network.shutdown(grace).await;
    }
}
