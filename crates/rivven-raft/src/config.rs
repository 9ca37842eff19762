//! What a node needs to know before it starts, and how its timing becomes the core's.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use rivven_types::NodeId;

use crate::StartError;

/// Settings of a Raft node. Everything else is on [`RaftNode::builder`](crate::RaftNode::builder).
///
/// ```
/// use rivven_raft::RaftConfig;
/// let config = RaftConfig {
///     node_id: 1,
///     peers: vec![2, 3],
///     election_timeout_ms: 150..300,
///     heartbeat_interval_ms: 50,
/// };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// This node. Unique in the cluster, kept for life.
    pub node_id: NodeId,
    /// The other founding voters; this node's own id may be left out or listed.
    ///
    /// Used on a process-local fabric, where the voters initialise by themselves. Over a transport the
    /// caller of [`initialize`](crate::RaftNode::initialize) says who votes.
    pub peers: Vec<NodeId>,
    /// How long after the last sign of a leader another one stands for election, in milliseconds.
    ///
    /// This is the *total*: a dead leader is noticed no earlier than the start and no later than the end
    /// of the range. On one machine or a fast network 150..300; across slow disks or zones 500..1000,
    /// because a stalled `fsync` looks like a dead leader.
    pub election_timeout_ms: Range<u64>,
    /// How often a leader shows that it lives, in milliseconds.
    ///
    /// Must be well below half of the election timeout's end; a third of its start is a good value, and leaves
    /// room for a lost heartbeat.
    pub heartbeat_interval_ms: u64,
}

/// Most voters of one group. More than seven only slow a Raft group down.
pub(crate) const MAX_VOTERS: usize = 15;

/// Longest election timeout that is accepted: five minutes.
const MAX_ELECTION_TIMEOUT_MS: u64 = 300_000;

impl RaftConfig {
    /// Checks every rule that can be checked without starting.
    ///
    /// # Errors
    /// [`StartError::InvalidTiming`] or [`StartError::InvalidPeers`], with a remedy.
    pub fn validate(&self) -> Result<(), StartError> {
        Timing::of(self)?;
        self.voters().map(drop)
    }

    /// `node_id` and `peers`, without repetition.
    pub(crate) fn voters(&self) -> Result<BTreeSet<NodeId>, StartError> {
        let others: BTreeSet<NodeId> = self.peers.iter().copied().collect();
        if others.len() != self.peers.len() {
            return Err(StartError::InvalidPeers {
                reason: "a peer is listed twice; list each node id once".into(),
            });
        }
        let mut voters = others;
        voters.insert(self.node_id);
        if voters.len() > MAX_VOTERS {
            return Err(StartError::InvalidPeers {
                reason: format!(
                    "{} voters; use at most {MAX_VOTERS} and add the rest as learners",
                    voters.len()
                ),
            });
        }
        Ok(voters)
    }
}

/// The timing handed to the consensus core.
///
/// The core lets a lease of `election_max_ms` run out after the last heartbeat and then waits a random time
/// between `election_min_ms` and `election_max_ms`. Detection therefore takes between
/// `election_min_ms + election_max_ms` and `2 * election_max_ms`, which must lie in the configured range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) heartbeat_ms: u64,
    pub(crate) election_min_ms: u64,
    pub(crate) election_max_ms: u64,
}

impl Timing {
    /// For how long after a sign of the leader a voter helps to elect nobody else.
    pub(crate) const fn lease(&self) -> Duration {
        Duration::from_millis(self.election_max_ms)
    }

    /// How often a follower asks whether the leader's process lives: twice for each heartbeat.
    pub(crate) const fn knock_interval(&self) -> Duration {
        Duration::from_micros(self.heartbeat_ms.saturating_mul(500))
    }

    /// Splits the configured total, aiming at its lower half so that the vote itself still fits.
    pub(crate) fn of(config: &RaftConfig) -> Result<Self, StartError> {
        let (min, max) = (config.election_timeout_ms.start, config.election_timeout_ms.end);
        let heartbeat = config.heartbeat_interval_ms;
        let refuse = |reason: String| Err(StartError::InvalidTiming { reason });
        if min == 0 || min >= max {
            return refuse(format!(
                "the election timeout {min}..{max} ms is empty; its start must be above 0 and below its end, as in 150..300"
            ));
        }
        if max > MAX_ELECTION_TIMEOUT_MS {
            return refuse(format!(
                "the election timeout ends at {max} ms; use at most {MAX_ELECTION_TIMEOUT_MS}"
            ));
        }
        if heartbeat == 0 {
            return refuse(
                "the heartbeat interval is 0 ms; use a third of the election timeout's start".into(),
            );
        }
        let floor = (min * 2 / 5).max(heartbeat.saturating_add(1));
        let lowest = |election_max: u64| floor.max(min.saturating_sub(election_max));
        // Two fifths of the end leave a fifth of it for the vote itself. Where that leaves so narrow a range
        // that candidates would collide, half of the end, the most that can be used.
        let preferred = max * 2 / 5;
        let election_max_ms = if preferred.saturating_sub(lowest(preferred)) < preferred / 4 {
            max / 2
        } else {
            preferred
        };
        let election_min_ms = lowest(election_max_ms);
        if election_min_ms >= election_max_ms {
            return refuse(format!(
                "a heartbeat every {heartbeat} ms does not fit an election timeout of {min}..{max} ms; lower \
                 heartbeat_interval_ms to {} or raise the election timeout's end to {}",
                (max / 5).max(1),
                heartbeat.max(min).saturating_mul(3),
            ));
        }
        Ok(Self {
            heartbeat_ms: heartbeat,
            election_min_ms,
            election_max_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(election: Range<u64>, heartbeat: u64) -> RaftConfig {
        RaftConfig {
            node_id: 1,
            peers: vec![2, 3],
            election_timeout_ms: election,
            heartbeat_interval_ms: heartbeat,
        }
    }

    #[test]
    fn the_total_is_split_into_lease_and_timeout() {
        let check = |election: Range<u64>, heartbeat, expected: (u64, u64)| {
            let timing = Timing::of(&config(election.clone(), heartbeat)).unwrap();
            assert_eq!(
                (timing.election_min_ms, timing.election_max_ms),
                expected,
                "{election:?}"
            );
        };
        check(150..300, 50, (60, 120));
        check(500..1000, 100, (200, 400));
        check(1000..2000, 200, (400, 800));
        check(150..300, 100, (101, 150));
        check(150..300, 140, (141, 150));
        check(290..300, 50, (140, 150));
    }

    #[test]
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "that it is refused is what is tested"
    )]
    fn impossible_timing_is_refused_with_a_remedy() {
        for (election, heartbeat) in [
            (150..300, 150),
            (150..300, 0),
            (300..150, 50),
            (0..300, 50),
            (1..2, 1),
            (1..600_000, 50),
        ] {
            let error = Timing::of(&config(election.clone(), heartbeat)).unwrap_err();
            assert_eq!(error.code(), "invalid-timing", "{election:?} {heartbeat}");
        }
    }

    #[test]
    fn a_peer_listed_twice_is_refused_and_oneself_is_tolerated() {
        let mut listed = config(150..300, 50);
        listed.peers = vec![1, 2, 3];
        assert_eq!(listed.voters().unwrap(), BTreeSet::from([1, 2, 3]));
        listed.peers = vec![2, 2];
        assert_eq!(listed.validate().unwrap_err().code(), "invalid-peers");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_keeps_the_promise(min in 0_u64..5_000, max in 0_u64..10_000, heartbeat in 0_u64..3_000) {
            if let Ok(timing) = Timing::of(&config(min..max, heartbeat)) {
                prop_assert!(timing.heartbeat_ms < timing.election_min_ms);
                prop_assert!(timing.election_min_ms < timing.election_max_ms);
                prop_assert!(timing.election_min_ms + timing.election_max_ms >= min);
                prop_assert!(2 * timing.election_max_ms <= max);
            }
        }
    }
}
