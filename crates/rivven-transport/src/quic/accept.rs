//! Accepting connections: who comes is learnt and checked; and accepting streams, whose calls are served.

use std::{net::SocketAddr, sync::Arc};

use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, VarInt};
use tokio::{io::AsyncReadExt, sync::Semaphore, time::timeout};
use tracing::{debug, warn};

use super::{
    control,
    dial::{class_byte, open_lanes, supervise},
    door,
    end::{self, Met},
    explain::explain,
    guests::{Kind, Place},
    hello::{Hello, Purpose, Refusal, close},
    lane::Lanes,
    limits::{HELLO_TIMEOUT, MAX_HANDSHAKES, RETRY_ABOVE},
    line::Line,
    peer::Peer,
    rank::Claim,
    serve::ServedLane,
    shared::{Shared, classes, read_hello, write_hello},
    transfer::{Receiving, TRANSFER_BYTE},
    trust::Side,
};
use crate::{
    PeerIdentity, TaskGroup,
    identity::{CertificateName, NodeIdentity, Role, Subject},
    metrics::{Dialler, handshake_failed},
    stream::MAX_TRANSFERS,
};

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept_loop(shared: Arc<Shared>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            handshake_failed(Dialler::Peer, "too-many-handshakes");
            incoming.refuse();
            continue;
        };
        let busy = MAX_HANDSHAKES - handshakes.available_permits() > RETRY_ABOVE;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // `may_retry` was asked, so this cannot fail.
            let _ = incoming.retry();
            continue;
        }
        let (tasks, shared) = (shared.tasks.clone(), Arc::clone(&shared));
        tasks.spawn(async move {
            let greeted = accept(&shared, incoming).await;
            drop(permit);
            match greeted {
                Some(Greeted::Certified(met, line)) => {
                    supervise_peer(&met);
                    end::run(met, line).await;
                }
                Some(Greeted::Stranger(connection)) => door::serve(shared, connection).await,
                None => {}
            }
        });
    }
}

/// Sees to it that the connection is replaced when this node's certificate changes, also when this node never
/// calls.
fn supervise_peer(met: &Met) {
    if let Some(peer) = met.peer.clone().filter(|peer| peer.way(met.purpose).start()) {
        let supervising = supervise(Arc::clone(&met.shared), peer, met.purpose);
        met.shared.tasks.spawn(supervising);
    }
}

/// Why a connection was not accepted.
enum Denied {
    Refused(Connection, Refusal),
    Lost(ConnectionError),
    Unreadable(Connection),
}

impl Denied {
    fn reason(&self) -> &'static str {
        match self {
            Self::Refused(_, refusal) => refusal.reason(),
            Self::Lost(error) => explain(error).reason(),
            Self::Unreadable(_) => Refusal::Malformed.reason(),
        }
    }
}

/// Who has come.
enum Greeted {
    Certified(Met, Arc<Line>),
    /// Somebody without a certificate.
    Stranger(Connection),
}

/// Who has said who it is.
enum Heard {
    Certified(Box<Answered>),
    /// Somebody without a certificate, who says nothing.
    Stranger(Connection),
}

/// A connection whose hello was answered.
struct Answered {
    connection: Connection,
    hello: Hello,
    claim: Claim,
    /// This node, as it has shown itself.
    own: NodeIdentity,
    subject: Subject,
    expired: bool,
    control: control::Streams,
    admitted: Admitted,
}

async fn accept(shared: &Arc<Shared>, incoming: Incoming) -> Option<Greeted> {
    let remote = incoming.remote_address();
    // Kept until the connection is closed, if it is: streams that are dropped before say that they have ended,
    // and the peer would take that for an answer.
    let mut begun = Begun::default();
    match timeout(HELLO_TIMEOUT, greet(shared, incoming, &mut begun)).await {
        Ok(Ok(Heard::Stranger(connection))) => return Some(Greeted::Stranger(connection)),
        // From its answer on the dialler may call, so what is left to do no longer counts against the hello's time.
        Ok(Ok(Heard::Certified(answered))) => match take_up(shared, *answered).await {
            Ok((met, line)) => return Some(Greeted::Certified(met, line)),
            Err(denied) => deny(shared, remote, denied),
        },
        Ok(Err(denied)) => deny(shared, remote, denied),
        Err(_) => {
            handshake_failed(Dialler::Peer, "timeout");
            debug!(%remote, "no hello in time");
            // Whoever watches over its certificate would keep it open otherwise.
            if let Some(connection) = &begun.connection {
                connection.close(VarInt::from_u32(close::PROTOCOL), b"no hello in time");
            }
        }
    }
    None
}

fn deny(shared: &Shared, remote: SocketAddr, denied: Denied) {
    handshake_failed(Dialler::Peer, denied.reason());
    match denied {
        Denied::Refused(connection, refusal) => {
            shared.warn_refused(remote, &refusal);
            connection.close(refusal.close_code(), refusal.to_string().as_bytes());
        }
        Denied::Unreadable(connection) => {
            shared.warn_refused(remote, &Refusal::Malformed);
            connection.close(VarInt::from_u32(close::MALFORMED), b"malformed hello");
        }
        Denied::Lost(error) => {
            let reason = explain(&error);
            if reason.is_refusal() {
                shared.warn_explained(remote, &reason);
            } else {
                debug!(%remote, %reason, "no connection");
            }
        }
    }
}

/// What a greeting has come to so far.
#[derive(Default)]
struct Begun {
    connection: Option<Connection>,
    /// The control stream.
    streams: Option<control::Streams>,
}

/// Learns and checks who connects, and answers who this node is.
///
/// `begun` is for a caller that does not wait for more, or closes.
async fn greet(shared: &Arc<Shared>, incoming: Incoming, begun: &mut Begun) -> Result<Heard, Denied> {
    let own = shared.trust.watch().current();
    let connecting = incoming.accept().map_err(Denied::Lost)?;
    let connection = connecting.await.map_err(Denied::Lost)?;
    begun.connection = Some(connection.clone());
    if door::is_stranger(&connection) {
        return Ok(Heard::Stranger(connection));
    }
    let refuse = |refusal| Denied::Refused(connection.clone(), refusal);
    let certified = shared.certify(&connection, Side::Dialled).map_err(refuse)?;
    let (name, expired) = (certified.name, certified.expired);
    let streams = connection.accept_bi().await.map_err(Denied::Lost)?;
    let (send, recv) = begun.streams.insert(streams);
    let hello = hear(shared, &connection, recv, &name).await?;
    let claim = hello.claim(shared.local.node);
    let admitted = admit(shared, &connection, (&hello, &claim), (&name.subject, expired));
    let admitted = admitted.map_err(refuse)?;
    if shared.is_closing() {
        return Err(refuse(Refusal::ShuttingDown));
    }
    // Where peers reach this node is for peers to say: it is told to all others.
    if !expired && name.subject.is_member() {
        shared.observe(hello.observed.ip());
    }
    let mut answer = shared.hello(hello.purpose, connection.remote_address());
    (answer.number, answer.seen) = (hello.number, hello.seen);
    let answered = write_hello(send, &answer).await;
    answered.map_err(|_| broken(&connection))?;
    let control = begun.streams.take().ok_or_else(|| broken(&connection))?;
    Ok(Heard::Certified(Box::new(Answered {
        connection,
        hello,
        claim,
        own,
        subject: name.subject,
        expired,
        control,
        admitted,
    })))
}

/// Takes a connection into use.
async fn take_up(shared: &Arc<Shared>, answered: Answered) -> Result<(Met, Arc<Line>), Denied> {
    let Answered {
        connection, hello, ..
    } = answered;
    let (room, peer) = answered.admitted;
    let lanes = match &peer {
        Some(peer) => open_lanes(shared, peer.node, &connection, hello.purpose)
            .await
            .map_err(Denied::Lost)?,
        None => Lanes::new(),
    };
    let line = Line::new(connection, lanes, answered.claim, answered.own);
    if let Some(peer) = &peer {
        peer.offer(hello.purpose, &line, &hello.identity, false);
    }
    let met = Met {
        shared: Arc::clone(shared),
        purpose: hello.purpose,
        peer,
        identity: hello.identity,
        subject: answered.subject,
        expired: answered.expired,
        dialled: false,
        control: answered.control,
        _room: room,
    };
    Ok((met, line))
}

/// Where a greeting belongs: the place of a guest, or the peer.
type Admitted = (Option<Place>, Option<Arc<Peer>>);

/// Checks what `hello` claims against what is known of its node.
fn admit(
    shared: &Arc<Shared>,
    connection: &Connection,
    (hello, claim): (&Hello, &Claim),
    (subject, expired): (&Subject, bool),
) -> Result<Admitted, Refusal> {
    // Who may only renew must not speak for a member in any other way, such as ending its connections.
    if expired || !subject.is_member() {
        let kind = if expired { Kind::Expired } else { Kind::Guest };
        return Ok((Some(shared.guest(kind, subject)?), None));
    }
    let discovers = hello.purpose == Purpose::Discover;
    if hello.identity.node == shared.local.node {
        return if discovers {
            Ok((Some(shared.brief(connection, subject)?), None))
        } else {
            Err(Refusal::DuplicateNode(shared.local.node))
        };
    }
    let known = shared.peer_or_insert(hello.identity.node)?;
    known.admit(&hello.identity)?;
    // Peers dial from the socket they listen on, so the source address is one to dial.
    known.set_addr_if_unknown(canonical(connection.remote_address()).into());
    let admitted = if discovers {
        (Some(shared.brief(connection, subject)?), None)
    } else if known.would_lose(hello.purpose, claim) {
        // Neither end has used it, so it can be closed at once.
        return Err(Refusal::Superseded);
    } else {
        (None, Some(Arc::clone(&known)))
    };
    known.poke();
    Ok(admitted)
}

/// Reads the hello of who is certified as `name`.
async fn hear(
    shared: &Shared,
    connection: &Connection,
    recv: &mut RecvStream,
    name: &CertificateName,
) -> Result<Hello, Denied> {
    let refuse = |refusal| Denied::Refused(connection.clone(), refusal);
    let bytes = read_hello(recv).await.map_err(|_| broken(connection))?;
    let hello = Hello::decode(&bytes, shared.versions).map_err(refuse)?;
    shared.check_hello(&hello, name).map_err(refuse)?;
    Ok(hello)
}

/// What a broken stream means, which the end of its connection explains better.
fn broken(connection: &Connection) -> Denied {
    match connection.close_reason() {
        Some(reason) => Denied::Lost(reason),
        None => Denied::Unreadable(connection.clone()),
    }
}

/// Without the IPv6 clothes in which a dual-stack socket shows an IPv4 address.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Serves the calls that the peer makes on `connection` until it ends, with handlers on tasks of `handlers`.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    connection: &Connection,
    purpose: Purpose,
    (peer, role, expired): (&PeerIdentity, Role, bool),
    handlers: &TaskGroup,
) -> ConnectionError {
    let transfers = Receiving {
        shared: Arc::clone(shared),
        peer: peer.clone(),
        role,
        expired,
        room: Arc::new(Semaphore::new(MAX_TRANSFERS)),
    };
    let mut left = classes(purpose).to_vec();
    loop {
        let (send, mut recv) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => return error,
        };
        // A transfer may be given up before its first byte; that the connection is gone, the next turn tells.
        let Ok(first) = recv.read_u8().await else {
            continue;
        };
        if first == TRANSFER_BYTE && purpose == Purpose::Bulk {
            transfers.start(send, recv, handlers);
            continue;
        }
        let expected = left.iter().position(|class| class_byte(*class) == first);
        let Some(class) = expected.map(|at| left.swap_remove(at)) else {
            warn!(
                peer = peer.node,
                "closing connection: a stream of no expected class"
            );
            connection.close(VarInt::from_u32(close::PROTOCOL), b"unexpected stream");
            continue;
        };
        let lane = ServedLane::new(shared, (peer, role, expired), class, handlers);
        shared.lanes.spawn(lane.run(connection.clone(), send, recv));
    }
}
