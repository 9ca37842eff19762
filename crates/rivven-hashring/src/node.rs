//! A node as the ring sees it: a name, a weight and a zone.

use alloc::{string::String, sync::Arc};
use core::{borrow::Borrow, fmt, ops::Deref};

use crate::{MAX_NAME_LEN, NameFault, RingError};

/// Name of a node or zone, cheap to clone.
///
/// Any text converts; a ring checks it when it arrives (1 to [`MAX_NAME_LEN`] bytes, no control
/// characters), so that `ring.add_node("node1")?` reports a bad name like any other mistake.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn check(&self) -> Result<(), RingError> {
        let fault = if self.0.is_empty() {
            NameFault::Empty
        } else if self.0.len() > MAX_NAME_LEN {
            NameFault::TooLong
        } else if self.0.chars().any(char::is_control) {
            NameFault::ControlCharacter
        } else {
            return Ok(());
        };
        Err(RingError::InvalidName { fault })
    }
}

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for NodeName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<&String> for NodeName {
    fn from(name: &String) -> Self {
        Self(name.as_str().into())
    }
}

impl From<&Self> for NodeName {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}

impl Deref for NodeName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Share of a node relative to others, in percent of a normal node.
///
/// A node of weight 200 gets twice the virtual nodes, and so about twice the keys, of one of weight 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// A normal node: 100 percent.
    pub const NORMAL: Self = Self(100);

    /// The largest weight, a hundred normal nodes.
    pub const MAX: Self = Self(10_000);

    /// A weight of `percent` of a normal node.
    ///
    /// # Errors
    /// [`RingError::InvalidWeight`] unless `percent` is from 1 to 10,000. A node that shall own nothing
    /// is a node that is not in the ring.
    pub const fn percent(percent: u32) -> Result<Self, RingError> {
        if percent == 0 || percent > Self::MAX.0 {
            return Err(RingError::InvalidWeight { percent });
        }
        Ok(Self(percent))
    }

    /// The weight in percent.
    #[must_use]
    pub const fn as_percent(self) -> u32 {
        self.0
    }

    /// Tokens of a node of this weight: rounded half up, at least one. Part of specification V1.
    pub(crate) const fn tokens(self, virtual_nodes: u32) -> u32 {
        // At most 4,096 * 10,000, far below the range of u32.
        let tokens = (virtual_nodes * self.0 + 50) / 100;
        if tokens == 0 { 1 } else { tokens }
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::NORMAL
    }
}

/// A node of a ring, or one about to join it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingNode {
    pub(crate) name: NodeName,
    pub(crate) weight: Weight,
    pub(crate) zone: Option<NodeName>,
}

impl RingNode {
    /// A node of normal weight in no zone.
    pub fn new(name: impl Into<NodeName>) -> Self {
        Self {
            name: name.into(),
            weight: Weight::NORMAL,
            zone: None,
        }
    }

    /// Sets the weight.
    #[must_use]
    pub const fn weighing(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the zone (rack, availability zone): what fails together.
    ///
    /// Nodes without a zone count as one zone, because nothing says that they fail apart.
    #[must_use]
    pub fn in_zone(mut self, zone: impl Into<NodeName>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// The weight.
    #[must_use]
    pub const fn weight(&self) -> Weight {
        self.weight
    }

    /// The zone, if one was given.
    #[must_use]
    pub const fn zone(&self) -> Option<&NodeName> {
        self.zone.as_ref()
    }

    pub(crate) fn check(&self) -> Result<(), RingError> {
        self.name.check()?;
        self.zone.as_ref().map_or(Ok(()), NodeName::check)
    }
}

impl<T: Into<NodeName>> From<T> for RingNode {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}
