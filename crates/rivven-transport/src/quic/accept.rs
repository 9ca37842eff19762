//! Accepting connections: who comes is learnt and checked, then its calls are served.

use std::{net::SocketAddr, sync::Arc};

use quinn::{Connection, ConnectionError, Endpoint, Incoming, VarInt};
use tokio::{
    io::AsyncReadExt,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{
    control::{self, control_loop},
    dial::class_byte,
    door,
    explain::explain,
    hello::{Hello, Purpose, Refusal, close},
    lane::Lanes,
    limits::{HELLO_TIMEOUT, MAX_HANDSHAKES, RETRY_ABOVE},
    serve::ServedLane,
    shared::{Shared, classes, read_hello, write_hello},
    transfer::{Receiving, TRANSFER_BYTE},
    trust::Side,
};
use crate::{PeerIdentity, TaskGroup, identity::Subject, stream::MAX_TRANSFERS};

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
    control: control::Streams,
}

/// Why a connection was not accepted.
enum Denied {
    Refused(Connection, Refusal),
    Lost(ConnectionError),
    Unreadable(Connection),
}

/// Who has come.
enum Greeted {
    Certified(Accepted),
    /// Somebody without a certificate.
    Stranger(Connection),
}

async fn accept(shared: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let greeted = timeout(HELLO_TIMEOUT, greet(&shared, incoming)).await;
    drop(permit);
    match greeted {
        Ok(Ok(Greeted::Certified(accepted))) => serve(shared, accepted).await,
        Ok(Ok(Greeted::Stranger(connection))) => door::serve(shared, connection).await,
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
async fn greet(shared: &Arc<Shared>, incoming: Incoming) -> Result<Greeted, Denied> {
    let connecting = incoming.accept().map_err(Denied::Lost)?;
    let connection = connecting.await.map_err(Denied::Lost)?;
    if door::is_stranger(&connection) {
        return Ok(Greeted::Stranger(connection));
    }
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
    Ok(Greeted::Certified(Accepted {
        connection,
        peer: hello.identity,
        purpose: hello.purpose,
        subject: name.subject,
        expired,
        _room: room,
        control: (send, recv),
    }))
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
        control,
    } = accepted;
    debug!(peer = %subject, ?purpose, "accepted connection");
    let lanes = AbortOnDrop(TaskGroup::current());
    let handlers = AbortOnDrop(shared.callers.sibling());
    lanes
        .0
        .spawn(control_loop(connection.clone(), peer.node, Lanes::new(), control));
    let transfers = Receiving {
        shared: Arc::clone(&shared),
        peer: peer.clone(),
        role: subject.role(),
        expired,
        room: Arc::new(Semaphore::new(MAX_TRANSFERS)),
    };
    let mut left = classes(purpose).to_vec();
    let error = loop {
        let (send, mut recv) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => break error,
        };
        let first = recv.read_u8().await.ok();
        if first == Some(TRANSFER_BYTE) && purpose == Purpose::Bulk {
            transfers.start(send, recv, &handlers.0);
            continue;
        }
        let class = first.and_then(|byte| {
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
