//! Stop watches.

use std::time::Duration;

use tokio::time::Instant;

use super::keys::COUNT;

/// Nanoseconds per key of the fastest of `passes` runs of `pass`, each over all keys.
pub(super) fn per_key(passes: u32, mut pass: impl FnMut()) -> f64 {
    let fastest = (0..passes).map(|_| time(&mut pass)).min().unwrap_or_default();
    fastest.as_secs_f64() * 1e9 / COUNT as f64
}

/// Milliseconds of the fastest of `passes` runs of `pass`.
pub(super) fn millis(passes: u32, mut pass: impl FnMut()) -> f64 {
    let fastest = (0..passes).map(|_| time(&mut pass)).min().unwrap_or_default();
    fastest.as_secs_f64() * 1e3
}

fn time(pass: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    pass();
    start.elapsed()
}
