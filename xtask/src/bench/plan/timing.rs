//! A stop watch that stands still while others have the core, where what it takes is long enough for that.

use std::time::Duration;

use tokio::time::Instant;

use crate::bench::usage;

/// What takes less is timed on the wall: systems count the CPU time of a running thread in ticks of up to 10 ms.
const TICKS: Duration = Duration::from_millis(200);

/// The least that one of `passes` runs of `pass` has taken.
pub(super) fn least(passes: u32, mut pass: impl FnMut()) -> Duration {
    (0..passes).map(|_| once(&mut pass)).min().unwrap_or_default()
}

/// CPU time of one run, or the time on the wall if that is short or the system does not tell.
pub(super) fn once(pass: impl FnOnce()) -> Duration {
    let (wall, cpu) = (Instant::now(), usage::cpu_ns());
    pass();
    let wall = wall.elapsed();
    match (cpu, usage::cpu_ns()) {
        (Some(before), Some(after)) if wall >= TICKS => Duration::from_nanos(after.saturating_sub(before)),
        _ => wall,
    }
}

/// Milliseconds, for a report.
pub(super) fn millis(time: Duration) -> (f64, &'static str) {
    (time.as_secs_f64() * 1e3, "ms")
}
