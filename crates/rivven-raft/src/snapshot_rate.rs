//! How fast a node sends snapshots, to all peers together.

use std::{num::NonZeroU64, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

/// The lowest limit of [`RaftBuilder::max_snapshot_rate`](crate::RaftBuilder::max_snapshot_rate), in bytes per
/// second; a lower one counts as this one.
///
/// Below it the messages around the bytes would weigh more than the bytes.
pub const MIN_SNAPSHOT_RATE: NonZeroU64 = NonZeroU64::MIN.saturating_add((64 << 10) - 1);

/// A piece is what may be sent in this part of a second: at the lowest rate 1 KiB. Each of 640 followers then has its
/// turn within the 10 s for which a transfer may stand still.
const PIECES_PER_SECOND: u64 = 64;

/// What was not sent for so long may be sent later: what it takes to read a piece from the disk and to wake up for it
/// must not lower the rate.
const CREDIT: Duration = Duration::from_millis(100);

/// A token bucket, which fills at a rate and holds what flows in during [`CREDIT`]. It is empty at first.
///
/// In any span of time no more leaves it than the rate allows in that span and [`CREDIT`] together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    rate: NonZeroU64,
    /// What flowed in since then is there.
    since: Instant,
}

impl Bucket {
    const fn new(now: Instant, rate: NonZeroU64) -> Self {
        Self { rate, since: now }
    }

    /// When so many bytes will be there, for whoever has waited since `now`.
    fn due(&self, now: Instant, bytes: u64) -> Instant {
        let flowed_over = now.checked_sub(CREDIT);
        let since = flowed_over.map_or(self.since, |full| self.since.max(full));
        since + self.takes(bytes)
    }

    /// Takes the bytes that were [due](Self::due) then.
    const fn take(&mut self, due: Instant) {
        self.since = due;
    }

    /// How long so many bytes take to flow in.
    fn takes(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(self.rate.get().into());
        // A piece takes less than a second at any rate.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The limit for all snapshots that a node sends, whoever they are for.
#[derive(Debug)]
pub(crate) struct SnapshotRate {
    /// None without a limit. Whoever waits for the bucket to fill holds it, and the others queue in their order.
    bucket: Option<Mutex<Bucket>>,
    piece_bytes: usize,
}

impl SnapshotRate {
    /// At most so many bytes per second, if there is a limit.
    pub(crate) fn new(limit: Option<NonZeroU64>) -> Self {
        let limit = limit.map(|rate| rate.max(MIN_SNAPSHOT_RATE));
        let piece = limit.map_or(u64::MAX, |rate| rate.get() / PIECES_PER_SECOND);
        Self {
            bucket: limit.map(|rate| Mutex::new(Bucket::new(Instant::now(), rate))),
            piece_bytes: usize::try_from(piece).unwrap_or(usize::MAX),
        }
    }

    /// The most bytes to send at a time, of pieces that are otherwise of `most` bytes.
    pub(crate) fn piece_bytes(&self, most: usize) -> usize {
        most.min(self.piece_bytes)
    }

    /// Waits until so many bytes may be sent.
    ///
    /// Cancel safety: of whoever stops waiting nothing is taken, and it loses its turn.
    pub(crate) async fn admit(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else { return };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut bucket = bucket.lock().await;
        let due = bucket.due(Instant::now(), bytes);
        sleep_until(due).await;
        bucket.take(due);
    }
}

#[cfg(test)]
mod tests;
