//! Rounds of read indexes: one question to the leader serves everybody who waited before it was asked.
//!
//! A linearizable read needs to learn that its node's view is fresh at some moment after the read began (Raft
//! dissertation, section 6.4), not at a moment of its own. Whoever finds no round under way makes one, for all who
//! wait; those who come meanwhile wait for the next. So the busier a node, the more reads a round serves.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::read::ReadIndexFailure;

/// What a round finds out.
type Found = Result<u64, ReadIndexFailure>;

/// Everybody who waits for a read index of one kind.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether somebody makes a round, or has been told to.
    running: bool,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    told: oneshot::Sender<Told>,
}

/// What one who waits is told.
#[derive(Debug)]
enum Told {
    Found(Found),
    /// To make the next round.
    Turn,
}

/// Waits its turn. Dropped, it passes on a turn that it was given meanwhile.
struct Seat<'a> {
    rounds: &'a Rounds,
    told: oneshot::Receiver<Told>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.told.close();
        if let Ok(Told::Turn) = self.told.try_recv() {
            self.rounds.pass_on();
        }
    }
}

/// A round under way. Dropped, it lets the next one begin, also for those it was made for and gave no answer.
struct Round<'a> {
    rounds: &'a Rounds,
    with: Vec<Waiting>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        // Whoever still has no answer waits for the next round, which begins later still.
        self.rounds.state().waiting.append(&mut self.with);
        self.rounds.pass_on();
    }
}

impl Rounds {
    /// The result of a round that begins after this call. `ask` makes one, until the deadline that it is given.
    ///
    /// Cancel safety: a dropped call lets others go on.
    pub(crate) async fn join<F: Future<Output = Found>>(
        &self,
        deadline: Instant,
        ask: impl FnOnce(Instant) -> F,
    ) -> Found {
        if let Some(told) = self.wait(deadline) {
            let mut seat = Seat { rounds: self, told };
            match timeout_at(deadline, &mut seat.told).await {
                Ok(Ok(Told::Found(found))) => return found,
                Ok(Ok(Told::Turn)) => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(ReadIndexFailure::Unconfirmed("the deadline passed".into()));
                }
            }
        }
        let mut round = Round {
            rounds: self,
            with: std::mem::take(&mut self.state().waiting),
        };
        let latest = round
            .with
            .iter()
            .map(|one| one.deadline)
            .fold(deadline, Instant::max);
        let found = ask(latest).await;
        for one in round.with.drain(..) {
            drop(one.told.send(Told::Found(found.clone())));
        }
        found
    }

    /// Where to wait; `None` for whoever makes the next round at once.
    fn wait(&self, deadline: Instant) -> Option<oneshot::Receiver<Told>> {
        let mut state = self.state();
        if !state.running {
            state.running = true;
            return None;
        }
        let (told, waits) = oneshot::channel();
        state.waiting.push(Waiting { deadline, told });
        Some(waits)
    }

    /// Gives the turn to one of those who wait.
    fn pass_on(&self) {
        let mut state = self.state();
        while let Some(next) = state.waiting.pop() {
            if next.told.send(Told::Turn).is_ok() {
                return;
            }
        }
        state.running = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    /// A round that takes 10 ms; its result is its number.
    async fn ask(made: &AtomicU64) -> Found {
        let number = made.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(10)).await;
        Ok(number)
    }

    #[tokio::test(start_paused = true)]
    async fn one_round_serves_all_who_waited_before_it_began() {
        let (rounds, made) = (Rounds::default(), AtomicU64::new(0));
        let read = async |after| {
            sleep(Duration::from_millis(after)).await;
            rounds.join(soon(), |_| ask(&made)).await.unwrap()
        };
        // The first makes a round; those that come while it is under way share the next.
        let numbers = join_all([0, 1, 2, 3, 9, 12, 13].map(read)).await;
        assert_eq!(numbers, [0, 1, 1, 1, 1, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_the_turn_to_the_others() {
        let (rounds, made) = (Rounds::default(), AtomicU64::new(0));
        let given_up = timeout(Duration::from_millis(5), rounds.join(soon(), |_| ask(&made)));
        let patient = async {
            sleep(Duration::from_millis(1)).await;
            rounds.join(soon(), |_| ask(&made)).await
        };
        let impatient = async {
            sleep(Duration::from_millis(1)).await;
            timeout(Duration::from_millis(5), rounds.join(soon(), |_| ask(&made))).await
        };
        let (first, second, third) = tokio::join!(given_up, patient, impatient);
        assert!(first.is_err() && third.is_err());
        // Two rounds were given up before the one that served it.
        assert_eq!(second.unwrap(), 2);
        assert_eq!(rounds.join(soon(), |_| ask(&made)).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_fails_fails_for_all_it_was_made_for() {
        let rounds = Rounds::default();
        let fail = |_| async {
            sleep(Duration::from_millis(10)).await;
            Err(ReadIndexFailure::NotLeader(Some(2)))
        };
        let failed = join_all([(); 3].map(|()| rounds.join(soon(), fail))).await;
        assert!(
            failed
                .iter()
                .all(|found| matches!(found, Err(ReadIndexFailure::NotLeader(Some(2)))))
        );
        let late = rounds.join(Instant::now(), fail).await;
        assert!(late.is_err());
    }
}
