//! What a `KvStore` is asked, and what it answers.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::KeyRange;
use crate::Refusal;

/// Names a lease: a time to live that keys hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value and when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KvEntry {
    /// The bytes put.
    pub value: Bytes,
    /// Revision at which the key came into being; kept by later puts, lost by a delete.
    pub create_revision: u64,
    /// Revision of the last put.
    pub mod_revision: u64,
    /// In how many revisions the key was put since it came into being; 1 for a new key.
    pub version: u64,
    /// The lease the key ends with.
    pub lease: Option<LeaseId>,
}

/// How long a key that is put lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Lifetime {
    /// Until it is deleted.
    #[default]
    Unlimited,
    /// As long as this lease, which must exist.
    Lease(LeaseId),
    /// This many milliseconds of log time, by a lease of its own that ends when the key does or is put
    /// anew. Within [`MIN_LEASE_TTL_MS`](crate::MIN_LEASE_TTL_MS) and
    /// [`MAX_LEASE_TTL_MS`](crate::MAX_LEASE_TTL_MS).
    Ttl(u64),
}

/// A change of a [`KvStore`](crate::KvStore).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvCommand {
    /// Sets `key` to `value`.
    Put {
        /// At most [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES), not empty.
        key: String,
        /// At most [`MAX_VALUE_BYTES`](crate::MAX_VALUE_BYTES).
        value: Bytes,
        /// How long it lasts.
        lifetime: Lifetime,
    },
    /// Removes `key`.
    Delete {
        /// The key.
        key: String,
    },
    /// Sets or removes `key` if it is at the expected revision, else answers [`KvResponse::Conflict`].
    Cas {
        /// The key.
        key: String,
        /// [`KvEntry::mod_revision`] the key must have; `None`: it must not exist.
        expected: Option<u64>,
        /// The new value; `None` removes the key.
        value: Option<Bytes>,
        /// How long a new value lasts.
        lifetime: Lifetime,
    },
    /// Removes keys, at most [`MAX_DELETED_KEYS`](crate::MAX_DELETED_KEYS), the first ones first.
    DeleteRange {
        /// Which keys.
        range: KeyRange,
    },
    /// Several operations, chosen by comparisons, that take effect together in one revision.
    Txn(KvTxn),
    /// Makes a lease.
    GrantLease {
        /// Milliseconds of log time without a renewal after which it ends.
        ttl_ms: u64,
    },
    /// Gives a lease its whole time again.
    RenewLease {
        /// The lease.
        lease: LeaseId,
    },
    /// Ends a lease and removes its keys.
    RevokeLease {
        /// The lease.
        lease: LeaseId,
    },
    /// Forgets what was before a revision, so that it cannot be read or watched from any more.
    Compact {
        /// The oldest revision that stays readable; the current one at most.
        revision: u64,
    },
}

/// Operations that take effect together: `then` if every comparison holds, `otherwise` if one does not.
///
/// They run in order and see each other's changes. If one is refused, for a lease that does not exist,
/// nothing is changed at all.
///
/// ```
/// use rivven_raft::{ApplyCtx, KvCommand, KvCompare, KvOp, KvResponse, KvStore, KvTxn, StateMachine};
///
/// let mut store = KvStore::new();
/// let claim = KvTxn::new()
///     .when(KvCompare::absent("owner"))
///     .then(KvOp::put("owner", "me"))
///     .otherwise(KvOp::get("owner"));
/// let response = store.apply(&ApplyCtx::new(1, 1), KvCommand::Txn(claim));
/// assert!(matches!(response, KvResponse::Txn { succeeded: true, revision: 1, .. }));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KvTxn {
    /// What must hold; none holds always.
    pub compare: Vec<KvCompare>,
    /// What happens if so.
    pub then: Vec<KvOp>,
    /// What happens if not.
    pub otherwise: Vec<KvOp>,
}

/// One comparison of a [`KvTxn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KvCompare {
    /// The key it looks at.
    pub key: String,
    /// What of the key must be how.
    pub target: CompareTarget,
}

/// What a [`KvCompare`] asks of its key. A key that does not exist has version and revisions 0 and no
/// value; no comparison of a value holds for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CompareTarget {
    /// The key exists, or does not.
    Exists(bool),
    /// Its value, byte by byte.
    Value(Comparison, Bytes),
    /// Its [`KvEntry::version`].
    Version(Comparison, u64),
    /// Its [`KvEntry::mod_revision`].
    ModRevision(Comparison, u64),
    /// Its [`KvEntry::create_revision`].
    CreateRevision(Comparison, u64),
}

/// How two things compare: what the key has stands on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Greater.
    Greater,
}

/// One operation of a [`KvTxn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvOp {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// How long it lasts.
        lifetime: Lifetime,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Removes keys; of all operations of a command together at most
    /// [`MAX_DELETED_KEYS`](crate::MAX_DELETED_KEYS).
    DeleteRange {
        /// Which keys.
        range: KeyRange,
    },
    /// Reads keys in order. All reads of a command together answer with at most
    /// [`MAX_TXN_READ_BYTES`](crate::MAX_TXN_READ_BYTES).
    Range {
        /// Which keys.
        range: KeyRange,
        /// At most so many.
        limit: u32,
    },
}

/// The answer to a [`KvCommand`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvResponse {
    /// The key was set.
    Written {
        /// The revision of this change.
        revision: u64,
        /// Revision the key was last written at before, if it existed.
        previous: Option<u64>,
        /// The lease the key hangs on: the one given, or a new one for [`Lifetime::Ttl`].
        lease: Option<LeaseId>,
    },
    /// The key is gone.
    Deleted {
        /// The revision of this change, or the current one if the key did not exist.
        revision: u64,
        /// Revision the key was last written at before, if it existed.
        previous: Option<u64>,
    },
    /// The key is not at the expected revision. Nothing was changed.
    Conflict {
        /// The revision it is at; `None`: it does not exist.
        current: Option<u64>,
    },
    /// Keys are gone: the answer to a removed range or a revoked lease.
    DeletedRange {
        /// The revision of this change, or the current one if there was no such key.
        revision: u64,
        /// How many there were.
        deleted: u32,
        /// Whether some are left; repeat the command to remove them.
        more: bool,
    },
    /// The transaction took effect.
    Txn {
        /// The revision of its changes, or the current one if it changed nothing.
        revision: u64,
        /// Whether every comparison held.
        succeeded: bool,
        /// One for each operation carried out.
        results: Vec<KvOpResult>,
    },
    /// The lease has its whole time to live before it.
    Leased {
        /// The lease.
        lease: LeaseId,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// What was before a revision is forgotten.
    Compacted {
        /// The oldest revision that can be read.
        oldest: u64,
    },
    /// The state does not allow it, or the command breaks a limit. Nothing was changed.
    Refused(Refusal),
}

/// The answer to one [`KvOp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvOpResult {
    /// The key was set.
    Written {
        /// Revision the key was last written at before, if it existed.
        previous: Option<u64>,
        /// The lease the key hangs on.
        lease: Option<LeaseId>,
    },
    /// So many keys are gone.
    Deleted {
        /// How many there were.
        deleted: u32,
        /// Whether some are left in the range.
        more: bool,
    },
    /// What was read, in order of keys.
    Range {
        /// Keys and values.
        entries: Vec<(String, KvEntry)>,
        /// Whether there are more, beyond the limit or beyond what an answer can carry.
        more: bool,
    },
}

impl KvResponse {
    /// Whether nothing was changed because the state did not allow it.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::Refused(_) => true,
            Self::Written { .. }
            | Self::Deleted { .. }
            | Self::DeletedRange { .. }
            | Self::Txn { .. }
            | Self::Leased { .. }
            | Self::Compacted { .. } => false,
        }
    }
}

impl KvCommand {
    /// A put.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::put_for(key, value, Lifetime::Unlimited)
    }

    /// A put of a key that lasts as long as `lifetime`.
    pub fn put_for(key: impl Into<String>, value: impl Into<Bytes>, lifetime: Lifetime) -> Self {
        let (key, value) = (key.into(), value.into());
        Self::Put { key, value, lifetime }
    }

    /// A delete.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// A compare-and-swap: see [`KvCommand::Cas`].
    pub fn cas(key: impl Into<String>, expected: Option<u64>, value: Option<Bytes>) -> Self {
        Self::Cas {
            key: key.into(),
            expected,
            value,
            lifetime: Lifetime::Unlimited,
        }
    }
}

impl KvOp {
    /// A put.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let (key, value, lifetime) = (key.into(), value.into(), Lifetime::Unlimited);
        Self::Put { key, value, lifetime }
    }

    /// A delete.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// A read of one key.
    pub fn get(key: impl Into<String>) -> Self {
        let range = KeyRange::key(key);
        Self::Range { range, limit: 1 }
    }
}

impl KvCompare {
    /// A comparison.
    pub fn new(key: impl Into<String>, target: CompareTarget) -> Self {
        let key = key.into();
        Self { key, target }
    }

    /// The key exists.
    pub fn exists(key: impl Into<String>) -> Self {
        Self::new(key, CompareTarget::Exists(true))
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::new(key, CompareTarget::Exists(false))
    }

    /// The key has this value.
    pub fn value(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::new(key, CompareTarget::Value(Comparison::Equal, value.into()))
    }

    /// The key was last written at this revision.
    pub fn mod_revision(key: impl Into<String>, revision: u64) -> Self {
        Self::new(key, CompareTarget::ModRevision(Comparison::Equal, revision))
    }

    /// Whether it holds for `entry`, what its key is.
    pub(super) fn holds(&self, entry: Option<&KvEntry>) -> bool {
        let number = |of: fn(&KvEntry) -> u64| entry.map_or(0, of);
        match &self.target {
            CompareTarget::Exists(exists) => entry.is_some() == *exists,
            CompareTarget::Value(how, value) => entry.is_some_and(|entry| how.holds(&entry.value, value)),
            CompareTarget::Version(how, to) => how.holds(&number(|entry| entry.version), to),
            CompareTarget::ModRevision(how, to) => how.holds(&number(|entry| entry.mod_revision), to),
            CompareTarget::CreateRevision(how, to) => how.holds(&number(|entry| entry.create_revision), to),
        }
    }
}

impl Comparison {
    fn holds<T: Ord>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::Greater => left > right,
        }
    }
}

impl KvTxn {
    /// A transaction that does nothing, to be built upon.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a comparison.
    #[must_use]
    pub fn when(mut self, compare: KvCompare) -> Self {
        self.compare.push(compare);
        self
    }

    /// Adds an operation for when every comparison holds.
    #[must_use]
    pub fn then(mut self, op: KvOp) -> Self {
        self.then.push(op);
        self
    }

    /// Adds an operation for when a comparison does not hold.
    #[must_use]
    pub fn otherwise(mut self, op: KvOp) -> Self {
        self.otherwise.push(op);
        self
    }
}
