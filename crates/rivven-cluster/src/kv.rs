//! The key-value map of the cluster.

mod via;

use std::{sync::Weak, time::Duration};

use bytes::Bytes;
use rivven_raft::{
    Consistency, KeyRange, KvCommand, KvEntry, KvLease, KvOpResult, KvReadError, KvResponse, KvTxn, KvUpdate,
    KvWatchError, LeaseId, Lifetime, ProposalId, ProposeOptions, Read, SessionId, WatchFrom,
};

use self::via::{Via, Watch};
use crate::{ReadError, WriteError, inner::Inner, state::ClusterState};

/// The replicated key-value map: linearizable, durable on a quorum. From [`Cluster::kv`](crate::Cluster::kv) on a
/// node, and from [`Client::kv`](crate::Client::kv) elsewhere.
///
/// Cheap to clone. Every node answers; what the Raft leader must decide is forwarded to it.
///
/// Cancel safety: a write whose future is dropped may still happen. A read has no effect.
#[derive(Clone, Debug)]
pub struct Kv {
    via: Via,
    timeout: Duration,
    id: Option<ProposalId>,
}

/// A key that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvWritten {
    /// Revision of the change.
    pub revision: u64,
    /// The lease the key hangs on, if any.
    pub lease: Option<LeaseId>,
}

/// How a conditional write ended. Both answers are certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The key was at the expected revision and is at this one.
    Done {
        /// Revision of the change.
        revision: u64,
        /// The lease the key hangs on, if any.
        lease: Option<LeaseId>,
    },
    /// The key was not at the expected revision. Nothing was changed.
    Conflict {
        /// The revision it is at; `None`: it does not exist.
        current: Option<u64>,
    },
}

/// A transaction that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvCommitted {
    /// The revision of its changes, or the current one if it changed nothing.
    pub revision: u64,
    /// Whether every comparison held.
    pub succeeded: bool,
    /// One for each operation carried out.
    pub results: Vec<KvOpResult>,
}

/// Keys of a range at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvListing {
    /// The revision; watch from the next one to follow what changes.
    pub revision: u64,
    /// Keys and values, in order.
    pub entries: Vec<(String, KvEntry)>,
    /// Whether there are more than was asked for.
    pub more: bool,
}

impl Kv {
    pub(crate) const fn new(inner: Weak<Inner>, timeout: Duration) -> Self {
        Self::by(Via::Node(inner), timeout)
    }

    pub(crate) const fn remote(client: rivven_raft::Client<ClusterState>, timeout: Duration) -> Self {
        Self::by(Via::Client(client), timeout)
    }

    const fn by(via: Via, timeout: Duration) -> Self {
        let id = None;
        Self { via, timeout, id }
    }

    /// The same map, with every call limited to `timeout`. The default is ten seconds.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same map for one write, which is applied once however often it is made with this id.
    ///
    /// The session comes from [`Self::open_session`]; each write gets a number of its own.
    #[must_use]
    pub const fn with_id(mut self, session: SessionId, seq: u64) -> Self {
        self.id = Some(ProposalId { session, seq });
        self
    }

    /// Sets `key` to `value`. Returns once it is durable on a quorum, with the revision of the change.
    ///
    /// # Errors
    /// [`WriteError`]; its [`outcome`](WriteError::outcome) says whether the write may have happened.
    pub async fn put(&self, key: impl Into<String>, value: impl Into<Bytes>) -> Result<u64, WriteError> {
        let written = self.put_for(key, value, Lifetime::Unlimited).await?;
        Ok(written.revision)
    }

    /// As [`Self::put`], for a key that lasts as long as `lifetime`.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn put_for(
        &self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        lifetime: Lifetime,
    ) -> Result<KvWritten, WriteError> {
        match self.propose(KvCommand::put_for(key, value, lifetime)).await? {
            KvResponse::Written { revision, lease, .. } => Ok(KvWritten { revision, lease }),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes `key`. Returns the revision of the change, or the current one if there was no such key.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn delete(&self, key: impl Into<String>) -> Result<u64, WriteError> {
        match self.propose(KvCommand::delete(key)).await? {
            KvResponse::Deleted { revision, .. } => Ok(revision),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets `key` to `value`, or removes it for `None`, if its last change was at revision `expected`;
    /// `None` expects that there is no such key.
    ///
    /// # Errors
    /// As for [`Self::put`]. A conflict is no error.
    pub async fn swap(
        &self,
        key: impl Into<String>,
        expected: Option<u64>,
        value: Option<Bytes>,
    ) -> Result<Swap, WriteError> {
        self.swap_for(key, expected, value, Lifetime::Unlimited).await
    }

    /// As [`Self::swap`], for a key that lasts as long as `lifetime`.
    ///
    /// # Errors
    /// As for [`Self::swap`].
    pub async fn swap_for(
        &self,
        key: impl Into<String>,
        expected: Option<u64>,
        value: Option<Bytes>,
        lifetime: Lifetime,
    ) -> Result<Swap, WriteError> {
        let key = key.into();
        let command = KvCommand::Cas {
            key,
            expected,
            value,
            lifetime,
        };
        match self.propose(command).await? {
            KvResponse::Written { revision, lease, .. } => Ok(Swap::Done { revision, lease }),
            KvResponse::Deleted { revision, .. } => Ok(Swap::Done {
                revision,
                lease: None,
            }),
            KvResponse::Conflict { current } => Ok(Swap::Conflict { current }),
            other => Err(unexpected(&other)),
        }
    }

    /// Carries out several operations together.
    ///
    /// # Errors
    /// As for [`Self::put`]. A comparison that does not hold is no error.
    pub async fn txn(&self, txn: KvTxn) -> Result<KvCommitted, WriteError> {
        match self.propose(KvCommand::Txn(txn)).await? {
            KvResponse::Txn {
                revision,
                succeeded,
                results,
            } => Ok(KvCommitted {
                revision,
                succeeded,
                results,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a lease that ends when it is not renewed for `ttl` of log time.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, WriteError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.leased(KvCommand::GrantLease { ttl_ms }).await
    }

    /// Gives a lease its whole time again.
    ///
    /// # Errors
    /// As for [`Self::put`]; refused with `lease-not-found` when the lease has ended.
    pub async fn renew_lease(&self, lease: LeaseId) -> Result<(), WriteError> {
        self.leased(KvCommand::RenewLease { lease }).await.map(|_| ())
    }

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// As for [`Self::renew_lease`].
    pub async fn revoke_lease(&self, lease: LeaseId) -> Result<(), WriteError> {
        match self.propose(KvCommand::RevokeLease { lease }).await? {
            KvResponse::DeletedRange { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// A lease as it stands; `None` once it has ended.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn lease(
        &self,
        lease: LeaseId,
        consistency: Consistency,
    ) -> Result<Option<KvLease>, ReadError> {
        self.via.lease(lease, consistency, self.timeout).await
    }

    /// Forgets what was before `revision`. Returns the oldest revision that can be read.
    ///
    /// # Errors
    /// As for [`Self::put`]; refused with `future-revision` when there is no such revision yet.
    pub async fn compact(&self, revision: u64) -> Result<u64, WriteError> {
        match self.propose(KvCommand::Compact { revision }).await? {
            KvResponse::Compacted { oldest } => Ok(oldest),
            other => Err(unexpected(&other)),
        }
    }

    /// Opens a session, for [`Self::with_id`], that ends when it is not used for `ttl` of log time.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn open_session(&self, ttl: Duration) -> Result<SessionId, WriteError> {
        self.via.open_session(ttl).await
    }

    /// Gives a session its whole time again, as every write in it does.
    ///
    /// # Errors
    /// [`WriteError::SessionLost`] when it has ended.
    pub async fn renew_session(&self, session: SessionId) -> Result<(), WriteError> {
        self.via.renew_session(session).await
    }

    /// Ends a session.
    ///
    /// # Errors
    /// As for [`Self::renew_session`].
    pub async fn close_session(&self, session: SessionId) -> Result<(), WriteError> {
        self.via.close_session(session).await
    }

    /// The value of `key` with its revisions.
    ///
    /// # Errors
    /// [`ReadError`]: the read could not be confirmed in time.
    pub async fn get(&self, key: &str, consistency: Consistency) -> Result<Option<KvEntry>, ReadError> {
        Ok(self.get_at(key, consistency).await?.value)
    }

    /// As [`Self::get`], with the log index up to which the node that answered had applied.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn get_at(
        &self,
        key: &str,
        consistency: Consistency,
    ) -> Result<Read<Option<KvEntry>>, ReadError> {
        self.via.get(key, consistency, self.timeout).await
    }

    /// At most `limit` keys that start with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn list(
        &self,
        prefix: &str,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Vec<(String, KvEntry)>, ReadError> {
        let range = KeyRange::prefix(prefix);
        Ok(self.range(&range, None, limit, consistency).await?.entries)
    }

    /// At most `limit` keys of `range`, as they are or as they were at `revision`.
    ///
    /// # Errors
    /// As for [`Self::get`]; [`ReadError::Revision`] for a revision that is forgotten or still to come.
    pub async fn range(
        &self,
        range: &KeyRange,
        revision: Option<u64>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<KvListing, ReadError> {
        self.via
            .range(range, revision, limit, (consistency, self.timeout))
            .await
    }

    /// Follows the keys of `range`, as this node applies changes of them, or the one that a program outside asks.
    ///
    /// # Errors
    /// The cluster is not founded yet, or this node is stopping.
    pub fn watch(&self, range: KeyRange, from: WatchFrom) -> Result<KvWatch, ReadError> {
        self.via.watch(range, from, self.timeout).map(KvWatch)
    }

    async fn leased(&self, command: KvCommand) -> Result<LeaseId, WriteError> {
        match self.propose(command).await? {
            KvResponse::Leased { lease, .. } => Ok(lease),
            other => Err(unexpected(&other)),
        }
    }

    async fn propose(&self, command: KvCommand) -> Result<KvResponse, WriteError> {
        let options = ProposeOptions {
            deadline: self.timeout,
            id: self.id,
        };
        match self.via.propose(command, options).await? {
            KvResponse::Refused(refusal) => Err(WriteError::Refused(refusal)),
            response => Ok(response),
        }
    }
}

/// Follows keys of the map. From [`Kv::watch`].
///
/// Nothing is buffered for it and it holds no lock between calls; one that falls behind the history ends
/// with [`KvWatchError::Compacted`].
#[derive(Debug)]
pub struct KvWatch(Watch);

impl KvWatch {
    /// Waits for the next update.
    ///
    /// Cancel safety: a dropped future loses nothing.
    ///
    /// # Errors
    /// The watch has ended; asked again, it says so again. After [`KvWatchError::Lost`], which only a program
    /// outside meets, it goes on where it was.
    pub async fn next(&mut self) -> Result<KvUpdate, KvWatchError> {
        self.0.next().await
    }
}

/// A committed command was answered with something another command would get: the peer that answered
/// speaks another version. It was applied, so the outcome is anything but "not done".
pub(crate) fn unexpected(response: &dyn std::fmt::Debug) -> WriteError {
    WriteError::Unknown {
        cause: format!("the leader answered with {response:?}, which this release does not understand"),
    }
}

pub(crate) fn dropped_write() -> WriteError {
    WriteError::NotReady {
        cause: "the cluster handle was dropped".into(),
    }
}

impl From<KvReadError> for ReadError {
    fn from(error: KvReadError) -> Self {
        Self::Revision(error)
    }
}
