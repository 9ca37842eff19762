//! What is known of one peer: its address, its latest identity, and the connections with it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use quinn::VarInt;
use rivven_types::{BootEpoch, NodeId, PeerAddr};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::{
    hello::{Purpose, Refusal, close},
    limits::{MAX_DRAINING, MAX_WAITING},
    line::{Leave, Line},
    lock,
    rank::{Claim, Ledger},
};
use crate::{CallError, PeerIdentity, PeerStatus};

/// What choosing between connections asks of one, and does to it. A [`Line`], except in a model of two nodes.
pub(super) trait Tie {
    /// Who this node is: certificate and authorities.
    type Own;
    /// What decides between this connection and another.
    fn claim(&self) -> &Claim;
    /// Whether the connection has not ended, as far as this end knows.
    fn is_open(&self) -> bool;
    /// Whether it was made with `own`, and not with an earlier certificate or other authorities.
    fn is_of(&self, own: &Self::Own) -> bool;
    /// Whether this end begins no further call on it.
    fn has_left(&self) -> bool;
    /// Begins no further call on it, and tells the peer so. The first reason counts.
    fn leave(&self, why: Leave);
    /// Closes it at once: the other end is no more, or another connection is used.
    fn supersede(&self);
}

/// A peer.
pub(super) struct Peer<L = Line> {
    pub(super) node: NodeId,
    known: Mutex<Known<L>>,
    main: Way<L>,
    bulk: Way<L>,
}

struct Known<L> {
    addr: Option<PeerAddr>,
    identity: Option<PeerIdentity>,
    /// Every connection that has not ended: those in use, and those that are being left, oldest first.
    lines: Vec<Arc<L>>,
    /// Accounts of main and bulk.
    ledgers: [Ledger; 2],
}

impl<L> Default for Known<L> {
    fn default() -> Self {
        Self {
            addr: None,
            identity: None,
            lines: Vec::new(),
            ledgers: Default::default(),
        }
    }
}

impl<L> Known<L> {
    const fn ledger(&mut self, purpose: Purpose) -> &mut Ledger {
        let [main, bulk] = &mut self.ledgers;
        match purpose {
            Purpose::Bulk => bulk,
            Purpose::Main | Purpose::Discover => main,
        }
    }
}

/// The way to a peer for one purpose: at most one connection in use, whoever dialled it.
pub(super) struct Way<L = Line> {
    link: watch::Sender<Link<L>>,
    /// Calls that wait for a connection.
    waiting: AtomicUsize,
    /// One more waits.
    pub(super) wanted: Notify,
    /// Something changed that makes an attempt promising before the pause is over.
    pub(super) poked: Notify,
    started: AtomicBool,
}

/// State of a [`Way`].
pub(super) enum Link<L = Line> {
    /// There is no connection, and no reason to think that there could not be one.
    Idle,
    Dialing,
    Up(Arc<L>),
    /// The peer shuts down: it answers what is in flight and takes no further call.
    Leaving(Arc<L>),
    Failed(DialError),
}

impl<L> Clone for Link<L> {
    fn clone(&self) -> Self {
        match self {
            Self::Idle => Self::Idle,
            Self::Dialing => Self::Dialing,
            Self::Up(line) => Self::Up(Arc::clone(line)),
            Self::Leaving(line) => Self::Leaving(Arc::clone(line)),
            Self::Failed(error) => Self::Failed(error.clone()),
        }
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
    /// The one who answered says that this node was removed.
    Removed(String),
    /// The peer is shutting down.
    Leaving,
    /// Another connection of the two makes this one needless.
    Needless,
    /// Too many calls wait for a connection already.
    Crowded,
}

impl DialError {
    pub(super) fn into_call_error(self, node: NodeId) -> CallError {
        match self {
            Self::Unreachable(cause) => CallError::Unreachable { node, cause },
            Self::Duplicate(cause) => CallError::DuplicateNode { cause },
            Self::Incompatible(cause) => CallError::Incompatible { cause },
            Self::Removed(cause) => CallError::Removed { node, cause },
            Self::Leaving => CallError::NotSent {
                cause: format!("node {node} is shutting down"),
            },
            Self::Needless => CallError::Unreachable {
                node,
                cause: "the connection that the peer prefers is not up yet".into(),
            },
            Self::Crowded => CallError::Overloaded { node },
        }
    }
}

impl<L: Tie> Way<L> {
    fn new() -> Self {
        Self {
            link: watch::Sender::new(Link::Idle),
            waiting: AtomicUsize::new(0),
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
    pub(super) async fn line(&self, gone: Option<&Weak<L>>, deadline: Instant) -> Result<Arc<L>, DialError> {
        let mut link = self.link.subscribe();
        let mut last = DialError::Unreachable("no connection before the deadline".into());
        let mut waiting = None;
        loop {
            let current = link.borrow_and_update().clone();
            match current {
                // A line that has just been closed or left stays listed until its task takes note.
                Link::Up(line)
                    if gone.is_none_or(|gone| !Weak::ptr_eq(gone, &Arc::downgrade(&line)))
                        && line.is_open() =>
                {
                    return Ok(line);
                }
                Link::Leaving(line) if line.is_open() => return Err(DialError::Leaving),
                Link::Up(_) | Link::Leaving(_) | Link::Dialing | Link::Idle => {}
                Link::Failed(error) => last = error,
            }
            if waiting.is_none() {
                waiting = Some(Waiting::enter(self).ok_or(DialError::Crowded)?);
            }
            match timeout_at(deadline, link.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(last),
            }
        }
    }

    /// Changes of the state, for the task that dials.
    pub(super) fn subscribe(&self) -> watch::Receiver<Link<L>> {
        self.link.subscribe()
    }

    /// Whether to dial, for a node that is `identity` at this moment: a call waits and there is no
    /// connection, or the one in use was made with an earlier identity.
    pub(super) fn is_needed(&self, identity: &L::Own) -> bool {
        match &*self.link.borrow() {
            Link::Up(line) if line.is_open() => !line.is_of(identity),
            // Its task tells when it has ended.
            Link::Up(_) | Link::Leaving(_) => false,
            Link::Idle | Link::Dialing | Link::Failed(_) => self.waiting.load(Ordering::SeqCst) > 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.in_use().is_some()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Failed(_))
    }

    /// Says what the task that dials is at, unless there is a connection.
    pub(super) fn note(&self, state: Link<L>) {
        self.link.send_if_modified(|link| {
            let free = matches!(link, Link::Idle | Link::Dialing | Link::Failed(_));
            if free {
                *link = state;
            }
            free
        });
    }

    /// Takes `line` out of use, if it is; `then` is the state after it.
    fn vacate(&self, line: &Arc<L>, then: Link<L>) {
        self.link.send_if_modified(|link| {
            let ours = matches!(link, Link::Up(used) | Link::Leaving(used) if Arc::ptr_eq(used, line));
            if ours {
                *link = then;
            }
            ours
        });
    }

    fn in_use(&self) -> Option<Arc<L>> {
        match &*self.link.borrow() {
            Link::Up(line) if line.is_open() => Some(Arc::clone(line)),
            Link::Up(_) | Link::Leaving(_) | Link::Idle | Link::Dialing | Link::Failed(_) => None,
        }
    }
}

/// A call that waits for a connection.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// `None` if [`MAX_WAITING`] wait already.
    fn enter<L>(way: &'a Way<L>) -> Option<Self> {
        let place = Self(&way.waiting);
        if way.waiting.fetch_add(1, Ordering::SeqCst) >= MAX_WAITING {
            return None;
        }
        way.wanted.notify_one();
        Some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<L: Tie> Peer<L> {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            known: Mutex::default(),
            main: Way::new(),
            bulk: Way::new(),
        }
    }

    /// The way that calls of `purpose` take.
    pub(super) const fn way(&self, purpose: Purpose) -> &Way<L> {
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
            if way.has_failed() {
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
        let mut open = known.lines.iter().filter(|line| line.is_open());
        match &known.identity {
            Some(latest) if latest.instance != identity.instance => {
                if open.next().is_some() {
                    return Err(Refusal::DuplicateNode(self.node));
                }
                // Another data directory counts its starts anew.
                known.ledgers = Default::default();
            }
            Some(latest) if identity.boot_epoch < latest.boot_epoch => {
                return Err(Refusal::StaleEpoch {
                    claimed: identity.boot_epoch,
                    latest: latest.boot_epoch,
                });
            }
            Some(latest) if identity.boot_epoch > latest.boot_epoch => {
                open.for_each(|line| line.supersede());
            }
            Some(_) | None => {}
        }
        known.identity = Some(identity.clone());
        Ok(())
    }

    /// Claims the connection on which this node, which is `identity`, is about to greet the peer. `None` if
    /// there is no need for it any more.
    pub(super) fn claim(
        &self,
        purpose: Purpose,
        (local, epoch): (NodeId, BootEpoch),
        identity: &L::Own,
    ) -> Option<Claim> {
        let mut known = lock(&self.known);
        let in_use = self.way(purpose).in_use();
        if in_use.is_some_and(|line| line.is_of(identity)) {
            return None;
        }
        Some(known.ledger(purpose).dial(local < self.node, epoch))
    }

    /// Whether a connection that the peer dialled would not stay, so that it is better not taken at all.
    pub(super) fn would_lose(&self, purpose: Purpose, claim: &Claim) -> bool {
        let mut known = lock(&self.known);
        let in_use = self.way(purpose).in_use();
        known.ledger(purpose).is_late(claim) || in_use.is_some_and(|line| !claim.beats(line.claim()))
    }

    /// Uses `line` for the calls of this node unless the one in use has the better claim. The other of the two
    /// is left.
    ///
    /// `with` is the start of the peer that was admitted for it. Between the two a later start may have been,
    /// and no rank of an earlier one stands against that: `line` is closed.
    pub(super) fn offer(&self, purpose: Purpose, line: &Arc<L>, with: &PeerIdentity, dialled: bool) {
        let mut known = lock(&self.known);
        if known.identity.as_ref() != Some(with) {
            drop(known);
            line.supersede();
            return;
        }
        let way = self.way(purpose);
        if !dialled {
            known.ledger(purpose).take(line.claim());
        }
        let loser = match way.in_use() {
            Some(used) if !line.claim().beats(used.claim()) => Some(Arc::clone(line)),
            used => {
                way.link.send_replace(Link::Up(Arc::clone(line)));
                used
            }
        };
        known.lines.push(Arc::clone(line));
        let mut draining = known
            .lines
            .iter()
            .filter(|line| line.has_left() && line.is_open());
        if draining.clone().count() >= MAX_DRAINING
            && let Some(oldest) = draining.next()
        {
            oldest.supersede();
        }
        drop(known);
        if let Some(loser) = loser {
            loser.leave(Leave::Replaced);
        }
    }

    /// The peer begins no further call on `line`, and this node neither.
    pub(super) fn left_by_peer(&self, purpose: Purpose, line: &Arc<L>, why: Leave) {
        let then = match why {
            Leave::Replaced => Link::Idle,
            Leave::Shutdown => Link::Leaving(Arc::clone(line)),
        };
        self.way(purpose).vacate(line, then);
    }

    /// Forgets a connection that has ended; `then` is the state if it was in use.
    pub(super) fn forget(&self, purpose: Purpose, line: &Arc<L>, then: Link<L>) {
        lock(&self.known).lines.retain(|kept| !Arc::ptr_eq(kept, line));
        self.way(purpose).vacate(line, then);
    }

    /// Connections that have not ended.
    #[cfg(test)]
    pub(super) fn open_connections(&self) -> usize {
        let known = lock(&self.known);
        known.lines.iter().filter(|line| line.is_open()).count()
    }

    /// Connections that this node began to dial and came to the hello.
    #[cfg(test)]
    pub(super) fn dialled(&self) -> u64 {
        lock(&self.known).ledgers.iter().map(Ledger::dialled).sum()
    }

    /// Closes the connections that are being left.
    #[cfg(test)]
    pub(super) fn close_left(&self) {
        for line in &lock(&self.known).lines {
            if line.has_left() {
                line.supersede();
            }
        }
    }

    /// Leaves the connection in use.
    #[cfg(test)]
    pub(super) fn leave(&self, purpose: Purpose) {
        if let Some(line) = self.way(purpose).in_use() {
            self.way(purpose).vacate(&line, Link::Idle);
            line.leave(Leave::Replaced);
        }
    }

    pub(super) fn status(&self) -> PeerStatus {
        if [&self.main, &self.bulk].iter().any(|way| way.in_use().is_some()) {
            return PeerStatus::Up;
        }
        match &*self.main.link.borrow() {
            Link::Failed(_) | Link::Leaving(_) => PeerStatus::Down,
            Link::Idle | Link::Dialing | Link::Up(_) => PeerStatus::Unknown,
        }
    }
}

impl Peer {
    /// Where the peer is, by the connection made last.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        let known = lock(&self.known);
        known.lines.last().map(|line| line.connection.remote_address())
    }

    /// Closes every connection for good; calls that wait for one end as their lane does.
    pub(super) fn forget_connections(&self) {
        let cause = "this node is shut down";
        for line in std::mem::take(&mut lock(&self.known).lines) {
            line.fail(cause);
            // Before its last handle goes, which would close it without a reason.
            let code = VarInt::from_u32(close::SHUTDOWN);
            line.connection.close(code, b"shutting down");
        }
        for way in [&self.main, &self.bulk] {
            way.link
                .send_replace(Link::Failed(DialError::Unreachable(cause.into())));
        }
    }
}

#[cfg(test)]
mod model;
