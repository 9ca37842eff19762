//! Consistent hashing with virtual nodes, by a frozen and documented hash.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod error;
mod node;
mod ring;
#[cfg(feature = "std")]
mod shared;
mod spec;
#[cfg(feature = "svg")]
mod svg;
mod table;

pub use error::{NameFault, RingError};
pub use node::{NodeName, RingNode, Weight};
pub use ring::{Generation, Moved, Ring, RingDiff, Walk};
#[cfg(feature = "std")]
pub use shared::{HashRing, Owner, RingReader};
pub use spec::{Position, SpecVersion, TopicKey, key_partition};
pub use table::{MAX_SLOT_REPLICAS, SLOT_BITS, SlotSet, SlotTable};

/// Virtual nodes of a node of weight 100 unless the ring says otherwise.
///
/// The share of a node then varies by about `1 / sqrt(128)`, 9 %. More virtual nodes balance better and
/// cost memory and lookup time; exact balance is the assignment map's business.
pub const DEFAULT_VIRTUAL_NODES: u32 = 128;

/// Most virtual nodes that a node of weight 100 may have.
pub const MAX_VIRTUAL_NODES: u32 = 4_096;

/// Most nodes in a ring.
pub const MAX_NODES: usize = 10_000;

/// Most tokens in a ring, over all nodes: ten bytes of memory each.
///
/// Room for [`MAX_NODES`] of normal weight with [`DEFAULT_VIRTUAL_NODES`].
pub const MAX_TOKENS: usize = 1 << 21;

/// Longest name of a node or zone in bytes.
pub const MAX_NAME_LEN: usize = 255;
