//! A connection that has passed both hellos, and how it is left without losing a call.

use std::sync::Arc;

use quinn::{Connection, VarInt};
use tokio::sync::watch;

use super::{
    hello::close,
    lane::{Lane, Lanes},
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
    pub(super) claim: Claim,
    /// What this node was when the connection was made, or has been since a little before.
    own: NodeIdentity,
    left: watch::Sender<Option<Leave>>,
}

impl Line {
    pub(super) fn new(connection: Connection, lanes: Lanes, claim: Claim, own: NodeIdentity) -> Arc<Self> {
        Arc::new(Self {
            connection,
            lanes,
            claim,
            own,
            left: watch::Sender::new(None),
        })
    }

    pub(super) fn lane(&self, class: Class) -> Option<&Arc<Lane>> {
        self.lanes
            .iter()
            .find(|(of, _)| *of == class)
            .map(|(_, lane)| lane)
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether it was made with `identity`, and not with an earlier certificate or other authorities.
    pub(super) fn is_of(&self, identity: &NodeIdentity) -> bool {
        self.own.is(identity)
    }

    /// Begins no further call here and tells the peer so. The connection is closed once the calls of both
    /// ends are answered. The first reason counts.
    pub(super) fn leave(&self, why: Leave) {
        self.left.send_if_modified(|left| {
            let first = left.is_none();
            left.get_or_insert(why);
            first
        });
        for (_, lane) in &self.lanes {
            lane.retire();
        }
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.borrow().is_some()
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

    /// Waits until a line that was left has ended the last call of this end. Cancel safe.
    pub(super) async fn drained(&self) {
        for (_, lane) in &self.lanes {
            lane.drained().await;
        }
    }

    /// Ends the calls that are in flight; the first cause counts.
    pub(super) fn fail(&self, cause: &str) {
        for (_, lane) in &self.lanes {
            lane.close(cause);
        }
    }

    /// Closes the connection at once: the other end is no more.
    pub(super) fn supersede(&self) {
        self.connection.close(
            VarInt::from_u32(close::SUPERSEDED),
            b"superseded by a newer connection",
        );
    }
}
