//! The table of nodes, and how much each holds.

use std::{collections::BTreeMap, sync::Arc};

use rivven_types::NodeId;

use crate::{
    Node, Start,
    cell::{Cell, Seat, Slot},
};

/// Nodes in the order of their first registration, which gives each its slot for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    nodes: Vec<Arc<Node>>,
    /// The numbers alone, for readers in a hurry.
    ids: Vec<NodeId>,
    slots: BTreeMap<NodeId, Slot>,
}

impl Nodes {
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn slot(&self, node: NodeId) -> Option<Slot> {
        self.slots.get(&node).copied()
    }

    pub(crate) fn id(&self, slot: Slot) -> NodeId {
        self.ids.get(usize::from(slot)).copied().unwrap_or(0)
    }

    pub(crate) fn at(&self, slot: Slot) -> Option<&Node> {
        self.nodes.get(usize::from(slot)).map(|node| &**node)
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Node> {
        self.at(self.slot(node)?)
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        let slot = self.slot(node)?;
        self.nodes.get_mut(usize::from(slot)).map(Arc::make_mut)
    }

    /// Adds a node whose number is new. `None` if the table is full or the number is known.
    pub(crate) fn push(&mut self, node: Node) -> Option<Slot> {
        let slot = Slot::try_from(self.nodes.len()).ok()?;
        if self.slots.contains_key(&node.id()) {
            return None;
        }
        self.slots.insert(node.id(), slot);
        self.ids.push(node.id());
        self.nodes.push(Arc::new(node));
        Some(slot)
    }

    /// In the order of their slots.
    pub(crate) fn by_slot(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.iter().map(|node| &**node)
    }

    /// In the order of their numbers.
    pub(crate) fn by_id(&self) -> impl Iterator<Item = &Node> {
        self.slots.values().filter_map(|slot| self.at(*slot))
    }

    /// The seat of a node as it runs at present.
    pub(crate) fn seat(&self, slot: Slot) -> Seat {
        let node = self.at(slot);
        let boot = node.map_or(0, |node| node.registration.boot_epoch.0);
        Seat {
            slot,
            instance: node.map_or(0, |node| u16::try_from(node.former.len()).unwrap_or(u16::MAX)),
            boot: u32::try_from(boot).unwrap_or(u32::MAX),
        }
    }

    /// Whether a seat that has been in sync was so in the data directory that the node has at present.
    pub(crate) fn is_same_disk(&self, seat: Seat) -> bool {
        let instance = self.at(seat.slot).map(|node| node.former.len());
        instance == Some(usize::from(seat.instance))
    }

    /// The start that a seat speaks of.
    pub(crate) fn start_of(&self, seat: Seat) -> Option<Start> {
        let node = self.at(seat.slot)?;
        let former = node.former.get(usize::from(seat.instance)).copied();
        Some(Start {
            node: node.id(),
            instance: former.unwrap_or(node.registration.instance),
            boot_epoch: rivven_types::BootEpoch(seat.boot.into()),
        })
    }
}

/// What one node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) replicas: u32,
    pub(crate) leaders: u32,
}

/// What the nodes hold, by slot. Kept in step with every change, so that nobody has to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loads(Vec<Load>);

impl Loads {
    pub(crate) fn of(&self, slot: Slot) -> Load {
        self.0.get(usize::from(slot)).copied().unwrap_or_default()
    }

    pub(crate) fn add_node(&mut self) {
        self.0.push(Load::default());
    }

    /// Counts a partition in.
    pub(crate) fn add(&mut self, cell: &Cell) {
        self.change(cell, u32::saturating_add);
    }

    /// Counts a partition out.
    pub(crate) fn remove(&mut self, cell: &Cell) {
        self.change(cell, u32::saturating_sub);
    }

    fn change(&mut self, cell: &Cell, op: fn(u32, u32) -> u32) {
        for seat in cell.seats() {
            if let Some(load) = self.0.get_mut(usize::from(seat.slot)) {
                load.replicas = op(load.replicas, 1);
            }
        }
        if let Some(load) = cell
            .leader()
            .and_then(|seat| self.0.get_mut(usize::from(seat.slot)))
        {
            load.leaders = op(load.leaders, 1);
        }
    }
}
