//! Numbers and names of topics and partitions.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{MAX_PARTITIONS_PER_TOPIC, MAX_TOPIC_NAME_LEN, PartitionError};

/// Number of a topic, never used twice: a topic created again under its old name gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub u64);

/// Counts the changes of a partition's leader, to none included.
///
/// The fencing token of leadership: whoever acts for a partition shows it, and lower ones are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaderEpoch(pub u64);

/// Counts all changes of a partition: of its leader, of its replicas and of those in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionEpoch(pub u64);

impl LeaderEpoch {
    /// The epoch of the first leader.
    pub const FIRST: Self = Self(1);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl PartitionEpoch {
    /// The epoch of a new partition.
    pub const FIRST: Self = Self(1);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

macro_rules! display_number {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

display_number!(TopicId LeaderEpoch PartitionEpoch);

/// Name of a topic: 1 to 249 characters of `a-z A-Z 0-9 . _ -`, but neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`PartitionError::InvalidTopicName`].
    pub fn new(name: &str) -> Result<Self, PartitionError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let valid = (1..=MAX_TOPIC_NAME_LEN).contains(&name.len()) && name.bytes().all(plain);
        if !valid || matches!(name, "." | "..") {
            return Err(PartitionError::InvalidTopicName);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TopicName {
    type Error = PartitionError;

    fn try_from(name: String) -> Result<Self, PartitionError> {
        Self::new(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.as_str().into()
    }
}

impl Deref for TopicName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A partition as one number, ascending in the order of batches: by topic, then by partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Spot(u64);

/// Bits of a [`Spot`] that number the partition within its topic.
const PARTITION_BITS: u32 = 14;

const _: () = assert!(MAX_PARTITIONS_PER_TOPIC <= 1 << PARTITION_BITS);

/// Topics ever created beyond which none can be, which nobody reaches: 2^50.
pub(crate) const MAX_TOPIC_ID: u64 = 1 << (u64::BITS - PARTITION_BITS);

impl Spot {
    /// The spot of a partition; `None` for numbers that no partition has.
    pub(crate) const fn new(topic: TopicId, partition: u32) -> Option<Self> {
        if topic.0 < MAX_TOPIC_ID && partition < MAX_PARTITIONS_PER_TOPIC {
            Some(Self(topic.0 << PARTITION_BITS | partition as u64))
        } else {
            None
        }
    }

    pub(crate) const fn topic(self) -> TopicId {
        TopicId(self.0 >> PARTITION_BITS)
    }

    pub(crate) const fn partition(self) -> u32 {
        (self.0 & ((1 << PARTITION_BITS) - 1)) as u32
    }
}
