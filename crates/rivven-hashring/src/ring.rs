//! The ring as a value: tokens in order, and who owns them.

mod diff;
mod edit;
mod index;
#[cfg(feature = "serde")]
mod repr;
#[cfg(test)]
mod tests;
mod walk;

use alloc::vec::Vec;
use core::fmt;

pub use diff::{Moved, RingDiff};
use index::{Found, Index};
pub(crate) use walk::Scratch;
pub use walk::Walk;

use crate::{
    DEFAULT_VIRTUAL_NODES, MAX_NODES, MAX_TOKENS, MAX_VIRTUAL_NODES, NodeName, Position, RingError, RingNode,
    SpecVersion, TopicKey, spec,
};

/// How often a ring has been changed.
///
/// Counts the changes of one value; two rings made by different changes are compared by
/// [`Ring::fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A consistent-hash ring with virtual nodes.
///
/// Invariants: `nodes` is sorted by name; `tokens` and `owners` are equally long and sorted by
/// `(token, owner)`. Because owners are numbered in the order of their names, that is the order by
/// `(token, name)`, and a collision of tokens cannot make the order of insertion matter.
#[derive(Clone, Debug)]
pub struct Ring {
    spec: SpecVersion,
    virtual_nodes: u32,
    generation: Generation,
    pub(crate) nodes: Vec<Member>,
    tokens: Vec<u64>,
    owners: Vec<u16>,
    /// Follows from `tokens` and `owners`.
    index: Index,
    /// Number of nodes in each zone; no zone counts as one.
    zones: Vec<usize>,
}

/// A node and what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) node: RingNode,
    /// Index of its zone in `Ring::zones`.
    zone: usize,
    /// Digest of the node and its tokens.
    digest: u64,
}

impl Ring {
    /// An empty ring with `virtual_nodes` tokens per node of normal weight.
    ///
    /// Values outside of `1..=`[`MAX_VIRTUAL_NODES`] are moved to the nearest allowed one;
    /// [`Self::try_new`] refuses them.
    #[must_use]
    pub const fn new(virtual_nodes: u32) -> Self {
        Self {
            spec: SpecVersion::V1,
            virtual_nodes: match virtual_nodes {
                0 => 1,
                1..=MAX_VIRTUAL_NODES => virtual_nodes,
                _ => MAX_VIRTUAL_NODES,
            },
            generation: Generation(0),
            nodes: Vec::new(),
            tokens: Vec::new(),
            owners: Vec::new(),
            index: Index::EMPTY,
            zones: Vec::new(),
        }
    }

    /// An empty ring with `virtual_nodes` tokens per node of normal weight.
    ///
    /// # Errors
    /// [`RingError::InvalidVirtualNodes`] unless the number is in `1..=`[`MAX_VIRTUAL_NODES`].
    pub const fn try_new(virtual_nodes: u32) -> Result<Self, RingError> {
        if virtual_nodes == 0 || virtual_nodes > MAX_VIRTUAL_NODES {
            return Err(RingError::InvalidVirtualNodes { virtual_nodes });
        }
        Ok(Self::new(virtual_nodes))
    }

    /// Adds a node. Keys move only to it.
    ///
    /// # Errors
    /// [`RingError::DuplicateNode`], [`RingError::InvalidName`], [`RingError::TooManyNodes`] or
    /// [`RingError::TooManyTokens`]; the ring is then unchanged.
    pub fn add(&mut self, node: impl Into<RingNode>) -> Result<Generation, RingError> {
        self.add_all([node])
    }

    /// Adds many nodes at once, or none: one pass over the ring instead of one for each.
    ///
    /// # Errors
    /// As [`Self::add`]; the ring is then unchanged.
    pub fn add_all<N: Into<RingNode>>(
        &mut self,
        nodes: impl IntoIterator<Item = N>,
    ) -> Result<Generation, RingError> {
        let mut joiners = Vec::new();
        let mut total = self.tokens.len();
        for node in nodes {
            if joiners.len() == MAX_NODES {
                return Err(RingError::TooManyNodes);
            }
            let node = node.into();
            node.check()?;
            let tokens = spec::tokens(&node, self.virtual_nodes);
            total += tokens.len();
            if total > MAX_TOKENS {
                return Err(RingError::TooManyTokens);
            }
            joiners.push((node, tokens.collect()));
        }
        self.insert(joiners)?;
        Ok(self.changed())
    }

    /// Removes a node. Only its keys move.
    ///
    /// # Errors
    /// [`RingError::UnknownNode`]; the ring is then unchanged.
    pub fn remove(&mut self, name: &str) -> Result<Generation, RingError> {
        self.take(name)?;
        Ok(self.changed())
    }

    /// Gives a node another weight or zone. Keys move only from it or to it.
    ///
    /// # Errors
    /// [`RingError::UnknownNode`], [`RingError::InvalidName`] or [`RingError::TooManyTokens`]; the ring is
    /// then unchanged.
    pub fn replace(&mut self, node: RingNode) -> Result<Generation, RingError> {
        let mut next = self.clone();
        next.take(&node.name)?;
        let generation = next.add(node)?;
        *self = next;
        Ok(generation)
    }

    /// The node that owns a partition.
    ///
    /// # Errors
    /// [`RingError::EmptyRing`].
    #[inline]
    pub fn owner(&self, topic: &str, partition: u32) -> Result<&NodeName, RingError> {
        self.owner_at(TopicKey::new(topic).partition(partition))
    }

    /// The node that owns a position: the one of the first token at or after it, around the ring.
    ///
    /// # Errors
    /// [`RingError::EmptyRing`].
    #[inline]
    pub fn owner_at(&self, position: Position) -> Result<&NodeName, RingError> {
        let owner = self.owner_index(position).and_then(|at| self.member(at));
        owner.map(|member| &member.node.name).ok_or(RingError::EmptyRing)
    }

    /// The nodes that hold a partition, each in a zone of its own, the owner first.
    ///
    /// The same set as that of [`Self::replica_set`], where that one spreads over enough zones.
    ///
    /// # Errors
    /// As [`Self::replica_set`], and [`RingError::NotEnoughZones`] if `count` exceeds the number of zones;
    /// nodes without a zone count as one.
    pub fn replica_set_across_zones(
        &self,
        topic: &str,
        partition: u32,
        count: usize,
    ) -> Result<Vec<&NodeName>, RingError> {
        let set = self.replica_set(topic, partition, count)?;
        let have = self.zones.len();
        if count > have {
            return Err(RingError::NotEnoughZones { wanted: count, have });
        }
        Ok(set)
    }

    /// The nodes that hold a partition, the owner first.
    ///
    /// All are distinct. Zones are spread as evenly as the nodes allow: each next replica is the first node
    /// along the ring in a zone that has the fewest replicas so far. The set of `n` is therefore a prefix
    /// of the set of `n + 1`.
    ///
    /// # Errors
    /// [`RingError::EmptyRing`], or [`RingError::NotEnoughNodes`] if `count` exceeds the number of nodes.
    pub fn replica_set(
        &self,
        topic: &str,
        partition: u32,
        count: usize,
    ) -> Result<Vec<&NodeName>, RingError> {
        self.replica_set_at(TopicKey::new(topic).partition(partition), count)
    }

    /// The nodes that hold a position, the owner first; see [`Self::replica_set`].
    ///
    /// # Errors
    /// As [`Self::replica_set`].
    pub fn replica_set_at(&self, position: Position, count: usize) -> Result<Vec<&NodeName>, RingError> {
        let mut scratch = Scratch::new(self, count)?;
        let numbers = scratch.replica_set(self, self.token_index(position)).iter();
        let members = numbers.filter_map(|number| self.member(*number));
        Ok(members.map(|member| &member.node.name).collect())
    }

    /// Every node once, in the order in which their tokens come after `position`.
    #[must_use]
    pub fn walk(&self, position: Position) -> Walk<'_> {
        Walk::new(self, position)
    }

    /// The nodes in the order of their names.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &RingNode> {
        self.nodes.iter().map(|member| &member.node)
    }

    /// The node of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&RingNode> {
        self.find(name)
            .ok()
            .and_then(|at| self.nodes.get(at))
            .map(|member| &member.node)
    }

    /// Number of nodes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the ring has no nodes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Number of tokens, over all nodes.
    #[must_use]
    pub const fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of a node of normal weight.
    #[must_use]
    pub const fn virtual_nodes(&self) -> u32 {
        self.virtual_nodes
    }

    /// How often this value has been changed.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// The hash specification that this ring follows.
    #[must_use]
    pub const fn spec(&self) -> SpecVersion {
        self.spec
    }

    /// Digest of everything that decides where keys go.
    ///
    /// Equal for equal rings whatever their history. Nodes compare it with each other: a difference means
    /// that they route differently, which is an alarm.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let digests = self.nodes.iter().map(|member| member.digest);
        spec::fingerprint(self.spec, self.virtual_nodes, digests)
    }

    /// Bytes of memory that the ring has reserved, names and zones not counted.
    #[must_use]
    pub const fn heap_size(&self) -> usize {
        self.tokens.capacity() * size_of::<u64>()
            + self.owners.capacity() * size_of::<u16>()
            + self.nodes.capacity() * size_of::<Member>()
            + self.index.heap_size()
    }

    const fn changed(&mut self) -> Generation {
        self.generation.0 = self.generation.0.saturating_add(1);
        self.generation
    }

    /// The place of a node, or where it would be.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.nodes
            .binary_search_by(|member| member.node.name.as_str().cmp(name))
    }

    fn member(&self, owner: u16) -> Option<&Member> {
        self.nodes.get(usize::from(owner))
    }

    /// Index of the first token at or after `position`, around the ring; 0 in an empty ring.
    pub(crate) fn token_index(&self, position: Position) -> usize {
        let at = self.tokens.partition_point(|token| *token < position.0);
        if at == self.tokens.len() { 0 } else { at }
    }

    #[inline]
    pub(crate) fn owner_index(&self, position: Position) -> Option<u16> {
        match self.index.find(position.0)? {
            Found::Owner(owner) => Some(owner),
            Found::From(at) => {
                let tokens = self.tokens.get(at..)?;
                let next = at + tokens.iter().take_while(|token| **token < position.0).count();
                self.owners.get(next).or(self.owners.first()).copied()
            }
            Found::Anywhere => self.owners.get(self.token_index(position)).copied(),
        }
    }
}

impl Default for Ring {
    /// An empty ring with [`DEFAULT_VIRTUAL_NODES`].
    fn default() -> Self {
        Self::new(DEFAULT_VIRTUAL_NODES)
    }
}

impl PartialEq for Ring {
    /// Whether both route alike; generations are not compared.
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.virtual_nodes == other.virtual_nodes
            && self.nodes().eq(other.nodes())
            && self.tokens == other.tokens
            && self.owners == other.owners
    }
}

impl Eq for Ring {}
