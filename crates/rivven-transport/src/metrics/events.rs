//! What happens too seldom to keep handles for: connections, refusals, transfers.
//!
//! Each label has a fixed set of values, or one for each transfer that this program has a type for.

use metrics::{Counter, Gauge, counter, gauge};

use super::names::{CONNECTIONS, HANDSHAKE_FAILURES, REFUSED, TRANSFER_BYTES, TRANSFERS};
use crate::Rejection;

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialler {
    /// This node.
    Us,
    /// The peer.
    Peer,
}

impl Dialler {
    const fn label(self) -> &'static str {
        match self {
            Self::Us => "dialled",
            Self::Peer => "accepted",
        }
    }
}

/// A connection came to nothing. `reason` is one of a fixed set of words.
pub(crate) fn handshake_failed(dialler: Dialler, reason: &'static str) {
    counter!(HANDSHAKE_FAILURES, "side" => dialler.label(), "reason" => reason).increment(1);
}

/// A connection that is counted as up for as long as this lives.
pub(crate) struct Connected(Gauge);

impl Connected {
    pub(crate) fn new(dialler: Dialler, purpose: &'static str) -> Self {
        let gauge = gauge!(CONNECTIONS, "side" => dialler.label(), "purpose" => purpose);
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// What asked was refused before a handler saw it, by one of this crate's own rejections, whose codes are fixed.
pub(crate) fn refused(class: &'static str, rejection: &Rejection) {
    counter!(REFUSED, "class" => class, "reason" => rejection.code.clone()).increment(1);
}

/// Which way the content of a transfer flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the peer.
    Sent,
    /// From the peer.
    Received,
}

impl Direction {
    const fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// A transfer under way. Dropped before its end, it counts as given up.
pub(crate) struct TransferMetrics {
    direction: Direction,
    transfer: &'static str,
    outcome: &'static str,
    bytes: Counter,
}

impl TransferMetrics {
    /// `transfer` is the name of a type in this program, never what a peer says.
    /// `peer` is a [`CallMetrics::label`](super::CallMetrics::label).
    pub(crate) fn begin(direction: Direction, transfer: &'static str, peer: String) -> Self {
        Self {
            direction,
            transfer,
            outcome: "given-up",
            bytes: counter!(
                TRANSFER_BYTES,
                "peer" => peer,
                "direction" => direction.label(),
                "transfer" => transfer
            ),
        }
    }

    /// Counts the bytes of its content.
    pub(crate) fn bytes(&self) -> Counter {
        self.bytes.clone()
    }

    /// The transfer has ended. `outcome` is one of a fixed set of words.
    pub(crate) const fn ended(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for TransferMetrics {
    fn drop(&mut self) {
        counter!(
            TRANSFERS,
            "direction" => self.direction.label(),
            "transfer" => self.transfer,
            "outcome" => self.outcome
        )
        .increment(1);
    }
}
