//! Replicas move: what was lost is rebuilt, factors are kept, the rebalance goes on. All within limits.

use std::collections::BTreeMap;

use super::{
    Change,
    index::Index,
    verdict::Verdict,
    view::{Standing, View},
};
use crate::{
    MovePhase, RebalanceStatus, Step, ZoneRule,
    cell::{Cell, Slot},
    ids::Spot,
};

/// Most partitions that one round tries to find replicas for; the next goes on after them.
const MAX_TRIED: usize = 4_096;

/// What may still begin.
struct Budget {
    moves: usize,
    per_node: usize,
    arrivals: BTreeMap<Slot, usize>,
}

impl Budget {
    fn takes(&self, slot: Slot) -> bool {
        self.arrivals.get(&slot).copied().unwrap_or(0) < self.per_node
    }

    /// Books the beginning of a move, unless the limits forbid it. What copies nothing is always allowed.
    fn book(&mut self, added: &[Slot]) -> bool {
        if added.is_empty() {
            return true;
        }
        if self.moves == 0 || !added.iter().all(|slot| self.takes(*slot)) {
            return false;
        }
        self.moves -= 1;
        for slot in added {
            *self.arrivals.entry(*slot).or_insert(0) += 1;
        }
        true
    }
}

/// The next steps of partitions that move or should.
pub(super) fn steps(index: &mut Index, view: &mut View<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let effective = view.map.effective();
    let mut budget = Budget {
        moves: effective.moves_in_flight().saturating_sub(index.active.len()),
        per_node: effective.moves_in_flight_per_node(),
        arrivals: index.arrivals(view.map),
    };
    for spot in &index.active {
        let cell = view.map.topics.cell(*spot);
        changes.extend(cell.and_then(|cell| view.go_on(*spot, cell)));
    }
    repairs(index, view, &mut budget, &mut changes);
    match view.map.rebalance().map(|running| running.status) {
        Some(RebalanceStatus::Running) => {
            let queued = index.queued.iter().take(MAX_TRIED);
            changes.extend(queued.filter_map(|spot| view.begin_planned(*spot, &mut budget)));
        }
        Some(RebalanceStatus::Cancelling) => {
            let done = index.done.iter().take(MAX_TRIED);
            changes.extend(done.filter_map(|spot| view.begin_planned(*spot, &mut budget)));
        }
        Some(RebalanceStatus::Filling | RebalanceStatus::Paused) | None => {}
    }
    changes
}

/// Begins the replacement of replicas, round robin over all that need it.
fn repairs(index: &mut Index, view: &mut View<'_>, budget: &mut Budget, changes: &mut Vec<Change>) {
    let cursor = index.cursor.take();
    let after = index.unfit.iter().filter(|spot| Some(**spot) > cursor);
    let before = index.unfit.iter().take_while(|spot| Some(**spot) <= cursor);
    let mut last = None;
    for spot in after.chain(before).take(MAX_TRIED) {
        let cell = view.map.topics.cell(*spot);
        changes.extend(cell.and_then(|cell| view.replace(*spot, cell, budget)));
        last = Some(*spot);
    }
    index.cursor = last.filter(|_| index.unfit.len() > MAX_TRIED);
}

impl View<'_> {
    /// Whether a partition should have other replicas than it has, and no rebalance is about to see to it.
    pub(super) fn is_unfit(&self, spot: Spot, cell: &Cell) -> bool {
        let queued = cell.moving().filter(|moving| moving.phase == MovePhase::Queued);
        if let Some(queued) = queued {
            return queued.target.iter().any(|slot| self.of(*slot).lost);
        }
        let topic = self.map.topics.get(spot.topic());
        let wanted = topic.map_or(0, |topic| usize::from(topic.replication_factor));
        cell.seats().len() != wanted || cell.seats().iter().any(|seat| self.of(seat.slot).lost)
    }

    /// The next step of a partition whose new replicas are catching up.
    fn go_on(&self, spot: Spot, cell: &Cell) -> Option<Change> {
        let moving = cell.active_move()?;
        let place = |slot: &Slot| cell.place_of(*slot);
        let synced = |slot: &Slot| place(slot).is_some_and(|at| cell.is_in_sync(at));
        let bits = |slots: &[Slot]| {
            let places = slots.iter().filter(|slot| synced(slot)).filter_map(place);
            places.fold(0, |bits, at| bits | 1 << at)
        };
        let ready = cell.adding().all(|slot| synced(&slot));
        if ready && self.is_enough(spot, bits(&moving.target), moving.target.len()) {
            let in_sync = bits(&moving.target);
            return self.end(spot, cell, in_sync, Step::Finish);
        }
        // Whom it moves to has been lost on the way.
        let lost = cell.adding().any(|slot| self.of(slot).lost);
        if lost && self.is_enough(spot, bits(&moving.prior), moving.prior.len()) {
            let in_sync = bits(&moving.prior);
            return self.end(spot, cell, in_sync, Step::Revert);
        }
        None
    }

    /// Takes replicas away, with a leader among those that stay.
    fn end(&self, spot: Spot, cell: &Cell, in_sync: u32, step: Step) -> Option<Change> {
        let leader = cell.leader().and_then(|seat| cell.place_of(seat.slot));
        let stays = |at: usize| in_sync & (1 << at) != 0;
        if leader.is_none_or(stays) {
            return Some(Change {
                spot,
                in_sync,
                leader,
                step,
            });
        }
        let next = self.least(cell, in_sync, Standing::Able)?;
        if !self.asks() {
            return Some(Change {
                spot,
                in_sync,
                leader: Some(next),
                step,
            });
        }
        let to = cell.seats().get(next).filter(|_| cell.hand_over().is_none())?;
        Some(Change {
            spot,
            in_sync: cell.in_sync,
            leader,
            step: self.ask(*to),
        })
    }

    fn is_enough(&self, spot: Spot, in_sync: u32, replicas: usize) -> bool {
        let topic = self.map.topic_of(spot.topic());
        let enough = topic.map_or(1, |topic| topic.effective().min_in_sync());
        let count = usize::try_from(in_sync.count_ones()).unwrap_or(usize::MAX);
        count > 0 && count >= enough.min(replicas)
    }

    /// Begins a move of the rebalance, there or back; takes it out if it has become impossible.
    fn begin_planned(&self, spot: Spot, budget: &mut Budget) -> Option<Change> {
        let cell = self.map.topics.cell(spot)?;
        let moving = cell.moving()?;
        let target = match moving.phase {
            MovePhase::Queued => &moving.target,
            MovePhase::Done => &moving.prior,
            MovePhase::Adding | MovePhase::Undoing => return None,
        };
        let added = target
            .iter()
            .copied()
            .filter(|slot| cell.place_of(*slot).is_none());
        let added: Vec<Slot> = added.collect();
        if added.iter().any(|slot| self.of(*slot).lost) {
            return Some(self.stay(spot, cell, Step::Forget));
        }
        let reached = added.iter().all(|slot| self.of(*slot).standing == Standing::Able);
        let ids = target.iter().map(|slot| self.map.nodes.id(*slot));
        (reached && budget.book(&added)).then(|| self.stay(spot, cell, Step::Begin(ids.collect())))
    }

    /// Begins the move of a partition to the replicas that it should have, if they can be found.
    fn replace(&mut self, spot: Spot, cell: &Cell, budget: &mut Budget) -> Option<Change> {
        // A move in its turn comes first, and a change of leader before that.
        if cell.active_move().is_some() || !matches!(self.verdict(cell), Verdict::Settled) {
            return None;
        }
        let queued = cell.moving().filter(|moving| moving.phase == MovePhase::Queued);
        if queued.is_some_and(|queued| queued.target.iter().any(|slot| self.of(*slot).lost)) {
            // Where it was to move has been lost meanwhile.
            return Some(self.stay(spot, cell, Step::Forget));
        }
        let target = self.target(spot, cell, budget)?;
        let added = target
            .iter()
            .copied()
            .filter(|slot| cell.place_of(*slot).is_none());
        let added: Vec<Slot> = added.collect();
        let same = target
            .iter()
            .copied()
            .eq(cell.seats().iter().map(|seat| seat.slot));
        if same || !budget.book(&added) {
            return None;
        }
        added.iter().for_each(|slot| self.give(*slot));
        let ids = target.iter().map(|slot| self.map.nodes.id(*slot));
        Some(self.stay(spot, cell, Step::Begin(ids.collect())))
    }

    /// The replicas that a partition should have: those that stay in their places, lost ones replaced where a
    /// successor can be found, missing ones at the end, surplus ones left out.
    fn target(&self, spot: Spot, cell: &Cell, budget: &Budget) -> Option<Vec<Slot>> {
        let topic = self.map.topic_of(spot.topic())?;
        let (wanted, zones) = (usize::from(topic.replication_factor), topic.effective().zones());
        let rebuilds = self.map.effective().rebuilds();
        let mut target: Vec<Slot> = cell.seats().iter().map(|seat| seat.slot).collect();
        while target.len() > wanted {
            let surplus = self.surplus(cell, &target)?;
            target.retain(|slot| *slot != surplus);
        }
        for at in 0..target.len() {
            let lost = target.get(at).copied().filter(|slot| self.of(*slot).lost);
            if let Some(lost) = lost.filter(|_| rebuilds) {
                let others: Vec<Slot> = target.iter().copied().filter(|slot| *slot != lost).collect();
                if let Some(successor) = self.pick(cell, &others, zones, budget)
                    && let Some(place) = target.get_mut(at)
                {
                    *place = successor;
                }
            }
        }
        while target.len() < wanted {
            let Some(more) = self.pick(cell, &target, zones, budget) else {
                break;
            };
            target.push(more);
        }
        Some(target)
    }

    /// Who leaves a partition that has too many: lost ones first, then those out of sync, then who holds the
    /// most; the leader last.
    fn surplus(&self, cell: &Cell, target: &[Slot]) -> Option<Slot> {
        let rank = |slot: &Slot| {
            let synced = cell.place_of(*slot).is_some_and(|at| cell.is_in_sync(at));
            let leads = cell.leader().is_some_and(|leader| leader.slot == *slot);
            (self.of(*slot).lost, !synced, !leads, self.hold_of(*slot))
        };
        target.iter().copied().max_by_key(rank)
    }

    /// A node for one more replica beside `others`: as far from them as zones allow, then who holds the least.
    fn pick(&self, cell: &Cell, others: &[Slot], zones: ZoneRule, budget: &Budget) -> Option<Slot> {
        let nodes = &self.map.nodes;
        let zone = |slot: Slot| nodes.at(slot).and_then(|node| node.zone());
        let crowd = |slot: Slot| others.iter().filter(|other| zone(**other) == zone(slot)).count();
        let fit = |slot: &Slot| {
            let takes = nodes.at(*slot).is_some_and(|node| node.takes_replicas());
            takes
                && self.of(*slot).standing == Standing::Able
                && budget.takes(*slot)
                && !others.contains(slot)
                && cell.place_of(*slot).is_none()
                && (zones == ZoneRule::Preferred || crowd(*slot) == 0)
        };
        let slots = (0..).map_while(|slot| nodes.at(slot).map(|_| slot));
        slots
            .filter(fit)
            .min_by_key(|slot| (crowd(*slot), self.hold_of(*slot)))
    }

    /// A step that leaves leader and in-sync replicas as they are.
    fn stay(&self, spot: Spot, cell: &Cell, step: Step) -> Change {
        Change {
            spot,
            in_sync: cell.in_sync,
            leader: cell.leader().and_then(|seat| cell.place_of(seat.slot)),
            step,
        }
    }
}
