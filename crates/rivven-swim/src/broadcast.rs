//! Messages of users to every member: told like news, a bounded number of times, with less right than news.

use alloc::{
    boxed::Box,
    collections::{BTreeSet, VecDeque},
};
use core::fmt;

use rivven_types::{BootEpoch, NodeId};
use serde::{Deserialize, Serialize};

/// Longest message.
pub const MAX_BROADCAST_LEN: usize = 512;

/// Most messages that are being told at once.
pub const MAX_BROADCASTS: usize = 64;

/// Messages remembered, so that each is delivered once.
const MAX_SEEN: usize = 1_024;

/// Names a message once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct BroadcastId {
    pub(crate) origin: NodeId,
    pub(crate) boot_epoch: BootEpoch,
    pub(crate) counter: u32,
}

/// Why a message was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The message is longer than [`MAX_BROADCAST_LEN`]. Send a reference to it, or split it.
    TooLong(usize),
    /// [`MAX_BROADCASTS`] messages are being told. Try again after a few gossip rounds.
    Busy,
}

impl BroadcastError {
    /// Stable name of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "gossip-broadcast-too-long",
            Self::Busy => "gossip-broadcast-busy",
        }
    }
}

impl fmt::Display for BroadcastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len) => write!(f, "the message has {len} bytes; at most {MAX_BROADCAST_LEN} fit"),
            Self::Busy => write!(
                f,
                "{MAX_BROADCASTS} messages are being told; try again in a second"
            ),
        }
    }
}

impl core::error::Error for BroadcastError {}

#[derive(Clone, Debug)]
struct Message {
    id: BroadcastId,
    told: u32,
    body: Box<[u8]>,
}

/// The messages being told, and those that were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broadcasts {
    telling: VecDeque<Message>,
    seen: BTreeSet<BroadcastId>,
    order: VecDeque<BroadcastId>,
}

impl Broadcasts {
    /// Whether one more may be begun here.
    pub(crate) fn has_room(&self) -> bool {
        self.telling.len() < MAX_BROADCASTS
    }

    /// Takes in a message; `true` if it is new. Without room the one told most often gives way.
    pub(crate) fn add(&mut self, id: BroadcastId, body: &[u8]) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        if !self.has_room() {
            let most_told = self
                .telling
                .iter()
                .enumerate()
                .max_by_key(|(_, message)| message.told);
            if let Some(at) = most_told.map(|(at, _)| at) {
                self.telling.remove(at);
            }
        }
        let body = body.into();
        self.telling.push_front(Message { id, told: 0, body });
        true
    }

    /// Offers each message, the newest first; those that were taken count as told once more.
    pub(crate) fn tell(&mut self, limit: u32, mut take: impl FnMut(BroadcastId, &[u8]) -> bool) {
        for message in &mut self.telling {
            if take(message.id, &message.body) {
                message.told += 1;
            }
        }
        self.telling.retain(|message| message.told < limit);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.telling.is_empty()
    }

    /// Whether everything is within its limit.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_bounded(&self) -> bool {
        self.telling.len() <= MAX_BROADCASTS && self.seen.len() <= MAX_SEEN && self.order.len() <= MAX_SEEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(counter: u32) -> BroadcastId {
        BroadcastId {
            origin: 1,
            boot_epoch: BootEpoch(1),
            counter,
        }
    }

    #[test]
    fn each_message_is_new_once_and_told_a_limited_number_of_times() {
        let mut broadcasts = Broadcasts::default();
        assert!(broadcasts.add(id(1), b"one") && !broadcasts.add(id(1), b"one"));
        broadcasts.tell(2, |_, body| body == b"one");
        assert!(!broadcasts.is_empty());
        broadcasts.tell(2, |_, _| true);
        assert!(broadcasts.is_empty() && !broadcasts.add(id(1), b"one"));
    }

    #[test]
    fn without_room_the_most_told_gives_way_and_memory_stays_bounded() {
        let mut broadcasts = Broadcasts::default();
        for counter in 0..5_000 {
            broadcasts.add(id(counter), b"x");
            broadcasts.tell(1_000, |_, _| true);
            assert!(broadcasts.is_bounded());
        }
        let mut kept = 0;
        broadcasts.tell(1_000, |id, _| {
            kept += 1;
            assert!(id.counter >= 4_900);
            false
        });
        assert_eq!(kept, MAX_BROADCASTS);
    }
}
