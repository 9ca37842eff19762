//! What can be wrong with a change to a ring or a question to it.

use core::fmt;

use crate::{MAX_NAME_LEN, MAX_NODES, MAX_SLOT_REPLICAS, MAX_TOKENS, MAX_VIRTUAL_NODES, NodeName, SLOT_BITS};

/// Why a ring refused a change or has no answer.
///
/// A refused change has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingError {
    /// The ring has no nodes, so nobody owns anything. Add a node.
    EmptyRing,
    /// A node of that name is in the ring already. Use [`Ring::replace`](crate::Ring::replace) to change it.
    DuplicateNode {
        /// The name that was offered again.
        name: NodeName,
    },
    /// No node of that name is in the ring. Check the name, or add the node first.
    UnknownNode {
        /// The name that was not found.
        name: NodeName,
    },
    /// The name of a node or zone is not usable. Choose another.
    InvalidName {
        /// What is wrong with it.
        fault: NameFault,
    },
    /// A weight is not from 1 to 10,000 percent.
    InvalidWeight {
        /// The weight that was offered.
        percent: u32,
    },
    /// The number of virtual nodes is zero or above [`MAX_VIRTUAL_NODES`].
    InvalidVirtualNodes {
        /// The number that was offered.
        virtual_nodes: u32,
    },
    /// The ring holds [`MAX_NODES`] nodes and takes no more.
    TooManyNodes,
    /// The ring would hold more than [`MAX_TOKENS`] tokens. Use fewer virtual nodes or smaller weights.
    TooManyTokens,
    /// More distinct replicas were asked for than there are nodes. Ask for fewer, or add nodes.
    NotEnoughNodes {
        /// Replicas asked for.
        wanted: usize,
        /// Nodes in the ring.
        have: usize,
    },
    /// More replicas in zones of their own were asked for than there are zones. Ask for fewer, or give nodes
    /// other zones.
    NotEnoughZones {
        /// Replicas asked for.
        wanted: usize,
        /// Zones in the ring; nodes without one count as one.
        have: usize,
    },
    /// A table of so many slots or replicas is not made.
    InvalidTable {
        /// Leading bits of a position that name its slot.
        bits: u32,
        /// Replicas per slot.
        replicas: usize,
    },
    /// The ring was written by a specification that this build does not know. Update this build.
    UnsupportedSpec {
        /// The version found.
        version: u16,
    },
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameFault {
    /// It has no characters.
    Empty,
    /// It is longer than [`MAX_NAME_LEN`] bytes.
    TooLong,
    /// It has a control character, which would garble logs.
    ControlCharacter,
}

impl RingError {
    /// A stable name of the kind of error, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::EmptyRing => "empty-ring",
            Self::DuplicateNode { .. } => "duplicate-node",
            Self::UnknownNode { .. } => "unknown-node",
            Self::InvalidName { .. } => "invalid-name",
            Self::InvalidWeight { .. } => "invalid-weight",
            Self::InvalidVirtualNodes { .. } => "invalid-virtual-nodes",
            Self::TooManyNodes => "too-many-nodes",
            Self::TooManyTokens => "too-many-tokens",
            Self::NotEnoughNodes { .. } => "not-enough-nodes",
            Self::NotEnoughZones { .. } => "not-enough-zones",
            Self::InvalidTable { .. } => "invalid-table",
            Self::UnsupportedSpec { .. } => "unsupported-spec",
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyRing => f.write_str("the ring has no nodes; add one first"),
            Self::DuplicateNode { name } => {
                write!(f, "node {name} is in the ring already; replace it to change it")
            }
            Self::UnknownNode { name } => {
                write!(f, "node {name} is not in the ring; check the name or add it")
            }
            Self::InvalidName { fault } => {
                let fault = match fault {
                    NameFault::Empty => "is empty",
                    NameFault::TooLong => "is too long",
                    NameFault::ControlCharacter => "has a control character",
                };
                write!(
                    f,
                    "the name {fault}; use 1 to {MAX_NAME_LEN} bytes of printable text"
                )
            }
            Self::InvalidWeight { percent } => {
                write!(f, "a weight of {percent} percent is not from 1 to 10000")
            }
            Self::InvalidVirtualNodes { virtual_nodes } => write!(
                f,
                "{virtual_nodes} virtual nodes per node are not from 1 to {MAX_VIRTUAL_NODES}"
            ),
            Self::TooManyNodes => write!(f, "a ring holds at most {MAX_NODES} nodes"),
            Self::TooManyTokens => write!(
                f,
                "a ring holds at most {MAX_TOKENS} tokens; use fewer virtual nodes or smaller weights"
            ),
            Self::NotEnoughNodes { wanted, have } => write!(
                f,
                "{wanted} replicas need as many nodes, and the ring has {have}; ask for fewer or add nodes"
            ),
            Self::NotEnoughZones { wanted, have } => write!(
                f,
                "{wanted} replicas in zones of their own need as many zones, and the ring has {have}; ask for \
                 fewer or give nodes other zones"
            ),
            Self::InvalidTable { bits, replicas } => write!(
                f,
                "a table of 2^{bits} slots with {replicas} replicas is not made; use {} to {} bits and 1 to \
                 {MAX_SLOT_REPLICAS} replicas",
                SLOT_BITS.start(),
                SLOT_BITS.end()
            ),
            Self::UnsupportedSpec { version } => write!(
                f,
                "ring specification {version} is not known to this build; update it"
            ),
        }
    }
}

impl core::error::Error for RingError {}
