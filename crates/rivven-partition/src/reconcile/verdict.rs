//! What one partition needs, seen by itself.

use super::{
    InSyncRule,
    view::{Standing, View},
};
use crate::{
    Step,
    cell::{Cell, Seat},
};

/// What a partition needs.
pub(super) enum Verdict {
    /// Nothing that life and death make necessary.
    Settled,
    /// Nothing before some time has passed.
    Wait,
    /// Another leader, chosen when all that need one are known.
    Elect {
        /// Places of the in-sync replicas.
        in_sync: u32,
    },
    /// This change.
    Change {
        /// Places of the in-sync replicas.
        in_sync: u32,
        /// Place of the leader.
        leader: Option<usize>,
        /// What becomes of the replicas.
        step: Step,
    },
}

impl View<'_> {
    pub(super) fn verdict(&self, cell: &Cell) -> Verdict {
        if self.outlives(cell) {
            return Verdict::Wait;
        }
        let in_sync = self.in_sync(cell);
        let same = in_sync == cell.in_sync && !self.needs_refresh(cell, in_sync);
        let leader = cell.leader();
        if let Some(kept) = leader.filter(|seat| self.keeps(cell, *seat, in_sync)) {
            let at = cell.place_of(kept.slot);
            if !same {
                let step = Step::Stay;
                return Verdict::Change {
                    in_sync,
                    leader: at,
                    step,
                };
            }
            return self.hand_over(cell, kept);
        }
        // Leaderless and nobody to elect: there may be many of these, for long.
        let hopeless = leader.is_none() && self.candidate(cell, in_sync).is_none();
        match (hopeless, same) {
            (true, true) => Verdict::Settled,
            (true, false) => Verdict::Change {
                in_sync,
                leader: None,
                step: Step::Stay,
            },
            (false, _) => Verdict::Elect { in_sync },
        }
    }

    /// Whether the leader was lost so lately that it may still believe to lead.
    fn outlives(&self, cell: &Cell) -> bool {
        let Some(seat) = cell.leader() else {
            return false;
        };
        let seen = self.of(seat.slot);
        seen.standing == Standing::Gone && !seen.expired && self.is_current(seat)
    }

    /// Places of the replicas in sync; the last known ones if all are gone.
    fn in_sync(&self, cell: &Cell) -> u32 {
        let mut bits = 0;
        for (at, seat) in cell.seats().iter().enumerate() {
            let (before, seen) = (cell.is_in_sync(at), self.of(seat.slot));
            let is = match (self.policy.in_sync, seen.standing) {
                (_, Standing::Gone) => false,
                (InSyncRule::LiveReplica, Standing::Able | Standing::Leaving) => true,
                (InSyncRule::LiveReplica, Standing::Doubtful { .. }) => before,
                // What is on another disk than before is not what was in sync.
                (InSyncRule::Reported, _) => before && self.map.nodes.is_same_disk(*seat),
            };
            bits |= u32::from(is) << at;
        }
        if bits == 0 { cell.in_sync } else { bits }
    }

    /// Whether a replica that is in sync is recorded under an earlier start.
    fn needs_refresh(&self, cell: &Cell, in_sync: u32) -> bool {
        let mut seats = cell.seats().iter().enumerate();
        self.policy.in_sync == InSyncRule::LiveReplica
            && seats.any(|(at, seat)| {
                let alive = matches!(self.of(seat.slot).standing, Standing::Able | Standing::Leaving);
                in_sync & (1 << at) != 0 && alive && !self.is_current(*seat)
            })
    }

    /// Whether a leader stays: the process that was elected is in sync and not known to be gone, and if it is
    /// leaving nobody else can lead. A leader that is alive and leaving is asked, where leaders are.
    fn keeps(&self, cell: &Cell, seat: Seat, in_sync: u32) -> bool {
        let synced = cell
            .place_of(seat.slot)
            .is_some_and(|at| in_sync & (1 << at) != 0);
        let asked = self.policy.in_sync == InSyncRule::Reported && self.policy.release_ms > 0;
        synced
            && self.is_current(seat)
            && match self.of(seat.slot).standing {
                Standing::Able | Standing::Doubtful { leaving: false } => true,
                Standing::Leaving if asked => true,
                Standing::Leaving | Standing::Doubtful { leaving: true } => {
                    self.least(cell, in_sync, Standing::Able).is_none()
                }
                Standing::Gone => false,
            }
    }

    /// How the hand-over of a partition goes on, if there is one or must be.
    fn hand_over(&self, cell: &Cell, leader: Seat) -> Verdict {
        let in_sync = cell.in_sync;
        let next = self.least(cell, in_sync & !bit(cell.place_of(leader.slot)), Standing::Able);
        let Some(asked) = cell.hand_over() else {
            let leaving = self.of(leader.slot).standing == Standing::Leaving;
            return match next.filter(|_| leaving).and_then(|at| cell.seats().get(at)) {
                Some(to) => Verdict::Change {
                    in_sync,
                    leader: cell.place_of(leader.slot),
                    step: self.ask(*to),
                },
                None => Verdict::Settled,
            };
        };
        let due = asked.since_ms.saturating_add(self.policy.release_ms);
        if !asked.released && self.now_ms < due {
            return Verdict::Wait;
        }
        let to = cell
            .place_of(asked.to)
            .filter(|at| in_sync & (1 << at) != 0 && self.of(asked.to).standing == Standing::Able);
        // With nobody to hand over to, the leader goes on, under a new epoch.
        let leader = to.or(next).or_else(|| cell.place_of(leader.slot));
        let step = Step::Stay;
        Verdict::Change {
            in_sync,
            leader,
            step,
        }
    }

    /// Asks a leader to let go, so that `to` can lead.
    pub(super) fn ask(&self, to: Seat) -> Step {
        Step::HandOver {
            to: self.map.nodes.id(to.slot),
            at_ms: self.now_ms,
        }
    }

    /// Whether leaders that are to move for no fault of their own are asked first.
    pub(super) const fn asks(&self) -> bool {
        matches!(self.policy.in_sync, InSyncRule::Reported) && self.policy.release_ms > 0
    }

    /// Elects a leader, and counts it: who was elected before and has merely started anew; else the in-sync
    /// replica that leads the least, by preference among equals.
    ///
    /// A node about to leave is taken only if no other is alive: a short leadership beats none.
    pub(super) fn elect(&mut self, cell: &Cell, in_sync: u32) -> Option<usize> {
        let at = self.candidate(cell, in_sync)?;
        if let Some(seat) = cell.seats().get(at) {
            self.seat(seat.slot);
        }
        Some(at)
    }

    fn candidate(&self, cell: &Cell, in_sync: u32) -> Option<usize> {
        let before = cell.leader().and_then(|seat| cell.place_of(seat.slot));
        let again = before.filter(|at| self.can_lead(cell, *at, in_sync, Standing::Able));
        again
            .or_else(|| self.least(cell, in_sync, Standing::Able))
            .or_else(|| self.least(cell, in_sync, Standing::Leaving))
    }

    /// The replica of `among` with that standing that leads the least.
    pub(super) fn least(&self, cell: &Cell, among: u32, wanted: Standing) -> Option<usize> {
        let places = 0..cell.seats().len();
        let able = places.filter(|at| self.can_lead(cell, *at, among, wanted));
        able.min_by_key(|at| cell.seats().get(*at).map(|seat| self.lead_of(seat.slot)))
    }

    fn can_lead(&self, cell: &Cell, at: usize, among: u32, wanted: Standing) -> bool {
        let metadata = self.policy.in_sync == InSyncRule::LiveReplica;
        among & (1 << at) != 0
            && cell.seats().get(at).is_some_and(|seat| {
                let same_disk = metadata || self.map.nodes.is_same_disk(*seat);
                self.of(seat.slot).standing == wanted && same_disk
            })
    }
}

/// The bit of a place.
fn bit(at: Option<usize>) -> u32 {
    at.map_or(0, |at| 1 << at)
}
