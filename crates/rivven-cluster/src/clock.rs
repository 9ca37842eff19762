//! The one place of this crate that reads wall-clock time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the beginning of 1970, UTC.
///
/// Only differences are used, and only to hold something back for a while: a clock that jumps makes a hold
/// longer or shorter and nothing else.
pub(crate) fn unix_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the seam itself")]
    let now = SystemTime::now();
    let elapsed = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
