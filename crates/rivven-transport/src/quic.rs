//! The network over QUIC with mutual TLS.
//!
//! Two nodes share two connections, whoever dialled them: one for Control, Raft and Client calls, one for
//! Bulk. Of several for one purpose both keep the same (`rank`) and leave the others without losing a call
//! (`line`, `control`). A connection counts as up once both sides have proven by certificate which node they
//! are and said by hello which instance and start of it. Frames and hello: `docs/formats/wire.md`.

mod accept;
mod alarm;
mod config;
mod congestion;
mod control;
mod dial;
mod door;
mod drive;
mod end;
mod explain;
mod frame;
mod guard;
mod guests;
mod hello;
mod keys;
mod knock;
mod lane;
mod limits;
mod line;
mod lookup;
mod network;
mod peer;
mod pending;
mod rank;
mod read;
mod refusals;
mod refused;
mod room;
mod runtime;
mod serve;
mod shared;
mod silence;
mod socket;
mod standby;
mod tap;
#[cfg(test)]
mod tests;
mod transfer;
mod trust;
mod write;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quinn::Endpoint;
use rivven_crypto::{EntropyError, Provider};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    Class, LocalIdentity, Router, TaskGroup, Transport,
    identity::{IdentityWatch, RELOAD_INTERVAL},
    issuer::remind,
};
use config::Configs;
use drive::Drivers;
use network::QuicNetwork;
use runtime::IoRuntime;
use shared::Shared;
use standby::Standby;

pub use keys::{QuicKeys, QuicKeysError};
pub(crate) use knock::{KnockError, knock};
pub(crate) use lookup::Lookups;

/// The network over QUIC. Start one with [`QuicTransport::builder`], use it through [`Transport`].
#[derive(Debug)]
pub struct QuicTransport;

/// Settings of a [`QuicTransport`].
#[derive(Debug)]
pub struct QuicTransportBuilder {
    identity: IdentityWatch,
    local: LocalIdentity,
    bind: SocketAddr,
    router: Router,
    keys: Option<QuicKeys>,
    provider: Provider,
    versions: hello::Versions,
    runtime: Option<Handle>,
    lookups: Lookups,
}

/// Why the transport did not start. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process, or another node of this one, has the port.
    #[error("UDP port {} at {} is in use; stop what uses it or configure another port", addr.port(), addr.ip())]
    PortInUse {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The operating system refuses the address, for instance because no interface has it.
    #[error("cannot listen on {addr} (UDP): {source}; use an address of this machine, or 0.0.0.0")]
    Socket {
        /// The address asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The certificate names another node or cluster than the data directory or configuration.
    #[error(
        "the certificate is of node {certified} of its cluster, but this is node {configured}, or its data \
         directory belongs to another cluster; use the certificate made for this node"
    )]
    IdentityMismatch {
        /// The node id in the certificate; 0 if it is that of an operator or client.
        certified: u64,
        /// The node id in use.
        configured: u64,
    },
    /// TLS does not accept certificate or key.
    #[error("TLS does not accept this node's certificate or key: {cause}; make new ones")]
    Tls {
        /// What TLS said.
        cause: String,
    },
    /// There is no tokio runtime to run on. Start the transport inside one.
    #[error("the transport must be started inside a tokio runtime")]
    NoRuntime,
    /// The operating system gives no threads. Raise the limit of processes of this user.
    #[error("cannot start the transport's threads: {0}; raise this user's limit of processes")]
    Threads(#[source] io::Error),
    /// The operating system gave no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl BindError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PortInUse { .. } => "port-in-use",
            Self::Socket { .. } => "bind-failed",
            Self::IdentityMismatch { .. } => "identity-mismatch",
            Self::Tls { .. } => "tls-setup-failed",
            Self::NoRuntime => "no-runtime",
            Self::Threads(_) => "no-threads",
            Self::Entropy(_) => "no-entropy",
        }
    }
}

impl QuicTransport {
    /// Settings for the node of `identity`, which must be the node and cluster of `local`.
    ///
    /// An operator or client has node id 0 and only calls: no node calls it.
    ///
    /// Without further settings it listens on a free port of 127.0.0.1, serves no method, and keeps
    /// nothing across restarts. An identity that was read from files is read again when they change; an
    /// [`IdentityWatch`] can replace it at any moment.
    #[must_use]
    pub fn builder(identity: impl Into<IdentityWatch>, local: LocalIdentity) -> QuicTransportBuilder {
        let identity = identity.into();
        let provider = identity.current().provider().clone();
        QuicTransportBuilder {
            identity,
            local,
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            router: Router::new(),
            keys: None,
            provider,
            versions: hello::VERSIONS,
            runtime: None,
            lookups: Lookups::default(),
        }
    }
}

impl QuicTransportBuilder {
    /// Listens on `addr` (UDP). Port 0 picks a free one; [`Transport::local_addr`] tells which.
    #[must_use]
    pub const fn bind(mut self, addr: SocketAddr) -> Self {
        self.bind = addr;
        self
    }

    /// Answers the methods of `router`, also those registered later.
    #[must_use]
    pub fn router(mut self, router: Router) -> Self {
        self.router = router;
        self
    }

    /// Uses keys that outlive the process, so that peers notice a restart at once.
    #[must_use]
    pub fn keys(mut self, keys: QuicKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Uses the cryptography of `provider`; without this call, that of the identity, which is the pure Rust one
    /// unless it was loaded by another.
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// Does everything on the runtime of `handle`, which must have its I/O and time enabled, and starts no threads.
    ///
    /// For programs that want all threads to be their own. Whatever blocks that runtime then delays packets and
    /// pings too: peers close a connection whose pings stay unanswered for 600 ms. Once the transport is shut
    /// down its port is free as soon as the runtime has dropped what held the socket.
    #[must_use]
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// Looks host names up by `lookups`.
    #[cfg(test)]
    fn lookups(mut self, lookups: Lookups) -> Self {
        self.lookups = lookups;
        self
    }

    /// Binds the socket and starts.
    ///
    /// Packets are moved, and calls read, handled and written, on the runtime of the calling task, which must have
    /// its I/O and time enabled. A handler runs where its request was read until it has to wait for something, and
    /// then in a task of its own. Unless [`Self::runtime`] says otherwise, one thread of the transport's own, named
    /// `rivven-quic`, makes connections and pings, and moves the packets while that runtime stands still or after
    /// it has ended. So a handler that blocks its thread delays packets by some 20 ms, no ping and no other peer,
    /// but the requests that came behind it in its class. Host names are looked up on up to four more threads,
    /// which exist only while they have work.
    ///
    /// # Panics
    /// If the I/O or the time of the calling task's runtime is not enabled.
    ///
    /// # Errors
    /// [`BindError`]: the port is taken, the address is not of this machine, or the certificate is of
    /// another node.
    pub fn start(self) -> Result<Transport, BindError> {
        self.start_network().map(Transport::new)
    }

    fn start_network(self) -> Result<QuicNetwork, BindError> {
        let identity = self.identity.current();
        if (identity.cluster(), identity.node()) != (self.local.cluster, self.local.node) {
            return Err(BindError::IdentityMismatch {
                certified: identity.node(),
                configured: self.local.node,
            });
        }
        let callers = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let keys = match self.keys {
            Some(keys) => keys,
            None => QuicKeys::generate()?,
        };
        let Configs {
            endpoint,
            server,
            client,
            trust,
        } = config::build(self.identity, &self.router, &keys, &self.provider)
            .map_err(|cause| BindError::Tls { cause })?;
        let socket = bind_socket(self.bind)?;
        let failed = |source| BindError::Socket {
            addr: self.bind,
            source,
        };
        let (runtime, io, drivers) = place(self.runtime, &callers)?;
        let endpoint = Endpoint::new(endpoint, Some(server), socket, Arc::new(drivers));
        let endpoint = endpoint.map_err(failed)?;
        let local_addr = endpoint.local_addr().map_err(failed)?;
        info!(node_id = self.local.node, %local_addr, "transport listening");
        let shared = Arc::new(Shared {
            local: self.local,
            local_addr,
            router: self.router,
            tasks: TaskGroup::new(io),
            upkeep: TaskGroup::new(callers.clone()),
            lanes: TaskGroup::new(callers.clone()),
            callers: TaskGroup::new(callers),
            in_flight: TaskTracker::new(),
            client,
            endpoint: Mutex::new(Some(endpoint.clone())),
            closing: CancellationToken::new(),
            ends: TaskTracker::new(),
            taps: Semaphore::new(limits::MAX_TAPS),
            versions: self.versions,
            refusals: Mutex::default(),
            peers: Mutex::new(BTreeMap::new()),
            observed: Mutex::new(None),
            guests: guests::Guests::default(),
            lookups: self.lookups,
            door: door::Door::new(),
            trust,
            denied: guard::Denied::new(Arc::default()),
        });
        let identity = shared.trust.watch().clone();
        shared.upkeep.spawn(remind(identity.clone()));
        if identity.has_files() {
            let following = follow_files(shared.upkeep.clone(), identity);
            shared.upkeep.spawn(following);
        }
        let accepting = accept::accept_loop(Arc::clone(&shared), endpoint);
        shared.tasks.spawn(accepting);
        shared.upkeep.spawn(report_refusals(Arc::clone(&shared)));
        Ok(QuicNetwork { shared, runtime })
    }
}

/// Where things run: on the runtime that was `given`, or on a thread of the transport's own, and packets on that of
/// the `callers`.
fn place(given: Option<Handle>, callers: &Handle) -> Result<(IoRuntime, Handle, Drivers), BindError> {
    if let Some(handle) = given {
        let (runtime, io) = IoRuntime::borrowed(handle);
        return Ok((runtime, io.clone(), Drivers::new(io, None)));
    }
    let (runtime, io) = IoRuntime::start().map_err(BindError::Threads)?;
    let standby = Standby::new(io.clone());
    TaskGroup::new(io.clone()).spawn(standby::watch(Arc::clone(&standby)));
    Ok((runtime, io, Drivers::new(callers.clone(), Some(standby))))
}

/// Takes over what the files of the identity hold, whenever they change.
async fn follow_files(tasks: TaskGroup, identity: IdentityWatch) {
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let identity = identity.clone();
        if tasks.blocking(move || identity.look()).await.is_err() {
            return;
        }
    }
}

/// Says how many refusals were kept out of the log, once their addresses have fallen silent.
async fn report_refusals(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(limits::REFUSAL_LOG_INTERVAL).await;
        let unreported = lock(&shared.refusals).sweep(Instant::now());
        for (remote, suppressed) in unreported {
            match remote {
                Some(remote) => warn!(%remote, suppressed, "refused more connections"),
                None => warn!(suppressed, "refused more connections of many addresses"),
            }
        }
    }
}

fn bind_socket(addr: SocketAddr) -> Result<UdpSocket, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    let socket = bind().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortInUse { addr },
        _ => BindError::Socket { addr, source },
    })?;
    enlarge_buffers(&socket);
    Ok(socket.into())
}

/// Asks for buffers that hold a burst; without them packets are lost while this process waits its turn.
fn enlarge_buffers(socket: &Socket) {
    let wanted = limits::SOCKET_BUFFER;
    // A refusal shows in the sizes read back.
    let _ = socket.set_recv_buffer_size(wanted);
    let _ = socket.set_send_buffer_size(wanted);
    let receive = socket.recv_buffer_size().unwrap_or(0);
    let send = socket.send_buffer_size().unwrap_or(0);
    if receive < wanted || send < wanted {
        warn!(
            wanted,
            receive,
            send,
            "socket buffers are smaller than asked for; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
}

/// See [`crate::fuzzing::frames`].
pub(crate) fn count_frames(bytes: &[u8]) -> usize {
    frame::count(bytes, limits::max_frame(Class::Client))
}

/// See [`crate::fuzzing::hello`].
pub(crate) fn read_hello_again(bytes: &[u8]) -> Option<Vec<u8>> {
    hello::Hello::decode(bytes, hello::VERSIONS)
        .ok()
        .map(|hello| hello.encode())
}

/// See [`crate::fuzzing::words`].
pub(crate) fn count_words(bytes: &[u8]) -> usize {
    control::count_words(bytes)
}

/// Locks a mutex whose content is consistent after every statement, and so even when poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
