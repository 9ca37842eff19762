//! Calls that wait for their answers: a table, and nothing that waits itself.

use std::task::{Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use crate::Rejection;

/// Low bits of a call number that name its place in the table; the others count the uses of that place, so
/// that a late answer never meets a later call.
const PLACE_BITS: u32 = 16;

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Response(Bytes),
    Rejected(Rejection),
    /// The handler ended without an answer.
    Lost,
    /// The deadline has passed.
    Expired,
    /// The connection has ended, for the cause that [`Pending::closed`] tells.
    Closed,
}

/// The calls in flight of one lane, by call number.
#[derive(Debug, Default)]
pub(super) struct Pending {
    places: Vec<Place>,
    free: Vec<usize>,
    waiting: usize,
    /// When [`Self::expire`] has promised to be called; no deadline in the table is earlier.
    armed: Option<Instant>,
    closed: Option<String>,
}

#[derive(Debug)]
struct Place {
    uses: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting {
        max_response: usize,
        deadline: Instant,
        waker: Option<Waker>,
    },
    Ended(Answer),
}

/// A call just entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entered {
    /// Its number.
    pub(super) call: u64,
    /// No other call waits.
    pub(super) alone: bool,
    /// Its deadline is before all that were known: [`Pending::expire`] is to be called by then.
    pub(super) alarm: bool,
}

impl Pending {
    /// Enters a call. `None` once the table is closed.
    pub(super) fn enter(&mut self, max_response: usize, deadline: Instant) -> Option<Entered> {
        if self.closed.is_some() {
            return None;
        }
        let at = self.free.pop().unwrap_or(self.places.len());
        if at == self.places.len() {
            let state = State::Free;
            self.places.push(Place { uses: 0, state });
        }
        let place = self.places.get_mut(at)?;
        place.uses += 1;
        place.state = State::Waiting {
            max_response,
            deadline,
            waker: None,
        };
        let alone = self.waiting == 0;
        self.waiting += 1;
        let alarm = self.armed.is_none_or(|armed| deadline < armed);
        if alarm {
            self.armed = Some(deadline);
        }
        let call = (place.uses << PLACE_BITS) | at as u64;
        Some(Entered { call, alone, alarm })
    }

    fn place(&mut self, call: u64) -> Option<(usize, &mut Place)> {
        let at = usize::try_from(call & ((1 << PLACE_BITS) - 1)).ok()?;
        let place = self.places.get_mut(at)?;
        (place.uses == call >> PLACE_BITS).then_some((at, place))
    }

    /// The longest response that a call takes; `None` if it does not wait.
    pub(super) fn max_response(&mut self, call: u64) -> Option<usize> {
        match self.place(call)?.1.state {
            State::Waiting { max_response, .. } => Some(max_response),
            State::Free | State::Ended(_) => None,
        }
    }

    /// Ends a call. Whom to wake, if the call still waits and somebody looked at it.
    pub(super) fn end(&mut self, call: u64, answer: Answer) -> Option<Waker> {
        let (_, place) = self.place(call)?;
        let waker = end(&mut place.state, answer)?;
        self.waiting -= 1;
        waker
    }

    /// How a call has ended; else `waker` is woken when it does. Once only: then the place is free.
    pub(super) fn poll(&mut self, call: u64, waker: &Waker) -> Poll<Answer> {
        let Some((at, place)) = self.place(call) else {
            return Poll::Ready(Answer::Closed);
        };
        match &mut place.state {
            State::Waiting { waker: known, .. } => {
                if known.as_ref().is_none_or(|known| !known.will_wake(waker)) {
                    *known = Some(waker.clone());
                }
                Poll::Pending
            }
            State::Free => Poll::Ready(Answer::Closed),
            State::Ended(_) => {
                let state = std::mem::replace(&mut place.state, State::Free);
                self.free.push(at);
                match state {
                    State::Ended(answer) => Poll::Ready(answer),
                    State::Free | State::Waiting { .. } => Poll::Ready(Answer::Closed),
                }
            }
        }
    }

    /// Forgets a call whose answer was not taken. Whether it still waited for one.
    pub(super) fn leave(&mut self, call: u64) -> bool {
        let Some((at, place)) = self.place(call) else {
            return false;
        };
        let state = std::mem::replace(&mut place.state, State::Free);
        let waited = match state {
            State::Free => return false,
            State::Waiting { .. } => true,
            State::Ended(_) => false,
        };
        self.free.push(at);
        self.waiting -= usize::from(waited);
        waited
    }

    /// Ends the calls whose deadline has passed, adding whom to wake, and says when to call this again.
    ///
    /// Looks at every place, of which there are at most as many as calls were ever in flight at once.
    pub(super) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        for place in &mut self.places {
            let State::Waiting { deadline, .. } = place.state else {
                continue;
            };
            if deadline <= now {
                wakers.extend(end(&mut place.state, Answer::Expired).flatten());
                self.waiting -= 1;
            } else {
                earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
            }
        }
        self.armed = earliest;
        earliest
    }

    /// Ends every call, adding whom to wake, and takes no further ones. The first cause counts.
    pub(super) fn close(&mut self, cause: &str, wakers: &mut Vec<Waker>) {
        self.closed.get_or_insert_with(|| cause.to_owned());
        for place in &mut self.places {
            wakers.extend(end(&mut place.state, Answer::Closed).flatten());
        }
        self.waiting = 0;
    }

    /// Why the table is closed, if it is.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Calls that wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}

/// Ends what waits: `None` if it does not, else whom to wake.
#[expect(
    clippy::option_option,
    reason = "whether it waited, and whether somebody looked"
)]
fn end(state: &mut State, answer: Answer) -> Option<Option<Waker>> {
    match std::mem::replace(state, State::Free) {
        State::Waiting { waker, .. } => {
            *state = State::Ended(answer);
            Some(waker)
        }
        other @ (State::Free | State::Ended(_)) => {
            *state = other;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn waker() -> Waker {
        Waker::noop().clone()
    }

    fn enter(pending: &mut Pending, deadline: Instant) -> u64 {
        pending.enter(100, deadline).unwrap().call
    }

    #[test]
    fn an_answer_reaches_the_call_of_its_number_once() {
        let mut pending = Pending::default();
        let deadline = Instant::now();
        let calls: Vec<_> = (0..300).map(|_| enter(&mut pending, deadline)).collect();
        assert!(pending.poll(calls[7], &waker()).is_pending());
        assert_eq!(pending.max_response(calls[7]), Some(100));
        assert!(pending.end(calls[7], Answer::Lost).is_some());
        assert_eq!(pending.max_response(calls[7]), None);
        assert!(pending.end(calls[7], Answer::Expired).is_none());
        assert_eq!(pending.poll(calls[7], &waker()), Poll::Ready(Answer::Lost));
        assert_eq!(pending.waiting(), 299);
        // The place is used again, and a late answer to the earlier call does not end the later one.
        let next = enter(&mut pending, deadline);
        assert_ne!(next, calls[7]);
        assert!(pending.end(calls[7], Answer::Lost).is_none());
        assert!(pending.poll(next, &waker()).is_pending());
        assert_eq!(pending.places.len(), 300);
    }

    #[test]
    fn a_call_that_leaves_says_whether_it_was_answered() {
        let mut pending = Pending::default();
        let [one, two] = [(); 2].map(|()| enter(&mut pending, Instant::now()));
        assert!(pending.end(one, Answer::Lost).is_none());
        assert!(!pending.leave(one));
        assert!(pending.leave(two));
        assert!(!pending.leave(two));
        assert_eq!((pending.waiting(), pending.free.len()), (0, 2));
        let entered = pending.enter(1, Instant::now()).unwrap();
        assert!(entered.alone);
    }

    #[test]
    fn the_alarm_is_asked_for_only_by_a_deadline_before_all_others() {
        let mut pending = Pending::default();
        let now = Instant::now();
        let ms = |ms| now + Duration::from_millis(ms);
        let alarms = [50, 60, 40, 40].map(|at| pending.enter(1, ms(at)).unwrap().alarm);
        assert_eq!(alarms, [true, false, true, false]);
        let mut woken = Vec::new();
        assert_eq!(pending.expire(ms(39), &mut woken), Some(ms(40)));
        assert_eq!((woken.len(), pending.waiting()), (0, 4));
        assert_eq!(pending.expire(ms(40), &mut woken), Some(ms(50)));
        assert_eq!(pending.waiting(), 2);
        assert_eq!(pending.expire(ms(60), &mut woken), None);
        assert!(pending.enter(1, ms(90)).unwrap().alarm);
    }

    #[test]
    fn closing_ends_every_call_and_refuses_further_ones() {
        let mut pending = Pending::default();
        let call = enter(&mut pending, Instant::now());
        assert!(pending.poll(call, &waker()).is_pending());
        let mut woken = Vec::new();
        pending.close("first", &mut woken);
        pending.close("second", &mut woken);
        assert_eq!((woken.len(), pending.closed()), (1, Some("first")));
        assert_eq!(pending.poll(call, &waker()), Poll::Ready(Answer::Closed));
        assert_eq!(pending.enter(1, Instant::now()), None);
    }
}
