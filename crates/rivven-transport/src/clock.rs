//! The one place that reads wall-clock time: certificates name calendar dates.

use std::time::Duration;

use quinn_proto::TimeSource;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

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
