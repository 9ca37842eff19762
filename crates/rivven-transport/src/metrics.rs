//! What the transport tells the `metrics` facade: names, units, labels, and handles taken once.
//!
//! Handles belong to the recorder that is installed when they are taken, at the first call to or from a peer:
//! install one before the transport starts. Without a recorder a handle does nothing. Every name is listed in
//! `docs/operating/metrics.md`, which a test below and `cargo xtask tidy` compare with the code.
//!
//! The number of series is bounded: only [`MAX_LABELLED_PEERS`] peers have series of their own, and every other
//! label has a fixed set of values.

mod events;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use metrics::{Counter, Histogram, counter, histogram};
use rivven_types::NodeId;
use tokio::time::Instant;

use crate::{CallError, Class};
use names::{
    CALL_SECONDS, CALLS, CALLS_STARTED, DROPPED, OPENED, OPENED_BYTES, RECEIVED_BYTES, SEALED, SEALED_BYTES,
    SENT_BYTES, SERVED, SERVED_SECONDS, SERVED_STARTED, describe,
};

pub(crate) use events::{Connected, Dialler, Direction, TransferMetrics, handshake_failed, refused};

/// Peers with series of their own, for each handle to a network; those met later share the label `other`.
pub(crate) const MAX_LABELLED_PEERS: usize = 64;

/// The label of the peers that have no series of their own.
const OTHER_PEERS: &str = "other";

/// Which end of a call is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The one that asks.
    Caller,
    /// The one that answers.
    Handler,
}

/// The calls of one end of a network, by peer and class.
pub(crate) struct CallMetrics {
    end: End,
    peers: ArcSwap<BTreeMap<NodeId, Arc<Peer>>>,
    others: Arc<Peer>,
}

/// The handles of a peer, each class's taken with its first call.
struct Peer {
    label: String,
    classes: [OnceLock<Handles>; Class::ALL.len()],
}

/// What every call touches. Failures are rare, so their counters are taken on the spot.
struct Handles {
    started: Counter,
    answered: Counter,
    seconds: Histogram,
    sent: Counter,
    received: Counter,
}

impl CallMetrics {
    pub(crate) fn new(end: End) -> Self {
        describe();
        Self {
            end,
            peers: ArcSwap::default(),
            others: Arc::new(Peer::new(OTHER_PEERS.into())),
        }
    }

    /// A call with `node` begins, whose request has `len` bytes.
    pub(crate) fn begin(&self, node: NodeId, class: Class, len: usize) -> Begun {
        let known = self.peers.load().get(&node).cloned();
        let peer = known.unwrap_or_else(|| self.meet(node));
        let begun = Begun {
            end: self.end,
            peer,
            class,
            start: Instant::now(),
            ended: false,
        };
        let handles = begun.handles();
        handles.started.increment(1);
        match self.end {
            End::Caller => handles.sent.increment(len as u64),
            End::Handler => handles.received.increment(len as u64),
        }
        begun
    }

    /// What the series of `node` are labelled with.
    pub(crate) fn label(&self, node: NodeId) -> String {
        let known = self.peers.load().get(&node).cloned();
        known.unwrap_or_else(|| self.meet(node)).label.clone()
    }

    fn meet(&self, node: NodeId) -> Arc<Peer> {
        let new = Arc::new(Peer::new(node.to_string()));
        self.peers.rcu(|peers| {
            let mut peers = BTreeMap::clone(peers);
            if peers.len() < MAX_LABELLED_PEERS {
                peers.entry(node).or_insert_with(|| Arc::clone(&new));
            }
            peers
        });
        let met = self.peers.load().get(&node).cloned();
        met.unwrap_or_else(|| Arc::clone(&self.others))
    }
}

impl Peer {
    fn new(label: String) -> Self {
        Self {
            label,
            classes: Default::default(),
        }
    }
}

/// A call under way. Dropped before its end, it counts as given up.
pub(crate) struct Begun {
    end: End,
    peer: Arc<Peer>,
    class: Class,
    start: Instant,
    ended: bool,
}

impl Begun {
    fn handles(&self) -> &Handles {
        // There is a slot for each class, so the first one is never taken in place of another.
        let [first, ..] = &self.peer.classes;
        let slot = self.peer.classes.get(self.class.index()).unwrap_or(first);
        slot.get_or_init(|| self.take_handles())
    }

    fn take_handles(&self) -> Handles {
        let (started, seconds) = match self.end {
            End::Caller => (CALLS_STARTED, CALL_SECONDS),
            End::Handler => (SERVED_STARTED, SERVED_SECONDS),
        };
        let peer = &self.peer.label;
        let class = self.class.name();
        Handles {
            started: counter!(started, "peer" => peer.clone(), "class" => class),
            answered: self.counter("answered"),
            seconds: histogram!(seconds, "peer" => peer.clone(), "class" => class),
            sent: counter!(SENT_BYTES, "peer" => peer.clone(), "class" => class),
            received: counter!(RECEIVED_BYTES, "peer" => peer.clone(), "class" => class),
        }
    }

    fn counter(&self, outcome: &'static str) -> Counter {
        let name = match self.end {
            End::Caller => CALLS,
            End::Handler => SERVED,
        };
        let peer = self.peer.label.clone();
        counter!(name, "peer" => peer, "class" => self.class.name(), "outcome" => outcome)
    }

    /// The call was answered with a response of `len` bytes.
    pub(crate) fn answered(mut self, len: usize) {
        self.ended = true;
        let handles = self.handles();
        handles.answered.increment(1);
        handles.seconds.record(self.start.elapsed().as_secs_f64());
        match self.end {
            End::Caller => handles.received.increment(len as u64),
            End::Handler => handles.sent.increment(len as u64),
        }
    }

    /// The call failed.
    pub(crate) fn failed(mut self, error: &CallError) {
        self.ended = true;
        self.counter(outcome(error)).increment(1);
    }

    /// The handler refused the call.
    pub(crate) fn rejected(mut self) {
        self.ended = true;
        self.counter("rejected").increment(1);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.ended {
            self.counter("given-up").increment(1);
        }
    }
}

/// The label of a failed call. The code of a rejection is the handler's own and may be any text, so it is none.
const fn outcome(error: &CallError) -> &'static str {
    match error {
        CallError::Unreachable { .. } => "unreachable",
        CallError::NotSent { .. } => "not-sent",
        CallError::MaybeExecuted { .. } => "maybe-executed",
        CallError::Deadline => "deadline",
        CallError::Overloaded { .. } => "overloaded",
        CallError::Rejected(_) => "rejected",
        CallError::DuplicateNode { .. } => "duplicate-node-id",
        CallError::Removed { .. } => "member-removed",
        CallError::Incompatible { .. } => "incompatible",
    }
}

/// The datagrams that one end seals.
pub(crate) struct SealMetrics {
    sealed: Counter,
    bytes: Counter,
}

impl SealMetrics {
    pub(crate) fn new() -> Self {
        describe();
        Self {
            sealed: counter!(SEALED),
            bytes: counter!(SEALED_BYTES),
        }
    }

    pub(crate) fn sealed(&self, len: usize) {
        self.sealed.increment(1);
        self.bytes.increment(len as u64);
    }
}

/// The datagrams that one end opens. Those it drops may be a flood, so their counters are taken once too.
pub(crate) struct OpenMetrics {
    opened: Counter,
    bytes: Counter,
    dropped: BTreeMap<&'static str, Counter>,
}

impl OpenMetrics {
    pub(crate) fn new() -> Self {
        describe();
        Self {
            opened: counter!(OPENED),
            bytes: counter!(OPENED_BYTES),
            dropped: BTreeMap::new(),
        }
    }

    pub(crate) fn opened(&self, len: usize) {
        self.opened.increment(1);
        self.bytes.increment(len as u64);
    }

    /// `code` is that of an [`OpenError`](crate::datagram::OpenError).
    pub(crate) fn dropped(&mut self, code: &'static str) {
        let counter = self.dropped.entry(code);
        counter
            .or_insert_with(|| counter!(DROPPED, "reason" => code))
            .increment(1);
    }
}
