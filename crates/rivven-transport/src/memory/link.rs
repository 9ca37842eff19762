//! One direction between two nodes: its character, and what becomes of each frame on it.

use std::time::Duration;

use rivven_types::NodeId;
use tokio::time::Instant;

use super::limits::FRAME_OVERHEAD;
use crate::{Class, seeded::Seeded};

/// Character of the link from one node to another.
///
/// Waits are tokio's, so they end on whole milliseconds. Probabilities lie between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkProfile {
    /// Time every frame takes.
    pub delay: Duration,
    /// Additional time, drawn evenly between zero and this for each frame.
    pub jitter: Duration,
    /// Probability that a frame vanishes. A lost request or response leaves its caller waiting until the
    /// deadline; a lost cancellation lets the handler run on; a frame of a transfer is sent again.
    pub loss: f64,
    /// Probability that a request arrives twice, and its handler so runs twice. The real network never
    /// does this by itself; a caller that retries does. The first response counts.
    pub duplicate: f64,
    /// Probability that a frame leaves its place in the order of its class, and so may arrive after
    /// later ones. It takes up to one more `delay + jitter`. All others arrive in the order sent.
    pub reorder: f64,
    /// Bytes per second; `None` is unlimited. Frames queue for it in the order sent.
    pub bandwidth: Option<u64>,
}

/// What a [`MemoryNetwork`](super::MemoryNetwork) has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Frames that were sent: requests, responses, cancellations, and those of transfers.
    pub sent: u64,
    /// Frames lost by chance.
    pub lost: u64,
    /// Frames lost to a cut, at their start or on their way.
    pub cut: u64,
    /// Frames lost because 65,536 others were under way to the same node.
    pub overflowed: u64,
    /// Requests that arrived twice.
    pub duplicated: u64,
    /// Frames that left the order of their class.
    pub reordered: u64,
    /// A hash over every frame: when it was sent, by whom to whom, how large, and what became of it.
    /// Under a paused clock equal for equal seeds and equal callers.
    pub trace: u64,
}

/// What a frame is, as far as its link cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    Cancel,
    /// A frame of a transfer.
    Stream,
}

/// A frame about to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) class: Class,
    pub(super) method: u16,
    pub(super) len: usize,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It never arrives.
    Lost,
    /// It arrives, perhaps twice.
    Arrives { at: Instant, again: Option<Instant> },
}

/// State of one direction between two nodes.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) profile: Option<LinkProfile>,
    pub(super) cut: bool,
    chance: Seeded,
    /// When the last byte of everything sent so far has left.
    busy_until: Option<Instant>,
    /// Latest arrival of each class, which later frames do not overtake.
    latest: [Option<Instant>; 4],
}

impl Link {
    pub(super) fn new(seed: u64, from: NodeId, to: NodeId) -> Self {
        Self {
            profile: None,
            cut: false,
            chance: Seeded::of_link(seed, from, to),
            busy_until: None,
            latest: [None; 4],
        }
    }

    /// Decides the fate of `frame`, sent at `now`, and counts it.
    pub(super) fn send(
        &mut self,
        default: &LinkProfile,
        frame: Frame,
        now: Instant,
        stats: &mut MemoryStats,
    ) -> Fate {
        let profile = self.profile.unwrap_or(*default);
        if self.cut {
            stats.cut += 1;
            return Fate::Lost;
        }
        // One draw for each question, asked or not: a profile that changes one probability then leaves
        // the answers to all other questions as they were.
        let lost = self.chance.happens(profile.loss);
        let again = self.chance.happens(profile.duplicate) && frame.kind == Kind::Request;
        let reordered = self.chance.happens(profile.reorder);
        let jitter = self.chance.up_to(profile.jitter);
        let late = self.chance.up_to(profile.delay + profile.jitter);
        let left = self.transmit(&profile, frame, now);
        if lost {
            stats.lost += 1;
            return Fate::Lost;
        }
        let mut at = left + profile.delay + jitter;
        if reordered {
            stats.reordered += 1;
            at += late;
        } else if let Some(latest) = self.latest.get_mut(frame.class.index()) {
            at = latest.map_or(at, |latest| latest.max(at));
            *latest = Some(at);
        }
        stats.duplicated += u64::from(again);
        Fate::Arrives {
            at,
            again: again.then(|| at + late),
        }
    }

    /// When the last byte of the frame has left, given what was sent before it.
    fn transmit(&mut self, profile: &LinkProfile, frame: Frame, now: Instant) -> Instant {
        let Some(bandwidth) = profile.bandwidth else {
            return now;
        };
        let bytes = u64::try_from(frame.len.saturating_add(FRAME_OVERHEAD)).unwrap_or(u64::MAX);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bandwidth.max(1));
        let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let left = self.busy_until.map_or(now, |busy| busy.max(now)) + took;
        self.busy_until = Some(left);
        left
    }
}
