//! The clock of a node as its consensus core sees it: tokio's, or in simulation one that passes faster or slower.
//!
//! An instant is one of tokio's, so that nodes of one process and tasks beside the core can be compared; what a clock
//! of another pace changes is how long the time between two of them is.

use std::{
    ops::{Add, AddAssign, Sub, SubAssign},
    time::Duration,
};

use tokio::time::Instant;

use crate::runtime::pace_here;

/// How fast the clock of a node passes, in hundredths of true time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace(u32);

/// The slowest and the fastest that a clock can be asked for.
const PACES: (u32, u32) = (1, 10_000);

impl Pace {
    /// That of every clock outside of simulation.
    pub(crate) const TRUE: Self = Self(100);

    /// A clock that counts so many seconds in a hundred, within bounds that nobody needs to leave.
    pub(crate) const fn percent(percent: u32) -> Self {
        let (slowest, fastest) = PACES;
        if percent < slowest {
            Self(slowest)
        } else if percent > fastest {
            Self(fastest)
        } else {
            Self(percent)
        }
    }

    /// How long it truly takes until this clock has counted `counted`.
    pub(crate) fn takes(self, counted: Duration) -> Duration {
        if self == Self::TRUE {
            return counted;
        }
        scaled(counted, 100, self.0)
    }

    /// What this clock counts while `true_time` passes.
    fn counts(self, true_time: Duration) -> Duration {
        if self == Self::TRUE {
            return true_time;
        }
        scaled(true_time, self.0, 100)
    }
}

fn scaled(duration: Duration, by: u32, of: u32) -> Duration {
    let nanos = duration.as_nanos().saturating_mul(by.into()) / u128::from(of.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A moment, whose distance to others is counted by the clock of the node that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeInstant(Instant);

impl NodeInstant {
    /// The same moment, for tokio's timers.
    pub(crate) const fn truly(self) -> Instant {
        self.0
    }
}

impl openraft_rt::Instant for NodeInstant {
    fn now() -> Self {
        Self(Instant::now())
    }
}

impl Add<Duration> for NodeInstant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0 + pace_here().takes(later))
    }
}

impl AddAssign<Duration> for NodeInstant {
    fn add_assign(&mut self, later: Duration) {
        *self = *self + later;
    }
}

impl Sub<Duration> for NodeInstant {
    type Output = Self;

    fn sub(self, earlier: Duration) -> Self {
        Self(self.0 - pace_here().takes(earlier))
    }
}

impl SubAssign<Duration> for NodeInstant {
    fn sub_assign(&mut self, earlier: Duration) {
        *self = *self - earlier;
    }
}

impl Sub<Self> for NodeInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        pace_here().counts(self.0 - earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::{AsyncRuntime, Instant as _};
    use rivven_transport::TaskGroup;

    use super::*;
    use crate::runtime::{NodeRuntime, NodeScope};

    #[test]
    fn a_clock_takes_what_it_counts_and_counts_what_it_takes() {
        let second = Duration::from_secs(1);
        assert_eq!(Pace::TRUE.takes(second), second);
        assert_eq!(Pace::percent(50).takes(second), Duration::from_secs(2));
        assert_eq!(Pace::percent(125).takes(second), Duration::from_millis(800));
        assert_eq!(Pace::percent(0), Pace::percent(1));
        for percent in [1, 90, 109, 100, 10_000] {
            let pace = Pace::percent(percent);
            let again = pace.counts(pace.takes(second));
            assert!(
                again.abs_diff(second) < Duration::from_micros(1),
                "{percent}: {again:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_clock_lets_everything_of_its_node_take_longer() {
        let scope = NodeScope::new(TaskGroup::current(), 1).with_pace(Pace::percent(50));
        let truly = Instant::now();
        let nested = async {
            let begun = NodeInstant::now();
            NodeRuntime::sleep(Duration::from_millis(100)).await;
            NodeRuntime::sleep_until(NodeInstant::now() + Duration::from_millis(50)).await;
            let waits = std::future::pending::<()>();
            assert!(
                NodeRuntime::timeout(Duration::from_millis(50), waits)
                    .await
                    .is_err()
            );
            (begun, begun.elapsed())
        };
        let (begun, counted) = scope
            .run(async { NodeRuntime::spawn(nested).await.unwrap() })
            .await;
        assert_eq!(counted, Duration::from_millis(200));
        assert_eq!(truly.elapsed(), Duration::from_millis(400));
        // Beside the node true time passes.
        assert_eq!(begun.elapsed(), Duration::from_millis(400));
    }
}
