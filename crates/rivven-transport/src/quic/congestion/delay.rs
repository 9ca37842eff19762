//! How many bytes may be on their way without making others wait: a pure controller.
//!
//! After LEDBAT (RFC 6817) and LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus). The time from the sending of a packet
//! to its acknowledgement is that of the path plus that of the queues before it. The shortest one seen is the
//! path's; while the rest is below a target the window grows, above it shrinks. A queue is what delays everybody
//! else, in a switch, in a socket or before a processor.
//!
//! Two deviations. The window never falls below [`FLOOR_BYTES`] for a delay's sake, because what others wait for
//! so little is of no account, while the delays of a busy machine are no queue of ours and would shrink it to
//! nothing; losses, which Cubic counts beside this, know no such floor. And the path's delay is looked for in
//! spans of seconds in place of minutes, for a path between two nodes changes when one of them moves.

use std::time::{Duration, Instant};

/// Delay that the connection may add on a short path.
pub(super) const MIN_TARGET: Duration = Duration::from_millis(2);

/// On a longer path the delay that it may add is this part of the path's own, which varies by as much without
/// anybody's fault.
const TARGET_PART: u32 = 4;

/// Smallest window for a delay's sake. A link of 1 Gb/s carries so many bytes in a millisecond.
pub(super) const FLOOR_BYTES: u64 = 128 << 10;

/// After one to two spans of this length the shortest delay is forgotten.
///
/// At the beginning of each the window falls to its floor until what was queued has left: the path's own delay
/// would never be seen again under a load without a pause (LEDBAT++, "periodic slowdown").
const HISTORY: Duration = Duration::from_secs(10);

/// With less than half of the queue that it may cause, the window grows by this part per round, so that it finds
/// what a long path carries in a second and not in a minute; from there on by a packet.
const GROWTH_PART: u64 = 16;

/// Rounds that a slowdown lasts: one to empty the queue, one to see the path without.
const SLOWDOWN_ROUNDS: u32 = 2;

/// Largest window: more than any path needs that this transport is made for, 1 GB/s over 250 ms.
const CEILING_BYTES: u64 = 256 << 20;

/// The window, and what it is made of.
#[derive(Clone, Debug)]
pub(super) struct DelayBound {
    size: u64,
    mtu: u64,
    /// Below it the window doubles with each round, as in slow start.
    threshold: u64,
    path: Shortest,
    round: Round,
    /// Rounds of a slowdown that are left.
    slow: u32,
}

/// What was acknowledged since the window was last changed; a round ends with a window's worth.
#[derive(Clone, Copy, Debug)]
struct Round {
    acked: u64,
    /// Shortest delay: later ones of the same round may have waited for the peer to acknowledge.
    delay: Duration,
}

impl Round {
    /// One that has just begun.
    const NEW: Self = Self {
        acked: 0,
        delay: Duration::MAX,
    };
}

impl DelayBound {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            size: FLOOR_BYTES,
            mtu: mtu.into(),
            threshold: u64::MAX,
            path: Shortest::new(now),
            round: Round::NEW,
            slow: 0,
        }
    }

    /// Takes note of an acknowledged packet, `delay` after it was sent.
    pub(super) fn on_ack(&mut self, delay: Duration, bytes: u64) {
        self.round.acked += bytes;
        self.round.delay = self.round.delay.min(delay);
    }

    /// Ends a batch of acknowledgements. `used` says that the window was what held the sender back; one that is
    /// not used does not grow.
    pub(super) fn on_end_acks(&mut self, now: Instant, used: bool) {
        if self.round.acked < self.size {
            return;
        }
        let Round { delay, .. } = std::mem::replace(&mut self.round, Round::NEW);
        if self.path.update(now, delay) && self.size > FLOOR_BYTES {
            self.threshold = self.size;
            self.size = FLOOR_BYTES;
            self.slow = SLOWDOWN_ROUNDS;
            return;
        }
        if self.slow > 0 {
            self.slow -= 1;
            return;
        }
        let path = self.path.shortest();
        self.adjust(delay.saturating_sub(path), target(path), used);
    }

    /// LEDBAT++, "multiplicative decrease": by the part by which the delay exceeds the target, at most by half.
    fn adjust(&mut self, queued: Duration, target: Duration, used: bool) {
        // Slow start ends where the queue is three quarters of what it may be.
        if queued >= target * 3 / 4 {
            self.threshold = self.threshold.min(self.size);
        }
        if queued > target {
            let over = nanos(queued - target).min(nanos(target) / 2);
            self.size -= self.size.saturating_mul(over) / nanos(target).max(1);
        } else if used && self.size < self.threshold {
            self.size = self.size.saturating_mul(2).min(self.threshold);
        } else if used && queued < target / 2 {
            self.size += self.mtu.max(self.size / GROWTH_PART);
        } else if used {
            self.size += self.mtu;
        }
        self.size = self.size.clamp(FLOOR_BYTES, CEILING_BYTES);
    }

    /// Takes note that Cubic has found `window` to be enough, for a packet was lost.
    pub(super) fn on_loss(&mut self, window: u64) {
        self.size = self.size.min(window).max(FLOOR_BYTES);
        self.threshold = self.size;
    }

    pub(super) fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// Bytes that may be on their way.
    pub(super) const fn window(&self) -> u64 {
        self.size
    }
}

/// Delay beyond that of the path that the connection may cause.
pub(super) fn target(path: Duration) -> Duration {
    (path / TARGET_PART).max(MIN_TARGET)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The shortest delay of the current and of the previous span of [`HISTORY`].
#[derive(Clone, Debug)]
struct Shortest {
    began: Instant,
    current: Duration,
    previous: Duration,
}

impl Shortest {
    const fn new(now: Instant) -> Self {
        Self {
            began: now,
            current: Duration::MAX,
            previous: Duration::MAX,
        }
    }

    /// Takes in `delay`. Whether a span has begun with it.
    fn update(&mut self, now: Instant, delay: Duration) -> bool {
        let begins = now.saturating_duration_since(self.began) >= HISTORY;
        if begins {
            self.began = now;
            self.previous = self.current;
            self.current = delay;
        }
        self.current = self.current.min(delay);
        begins
    }

    fn shortest(&self) -> Duration {
        self.current.min(self.previous)
    }
}

#[cfg(test)]
mod tests;
