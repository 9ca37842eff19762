//! What leaders say, many at a time in one entry of the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rivven_partition::{InSyncReport, LeaderEpoch, PartitionCommand, PartitionError, PartitionMap, Start};
use rivven_raft::{Consistency, Outcome};
use rivven_types::NodeId;
use tokio::sync::{mpsc, oneshot};

use super::machine::Spot;
use crate::{WriteError, inner::Inner};

/// Most reports that wait for their turn; further ones wait for room.
pub(super) const MAX_WAITING: usize = 4_096;

/// Most reports in one entry of the log: with the most replicas they stay below the limit of a command.
const MAX_AT_ONCE: usize = 4_096;

/// How long one entry may take to be committed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often reports are decided anew on a newer state before the cause is given up to.
const MAX_TRIES: usize = 4;

/// Why a report has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Somebody else leads by now, or the topic is gone. Nothing was changed; stop for good.
    #[error("the leadership is over: there is a later one; stop, and do the next duty")]
    Superseded,
    /// A node that is reported in sync holds no replica of the partition. Nothing was changed.
    #[error("node {node} holds no replica of this partition; report those that do")]
    NotAReplica {
        /// The node.
        node: NodeId,
    },
    /// The node has started anew, perhaps with another disk, so what was copied to it may be gone. Nothing was
    /// changed; have it catch up under its present start.
    #[error("node {node} has started anew since; have it catch up again before reporting it")]
    StaleStart {
        /// The node.
        node: NodeId,
    },
    /// The state did not allow it. Nothing was changed.
    #[error(transparent)]
    Refused(PartitionError),
    /// No quorum took the report. Nothing was changed; report again.
    #[error("the report was not taken: {cause}; report again")]
    NotDone {
        /// What prevented it.
        cause: String,
    },
    /// The report may or may not have taken effect, or may yet. Report again: what is so already is no error.
    #[error("it is not known whether the report took effect: {cause}; report again")]
    Unknown {
        /// What interrupted it.
        cause: String,
    },
    /// This node has stopped. Nothing is known of the report.
    #[error("this node has stopped")]
    Stopped,
}

impl ReportError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Superseded => "leadership-superseded",
            Self::NotAReplica { .. } => "not-a-replica",
            Self::StaleStart { .. } => "stale-start",
            Self::Refused(error) => error.code(),
            Self::NotDone { .. } => "report-not-done",
            Self::Unknown { .. } => "unknown-outcome",
            Self::Stopped => "node-stopped",
        }
    }
}

/// How a report has ended: the generation that it has changed the assignments to, or none if they were so already.
pub(super) type Told = Result<Option<u64>, ReportError>;

/// What is said of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// These replicas are in sync, beside the leader.
    InSync(Vec<Start>),
    /// The leader has let go.
    Released,
}

/// A report, and who waits for its end.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) spot: Spot,
    pub(super) epoch: LeaderEpoch,
    pub(super) said: Said,
    pub(super) done: oneshot::Sender<Told>,
}

/// Hands reports in for as long as the node lives, those that came meanwhile together.
pub(super) async fn run(inner: Arc<Inner>, mut reports: mpsc::Receiver<Report>) {
    let me = inner.start();
    let mut batch = Vec::new();
    while reports.recv_many(&mut batch, MAX_AT_ONCE).await > 0 {
        let mut waiting = std::mem::take(&mut batch);
        for attempt in 1..=MAX_TRIES {
            waiting = hand_in(&inner, me, waiting, attempt == MAX_TRIES).await;
            if waiting.is_empty() {
                break;
            }
        }
        // What is left came several times for one partition; it goes first the next time.
        batch = waiting;
    }
}

/// Hands in what can be, and gives back what is to be tried again.
async fn hand_in(inner: &Inner, me: Start, reports: Vec<Report>, last: bool) -> Vec<Report> {
    let read = inner.read(Consistency::Linearizable, TIMEOUT, |state| {
        state.partitions.map().clone()
    });
    let map = match read.await {
        Ok(read) => read.value,
        Err(error) => {
            let cause = error.to_string();
            answer(reports, &Err(ReportError::NotDone { cause }));
            return Vec::new();
        }
    };
    let sorted = Sorted::new(&map, me, reports);
    let mut again = sorted.later;
    for (command, reports) in [sorted.in_sync, sorted.released].into_iter().flatten() {
        match inner.propose_partitions(command, TIMEOUT).await {
            Ok(applied) => answer(reports, &Ok(Some(applied.generation()))),
            // The state has moved on since it was read.
            Err(WriteError::Partition(_)) if !last => again.extend(reports),
            Err(WriteError::Partition(error)) => answer(reports, &Err(ReportError::Refused(error))),
            Err(error) => {
                let cause = error.to_string();
                let error = match error.outcome() {
                    Outcome::NotDone => ReportError::NotDone { cause },
                    Outcome::Unknown => ReportError::Unknown { cause },
                };
                answer(reports, &Err(error));
            }
        }
    }
    again
}

fn answer(reports: Vec<Report>, result: &Told) {
    for report in reports {
        // Nobody may be waiting any more.
        let _ = report.done.send(result.clone());
    }
}

/// Reports as commands, in the light of one state.
#[derive(Default)]
struct Sorted {
    in_sync: Option<(PartitionCommand, Vec<Report>)>,
    released: Option<(PartitionCommand, Vec<Report>)>,
    /// Further reports of partitions that have one already.
    later: Vec<Report>,
}

impl Sorted {
    /// Answers what is so already or cannot be; makes commands of the rest.
    fn new(map: &PartitionMap, me: Start, reports: Vec<Report>) -> Self {
        let mut sorted = Self::default();
        let mut taken: BTreeMap<Spot, (Report, Option<InSyncReport>)> = BTreeMap::new();
        for report in reports {
            if taken.contains_key(&report.spot) {
                sorted.later.push(report);
                continue;
            }
            match examine(map, me, &report) {
                Ok(Verdict::Settled) => answer(vec![report], &Ok(None)),
                Ok(Verdict::InSync(described)) => drop(taken.insert(report.spot, (report, Some(described)))),
                Ok(Verdict::Released) => drop(taken.insert(report.spot, (report, None))),
                Err(error) => answer(vec![report], &Err(error)),
            }
        }
        let mut starts = BTreeSet::new();
        let (mut in_sync, mut reporting) = (Vec::new(), Vec::new());
        let (mut released, mut releasing) = (Vec::new(), Vec::new());
        for (spot, (report, described)) in taken {
            match described {
                Some(described) => {
                    if let Said::InSync(named) = &report.said {
                        starts.extend(named.iter().copied());
                    }
                    in_sync.push(described);
                    reporting.push(report);
                }
                None => {
                    released.push((spot.0, spot.1, report.epoch));
                    releasing.push(report);
                }
            }
        }
        if !in_sync.is_empty() {
            starts.insert(me);
            let command = PartitionCommand::ReportInSync {
                leader: me,
                starts: starts.into_iter().collect(),
                reports: in_sync,
            };
            sorted.in_sync = Some((command, reporting));
        }
        if !released.is_empty() {
            let command = PartitionCommand::Release { leader: me, released };
            sorted.released = Some((command, releasing));
        }
        sorted
    }
}

/// What is to be done about a report.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Settled,
    InSync(InSyncReport),
    Released,
}

fn examine(map: &PartitionMap, me: Start, report: &Report) -> Result<Verdict, ReportError> {
    let (topic, number) = report.spot;
    let partition = map.partition_of(topic, number).ok_or(ReportError::Superseded)?;
    if partition.leader_epoch() != report.epoch || partition.leader_start() != Some(me) {
        return Err(ReportError::Superseded);
    }
    let named = match &report.said {
        Said::Released if partition.hand_over_to().is_none() => return Err(ReportError::Superseded),
        Said::Released if partition.is_released() => return Ok(Verdict::Settled),
        Said::Released => return Ok(Verdict::Released),
        Said::InSync(named) => named,
    };
    for start in named {
        let node = start.node;
        if !partition.replicas().any(|replica| replica == node) {
            return Err(ReportError::NotAReplica { node });
        }
        let known = map.node(node).map(|node| node.registration.start());
        if known != Some(*start) {
            return Err(ReportError::StaleStart { node });
        }
    }
    let is = |node: NodeId| node == me.node || named.iter().any(|start| start.node == node);
    let in_sync: Vec<NodeId> = partition.replicas().filter(|node| is(*node)).collect();
    let started = |start: &Start| *start == me || named.contains(start);
    let same = partition.in_sync_starts().all(|start| started(&start))
        && partition.in_sync_starts().count() == in_sync.len();
    if same {
        return Ok(Verdict::Settled);
    }
    Ok(Verdict::InSync(InSyncReport {
        topic,
        partition: number,
        leader_epoch: report.epoch,
        partition_epoch: partition.partition_epoch(),
        in_sync,
    }))
}
