//! A rebalance is begun, filled, paused, cancelled and ended.

use std::sync::Arc;

use super::{Effect, PartitionState, planned};
use crate::{
    MovePhase, PartitionError, PlannedMove, Rebalance, RebalanceCommand, RebalanceStatus, Rule,
    cell::{Cell, Move, Slot},
    history::Changed,
    ids::Spot,
    state::change::illegal,
};

impl PartitionState {
    pub(super) fn rebalance(
        &mut self,
        generation: u64,
        command: RebalanceCommand,
    ) -> Result<Effect, PartitionError> {
        match command {
            RebalanceCommand::Begin {
                against,
                at_ms,
                moves,
                more,
            } => self.begin_rebalance((generation, at_ms), against, &moves, more),
            RebalanceCommand::Fill { id, moves, more } => {
                self.rebalance_in(id, |status| status == RebalanceStatus::Filling)?;
                self.queue(&moves, more)
            }
            RebalanceCommand::Pause { id } => {
                let status = self.rebalance_in(id, |status| {
                    matches!(status, RebalanceStatus::Running | RebalanceStatus::Paused)
                })?;
                Ok(self.set_rebalance(status, RebalanceStatus::Paused))
            }
            RebalanceCommand::Resume { id } => {
                let status = self.rebalance_in(id, |status| {
                    matches!(status, RebalanceStatus::Running | RebalanceStatus::Paused)
                })?;
                Ok(self.set_rebalance(status, RebalanceStatus::Running))
            }
            RebalanceCommand::Cancel { id } => self.cancel(id),
            RebalanceCommand::End { id } => self.end(id),
        }
    }

    fn begin_rebalance(
        &mut self,
        (generation, since_ms): (u64, u64),
        against: u64,
        moves: &[PlannedMove],
        more: bool,
    ) -> Result<Effect, PartitionError> {
        if let Some(running) = &self.map.rebalance {
            return Err(PartitionError::RebalanceUnderWay { id: running.id });
        }
        let placed = self.map.placed;
        if placed != against {
            return Err(PartitionError::StalePlan { against, placed });
        }
        self.map.rebalance = Some(Arc::new(Rebalance {
            id: generation,
            status: RebalanceStatus::Filling,
            since_ms,
            moves: 0,
            queued: 0,
            active: 0,
            done: 0,
        }));
        let queued = self.queue(moves, more);
        if queued.is_err() {
            self.map.rebalance = None;
        }
        queued
    }

    /// Marks partitions with where they shall move.
    fn queue(&mut self, moves: &[PlannedMove], more: bool) -> Result<Effect, PartitionError> {
        let spots = self.check_batch(moves.iter().map(|planned| (planned.topic, planned.partition)))?;
        let mut cells = Vec::with_capacity(moves.len());
        for (spot, planned) in spots.into_iter().zip(moves) {
            let cell = self.cell_at(spot)?;
            let target = self.check_target(&planned.target);
            let target = target.ok_or(illegal(spot, Rule::SoundTarget))?;
            if cell.moving().is_some() {
                return Err(illegal(spot, Rule::StepInOrder));
            }
            let prior: Box<[Slot]> = cell.seats().iter().map(|seat| seat.slot).collect();
            if *prior == *target {
                return Err(illegal(spot, Rule::SomethingChanges));
            }
            let mut next = cell.clone();
            next.set_moving(Some(Move {
                phase: MovePhase::Queued,
                planned: true,
                prior,
                target: target.into(),
            }));
            next.partition_epoch = next.partition_epoch.next();
            cells.push((spot, next));
        }
        let count = u32::try_from(cells.len()).unwrap_or(u32::MAX);
        if let Some(rebalance) = &mut self.map.rebalance {
            let rebalance = Arc::make_mut(rebalance);
            rebalance.moves = rebalance.moves.saturating_add(count);
            if !more {
                rebalance.status = RebalanceStatus::Running;
            }
        }
        Ok(Effect {
            changed: self.replace(cells),
            ..Effect::none()
        })
    }

    /// Takes out what has not begun; the controller brings back the rest.
    fn cancel(&mut self, id: u64) -> Result<Effect, PartitionError> {
        let status = self.rebalance_in(id, |_| true)?;
        if status == RebalanceStatus::Cancelling {
            return Ok(Effect::none());
        }
        let mut effect = self.set_rebalance(status, RebalanceStatus::Cancelling);
        let queued = self.unmark(|phase| phase == MovePhase::Queued);
        effect.changed.extend(queued);
        Ok(effect)
    }

    /// Forgets a rebalance that has nothing left to move.
    fn end(&mut self, id: u64) -> Result<Effect, PartitionError> {
        let status = self.rebalance_in(id, |status| {
            matches!(status, RebalanceStatus::Running | RebalanceStatus::Cancelling)
        })?;
        let left = self.map.rebalance.as_ref().map_or(0, |rebalance| {
            let undone = (status == RebalanceStatus::Cancelling).then_some(rebalance.done);
            rebalance.queued + rebalance.active + undone.unwrap_or(0)
        });
        if left > 0 {
            return Err(PartitionError::RebalanceStatus { status });
        }
        let mut changed = self.unmark(|_| true);
        changed.push(Changed::Rebalance);
        self.map.rebalance = None;
        Ok(Effect {
            changed,
            placed: true,
            created: None,
        })
    }

    /// Takes partitions of some phases out of the rebalance as they are.
    fn unmark(&mut self, which: impl Fn(MovePhase) -> bool) -> Vec<Changed> {
        let marked = self
            .map
            .topics
            .cells()
            .filter(|(_, cell)| planned(cell).is_some_and(&which));
        let unmarked = marked.map(|(spot, cell)| {
            let mut next: Cell = cell.clone();
            next.set_moving(None);
            next.partition_epoch = next.partition_epoch.next();
            (spot, next)
        });
        let unmarked: Vec<(Spot, Cell)> = unmarked.collect();
        self.replace(unmarked)
    }

    /// The status of the rebalance of that number, if it is one of those wanted.
    fn rebalance_in(
        &self,
        id: u64,
        wanted: impl Fn(RebalanceStatus) -> bool,
    ) -> Result<RebalanceStatus, PartitionError> {
        let running = self.map.rebalance.as_ref().filter(|running| running.id == id);
        let running = running.ok_or(PartitionError::UnknownRebalance { id })?;
        if !wanted(running.status) {
            return Err(PartitionError::RebalanceStatus {
                status: running.status,
            });
        }
        Ok(running.status)
    }

    fn set_rebalance(&mut self, was: RebalanceStatus, is: RebalanceStatus) -> Effect {
        if was == is {
            return Effect::none();
        }
        if let Some(rebalance) = &mut self.map.rebalance {
            Arc::make_mut(rebalance).status = is;
        }
        Effect {
            changed: vec![Changed::Rebalance],
            ..Effect::none()
        }
    }

    /// Keeps the counts of the rebalance in step with partitions whose phase has changed.
    pub(super) fn count_phases(&mut self, phases: &[(Option<MovePhase>, Option<MovePhase>)]) {
        let Some(rebalance) = &mut self.map.rebalance else {
            return;
        };
        let rebalance = Arc::make_mut(rebalance);
        for (was, is) in phases {
            if let Some(count) = was.map(|phase| rebalance.count_of(phase)) {
                *count = count.saturating_sub(1);
            }
            if let Some(count) = is.map(|phase| rebalance.count_of(phase)) {
                *count = count.saturating_add(1);
            }
        }
    }
}

impl Rebalance {
    pub(super) fn count_of(&mut self, phase: MovePhase) -> &mut u32 {
        match phase {
            MovePhase::Queued => &mut self.queued,
            MovePhase::Adding | MovePhase::Undoing => &mut self.active,
            MovePhase::Done => &mut self.done,
        }
    }
}
