//! The world of the model: two nodes, the connections between them, and what is on its way.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rivven_types::{BootEpoch, InstanceId};

use super::{super::*, Plant};
use crate::seeded::Seeded;

const MAIN: Purpose = Purpose::Main;

/// Steps within which a pair that is left in peace comes to rest.
const MAX_REST: usize = 2_000;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End(usize);

impl End {
    pub(super) const BOTH: [Self; 2] = [Self(0), Self(1)];

    const fn other(self) -> Self {
        Self(1 - self.0)
    }

    const fn id(self) -> NodeId {
        self.0 as NodeId + 1
    }
}

/// What happens to nodes and network, not by their doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Call,
    Rotate,
    /// A connection carries nothing any more.
    Lose,
    /// A node is killed and started again.
    Restart,
    ShutDown,
}

impl Fault {
    pub(super) const ALL: [Self; 5] = [
        Self::Call,
        Self::Rotate,
        Self::Lose,
        Self::Restart,
        Self::ShutDown,
    ];
}

/// One end's half of a connection.
struct Half {
    connection: usize,
    claim: Claim,
    /// Which certificate of this node it was made with.
    own: u32,
    /// Start of the peer.
    with: BootEpoch,
    open: AtomicBool,
    left: Mutex<Option<Leave>>,
}

impl Tie for Half {
    type Own = u32;

    fn claim(&self) -> &Claim {
        &self.claim
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    fn is_of(&self, own: &u32) -> bool {
        self.own == *own
    }

    fn has_left(&self) -> bool {
        lock(&self.left).is_some()
    }

    fn leave(&self, why: Leave) {
        lock(&self.left).get_or_insert(why);
    }

    fn supersede(&self) {
        self.open.store(false, Ordering::Relaxed);
    }
}

/// What travels in order on the stream of the hellos.
#[derive(Clone, Copy, Debug)]
enum Word {
    Hello(Claim, BootEpoch),
    Answer(BootEpoch),
    GoAway(Leave),
    Finish,
}

/// How far one end has come with a connection.
enum Stage {
    /// Waits for the other one's hello.
    Greeting,
    /// Has passed both hellos, and opens its streams.
    Opening(Arc<Half>),
    Up(Arc<Half>),
    Over,
}

/// One end of a connection and what is on its way to it.
struct Side {
    stage: Stage,
    inbox: VecDeque<Word>,
    /// A close frame, which overtakes; whether the connection was superseded or left.
    closing: Option<Close>,
    said: bool,
    heard: bool,
    finished: bool,
    peer_finished: bool,
    /// This end's calls in flight.
    calls: usize,
    /// How it ended, if that was not by this end.
    ended: Option<Close>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    Done,
    Superseded,
    Refused,
    Silent,
}

impl Side {
    const fn new() -> Self {
        Self {
            stage: Stage::Greeting,
            inbox: VecDeque::new(),
            closing: None,
            said: false,
            heard: false,
            finished: false,
            peer_finished: false,
            calls: 0,
            ended: None,
        }
    }

    const fn half(&self) -> Option<&Arc<Half>> {
        match &self.stage {
            Stage::Opening(half) | Stage::Up(half) => Some(half),
            Stage::Greeting | Stage::Over => None,
        }
    }

    const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }
}

struct Connection {
    dialler: End,
    claim: Claim,
    /// The dialler's certificate.
    own: u32,
    sides: [Side; 2],
    /// Nothing arrives any more.
    lost: bool,
}

struct Node {
    epoch: u64,
    peer: Peer<Half>,
    own: u32,
    dial: Option<Dial>,
    closing: bool,
}

/// What the task that dials is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// Shakes hands; the node's certificate when it began.
    Handshake(u32),
    /// Has said hello.
    Greeting(usize),
}

impl Node {
    fn start(end: End, epoch: u64) -> Self {
        Self {
            epoch,
            peer: Peer::new(end.other().id()),
            own: 0,
            dial: None,
            closing: false,
        }
    }

    fn way(&self) -> &Way<Half> {
        self.peer.way(MAIN)
    }

    fn waiting(&self) -> &AtomicUsize {
        &self.way().waiting
    }
}

/// What one of the nodes, or the network, may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin(End),
    Greet(End),
    HandOver(End),
    Hear(usize, End),
    Offer(usize, End),
    SayGoAway(usize, End),
    Finish(usize, End),
    CloseDone(usize, End),
    HearClose(usize, End),
    Forget(usize, End),
    Answer(usize, End),
    /// Missed pings, or an attempt that took too long.
    Notice(usize, End),
}

pub(super) struct World {
    random: Seeded,
    plant: Plant,
    nodes: [Node; 2],
    connections: Vec<Connection>,
    pub(super) failed: usize,
    pub(super) answered: usize,
    pub(super) crossed: usize,
    rotations: usize,
}

impl World {
    pub(super) fn new(seed: u64, plant: Plant) -> Self {
        Self {
            random: Seeded::new(seed, 0),
            plant,
            nodes: End::BOTH.map(|end| Node::start(end, 1)),
            connections: Vec::new(),
            failed: 0,
            answered: 0,
            crossed: 0,
            rotations: 0,
        }
    }

    pub(super) const fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The connection that `end` hands calls to.
    pub(super) fn used_by(&self, end: End) -> Option<usize> {
        Some(self.nodes[end.0].way().in_use()?.connection)
    }

    pub(super) fn call(&mut self, end: End) {
        if !self.nodes[end.0].closing {
            self.nodes[end.0].waiting().fetch_add(1, Ordering::SeqCst);
        }
    }

    fn draw(&mut self, below: usize) -> usize {
        usize::try_from(self.random.next() % below as u64).unwrap()
    }

    /// Something happens: one time in five to the nodes, otherwise by their doing.
    pub(super) fn step(&mut self, faults: &[Fault]) -> Result<(), String> {
        let steps = self.steps();
        if steps.is_empty() || self.draw(5) == 0 {
            let fault = faults[self.draw(faults.len())];
            let end = End(self.draw(2));
            self.happen(fault, end);
        } else {
            let step = steps[self.draw(steps.len())];
            self.take(step)?;
        }
        self.check()
    }

    fn happen(&mut self, fault: Fault, end: End) {
        match fault {
            Fault::Call => self.call(end),
            // More would make the limit of connections that are being left fail calls.
            Fault::Rotate if self.rotations < MAX_DRAINING / 2 => {
                self.rotations += 1;
                self.nodes[end.0].own += 1;
            }
            Fault::Rotate => {}
            Fault::Lose => {
                if !self.connections.is_empty() {
                    let at = self.draw(self.connections.len());
                    self.connections[at].lost = true;
                }
            }
            Fault::Restart => self.restart(end),
            Fault::ShutDown => {
                self.nodes[end.0].closing = true;
                for connection in &self.connections {
                    if let Stage::Up(half) = &connection.sides[end.0].stage {
                        half.leave(Leave::Shutdown);
                    }
                }
            }
        }
    }

    /// Ends a start of `end` without a word. What it has sent may still arrive.
    fn restart(&mut self, end: End) {
        self.nodes[end.0] = Node::start(end, self.nodes[end.0].epoch + 1);
        for connection in &mut self.connections {
            let side = &mut connection.sides[end.0];
            self.failed += side.calls;
            *side = Side {
                stage: Stage::Over,
                ..Side::new()
            };
        }
    }

    pub(super) fn start_those_that_were_shut_down(&mut self) {
        for end in End::BOTH {
            if self.nodes[end.0].closing {
                self.restart(end);
            }
        }
    }

    /// Lets both nodes do what they have to do until there is nothing left.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        for _ in 0..MAX_REST {
            let steps = self.steps();
            if steps.is_empty() {
                return Ok(());
            }
            let step = steps[self.draw(steps.len())];
            self.take(step)?;
            self.check()?;
        }
        Err(format!(
            "no rest: {} connections were made, some after everything was over",
            self.connections.len()
        ))
    }

    /// Holds at every moment.
    fn check(&self) -> Result<(), String> {
        for end in End::BOTH {
            let node = &self.nodes[end.0];
            let latest = node.peer.identity().map(|identity| identity.boot_epoch);
            let used = node.way().in_use();
            if let Some(half) = used.filter(|half| Some(half.with) != latest) {
                let (with, at) = (half.with, half.connection);
                return Err(format!(
                    "{end:?} uses connection {at} with start {with:?}, but knows {latest:?}"
                ));
            }
        }
        Ok(())
    }

    /// Holds when both nodes have come to rest: one connection, the same at both ends, of their latest starts.
    pub(super) fn check_rest(&self) -> Result<(), String> {
        let used = End::BOTH.map(|end| self.used_by(end));
        let [Some(one), Some(two)] = used else {
            return Err(format!("a connection is missing: {used:?}"));
        };
        if one != two {
            return Err(format!("the ends disagree: {used:?}"));
        }
        for end in End::BOTH {
            let node = &self.nodes[end.0];
            let latest = Some(BootEpoch(self.nodes[end.other().0].epoch));
            if node.way().in_use().map(|half| half.with) != latest {
                return Err(format!("{end:?} uses an earlier start than {latest:?}"));
            }
            if !node.way().in_use().is_some_and(|half| half.is_of(&node.own)) {
                return Err(format!("{end:?} uses a connection of its former certificate"));
            }
            let mine = |connection: &&Connection| !connection.sides[end.0].is_over();
            let open = self.connections.iter().filter(mine).count();
            let listed = node.peer.open_connections();
            let waiting = node.waiting().load(Ordering::SeqCst);
            if (open, listed, waiting) != (1, 1, 0) {
                return Err(format!(
                    "{end:?}: {open} connections, {listed} listed, {waiting} calls wait"
                ));
            }
        }
        Ok(())
    }

    fn say(&mut self, at: usize, from: End, word: Word) {
        self.connections[at].sides[from.other().0].inbox.push_back(word);
    }
}

mod drive;
