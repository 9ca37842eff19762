//! Leaders, in-sync replicas and replicas change, many partitions at once or none.

use std::collections::BTreeMap;

use rivven_types::NodeId;

use super::{Effect, PartitionState};
use crate::{
    MAX_CHANGES_PER_COMMAND, MAX_REPLICATION_FACTOR, MovePhase, NodeStatus, PartitionChange, PartitionError,
    RebalanceStatus, Rule, Start, Step, TopicId,
    cell::{Cell, HandOver, Move, Seat, Slot},
    ids::Spot,
};

/// Seats of the nodes whose present start a command names.
pub(super) type Confirmed = BTreeMap<Slot, Seat>;

impl PartitionState {
    /// Applies a batch whose every change fits the current epochs and the rules; otherwise nothing.
    pub(super) fn change_partitions(
        &mut self,
        starts: &[Start],
        changes: &[PartitionChange],
    ) -> Result<Effect, PartitionError> {
        let confirmed = self.confirm(starts)?;
        let spots = self.check_batch(changes.iter().map(|change| (change.topic, change.partition)))?;
        let mut cells = Vec::with_capacity(changes.len());
        let mut placed = false;
        for (spot, change) in spots.into_iter().zip(changes) {
            let cell = self.cell_at(spot)?;
            if (change.leader_epoch, change.partition_epoch) != (cell.leader_epoch, cell.partition_epoch) {
                return Err(stale(spot));
            }
            let next = self.next_cell(spot, cell, change, &confirmed);
            let next = next.map_err(|rule| illegal(spot, rule))?;
            placed |= !matches!(change.step, Step::Stay | Step::HandOver { .. });
            cells.push((spot, next));
        }
        Ok(Effect {
            changed: self.replace(cells),
            placed,
            created: None,
        })
    }

    /// The seats of nodes whose named starts are their present ones.
    pub(super) fn confirm(&self, starts: &[Start]) -> Result<Confirmed, PartitionError> {
        let seat = |start: &Start| {
            let slot = self.check_start(*start)?;
            Ok((slot, self.map.nodes.seat(slot)))
        };
        starts.iter().map(seat).collect()
    }

    /// The slot of a node whose present start is this one.
    pub(super) fn check_start(&self, start: Start) -> Result<Slot, PartitionError> {
        let node = start.node;
        let slot = self.map.nodes.slot(node);
        let slot = slot.ok_or(PartitionError::UnknownNode { node })?;
        match self.map.nodes.at(slot) {
            Some(known) if known.status == NodeStatus::Removed => Err(PartitionError::NodeRemoved { node }),
            Some(known) if known.registration.start() == start => Ok(slot),
            _ => Err(PartitionError::StaleStart { node }),
        }
    }

    /// The spots of a batch that has a fit size and is strictly ascending.
    pub(super) fn check_batch(
        &self,
        batch: impl ExactSizeIterator<Item = (TopicId, u32)>,
    ) -> Result<Vec<Spot>, PartitionError> {
        let changes = batch.len();
        if !(1..=MAX_CHANGES_PER_COMMAND).contains(&changes) {
            return Err(PartitionError::InvalidBatchSize { changes });
        }
        let mut spots = Vec::with_capacity(changes);
        for (topic, partition) in batch {
            let unknown = PartitionError::UnknownPartition { topic, partition };
            let spot = Spot::new(topic, partition).ok_or(unknown)?;
            if spots.last().is_some_and(|before| *before >= spot) {
                return Err(PartitionError::UnorderedBatch { topic, partition });
            }
            spots.push(spot);
        }
        Ok(spots)
    }

    pub(super) fn cell_at(&self, spot: Spot) -> Result<&Cell, PartitionError> {
        let unknown = || PartitionError::UnknownPartition {
            topic: spot.topic(),
            partition: spot.partition(),
        };
        self.map.topics.cell(spot).ok_or_else(unknown)
    }

    /// What a change makes of a partition.
    pub(super) fn next_cell(
        &self,
        spot: Spot,
        cell: &Cell,
        change: &PartitionChange,
        confirmed: &Confirmed,
    ) -> Result<Cell, Rule> {
        let mut next = cell.clone();
        self.take_step(spot, &mut next, change)?;
        let was = cell.leader();
        self.sync(cell, &mut next, &change.in_sync, confirmed)?;
        let leader = match change.leader {
            None => None,
            Some(node) => {
                let at = self.map.nodes.slot(node).and_then(|slot| next.place_of(slot));
                let at = at.filter(|at| next.is_in_sync(*at)).ok_or(Rule::LeaderInSync)?;
                let removed = |node| self.map.node(node).map(|node| node.status) == Some(NodeStatus::Removed);
                if removed(node) {
                    return Err(Rule::LeaderNotRemoved);
                }
                Some(at)
            }
        };
        next.set_leader(leader);
        // A leader that was asked to let go and is not to, after all, goes on under a new epoch: it may have
        // let go already.
        let called_off = change.step == Step::Stay && cell.hand_over().is_some() && next == *cell;
        if next.leader() != was || called_off {
            next.leader_epoch = next.leader_epoch.next();
            next.cleared = self.clears(cell, next.leader());
            next.set_hand_over(None);
        }
        if let Step::HandOver { to, at_ms } = change.step {
            next.set_hand_over(Some(self.hand_over(cell, &next, to, at_ms)?));
        }
        if next == *cell {
            return Err(Rule::SomethingChanges);
        }
        next.partition_epoch = next.partition_epoch.next();
        Ok(next)
    }

    /// Marks who is in sync, under the start that the command names or, unless it names one, as before.
    fn sync(
        &self,
        was: &Cell,
        next: &mut Cell,
        in_sync: &[NodeId],
        confirmed: &Confirmed,
    ) -> Result<(), Rule> {
        let mut bits = 0;
        let mut from = 0;
        for node in in_sync {
            let slot = self.map.nodes.slot(*node).ok_or(Rule::InSyncWithinReplicas)?;
            let at = next.place_of(slot).filter(|at| *at >= from);
            let at = at.ok_or(Rule::InSyncWithinReplicas)?;
            let synced_before = was.place_of(slot).is_some_and(|at| was.is_in_sync(at));
            match (confirmed.get(&slot), next.seats.as_mut_slice().get_mut(at)) {
                (Some(seat), Some(place)) => *place = *seat,
                _ if synced_before => {}
                _ => return Err(Rule::StartNamed),
            }
            bits |= 1 << at;
            from = at + 1;
        }
        if bits == 0 {
            return Err(Rule::InSyncWithinReplicas);
        }
        next.in_sync = bits;
        Ok(())
    }

    /// Whether nobody else can still believe to lead once `next` leads: who led has let go, or a later start of its
    /// directory is registered, so that its process is over.
    ///
    /// A leader lets go only once its own predecessor is over. One that has ended may not have waited so long.
    pub(super) fn clears(&self, cell: &Cell, next: Option<Seat>) -> bool {
        let Some(seat) = cell.leader().filter(|seat| Some(*seat) != next) else {
            // Nobody has led since, or the same process goes on.
            return cell.cleared;
        };
        let now = self.map.nodes.seat(seat.slot);
        let over = now.instance == seat.instance && now.boot > seat.boot;
        over && cell.cleared || cell.hand_over().is_some_and(|asked| asked.released)
    }

    fn hand_over(&self, was: &Cell, next: &Cell, to: NodeId, since_ms: u64) -> Result<HandOver, Rule> {
        let same = was.leader() == next.leader() && was.in_sync == next.in_sync;
        let to = self.map.nodes.slot(to).ok_or(Rule::HandOverToInSync)?;
        let fit = next.place_of(to).is_some_and(|at| next.is_in_sync(at));
        if !same || !fit || next.leader().is_none_or(|leader| leader.slot == to) {
            return Err(Rule::HandOverToInSync);
        }
        Ok(HandOver {
            to,
            since_ms,
            released: false,
        })
    }

    /// Brings the seats and the move of a partition to what they are after a step, in sync or not.
    fn take_step(&self, spot: Spot, next: &mut Cell, change: &PartitionChange) -> Result<(), Rule> {
        let moving = next.moving().cloned();
        match (&change.step, moving) {
            (Step::Stay | Step::HandOver { .. }, _) => Ok(()),
            (Step::Begin(target), moving) => self.begin(next, moving, target),
            (Step::Finish, Some(moving)) if moving.is_active() => {
                let mut added = moving.target.iter().filter(|slot| !moving.prior.contains(slot));
                let synced = |slot: &Slot| change.in_sync.contains(&self.map.nodes.id(*slot));
                if !added.all(synced) {
                    return Err(Rule::SuccessorsInSync);
                }
                self.check_enough(spot, change, moving.target.len())?;
                reseat(next, &moving.target);
                let done = moving.planned && moving.phase == MovePhase::Adding;
                next.set_moving(done.then_some(Move {
                    phase: MovePhase::Done,
                    ..moving
                }));
                Ok(())
            }
            (Step::Revert, Some(moving)) if moving.is_active() => {
                self.check_enough(spot, change, moving.prior.len())?;
                reseat(next, &moving.prior);
                next.set_moving(None);
                Ok(())
            }
            (Step::Forget, Some(moving)) if !moving.is_active() => {
                next.set_moving(None);
                Ok(())
            }
            (Step::Finish | Step::Revert | Step::Forget, _) => Err(Rule::StepInOrder),
        }
    }

    /// Whether a move that takes replicas away leaves enough of them in sync.
    fn check_enough(&self, spot: Spot, change: &PartitionChange, replicas: usize) -> Result<(), Rule> {
        let topic = self.map.topic_of(spot.topic());
        let enough = topic.map_or(1, |topic| topic.effective().min_in_sync());
        if change.in_sync.len() < enough.min(replicas) {
            return Err(Rule::EnoughInSync);
        }
        Ok(())
    }

    fn begin(&self, next: &mut Cell, moving: Option<Move>, target: &[NodeId]) -> Result<(), Rule> {
        let target = self.check_target(target).ok_or(Rule::SoundTarget)?;
        let status = self.map.rebalance.as_ref().map(|rebalance| rebalance.status);
        let cancelling = status == Some(RebalanceStatus::Cancelling);
        let prior: Box<[Slot]> = next.seats().iter().map(|seat| seat.slot).collect();
        let (phase, planned) = match moving {
            Some(moving) if moving.is_active() => return Err(Rule::StepInOrder),
            Some(moving) if moving.phase == MovePhase::Queued && *moving.target == *target => {
                (MovePhase::Adding, moving.planned)
            }
            Some(moving) if moving.phase == MovePhase::Done && cancelling && *moving.prior == *target => {
                (MovePhase::Undoing, moving.planned)
            }
            // A repair takes the partition out of the rebalance.
            Some(_) | None => (MovePhase::Adding, false),
        };
        let mut seats = next.seats().to_vec();
        let added = target.iter().filter(|slot| !prior.contains(slot));
        seats.extend(added.map(|slot| Seat {
            slot: *slot,
            ..Seat::default()
        }));
        next.seats = seats.as_slice().into();
        next.set_moving(Some(Move {
            phase,
            planned,
            prior,
            target: target.into(),
        }));
        Ok(())
    }

    /// The slots of a target: distinct registered nodes that were not removed, not too many.
    pub(super) fn check_target(&self, target: &[NodeId]) -> Option<Vec<Slot>> {
        let mut slots = Vec::with_capacity(target.len());
        for node in target {
            let slot = self.map.nodes.slot(*node)?;
            let known = self.map.nodes.at(slot)?;
            if slots.contains(&slot) || known.status == NodeStatus::Removed {
                return None;
            }
            slots.push(slot);
        }
        let fit = 1..=usize::from(MAX_REPLICATION_FACTOR);
        fit.contains(&slots.len()).then_some(slots)
    }
}

impl Move {
    /// Whether new replicas are catching up.
    const fn is_active(&self) -> bool {
        match self.phase {
            MovePhase::Adding | MovePhase::Undoing => true,
            MovePhase::Queued | MovePhase::Done => false,
        }
    }
}

/// Seats the nodes of `order`, with what is known of those that have a seat.
fn reseat(cell: &mut Cell, order: &[Slot]) {
    let seats = order.iter().map(|slot| {
        let at = cell.place_of(*slot);
        let known = at.and_then(|at| cell.seats().get(at)).copied();
        known.unwrap_or(Seat {
            slot: *slot,
            ..Seat::default()
        })
    });
    let seats: Vec<Seat> = seats.collect();
    cell.seats = seats.as_slice().into();
    cell.set_hand_over(None);
    // Who leads and who is in sync is set right after, by place.
    cell.set_leader(None);
}

pub(super) const fn stale(spot: Spot) -> PartitionError {
    PartitionError::StaleEpoch {
        topic: spot.topic(),
        partition: spot.partition(),
    }
}

pub(super) const fn illegal(spot: Spot, rule: Rule) -> PartitionError {
    PartitionError::IllegalChange {
        topic: spot.topic(),
        partition: spot.partition(),
        rule,
    }
}
