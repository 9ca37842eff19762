//! The network: hosts, faults, and the heap of what happens next.

mod travel;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    vec::Vec,
};
use core::{cmp::Reverse, net::SocketAddr, time::Duration};

use super::{Host, Machine, News, Outgoing, Truth};
use crate::{Identity, NodeId, Time, rng::Rng};

/// A second, in microseconds.
pub const SECOND: u64 = 1_000_000;

/// Datagrams that a socket holds while nobody reads them; further ones are lost.
const SOCKET_BUFFER: usize = 512;

/// What a host can suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Up,
    /// The process is stopped: nothing of it runs.
    Frozen,
    /// The process runs, but nothing it sends leaves and nothing sent to it arrives until it is resumed.
    Blocked,
    Down,
}

#[derive(Debug)]
struct Slot<M> {
    machine: M,
    run: Run,
    inbox: VecDeque<What>,
    outbox: VecDeque<(Outgoing, Vec<u8>)>,
    /// The earliest wake-up that is in the queue.
    wake: Option<Time>,
    group: u32,
    /// Of a thousand datagrams, how many are lost on the way in and on the way out.
    lost_in: u64,
    lost_out: u64,
    /// Requests in progress here, by the number given to the machine: who asked, and its own number.
    asked: BTreeMap<u64, (Host, u64)>,
    /// When a stream to a peer was last used.
    streams: BTreeMap<Host, Time>,
}

#[derive(Debug)]
enum What {
    Wake,
    Datagram(SocketAddr, Identity, Box<[u8]>),
    Call(Host, u64, Identity, Box<[u8]>),
    Answer(u64, Option<(Identity, Box<[u8]>)>),
}

#[derive(Debug)]
struct Entry {
    at: Time,
    serial: u64,
    host: Host,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// What went over the network since it was last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Datagrams sent, lost ones included. Those of streams are counted in [`Self::bytes`] only.
    pub datagrams: u64,
    /// Bytes sent with all headers, those of streams and their handshakes included.
    pub bytes: u64,
    /// Requests over streams.
    pub calls: u64,
    /// Inputs handled by members.
    pub inputs: u64,
}

/// A network of members.
#[derive(Debug)]
pub struct Sim<M> {
    now: Time,
    rng: Rng,
    slots: BTreeMap<Host, Slot<M>>,
    /// Where the newest member with this node id runs.
    places: BTreeMap<NodeId, Host>,
    queue: BinaryHeap<Reverse<Entry>>,
    serial: u64,
    /// Of a thousand datagrams, how many are lost.
    pub loss: u64,
    /// Whether every machine is audited after each of its events.
    pub strict: bool,
    /// What went over the network.
    pub load: Load,
    /// Every conclusion of every member, in order.
    pub news: Vec<News>,
    truth: Truth,
    payload: Vec<u8>,
}

impl<M: Machine> Sim<M> {
    /// A network without hosts.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            rng: Rng::new(seed),
            slots: BTreeMap::new(),
            places: BTreeMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            loss: 0,
            strict: false,
            load: Load::default(),
            news: Vec::new(),
            truth: Truth::default(),
            payload: Vec::new(),
        }
    }

    /// Puts `machine` on `host`, in place of what ran there.
    pub fn start(&mut self, host: Host, machine: M) {
        self.places.insert(machine.identity().node, host);
        let (group, lost_in, lost_out) = self
            .slots
            .get(&host)
            .map_or((0, 0, 0), |slot| (slot.group, slot.lost_in, slot.lost_out));
        let slot = Slot {
            machine,
            run: Run::Up,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            wake: None,
            group,
            lost_in,
            lost_out,
            asked: BTreeMap::new(),
            streams: BTreeMap::new(),
        };
        self.slots.insert(host, slot);
        self.drain(host);
    }

    /// Has the member of `host` do something, as its user would.
    pub fn tell(&mut self, host: Host, act: impl FnOnce(&mut M, Time)) {
        if let Some(slot) = self.slots.get_mut(&host) {
            act(&mut slot.machine, self.now);
            self.drain(host);
        }
    }

    /// Runs for `wait`.
    pub fn run(&mut self, wait: Duration) {
        self.run_to(self.now + wait);
    }

    /// Runs until `done`, which is asked every `step`, for at most `wait`; how long it took.
    pub fn run_until(
        &mut self,
        step: Duration,
        wait: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let begun = self.now;
        let end = begun + wait;
        while self.now < end {
            self.run_to((self.now + step).min(end));
            if done(self) {
                return Some(self.now.since(begun));
            }
        }
        None
    }

    /// The process of `host` ends without a word.
    pub fn crash(&mut self, host: Host) {
        self.set_run(host, Run::Down);
        if let Some(slot) = self.slots.get_mut(&host) {
            slot.inbox.clear();
            slot.outbox.clear();
        }
    }

    /// The process of `host` stops until [`Self::resume`].
    pub fn freeze(&mut self, host: Host) {
        self.set_run(host, Run::Frozen);
    }

    /// What `host` sends and what is sent to it waits until [`Self::resume`]; its timers run.
    pub fn block(&mut self, host: Host) {
        self.set_run(host, Run::Blocked);
    }

    /// Ends a freeze or a block: first what waited to be sent, then what waited to be read, then timers.
    pub fn resume(&mut self, host: Host) {
        let Some(slot) = self.slots.get_mut(&host) else {
            return;
        };
        if !matches!(slot.run, Run::Frozen | Run::Blocked) {
            return;
        }
        slot.run = Run::Up;
        let inbox = core::mem::take(&mut slot.inbox);
        for (outgoing, payload) in core::mem::take(&mut slot.outbox) {
            self.send(host, outgoing, &payload);
        }
        for what in inbox {
            self.input(host, what);
        }
        self.input(host, What::Wake);
    }

    /// Of a thousand datagrams, how many `host` loses on their way in and out.
    pub fn set_loss(&mut self, host: Host, lost_in: u64, lost_out: u64) {
        if let Some(slot) = self.slots.get_mut(&host) {
            (slot.lost_in, slot.lost_out) = (lost_in, lost_out);
        }
    }

    /// Hosts of different groups do not reach each other.
    pub fn split(&mut self, group_of: impl Fn(Host) -> u32) {
        for (host, slot) in &mut self.slots {
            slot.group = group_of(*host);
        }
    }

    /// Ends [`Self::split`].
    pub fn merge(&mut self) {
        self.split(|_| 0);
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The member of `host`.
    #[must_use]
    pub fn machine(&self, host: Host) -> Option<&M> {
        Some(&self.slots.get(&host)?.machine)
    }

    /// Hosts whose member runs, and is neither frozen nor blocked.
    pub fn up(&self) -> impl Iterator<Item = Host> + '_ {
        let up = self.slots.iter().filter(|(_, slot)| slot.run == Run::Up);
        up.map(|(host, _)| *host)
    }

    /// Whether the member of `host` runs, and is neither frozen nor blocked.
    #[must_use]
    pub fn is_up(&self, host: Host) -> bool {
        self.slots.get(&host).is_some_and(|slot| slot.run == Run::Up)
    }

    fn set_run(&mut self, host: Host, run: Run) {
        if let Some(slot) = self.slots.get_mut(&host) {
            slot.run = run;
        }
    }

    fn run_to(&mut self, end: Time) {
        while let Some(Reverse(first)) = self.queue.peek()
            && first.at <= end
        {
            let Some(Reverse(entry)) = self.queue.pop() else {
                break;
            };
            self.now = entry.at;
            self.happen(entry.host, entry.what);
        }
        self.now = end;
    }

    /// What arrives at a host, whatever state that is in.
    fn happen(&mut self, host: Host, what: What) {
        let Some(slot) = self.slots.get_mut(&host) else {
            return;
        };
        let is_wake = matches!(what, What::Wake);
        if is_wake {
            if slot.wake != Some(self.now) {
                return;
            }
            slot.wake = None;
            // The deadline may have moved since.
            if let Some(due) = slot.machine.deadline().filter(|due| *due > self.now) {
                self.wake_at(host, due);
                return;
            }
        }
        match slot.run {
            Run::Up => self.input(host, what),
            Run::Blocked if is_wake => self.input(host, what),
            Run::Frozen | Run::Blocked if slot.inbox.len() < SOCKET_BUFFER && !is_wake => {
                slot.inbox.push_back(what);
            }
            Run::Frozen | Run::Blocked | Run::Down => {}
        }
    }

    fn input(&mut self, host: Host, what: What) {
        let now = self.now;
        self.serial += 1;
        let serial = self.serial;
        let Some(slot) = self.slots.get_mut(&host) else {
            return;
        };
        self.load.inputs += 1;
        match what {
            What::Wake => slot.machine.timeout(now),
            What::Datagram(from, sender, bytes) => slot.machine.datagram(now, from, sender, &bytes),
            What::Call(asker, id, sender, body) => {
                slot.asked.insert(serial, (asker, id));
                slot.machine.call(now, serial, sender, &body);
            }
            What::Answer(id, answer) => {
                let answer = answer.as_ref().map(|(sender, body)| (*sender, &**body));
                slot.machine.answer(now, id, answer);
            }
        }
        self.drain(host);
    }

    /// Takes every output of a member after an input.
    fn drain(&mut self, host: Host) {
        let mut payload = core::mem::take(&mut self.payload);
        while let Some(slot) = self.slots.get_mut(&host)
            && let Some(outgoing) = slot.machine.outgoing(&mut payload)
        {
            if slot.run == Run::Blocked {
                if slot.outbox.len() < SOCKET_BUFFER {
                    slot.outbox.push_back((outgoing, payload.clone()));
                }
            } else {
                self.send(host, outgoing, &payload);
            }
        }
        self.payload = payload;
        let now = self.now;
        let Some(slot) = self.slots.get_mut(&host) else {
            return;
        };
        while let Some((subject, verdict)) = slot.machine.verdict() {
            self.news.push(News {
                at: now,
                observer: host,
                subject,
                verdict,
            });
        }
        if self.strict {
            slot.machine.audit(&mut self.truth);
        }
        if let Some(due) = slot.machine.deadline() {
            self.wake_at(host, due.max(now));
        }
    }

    fn wake_at(&mut self, host: Host, at: Time) {
        let Some(slot) = self.slots.get_mut(&host) else {
            return;
        };
        if slot.wake.is_none_or(|armed| at < armed) {
            slot.wake = Some(at);
            self.push(at, host, What::Wake);
        }
    }

    fn push(&mut self, at: Time, host: Host, what: What) {
        self.serial += 1;
        let serial = self.serial;
        self.queue.push(Reverse(Entry {
            at,
            serial,
            host,
            what,
        }));
    }
}
