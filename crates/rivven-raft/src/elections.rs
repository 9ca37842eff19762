//! How long a node waits before it stands for election once more, while nobody wins: longer every time.
//!
//! A term can only be won if its votes are on disk before somebody stands in the next one (Raft, section 5.6:
//! broadcast time ≪ election timeout). How long that takes is not known beforehand: on a disk that stalls it can be
//! longer than the election timeout, and whoever stands again too early takes away the term that was about to be won.
//! So a node that has just given its vote waits for a leader as long as it waits for one that it follows.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use rivven_types::NodeId;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{StateMachine, core::CoreHandle, runtime::NodeScope};

/// How long the answer to a request for a vote is waited for, beyond the pauses between elections: it counts until
/// somebody stands in a later term.
pub(crate) const VOTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Terms that may pass without a leader before there are pauses: votes that were split deserve another attempt at once.
const FREE_TERMS: u64 = 1;

/// The longest pause, unless the election timeout itself is longer.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Counts the terms that nobody won.
#[derive(Debug)]
struct Terms {
    term: u64,
    lost: u64,
}

/// What is known of the newest term.
#[derive(Clone, Copy, Debug)]
enum Term {
    /// It has a leader.
    Led,
    /// This node stands for election.
    Stood,
    /// This node gave its vote to another one.
    Granted,
}

/// Why a node is not to stand yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost {
    /// So many terms in a row had no leader.
    terms: u64,
    /// In the last one somebody has this node's vote, and may be about to win.
    granted: bool,
}

impl Terms {
    /// Counts those after `term`: of what was before this start nobody knows how it ended.
    const fn after(term: u64) -> Self {
        Self { term, lost: 0 }
    }

    /// Takes in what is known of the newest term. `Some` if it has no leader and was not known before.
    fn see(&mut self, number: u64, term: Term) -> Option<Lost> {
        let passed = number.saturating_sub(self.term);
        self.term = self.term.max(number);
        let granted = match term {
            Term::Led => {
                self.lost = 0;
                return None;
            }
            Term::Stood => false,
            Term::Granted => true,
        };
        self.lost = self.lost.saturating_add(passed);
        (passed > 0).then_some(Lost {
            terms: self.lost,
            granted,
        })
    }
}

/// How long to wait before standing: nothing beyond the election timeout, unless there is a reason to.
fn wait(lost: Lost, timeout: Duration, random: u64) -> Option<Duration> {
    let granted = lost
        .granted
        .then(|| between(timeout * 3 / 2, timeout * 2, random));
    pause(lost.terms, timeout, random).max(granted)
}

/// How long to wait after `lost` terms in a row: a random part of a time that doubles with each, so that one node
/// stands well before the others. `timeout` is the longest election timeout.
fn pause(lost: u64, timeout: Duration, random: u64) -> Option<Duration> {
    let doublings = u32::try_from(lost.checked_sub(FREE_TERMS + 1)?).unwrap_or(u32::MAX);
    let longest = 2_u32
        .checked_pow(doublings.saturating_add(1))
        .and_then(|factor| timeout.checked_mul(factor))
        .map_or(MAX_PAUSE, |pause| pause.min(MAX_PAUSE))
        .max(timeout);
    Some(between(longest / 2, longest, random))
}

/// A part of a range that `random` decides.
fn between(least: Duration, most: Duration, random: u64) -> Duration {
    let micros = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
    least + Duration::from_micros(random % micros.saturating_add(1))
}

/// Lets a core stand for election after `first`, and from then on not before the pauses are over, for as long as it
/// runs. `timeout` is the longest election timeout.
pub(crate) async fn pace_elections<S: StateMachine>(
    (raft, node_id): (CoreHandle<S>, NodeId),
    first: Duration,
    timeout: Duration,
    scope: NodeScope,
) {
    let mut servers = raft.server_metrics();
    let mut terms = Terms::after(servers.borrow_and_update().vote.leader_id.term);
    sleep(first).await;
    raft.let_stand(true);
    let mut until: Option<Instant> = None;
    loop {
        let (number, term) = {
            let server = servers.borrow_and_update();
            let term = match server.vote.leader_id.voted_for == node_id {
                _ if server.current_leader.is_some() => Term::Led,
                true => Term::Stood,
                false => Term::Granted,
            };
            (server.vote.leader_id.term, term)
        };
        let lost = terms.see(number, term);
        if matches!(term, Term::Led) && until.take().is_some() {
            raft.let_stand(true);
        }
        if let Some(wait) = lost.and_then(|lost| wait(lost, timeout, scope.next_u64())) {
            raft.let_stand(false);
            until = Some(Instant::now() + wait);
        }
        tokio::select! {
            biased;
            changed = servers.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                until = None;
                raft.let_stand(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_without_a_leader_are_counted_until_there_is_one() {
        let mut terms = Terms::after(3);
        let lost = |terms, granted| Some(Lost { terms, granted });
        for (number, term, expected) in [
            (3, Term::Granted, None),
            (3, Term::Led, None),
            (3, Term::Stood, None),
            (4, Term::Stood, lost(1, false)),
            (4, Term::Stood, None),
            (6, Term::Granted, lost(3, true)),
            (6, Term::Granted, None),
            (6, Term::Led, None),
            (7, Term::Granted, lost(1, true)),
        ] {
            assert_eq!(terms.see(number, term), expected, "term {number}");
        }
    }

    #[test]
    fn who_has_given_its_vote_waits_for_a_leader_and_who_stands_may_stand_again() {
        let timeout = Duration::from_millis(120);
        let range = |terms, granted| {
            [0, u64::MAX]
                .map(|random| wait(Lost { terms, granted }, timeout, random).map(|wait| wait.as_millis()))
        };
        assert_eq!(range(1, false), [None, None]);
        let granted = range(1, true);
        assert_eq!(granted[0], Some(180));
        assert!(granted[1] <= Some(240), "{granted:?}");
        // The longer reason counts.
        assert_eq!(range(4, true)[0], range(4, false)[0]);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_no_two_are_equal() {
        let timeout = Duration::from_millis(120);
        let range = |lost, timeout| {
            let ends = [0, u64::MAX].map(|random| pause(lost, timeout, random));
            assert!(ends[0] <= pause(lost, timeout, 12_345));
            ends[0].map(|least| least.as_millis())
        };
        let least = [0, 1, 2, 3, 4, 5, 6, 99, u64::MAX].map(|lost| range(lost, timeout));
        let expected = [None, None]
            .into_iter()
            .chain([120, 240, 480, 960, 1_000, 1_000, 1_000].map(Some));
        assert!(least.into_iter().eq(expected), "{least:?}");
        // An election timeout of half a minute is not shortened to two seconds.
        assert_eq!(range(2, Duration::from_secs(30)), Some(15_000));
        let all: Vec<_> = (0..100).map(|random| pause(5, timeout, random * 7_919)).collect();
        assert!(all.windows(2).all(|two| two[0] != two[1]));
    }
}
