//! Replicas go where they are lacking: straight if zones allow it, else another makes room.

use std::collections::BinaryHeap;

use super::{
    layout::{HOLE, Layout},
    spare::Spare,
};
use crate::cell::Slot;

/// Fills all holes and brings every node to its quota; returns how many places could not be filled.
pub(super) fn make(layout: &mut Layout, quotas: &[u64], held: &[u64]) -> u64 {
    let lacks = quotas
        .iter()
        .zip(held)
        .map(|(quota, held)| quota.saturating_sub(*held));
    let mut needs = Needs::new(layout, lacks.collect());
    let surplus = held
        .iter()
        .zip(quotas)
        .map(|(held, quota)| held.saturating_sub(*quota));
    let mut surplus: Vec<u64> = surplus.collect();
    for (slot, surplus) in (0..).zip(&mut surplus) {
        // What nodes have that only keep what they have is no surplus.
        if !layout.is_taker(slot) {
            *surplus = 0;
        }
    }

    let mut stuck = Vec::new();
    let partitions = if layout.has_holes() { layout.len() } else { 0 };
    for at in 0..partitions {
        let holes = layout.set(at).iter().filter(|slot| **slot == HOLE).count();
        for _ in 0..holes {
            let Some(place) = layout.set(at).iter().position(|slot| *slot == HOLE) else {
                break;
            };
            match needs.take(layout, at, place) {
                Some(slot) => {
                    layout.put(at, place, slot);
                }
                None => {
                    stuck.push((at, place));
                    break;
                }
            }
        }
    }
    shed(layout, &mut needs, &mut surplus);
    if stuck.is_empty() && needs.left == 0 {
        return 0;
    }
    let mut spare = Spare::new(layout, needs.lacks, surplus);
    spare.make_room(layout)
}

/// Moves surplus replicas of nodes straight to where some are lacking.
fn shed(layout: &mut Layout, needs: &mut Needs, surplus: &mut [u64]) {
    if needs.left == 0 {
        return;
    }
    for at in layout.strided() {
        let size = layout.set(at).len();
        for turn in 0..size {
            // From another place each time, or a new node would get leaders only.
            let place = (at + turn) % size;
            let slot = layout.set(at).get(place).copied().unwrap_or(HOLE);
            let Some(more) = surplus.get_mut(usize::from(slot)).filter(|more| **more > 0) else {
                continue;
            };
            if let Some(taker) = needs.take(layout, at, place) {
                layout.put(at, place, taker);
                *more -= 1;
                if needs.left == 0 {
                    return;
                }
                break;
            }
        }
    }
}

/// What nodes lack, so that the zone that lacks most is served first: then all can be served longest.
struct Needs {
    /// By slot.
    lacks: Vec<u64>,
    /// Of all.
    left: u64,
    zones: Vec<ZoneNeed>,
    /// Zones that lack something, and how much.
    heap: BinaryHeap<(u64, usize)>,
    /// Zones passed over in one search.
    passed: Vec<(u64, usize)>,
}

struct ZoneNeed {
    /// Nodes that lack something.
    nodes: Vec<Slot>,
    /// Whose turn it is.
    turn: usize,
}

impl Needs {
    fn new(layout: &Layout, lacks: Vec<u64>) -> Self {
        let of = |slot: &Slot| lacks.get(usize::from(*slot)).copied().unwrap_or(0);
        let zones = layout.zones.iter().map(|zone| ZoneNeed {
            nodes: zone.iter().copied().filter(|slot| of(slot) > 0).collect(),
            turn: 0,
        });
        let heap = layout.zones.iter().enumerate().filter_map(|(at, zone)| {
            let need: u64 = zone.iter().map(of).sum();
            (need > 0).then_some((need, at))
        });
        Self {
            zones: zones.collect(),
            heap: heap.collect(),
            left: lacks.iter().sum(),
            lacks,
            passed: Vec::new(),
        }
    }

    /// A node that lacks a replica and can take the place `place` of partition `at`.
    fn take(&mut self, layout: &Layout, at: usize, place: usize) -> Option<Slot> {
        let mut found = None;
        while let Some((need, zone)) = self.heap.pop() {
            let number = u16::try_from(zone).unwrap_or(u16::MAX);
            if layout.zone_fits(at, place, number) {
                found = self.take_in(layout, at, zone);
            }
            if found.is_some() {
                if need > 1 {
                    self.heap.push((need - 1, zone));
                }
                self.left -= 1;
                break;
            }
            self.passed.push((need, zone));
        }
        self.heap.extend(self.passed.drain(..));
        found
    }

    /// A node of a zone that is not in partition `at` yet, by turns.
    fn take_in(&mut self, layout: &Layout, at: usize, zone: usize) -> Option<Slot> {
        let zone = self.zones.get_mut(zone)?;
        let count = zone.nodes.len();
        for step in 0..count {
            let index = (zone.turn + step) % count;
            let slot = zone.nodes.get(index).copied()?;
            if layout.set(at).contains(&slot) {
                continue;
            }
            let lack = self.lacks.get_mut(usize::from(slot))?;
            *lack -= 1;
            zone.turn = index + 1;
            if *lack == 0 {
                zone.nodes.swap_remove(index);
                zone.turn = index;
            }
            return Some(slot);
        }
        None
    }
}
