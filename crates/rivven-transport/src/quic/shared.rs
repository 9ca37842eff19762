//! What all tasks of one endpoint share, and the checks that both sides of a hello make.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use quinn::{Connection, Endpoint, VarInt};
use rivven_types::{ClusterId, NodeId};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    door::Door,
    explain::Explained,
    guard::{self, Certified, Denied},
    guests::{Guests, Kind, Place},
    hello::{Hello, MAX_LEN, Purpose, Refusal, Versions, close},
    limits::{HELLO_TIMEOUT, MAX_PEERS},
    lock,
    lookup::Lookups,
    peer::Peer,
    rank::Turn,
    refusals::{Cause, RefusalLog},
    trust::{Side, Trust},
};
use crate::{
    Class, LocalIdentity, PeerIdentity, Router, TaskGroup,
    identity::{CertificateName, Subject},
};

/// One end of the network.
pub(super) struct Shared {
    pub(super) local: LocalIdentity,
    pub(super) local_addr: SocketAddr,
    pub(super) router: Router,
    /// Everything that moves packets, on the transport's own threads.
    pub(super) tasks: TaskGroup,
    /// The runtime of whoever started the transport, where handlers run.
    pub(super) callers: TaskGroup,
    /// Reading and writing the frames of calls, on the same runtime: where they are made and handled.
    pub(super) lanes: TaskGroup,
    /// What looks after the certificate, on the same runtime.
    pub(super) upkeep: TaskGroup,
    /// Calls and handlers in flight, which a shutdown waits for.
    pub(super) in_flight: TaskTracker,
    pub(super) client: quinn::ClientConfig,
    /// `None` once shut down, so that the socket is free.
    pub(super) endpoint: Mutex<Option<Endpoint>>,
    /// Cancelled when this node shuts down.
    pub(super) closing: CancellationToken,
    /// Ends of connections that are up, which a shutdown waits for.
    pub(super) ends: TaskTracker,
    /// Room for peers that are asked whether they listen by now.
    pub(super) taps: Semaphore,
    pub(super) versions: Versions,
    pub(super) refusals: Mutex<RefusalLog>,
    pub(super) peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    pub(super) observed: Mutex<Option<IpAddr>>,
    /// Room for connections of those that are no peers.
    pub(super) guests: Guests,
    /// Host names that are being looked up.
    pub(super) lookups: Lookups,
    /// Where those without a certificate may ask for one.
    pub(super) door: Door,
    pub(super) trust: Arc<Trust>,
    pub(super) denied: Denied,
}

impl Shared {
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    pub(super) fn connect(&self, remote: SocketAddr, name: &str) -> Result<quinn::Connecting, String> {
        let endpoint = lock(&self.endpoint);
        let endpoint = endpoint.as_ref().ok_or("this node is shut down")?;
        endpoint
            .connect_with(self.client.clone(), remote, name)
            .map_err(|error| format!("cannot dial {remote}: {error}"))
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&node).cloned()
    }

    pub(super) fn peer_or_insert(&self, node: NodeId) -> Result<Arc<Peer>, Refusal> {
        let mut peers = lock(&self.peers);
        if !peers.contains_key(&node) && peers.len() >= MAX_PEERS {
            return Err(Refusal::TooManyPeers);
        }
        let peer = peers.entry(node).or_insert_with(|| Arc::new(Peer::new(node)));
        Ok(Arc::clone(peer))
    }

    /// Lets go of every connection, so that none outlives the socket.
    pub(super) fn forget_peers(&self) {
        let peers = std::mem::take(&mut *lock(&self.peers));
        for peer in peers.values() {
            peer.forget_connections();
        }
    }

    /// Whether `node` may not have a connection.
    pub(super) fn is_denied(&self, node: NodeId) -> bool {
        self.denied.borrow().contains(&node)
    }

    /// Who `connection` leads to, if that peer may have it. It is watched over from this moment on.
    pub(super) fn certify(
        self: &Arc<Self>,
        connection: &Connection,
        side: Side,
    ) -> Result<Certified, Refusal> {
        let identity = self.trust.watch().current();
        let certified = Certified::of(connection, side, &identity)?;
        let name = &certified.name;
        self.check_cluster(name.cluster)?;
        if self.is_denied(name.subject.node()) {
            return Err(Refusal::Removed(name.subject.clone()));
        }
        if side == Side::Answered && !name.subject.is_member() {
            return Err(Refusal::NotANode(name.subject.clone()));
        }
        let guarding = guard::guard(Arc::clone(self), connection.clone(), certified.clone());
        self.tasks.spawn(guarding);
        Ok(certified)
    }

    /// A place for a connection of `subject`, which is no peer.
    pub(super) fn guest(&self, kind: Kind, subject: &Subject) -> Result<Place, Refusal> {
        let place = self.guests.enter(kind, subject);
        place.ok_or_else(|| Refusal::TooManyGuests(subject.clone()))
    }

    /// A place for a connection by which `subject` only asks who this node is, and that ends within
    /// [`HELLO_TIMEOUT`].
    pub(super) fn brief(&self, connection: &Connection, subject: &Subject) -> Result<Place, Refusal> {
        let place = self.guest(Kind::Asking, subject)?;
        let connection = connection.clone();
        self.tasks.spawn(async move {
            sleep(HELLO_TIMEOUT).await;
            connection.close(VarInt::from_u32(close::DONE), b"discovered");
        });
        Ok(place)
    }

    pub(super) fn observe(&self, ip: IpAddr) {
        *lock(&self.observed) = Some(ip.to_canonical());
    }

    pub(super) fn identity(&self) -> PeerIdentity {
        PeerIdentity {
            node: self.local.node,
            instance: self.local.instance,
            boot_epoch: self.local.boot_epoch,
        }
    }

    /// What this node says to the peer at `remote`.
    pub(super) fn hello(&self, purpose: Purpose, remote: SocketAddr) -> Hello {
        Hello {
            versions: self.versions,
            purpose,
            cluster: self.local.cluster,
            identity: self.identity(),
            observed: remote,
            number: 0,
            seen: Turn::default(),
        }
    }

    /// Says in the log that this node refused a connection, unless it has just said so.
    pub(super) fn warn_refused(&self, remote: SocketAddr, refusal: &Refusal) {
        if refusal.is_ordinary() {
            debug!(%remote, reason = %refusal, "refused connection");
            return;
        }
        let cause = Cause::Ours(refusal.close_code().into_inner());
        if let Some(suppressed) = self.news(remote, cause) {
            warn!(%remote, reason = %refusal, suppressed, "refused connection");
        }
    }

    /// The same where TLS or the peer refused.
    pub(super) fn warn_explained(&self, remote: SocketAddr, reason: &Explained) {
        if let Some(suppressed) = self.news(remote, reason.cause()) {
            warn!(%remote, %reason, suppressed, "connection refused");
        }
    }

    fn news(&self, remote: SocketAddr, cause: Cause) -> Option<u64> {
        let key = (remote.ip().to_canonical(), cause);
        lock(&self.refusals).note(key, Instant::now())
    }

    pub(super) fn check_cluster(&self, theirs: ClusterId) -> Result<(), Refusal> {
        let ours = self.local.cluster;
        if theirs == ours {
            Ok(())
        } else {
            Err(Refusal::OtherCluster { ours, theirs })
        }
    }

    /// Whether a hello says what the certificate proves, and is not of a double of this node.
    pub(super) fn check_hello(&self, hello: &Hello, certified: &CertificateName) -> Result<(), Refusal> {
        self.check_cluster(hello.cluster)?;
        let certified = certified.subject.node();
        if hello.identity.node != certified {
            return Err(Refusal::WrongNode {
                claimed: hello.identity.node,
                certified,
            });
        }
        if certified != 0 && certified == self.local.node && hello.identity != self.identity() {
            return Err(Refusal::DuplicateNode(self.local.node));
        }
        Ok(())
    }
}

/// The classes whose calls travel on a connection.
pub(super) const fn classes(purpose: Purpose) -> &'static [Class] {
    match purpose {
        Purpose::Main => &[Class::Control, Class::Raft, Class::Client],
        Purpose::Bulk => &[Class::Bulk],
        Purpose::Discover => &[],
    }
}

/// The connection that calls of a class take.
pub(super) const fn purpose(class: Class) -> Purpose {
    match class {
        Class::Control | Class::Raft | Class::Client => Purpose::Main,
        Class::Bulk => Purpose::Bulk,
    }
}

/// Writes a hello, preceded by its length in two bytes. The stream stays open for what follows.
pub(super) async fn write_hello(stream: &mut quinn::SendStream, hello: &Hello) -> io::Result<()> {
    let body = hello.encode();
    let len = u16::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_be_bytes()).await?;
    Ok(stream.write_all(&body).await?)
}

/// Reads what [`write_hello`] wrote.
pub(super) async fn read_hello(stream: &mut quinn::RecvStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).await.map_err(io::Error::other)?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > MAX_LEN {
        return Err(io::Error::other("the hello is too long"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.map_err(io::Error::other)?;
    Ok(body)
}
