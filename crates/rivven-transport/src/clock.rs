//! The one place that reads wall-clock time, since certificates name calendar dates; and far deadlines.

use std::time::Duration;

use quinn_proto::TimeSource;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use tokio::time::Instant;

/// Longest time that is waited for: what is further away never comes. Every clock can add this much to its
/// present.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `duration` from this moment, however long it is.
pub(crate) fn after(duration: Duration) -> Instant {
    later(Instant::now(), duration)
}

/// `duration` after a moment that has been, however long it is.
pub(crate) fn later(moment: Instant, duration: Duration) -> Instant {
    moment + duration.min(FAR)
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock;

impl WallClock {
    /// Time since the beginning of 1970, UTC.
    pub(crate) fn now() -> UnixTime {
        UnixTime::now()
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(Self::now())
    }
}

impl TimeSource for WallClock {
    fn now(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(Self::now().as_secs())
    }
}
