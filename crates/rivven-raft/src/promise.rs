//! What a voter has promised a leader: to help elect nobody else while a lease runs. Lease reads rely on it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock::Pace;

/// Tenths of a lease that a leader uses; the rest is for clocks that do not pass equally.
const SHARE: u32 = 9;

/// The promises of a node with lease reads on. A core that has just started knows of none that were made before, so
/// it keeps the longest there can be.
#[derive(Debug)]
pub(crate) struct Promise {
    lease: Duration,
    pace: Pace,
    kept_until: Mutex<Instant>,
}

impl Promise {
    /// Leases of this length, counted by a clock of this pace.
    pub(crate) fn new(lease: Duration, pace: Pace) -> Self {
        Self {
            lease,
            pace,
            kept_until: Mutex::new(Instant::now() + pace.takes(lease)),
        }
    }

    /// How old a quorum's word may be for the leader to answer by it.
    pub(crate) fn usable(&self) -> Duration {
        self.lease * SHARE / 10
    }

    /// How long a promise truly lasts.
    pub(crate) fn lasts(&self) -> Duration {
        self.pace.takes(self.lease)
    }

    /// Another core starts, which knows nothing of what the one before has promised.
    pub(crate) fn forgotten(&self) {
        let until = Instant::now() + self.lasts();
        *self.kept_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Whether a promise from before the last start may still run.
    pub(crate) fn may_bind(&self) -> bool {
        Instant::now() < *self.kept_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_promise_binds_for_one_lease_after_each_start() {
        let promise = Promise::new(Duration::from_millis(100), Pace::TRUE);
        assert_eq!(promise.usable(), Duration::from_millis(90));
        assert!(promise.may_bind());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!promise.may_bind());
        promise.forgotten();
        tokio::time::sleep(Duration::from_millis(99)).await;
        assert!(promise.may_bind());
    }
}
