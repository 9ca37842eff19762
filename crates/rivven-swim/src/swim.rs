//! The machine: inputs, outputs, and the state that they share.

mod answer;
mod claims;
mod dissemination;
mod fetch;
mod own;
mod probe;
mod status;
mod stream;
mod sync;
#[cfg(test)]
mod tests;

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::{net::SocketAddr, time::Duration};

use rivven_types::{InstanceId, NodeId};

pub use self::stream::StreamEvent;
use self::{
    claims::Problem,
    fetch::Fetches,
    own::Me,
    probe::Probe,
    status::Flap,
    sync::{Backoff, Pull, Pulling},
};
use crate::{
    ConfigError, Event, Identity, Incarnation, MAX_META_LEN, MemberEvent, MemberView, Settings, Time,
    broadcast::Broadcasts,
    config::MAX_SEEDS,
    gossip::Gossip,
    member::{Member, Rtt},
    rng::Rng,
    suspicion::Suspicion,
    table::Members,
    timer::{Timer, Timers},
    wire::{self, Item},
};

/// Most members known besides this node, the dead ones that are remembered included. More are ignored.
pub const MAX_MEMBERS: usize = 10_000;

/// Most datagrams waiting to be taken by [`Swim::poll_transmit`]. Further ones are lost, as on any network.
const MAX_TRANSMITS: usize = 1_024;

/// Largest value of the local health multiplier's counter (Lifeguard, section IV-A).
const MAX_HEALTH: u32 = 8;

/// What the driver or the user asks of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// These are the addresses of the known peers at the moment; at most 64 count.
    Seeds(Vec<SocketAddr>),
    /// Tell others this address of this node.
    Advertise(SocketAddr),
    /// Something suggests that this member is gone, or back: probe it at once. Changes nothing by itself.
    Hint(NodeId),
    /// The port of this member refuses datagrams: a probe of it asks others at once, without waiting for an
    /// answer that cannot come. Changes nothing by itself.
    Refused(NodeId),
    /// This data directory of this member counts no more, by the word of somebody who decides such things:
    /// forget it, so that another one may take the number. Heard of once more, it comes back; say it again then,
    /// until every member has been told.
    Forget(NodeId, InstanceId),
    /// Say goodbye. Ends with [`Event::LeaveComplete`]; there is no way back but a restart.
    Leave,
}

/// Something to send, whose bytes [`Swim::poll_transmit`] has put into its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transmit {
    /// A datagram.
    Datagram {
        /// Where to.
        to: SocketAddr,
    },
    /// A datagram to find out whether the port is open at all. Send it from a connected socket: if the
    /// system then says that it was refused, say so with [`Command::Refused`]. It may be left out.
    Knock {
        /// Where to.
        to: SocketAddr,
        /// Who should be there.
        node: NodeId,
    },
    /// A request over a reliable stream, to be answered with [`StreamEvent::Response`] or
    /// [`StreamEvent::Failed`]. Only with [`Settings::with_streams`].
    Request {
        /// Whom to ask.
        to: NodeId,
        /// Comes back in the answer.
        id: u64,
    },
    /// The answer to [`StreamEvent::Request`].
    Response {
        /// As in the request.
        id: u64,
    },
}

/// One member's view of the cluster and its part in the protocol.
///
/// Inputs are [`Self::handle_datagram`], [`Self::handle_stream`], [`Self::handle_timeout`] and
/// [`Self::command`], [`Self::set_meta`], [`Self::broadcast`]. After every one of them take all transmits and
/// events, and call [`Self::handle_timeout`] once [`Self::poll_timeout`] has passed. The same inputs and seed
/// give the same outputs.
#[derive(Clone, Debug)]
pub struct Swim {
    settings: Settings,
    me: Me,
    members: Members,
    /// Of every suspect.
    suspicions: BTreeMap<NodeId, Suspicion>,
    flaps: BTreeMap<NodeId, Flap>,
    gossip: Gossip,
    broadcasts: Broadcasts,
    last_gossip: Option<Time>,
    timers: Timers,
    rng: Rng,
    next_seq: u32,
    probes: BTreeMap<u32, Probe>,
    /// Round trips to all members together, for those that were never measured.
    rtt: Rtt,
    /// The local health multiplier is one more than this.
    health: u32,
    /// When anything was last heard from another member.
    last_heard: Time,
    pulls: BTreeMap<u32, Pull>,
    pulling: Pulling,
    /// Members whose view goes on to differ.
    backoffs: BTreeMap<NodeId, Backoff>,
    fetches: Fetches,
    /// Until when a problem with a member is not reported again.
    muted: BTreeMap<(NodeId, Problem), Time>,
    seeds: Vec<SocketAddr>,
    /// Seeds that turned out to be this node.
    own_seeds: Vec<SocketAddr>,
    transmits: VecDeque<(Transmit, Vec<u8>)>,
    events: VecDeque<Event>,
    dropped: u64,
}

impl Swim {
    /// A member that knows nobody yet. `seed` decides every choice that the protocol leaves to chance.
    ///
    /// # Errors
    /// [`ConfigError::MetaTooLong`].
    pub fn new(
        settings: Settings,
        identity: Identity,
        meta: &[u8],
        now: Time,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        if meta.len() > MAX_META_LEN {
            return Err(ConfigError::MetaTooLong(meta.len()));
        }
        let mut rng = Rng::new(seed);
        let mut timers = Timers::default();
        // Members that start together must not probe in step.
        let phase = settings.period * u32::from(rng.next().to_le_bytes()[0]) / 256;
        timers.set(Timer::Period, now + phase);
        timers.set(Timer::Heal, now + settings.heal_interval() + phase);
        let [a, b, c, d, ..] = rng.next().to_le_bytes();
        let mut swim = Self {
            me: Me::new(identity, settings.advertised, meta, now),
            pulling: Pulling::new(&settings),
            settings,
            members: Members::default(),
            suspicions: BTreeMap::new(),
            flaps: BTreeMap::new(),
            gossip: Gossip::default(),
            broadcasts: Broadcasts::default(),
            last_gossip: None,
            timers,
            rng,
            next_seq: u32::from_le_bytes([a, b, c, d]),
            probes: BTreeMap::new(),
            rtt: Rtt::default(),
            health: 0,
            last_heard: now,
            pulls: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            fetches: Fetches::default(),
            muted: BTreeMap::new(),
            seeds: Vec::new(),
            own_seeds: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            dropped: 0,
        };
        swim.refresh_own_fingerprint();
        Ok(swim)
    }

    /// Takes in a payload that `sender`, proven by the envelope around it, sent from `from`.
    ///
    /// Whatever the bytes are, this neither panics nor allocates more than a small multiple of them;
    /// payloads that are not understood are counted in [`Self::dropped`].
    pub fn handle_datagram(&mut self, now: Time, from: SocketAddr, sender: Identity, payload: &[u8]) {
        self.notice_lag(now);
        let Ok(items) = wire::decode(payload, wire::MAX_DATAGRAM_LEN) else {
            self.dropped = self.dropped.saturating_add(1);
            return;
        };
        let letter = Letter {
            from,
            reply: Reply::Datagram,
            sender,
            len: payload.len(),
            accuses_me: self.accuses_me(&items),
        };
        self.handle_letter(now, &letter, &items);
    }

    /// Does what has become due. Calling it early does nothing.
    ///
    /// A call that comes much later than [`Self::poll_timeout`] said means that this node itself was
    /// paused: it then accuses nobody for what it missed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.notice_lag(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Period => self.probe_next(now),
                Timer::Gossip => self.gossip_round(now),
                Timer::Heal => self.heal(now),
                Timer::Seeds => self.ask_seeds(now),
                Timer::Probe(seq) => self.end_probe_stage(now, seq),
                Timer::Sync(seq) => self.retry_pull(now, seq),
                Timer::Fetch(node) => self.retry_fetch(now, node),
                Timer::Suspicion(node) => self.bury(now, node),
                Timer::Calm(node) => self.calm(node),
                Timer::Forget(node) => self.forget(node),
            }
        }
    }

    /// Carries out `command`.
    pub fn command(&mut self, now: Time, command: Command) {
        self.notice_lag(now);
        match command {
            Command::Seeds(mut seeds) => {
                seeds.truncate(MAX_SEEDS);
                if seeds != self.seeds {
                    self.seeds = seeds;
                    self.own_seeds.clear();
                    self.timers.set(Timer::Seeds, now);
                }
            }
            Command::Advertise(addr) => {
                self.settings.advertised = Some(addr);
                self.move_to(now, addr);
            }
            Command::Hint(node) => self.probe_for_user(now, node),
            Command::Refused(node) => self.probe_refused(now, node),
            Command::Forget(node, instance) => {
                if self
                    .members
                    .get(node)
                    .is_some_and(|member| member.instance == instance)
                {
                    self.forget(node);
                }
            }
            Command::Leave => self.leave(now),
        }
    }

    /// The next thing to send, its bytes put into `payload`.
    pub fn poll_transmit(&mut self, payload: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = self.transmits.pop_front()?;
        *payload = bytes;
        Some(transmit)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Every member this node knows, itself and those that are gone included, in order of node id.
    #[must_use]
    pub fn members(&self) -> Vec<MemberView> {
        let mut views = Vec::with_capacity(self.members.len() + 1);
        views.push(self.own_view());
        views.extend(self.members.iter().map(|member| self.view_of(member)));
        views.sort_unstable_by_key(|view| view.node);
        views
    }

    /// What is known of `node`.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<MemberView> {
        if node == self.me.identity.node {
            return Some(self.own_view());
        }
        Some(self.view_of(self.members.get(node)?))
    }

    /// Who this node is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.me.identity
    }

    /// Age of this node's newest statement about itself.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.me.incarnation
    }

    /// Live members, this node included.
    #[must_use]
    pub const fn live_count(&self) -> usize {
        self.members.live_count() + 1
    }

    /// How many payloads were not understood.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A number that is equal on two members exactly when their views are, but for a chance of 2^-64.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.members.digest()
    }

    /// How badly this node thinks it is doing itself: 0 is well, 8 the worst (Lifeguard, section IV-A).
    ///
    /// It probes as many times more slowly, and waits as many times longer for answers, as this plus one.
    #[must_use]
    pub const fn local_health(&self) -> u32 {
        self.health
    }

    fn view_of(&self, member: &Member) -> MemberView {
        let suspicion = self.suspicions.get(&member.node);
        member.view(suspicion.is_some_and(|s| s.is_confirmed(self.live_count())))
    }

    fn handle_letter(&mut self, now: Time, letter: &Letter, items: &[Item<'_>]) {
        let sender = letter.sender;
        if sender.node == self.me.identity.node {
            self.handle_own_name(now, letter.from, sender, items);
            return;
        }
        let known = self.members.get(sender.node).map(|member| member.instance);
        if known.is_some_and(|instance| instance != sender.instance) {
            self.report_conflict(now, sender.node, sender.instance, letter.from);
            // An impostor is answered so that it learns of the conflict itself; nothing else counts.
            for item in items {
                if let Item::Sync(sync) = item {
                    self.handle_sync(now, letter, sync.seq, sync.after, None);
                }
            }
            return;
        }
        self.last_heard = now;
        let outdated = self.hear_all(now, letter, items);
        for item in items {
            match item {
                Item::Ping(ping) => self.handle_ping(now, letter, *ping),
                Item::Ack(ack) => self.handle_ack(now, letter, *ack),
                Item::PingReq(request) => self.handle_ping_req(now, letter, *request),
                Item::Relayed(relayed) => self.handle_relayed(now, letter, *relayed),
                Item::Nack(nack) => self.handle_nack(letter, *nack),
                Item::Sync(sync) => self.handle_sync(now, letter, sync.seq, sync.after, None),
                Item::Compare(c) => self.handle_sync(now, letter, c.seq, c.after, Some(c.sums)),
                Item::Page(page) => self.handle_page(now, letter, *page, &outdated),
                Item::MetaGet(get) => self.handle_meta_get(now, letter, *get),
                Item::MetaPart(part) => self.handle_meta_part(now, letter, part),
                Item::Broadcast(broadcast) => self.handle_broadcast(now, letter, broadcast),
                Item::Claim(_) => {}
            }
        }
    }

    fn emit(&mut self, event: MemberEvent) {
        self.events.push_back(Event::Member(event));
    }

    const fn seq(&mut self) -> u32 {
        self.next_seq = self.next_seq.wrapping_add(1);
        self.next_seq
    }

    /// The local health multiplier: this node waits longer the worse it does itself.
    fn scaled(&self, wait: Duration) -> Duration {
        wait * (self.health + 1)
    }

    /// Finds out whether this node itself was paused or starved, and forgives others what it missed.
    fn notice_lag(&mut self, now: Time) {
        let Some(deadline) = self.timers.next() else {
            return;
        };
        let lag = now.since(deadline);
        if lag <= self.settings.lag_tolerance() {
            return;
        }
        self.timers.postpone(now);
        self.blame_self(now, 1);
        for seq in core::mem::take(&mut self.probes).into_keys() {
            self.timers.clear(Timer::Probe(seq));
        }
        for suspicion in self.suspicions.values_mut() {
            suspicion.started = suspicion.started + lag;
        }
        let extended: Vec<_> = self.suspicions.keys().copied().collect();
        for node in extended {
            self.arm_suspicion(now, node);
        }
    }
}

/// What only tests and simulations look at.
#[cfg(any(test, feature = "sim"))]
impl Swim {
    /// Where this node stands on every other member.
    pub(crate) fn standings(&self) -> impl Iterator<Item = (NodeId, Incarnation, crate::MemberState)> + '_ {
        let members = self.members.iter();
        members.map(|member| (member.node, member.incarnation, member.state))
    }

    /// What this node believes of `node`, without its metadata.
    pub(crate) fn state_of(&self, node: NodeId) -> Option<crate::MemberState> {
        if node == self.me.identity.node {
            return Some(self.me.state());
        }
        Some(self.members.get(node)?.state)
    }

    /// How well `node` does, as far as this node knows.
    pub(crate) fn health_of(&self, node: NodeId) -> Option<crate::Health> {
        Some(self.members.get(node)?.health())
    }

    /// Makes `members` known as if they had long been alive, without metadata and without a word said.
    pub(crate) fn preload(&mut self, members: impl IntoIterator<Item = (Identity, SocketAddr)>) {
        for (identity, addr) in members {
            if identity.node != self.me.identity.node && self.members.len() < MAX_MEMBERS {
                self.members.insert(
                    claims::newcomer(identity, addr, crate::meta::Meta::Empty),
                    &mut self.rng,
                );
            }
        }
    }

    /// How often this node has begun to learn another's view.
    #[cfg(test)]
    pub(crate) const fn pulls_begun(&self) -> u64 {
        self.pulling.begun()
    }

    /// Whether every queue is within its limit, and every index agrees with what it indexes.
    pub(crate) fn is_bounded(&self) -> bool {
        let suspects = self
            .members
            .iter()
            .filter(|m| m.state == crate::MemberState::Suspect);
        self.members.len() <= MAX_MEMBERS
            && self.members.is_consistent(self.me.fingerprint)
            && suspects.clone().count() == self.suspicions.len()
            && suspects
                .map(|m| m.node)
                .all(|node| self.suspicions.contains_key(&node))
            && self.gossip.len() <= self.members.len() + 1
            && self.transmits.len() <= MAX_TRANSMITS
            && self.probes.len() <= probe::MAX_PROBES
            && self.pulls.len() <= sync::MAX_PULLS
            && self.backoffs.len() <= sync::MAX_BACKOFFS
            && self.flaps.len() <= status::MAX_FLAPS
            && self.muted.len() <= claims::MAX_MUTED
            && self.broadcasts.is_bounded()
    }
}

/// Where a payload came from and what its answer may be.
#[derive(Clone, Copy, Debug)]
struct Letter {
    from: SocketAddr,
    reply: Reply,
    sender: Identity,
    len: usize,
    accuses_me: bool,
}

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Datagram,
    Stream(u64),
    /// It was an answer itself.
    None,
}
