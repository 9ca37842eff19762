//! One timer for the deadlines of many.

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Calls for a look at a table of deadlines when the earliest one has come.
#[derive(Debug, Default)]
pub(super) struct Alarm(Notify);

/// When to look at a table next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// At this moment, unless the alarm rings before.
    At(Instant),
    /// When the alarm rings.
    WhenCalled,
    /// The table is closed.
    Never,
}

impl From<Option<Instant>> for Look {
    fn from(next: Option<Instant>) -> Self {
        next.map_or(Self::WhenCalled, Self::At)
    }
}

impl Alarm {
    /// Has the keeper look at once: the earliest deadline has changed, or the table was closed. Remembered if
    /// it is busy.
    pub(super) fn ring(&self) {
        self.0.notify_one();
    }

    /// Calls `look` whenever its time has come, until the table is closed.
    ///
    /// The timer stands where the last look has set it, so deadlines that are met in time do not touch it.
    pub(super) async fn keep(&self, mut look: impl FnMut(Instant) -> Look) {
        loop {
            let called = self.0.notified();
            match look(Instant::now()) {
                // That it was cut short and that it came to its end mean the same.
                Look::At(next) => drop(timeout_at(next, called).await),
                Look::WhenCalled => called.await,
                Look::Never => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, pin::pin, time::Duration};

    use futures_util::poll;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_table_is_looked_at_when_its_time_has_come_and_when_called() {
        let alarm = Alarm::default();
        let (start, looks) = (Instant::now(), RefCell::new(Vec::new()));
        let after = |ms| Look::At(start + Duration::from_millis(ms));
        let mut next = [after(50), Look::WhenCalled, after(70), Look::Never].into_iter();
        let keeping = alarm.keep(|now| {
            looks.borrow_mut().push((now - start).as_millis());
            next.next().unwrap()
        });
        let mut keeping = pin!(keeping);
        assert!(poll!(keeping.as_mut()).is_pending());
        advance(Duration::from_millis(50)).await;
        assert!(poll!(keeping.as_mut()).is_pending());
        advance(Duration::from_millis(5)).await;
        assert!(poll!(keeping.as_mut()).is_pending());
        alarm.ring();
        assert!(poll!(keeping.as_mut()).is_pending());
        // A ring while it looks is not lost, and the timer is cut short by it.
        alarm.ring();
        assert!(poll!(keeping.as_mut()).is_ready());
        assert_eq!(*looks.borrow(), [0, 50, 55, 55]);
    }
}
