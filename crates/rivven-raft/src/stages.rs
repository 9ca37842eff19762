//! How long each stage of a write takes, and how far followers are behind: what a node tells the `metrics` facade.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::{Gauge, Histogram, gauge, histogram};
use openraft::{
    OptionalSend,
    async_runtime::watch::WatchReceiver,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use openraft_rt_tokio::TokioWatchReceiver;
use rivven_types::NodeId;
use tokio::time::{Instant, sleep};

use crate::types::{LogEntry, LogId, RaftMetrics, TypeConfig, Vote};

/// Appends and commits whose time is remembered: many more than there are between a proposal and its answer.
const MARKS: usize = 1_024;

/// How often the lag of followers is told.
const LAG_INTERVAL: Duration = Duration::from_secs(1);

/// Handles are taken when the node starts, so a recorder must be installed before.
pub(crate) struct Stages {
    marks: Mutex<Marks>,
    queue: Histogram,
    commit: Histogram,
    apply: Histogram,
    whole: Histogram,
}

/// When entries were handed to the log, and when they were known to be committed: up to an index each.
#[derive(Default)]
struct Marks {
    appended: VecDeque<(u64, Instant)>,
    committed: VecDeque<(u64, Instant)>,
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            marks: Mutex::default(),
            queue: histogram!("raft_write_queue_seconds"),
            commit: histogram!("raft_write_commit_seconds"),
            apply: histogram!("raft_write_apply_seconds"),
            whole: histogram!("raft_write_seconds"),
        }
    }
}

impl Stages {
    /// A proposal of this leader was answered, that of the entry at `index`.
    pub(crate) fn answered(&self, index: u64, proposed: Instant) {
        let now = Instant::now();
        self.whole.record(now.saturating_duration_since(proposed));
        let (appended, committed) = {
            let marks = self.marks();
            (reached(&marks.appended, index), reached(&marks.committed, index))
        };
        // A mark is missing when the log was shortened in between.
        let (Some(appended), Some(committed)) = (appended, committed) else {
            return;
        };
        self.queue.record(appended.saturating_duration_since(proposed));
        self.commit.record(committed.saturating_duration_since(appended));
        self.apply.record(now.saturating_duration_since(committed));
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // Each critical section leaves the marks whole.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When `index` was reached.
fn reached(marks: &VecDeque<(u64, Instant)>, index: u64) -> Option<Instant> {
    let at = marks.partition_point(|(upto, _)| *upto < index);
    marks.get(at).map(|(_, at)| *at)
}

/// Notes that `upto` is reached. A log that was shortened reaches some indexes again.
fn mark(marks: &mut VecDeque<(u64, Instant)>, upto: u64) {
    while marks.back().is_some_and(|(last, _)| *last >= upto) {
        marks.pop_back();
    }
    if marks.len() >= MARKS {
        marks.pop_front();
    }
    marks.push_back((upto, Instant::now()));
}

/// A log whose appends and commits are timed.
pub(crate) struct TimedLog<L> {
    log: L,
    stages: Arc<Stages>,
}

impl<L> TimedLog<L> {
    pub(crate) const fn new(log: L, stages: Arc<Stages>) -> Self {
        Self { log, stages }
    }
}

impl<L: RaftLogStorage<TypeConfig>> RaftLogStorage<TypeConfig> for TimedLog<L> {
    type LogReader = L::LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = &committed {
            mark(&mut self.stages.marks().committed, committed.index);
        }
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let stages = &self.stages;
        let mut last = None;
        let entries: Vec<_> = entries
            .into_iter()
            .inspect(|entry| last = Some(entry.log_id.index))
            .collect();
        if let Some(last) = last {
            mark(&mut stages.marks().appended, last);
        }
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.log.purge(log_id).await
    }
}

/// Followers whose lag is told at most; of further ones nothing is.
const MAX_FOLLOWERS: usize = 64;

/// The lag of each follower that was ever told. Recorders outlive cores: of a core that has ended there is no lag.
#[derive(Default)]
struct Lags(BTreeMap<NodeId, Gauge>);

impl Drop for Lags {
    fn drop(&mut self) {
        self.0.values().for_each(|gauge| gauge.set(0.0));
    }
}

/// Tells, while this node leads, how many entries each follower lacks. Ended with the core.
pub(crate) async fn tell_lag(metrics: TokioWatchReceiver<RaftMetrics>) {
    let mut told = Lags::default();
    loop {
        sleep(LAG_INTERVAL).await;
        let lags = lags(&metrics.borrow_watched());
        for node in lags.keys() {
            if told.0.len() < MAX_FOLLOWERS {
                told.0
                    .entry(*node)
                    .or_insert_with(|| gauge!("raft_follower_lag_entries", "peer" => node.to_string()));
            }
        }
        // Of a node that is no follower any more, or while another leads, there is nothing to tell.
        for (node, gauge) in &told.0 {
            gauge.set(
                lags.get(node)
                    .map_or(0.0, |lag| f64::from(u32::try_from(*lag).unwrap_or(u32::MAX))),
            );
        }
    }
}

/// How many entries each follower lacks, as far as the leader knows; nothing on other nodes.
fn lags(metrics: &RaftMetrics) -> BTreeMap<NodeId, u64> {
    let last = metrics.last_log_index.map_or(0, |last| last.saturating_add(1));
    let followers = metrics
        .replication
        .iter()
        .flatten()
        .filter(|(node, _)| **node != metrics.id);
    let has = |matched: Option<LogId>| matched.map_or(0, |id| id.index.saturating_add(1));
    followers
        .map(|(node, matched)| (*node, last.saturating_sub(has(*matched))))
        .collect()
}

/// How long a follower takes to have entries on its disk, as its leader sees it.
pub(crate) fn replicate_seconds(peer: NodeId) -> Histogram {
    histogram!("raft_replicate_seconds", "peer" => peer.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_index_was_reached_by_the_first_mark_beyond_it() {
        let mut marks = VecDeque::new();
        let begin = Instant::now();
        for upto in [3, 7, 8] {
            sleep(Duration::from_secs(1)).await;
            mark(&mut marks, upto);
        }
        let after = |index| reached(&marks, index).map(|at| (at - begin).as_secs());
        assert_eq!(
            [0, 3, 4, 7, 8, 9].map(after),
            [Some(1), Some(1), Some(2), Some(2), Some(3), None]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_was_shortened_reaches_its_indexes_again() {
        let mut marks = VecDeque::new();
        for upto in [3, 7, 9, 5] {
            mark(&mut marks, upto);
        }
        assert_eq!(marks.iter().map(|(upto, _)| *upto).collect::<Vec<_>>(), [3, 5]);
        for upto in 0..5_000 {
            mark(&mut marks, upto + 6);
        }
        assert_eq!(marks.len(), MARKS);
    }

    #[test]
    fn the_lag_that_a_core_told_ends_with_it() {
        let value = Arc::new(AtomicU64::new(0));
        let told = Lags(BTreeMap::from([(2, Gauge::from_arc(Arc::clone(&value)))]));
        told.0.values().for_each(|gauge| gauge.set(7.0));
        let lag = || f64::from_bits(value.load(Ordering::Relaxed));
        assert!(lag() > 6.0);
        drop(told);
        assert!(lag() < 1.0);
    }
}
