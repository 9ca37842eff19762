//! The frozen hash specification V1: how names and keys become numbers. `spec/SPEC.md` is its text.

use alloc::vec::Vec;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{RingError, RingNode};

/// Version of the hash specification that a ring follows.
///
/// Every node of a cluster must follow the same one. A change to any byte of the specification is a new
/// version, never an edit of an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum SpecVersion {
    /// XXH3-64 with domain seeds and the finaliser of MurmurHash3.
    #[default]
    V1,
}

impl SpecVersion {
    /// The number that stands for this version in every format.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::V1 => 1,
        }
    }
}

impl TryFrom<u16> for SpecVersion {
    type Error = RingError;

    fn try_from(version: u16) -> Result<Self, RingError> {
        match version {
            1 => Ok(Self::V1),
            version => Err(RingError::UnsupportedSpec { version }),
        }
    }
}

/// Seeds keep the domains apart: a node and a topic of the same name hash differently.
const SEED_NODE: u64 = u64::from_le_bytes(*b"rvn-node");
const SEED_TOPIC: u64 = u64::from_le_bytes(*b"rvntopic");
const SEED_MEMBER: u64 = u64::from_le_bytes(*b"rvn-memb");
const SEED_RING: u64 = u64::from_le_bytes(*b"rvn-ring");
const SEED_TABLE: u64 = u64::from_le_bytes(*b"rvn-slot");
const SEED_RECORD: u64 = u64::from_le_bytes(*b"rvn-reco");

/// 2^64 divided by the golden ratio, made odd.
const PHI: u64 = 0x9e37_79b9_7f4a_7c15;

/// The 64-bit finaliser of MurmurHash3: a bijection in which each input bit flips half of the output.
const fn fmix64(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The `index`-th number derived from a hash.
const fn derive(hash: u64, index: u32) -> u64 {
    fmix64(hash ^ (index as u64 + 1).wrapping_mul(PHI))
}

/// A place on the ring, from 0 to 2^64 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// The hash of a topic, kept by callers that look up many of its partitions.
///
/// ```
/// use rivven_hashring::{Ring, TopicKey};
/// let mut ring = Ring::new(128);
/// ring.add("node1")?;
/// let orders = TopicKey::new("orders");
/// assert_eq!(ring.owner_at(orders.partition(7))?, ring.owner("orders", 7)?);
/// # Ok::<(), rivven_hashring::RingError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey(u64);

impl TopicKey {
    /// Hashes the bytes of the topic's name.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self(xxh3_64_with_seed(topic.as_bytes(), SEED_TOPIC))
    }

    /// Where a partition of the topic lies.
    #[must_use]
    pub const fn partition(self, partition: u32) -> Position {
        Position(derive(self.0, partition))
    }
}

/// The partition that a record of this key belongs to, in a topic of so many partitions; 0 if there are none.
///
/// No ring is involved, and no node: the answer is the same everywhere and for ever. It changes with the
/// number of partitions, for most keys.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "less than `partitions`, which is a u32"
)]
pub fn key_partition(key: &[u8], partitions: u32) -> u32 {
    let hash = xxh3_64_with_seed(key, SEED_RECORD);
    ((u128::from(hash) * u128::from(partitions)) >> 64) as u32
}

/// The tokens of a node in the order of their index, not sorted.
pub(crate) fn tokens(node: &RingNode, virtual_nodes: u32) -> impl ExactSizeIterator<Item = u64> + use<> {
    let hash = xxh3_64_with_seed(node.name.as_bytes(), SEED_NODE);
    (0..node.weight.tokens(virtual_nodes)).map(move |index| derive(hash, index))
}

/// Digest of one node: what it was told to be, and the tokens that came of it.
///
/// The tokens are included so that a build whose hash is wrong is told apart from a healthy one.
pub(crate) fn node_digest(node: &RingNode, tokens: &[u64]) -> u64 {
    let zone = node.zone.as_ref().map_or("", |zone| zone.as_str());
    let mut bytes = Vec::with_capacity(16 + node.name.len() + zone.len() + 8 * tokens.len());
    for text in [node.name.as_str(), zone] {
        // Names are at most 255 bytes long, which `RingNode::check` has seen to.
        let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&node.weight.as_percent().to_le_bytes());
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, SEED_MEMBER)
}

/// Digest of a ring from the digests of its nodes in the order of their names.
pub(crate) fn fingerprint(spec: SpecVersion, virtual_nodes: u32, digests: impl Iterator<Item = u64>) -> u64 {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&spec.number().to_le_bytes());
    bytes.extend_from_slice(&virtual_nodes.to_le_bytes());
    for digest in digests {
        bytes.extend_from_slice(&digest.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, SEED_RING)
}

/// Digest of a table of 2^`bits` slots, made of a ring with the fingerprint `ring`.
///
/// The number of replicas is left out: a shorter set is a prefix of a longer one.
pub(crate) fn table_fingerprint(ring: u64, bits: u32) -> u64 {
    let mut bytes = [0; 12];
    let (left, right) = bytes.split_at_mut(8);
    left.copy_from_slice(&ring.to_le_bytes());
    right.copy_from_slice(&bits.to_le_bytes());
    xxh3_64_with_seed(&bytes, SEED_TABLE)
}

#[cfg(test)]
mod tests;
