//! Preferred leaders by order alone: nothing is copied for it.
//!
//! A partition led by a node with too many is handed to another of its replicas; where none of those lacks
//! any, along a chain of partitions. Such chains are found for all nodes at once, shortest first, as Dinic
//! finds a maximum flow (1970): whatever order can reach is reached.

use super::{
    layout::{HOLE, Layout, add},
    quota,
};
use crate::cell::Slot;

/// Brings every node to its share of preferred leaders, as far as the replicas allow.
pub(super) fn spread(layout: &mut Layout) {
    let mut leads = Leads::new(layout);
    leads.hand_over(layout);
    if leads.lacking == 0 {
        return;
    }
    let mut led: Vec<Vec<u32>> = vec![Vec::new(); layout.hosts.len()];
    for (at, set) in layout.sets().enumerate() {
        let leader = set.first().copied().unwrap_or(HOLE);
        if let Some(led) = led.get_mut(usize::from(leader)) {
            led.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
    }
    while leads.lacking > 0 && leads.chains(layout, &mut led) {}
}

/// Who leads too many and who too few.
struct Leads {
    surplus: Vec<u64>,
    lacks: Vec<u64>,
    lacking: u64,
}

impl Leads {
    fn new(layout: &mut Layout) -> Self {
        let seated = layout.has_frozen().then(|| seat_takers(layout));
        let loads = layout.loads();
        let (could, total) = seated.unwrap_or_else(|| {
            let free = loads.replicas.iter().zip(&layout.fixed);
            (
                free.map(|(all, fixed)| all - fixed).collect(),
                layout.len() as u64,
            )
        });
        let fixed = &layout.fixed_leaders;
        let takers = (0..).zip(fixed).filter(|(slot, _)| layout.is_taker(*slot));
        let total = total + takers.map(|(_, count)| count).sum::<u64>();
        let could = could.iter().zip(fixed).map(|(could, fixed)| could + fixed);
        let leads = loads.leaders;
        let quotas = quota::leaders(layout, &leads, &could.collect::<Vec<_>>(), total);
        let takers = |slot: usize| layout.is_taker(Slot::try_from(slot).unwrap_or(HOLE));
        let gaps = |more: &[u64], less: &[u64]| -> Vec<u64> {
            let pairs = more.iter().zip(less).enumerate();
            pairs
                .map(|(slot, (more, less))| {
                    if takers(slot) {
                        more.saturating_sub(*less)
                    } else {
                        0
                    }
                })
                .collect()
        };
        let lacks = gaps(&quotas, &leads);
        Self {
            surplus: gaps(&leads, &quotas),
            lacking: lacks.iter().sum(),
            lacks,
        }
    }

    /// Hands partitions straight to replicas that lead too few.
    fn hand_over(&mut self, layout: &mut Layout) {
        if self.lacking == 0 {
            return;
        }
        for at in layout.strided() {
            let set = layout.set_mut(at);
            let Some((leader, others)) = set.split_first_mut() else {
                continue;
            };
            let Some(more) = self
                .surplus
                .get_mut(usize::from(*leader))
                .filter(|more| **more > 0)
            else {
                continue;
            };
            let lack = |slot: &Slot| self.lacks.get(usize::from(*slot)).copied().unwrap_or(0);
            let Some(next) = others.iter_mut().max_by_key(|slot| lack(slot)) else {
                continue;
            };
            let Some(lack) = self.lacks.get_mut(usize::from(*next)).filter(|lack| **lack > 0) else {
                continue;
            };
            *lack -= 1;
            *more -= 1;
            self.lacking -= 1;
            std::mem::swap(leader, next);
            if self.lacking == 0 {
                return;
            }
        }
    }

    /// One phase: levels from the nodes with a surplus, then as many chains along them as there are.
    /// `false` if there is none.
    fn chains(&mut self, layout: &mut Layout, led: &mut [Vec<u32>]) -> bool {
        let Some(levels) = self.levels(layout, led) else {
            return false;
        };
        let mut turns = vec![0; led.len()];
        let mut any = false;
        for from in 0..Slot::try_from(led.len()).unwrap_or(Slot::MAX) {
            while get(&self.surplus, from) > 0 {
                let Some(path) = self.path(layout, led, (&levels, &mut turns), from) else {
                    break;
                };
                self.hand_along(layout, led, from, &path);
                any = true;
            }
        }
        any
    }

    /// How many steps each node is from one with a surplus; `None` if none that lacks any can be reached.
    fn levels(&self, layout: &Layout, led: &[Vec<u32>]) -> Option<Vec<u32>> {
        let mut levels = vec![u32::MAX; led.len()];
        let mut queue: Vec<Slot> = Vec::new();
        for (slot, (surplus, level)) in (0..).zip(self.surplus.iter().zip(&mut levels)) {
            if *surplus > 0 {
                *level = 0;
                queue.push(slot);
            }
        }
        let takers = layout.zones.iter().map(Vec::len).sum::<usize>();
        let mut next = 0;
        let mut reached = false;
        while let Some(slot) = queue.get(next).copied() {
            next += 1;
            let level = levels.get(usize::from(slot)).copied().unwrap_or(0);
            for at in led.get(usize::from(slot)).into_iter().flatten() {
                if queue.len() >= takers {
                    break;
                }
                for other in others(layout, *at as usize, slot) {
                    let Some(seen) = levels
                        .get_mut(usize::from(other))
                        .filter(|seen| **seen == u32::MAX)
                    else {
                        continue;
                    };
                    *seen = level + 1;
                    queue.push(other);
                }
            }
        }
        for (lack, level) in self.lacks.iter().zip(&levels) {
            reached |= *lack > 0 && *level != u32::MAX;
        }
        reached.then_some(levels)
    }

    /// Partitions, each led by the next node on the way from `from` to one that lacks some, with who takes it.
    fn path(
        &self,
        layout: &Layout,
        led: &[Vec<u32>],
        (levels, turns): (&[u32], &mut [usize]),
        from: Slot,
    ) -> Option<Vec<(usize, Slot)>> {
        let mut path: Vec<(usize, Slot)> = Vec::new();
        let mut here = from;
        loop {
            if !path.is_empty() && get(&self.lacks, here) > 0 {
                return Some(path);
            }
            let level = levels.get(usize::from(here)).copied()?;
            let turn = turns.get_mut(usize::from(here))?;
            let mut step = None;
            while let Some(at) = led.get(usize::from(here)).and_then(|led| led.get(*turn)) {
                let at = *at as usize;
                let next = others(layout, at, here)
                    .find(|other| levels.get(usize::from(*other)) == Some(&level.saturating_add(1)));
                let used = path.iter().any(|(other, _)| *other == at);
                if let Some(next) = next.filter(|_| !used) {
                    step = Some((at, next));
                    break;
                }
                *turn += 1;
            }
            match step {
                Some((at, next)) => {
                    path.push((at, next));
                    here = next;
                }
                None => {
                    // A dead end: its predecessor goes on with its next partition.
                    path.pop()?;
                    here = path.last().map_or(from, |(_, slot)| *slot);
                    *turns.get_mut(usize::from(here))? += 1;
                }
            }
        }
    }

    fn hand_along(&mut self, layout: &mut Layout, led: &mut [Vec<u32>], from: Slot, path: &[(usize, Slot)]) {
        for (at, taker) in path {
            let set = layout.set_mut(*at);
            if let Some(place) = set.iter().position(|slot| slot == taker) {
                set.swap(0, place);
            }
            if let Some(led) = led.get_mut(usize::from(*taker)) {
                led.push(u32::try_from(*at).unwrap_or(u32::MAX));
            }
        }
        if let Some(surplus) = self.surplus.get_mut(usize::from(from)) {
            *surplus -= 1;
        }
        let last = path
            .last()
            .and_then(|(_, slot)| self.lacks.get_mut(usize::from(*slot)));
        if let Some(lack) = last {
            *lack -= 1;
            self.lacking -= 1;
        }
    }
}

/// Takers among the replicas of a partition that `leader` leads, itself apart; none if it no longer does.
fn others(layout: &Layout, at: usize, leader: Slot) -> impl Iterator<Item = Slot> {
    let set = layout.set(at);
    let leads = set.first() == Some(&leader);
    let others = set.iter().skip(1).copied().filter(move |_| leads);
    others.filter(|slot| layout.is_taker(*slot))
}

/// Puts a taker first wherever there is one: who gets nothing new shall not be preferred either. Says how many
/// partitions each node could lead, and how many some taker can.
fn seat_takers(layout: &mut Layout) -> (Vec<u64>, u64) {
    let mut could = vec![0; layout.hosts.len()];
    let mut total = 0;
    for at in 0..layout.len() {
        let set = layout.set(at);
        let Some(taker) = set.iter().position(|slot| layout.is_taker(*slot)) else {
            continue;
        };
        total += 1;
        set.iter().for_each(|slot| add(&mut could, *slot));
        layout.set_mut(at).swap(0, taker);
    }
    (could, total)
}

fn get(counts: &[u64], slot: Slot) -> u64 {
    counts.get(usize::from(slot)).copied().unwrap_or(0)
}
