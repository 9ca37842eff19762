//! A partition as readers see it.

use std::fmt;

use rivven_types::NodeId;

use crate::{LeaderEpoch, MovePhase, PartitionEpoch, Start, cell::Cell, nodes::Nodes};

/// Who holds a partition and who leads it.
///
/// The replicas are distinct and there is at least one; those in sync are some of them in the same order;
/// the leader is in sync; both epochs only grow.
#[derive(Clone, Copy)]
pub struct Partition<'a> {
    nodes: &'a Nodes,
    cell: &'a Cell,
}

impl<'a> Partition<'a> {
    pub(crate) const fn new(nodes: &'a Nodes, cell: &'a Cell) -> Self {
        Self { nodes, cell }
    }

    /// The nodes that hold it, by preference: the first leads when all is well. While the partition moves,
    /// those that it moves to come last.
    pub fn replicas(self) -> impl ExactSizeIterator<Item = NodeId> + use<'a> {
        let nodes = self.nodes;
        self.cell.seats().iter().map(|seat| nodes.id(seat.slot))
    }

    /// The replicas that have everything acknowledged. Keeps its last members when all are lost, since only
    /// they may lead again.
    pub fn in_sync(self) -> impl Iterator<Item = NodeId> + use<'a> {
        let nodes = self.nodes;
        self.cell.synced().map(|seat| nodes.id(seat.slot))
    }

    /// The same, with the start of each node that is meant.
    pub fn in_sync_starts(self) -> impl Iterator<Item = Start> + use<'a> {
        let nodes = self.nodes;
        self.cell.synced().filter_map(|seat| nodes.start_of(seat))
    }

    /// Who leads, if anybody that may is alive.
    #[must_use]
    pub fn leader(self) -> Option<NodeId> {
        self.cell.leader().map(|seat| self.nodes.id(seat.slot))
    }

    /// Who leads, and which start of it.
    #[must_use]
    pub fn leader_start(self) -> Option<Start> {
        self.nodes.start_of(self.cell.leader()?)
    }

    /// Grows with every change of the leader, to none and to another start of the same node included.
    #[must_use]
    pub const fn leader_epoch(self) -> LeaderEpoch {
        self.cell.leader_epoch
    }

    /// Grows with every change.
    #[must_use]
    pub const fn partition_epoch(self) -> PartitionEpoch {
        self.cell.partition_epoch
    }

    /// Replicas being added: they hold nothing yet that could be relied on.
    pub fn adding(self) -> impl Iterator<Item = NodeId> + use<'a> {
        let nodes = self.nodes;
        self.cell.adding().map(|slot| nodes.id(slot))
    }

    /// Replicas that leave once all that are being added are in sync.
    pub fn removing(self) -> impl Iterator<Item = NodeId> + use<'a> {
        let nodes = self.nodes;
        self.cell.removing().map(|slot| nodes.id(slot))
    }

    /// How far the partition's move is, if it moves.
    #[must_use]
    pub fn move_phase(self) -> Option<MovePhase> {
        self.cell.moving().map(|moving| moving.phase)
    }

    /// Where the partition moves, or has moved as part of a rebalance that has not ended.
    pub fn target(self) -> impl Iterator<Item = NodeId> + use<'a> {
        let nodes = self.nodes;
        let target = self.cell.moving().map_or(&[][..], |moving| &moving.target);
        target.iter().map(|slot| nodes.id(*slot))
    }

    /// Whether nobody can still believe to lead under an earlier epoch: whoever did has let go, or its process is
    /// known to be over. Otherwise the leader waits out its predecessor's lease.
    #[must_use]
    pub const fn is_cleared(self) -> bool {
        self.cell.cleared
    }

    /// Whether the leader has let go of the partition that it was asked to hand over.
    #[must_use]
    pub fn is_released(self) -> bool {
        self.cell.hand_over().is_some_and(|asked| asked.released)
    }

    /// Who is to lead next, while the leader is given time to let go.
    #[must_use]
    pub fn hand_over_to(self) -> Option<NodeId> {
        self.cell.hand_over().map(|hand_over| self.nodes.id(hand_over.to))
    }
}

impl fmt::Debug for Partition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("replicas", &self.replicas().collect::<Vec<_>>())
            .field("in_sync", &self.in_sync().collect::<Vec<_>>())
            .field("leader", &self.leader())
            .field("cleared", &self.is_cleared())
            .field("leader_epoch", &self.leader_epoch().0)
            .field("partition_epoch", &self.partition_epoch().0)
            .field("move_phase", &self.move_phase())
            .field("target", &self.target().collect::<Vec<_>>())
            .field("hand_over_to", &self.hand_over_to())
            .finish()
    }
}
