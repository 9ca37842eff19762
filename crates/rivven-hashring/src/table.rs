//! A ring compiled into slots: one look for the owner, one look for a whole replica set.

#![expect(
    clippy::indexing_slicing,
    reason = "a table has a set for every slot and a name for every number, from its making on"
)]

use alloc::{sync::Arc, vec::Vec};
use core::{fmt, ops::RangeInclusive};

use crate::{Generation, NodeName, Position, Ring, RingError, TopicKey, ring::Scratch, spec};

/// Fewest and most slots of a table, as powers of two.
pub const SLOT_BITS: RangeInclusive<u32> = 4..=20;

/// Most replicas that a table holds per slot.
pub const MAX_SLOT_REPLICAS: usize = 8;

/// The replica sets of a ring for each of 2^bits equal slots of the circle.
///
/// Every position in a slot gets the replica set of the slot's first position, so a table is coarser than
/// its ring: it routes a key elsewhere than [`Ring::owner`] where a token lies inside a slot. All who shall
/// agree must use tables of the same `bits`; [`Self::fingerprint`] tells. With four slots per token or more
/// the balance is that of the ring, and when nodes come or go keys move as little as on the ring.
///
/// A table does not change. Compile a new one when the ring has changed; `docs/design/ring.md` in the
/// repository has what that and a look cost.
#[derive(Clone)]
pub struct SlotTable {
    /// Leading bits of a position that name its slot.
    bits: u32,
    replicas: usize,
    /// Nodes of each slot, the owner first: `replicas` numbers each.
    sets: Vec<u16>,
    names: Arc<[NodeName]>,
    generation: Generation,
    fingerprint: u64,
}

impl Ring {
    /// Compiles the replica sets of `replicas` nodes for 2^`bits` slots.
    ///
    /// The sets are those of [`Self::replica_set`]: distinct nodes, zones spread as evenly as the nodes
    /// allow, the owner first. Takes two bytes per slot and replica.
    ///
    /// # Errors
    /// [`RingError::EmptyRing`], [`RingError::NotEnoughNodes`], or [`RingError::InvalidTable`] unless `bits`
    /// is in [`SLOT_BITS`] and `replicas` from 1 to [`MAX_SLOT_REPLICAS`].
    pub fn compile(&self, bits: u32, replicas: usize) -> Result<SlotTable, RingError> {
        if !SLOT_BITS.contains(&bits) || !(1..=MAX_SLOT_REPLICAS).contains(&replicas) {
            return Err(RingError::InvalidTable { bits, replicas });
        }
        let shift = u64::BITS - bits;
        let mut scratch = Scratch::new(self, replicas)?;
        let mut sets = Vec::with_capacity(replicas << bits);
        let mut token = None;
        for slot in 0..1_u64 << bits {
            let at = self.token_index(Position(slot << shift));
            // Slots before the same token have the same set.
            if token.replace(at) == Some(at) {
                sets.extend_from_within(sets.len() - replicas..);
            } else {
                sets.extend(scratch.replica_set(self, at));
            }
        }
        let names = self.nodes().map(|node| node.name().clone());
        Ok(SlotTable {
            bits,
            replicas,
            sets,
            names: names.collect(),
            generation: self.generation(),
            fingerprint: spec::table_fingerprint(self.fingerprint(), bits),
        })
    }
}

impl SlotTable {
    /// The node that owns a partition.
    #[must_use]
    #[inline]
    pub fn owner(&self, topic: &str, partition: u32) -> &NodeName {
        self.owner_at(TopicKey::new(topic).partition(partition))
    }

    /// The node that owns a position.
    #[must_use]
    #[inline]
    pub fn owner_at(&self, position: Position) -> &NodeName {
        self.name(self.sets[self.slot(position) * self.replicas])
    }

    /// The nodes that hold a partition, the owner first.
    #[must_use]
    #[inline]
    pub fn replica_set(&self, topic: &str, partition: u32) -> SlotSet<'_> {
        self.replica_set_at(TopicKey::new(topic).partition(partition))
    }

    /// The nodes that hold a position, the owner first.
    #[must_use]
    #[inline]
    pub fn replica_set_at(&self, position: Position) -> SlotSet<'_> {
        let first = self.slot(position) * self.replicas;
        SlotSet {
            names: &self.names,
            numbers: &self.sets[first..first + self.replicas],
        }
    }

    /// The nodes in the order of their names. [`SlotSet::numbers`] are places in it.
    #[must_use]
    pub fn names(&self) -> &[NodeName] {
        &self.names
    }

    /// Number of leading bits of a position that name its slot.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// Nodes in each set.
    #[must_use]
    pub const fn replicas(&self) -> usize {
        self.replicas
    }

    /// Generation of the ring that the table was made of.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Digest of everything that decides where keys go: equal for tables that route alike, whatever the
    /// number of replicas.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Bytes of memory that the table has reserved, names not counted.
    #[must_use]
    pub const fn heap_size(&self) -> usize {
        self.sets.capacity() * size_of::<u16>()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a slot's number has at most 20 bits"
    )]
    const fn slot(&self, position: Position) -> usize {
        (position.0 >> (u64::BITS - self.bits)) as usize
    }

    fn name(&self, number: u16) -> &NodeName {
        &self.names[usize::from(number)]
    }
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotTable")
            .field("bits", &self.bits)
            .field("replicas", &self.replicas)
            .field("nodes", &self.names.len())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// The nodes that hold a position, the owner first, borrowed from a [`SlotTable`].
#[derive(Clone, Copy)]
pub struct SlotSet<'a> {
    names: &'a [NodeName],
    numbers: &'a [u16],
}

impl<'a> SlotSet<'a> {
    /// The names of the nodes.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &'a NodeName> + use<'a> {
        let names = self.names;
        self.numbers
            .iter()
            .map(move |number| &names[usize::from(*number)])
    }

    /// Places of the nodes in [`SlotTable::names`], for callers that keep a table of their own beside it.
    #[must_use]
    pub const fn numbers(&self) -> &'a [u16] {
        self.numbers
    }
}

impl fmt::Debug for SlotSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests;
