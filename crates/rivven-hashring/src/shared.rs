//! One ring for many threads: readers take no lock, writers take turns.

use core::{fmt, ops::Deref};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Cache, Guard};

use crate::{Generation, NodeName, Ring, RingError, TopicKey};

/// A shared handle to a ring.
///
/// Clones share the ring. A reader works on an immutable snapshot and never waits; a writer builds the next
/// ring and swaps it in. For many lookups in a row take one [`Self::snapshot`].
#[derive(Clone, Default)]
pub struct HashRing {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ring: ArcSwap<Ring>,
    /// Held while a writer builds the next ring, so that no change is lost.
    writer: Mutex<()>,
}

impl HashRing {
    /// An empty ring with `virtual_nodes` tokens per node.
    ///
    /// Values outside of `1..=`[`MAX_VIRTUAL_NODES`](crate::MAX_VIRTUAL_NODES) are moved to the nearest
    /// allowed one (so 0 becomes 1); [`Self::try_new`] refuses them.
    #[must_use]
    pub fn new(virtual_nodes: u32) -> Self {
        Ring::new(virtual_nodes).into()
    }

    /// An empty ring with `virtual_nodes` tokens per node.
    ///
    /// # Errors
    /// [`RingError::InvalidVirtualNodes`] unless the number is in
    /// `1..=`[`MAX_VIRTUAL_NODES`](crate::MAX_VIRTUAL_NODES).
    pub fn try_new(virtual_nodes: u32) -> Result<Self, RingError> {
        Ring::try_new(virtual_nodes).map(Self::from)
    }

    /// Adds a node of normal weight in no zone.
    ///
    /// # Errors
    /// As [`Ring::add`]; the ring is then unchanged.
    pub fn add_node(&self, name: impl Into<NodeName>) -> Result<Generation, RingError> {
        let name = name.into();
        self.update(|ring| ring.add(name))
    }

    /// Removes a node.
    ///
    /// # Errors
    /// As [`Ring::remove`]; the ring is then unchanged.
    pub fn remove_node(&self, name: &str) -> Result<Generation, RingError> {
        self.update(|ring| ring.remove(name))
    }

    /// Changes the ring in one step: readers see all of `change` or nothing of it.
    ///
    /// # Errors
    /// Whatever `change` returns; the ring is then unchanged.
    pub fn update<T, E>(&self, change: impl FnOnce(&mut Ring) -> Result<T, E>) -> Result<T, E> {
        // The lock guards no data that a panicking writer could have left half done.
        let _turn = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Ring::clone(&self.shared.ring.load());
        let value = change(&mut next)?;
        self.shared.ring.store(Arc::new(next));
        Ok(value)
    }

    /// The node that owns a partition.
    ///
    /// # Errors
    /// [`RingError::EmptyRing`].
    #[inline]
    pub fn get_partition_owner(&self, topic: &str, partition: u32) -> Result<Owner, RingError> {
        let ring = self.shared.ring.load();
        let position = TopicKey::new(topic).partition(partition);
        let index = ring.owner_index(position).ok_or(RingError::EmptyRing)?;
        Ok(Owner {
            ring,
            index: usize::from(index),
        })
    }

    /// A reader of its own for a thread or task that looks up often.
    #[must_use]
    pub fn reader(&self) -> RingReader {
        RingReader {
            ring: Cache::new(Latest(Arc::clone(&self.shared))),
        }
    }

    /// The ring as it is at this moment; later changes do not touch it.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Ring> {
        self.shared.ring.load_full()
    }

    /// How often the ring has been changed.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.shared.ring.load().generation()
    }
}

/// Lookups that write to no memory that others read, for one thread or task. From [`HashRing::reader`].
///
/// It keeps the last ring that it has seen and compares one pointer before each lookup, so it costs about as much as
/// the ring itself, on any number of threads. [`HashRing::get_partition_owner`] pays for an answer that needs no
/// reader with two exchanges on memory of its own thread. Until it looks again, a reader keeps a replaced ring in
/// memory.
#[derive(Clone)]
pub struct RingReader {
    ring: Cache<Latest, Arc<Ring>>,
}

/// The newest ring of a handle.
#[derive(Clone)]
struct Latest(Arc<Shared>);

impl Deref for Latest {
    type Target = ArcSwap<Ring>;

    fn deref(&self) -> &ArcSwap<Ring> {
        &self.0.ring
    }
}

impl RingReader {
    /// The ring as it is at this moment.
    #[inline]
    pub fn ring(&mut self) -> &Ring {
        self.ring.load()
    }

    /// The node that owns a partition.
    ///
    /// # Errors
    /// [`RingError::EmptyRing`].
    #[inline]
    pub fn owner(&mut self, topic: &str, partition: u32) -> Result<&NodeName, RingError> {
        self.ring.load().owner(topic, partition)
    }
}

impl fmt::Debug for RingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring.arc_swap().load();
        f.debug_struct("RingReader")
            .field("generation", &ring.generation())
            .finish_non_exhaustive()
    }
}

impl From<Ring> for HashRing {
    fn from(ring: Ring) -> Self {
        let ring = ArcSwap::from_pointee(ring);
        let writer = Mutex::new(());
        Self {
            shared: Arc::new(Shared { ring, writer }),
        }
    }
}

impl fmt::Debug for HashRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.shared.ring.load();
        f.debug_struct("HashRing")
            .field("nodes", &ring.len())
            .field("virtual_nodes", &ring.virtual_nodes())
            .field("generation", &ring.generation())
            .finish()
    }
}

/// The owner of a partition in one snapshot of the ring: text, for as long as it is held.
///
/// It borrows the snapshot rather than clone the name, which keeps lookups free of contention. To keep the
/// name for long, clone it out of [`Self::name`].
pub struct Owner {
    ring: Guard<Arc<Ring>>,
    /// Always the index of a node of `ring`.
    index: usize,
}

impl Owner {
    /// The name of the owner.
    #[must_use]
    #[expect(
        clippy::indexing_slicing,
        reason = "the index was looked up in this immutable snapshot"
    )]
    pub fn name(&self) -> &NodeName {
        &self.ring.nodes[self.index].node.name
    }

    /// Generation of the ring that gave this answer.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.ring.generation()
    }
}

impl Deref for Owner {
    type Target = str;

    fn deref(&self) -> &str {
        self.name().as_str()
    }
}

impl AsRef<str> for Owner {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Owner {}

impl PartialEq<str> for Owner {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Owner {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests;
