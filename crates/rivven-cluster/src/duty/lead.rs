//! Leading a partition: the proof that this process may, and what it says of the replicas.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rivven_partition::{LeaderEpoch, Start};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Desk, Replica,
    lease::Lapsed,
    report::{Report, ReportError, Said, Told},
};
use crate::inner::Stage;

/// The leadership of a partition. Clones are the same one.
#[derive(Clone)]
pub struct Lead(pub(super) Arc<Leadership>);

pub(super) struct Leadership {
    pub(super) replica: Replica,
    pub(super) epoch: LeaderEpoch,
    /// Generation of the assignments that say so.
    pub(super) since: u64,
    pub(super) me: Start,
    pub(super) open: AtomicBool,
    /// Replicas that reports under way, or of unknown outcome, may have put in sync.
    pub(super) pending: Mutex<Pending>,
    /// The last epoch of this partition that this process has let go of.
    pub(super) let_go: Arc<AtomicU64>,
    pub(super) desk: Arc<Desk>,
}

/// Proof that this process leads a partition, and nobody else does. From [`Lead::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    epoch: LeaderEpoch,
    until: Instant,
}

impl Fence {
    /// The fencing token: higher than that of every earlier leader. Whoever is asked in its name refuses a lower
    /// one than it has seen.
    #[must_use]
    pub const fn epoch(self) -> LeaderEpoch {
        self.epoch
    }

    /// How long the proof still holds without being renewed, which goes on by itself.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Lead {
    /// The partition.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.0.replica
    }

    /// The fencing token of this leadership.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.0.epoch
    }

    /// Says that the partition is open, and waits until a quorum has confirmed the leadership.
    ///
    /// Cancel safety: the partition counts as open; [`Self::check`] says whether it is confirmed.
    ///
    /// # Errors
    /// The leadership is over already.
    pub async fn ready(&self) -> Result<Fence, Lapsed> {
        self.open();
        let desk = &self.0.desk;
        let mut stage = desk.stage.clone();
        loop {
            let mut renewals = desk.lease.renew_soon();
            match self.check() {
                Err(Lapsed::Unconfirmed) => {}
                result => return result,
            }
            tokio::select! {
                biased;
                _ = stage.wait_for(|stage| *stage == Stage::Stopped) => return Err(Lapsed::Stopped),
                _ = renewals.changed() => {}
            }
        }
    }

    /// Says that the partition is open.
    pub(crate) fn open(&self) {
        self.0.open.store(true, Ordering::Release);
        drop(self.0.desk.lease.renew_soon());
    }

    /// Whether this process leads the partition at this moment, and nobody else does. Local, tens of nanoseconds.
    ///
    /// Check before a write is accepted, and again before it is acknowledged, once the in-sync replicas have it.
    /// A lease (`LEADER_LEASE`) makes it hold: a quorum has confirmed the leadership within it, and no successor
    /// begins before it is over. It rests on clocks that run at the same rate within a tenth, and on none that show
    /// the same time. What a process does after a check, it may do late: whoever is written to must refuse epochs
    /// below the highest it has seen.
    ///
    /// # Errors
    /// [`Lapsed`] says whether it can come back.
    pub fn check(&self) -> Result<Fence, Lapsed> {
        let lead = &*self.0;
        if lead.let_go.load(Ordering::Acquire) >= lead.epoch.0 {
            return Err(Lapsed::Released);
        }
        if !lead.open.load(Ordering::Acquire) {
            return Err(Lapsed::NotOpen);
        }
        let epoch = lead.epoch;
        let claim = (epoch, lead.since);
        let until = lead.desk.lease.check(lead.replica.spot(), lead.me, claim)?;
        Ok(Fence { epoch, until })
    }

    /// The replicas by preference as this node knows them, this one included, each with its present start. Those
    /// that are being added come last.
    #[must_use]
    pub fn replicas(&self) -> Vec<Start> {
        let (topic, partition) = self.0.replica.spot();
        self.0.desk.published.read(|state| {
            let map = state.map();
            let found = map.partition_of(topic, partition);
            let nodes = found.into_iter().flat_map(rivven_partition::Partition::replicas);
            nodes
                .filter_map(|node| map.node(node).map(|node| node.registration.start()))
                .collect()
        })
    }

    /// The replicas that count as in sync or may by now, this one included. Acknowledge what all of these have.
    ///
    /// Those are the recorded ones and, beside them, any that [`Self::report`] was called with and that may have
    /// been recorded since, so that nothing is acknowledged that a later leader lacks.
    #[must_use]
    pub fn in_sync(&self) -> Vec<Start> {
        let (topic, partition) = self.0.replica.spot();
        let pending = self.0.pending().starts();
        self.0.desk.published.read(|state| {
            let found = state.map().partition_of(topic, partition);
            let mut starts: Vec<Start> = found
                .into_iter()
                .flat_map(rivven_partition::Partition::in_sync_starts)
                .collect();
            let more = pending.into_iter().filter(|start| !starts.contains(start));
            let more: Vec<Start> = more.collect();
            starts.extend(more);
            starts
        })
    }

    /// Reports which replicas are in sync: those that have everything acknowledged, under the start that was seen to
    /// have it. The leader always is, named or not. Returns once that is durable on a quorum and known here.
    ///
    /// Take a replica out before acknowledging what it does not have; put one in once it has everything, and have it
    /// get all that is acknowledged from the call on ([`Self::in_sync`] names it from then). Reports of many
    /// partitions travel together.
    ///
    /// Cancel safety: a report whose future is dropped may still take effect, and counts as of unknown outcome.
    ///
    /// # Errors
    /// [`ReportError`].
    pub async fn report(&self, in_sync: &[Start]) -> Result<(), ReportError> {
        let lead = &*self.0;
        let id = lead.pending().begin(in_sync);
        let mut changed = lead.desk.published.subscribe();
        let told = lead.say(Said::InSync(in_sync.to_vec())).await;
        if let Ok(Some(generation)) = told {
            let mut stage = lead.desk.stage.clone();
            tokio::select! {
                biased;
                _ = changed.wait_for(|known| *known >= generation) => {}
                _ = stage.wait_for(|stage| *stage == Stage::Stopped) => return Err(ReportError::Stopped),
            }
        }
        lead.pending().end(id, &told);
        told.map(drop)
    }
}

/// Reports under way or of unknown outcome, in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Pending {
    next: u64,
    reports: Vec<(u64, Vec<Start>)>,
}

impl Pending {
    fn begin(&mut self, in_sync: &[Start]) -> u64 {
        let id = self.next;
        self.next += 1;
        self.reports.push((id, in_sync.to_vec()));
        id
    }

    fn end(&mut self, id: u64, told: &Told) {
        match told {
            // What was begun earlier is in effect already, or refused because the partition has changed.
            Ok(Some(_)) => self.reports.retain(|(of, _)| *of > id),
            Err(ReportError::Unknown { .. } | ReportError::Stopped) => {}
            Ok(None) | Err(_) => self.reports.retain(|(of, _)| *of != id),
        }
    }

    fn starts(&self) -> BTreeSet<Start> {
        let named = self.reports.iter().flat_map(|(_, starts)| starts);
        named.copied().collect()
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lead").field(&self.0).finish()
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("replica", &self.replica)
            .field("epoch", &self.epoch.0)
            .finish_non_exhaustive()
    }
}

impl Leadership {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn say(&self, said: Said) -> Told {
        let (done, answer) = oneshot::channel();
        let report = Report {
            spot: self.replica.spot(),
            epoch: self.epoch,
            said,
            done,
        };
        let mut stage = self.desk.stage.clone();
        let said = async {
            self.desk.reports.send(report).await.ok()?;
            answer.await.ok()
        };
        tokio::select! {
            biased;
            answer = said => answer.unwrap_or(Err(ReportError::Stopped)),
            _ = stage.wait_for(|stage| *stage == Stage::Stopped) => Err(ReportError::Stopped),
        }
    }
}
