//! The machine: inputs, outputs, and the state that they share.

mod claims;
mod dissemination;
mod probe;
mod sync;
#[cfg(test)]
mod tests;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::{net::SocketAddr, time::Duration};

use rivven_types::NodeId;

use self::{
    claims::{Source, Via},
    probe::Probe,
    sync::{Pull, Pulling},
};
use crate::{
    ConfigError, Event, Identity, Incarnation, MAX_META_LEN, MemberEvent, MemberState, MemberView, Settings,
    Time,
    config::MAX_SEEDS,
    gossip::Gossip,
    member::{Member, Status, fingerprint},
    rng::Rng,
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
    /// Say goodbye. Ends with [`Event::LeaveComplete`]; there is no way back but a restart.
    Leave,
}

/// A datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
}

/// This node, as it describes itself.
#[derive(Clone, Debug)]
struct Me {
    identity: Identity,
    incarnation: Incarnation,
    /// `None` until it was configured or observed.
    addr: Option<SocketAddr>,
    meta: Box<[u8]>,
    leaving: bool,
    fingerprint: u64,
    conflict_muted_until: Time,
    superseded_muted_until: Time,
}

impl Me {
    const fn state(&self) -> MemberState {
        if self.leaving {
            MemberState::Left
        } else {
            MemberState::Alive
        }
    }
}

/// One member's view of the cluster and its part in the protocol.
///
/// Inputs are [`Self::handle_datagram`], [`Self::handle_timeout`] and [`Self::command`]. After every one of
/// them take all transmits and events, and call [`Self::handle_timeout`] once [`Self::poll_timeout`] has
/// passed. The same inputs and seed give the same outputs.
#[derive(Clone, Debug)]
pub struct Swim {
    settings: Settings,
    me: Me,
    members: BTreeMap<NodeId, Member>,
    /// Sum of all members' fingerprints and this node's.
    digest: u64,
    /// The live members in the order in which they are probed (SWIM, section 4.3).
    order: Vec<NodeId>,
    cursor: usize,
    gossip: Gossip,
    last_gossip: Option<Time>,
    timers: Timers,
    rng: Rng,
    next_seq: u32,
    probes: BTreeMap<u32, Probe>,
    /// The local health multiplier is one more than this.
    health: u32,
    /// When anything was last heard from another member.
    last_heard: Time,
    silent_failures: u32,
    pulls: BTreeMap<u32, Pull>,
    pulling: Pulling,
    seeds: Vec<SocketAddr>,
    /// Seeds that turned out to be this node.
    own_seeds: Vec<SocketAddr>,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
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
        let me = Me {
            identity,
            incarnation: Incarnation::first(identity.boot_epoch),
            addr: settings.advertised,
            meta: meta.into(),
            leaving: false,
            fingerprint: 0,
            conflict_muted_until: Time::ZERO,
            superseded_muted_until: Time::ZERO,
        };
        let next_seq = u32::from_le_bytes(rng.next().to_le_bytes()[..4].try_into().unwrap_or_default());
        let mut swim = Self {
            pulling: Pulling::new(&settings),
            settings,
            me,
            members: BTreeMap::new(),
            digest: 0,
            order: Vec::new(),
            cursor: 0,
            gossip: Gossip::default(),
            last_gossip: None,
            timers,
            rng,
            next_seq,
            probes: BTreeMap::new(),
            health: 0,
            last_heard: now,
            silent_failures: 0,
            pulls: BTreeMap::new(),
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
        let Ok(items) = wire::decode(payload) else {
            self.dropped = self.dropped.saturating_add(1);
            return;
        };
        if sender.node == self.me.identity.node {
            self.handle_own_name(now, from, sender, &items);
            return;
        }
        let known = self.members.get(&sender.node).map(|member| member.instance);
        let impostor = known.is_some_and(|instance| instance != sender.instance);
        if impostor {
            self.report_conflict(now, sender.node, sender.instance, from);
        } else {
            self.last_heard = now;
            self.silent_failures = 0;
            let is_page = items.iter().any(|item| matches!(item, Item::Page(_)));
            let via = if is_page { Via::Sync } else { Via::Gossip };
            let source = Source { sender, from, via };
            for item in &items {
                if let Item::Claim(claim) = item {
                    self.hear(now, claim, &source);
                }
            }
        }
        let letter = Letter {
            from,
            sender,
            len: payload.len(),
            accuses_me: self.accuses_me(&items),
        };
        for item in &items {
            match item {
                // An impostor is answered so that it learns of the conflict itself; nothing else counts.
                Item::Sync(sync) => self.handle_sync(now, &letter, *sync),
                Item::Ping(ping) if !impostor => self.handle_ping(now, &letter, *ping),
                Item::Ack(ack) if !impostor => self.handle_ack(now, &letter, *ack),
                Item::PingReq(request) if !impostor => self.handle_ping_req(now, &letter, *request),
                Item::Relayed(relayed) if !impostor => self.handle_relayed(&letter, *relayed),
                Item::Nack(nack) if !impostor => self.handle_nack(&letter, *nack),
                Item::Page(page) if !impostor => self.handle_page(now, *page),
                Item::Ping(_)
                | Item::Ack(_)
                | Item::PingReq(_)
                | Item::Relayed(_)
                | Item::Nack(_)
                | Item::Page(_)
                | Item::Claim(_) => {}
            }
        }
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
                Timer::Suspicion(node) => self.bury(now, node),
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
            Command::Hint(node) => self.probe_on_hint(now, node),
            Command::Leave => self.leave(now),
        }
    }

    /// The next datagram to send, its payload put into `payload`.
    pub fn poll_transmit(&mut self, payload: &mut Vec<u8>) -> Option<Transmit> {
        let (to, bytes) = self.transmits.pop_front()?;
        *payload = bytes;
        Some(Transmit { to })
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
        let count = self.live_count();
        let mut views: Vec<_> = self
            .members
            .iter()
            .map(|(node, m)| m.view(*node, count))
            .collect();
        let at = views.partition_point(|view| view.node < self.me.identity.node);
        views.insert(at, self.own_view());
        views
    }

    /// What is known of `node`.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<MemberView> {
        if node == self.me.identity.node {
            return Some(self.own_view());
        }
        Some(self.members.get(&node)?.view(node, self.live_count()))
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
        self.order.len() + 1
    }

    /// How many payloads were not understood.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A number that is equal on two members exactly when their views are, but for a chance of 2^-64.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    fn own_view(&self) -> MemberView {
        MemberView {
            node: self.me.identity.node,
            instance: self.me.identity.instance,
            boot_epoch: self.me.identity.boot_epoch,
            incarnation: self.me.incarnation,
            state: self.me.state(),
            confirmed: false,
            addr: self.me.addr.unwrap_or(self.settings.bound),
            meta: self.me.meta.to_vec(),
        }
    }

    fn refresh_own_fingerprint(&mut self) {
        let state = self.me.state();
        let described = state == MemberState::Alive;
        let new = fingerprint(self.me.identity.node, self.me.incarnation, state, described);
        self.digest = self.digest.wrapping_sub(self.me.fingerprint).wrapping_add(new);
        self.me.fingerprint = new;
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
        self.health = (self.health + 1).min(MAX_HEALTH);
        for seq in core::mem::take(&mut self.probes).into_keys() {
            self.timers.clear(Timer::Probe(seq));
        }
        let mut extended = Vec::new();
        for (node, member) in &mut self.members {
            if let Status::Suspect(suspicion) = &mut member.status {
                suspicion.started = suspicion.started + lag;
                extended.push(*node);
            }
        }
        for node in extended {
            self.arm_suspicion(now, node);
        }
    }
}

/// Where a datagram came from and what its answer may be.
#[derive(Clone, Copy, Debug)]
struct Letter {
    from: SocketAddr,
    sender: Identity,
    len: usize,
    accuses_me: bool,
}
