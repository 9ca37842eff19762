//! How long a node waits before it stands for election once more, while nobody wins: longer every time.
//!
//! A term can only be won if its votes are on disk before somebody stands in the next one (Raft, section 5.6:
//! broadcast time ≪ election timeout). How long that takes is not known beforehand: on a disk that stalls it can be
//! longer than the election timeout, and whoever stands again too early takes away the term that was about to be won.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
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
#[derive(Debug, Default)]
struct Terms {
    term: u64,
    lost: u64,
}

impl Terms {
    /// Takes in what is known of the leader. `Some`: so many terms in a row have had none, one more than before.
    fn see(&mut self, term: u64, led: bool) -> Option<u64> {
        let passed = term.saturating_sub(self.term);
        self.term = self.term.max(term);
        if led {
            self.lost = 0;
            return None;
        }
        self.lost = self.lost.saturating_add(passed);
        (passed > 0).then_some(self.lost)
    }
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
    let half = longest / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
    Some(half + Duration::from_micros(random % micros.saturating_add(1)))
}

/// Lets a core stand for election after `first`, and from then on not before the pauses are over, for as long as it
/// runs. `timeout` is the longest election timeout.
pub(crate) async fn pace_elections<S: StateMachine>(
    raft: CoreHandle<S>,
    first: Duration,
    timeout: Duration,
    scope: NodeScope,
) {
    sleep(first).await;
    raft.let_stand(true);
    let mut servers = raft.server_metrics();
    let mut terms = Terms::default();
    let mut until: Option<Instant> = None;
    loop {
        let (term, led) = {
            let server = servers.borrow_and_update();
            (server.vote.leader_id.term, server.current_leader.is_some())
        };
        let lost = terms.see(term, led);
        if led && until.take().is_some() {
            raft.let_stand(true);
        }
        if let Some(pause) = lost.and_then(|lost| pause(lost, timeout, scope.next_u64())) {
            raft.let_stand(false);
            until = Some(Instant::now() + pause);
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
        let mut terms = Terms::default();
        for (term, led, lost) in [
            (3, true, None),
            (3, false, None),
            (4, false, Some(1)),
            (4, false, None),
            (6, false, Some(3)),
            (6, true, None),
            (7, false, Some(1)),
        ] {
            assert_eq!(terms.see(term, led), lost, "term {term}");
        }
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
