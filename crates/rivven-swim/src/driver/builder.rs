//! How a [`SwimNode`] is set up and started.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    vec::Vec,
};

use rivven_transport::{LocalIdentity, Router, TaskGroup, Transport, datagram::GossipKeys};
use rivven_types::{BootEpoch, InstanceId, PeerAddr};
use tokio::{
    net::UdpSocket,
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tracing::warn;

use super::{
    EVENT_BUFFER, Inner, Shared, StartError, SwimNode,
    envelope::Envelope,
    peers, resolve,
    run::{Publishers, Runner},
    streams::{self, Answers, Streams},
};
use crate::{Identity, MAX_DATAGRAM_LEN, Settings, Swim, SwimConfig, Time};

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
    streams: Option<(Transport, Router)>,
    peers_file: Option<PathBuf>,
}

impl SwimBuilder {
    pub(super) const fn new(config: SwimConfig) -> Self {
        Self {
            config,
            identity: None,
            keys: None,
            counts_starts: true,
            insecure: false,
            advertise: None,
            meta: Vec::new(),
            seed: None,
            streams: None,
            peers_file: None,
        }
    }

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

    /// Bytes for others to see in [`MemberView::meta`](crate::MemberView::meta), at most [`MAX_META_LEN`](crate::MAX_META_LEN).
    pub fn meta(mut self, meta: Vec<u8>) -> Self {
        self.meta = meta;
        self
    }

    /// Reaches members over `transport` too, where datagrams fail and where a view is long, and has `router`
    /// answer theirs. All members need it, or none: to one without, a stream is just no way.
    ///
    /// Streams are used for members whose address the transport knows.
    pub fn streams(mut self, transport: Transport, router: Router) -> Self {
        self.streams = Some((transport, router));
        self
    }

    /// Keeps addresses of live members in this file, and asks those when starting, beside the known peers.
    ///
    /// So members that all restart find each other although the configured peers are gone or have moved. The
    /// file is only a help: if it is missing or damaged, a warning is logged and nothing else happens.
    pub fn peers_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.peers_file = Some(path.into());
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
    pub async fn start(mut self) -> Result<SwimNode, StartError> {
        // Settings are judged before anything is opened.
        Settings::new(&self.config, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        let entropy = RandomState::new();
        let seed = self.seed.unwrap_or_else(|| entropy.hash_one("choices"));
        let (identity, envelope) = self.envelope(&entropy)?;
        let socket = bind(&self.config.bind_addr).await?;
        let local_addr = socket.local_addr().map_err(|source| StartError::Bind {
            addr: self.config.bind_addr.clone(),
            source,
        })?;
        let mut settings =
            Settings::new(&self.config, local_addr)?.max_datagram(MAX_DATAGRAM_LEN - envelope.overhead())?;
        if self.streams.is_some() {
            settings = settings.with_streams();
        }
        let advertise = self.advertise.take().filter(|addr| !addr.is_unspecified());
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
        Ok(self.run(swim, origin, (socket, local_addr), envelope, advertise))
    }

    /// Who this member is, and how its datagrams are wrapped.
    fn envelope(&mut self, entropy: &RandomState) -> Result<(Identity, Envelope), StartError> {
        match (self.identity.take(), self.keys.take()) {
            (Some(local), Some(keys)) => {
                let envelope = Envelope::sealed(keys, &local, !self.counts_starts)?;
                Ok((identity_of(&local), envelope))
            }
            (None, Some(_)) => Err(StartError::NoIdentity),
            (_, None) if !self.insecure => Err(StartError::NoKey),
            (local, None) => {
                let identity = local.map_or_else(|| random_identity(entropy), |local| identity_of(&local));
                Ok((identity, Envelope::Plain(identity)))
            }
        }
    }

    /// Starts the tasks around `swim`.
    fn run(
        self,
        swim: Swim,
        origin: Instant,
        (socket, local_addr): (UdpSocket, SocketAddr),
        envelope: Envelope,
        advertise: Option<PeerAddr>,
    ) -> SwimNode {
        let remembered = self.peers_file.as_deref().map(peers::load).unwrap_or_default();
        let publishers = Publishers {
            events: broadcast::channel(EVENT_BUFFER).0,
            messages: broadcast::channel(EVENT_BUFFER).0,
        };
        let shared = Arc::new(Shared {
            swim: Mutex::new(swim),
            origin,
            commanded: Notify::new(),
            answers: Answers::default(),
            events: publishers.events.downgrade(),
            messages: publishers.messages.downgrade(),
            left: watch::channel(false).0,
            dropped: Mutex::default(),
        });
        let tasks = TaskGroup::current();
        let streams = self.streams.map(|(transport, router)| {
            streams::serve(&router, &shared);
            Streams::new(transport)
        });
        let mut runner = Runner::new(Arc::clone(&shared), socket, local_addr, envelope, publishers);
        runner.reach(tasks.clone(), streams);
        tasks.spawn(runner.run());
        let known = resolve::Known {
            peers: self.config.known_peers,
            remembered,
            advertise,
        };
        resolve::start(&tasks, &shared, known, local_addr.port());
        if let Some(path) = self.peers_file {
            peers::keep(&tasks, Arc::clone(&shared), path);
        }
        SwimNode {
            inner: Arc::new(Inner {
                shared,
                tasks,
                local_addr,
            }),
        }
    }
}

pub(super) const fn identity_of(local: &LocalIdentity) -> Identity {
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
