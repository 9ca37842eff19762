//! What the controller remembers so that it need not look at everything: hints, none of which decides.

use std::collections::{BTreeMap, BTreeSet};

use super::view::{Seen, Standing, View};
use crate::{
    MovePhase, PartitionMap,
    cell::{Cell, Slot},
    history::Changed,
    ids::Spot,
};

/// Where to look, and what waits for its turn.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Up to which generation everything is indexed; nothing is, without one.
    generation: Option<u64>,
    /// The nodes as last seen, by slot.
    seen: Vec<Seen>,
    /// Partitions of which a node is or was a replica, by slot. May name some twice and some that left.
    held: Vec<Vec<Spot>>,
    /// Partitions that a node leads or has led, by slot, likewise.
    led: Vec<Vec<Spot>>,
    /// Partitions to look at again: a change was decided, or waits for time to pass.
    waiting: Vec<Spot>,
    /// Partitions whose new replicas are catching up.
    pub(super) active: BTreeSet<Spot>,
    /// Partitions of a rebalance that have not begun.
    pub(super) queued: BTreeSet<Spot>,
    /// Partitions of a rebalance that are done, to be undone if it is cancelled.
    pub(super) done: BTreeSet<Spot>,
    /// Partitions that should have other replicas, and none of the above.
    pub(super) unfit: BTreeSet<Spot>,
    /// Where the last round has ended that could not look at all that is unfit.
    pub(super) cursor: Option<Spot>,
}

/// Which partitions to look at.
pub(super) enum Attention {
    All,
    /// Some of them.
    Some {
        /// Those that may need another leader, and what else is due: in order, once each.
        first: Vec<Spot>,
        /// Those that have lost a replica and perhaps more, in no order. They can wait while there are leaders to
        /// elect.
        rest: Vec<Spot>,
    },
}

impl Index {
    /// The partitions for which something may have changed since the last call.
    pub(super) fn attention(&mut self, view: &View<'_>) -> Attention {
        let map = view.map;
        let since = self.generation.filter(|generation| *generation <= map.generation);
        let changes = since.and_then(|generation| map.history.after(generation).ok());
        self.generation = Some(map.generation);
        let Some(changes) = changes else {
            self.rebuild(view);
            return Attention::All;
        };
        self.held.resize_with(view.seen.len(), Vec::new);
        self.led.resize_with(view.seen.len(), Vec::new);
        let (mut spots, mut rest) = (std::mem::take(&mut self.waiting), Vec::new());
        for (slot, seen) in view.seen.iter().enumerate() {
            if self.seen.get(slot) == Some(seen) {
                continue;
            }
            let held = self.held.get(slot).into_iter().flatten();
            if seen.standing == Standing::Gone {
                // A node that is gone takes leaders away only where it led.
                spots.extend(self.led.get(slot).into_iter().flatten());
                rest.extend(held);
            } else {
                spots.extend(held);
            }
        }
        self.seen.clone_from(&view.seen);
        for changed in changes {
            match changed {
                Changed::Partition(spot) => {
                    self.hold(spot, map);
                    spots.push(spot);
                }
                Changed::Topic(id) => {
                    let count = map.topics.get(id).map_or(0, crate::Topic::partition_count);
                    for spot in (0..count).filter_map(|partition| Spot::new(id, partition)) {
                        self.hold(spot, map);
                        spots.push(spot);
                    }
                    if count == 0 {
                        self.forget_topic(id);
                    }
                }
                Changed::Node(_) | Changed::Settings | Changed::Rebalance => {}
            }
        }
        self.tidy(map);
        let first = ordered(spots);
        Attention::Some { first, rest }
    }

    /// Looks at these the next time.
    pub(super) fn defer(&mut self, spots: Vec<Spot>) {
        self.waiting.extend(spots);
    }

    fn rebuild(&mut self, view: &View<'_>) {
        *self = Self {
            generation: self.generation,
            seen: view.seen.clone(),
            ..Self::default()
        };
        self.held.resize_with(view.seen.len(), Vec::new);
        self.led.resize_with(view.seen.len(), Vec::new);
        for (spot, cell) in view.map.topics.cells() {
            self.hold_cell(spot, cell);
        }
    }

    fn hold(&mut self, spot: Spot, map: &PartitionMap) {
        if let Some(cell) = map.topics.cell(spot) {
            self.hold_cell(spot, cell);
        }
    }

    fn hold_cell(&mut self, spot: Spot, cell: &Cell) {
        for seat in cell.seats() {
            if let Some(held) = self.held.get_mut(usize::from(seat.slot)) {
                held.push(spot);
            }
        }
        let led = cell
            .leader()
            .and_then(|seat| self.led.get_mut(usize::from(seat.slot)));
        if let Some(led) = led {
            led.push(spot);
        }
    }

    /// Drops what lists name twice or in vain, once that is more than half.
    fn tidy(&mut self, map: &PartitionMap) {
        for (slot, held) in (0..).zip(&mut self.held) {
            let slot: Slot = slot;
            let replicas = usize::try_from(map.loads.of(slot).replicas).unwrap_or(usize::MAX);
            if held.len() / 2 > replicas.saturating_add(SLACK) {
                held.sort_unstable();
                held.dedup();
                held.retain(|spot| {
                    let cell = map.topics.cell(*spot);
                    cell.is_some_and(|cell| cell.place_of(slot).is_some())
                });
            }
        }
        for (slot, led) in (0..).zip(&mut self.led) {
            let slot: Slot = slot;
            let leads = usize::try_from(map.loads.of(slot).leaders).unwrap_or(usize::MAX);
            if led.len() / 2 > leads.saturating_add(SLACK) {
                led.sort_unstable();
                led.dedup();
                led.retain(|spot| {
                    let leader = map.topics.cell(*spot).and_then(Cell::leader);
                    leader.is_some_and(|seat| seat.slot == slot)
                });
            }
        }
    }

    /// Notes what a partition waits for that needs nothing at once.
    pub(super) fn settle(&mut self, spot: Spot, cell: &Cell, view: &View<'_>) {
        self.forget(spot);
        let list = match cell.moving().map(|moving| moving.phase) {
            Some(MovePhase::Adding | MovePhase::Undoing) => &mut self.active,
            _ if view.is_unfit(spot, cell) => &mut self.unfit,
            Some(MovePhase::Queued) => &mut self.queued,
            Some(MovePhase::Done) => &mut self.done,
            None => return,
        };
        list.insert(spot);
    }

    /// Looks at a partition again the next time.
    pub(super) fn wait(&mut self, spot: Spot) {
        self.forget(spot);
        self.waiting.push(spot);
    }

    pub(super) fn forget(&mut self, spot: Spot) {
        for list in [
            &mut self.active,
            &mut self.queued,
            &mut self.done,
            &mut self.unfit,
        ] {
            list.remove(&spot);
        }
    }

    fn forget_topic(&mut self, id: crate::TopicId) {
        let (Some(first), after) = (Spot::new(id, 0), Spot::new(crate::TopicId(id.0 + 1), 0)) else {
            return;
        };
        for list in [
            &mut self.active,
            &mut self.queued,
            &mut self.done,
            &mut self.unfit,
        ] {
            let mut later = list.split_off(&first);
            if let Some(after) = after {
                list.append(&mut later.split_off(&after));
            }
        }
    }

    /// How many partitions are moving to each node, by slot.
    pub(super) fn arrivals(&self, map: &PartitionMap) -> BTreeMap<Slot, usize> {
        let mut arrivals = BTreeMap::new();
        for cell in self.active.iter().filter_map(|spot| map.topics.cell(*spot)) {
            for slot in cell.adding() {
                *arrivals.entry(slot).or_insert(0) += 1;
            }
        }
        arrivals
    }
}

/// In order, once each.
pub(super) fn ordered(mut spots: Vec<Spot>) -> Vec<Spot> {
    spots.sort_unstable();
    spots.dedup();
    spots
}

/// How much longer than needed a list may be before it is tidied up, whatever its share.
const SLACK: usize = 1_024;
