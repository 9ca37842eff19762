//! What is known of one peer: its address, its latest identity, and the connections in both directions.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, Ordering},
};

use quinn::{Connection, VarInt};
use rivven_types::{NodeId, PeerAddr};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::{
    hello::{Purpose, Refusal, close},
    lane::Lane,
    lock,
};
use crate::{CallError, Class, PeerIdentity, PeerStatus};

/// A peer.
pub(super) struct Peer {
    pub(super) node: NodeId,
    known: Mutex<Known>,
    main: Way,
    bulk: Way,
}

#[derive(Default)]
struct Known {
    addr: Option<PeerAddr>,
    identity: Option<PeerIdentity>,
    /// Connections that the peer made: main and bulk.
    inbound: [Option<Connection>; 2],
}

/// The way to a peer for one purpose: at most one connection, made when somebody wants it.
pub(super) struct Way {
    pub(super) link: watch::Sender<Link>,
    /// A call waits for a connection.
    pub(super) wanted: Notify,
    /// Something changed that makes an attempt promising before the pause is over.
    pub(super) poked: Notify,
    started: AtomicBool,
}

/// State of a [`Way`].
#[derive(Clone)]
pub(super) enum Link {
    Idle,
    Dialing,
    Up(Arc<Line>),
    Failed(DialError),
}

/// A connection that has passed both hellos, ready for calls.
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) lanes: Vec<(Class, Arc<Lane>)>,
}

impl Line {
    pub(super) fn lane(&self, class: Class) -> Option<&Arc<Lane>> {
        self.lanes
            .iter()
            .find(|(of, _)| *of == class)
            .map(|(_, lane)| lane)
    }
}

/// Why an attempt to connect failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DialError {
    /// Nobody answered, or the one who did refused; a retry may help.
    Unreachable(String),
    /// One of the two is a double of a node that is connected already.
    Duplicate(String),
    /// The one who answered is of another cluster, or speaks no common version.
    Incompatible(String),
}

impl DialError {
    pub(super) fn into_call_error(self, node: NodeId) -> CallError {
        match self {
            Self::Unreachable(cause) => CallError::Unreachable { node, cause },
            Self::Duplicate(cause) => CallError::DuplicateNode { cause },
            Self::Incompatible(cause) => CallError::Incompatible { cause },
        }
    }
}

impl Way {
    fn new() -> Self {
        Self {
            link: watch::Sender::new(Link::Idle),
            wanted: Notify::new(),
            poked: Notify::new(),
            started: AtomicBool::new(false),
        }
    }

    /// Whether the caller is the first, and has to start the task that dials.
    pub(super) fn start(&self) -> bool {
        !self.started.swap(true, Ordering::Relaxed)
    }

    /// A connection other than `gone`, which is made if there is none. Waits until the deadline.
    pub(super) async fn line(
        &self,
        gone: Option<&Weak<Line>>,
        deadline: Instant,
    ) -> Result<Arc<Line>, DialError> {
        let mut link = self.link.subscribe();
        let mut last = DialError::Unreachable("no connection before the deadline".into());
        loop {
            let current = link.borrow_and_update().clone();
            match current {
                // A line that has just been closed stays listed until its task takes note.
                Link::Up(line)
                    if gone.is_none_or(|gone| !Weak::ptr_eq(gone, &Arc::downgrade(&line)))
                        && line.connection.close_reason().is_none() =>
                {
                    return Ok(line);
                }
                Link::Up(_) | Link::Dialing => {}
                Link::Idle => self.wanted.notify_one(),
                Link::Failed(error) => {
                    last = error;
                    self.wanted.notify_one();
                }
            }
            match timeout_at(deadline, link.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(last),
            }
        }
    }

    fn open_connection(&self) -> Option<Connection> {
        match &*self.link.borrow() {
            Link::Up(line) if line.connection.close_reason().is_none() => Some(line.connection.clone()),
            Link::Up(_) | Link::Idle | Link::Dialing | Link::Failed(_) => None,
        }
    }
}

impl Peer {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            known: Mutex::default(),
            main: Way::new(),
            bulk: Way::new(),
        }
    }

    /// The way that calls of `purpose` take.
    pub(super) const fn way(&self, purpose: Purpose) -> &Way {
        match purpose {
            Purpose::Bulk => &self.bulk,
            Purpose::Main | Purpose::Discover => &self.main,
        }
    }

    pub(super) fn addr(&self) -> Option<PeerAddr> {
        lock(&self.known).addr.clone()
    }

    pub(super) fn set_addr(&self, addr: PeerAddr) {
        let old = lock(&self.known).addr.replace(addr.clone());
        if old.is_some_and(|old| old != addr) {
            self.poke();
        }
    }

    /// Remembers where the peer was seen to come from, unless somebody has said better.
    pub(super) fn set_addr_if_unknown(&self, addr: PeerAddr) {
        lock(&self.known).addr.get_or_insert(addr);
    }

    /// Cuts short the pauses between attempts.
    pub(super) fn poke(&self) {
        for way in [&self.main, &self.bulk] {
            if matches!(&*way.link.borrow(), Link::Failed(_)) {
                way.poked.notify_one();
            }
        }
    }

    pub(super) fn identity(&self) -> Option<PeerIdentity> {
        lock(&self.known).identity.clone()
    }

    /// Takes note of an identity proven by certificate and hello.
    ///
    /// A higher boot epoch closes every connection with the earlier start. A lower one is refused, and so
    /// is another instance as long as one is connected.
    pub(super) fn admit(&self, identity: &PeerIdentity) -> Result<(), Refusal> {
        let mut known = lock(&self.known);
        let outbound = [&self.main, &self.bulk].map(Way::open_connection);
        let open = || {
            let inbound = known.inbound.iter().flatten();
            let inbound = inbound.filter(|connection| connection.close_reason().is_none());
            inbound.chain(outbound.iter().flatten())
        };
        match &known.identity {
            Some(latest) if latest.instance != identity.instance => {
                if open().next().is_some() {
                    return Err(Refusal::DuplicateNode(self.node));
                }
            }
            Some(latest) if identity.boot_epoch < latest.boot_epoch => {
                return Err(Refusal::StaleEpoch {
                    claimed: identity.boot_epoch,
                    latest: latest.boot_epoch,
                });
            }
            Some(latest) if identity.boot_epoch > latest.boot_epoch => {
                open().for_each(supersede);
            }
            Some(_) | None => {}
        }
        known.identity = Some(identity.clone());
        Ok(())
    }

    /// Keeps a connection that the peer made; an earlier one of the same purpose is dead and closed.
    pub(super) fn keep_inbound(&self, purpose: Purpose, connection: &Connection) {
        let mut known = lock(&self.known);
        let [main, bulk] = &mut known.inbound;
        let slot = match purpose {
            Purpose::Main => main,
            Purpose::Bulk => bulk,
            Purpose::Discover => return,
        };
        if let Some(earlier) = slot.replace(connection.clone()) {
            supersede(&earlier);
        }
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget_inbound(&self, connection: &Connection) {
        for slot in &mut lock(&self.known).inbound {
            slot.take_if(|kept| kept.stable_id() == connection.stable_id());
        }
    }

    /// Lets go of every connection for good; calls that wait for one end as their lane does.
    pub(super) fn forget_connections(&self) {
        lock(&self.known).inbound = [None, None];
        for way in [&self.main, &self.bulk] {
            let cause = "this node is shut down";
            if let Link::Up(line) = way
                .link
                .send_replace(Link::Failed(DialError::Unreachable(cause.into())))
            {
                line.lanes.iter().for_each(|(_, lane)| lane.close(cause));
            }
        }
    }

    pub(super) fn status(&self) -> PeerStatus {
        let connected = [&self.main, &self.bulk].map(Way::open_connection);
        let inbound = &lock(&self.known).inbound;
        let mut inbound = inbound.iter().flatten();
        if connected.iter().any(Option::is_some) || inbound.any(|link| link.close_reason().is_none()) {
            return PeerStatus::Up;
        }
        match &*self.main.link.borrow() {
            Link::Failed(_) => PeerStatus::Down,
            Link::Idle | Link::Dialing | Link::Up(_) => PeerStatus::Unknown,
        }
    }
}

fn supersede(connection: &Connection) {
    connection.close(
        VarInt::from_u32(close::SUPERSEDED),
        b"superseded by a newer connection",
    );
}
