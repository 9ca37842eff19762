//! How much of a transfer may be on its way: a pure controller that keeps queues short.
//!
//! After LEDBAT (RFC 6817): what a chunk needs from its sending until its receiver has taken it is the time
//! of the path plus that of the queue before it. The shortest time seen is the path's; while the rest is
//! below a target the window grows, above it shrinks, in proportion. A queue is what delays everybody else,
//! on the network as well as before a processor, so a transfer that keeps its own short leaves room for the
//! others. Where RFC 6817 counts one-way delays in minutes of history, this counts round trips in spans of
//! [`HISTORY`], because a transfer rarely lasts for minutes.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{MAX_CHUNK_BYTES, MAX_WINDOW_BYTES};

/// Delay that a transfer may add on a short path. A call between two nodes of one rack takes about as long.
pub(super) const MIN_TARGET: Duration = Duration::from_micros(250);

/// On a longer path the delay that a transfer may add is this part of the path's own, which varies by as much
/// without anybody's fault.
const TARGET_PART: u32 = 4;

/// Smallest window: one chunk on its way while the next one is made ready.
pub(super) const MIN_WINDOW_BYTES: u64 = 2 * MAX_CHUNK_BYTES as u64;

/// After one to two spans of this length the shortest delay is forgotten, since paths change.
const HISTORY: Duration = Duration::from_secs(10);

/// The receiver has taken bytes that were not sent, or returned some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer claims to hold bytes up to {claimed}, which does not lie between {held} and {sent}")]
pub(super) struct FalseClaim {
    claimed: u64,
    held: u64,
    sent: u64,
}

/// What is on its way, and how much may be.
#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    /// Offset of the next byte to be sent. `held <= sent <= held + MAX_WINDOW_BYTES`.
    sent: u64,
    /// Offset up to which the receiver has taken everything.
    held: u64,
    /// Ends of the chunks on their way, and when each was sent.
    flight: VecDeque<(u64, Instant)>,
    /// No queue has been seen yet: the window doubles per round trip, as in slow start.
    starting: bool,
    path: Shortest,
}

impl Window {
    /// A transfer that begins at `offset`.
    pub(super) const fn new(offset: u64) -> Self {
        Self {
            size: MIN_WINDOW_BYTES,
            sent: offset,
            held: offset,
            flight: VecDeque::new(),
            starting: true,
            path: Shortest::new(),
        }
    }

    /// Takes note that the next `len` bytes were sent.
    pub(super) fn on_sent(&mut self, now: Instant, len: u64) {
        self.sent = self.sent.saturating_add(len);
        self.flight.push_back((self.sent, now));
    }

    /// Takes note that the receiver has everything up to `offset`.
    pub(super) fn on_held(&mut self, now: Instant, offset: u64) -> Result<(), FalseClaim> {
        if offset < self.held || offset > self.sent {
            return Err(FalseClaim {
                claimed: offset,
                held: self.held,
                sent: self.sent,
            });
        }
        let taken = offset - self.held;
        // Whether the window was what held the sender back. One that is not used must not grow.
        let full = self.sent - self.held + MAX_CHUNK_BYTES as u64 > self.size;
        self.held = offset;
        let mut sample = None;
        while let Some(&(end, at)) = self.flight.front()
            && end <= offset
        {
            self.flight.pop_front();
            sample = Some(now.saturating_duration_since(at));
        }
        if let Some(delay) = sample {
            let path = self.path.update(now, delay);
            self.adjust(delay.saturating_sub(path), target(path), taken, full);
        }
        Ok(())
    }

    /// Bytes that may be sent at this moment.
    pub(super) const fn room(&self) -> u64 {
        // The offset to begin at is the peer's word, and may be the last there is.
        self.size.saturating_sub(self.sent.saturating_sub(self.held))
    }

    /// Offset of the next byte to be sent.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Offset up to which the receiver has taken everything.
    pub(super) const fn held(&self) -> u64 {
        self.held
    }

    /// RFC 6817, section 2.4.2, with a gain of one chunk per window.
    fn adjust(&mut self, queued: Duration, target: Duration, taken: u64, full: bool) {
        if queued >= target / 2 {
            self.starting = false;
        }
        let chunk = MAX_CHUNK_BYTES as u64;
        let target = nanos(target);
        let off = nanos(queued).min(2 * target);
        let gain = if self.starting {
            taken
        } else {
            chunk.saturating_mul(taken) / self.size.max(1)
        };
        self.size = if off <= target {
            let grown = if full {
                gain.saturating_mul(target - off) / target
            } else {
                0
            };
            self.size.saturating_add(grown)
        } else {
            self.size
                .saturating_sub(gain.saturating_mul(off - target) / target)
        };
        self.size = self.size.clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES);
    }
}

/// Delay beyond that of the path that a transfer may cause.
pub(super) fn target(path: Duration) -> Duration {
    (path / TARGET_PART).max(MIN_TARGET)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The shortest delay of the current and of the previous span of [`HISTORY`].
#[derive(Debug)]
struct Shortest {
    began: Option<Instant>,
    current: Duration,
    previous: Duration,
}

impl Shortest {
    const fn new() -> Self {
        Self {
            began: None,
            current: Duration::MAX,
            previous: Duration::MAX,
        }
    }

    fn update(&mut self, now: Instant, delay: Duration) -> Duration {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= HISTORY {
            self.began = Some(now);
            self.previous = self.current;
            self.current = delay;
        }
        self.current = self.current.min(delay);
        self.current.min(self.previous)
    }
}

#[cfg(test)]
mod tests;
