//! All partitions as flat lists of nodes, as they are and as they shall be.

use std::{cmp::Ordering, collections::BTreeMap};

use rivven_types::NodeId;

use super::Goal;
use crate::{
    Effective, Liveness, MAX_REPLICATION_FACTOR, Node, NodeStatus, PartitionError, PartitionMap, Topic,
    ZoneRule,
    cell::{Cell, Seat, Slot},
    ids::Spot,
    place::quota::spread_level,
};

/// What a plan may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It takes its share.
    Taker,
    /// It keeps what it has and gets nothing.
    Frozen,
    /// It is emptied.
    Emptied,
}

/// A node, by slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub(super) role: Role,
    pub(super) weight: u64,
    pub(super) zone: u16,
}

/// No node: a place that is to be filled.
pub(super) const HOLE: Slot = Slot::MAX;

/// All partitions that a plan may change.
pub(super) struct Layout {
    pub(super) hosts: Vec<Host>,
    /// Nodes that take something, of each zone.
    pub(super) zones: Vec<Vec<Slot>>,
    /// Replicas as they are, one partition after the other.
    was: Vec<Slot>,
    was_ends: Vec<u32>,
    /// Replicas as they shall be.
    is: Vec<Slot>,
    is_ends: Vec<u32>,
    /// For each partition the most of its replicas in one zone.
    levels: Vec<u8>,
    spots: Vec<Spot>,
    /// Replicas that takers hold in partitions that the plan must leave alone, by slot.
    pub(super) fixed: Vec<u64>,
    /// Leaders likewise.
    pub(super) fixed_leaders: Vec<u64>,
    /// Replicas that each node holds, those taken out of full zones not counted, by slot.
    held: Vec<u64>,
    /// For each zone the most replicas that all partitions together allow it.
    pub(super) zone_caps: Vec<u64>,
}

/// How much each node holds and leads, by slot.
pub(super) struct Loads {
    pub(super) replicas: Vec<u64>,
    pub(super) leaders: Vec<u64>,
}

impl Layout {
    pub(super) fn new(
        map: &PartitionMap,
        members: &BTreeMap<NodeId, Liveness>,
        goal: &Goal,
    ) -> Result<Self, PartitionError> {
        let mut zone_names: BTreeMap<Option<&str>, u16> = BTreeMap::new();
        let hosts = map.nodes.by_slot().map(|node| {
            let next = u16::try_from(zone_names.len()).unwrap_or(u16::MAX);
            Host {
                role: role(node, members, goal),
                weight: node.weight().into(),
                zone: *zone_names.entry(node.zone()).or_insert(next),
            }
        });
        let hosts: Vec<Host> = hosts.collect();
        let mut zones = vec![Vec::new(); zone_names.len()];
        for (slot, host) in (0..).zip(&hosts) {
            let zone = zones.get_mut(usize::from(host.zone));
            zone.filter(|_| host.role == Role::Taker)
                .into_iter()
                .for_each(|zone| zone.push(slot));
        }
        let available = zones.iter().map(Vec::len).sum();
        if available == 0 {
            return Err(PartitionError::NotEnoughNodes { wanted: 1, available });
        }
        let count = map.partition_count();
        let mut layout = Self {
            fixed: vec![0; hosts.len()],
            fixed_leaders: vec![0; hosts.len()],
            held: (0..)
                .zip(&hosts)
                .map(|(slot, _)| map.loads.of(slot).replicas.into())
                .collect(),
            zone_caps: vec![0; zones.len()],
            hosts,
            zones,
            was: Vec::with_capacity(count * 3),
            was_ends: Vec::with_capacity(count),
            is: Vec::with_capacity(count * 3),
            is_ends: Vec::with_capacity(count),
            levels: Vec::with_capacity(count),
            spots: Vec::with_capacity(count),
        };
        layout.fill(map, goal, available);
        Ok(layout)
    }

    fn fill(&mut self, map: &PartitionMap, goal: &Goal, available: usize) {
        let sizes: Vec<usize> = self.zones.iter().map(Vec::len).collect();
        let inhabited = sizes.iter().filter(|size| **size > 0).count();
        let factors = 0..=usize::from(MAX_REPLICATION_FACTOR);
        let preferred: Vec<usize> = factors.map(|factor| spread_level(&sizes, factor)).collect();
        for topic in map.topics.iter() {
            let factor = usize::from(topic.replication_factor);
            let (level, room) = match zone_rule(map, topic, goal) {
                ZoneRule::Preferred => (preferred.get(factor).copied().unwrap_or(factor), available),
                ZoneRule::Hard => (1, inhabited),
            };
            let all_pinned = goal.pinned_topics.contains(&topic.id);
            let before = self.spots.len();
            for (number, cell) in (0..).zip(topic.cells.iter()) {
                let pinned = all_pinned || !goal.pins.is_empty() && goal.pins.contains(&(topic.id, number));
                match Spot::new(topic.id, number) {
                    Some(spot) if !pinned && cell.moving().is_none() => {
                        self.push(spot, cell, (factor, room), level);
                    }
                    _ => self.leave(cell),
                }
            }
            let partitions = (self.spots.len() - before) as u64;
            for (cap, size) in self.zone_caps.iter_mut().zip(&sizes) {
                *cap += partitions * level.min(*size) as u64;
            }
        }
    }

    /// Counts a partition that is left alone.
    fn leave(&mut self, cell: &Cell) {
        let target = cell.moving().map(|moving| &moving.target);
        let seats: Vec<Slot> = match target {
            Some(target) => target.to_vec(),
            None => cell.seats().iter().map(|seat| seat.slot).collect(),
        };
        for slot in &seats {
            add(&mut self.fixed, *slot);
        }
        if let Some(leader) = seats.first() {
            add(&mut self.fixed_leaders, *leader);
        }
    }

    /// Adds a partition with what it keeps, and holes for what it lacks.
    fn push(&mut self, spot: Spot, cell: &Cell, (factor, room): (usize, usize), level: usize) {
        let seats = cell.seats();
        self.was.extend(seats.iter().map(|seat| seat.slot));
        self.was_ends
            .push(u32::try_from(self.was.len()).unwrap_or(u32::MAX));
        let start = self.is.len();
        let (mut frozen, mut crowded) = (0, false);
        for seat in seats {
            let host = self.host(seat.slot);
            let here = self.is.get(start..).unwrap_or_default();
            let crowd = here.iter().filter(|slot| self.in_zone(**slot, host.zone)).count();
            let kept = match host.role {
                Role::Taker => crowd < level,
                Role::Frozen => true,
                Role::Emptied => false,
            };
            frozen += usize::from(kept && host.role == Role::Frozen);
            crowded |= !kept && host.role == Role::Taker;
            self.is.push(if kept { seat.slot } else { HOLE });
        }
        if crowded {
            self.relieve(start, seats);
        }
        let wanted = factor.min(room + frozen);
        while self.is.len() - start > wanted {
            self.drop_one(start);
        }
        self.is.resize(start + wanted, HOLE);
        self.is_ends
            .push(u32::try_from(self.is.len()).unwrap_or(u32::MAX));
        self.levels.push(u8::try_from(level).unwrap_or(u8::MAX));
        self.spots.push(spot);
    }

    /// Where a zone holds too many replicas of the partition that begins at `start`, has those leave whose nodes hold
    /// the most for their weight: another one would have to leave these later.
    fn relieve(&mut self, start: usize, seats: &[Seat]) {
        for (at, seat) in seats.iter().enumerate() {
            let host = self.host(seat.slot);
            if host.role != Role::Taker || self.is.get(start + at) != Some(&HOLE) {
                continue;
            }
            let kept = self.is.get(start..).unwrap_or_default().iter().enumerate();
            let rivals = kept.filter(|(_, slot)| {
                let rival = self.host(**slot);
                **slot != HOLE && rival.role == Role::Taker && rival.zone == host.zone
            });
            let fullest = rivals
                .map(|(rival, slot)| (rival, *slot))
                .max_by(|a, b| self.fuller(a.1, b.1));
            let mut leaves = seat.slot;
            if let Some((rival, slot)) = fullest.filter(|(_, slot)| self.fuller(*slot, seat.slot).is_gt()) {
                for (place, taken) in [(rival, HOLE), (at, seat.slot)] {
                    if let Some(place) = self.is.get_mut(start + place) {
                        *place = taken;
                    }
                }
                leaves = slot;
            }
            if let Some(held) = self.held.get_mut(usize::from(leaves)) {
                *held = held.saturating_sub(1);
            }
        }
    }

    /// Which of two nodes holds more for its weight.
    fn fuller(&self, a: Slot, b: Slot) -> Ordering {
        let held = |slot: Slot| self.held.get(usize::from(slot)).copied().unwrap_or(0);
        let weight = |slot: Slot| self.host(slot).weight.max(1);
        (held(a) * weight(b)).cmp(&(held(b) * weight(a)))
    }

    /// Takes one replica out of the partition that begins at `start`: a hole, else the last.
    fn drop_one(&mut self, start: usize) {
        let here = self.is.get(start..).unwrap_or_default();
        let hole = here.iter().rposition(|slot| *slot == HOLE);
        let at = hole.unwrap_or(here.len().saturating_sub(1));
        self.is.remove(start + at);
    }

    pub(super) fn host(&self, slot: Slot) -> Host {
        const NOBODY: Host = Host {
            role: Role::Frozen,
            weight: 0,
            zone: u16::MAX,
        };
        self.hosts.get(usize::from(slot)).copied().unwrap_or(NOBODY)
    }

    pub(super) fn is_taker(&self, slot: Slot) -> bool {
        self.host(slot).role == Role::Taker
    }

    fn in_zone(&self, slot: Slot, zone: u16) -> bool {
        slot != HOLE && self.host(slot).zone == zone
    }

    pub(super) const fn len(&self) -> usize {
        self.spots.len()
    }

    fn range(ends: &[u32], at: usize) -> std::ops::Range<usize> {
        let end = |at: usize| ends.get(at).map_or(0, |end| *end as usize);
        let start = if at == 0 { 0 } else { end(at - 1) };
        start..end(at)
    }

    /// The replicas that partition `at` shall have.
    pub(super) fn set(&self, at: usize) -> &[Slot] {
        self.is.get(Self::range(&self.is_ends, at)).unwrap_or_default()
    }

    pub(super) fn set_mut(&mut self, at: usize) -> &mut [Slot] {
        let range = Self::range(&self.is_ends, at);
        self.is.get_mut(range).unwrap_or_default()
    }

    /// The replicas that partition `at` has.
    pub(super) fn before(&self, at: usize) -> &[Slot] {
        self.was.get(Self::range(&self.was_ends, at)).unwrap_or_default()
    }

    /// Whether `slot` can take the place `place` of partition `at`.
    pub(super) fn fits(&self, at: usize, place: usize, slot: Slot) -> bool {
        let set = self.set(at);
        self.zone_fits(at, place, self.host(slot).zone) && !set.contains(&slot)
    }

    /// Whether some node of a zone could take the place `place` of partition `at`, as far as zones go.
    pub(super) fn zone_fits(&self, at: usize, place: usize, zone: u16) -> bool {
        let level = self.levels.get(at).copied().unwrap_or(1);
        let others = self
            .set(at)
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != place);
        let crowd = others.filter(|(_, slot)| self.in_zone(**slot, zone)).count();
        crowd < usize::from(level)
    }

    /// Puts `slot` in the place `place` of partition `at`; returns who was there.
    pub(super) fn put(&mut self, at: usize, place: usize, slot: Slot) -> Slot {
        let there = self.set_mut(at).get_mut(place);
        there.map_or(HOLE, |there| std::mem::replace(there, slot))
    }

    /// What all partitions shall have, in order.
    pub(super) fn sets(&self) -> impl Iterator<Item = &[Slot]> {
        slices(&self.is, &self.is_ends)
    }

    /// How much each node holds and leads as things shall be, what is left alone included.
    pub(super) fn loads(&self) -> Loads {
        let mut loads = Loads {
            replicas: self.fixed.clone(),
            leaders: self.fixed_leaders.clone(),
        };
        for set in self.sets() {
            for slot in set {
                // Nobody has the slot of a hole.
                add(&mut loads.replicas, *slot);
            }
            if let Some(leader) = set.first() {
                add(&mut loads.leaders, *leader);
            }
        }
        loads
    }

    /// Whether some nodes only keep what they have.
    pub(super) fn has_frozen(&self) -> bool {
        self.hosts.iter().any(|host| host.role == Role::Frozen)
    }

    /// Whether some places are to be filled.
    pub(super) fn has_holes(&self) -> bool {
        self.is.contains(&HOLE)
    }

    /// How many places takers have or shall have in all, what is left alone included.
    pub(super) fn places(&self) -> u64 {
        let frozen = if self.has_frozen() {
            let kept = self
                .is
                .iter()
                .filter(|slot| **slot != HOLE && !self.is_taker(**slot));
            kept.count()
        } else {
            0
        };
        let free = (self.is.len() - frozen) as u64;
        let fixed = (0..).zip(&self.fixed).filter(|(slot, _)| self.is_taker(*slot));
        free + fixed.map(|(_, count)| count).sum::<u64>()
    }

    /// The fewest copies that lead to these quotas: what each node lacks even if it keeps all that it has.
    pub(super) fn lower_bound(&self, quotas: &[u64]) -> u64 {
        let mut held = self.fixed.clone();
        self.was.iter().for_each(|slot| add(&mut held, *slot));
        let lacks = quotas
            .iter()
            .zip(held)
            .map(|(quota, held)| quota.saturating_sub(held));
        lacks.sum()
    }

    /// Leaves out the places that nobody can fill.
    pub(super) fn close_holes(&mut self) {
        let sets = (0..self.len()).map(|at| self.set(at).iter().copied().filter(|slot| *slot != HOLE));
        let mut is = Vec::with_capacity(self.is.len());
        let mut ends = Vec::with_capacity(self.is_ends.len());
        for set in sets {
            is.extend(set);
            ends.push(u32::try_from(is.len()).unwrap_or(u32::MAX));
        }
        self.is = is;
        self.is_ends = ends;
    }

    /// How much the fullest taker has of what it should.
    pub(super) fn max_over_mean(&self, counts: &[u64]) -> f64 {
        let takers = || {
            self.hosts
                .iter()
                .zip(counts)
                .filter(|(host, _)| host.role == Role::Taker)
        };
        let total: u64 = takers().map(|(_, count)| *count).sum();
        let weight: u64 = takers().map(|(host, _)| host.weight).sum();
        let mean = total as f64 / weight.max(1) as f64;
        if total == 0 {
            return 1.0;
        }
        let levels = takers().map(|(host, count)| *count as f64 / host.weight.max(1) as f64 / mean);
        levels.fold(0.0, f64::max)
    }

    /// Calls `each` for every partition that shall be other than it is.
    pub(super) fn each_changed(&self, mut each: impl FnMut(Spot, &[Slot], &[Slot])) {
        let sets = slices(&self.was, &self.was_ends).zip(self.sets());
        for (spot, (was, is)) in self.spots.iter().zip(sets) {
            if was != is {
                each(*spot, was, is);
            }
        }
    }

    /// Calls `each` for every place that is given to a node that had no replica there.
    pub(super) fn each_new(&self, mut each: impl FnMut(usize, usize, Slot)) {
        let sets = slices(&self.was, &self.was_ends).zip(self.sets());
        for (at, (was, is)) in sets.enumerate() {
            if was != is {
                let new = is.iter().enumerate().filter(|(_, slot)| !was.contains(slot));
                new.for_each(|(place, slot)| each(at, place, *slot));
            }
        }
    }

    /// Partitions in an order that takes a few of every topic, over and over.
    pub(super) fn strided(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.len();
        (0..STRIDE).flat_map(move |first| (first..count).step_by(STRIDE))
    }
}

/// Partitions that a pass skips after each that it visits. Prime, so that it falls on all numbers of topics
/// whose sizes are round.
const STRIDE: usize = 61;

/// The parts of a list that end where `ends` says.
fn slices<'a>(list: &'a [Slot], ends: &'a [u32]) -> impl Iterator<Item = &'a [Slot]> {
    let mut start = 0;
    ends.iter().map(move |end| {
        let part = list.get(start..*end as usize).unwrap_or_default();
        start = *end as usize;
        part
    })
}

pub(super) fn add(counts: &mut [u64], slot: Slot) {
    if let Some(count) = counts.get_mut(usize::from(slot)) {
        *count += 1;
    }
}

fn zone_rule(map: &PartitionMap, topic: &Topic, goal: &Goal) -> ZoneRule {
    let effective = Effective {
        topic: Some(&topic.settings),
        cluster: map.settings(),
    };
    goal.zones.unwrap_or_else(|| effective.zones())
}

fn role(node: &Node, members: &BTreeMap<NodeId, Liveness>, goal: &Goal) -> Role {
    let life = members.get(&node.id()).copied().unwrap_or(Liveness::Unknown);
    if node.status == NodeStatus::Removed || node.weight() == 0 || goal.exclude.contains(&node.id()) {
        return Role::Emptied;
    }
    match (life, node.status) {
        (Liveness::Alive, NodeStatus::Joining | NodeStatus::Active | NodeStatus::Down) => Role::Taker,
        (Liveness::Dead | Liveness::Left, _) if goal.replace_down => Role::Emptied,
        (Liveness::Alive | Liveness::Suspect | Liveness::Unknown | Liveness::Dead | Liveness::Left, _) => {
            Role::Frozen
        }
    }
}
