//! The nodes as the controller sees them at one moment, and how much each leads and holds.

use std::collections::BTreeMap;

use rivven_types::NodeId;

use super::{Liveness, Policy};
use crate::{
    MAX_REBUILD_FLAPS, Node, NodeStatus, PartitionMap,
    cell::{Cell, Seat, Slot},
};

/// What follows from a node's life, status and weight for its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Alive and in good order: may become a leader.
    Able,
    /// Alive and about to leave: leads only what nobody else can.
    Leaving,
    /// Neither known alive nor known dead: keeps what it has, unless it is about to leave.
    Doubtful { leaving: bool },
    /// Dead, left or removed: out of sync, leads nothing.
    Gone,
}

/// A node as seen. Two equal ones mean the same for every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) standing: Standing,
    /// The start that is registered.
    pub(super) seat: Seat,
    /// Whether its replicas are to be rebuilt elsewhere.
    pub(super) lost: bool,
    /// Whether its last leaderships are over for certain, whatever it may believe.
    pub(super) expired: bool,
}

/// Everything that a decision rests on.
pub(super) struct View<'a> {
    pub(super) map: &'a PartitionMap,
    pub(super) policy: Policy,
    pub(super) now_ms: u64,
    members: &'a BTreeMap<NodeId, Liveness>,
    /// By slot.
    pub(super) seen: Vec<Seen>,
    /// Partitions that each node leads, or will once what is decided is applied; by slot.
    leads: Vec<u64>,
    /// Replicas that each node holds, or will; by slot.
    holds: Vec<u64>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        map: &'a PartitionMap,
        members: &'a BTreeMap<NodeId, Liveness>,
        policy: Policy,
        now_ms: u64,
    ) -> Self {
        let slots = 0..Slot::try_from(map.nodes.len()).unwrap_or(Slot::MAX);
        let loads = slots.map(|slot| map.loads.of(slot));
        let loads = loads.map(|load| (u64::from(load.leaders), u64::from(load.replicas)));
        let (leads, holds) = loads.unzip();
        let mut view = Self {
            map,
            policy,
            now_ms,
            members,
            seen: Vec::new(),
            leads,
            holds,
        };
        let nodes = (0..).zip(map.nodes.by_slot());
        view.seen = nodes.map(|(slot, node)| view.look(slot, node)).collect();
        view
    }

    fn look(&self, slot: Slot, node: &Node) -> Seen {
        let life = self.life(node.id());
        let standing = standing(node, life);
        let gone = standing == Standing::Gone;
        Seen {
            standing,
            seat: self.map.nodes.seat(slot),
            lost: node.status == NodeStatus::Removed || node.weight() == 0 || gone && self.held_out(node),
            expired: life == Liveness::Left || node.status == NodeStatus::Removed || self.lease_is_over(node),
        }
    }

    /// Whether a node has been down for long enough to give up its replicas.
    fn held_out(&self, node: &Node) -> bool {
        let hold_ms = self.map.effective().rebuild_hold_ms() << node.flaps.min(MAX_REBUILD_FLAPS);
        node.status == NodeStatus::Down && self.now_ms.saturating_sub(node.since_ms) >= hold_ms
    }

    fn lease_is_over(&self, node: &Node) -> bool {
        let down = node.status == NodeStatus::Down;
        self.policy.lease_ms == 0 || down && self.now_ms.saturating_sub(node.since_ms) >= self.policy.lease_ms
    }

    pub(super) fn life(&self, node: NodeId) -> Liveness {
        self.members.get(&node).copied().unwrap_or(Liveness::Unknown)
    }

    pub(super) fn of(&self, slot: Slot) -> Seen {
        let unknown = Seen {
            standing: Standing::Gone,
            seat: Seat::default(),
            lost: true,
            expired: true,
        };
        self.seen.get(usize::from(slot)).copied().unwrap_or(unknown)
    }

    /// Whether a seat speaks of the start that its node is registered with.
    pub(super) fn is_current(&self, seat: Seat) -> bool {
        self.of(seat.slot).seat == seat
    }

    /// Whether a node may be named as in sync under its present start.
    pub(super) fn confirms(&self, seat: Seat) -> bool {
        match self.of(seat.slot).standing {
            Standing::Able | Standing::Leaving => true,
            Standing::Doubtful { .. } | Standing::Gone => false,
        }
    }

    /// How much a node leads for its weight, in no particular unit.
    pub(super) fn lead_of(&self, slot: Slot) -> u64 {
        self.scaled(slot, self.leads.get(usize::from(slot)))
    }

    /// How much a node holds for its weight, in no particular unit.
    pub(super) fn hold_of(&self, slot: Slot) -> u64 {
        self.scaled(slot, self.holds.get(usize::from(slot)))
    }

    fn scaled(&self, slot: Slot, count: Option<&u64>) -> u64 {
        let weight = self.weight(slot).max(1);
        // A million partitions times 2^30 stay far from the end of a u64.
        count.copied().unwrap_or(0) * (1 << 30) / weight
    }

    pub(super) fn weight(&self, slot: Slot) -> u64 {
        self.map.nodes.at(slot).map_or(1, |node| node.weight().into())
    }

    /// Counts the leader of a partition out.
    pub(super) fn unseat(&mut self, cell: &Cell) {
        if let Some(seat) = cell.leader() {
            count(&mut self.leads, seat.slot, false);
        }
    }

    /// Counts a leadership in.
    pub(super) fn seat(&mut self, slot: Slot) {
        count(&mut self.leads, slot, true);
    }

    /// Counts a replica in.
    pub(super) fn give(&mut self, slot: Slot) {
        count(&mut self.holds, slot, true);
    }
}

fn count(counts: &mut [u64], slot: Slot, more: bool) {
    if let Some(count) = counts.get_mut(usize::from(slot)) {
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
    }
}

fn standing(node: &Node, life: Liveness) -> Standing {
    let leaving = node.status == NodeStatus::Draining || node.weight() == 0;
    match (node.status, life) {
        (NodeStatus::Removed, _) | (_, Liveness::Dead | Liveness::Left) => Standing::Gone,
        (_, Liveness::Suspect | Liveness::Unknown) => Standing::Doubtful { leaving },
        (_, Liveness::Alive) if leaving => Standing::Leaving,
        (_, Liveness::Alive) => Standing::Able,
    }
}
