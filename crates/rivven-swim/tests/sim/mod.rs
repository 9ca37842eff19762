//! A small deterministic network of members: seeded, event by event, checked after every event.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test harness fails loudly, and no test uses all of it"
)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use rivven_swim::{
    BootEpoch, Command, Event, Identity, Incarnation, InstanceId, MemberEvent, MemberState, NodeId, Settings,
    Swim, SwimConfig, Time,
};

pub const SECOND: u64 = 1_000_000;

/// IP and UDP headers and the seal, which the machine does not see.
const HEADERS: usize = 28 + 57;

/// Datagrams that a frozen member's socket holds; further ones are lost.
const SOCKET_BUFFER: usize = 256;

type Packet = (SocketAddr, Identity, Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Up,
    Frozen,
    Down,
}

struct Node {
    swim: Swim,
    run: Run,
    inbox: VecDeque<Packet>,
    wake: Option<u64>,
    leave_complete: bool,
    /// Greatest statement seen about each member in this start.
    seen: BTreeMap<NodeId, (Incarnation, MemberState)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Wake(NodeId),
    Deliver(NodeId, SocketAddr, Identity, Vec<u8>),
}

/// A cluster of members numbered from 1.
pub struct Sim {
    pub now: u64,
    /// Lost datagrams per thousand.
    pub loss: u64,
    period_ms: u64,
    seed: u64,
    rng: u64,
    nodes: BTreeMap<NodeId, Node>,
    group: BTreeMap<NodeId, u32>,
    queue: BTreeSet<(u64, u64, What)>,
    order: u64,
    /// Greatest incarnation each member ever gave itself.
    own: BTreeMap<NodeId, Incarnation>,
    /// `(time, observer, event)`.
    pub events: Vec<(u64, NodeId, MemberEvent)>,
    pub datagrams: u64,
    pub bytes: u64,
}

pub fn addr(node: NodeId) -> SocketAddr {
    let [.., b, c] = node.to_be_bytes();
    SocketAddr::from(([10, 0, b, c], 7946))
}

pub fn identity(node: NodeId, epoch: u64) -> Identity {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&node.to_be_bytes());
    Identity {
        node,
        instance: InstanceId::from_bytes(bytes),
        boot_epoch: BootEpoch(epoch),
    }
}

fn settings(node: NodeId, period_ms: u64) -> Settings {
    let config = SwimConfig {
        bind_addr: addr(node).into(),
        known_peers: Vec::new(),
        protocol_period_ms: period_ms,
        suspect_timeout_ms: 5 * period_ms,
    };
    Settings::new(&config, addr(node))
        .unwrap()
        .max_datagram(1_343)
        .unwrap()
}

impl Sim {
    /// `count` members that all start at once and know only member 1, itself included.
    pub fn new(count: u64, seed: u64) -> Self {
        Self::with_period(count, seed, 1_000)
    }

    /// As [`Self::new`], slower or faster.
    pub fn with_period(count: u64, seed: u64, period_ms: u64) -> Self {
        println!("seed {seed}: replay with Sim::with_period({count}, {seed}, {period_ms})");
        let mut sim = Self {
            now: 0,
            loss: 0,
            period_ms,
            seed,
            rng: seed,
            nodes: BTreeMap::new(),
            group: BTreeMap::new(),
            queue: BTreeSet::new(),
            order: 0,
            own: BTreeMap::new(),
            events: Vec::new(),
            datagrams: 0,
            bytes: 0,
        };
        for node in 1..=count {
            sim.start(identity(node, 1));
        }
        sim
    }

    /// As [`Self::new`], run until all know all.
    pub fn converged(count: u64, seed: u64) -> Self {
        let mut sim = Self::new(count, seed);
        let took = sim.run_until(30, Self::all_agree).expect("the cluster forms");
        println!("formed in {took} us");
        sim.run(5);
        sim.events.clear();
        sim
    }

    pub fn start(&mut self, identity: Identity) {
        let node = identity.node;
        self.seed = self.seed.wrapping_add(1);
        let meta = format!("node {node}");
        let now = Time::from_micros(self.now);
        let swim = Swim::new(
            settings(node, self.period_ms),
            identity,
            meta.as_bytes(),
            now,
            self.seed,
        )
        .unwrap();
        let fresh = Node {
            swim,
            run: Run::Up,
            inbox: VecDeque::new(),
            wake: None,
            leave_complete: false,
            seen: BTreeMap::new(),
        };
        self.nodes.insert(node, fresh);
        self.command(node, Command::Seeds(vec![addr(1), addr(2)]));
    }

    pub fn command(&mut self, node: NodeId, command: Command) {
        let now = Time::from_micros(self.now);
        self.nodes.get_mut(&node).unwrap().swim.command(now, command);
        self.drain(node);
    }

    pub fn crash(&mut self, node: NodeId) {
        let node = self.nodes.get_mut(&node).unwrap();
        node.run = Run::Down;
        node.inbox.clear();
    }

    pub fn freeze(&mut self, node: NodeId) {
        self.nodes.get_mut(&node).unwrap().run = Run::Frozen;
    }

    pub fn thaw_if_frozen(&mut self, node: NodeId) {
        if self.nodes[&node].run == Run::Frozen {
            self.thaw(node);
        }
    }

    pub fn thaw(&mut self, node: NodeId) {
        let entry = self.nodes.get_mut(&node).unwrap();
        entry.run = Run::Up;
        let now = Time::from_micros(self.now);
        for (from, sender, bytes) in std::mem::take(&mut entry.inbox) {
            entry.swim.handle_datagram(now, from, sender, &bytes);
        }
        entry.swim.handle_timeout(now);
        self.drain(node);
    }

    /// Members of different groups do not hear each other.
    pub fn split(&mut self, group_of: impl Fn(NodeId) -> u32) {
        self.group = self.nodes.keys().map(|node| (*node, group_of(*node))).collect();
    }

    pub fn merge(&mut self) {
        self.group.clear();
    }

    pub fn swim(&self, node: NodeId) -> &Swim {
        &self.nodes[&node].swim
    }

    pub fn left(&self, node: NodeId) -> bool {
        self.nodes[&node].leave_complete
    }

    pub fn up(&self) -> Vec<NodeId> {
        let up = self.nodes.iter().filter(|(_, node)| node.run == Run::Up);
        up.map(|(node, _)| *node).collect()
    }

    pub fn state(&self, observer: NodeId, subject: NodeId) -> Option<MemberState> {
        Some(self.swim(observer).member(subject)?.state)
    }

    /// Whether every running member has every running member alive, and all views are equal.
    pub fn all_agree(&self) -> bool {
        let up = self.up();
        let digest = self.swim(up[0]).digest();
        up.iter().all(|observer| {
            self.swim(*observer).digest() == digest
                && up
                    .iter()
                    .all(|subject| self.state(*observer, *subject) == Some(MemberState::Alive))
        })
    }

    /// Whether every running member but `subject` sees it in `state`.
    pub fn all_see(&self, subject: NodeId, state: MemberState) -> bool {
        let mut others = self.up().into_iter().filter(|observer| *observer != subject);
        others.all(|observer| self.state(observer, subject) == Some(state))
    }

    /// How often a member that runs was declared dead.
    pub fn evictions(&self) -> usize {
        let up: BTreeSet<_> = self.up().into_iter().collect();
        let dead = self
            .events
            .iter()
            .filter(|(_, _, event)| matches!(event, MemberEvent::Dead(view) if up.contains(&view.node)));
        dead.count()
    }

    pub fn run(&mut self, seconds: u64) {
        self.run_until(seconds, |_| false);
    }

    /// Runs until `done`, at most `seconds`; how many microseconds it took.
    pub fn run_until(&mut self, seconds: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let step = self.period_ms * 50;
        let begun = self.now;
        let end = begun + seconds * SECOND;
        while self.now < end {
            let step_end = (self.now + step).min(end);
            self.run_to(step_end);
            self.check_all();
            if done(self) {
                return Some(self.now - begun);
            }
        }
        None
    }

    fn run_to(&mut self, end: u64) {
        while let Some((at, _, _)) = self.queue.first()
            && *at <= end
        {
            let (at, _, what) = self.queue.pop_first().unwrap();
            self.now = at;
            match what {
                What::Wake(node) => self.wake(node),
                What::Deliver(to, from, sender, bytes) => self.deliver(to, from, sender, bytes),
            }
        }
        self.now = end;
    }

    fn wake(&mut self, node: NodeId) {
        let now = self.now;
        let entry = self.nodes.get_mut(&node).unwrap();
        if entry.wake != Some(now) || entry.run != Run::Up {
            return;
        }
        entry.wake = None;
        entry.swim.handle_timeout(Time::from_micros(now));
        self.drain(node);
    }

    fn deliver(&mut self, to: NodeId, from: SocketAddr, sender: Identity, bytes: Vec<u8>) {
        let now = Time::from_micros(self.now);
        let Some(entry) = self.nodes.get_mut(&to) else {
            return;
        };
        match entry.run {
            Run::Up => {
                entry.swim.handle_datagram(now, from, sender, &bytes);
                self.drain(to);
            }
            Run::Frozen if entry.inbox.len() < SOCKET_BUFFER => entry.inbox.push_back((from, sender, bytes)),
            Run::Frozen | Run::Down => {}
        }
    }

    fn push(&mut self, at: u64, what: What) {
        self.order += 1;
        self.queue.insert((at, self.order, what));
    }

    fn random(&mut self, below: u64) -> u64 {
        self.rng = self
            .rng
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.rng ^ self.rng >> 29) * u128::from(below)) >> 64) as u64
    }

    /// Takes every output of a member after an input.
    fn drain(&mut self, node: NodeId) {
        let mut payload = Vec::new();
        let mut sent = Vec::new();
        let entry = self.nodes.get_mut(&node).unwrap();
        let sender = entry.swim.identity();
        while let Some(transmit) = entry.swim.poll_transmit(&mut payload) {
            assert!(payload.len() <= 1_343, "too long a datagram");
            sent.push((transmit.to, std::mem::take(&mut payload)));
        }
        while let Some(event) = entry.swim.poll_event() {
            match event {
                Event::Member(event) => self.events.push((self.now, node, event)),
                Event::LeaveComplete => entry.leave_complete = true,
                _ => {}
            }
        }
        let due = entry.swim.poll_timeout().map(|at| at.as_micros().max(self.now));
        if entry.wake != due {
            entry.wake = due;
            if let Some(at) = due {
                self.push(at, What::Wake(node));
            }
        }
        let own = self.nodes[&node].swim.incarnation();
        let best = self.own.entry(node).or_insert(own);
        *best = own.max(*best);
        for (to, bytes) in sent {
            self.send(node, to, sender, bytes);
        }
    }

    fn send(&mut self, from: NodeId, to: SocketAddr, sender: Identity, bytes: Vec<u8>) {
        self.datagrams += 1;
        self.bytes += (bytes.len() + HEADERS) as u64;
        let SocketAddr::V4(v4) = to else {
            panic!("IPv6 in an IPv4 network")
        };
        let [.., b, c] = v4.ip().octets();
        let target = u64::from(b) << 8 | u64::from(c);
        let cut = self.group.get(&from) != self.group.get(&target);
        if cut || self.random(1000) < self.loss {
            return;
        }
        let delay = 200 + self.random(800);
        self.push(self.now + delay, What::Deliver(target, addr(from), sender, bytes));
    }

    /// No view is ahead of what its subject said itself, and no view goes back.
    fn check_all(&mut self) {
        for (observer, node) in &mut self.nodes {
            for view in node.swim.members() {
                let own = self.own[&view.node];
                assert!(
                    view.incarnation <= own,
                    "{observer} believes {:?} of {}, which said {own:?}",
                    view.incarnation,
                    view.node
                );
                let now = (view.incarnation, view.state);
                let seen = node.seen.entry(view.node).or_insert(now);
                assert!(
                    *seen <= now,
                    "{observer} went back from {seen:?} to {now:?} about {}",
                    view.node
                );
                *seen = now;
            }
        }
    }
}
