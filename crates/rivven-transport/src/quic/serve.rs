//! The answering side: accepting connections, and running handlers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, ConnectionError, Endpoint, Incoming, VarInt};
use tokio::{
    io::AsyncReadExt,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, error, info, warn};

use super::{
    dial::{class_byte, priority},
    explain::explain,
    frame::{self, DEADLINE_LEN, FrameError, Kind, Prefix, StreamError},
    hello::{Hello, Purpose, Refusal, close},
    limits::{
        HELLO_TIMEOUT, MAX_CALL_TIME, MAX_HANDSHAKES, MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_REJECTION_TEXT,
        RETRY_ABOVE, max_frame,
    },
    lock,
    shared::{Shared, classes, read_hello, write_hello},
    trust::Side,
    write::{Outgoing, write_loop},
};
use crate::{
    Caller, Class, PeerIdentity, Rejection, TaskGroup,
    identity::{Role, Subject},
};

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept_loop(shared: Arc<Shared>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let busy = MAX_HANDSHAKES - handshakes.available_permits() > RETRY_ABOVE;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // `may_retry` was asked, so this cannot fail.
            let _ = incoming.retry();
            continue;
        }
        shared.tasks.spawn(accept(Arc::clone(&shared), incoming, permit));
    }
}

/// A connection whose maker is known.
struct Accepted {
    connection: Connection,
    peer: PeerIdentity,
    purpose: Purpose,
    subject: Subject,
    expired: bool,
    /// A guest's place, free again when the connection ends.
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a connection was not accepted.
enum Denied {
    Refused(Connection, Refusal),
    Lost(ConnectionError),
    Unreadable(Connection),
}

async fn accept(shared: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let greeted = timeout(HELLO_TIMEOUT, greet(&shared, incoming)).await;
    drop(permit);
    match greeted {
        Ok(Ok(accepted)) => serve(shared, accepted).await,
        Ok(Err(denied)) => deny(remote, denied),
        Err(_) => debug!(%remote, "no hello in time"),
    }
}

fn deny(remote: SocketAddr, denied: Denied) {
    match denied {
        Denied::Refused(connection, refusal) => {
            warn!(%remote, reason = %refusal, "refused connection");
            connection.close(refusal.close_code(), refusal.to_string().as_bytes());
        }
        Denied::Unreadable(connection) => {
            warn!(%remote, reason = "malformed hello", "refused connection");
            connection.close(VarInt::from_u32(close::MALFORMED), b"malformed hello");
        }
        Denied::Lost(error) => {
            let reason = explain(&error);
            if reason.is_refusal() {
                warn!(%remote, %reason, "refused connection");
            } else {
                debug!(%remote, %reason, "no connection");
            }
        }
    }
}

/// Learns and checks who connects, and answers who this node is.
async fn greet(shared: &Arc<Shared>, incoming: Incoming) -> Result<Accepted, Denied> {
    let connecting = incoming.accept().map_err(Denied::Lost)?;
    let connection = connecting.await.map_err(Denied::Lost)?;
    let refuse = |refusal| Denied::Refused(connection.clone(), refusal);
    let certified = shared.certify(&connection, Side::Dialled).map_err(refuse)?;
    let (name, expired) = (certified.name, certified.expired);
    let (mut send, mut recv) = connection.accept_bi().await.map_err(Denied::Lost)?;
    let unreadable = |_| match connection.close_reason() {
        Some(reason) => Denied::Lost(reason),
        None => Denied::Unreadable(connection.clone()),
    };
    let bytes = read_hello(&mut recv).await.map_err(unreadable)?;
    let hello = Hello::decode(&bytes).map_err(refuse)?;
    shared.check_hello(&hello, &name).map_err(refuse)?;
    let mut room = None;
    // Who may only renew must not speak for a member in any other way, such as ending its connections.
    if expired || !name.subject.is_member() {
        let guests = Arc::clone(&shared.guests).try_acquire_owned();
        room = Some(guests.map_err(|_| refuse(Refusal::TooManyPeers))?);
    } else if hello.identity.node != shared.local.node {
        let peer = shared.peer_or_insert(hello.identity.node).map_err(refuse)?;
        peer.admit(&hello.identity).map_err(refuse)?;
        // Peers dial from the socket they listen on, so the source address is one to dial.
        peer.set_addr_if_unknown(canonical(connection.remote_address()).into());
        peer.keep_inbound(hello.purpose, &connection);
        peer.poke();
    } else if hello.purpose != Purpose::Discover {
        return Err(refuse(Refusal::DuplicateNode(shared.local.node)));
    }
    shared.observe(hello.observed.ip());
    let answer = shared.hello(hello.purpose, connection.remote_address());
    write_hello(&mut send, &answer).await.map_err(unreadable)?;
    Ok(Accepted {
        connection,
        peer: hello.identity,
        purpose: hello.purpose,
        subject: name.subject,
        expired,
        _room: room,
    })
}

/// Without the IPv6 clothes in which a dual-stack socket shows an IPv4 address.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Ends a group with its owner.
struct AbortOnDrop(TaskGroup);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the calls of one connection until it ends; then every handler of it ends too.
async fn serve(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted {
        connection,
        peer,
        purpose,
        subject,
        expired,
        _room,
    } = accepted;
    debug!(peer = %subject, ?purpose, "accepted connection");
    let lanes = AbortOnDrop(TaskGroup::current());
    let handlers = AbortOnDrop(shared.callers.sibling());
    let mut left = classes(purpose).to_vec();
    let error = loop {
        let (send, mut recv) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => break error,
        };
        let class = recv.read_u8().await.ok().and_then(|byte| {
            let at = left.iter().position(|class| class_byte(*class) == byte)?;
            Some(left.swap_remove(at))
        });
        let Some(class) = class else {
            warn!(
                peer = peer.node,
                "closing connection: a stream of no expected class"
            );
            connection.close(VarInt::from_u32(close::PROTOCOL), b"unexpected stream");
            continue;
        };
        let lane = ServedLane::new(&shared, (&peer, subject.role(), expired), class, &handlers.0);
        lanes
            .0
            .spawn(lane.run(connection.clone(), send, recv, lanes.0.clone()));
    };
    if let Some(known) = shared.peer(peer.node) {
        known.forget_inbound(&connection);
    }
    info!(peer = %subject, ?purpose, cause = %explain(&error), "peer disconnected");
}

/// The answering side of one class of one connection.
struct ServedLane {
    shared: Arc<Shared>,
    peer: PeerIdentity,
    role: Role,
    /// The peer's certificate had expired when it connected.
    expired: bool,
    class: Class,
    handlers: TaskGroup,
    running: Running,
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Handlers at work, by call number.
type Running = Arc<Mutex<BTreeMap<u64, AbortHandle>>>;

impl ServedLane {
    fn new(
        shared: &Arc<Shared>,
        (peer, role, expired): (&PeerIdentity, Role, bool),
        class: Class,
        handlers: &TaskGroup,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            peer: peer.clone(),
            role,
            expired,
            class,
            handlers: handlers.clone(),
            running: Running::default(),
            calls: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            bytes: Arc::new(Semaphore::new(MAX_IN_FLIGHT_BYTES)),
        }
    }

    async fn run(
        self,
        connection: Connection,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        lanes: TaskGroup,
    ) {
        // The stream is new, so it cannot be closed.
        let _ = send.set_priority(priority(self.class));
        let (answers, queued) = mpsc::channel(MAX_IN_FLIGHT);
        lanes.spawn(async move {
            if let Err(error) = write_loop(send, queued).await {
                debug!(%error, "stopped writing answers");
            }
        });
        if let Err(error) = self.read_loop(recv, answers).await
            && connection.close_reason().is_none()
        {
            warn!(peer = self.peer.node, %error, "closing connection: its peer breaks the protocol");
            connection.close(VarInt::from_u32(close::PROTOCOL), b"protocol error");
        }
    }

    async fn read_loop(
        &self,
        mut stream: quinn::RecvStream,
        answers: mpsc::Sender<Outgoing>,
    ) -> Result<(), StreamError> {
        while let Some(prefix) = frame::read_prefix(&mut stream, max_frame(self.class)).await? {
            match prefix.kind {
                Kind::Request => self.request(&mut stream, prefix, &answers).await?,
                Kind::Cancel => {
                    frame::discard(&mut stream, prefix.rest).await?;
                    if let Some(handler) = lock(&self.running).remove(&prefix.call) {
                        handler.abort();
                    }
                }
                Kind::Response | Kind::Rejection | Kind::Lost => return Err(FrameError::Direction.into()),
            }
        }
        Ok(())
    }

    async fn request(
        &self,
        stream: &mut quinn::RecvStream,
        prefix: Prefix,
        answers: &mpsc::Sender<Outgoing>,
    ) -> Result<(), StreamError> {
        let len = prefix
            .rest
            .checked_sub(DEADLINE_LEN)
            .ok_or(FrameError::TooShort)?;
        let remaining = Duration::from_millis(stream.read_u32().await?.into()).min(MAX_CALL_TIME);
        let deadline = Instant::now() + remaining;
        if let Some(rejection) = self.refuse(prefix.method, len) {
            frame::discard(stream, len).await?;
            if let Some(frame) = rejection_frame(prefix, rejection) {
                // A closed queue means that the connection ends, which the next read notices.
                let _ = answers.send(frame).await;
            }
            return Ok(());
        }
        // While the limits are reached nothing more is read, and flow control holds the peer back.
        let permits = self.permits(len).await;
        let body = frame::read_body(stream, len).await?;
        self.start(prefix, body, deadline, answers.clone(), permits)
    }

    /// What speaks against a request before its body is read.
    fn refuse(&self, method: u16, len: usize) -> Option<Rejection> {
        if self.shared.is_closing() {
            return Some(Rejection::new(
                "shutting-down",
                "this node is shutting down; call another one",
            ));
        }
        let Some(spec) = self.shared.router.spec(method) else {
            let text = format!("method {method:#06x} is not served here");
            return Some(Rejection::new("unknown-method", text));
        };
        if spec.class != self.class {
            let text = format!("{} is not of class {:?}", spec.name, self.class);
            return Some(Rejection::new("wrong-class", text));
        }
        if !spec.roles.contains(self.role) {
            let text = format!("{} may not be called by the role {}", spec.name, self.role);
            return Some(Rejection::new("role-not-allowed", text));
        }
        if self.expired && !spec.after_expiry {
            let text = "the caller's certificate has expired; renew it, nothing else is answered until then";
            return Some(Rejection::new("certificate-expired", text));
        }
        (len > spec.max_request).then(|| {
            let text = format!("{}: {len} bytes, the limit is {}", spec.name, spec.max_request);
            Rejection::new("request-too-large", text)
        })
    }

    async fn permits(&self, len: usize) -> Vec<OwnedSemaphorePermit> {
        let len = u32::try_from(len.min(MAX_IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
        let call = Arc::clone(&self.calls).acquire_owned().await;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(len).await;
        // The semaphores are never closed, so both are there.
        call.into_iter().chain(bytes).collect()
    }

    fn start(
        &self,
        prefix: Prefix,
        body: Bytes,
        deadline: Instant,
        answers: mpsc::Sender<Outgoing>,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Result<(), StreamError> {
        let caller = Caller {
            peer: self.peer.clone(),
            deadline,
        };
        let in_flight = self.shared.in_flight.token();
        let router = self.shared.router.clone();
        let running = Arc::clone(&self.running);
        let work = async move {
            let handled = AssertUnwindSafe(router.dispatch(caller, prefix.method, body)).catch_unwind();
            let answer = timeout_at(deadline, handled).await;
            lock(&running).remove(&prefix.call);
            let frame = match answer {
                Ok(Ok(Ok(response))) => Outgoing::other(Kind::Response, prefix.method, prefix.call, response),
                Ok(Ok(Err(rejection))) => rejection_frame(prefix, rejection),
                Ok(Err(_panic)) => {
                    error!(method = prefix.method, "handler panicked");
                    Outgoing::other(Kind::Lost, prefix.method, prefix.call, Bytes::new())
                }
                // Nobody waits any more.
                Err(_) => None,
            };
            if let Some(frame) = frame {
                // A closed queue means that the connection has ended, and with it the call.
                let _ = answers.send(frame.holding(permits, in_flight)).await;
            }
        };
        // Held while spawning, so that the handler cannot end before it is listed.
        let mut running = lock(&self.running);
        if running.contains_key(&prefix.call) {
            return Err(FrameError::DuplicateCall.into());
        }
        running.insert(prefix.call, self.handlers.spawn(work).abort_handle());
        Ok(())
    }
}

fn rejection_frame(prefix: Prefix, mut rejection: Rejection) -> Option<Outgoing> {
    for text in [&mut rejection.code, &mut rejection.message] {
        if text.len() > MAX_REJECTION_TEXT {
            *text = text.chars().take(MAX_REJECTION_TEXT / 4).collect();
        }
    }
    let body = postcard::to_allocvec(&rejection).ok()?;
    Outgoing::other(Kind::Rejection, prefix.method, prefix.call, body.into())
}
