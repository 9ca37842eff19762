//! The key-value map of the cluster.

use std::{sync::Weak, time::Duration};

use bytes::Bytes;
use rivven_raft::{Consistency, KvCommand, KvEntry, KvResponse, Read};

use crate::{
    ReadError, WriteError,
    inner::Inner,
    state::{Op, OpResponse},
};

/// The replicated key-value map: linearizable, durable on a quorum. From [`Cluster::kv`](crate::Cluster::kv).
///
/// Cheap to clone. Every node answers; what the Raft leader must decide is forwarded to it.
///
/// Cancel safety: a write whose future is dropped may still happen. A read has no effect.
#[derive(Clone, Debug)]
pub struct Kv {
    inner: Weak<Inner>,
    timeout: Duration,
}

/// How a conditional write ended. Both answers are certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The key was at the expected revision and is at this one.
    Done {
        /// Revision of the change.
        revision: u64,
    },
    /// The key was not at the expected revision. Nothing was changed.
    Conflict {
        /// The revision it is at; `None`: it does not exist.
        current: Option<u64>,
    },
}

impl Kv {
    pub(crate) const fn new(inner: Weak<Inner>, timeout: Duration) -> Self {
        Self { inner, timeout }
    }

    /// The same map, with every call limited to `timeout`. The default is ten seconds.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets `key` to `value`. Returns once it is durable on a quorum, with the revision of the change.
    ///
    /// # Errors
    /// [`WriteError`]; its [`outcome`](WriteError::outcome) says whether the write may have happened.
    pub async fn put(&self, key: impl Into<String>, value: impl Into<Bytes>) -> Result<u64, WriteError> {
        self.revision(KvCommand::put(key, value)).await
    }

    /// Removes `key`. Returns the revision of the change, or the current one if there was no such key.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn delete(&self, key: impl Into<String>) -> Result<u64, WriteError> {
        self.revision(KvCommand::delete(key)).await
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
        match self.propose(KvCommand::cas(key, expected, value)).await? {
            KvResponse::Written { revision, .. } | KvResponse::Deleted { revision, .. } => {
                Ok(Swap::Done { revision })
            }
            KvResponse::Conflict { current } => Ok(Swap::Conflict { current }),
            other => Err(unexpected(&other)),
        }
    }

    /// The value of `key` with its revisions.
    ///
    /// # Errors
    /// [`ReadError`]: the read could not be confirmed in time.
    pub async fn get(&self, key: &str, consistency: Consistency) -> Result<Option<KvEntry>, ReadError> {
        Ok(self.get_at(key, consistency).await?.value)
    }

    /// As [`Self::get`], with the log index up to which this node had applied.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn get_at(
        &self,
        key: &str,
        consistency: Consistency,
    ) -> Result<Read<Option<KvEntry>>, ReadError> {
        let inner = self.inner.upgrade().ok_or_else(dropped_read)?;
        inner
            .read(consistency, self.timeout, |state| state.kv.get(key).cloned())
            .await
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
        let inner = self.inner.upgrade().ok_or_else(dropped_read)?;
        let read = inner.read(consistency, self.timeout, |state| {
            let entries = state.kv.prefix(prefix).take(limit);
            entries
                .map(|(key, entry)| (key.to_owned(), entry.clone()))
                .collect()
        });
        Ok(read.await?.value)
    }

    async fn revision(&self, command: KvCommand) -> Result<u64, WriteError> {
        match self.propose(command).await? {
            KvResponse::Written { revision, .. } | KvResponse::Deleted { revision, .. } => Ok(revision),
            other => Err(unexpected(&other)),
        }
    }

    async fn propose(&self, command: KvCommand) -> Result<KvResponse, WriteError> {
        let inner = self.inner.upgrade().ok_or_else(dropped_write)?;
        match inner.propose(Op::Kv(command), self.timeout).await? {
            OpResponse::Kv(response) => Ok(response),
            other @ OpResponse::Partitions(_) => Err(unexpected(&other)),
        }
    }
}

/// A committed command was answered with something another command would get: the peer that answered
/// speaks another version. It was applied, so the outcome is anything but "not done".
pub(crate) fn unexpected(response: &dyn std::fmt::Debug) -> WriteError {
    WriteError::Unknown {
        cause: format!("the leader answered with {response:?}, which this release does not understand"),
    }
}

fn dropped_read() -> ReadError {
    ReadError::NotReady {
        cause: "the cluster handle was dropped".into(),
    }
}

pub(crate) fn dropped_write() -> WriteError {
    WriteError::NotReady {
        cause: "the cluster handle was dropped".into(),
    }
}
