//! [`SwimNode`]: the machine on a UDP socket.

mod envelope;
mod error;
mod resolve;
mod run;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
    vec::Vec,
};

use rivven_transport::{LocalIdentity, TaskGroup, datagram::GossipKeys};
use rivven_types::{BootEpoch, InstanceId, NodeId, PeerAddr};
use tokio::{
    net::UdpSocket,
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tracing::warn;

pub use self::error::StartError;
use self::{envelope::Envelope, run::Runner};
use crate::{Command, Identity, MAX_DATAGRAM_LEN, MemberEvent, MemberView, Settings, Swim, SwimConfig, Time};

/// Events kept for a consumer that is slow; then it misses some and is told so.
const EVENT_BUFFER: usize = 1_024;

/// Longest wait for a goodbye to be told.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for tasks to end; they end at their next await.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A member of the cluster on a UDP socket. Cheap to clone; all clones are the same member.
///
/// It runs two kinds of tasks on the current tokio runtime, one for the socket and one for each known
/// peer given by name, until [`Self::shutdown`] or until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct SwimNode {
    inner: Arc<Inner>,
}

/// Ends the tasks with the last handle; the tasks themselves hold only [`Shared`].
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    tasks: TaskGroup,
    local_addr: SocketAddr,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// What the handles and the tasks share.
#[derive(Debug)]
struct Shared {
    swim: Mutex<Swim>,
    /// The origin of the machine's time.
    origin: Instant,
    /// Tells the socket's task that a command left something to do.
    commanded: Notify,
    /// The sender belongs to the socket's task, so that events end when it does.
    events: broadcast::WeakSender<MemberEvent>,
    left: watch::Sender<bool>,
    /// Datagrams not sealed or not opened, by reason.
    dropped: Mutex<BTreeMap<&'static str, u64>>,
}

impl Shared {
    fn swim(&self) -> MutexGuard<'_, Swim> {
        self.swim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dropped(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    fn command(&self, command: Command) {
        self.swim().command(self.now(), command);
        self.commanded.notify_one();
    }
}

impl SwimNode {
    /// Starts a member with an identity made up on the spot, **unsealed**: anyone who can send to its port
    /// can join or disturb its cluster. It says so once in the log.
    ///
    /// For real use give it an identity and a key: [`Self::builder`]. Returns once the port is bound;
    /// known peers are found in the background for as long as it takes.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running.
    pub async fn new(config: SwimConfig) -> Result<Self, StartError> {
        Self::builder(config).insecure().start().await
    }

    /// A member with more settings than the configuration has.
    pub const fn builder(config: SwimConfig) -> SwimBuilder {
        SwimBuilder {
            config,
            identity: None,
            keys: None,
            counts_starts: true,
            insecure: false,
            advertise: None,
            meta: Vec::new(),
            seed: None,
        }
    }

    /// Every member known, itself and those that are gone included, in order of node id.
    #[must_use]
    pub fn members(&self) -> Vec<MemberView> {
        self.inner.shared.swim().members()
    }

    /// What is known of `node`.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<MemberView> {
        self.inner.shared.swim().member(node)
    }

    /// Datagrams dropped since the start, by the code of the reason: not opened, or not sealed.
    #[must_use]
    pub fn dropped(&self) -> BTreeMap<&'static str, u64> {
        self.inner.shared.dropped().clone()
    }

    /// Changes in the membership from here on.
    #[must_use]
    pub fn events(&self) -> MemberEvents {
        let sender = self.inner.shared.events.upgrade();
        // After the end there are no events: the other half of this channel is gone already.
        let receiver = sender.map_or_else(|| broadcast::channel(1).1, |sender| sender.subscribe());
        MemberEvents { receiver }
    }

    /// Who this member is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.inner.shared.swim().identity()
    }

    /// The address of its socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Probes `node` at once, because something suggests that it is gone or back.
    ///
    /// Changes nothing by itself, and is cheap to call too often.
    pub fn hint(&self, node: NodeId) {
        self.inner.shared.command(Command::Hint(node));
    }

    /// Says goodbye, so that others need not suspect. Returns once it has been told, or after five seconds.
    ///
    /// The member still answers until [`Self::shutdown`]. Cancel safe: the goodbye is told all the same.
    pub async fn leave(&self) {
        if self.inner.tasks.is_aborted() {
            return;
        }
        let mut left = self.inner.shared.left.subscribe();
        self.inner.shared.command(Command::Leave);
        // Failing to be heard is like crashing a little later, which others cope with.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, left.wait_for(|left| *left)).await;
    }

    /// Ends the tasks and closes the socket, without a goodbye. Idempotent.
    pub async fn shutdown(&self) {
        self.inner.tasks.abort();
        self.inner.tasks.join(SHUTDOWN_GRACE).await;
    }
}

/// Changes in the membership, in order. Made by [`SwimNode::events`].
#[derive(Debug)]
pub struct MemberEvents {
    receiver: broadcast::Receiver<MemberEvent>,
}

impl MemberEvents {
    /// The next change; `None` once the member is shut down and all have been read.
    ///
    /// Who reads too slowly gets [`MemberEvent::Missed`] and should read the members again. Cancel safe.
    pub async fn next(&mut self) -> Option<MemberEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(MemberEvent::Missed { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Settings of a [`SwimNode`]. Made by [`SwimNode::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct SwimBuilder {
    config: SwimConfig,
    identity: Option<LocalIdentity>,
    keys: Option<GossipKeys>,
    counts_starts: bool,
    insecure: bool,
    advertise: Option<PeerAddr>,
    meta: Vec<u8>,
    seed: Option<u64>,
}

impl SwimBuilder {
    /// Who this member is. Left out: a random node id and instance, only with [`Self::insecure`].
    pub fn identity(mut self, identity: LocalIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Seals every datagram under these keys of the cluster: one [`GossipKey`] for good, or
    /// [`GossipKeys`] that are replaced while the member runs.
    ///
    /// A member whose keys have not come yet is mute. A datagram that no key opens is reported through
    /// [`GossipKeys::missing`].
    ///
    /// [`GossipKey`]: rivven_transport::datagram::GossipKey
    pub fn key(mut self, keys: impl Into<GossipKeys>) -> Self {
        self.keys = Some(keys.into());
        self
    }

    /// The boot epoch of the identity does not rise with every start, or not for certain. Every sealed
    /// datagram then carries 16 random bytes of this start, so that no two starts share a nonce.
    ///
    /// Others take a start with the same boot epoch for the same start all the same: prefer a boot epoch
    /// that is kept on disk.
    pub const fn without_boot_epoch(mut self) -> Self {
        self.counts_starts = false;
        self
    }

    /// Sends and accepts datagrams in the clear, from anyone, if no key is given.
    pub const fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// The address others are told. A name is looked up again and again; port 0 stands for the bound port.
    ///
    /// Left out: the bound address, or the one that peers observe if that is unspecified.
    pub fn advertise(mut self, addr: PeerAddr) -> Self {
        self.advertise = Some(addr);
        self
    }

    /// Bytes for others to see in [`MemberView::meta`], at most [`MAX_META_LEN`](crate::MAX_META_LEN).
    pub fn meta(mut self, meta: Vec<u8>) -> Self {
        self.meta = meta;
        self
    }

    /// Fixes every choice left to chance, for simulation. Left out: taken from the operating system.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Binds the port and starts. Waits for no peer.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running.
    pub async fn start(self) -> Result<SwimNode, StartError> {
        // Settings are judged before anything is opened.
        Settings::new(&self.config, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        let entropy = RandomState::new();
        let seed = self.seed.unwrap_or_else(|| entropy.hash_one("choices"));
        let (identity, envelope) = match (self.identity, self.keys) {
            (Some(local), Some(keys)) => {
                let envelope = Envelope::sealed(keys, &local, !self.counts_starts)?;
                (identity_of(&local), envelope)
            }
            (None, Some(_)) => return Err(StartError::NoIdentity),
            (_, None) if !self.insecure => return Err(StartError::NoKey),
            (local, None) => {
                let identity = local.map_or_else(|| random_identity(&entropy), |local| identity_of(&local));
                (identity, Envelope::Plain(identity))
            }
        };
        let socket = bind(&self.config.bind_addr).await?;
        let local_addr = socket.local_addr().map_err(|source| StartError::Bind {
            addr: self.config.bind_addr.clone(),
            source,
        })?;
        let mut settings =
            Settings::new(&self.config, local_addr)?.max_datagram(MAX_DATAGRAM_LEN - envelope.overhead())?;
        let advertise = self.advertise.filter(|addr| !addr.is_unspecified());
        if let Some(addr) = advertise.as_ref().and_then(PeerAddr::as_socket_addr) {
            settings = settings.advertised(resolve::with_port(addr, local_addr.port()));
        }
        let origin = Instant::now();
        let swim = Swim::new(settings, identity, &self.meta, Time::ZERO, seed)?;
        if matches!(envelope, Envelope::Plain(_)) {
            warn!(
                node = identity.node,
                addr = %local_addr,
                "gossip is NOT sealed: anyone who can reach this port can join or disturb the cluster; \
                 give SwimNode::builder an identity and a key"
            );
        }
        let events = broadcast::channel(EVENT_BUFFER).0;
        let shared = Arc::new(Shared {
            swim: Mutex::new(swim),
            origin,
            commanded: Notify::new(),
            events: events.downgrade(),
            left: watch::channel(false).0,
            dropped: Mutex::default(),
        });
        let tasks = TaskGroup::current();
        tasks.spawn(Runner::new(Arc::clone(&shared), socket, local_addr, envelope, events).run());
        resolve::start(
            &tasks,
            &shared,
            self.config.known_peers,
            advertise,
            local_addr.port(),
        );
        Ok(SwimNode {
            inner: Arc::new(Inner {
                shared,
                tasks,
                local_addr,
            }),
        })
    }
}

const fn identity_of(local: &LocalIdentity) -> Identity {
    Identity {
        node: local.node,
        instance: local.instance,
        boot_epoch: local.boot_epoch,
    }
}

/// An identity for a member that has neither number nor disk.
///
/// The standard library keys its hasher from the operating system, which is random enough not to collide;
/// nothing secret hangs on it.
fn random_identity(entropy: &RandomState) -> Identity {
    let [high, low] = ["high", "low"].map(|half| entropy.hash_one(half).to_be_bytes());
    let mut instance = [0; 16];
    for (to, from) in instance.iter_mut().zip(high.into_iter().chain(low)) {
        *to = from;
    }
    Identity {
        node: entropy.hash_one("node"),
        instance: InstanceId::from_random(instance),
        boot_epoch: BootEpoch(1),
    }
}

async fn bind(addr: &PeerAddr) -> Result<UdpSocket, StartError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::PortInUse {
            addr: addr.clone(),
            source,
        },
        _ => StartError::Bind {
            addr: addr.clone(),
            source,
        },
    };
    match addr.as_socket_addr() {
        Some(addr) => UdpSocket::bind(addr).await.map_err(failed),
        None => UdpSocket::bind((addr.host(), addr.port())).await.map_err(failed),
    }
}
