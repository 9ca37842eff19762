//! What leaders say of their partitions, and what operators decide against them.

use std::sync::Arc;

use super::{
    Effect, PartitionState,
    change::{illegal, stale},
};
use crate::{
    InSyncReport, LeaderEpoch, MAX_REASON_LEN, MAX_UNCLEAN_RECORDS, PartitionChange, PartitionError, Rule,
    Start, Step, TopicId, UncleanElection,
    cell::{Cell, HandOver, Slot},
    history::Changed,
    ids::Spot,
};

impl PartitionState {
    /// Records which replicas a leader has found in sync.
    pub(super) fn report_in_sync(
        &mut self,
        leader: Start,
        starts: &[Start],
        reports: Vec<InSyncReport>,
    ) -> Result<Effect, PartitionError> {
        let slot = self.check_start(leader)?;
        let confirmed = self.confirm(starts)?;
        let spots = self.check_batch(reports.iter().map(|report| (report.topic, report.partition)))?;
        let mut cells = Vec::with_capacity(reports.len());
        for (spot, report) in spots.into_iter().zip(reports) {
            let cell = self.led_by(spot, leader, slot, report.leader_epoch)?;
            if report.partition_epoch != cell.partition_epoch {
                return Err(stale(spot));
            }
            let change = PartitionChange {
                topic: report.topic,
                partition: report.partition,
                leader_epoch: report.leader_epoch,
                partition_epoch: report.partition_epoch,
                in_sync: report.in_sync,
                leader: Some(leader.node),
                step: Step::Stay,
            };
            let next = self.next_cell(spot, cell, &change, &confirmed);
            cells.push((spot, next.map_err(|rule| illegal(spot, rule))?));
        }
        Ok(Effect {
            changed: self.replace(cells),
            ..Effect::none()
        })
    }

    /// Records that a leader has let go of partitions that it was asked to hand over.
    pub(super) fn release(
        &mut self,
        leader: Start,
        released: &[(TopicId, u32, LeaderEpoch)],
    ) -> Result<Effect, PartitionError> {
        let slot = self.check_start(leader)?;
        let spots = self.check_batch(released.iter().map(|(topic, partition, _)| (*topic, *partition)))?;
        let mut cells = Vec::with_capacity(released.len());
        for (spot, (_, _, epoch)) in spots.into_iter().zip(released) {
            let cell = self.led_by(spot, leader, slot, *epoch)?;
            let asked = cell.hand_over().filter(|asked| !asked.released);
            let asked = asked.ok_or(illegal(spot, Rule::StepInOrder))?;
            let mut next = cell.clone();
            next.set_hand_over(Some(HandOver {
                released: true,
                ..asked
            }));
            next.partition_epoch = next.partition_epoch.next();
            cells.push((spot, next));
        }
        Ok(Effect {
            changed: self.replace(cells),
            ..Effect::none()
        })
    }

    /// A partition that this very process leads in this epoch.
    fn led_by(
        &self,
        spot: Spot,
        leader: Start,
        slot: Slot,
        epoch: LeaderEpoch,
    ) -> Result<&Cell, PartitionError> {
        let cell = self.cell_at(spot)?;
        let led = cell.leader().filter(|seat| seat.slot == slot);
        let led = led.and_then(|seat| self.map.nodes.start_of(seat));
        if led != Some(leader) {
            return Err(illegal(spot, Rule::ByLeader));
        }
        if cell.leader_epoch != epoch {
            return Err(stale(spot));
        }
        Ok(cell)
    }

    /// Elects a replica that was not in sync, and remembers that somebody asked for it.
    pub(super) fn elect_unclean(&mut self, election: UncleanElection) -> Result<Effect, PartitionError> {
        let (topic, partition) = (election.topic, election.partition);
        let unknown = PartitionError::UnknownPartition { topic, partition };
        let spot = Spot::new(topic, partition).ok_or(unknown)?;
        if election.reason.len() > MAX_REASON_LEN {
            return Err(PartitionError::ReasonTooLong);
        }
        let slot = self.check_start(election.leader)?;
        let cell = self.cell_at(spot)?;
        if cell.partition_epoch != election.partition_epoch {
            return Err(stale(spot));
        }
        let at = cell.place_of(slot);
        let at = at.ok_or(illegal(spot, Rule::InSyncWithinReplicas))?;
        let mut next = cell.clone();
        if let Some(seat) = next.seats.as_mut_slice().get_mut(at) {
            *seat = self.map.nodes.seat(slot);
        }
        next.in_sync = 1 << at;
        next.set_leader(Some(at));
        next.cleared = self.clears(cell, next.leader());
        next.set_hand_over(None);
        // Whoever led before must be fenced even if it is the same process: what was in sync is no more.
        next.leader_epoch = next.leader_epoch.next();
        next.partition_epoch = next.partition_epoch.next();
        let mut changed = self.replace(vec![(spot, next)]);
        let records = Arc::make_mut(&mut self.map.unclean);
        let surplus = (records.len() + 1).saturating_sub(MAX_UNCLEAN_RECORDS);
        records.drain(..surplus);
        records.push(election);
        changed.push(Changed::Settings);
        Ok(Effect {
            changed,
            ..Effect::none()
        })
    }
}
