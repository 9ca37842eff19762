//! The requests of a leader, in the order in which it sent them.
//!
//! A leader has several requests on their way to a follower (`network::pipeline`). They arrive in order, but a task of
//! its own looks after each, and which of those comes to the core first is chance. One that overtook its predecessor
//! would be a conflict, after which the leader begins again. So each waits for the one before it, but not for long:
//! that one may be lost.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use crate::wire::WireVote;

/// How long a request waits for the one before it. Tasks change places for microseconds; whatever is missing for
/// longer is on another connection or lost.
const MAX_WAIT: Duration = Duration::from_millis(5);

/// How far the entries go that were handed to the core, and of which leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    leader: WireVote,
    upto: u64,
}

/// Where requests to append wait for their turn.
#[derive(Debug)]
pub(crate) struct Arrivals(watch::Sender<Option<Passed>>);

impl Default for Arrivals {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Arrivals {
    /// Waits until what precedes a request of `leader` was handed to the core: everything up to `prev`. `log_end` is
    /// where the log ended when somebody last looked.
    pub(crate) async fn turn(&self, leader: WireVote, prev: Option<u64>, log_end: Option<u64>) {
        if prev <= log_end {
            return;
        }
        let mut passed = self.0.subscribe();
        let preceded = passed.wait_for(|passed| {
            passed.is_some_and(|passed| passed.leader == leader && Some(passed.upto) >= prev)
        });
        // Too early after all: then the log itself decides.
        drop(timeout(MAX_WAIT, preceded).await);
    }

    /// Notes that the core has the entries of `leader` up to `upto`, or is about to look at them.
    pub(crate) fn pass(&self, leader: WireVote, upto: u64) {
        self.0.send_if_modified(|passed| {
            let later = passed.is_none_or(|passed| passed.leader != leader || passed.upto < upto);
            if later {
                *passed = Some(Passed { leader, upto });
            }
            later
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rivven_transport::TaskGroup;
    use tokio::time::Instant;

    use super::*;

    fn leader(term: u64) -> WireVote {
        crate::types::vote(term, 1, true).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_the_one_before_it_but_not_for_one_that_is_lost() {
        let arrivals = Arc::new(Arrivals::default());
        let begun = Instant::now();
        // Nothing precedes these, or the log has it.
        arrivals.turn(leader(1), None, None).await;
        arrivals.turn(leader(1), Some(7), Some(7)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);

        let overtaking = TaskGroup::current().spawn({
            let arrivals = Arc::clone(&arrivals);
            async move { arrivals.turn(leader(1), Some(9), Some(7)).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        arrivals.pass(leader(1), 8);
        tokio::task::yield_now().await;
        assert!(!overtaking.is_finished(), "only a part of it is there");
        arrivals.pass(leader(1), 9);
        overtaking.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_millis(1));

        // What another leader sent precedes nothing of this one.
        arrivals.turn(leader(2), Some(9), Some(7)).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(1) + MAX_WAIT);
    }
}
