//! The invariants of a whole state, checked when one comes from outside and after every step of the tests.

use std::collections::BTreeSet;

use super::{PartitionState, nodes::check_registration, planned, topics::check_counts};
use crate::{
    MAX_INSTANCES_PER_NODE, MAX_NODES, MAX_PARTITIONS, MAX_REPLICATION_FACTOR, MAX_TOPICS,
    MAX_UNCLEAN_RECORDS, MAX_WEIGHT, MovePhase, NodeStatus, PartitionError, RebalanceStatus, Scope, Topic,
    cell::{Cell, MAX_SEATS, Slot, all},
    ids::MAX_TOPIC_ID,
    nodes::Loads,
};

impl PartitionState {
    /// Whether commands could have led to this state.
    pub(crate) fn check(&self) -> Result<(), PartitionError> {
        let map = &self.map;
        ensure(map.nodes.len() <= MAX_NODES, || "too many nodes".into())?;
        ensure(map.topics.len() <= MAX_TOPICS, || "too many topics".into())?;
        ensure(map.partitions <= MAX_PARTITIONS, || "too many partitions".into())?;
        ensure(self.next_topic <= MAX_TOPIC_ID, || "topic numbers".into())?;
        ensure(map.placed <= map.generation, || "placement generation".into())?;
        ensure(map.unclean.len() <= MAX_UNCLEAN_RECORDS, || {
            "unclean elections".into()
        })?;
        ensure(map.settings.is_sound(Scope::Cluster), || "settings".into())?;
        let mut removed = 0;
        for node in map.nodes.by_slot() {
            let sound = check_registration(&node.registration).is_ok()
                && node.former.len() < MAX_INSTANCES_PER_NODE
                && node.weight_override.is_none_or(|weight| weight <= MAX_WEIGHT);
            ensure(sound, || format!("node {}", node.id()))?;
            removed += u64::from(node.status == NodeStatus::Removed);
        }
        let plausible = removed <= map.removals && map.removals <= map.generation;
        ensure(plausible, || {
            format!("{} removals, {removed} removed nodes", map.removals)
        })?;
        let mut counted = Counted::default();
        for _ in 0..map.nodes.len() {
            counted.loads.add_node();
        }
        for topic in map.topics.iter() {
            self.check_topic(topic, &mut counted)?;
        }
        ensure(counted.loads == *map.loads, || "loads".into())?;
        ensure(counted.partitions == map.partitions, || "partition count".into())?;
        self.check_rebalance(&counted.phases)
    }

    fn check_topic(&self, topic: &Topic, counted: &mut Counted) -> Result<(), PartitionError> {
        let sound = topic.id.0 < self.next_topic
            && topic.created <= self.map.generation
            && topic.cells.is_sound()
            && topic.settings.is_sound(Scope::Topic)
            && self
                .map
                .topics
                .by_name(&topic.name)
                .is_some_and(|found| found.id == topic.id);
        ensure(sound, || format!("topic {}", topic.name))?;
        check_counts(topic.cells.len(), topic.replication_factor)?;
        for (number, cell) in topic.cells.iter().enumerate() {
            ensure(self.is_sound(cell), || {
                format!("partition {number} of topic {}", topic.name)
            })?;
            counted.loads.add(cell);
            counted.partitions += 1;
            counted.phases.extend(planned(cell));
        }
        Ok(())
    }

    fn is_sound(&self, cell: &Cell) -> bool {
        let seats = cell.seats();
        let status = |slot| self.map.nodes.at(slot).map(|node| node.status);
        let known = |slot: &Slot| status(*slot).is_some();
        let distinct = |slots: &[Slot]| slots.iter().collect::<BTreeSet<_>>().len() == slots.len();
        let slots: Vec<Slot> = seats.iter().map(|seat| seat.slot).collect();
        let fit = |list: &[Slot]| {
            (1..=usize::from(MAX_REPLICATION_FACTOR)).contains(&list.len())
                && distinct(list)
                && list.iter().all(known)
        };
        let most = if cell.active_move().is_some() {
            MAX_SEATS
        } else {
            MAX_REPLICATION_FACTOR.into()
        };
        let instances = seats.iter().all(|seat| {
            let node = self.map.nodes.at(seat.slot);
            node.is_some_and(|node| usize::from(seat.instance) <= node.former.len())
        });
        let moving = cell.moving().is_none_or(|moving| {
            let both = moving
                .prior
                .iter()
                .chain(moving.target.iter().filter(|slot| !moving.prior.contains(slot)));
            fit(&moving.prior)
                && fit(&moving.target)
                && match moving.phase {
                    MovePhase::Queued => *moving.prior == *slots,
                    MovePhase::Done => *moving.target == *slots,
                    MovePhase::Adding | MovePhase::Undoing => both.eq(&slots),
                }
        });
        let hand_over = cell.hand_over().is_none_or(|asked| {
            let leads = cell.leader().is_some_and(|leader| leader.slot != asked.to);
            leads && cell.place_of(asked.to).is_some()
        });
        let leads = cell.leader().is_none_or(|seat| {
            let synced = cell.place_of(seat.slot).is_some_and(|at| cell.is_in_sync(at));
            synced && status(seat.slot) != Some(NodeStatus::Removed)
        });
        (1..=most).contains(&seats.len())
            && distinct(&slots)
            && slots.iter().all(known)
            && instances
            && cell.in_sync != 0
            && cell.in_sync & !all(seats.len()) == 0
            && cell.has_sound_leader()
            && leads
            && moving
            && hand_over
            && cell.leader_epoch.0 >= 1
            && cell.leader_epoch.0 <= cell.partition_epoch.0
    }

    fn check_rebalance(&self, phases: &[MovePhase]) -> Result<(), PartitionError> {
        let Some(rebalance) = &self.map.rebalance else {
            return ensure(phases.is_empty(), || "moves without a rebalance".into());
        };
        let mut counts = (**rebalance).clone();
        (counts.queued, counts.active, counts.done) = (0, 0, 0);
        for phase in phases {
            *counts.count_of(*phase) += 1;
        }
        let within = phases.len() <= usize::try_from(rebalance.moves).unwrap_or(usize::MAX);
        let queued = rebalance.status != RebalanceStatus::Cancelling || counts.queued == 0;
        let sound = counts == **rebalance && within && queued && rebalance.id <= self.map.generation;
        ensure(sound, || "rebalance".into())
    }
}

/// What a state has in all.
#[derive(Default)]
struct Counted {
    loads: Loads,
    partitions: usize,
    phases: Vec<MovePhase>,
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), PartitionError> {
    if holds {
        Ok(())
    } else {
        Err(PartitionError::DamagedState { what: what() })
    }
}
