//! Room for the calls that one lane serves at a time, in number and bytes.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    limits::{MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES},
    lock,
};

/// Counts what a lane holds in memory on behalf of its peer.
///
/// A call counts from before its body is kept until its answer is written: first with the bytes of the request,
/// then with those of the answer. So a peer that asks and does not read its answers is not read from either.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    calls: usize,
    bytes: usize,
    waiting: Option<Waker>,
}

impl Room {
    /// Room for a call of `len` bytes, if there is some.
    ///
    /// Answers are made before their length is known, so they may take more than is left. A single call is
    /// always let in: its method limits it.
    pub(super) fn try_enter(self: &Arc<Self>, len: usize, in_flight: TaskTrackerToken) -> Option<Held> {
        lock(&self.0).enter(len).then(|| self.held(len, in_flight))
    }

    /// The same, waiting until there is room. One waits at a time. Cancel safe: nothing is taken then.
    pub(super) async fn enter(self: &Arc<Self>, len: usize, in_flight: TaskTrackerToken) -> Held {
        poll_fn(|cx| self.poll_enter(len, cx)).await;
        self.held(len, in_flight)
    }

    fn poll_enter(&self, len: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut used = lock(&self.0);
        if used.enter(len) {
            return Poll::Ready(());
        }
        used.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    fn held(self: &Arc<Self>, bytes: usize, in_flight: TaskTrackerToken) -> Held {
        Held {
            room: Arc::clone(self),
            bytes,
            _in_flight: in_flight,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Used)) {
        let mut used = lock(&self.0);
        change(&mut used);
        let waiting = used.waiting.take();
        drop(used);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl Used {
    fn enter(&mut self, len: usize) -> bool {
        let fits = self.calls < MAX_IN_FLIGHT && self.bytes.saturating_add(len) <= MAX_IN_FLIGHT_BYTES;
        if !fits && self.calls > 0 {
            return false;
        }
        self.calls += 1;
        self.bytes += len;
        true
    }
}

/// The room of one call, given back when dropped, and the mark of a call in flight.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Room>,
    bytes: usize,
    _in_flight: TaskTrackerToken,
}

impl Held {
    /// The request is gone, an answer of `len` bytes is there.
    pub(super) fn answered(&mut self, len: usize) {
        if len != self.bytes {
            let before = std::mem::replace(&mut self.bytes, len);
            self.room.change(|used| used.bytes = used.bytes - before + len);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.change(|used| {
            used.calls -= 1;
            used.bytes -= self.bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    #[test]
    fn calls_and_bytes_are_bounded_and_answers_count_until_they_are_gone() {
        let tracker = TaskTracker::new();
        let room = Arc::new(Room::default());
        let enter = |len| room.try_enter(len, tracker.token());
        let half = MAX_IN_FLIGHT_BYTES / 2;
        let (one, mut two) = (enter(half).unwrap(), enter(half).unwrap());
        assert!(enter(1).is_none());
        drop(one);
        two.answered(MAX_IN_FLIGHT_BYTES);
        assert!(enter(1).is_none(), "a long answer waits to be written");
        drop(two);
        let many: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| enter(0).unwrap()).collect();
        assert!(enter(0).is_none());
        drop(many);
        assert!(
            enter(2 * MAX_IN_FLIGHT_BYTES).is_some(),
            "alone, anything is let in"
        );
    }

    #[tokio::test]
    async fn who_waits_for_room_is_let_in_when_there_is_some() {
        let tracker = TaskTracker::new();
        let room = Arc::new(Room::default());
        let full = room.enter(MAX_IN_FLIGHT_BYTES, tracker.token()).await;
        let mut next = std::pin::pin!(room.enter(1, tracker.token()));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(full);
        next.await;
        assert_eq!(lock(&room.0).calls, 0);
    }
}
