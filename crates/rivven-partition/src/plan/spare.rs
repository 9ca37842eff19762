//! The rest that zones keep from going straight: another replica makes room for it.
//!
//! A replica that cannot go where one is lacking goes to a third node, and one of that node's goes on to where
//! it is lacking. If that one was on its way anyway, nothing more is copied than without the detour (an
//! augmenting path of a bipartite matching); else it costs one copy.

use super::layout::{HOLE, Layout};
use crate::cell::Slot;

/// What is still lacking and in surplus, and where everything lies.
pub(super) struct Spare {
    lacks: Vec<u64>,
    surplus: Vec<u64>,
    /// Partitions and places that have moved to each node, by slot.
    moved: Vec<Vec<(u32, u8)>>,
    /// Those that have not; listed when they are first needed.
    stayed: Vec<Vec<(u32, u8)>>,
}

/// Most replicas of one node that are tried as those that make room, unless a place would stay empty.
const TRIES: usize = 256;

/// Most replicas of a node with a surplus that are tried.
const TRIES_OF_SURPLUS: usize = 4_096;

impl Spare {
    pub(super) fn new(layout: &Layout, lacks: Vec<u64>, surplus: Vec<u64>) -> Self {
        let mut moved = vec![Vec::new(); layout.hosts.len()];
        layout.each_new(|at, place, slot| list(&mut moved, at, place, slot));
        Self {
            lacks,
            surplus,
            moved,
            stayed: Vec::new(),
        }
    }

    /// Lists what has not moved.
    fn list_stayed(&mut self, layout: &Layout) {
        if !self.stayed.is_empty() {
            return;
        }
        self.stayed = vec![Vec::new(); layout.hosts.len()];
        for at in layout.strided() {
            let before = layout.before(at);
            let places = layout.set(at).iter().enumerate();
            let kept = places.filter(|(_, slot)| before.contains(slot));
            for (place, slot) in kept {
                list(&mut self.stayed, at, place, *slot);
            }
        }
    }

    /// Fills what holes there are and levels what can be; returns how many places stay as they were.
    pub(super) fn make_room(&mut self, layout: &mut Layout) -> u64 {
        let mut stuck = 0;
        for at in 0..layout.len() {
            for place in 0..layout.set(at).len() {
                if layout.set(at).get(place) == Some(&HOLE) && !self.settle(layout, at, place) {
                    stuck += u64::from(self.give_up(layout, at, place));
                }
            }
        }
        layout.close_holes();
        for slot in 0..Slot::try_from(self.surplus.len()).unwrap_or(Slot::MAX) {
            self.level(layout, slot);
        }
        stuck
    }

    /// Finds a node for a place that is empty, directly or by a detour.
    fn settle(&mut self, layout: &mut Layout, at: usize, place: usize) -> bool {
        self.straight(layout, at, place)
            || self.detour(layout, at, place, TRIES)
            || self.detour(layout, at, place, usize::MAX)
    }

    fn straight(&mut self, layout: &mut Layout, at: usize, place: usize) -> bool {
        let to = self.lacking().into_iter().find(|to| layout.fits(at, place, *to));
        if let Some(to) = to {
            self.move_to(layout, (at, place), to);
            self.served(to);
        }
        to.is_some()
    }

    /// Gives the place to a third node, one of whose replicas goes to where it is lacking.
    fn detour(&mut self, layout: &mut Layout, at: usize, place: usize, tries: usize) -> bool {
        for free in [true, false] {
            if !free {
                self.list_stayed(layout);
            }
            for to in self.lacking() {
                for via in 0..Slot::try_from(self.moved.len()).unwrap_or(Slot::MAX) {
                    if via == to || !layout.is_taker(via) || !layout.fits(at, place, via) {
                        continue;
                    }
                    if let Some(other) = self.makes_room(layout, via, (to, at), free, tries) {
                        self.move_to(layout, other, to);
                        self.move_to(layout, (at, place), via);
                        self.served(to);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// A replica of `via` that could be on `to`: one that has moved there if it is to cost nothing.
    fn makes_room(
        &self,
        layout: &Layout,
        via: Slot,
        (to, not): (Slot, usize),
        free: bool,
        tries: usize,
    ) -> Option<(usize, usize)> {
        let lists = if free { &self.moved } else { &self.stayed };
        let list = lists.get(usize::from(via))?;
        let places = list
            .iter()
            .take(tries)
            .map(|(at, place)| (*at as usize, usize::from(*place)));
        let mut fit = places.filter(|(at, place)| {
            let there = layout.set(*at).get(*place) == Some(&via);
            there && *at != not && layout.fits(*at, *place, to)
        });
        fit.next()
    }

    /// Brings a node with a surplus down to its quota as far as possible.
    fn level(&mut self, layout: &mut Layout, slot: Slot) {
        let index = usize::from(slot);
        if self.surplus.get(index).is_none_or(|more| *more == 0) {
            return;
        }
        self.list_stayed(layout);
        for turn in 0..TRIES_OF_SURPLUS {
            if self.surplus.get(index).is_none_or(|more| *more == 0) {
                return;
            }
            let entry = self.stayed.get(index).and_then(|list| list.get(turn)).copied();
            let Some((at, place)) = entry.map(|(at, place)| (at as usize, usize::from(place))) else {
                return;
            };
            let there = layout.set(at).get(place) == Some(&slot);
            let moved = there && (self.straight(layout, at, place) || self.detour(layout, at, place, TRIES));
            if let Some(more) = self.surplus.get_mut(index).filter(|_| moved) {
                *more -= 1;
            }
        }
    }

    /// Where no quota can be kept: any node that can, else whoever was there before.
    fn give_up(&mut self, layout: &mut Layout, at: usize, place: usize) -> bool {
        let slots = 0..Slot::try_from(layout.hosts.len()).unwrap_or(Slot::MAX);
        let able = slots.filter(|slot| layout.is_taker(*slot) && layout.fits(at, place, *slot));
        let count = |slot: &Slot| self.moved.get(usize::from(*slot)).map_or(0, Vec::len);
        if let Some(slot) = able.min_by_key(count) {
            self.move_to(layout, (at, place), slot);
            return false;
        }
        let before = layout.before(at).to_vec();
        let left = before.iter().find(|slot| !layout.set(at).contains(slot));
        if let Some(slot) = left {
            layout.put(at, place, *slot);
        }
        true
    }

    fn move_to(&mut self, layout: &mut Layout, (at, place): (usize, usize), slot: Slot) {
        layout.put(at, place, slot);
        list(&mut self.moved, at, place, slot);
    }

    fn lacking(&self) -> Vec<Slot> {
        let slots = (0..).zip(&self.lacks);
        slots
            .filter(|(_, lack)| **lack > 0)
            .map(|(slot, _)| slot)
            .collect()
    }

    fn served(&mut self, slot: Slot) {
        if let Some(lack) = self.lacks.get_mut(usize::from(slot)) {
            *lack = lack.saturating_sub(1);
        }
    }
}

fn list(lists: &mut [Vec<(u32, u8)>], at: usize, place: usize, slot: Slot) {
    let list = lists.get_mut(usize::from(slot));
    if let (Ok(at), Ok(place), Some(list)) = (u32::try_from(at), u8::try_from(place), list) {
        list.push((at, place));
    }
}
