//! Leaders spread evenly again after nodes return, with hysteresis so that they do not oscillate.

use super::{
    Change,
    view::{Standing, View},
};
use crate::{
    LEADER_IMBALANCE_MIN, MAX_FLAPS, MAX_LEADER_MOVES_PER_RECONCILE, Node, NodeStatus, Step,
    cell::{Cell, Slot},
    ids::Spot,
};

/// A state on which balancing has found nothing to move, so that nobody looks again before it changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rest {
    generation: u64,
    takers: Vec<bool>,
}

/// Moves of leaders that even out how much each node leads for its weight; none while that is even enough.
///
/// A move goes to an in-sync replica that leads so much less that it lowers the sum of squares, so repeated
/// calls come to an end. They begin only once some gap exceeds the threshold.
pub(super) fn moves(view: &View<'_>, rest: &mut Option<Rest>) -> Vec<Change> {
    let slots = 0..Slot::try_from(view.seen.len()).unwrap_or(Slot::MAX);
    let takers: Vec<bool> = slots.clone().map(|slot| is_taker(view, slot)).collect();
    let leads: Vec<u64> = slots.map(|slot| view.map.loads.of(slot).leaders.into()).collect();
    let balance = Balance::new(view, takers, leads);
    let least = balance.levels(|slot| balance.takes(slot)).min();
    let most = balance.levels(|_| true).max();
    let even = match (least, most) {
        (Some(least), Some(most)) => most.saturating_sub(least) <= balance.threshold,
        _ => true,
    };
    let here = Rest {
        generation: view.map.generation,
        takers: balance.takers.clone(),
    };
    if even || rest.as_ref() == Some(&here) {
        return Vec::new();
    }
    let uneven = |cell: &Cell| {
        let best = balance.best(cell);
        best.is_some_and(|(_, _, gap)| gap > balance.threshold)
    };
    let mut moves = Vec::new();
    if view.map.topics.cells().any(|(_, cell)| uneven(cell)) {
        // First from nodes above the mean to nodes below it, where no move is in vain; only if there is no
        // such pair, between any two.
        moves = balance.clone().greedy(view, true);
        if moves.is_empty() {
            moves = balance.greedy(view, false);
        }
    }
    *rest = moves.is_empty().then_some(here);
    moves
}

/// Counts are compared as parts of a weight: a node of normal weight has a level of so much per partition.
const SCALE: u64 = 1 << 20;

/// Nodes by slot, and how much each leads.
#[derive(Clone)]
struct Balance {
    takers: Vec<bool>,
    leads: Vec<u64>,
    weights: Vec<u64>,
    /// Level of a node that leads as much as its weight asks for.
    mean: u64,
    /// The gap between levels that is left alone.
    threshold: u64,
}

impl Balance {
    fn new(view: &View<'_>, takers: Vec<bool>, leads: Vec<u64>) -> Self {
        let slots = 0..Slot::try_from(leads.len()).unwrap_or(Slot::MAX);
        let weights: Vec<u64> = slots.map(|slot| view.weight(slot).max(1)).collect();
        let total: u64 = leads.iter().sum();
        let taking = weights.iter().zip(&takers).filter(|(_, takes)| **takes);
        let weight: u64 = taking.map(|(weight, _)| *weight).sum();
        let mean = level(total, weight.max(1));
        let percent = view.map.effective().leader_imbalance_percent();
        let least = level(LEADER_IMBALANCE_MIN, u64::from(crate::NORMAL_WEIGHT));
        Self {
            takers,
            leads,
            weights,
            mean,
            threshold: least.max(mean / 100 * percent),
        }
    }

    fn takes(&self, slot: usize) -> bool {
        self.takers.get(slot).copied().unwrap_or(false)
    }

    fn level(&self, slot: Slot) -> u64 {
        let slot = usize::from(slot);
        let count = self.leads.get(slot).copied().unwrap_or(0);
        level(count, self.weights.get(slot).copied().unwrap_or(1))
    }

    /// Levels of the nodes that lead something or could, among those of `which`.
    fn levels(&self, which: impl Fn(usize) -> bool) -> impl Iterator<Item = u64> {
        let nodes = self.leads.iter().zip(&self.weights).enumerate();
        nodes
            .filter(move |(slot, _)| which(*slot))
            .map(|(_, (count, weight))| level(*count, *weight))
    }

    /// The leader of a partition, the taker that should rather lead it, and how far they are apart.
    fn best(&self, cell: &Cell) -> Option<(Slot, usize, u64)> {
        if cell.hand_over().is_some() {
            return None;
        }
        let leader = cell.leader()?.slot;
        let seats = cell.seats().iter().enumerate();
        let takers = seats.filter(|(at, seat)| cell.is_in_sync(*at) && self.takes(seat.slot.into()));
        let (at, taker) = takers.min_by_key(|(_, seat)| self.level(seat.slot))?;
        let gap = self.level(leader).saturating_sub(self.level(taker.slot));
        Some((leader, at, gap))
    }

    /// Whether it lowers the sum of squares over weights that `taker` leads one more and `leader` one fewer.
    fn gains(&self, leader: Slot, taker: Slot) -> bool {
        let count = |slot: Slot| self.leads.get(usize::from(slot)).copied().unwrap_or(0);
        let weight = |slot: Slot| self.weights.get(usize::from(slot)).copied().unwrap_or(1);
        let after = (2 * count(taker) + 1) * weight(leader);
        after < (2 * count(leader)).saturating_sub(1) * weight(taker)
    }

    /// Moves each partition in turn whose move is worth it.
    fn greedy(mut self, view: &View<'_>, across_mean: bool) -> Vec<Change> {
        let mut moves = Vec::new();
        for (spot, cell) in view.map.topics.cells() {
            if moves.len() == MAX_LEADER_MOVES_PER_RECONCILE {
                break;
            }
            let Some((leader, at, _)) = self.best(cell) else {
                continue;
            };
            let Some(taker) = cell.seats().get(at).map(|seat| seat.slot) else {
                continue;
            };
            let across = self.level(leader) > self.mean && self.level(taker) < self.mean;
            if !self.gains(leader, taker) || across_mean && !across {
                continue;
            }
            self.count(leader, false);
            self.count(taker, true);
            moves.push(hand(view, spot, cell, at));
        }
        moves
    }

    fn count(&mut self, slot: Slot, more: bool) {
        if let Some(count) = self.leads.get_mut(usize::from(slot)) {
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
    }
}

const fn level(count: u64, weight: u64) -> u64 {
    count * SCALE * 100 / weight
}

/// Gives a partition to the replica in the seat `at`, or asks its leader to.
fn hand(view: &View<'_>, spot: Spot, cell: &Cell, at: usize) -> Change {
    let (leader, step) = match cell.seats().get(at) {
        Some(to) if view.asks() => {
            let leader = cell.leader().and_then(|seat| cell.place_of(seat.slot));
            (leader, view.ask(*to))
        }
        _ => (Some(at), Step::Stay),
    };
    Change {
        spot,
        in_sync: cell.in_sync,
        leader,
        step,
    }
}

/// Whether a node may be given leaders for balance: alive and active, and back for long enough.
fn is_taker(view: &View<'_>, slot: Slot) -> bool {
    let node = view.map.nodes.at(slot);
    let settled = |node: &Node| {
        let hold_ms = view.map.effective().leader_return_hold_ms() << node.flaps.min(MAX_FLAPS);
        // A time in the future comes from another controller's clock; waiting for it could take for ever.
        let up = view.now_ms.checked_sub(node.since_ms);
        up.is_none_or(|up| up >= hold_ms)
    };
    view.of(slot).standing == Standing::Able
        && node.is_some_and(|node| node.status == NodeStatus::Active && settled(node))
}
