//! A stop watch that stands still while others have the core.

use std::time::Duration;

use tokio::time::Instant;

use crate::bench::usage;

/// The least that one of `passes` runs of `pass` has taken.
pub(super) fn least(passes: u32, mut pass: impl FnMut()) -> Duration {
    (0..passes).map(|_| once(&mut pass)).min().unwrap_or_default()
}

/// CPU time of one run, or the time on the wall where the system does not tell.
pub(super) fn once(pass: impl FnOnce()) -> Duration {
    let (wall, cpu) = (Instant::now(), usage::cpu_ns());
    pass();
    match (cpu, usage::cpu_ns()) {
        (Some(before), Some(after)) => Duration::from_nanos(after.saturating_sub(before)),
        _ => wall.elapsed(),
    }
}

/// Milliseconds, for a report.
pub(super) fn millis(time: Duration) -> (f64, &'static str) {
    (time.as_secs_f64() * 1e3, "ms")
}
