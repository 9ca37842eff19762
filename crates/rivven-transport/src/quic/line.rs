//! A connection that has passed both hellos, and how it is left without losing a call.

use std::sync::Arc;

use quinn::{Connection, VarInt};
use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    hello::close,
    lane::{Lane, Lanes},
    peer::Tie,
    rank::Claim,
};
use crate::{Class, identity::NodeIdentity};

/// Why a node sends no further call over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Another connection carries them.
    Replaced,
    /// The node shuts down.
    Shutdown,
}

/// One end of a connection that has passed both hellos.
pub(super) struct Line {
    pub(super) connection: Connection,
    /// For the calls of this node; none where the peer is not one to call.
    pub(super) lanes: Lanes,
    claim: Claim,
    /// What this node was when the connection was made, or has been since a little before.
    own: NodeIdentity,
    left: watch::Sender<Option<Leave>>,
    /// Transfers that this node sends; closed when the line is left.
    transfers: TaskTracker,
}

impl Line {
    pub(super) fn new(connection: Connection, lanes: Lanes, claim: Claim, own: NodeIdentity) -> Arc<Self> {
        Arc::new(Self {
            connection,
            lanes,
            claim,
            own,
            left: watch::Sender::new(None),
            transfers: TaskTracker::new(),
        })
    }

    pub(super) fn lane(&self, class: Class) -> Option<&Arc<Lane>> {
        self.lanes
            .iter()
            .find(|(of, _)| *of == class)
            .map(|(_, lane)| lane)
    }

    /// Waits until the line is left. Cancel safe.
    pub(super) async fn left(&self) -> Leave {
        let mut left = self.left.subscribe();
        loop {
            if let Some(why) = *left.borrow_and_update() {
                return why;
            }
            // The sender is part of this line, so this only waits.
            let _ = left.changed().await;
        }
    }

    /// Tells, also after the end of the line, whether another connection was to carry its calls.
    pub(super) fn replaced(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let left = self.left.subscribe();
        move || *left.borrow() == Some(Leave::Replaced)
    }

    /// Begins a transfer of this end, which lasts as long as what is returned. None begins on a line that was
    /// left.
    pub(super) fn begin_transfer(&self) -> Option<TaskTrackerToken> {
        // In one order with `leave` and `drained`: either this sees the line left, or they see the transfer.
        let transfer = self.transfers.token();
        (!self.has_left()).then_some(transfer)
    }

    /// Waits until a line that was left has ended the last call and the last transfer of this end. Cancel safe.
    pub(super) async fn drained(&self) {
        for (_, lane) in &self.lanes {
            lane.drained().await;
        }
        self.transfers.wait().await;
    }

    /// Calls begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.lanes.iter().map(|(_, lane)| lane.begun()).sum()
    }

    /// Whether a call or a transfer of this end waits for the peer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.transfers.is_empty() || self.lanes.iter().any(|(_, lane)| lane.has_pending())
    }

    /// Ends the calls that are in flight; the first cause counts.
    pub(super) fn fail(&self, cause: &str) {
        for (_, lane) in &self.lanes {
            lane.close(cause);
        }
    }
}

impl Tie for Line {
    type Own = NodeIdentity;

    fn claim(&self) -> &Claim {
        &self.claim
    }

    fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    fn is_of(&self, own: &NodeIdentity) -> bool {
        self.own.is(own)
    }

    fn has_left(&self) -> bool {
        self.left.borrow().is_some()
    }

    /// The connection is closed once the calls and transfers of both ends have ended.
    fn leave(&self, why: Leave) {
        self.left.send_if_modified(|left| {
            let first = left.is_none();
            left.get_or_insert(why);
            first
        });
        for (_, lane) in &self.lanes {
            lane.retire();
        }
        self.transfers.close();
    }

    fn supersede(&self) {
        self.connection.close(
            VarInt::from_u32(close::SUPERSEDED),
            b"superseded by a newer connection",
        );
    }
}
