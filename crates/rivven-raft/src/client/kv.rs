//! Reads of a `KvStore` from outside.

use serde::{Serialize, de::DeserializeOwned};

use super::{Client, KvClientWatch};
use crate::{
    Consistency, KeyRange, KvEntry, KvLease, KvPage, KvReadError, KvStore, LeaseId, Read, ReadError, Refusal,
    StateMachine, WatchFrom,
    kv::{KvAnswer, KvQuery},
};

/// Reads of the keys of a [`KvStore`], or of one inside a larger state machine, whose
/// [`StateMachine::query`] passes on to it what it is asked.
impl<S: StateMachine + AsRef<KvStore>> Client<S> {
    /// The value of `key`.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn get(&self, key: &str, consistency: Consistency) -> Result<Read<Option<KvEntry>>, ReadError> {
        let query = KvQuery::Get {
            key: key.to_owned(),
            revision: None,
        };
        let read = self.ask_kv(consistency, &query).await?;
        match read.value {
            KvAnswer::Value { entry, .. } => Ok(Read::new(entry, read.applied_index)),
            other => Err(other.into_error()),
        }
    }

    /// Keys of `range` in order with their values: at most `limit`, and at most 2 MiB.
    ///
    /// With `revision`, as they were then; go on there after a page that has [`KvPage::more`].
    ///
    /// # Errors
    /// As [`Self::query`]; [`ReadError::Revision`] for a revision that is forgotten or still to come.
    pub async fn range(
        &self,
        range: KeyRange,
        limit: u64,
        revision: Option<u64>,
        consistency: Consistency,
    ) -> Result<Read<KvPage>, ReadError> {
        let query = KvQuery::Range {
            range,
            limit,
            revision,
        };
        let read = self.ask_kv(consistency, &query).await?;
        match read.value {
            KvAnswer::Values(page) => Ok(Read::new(page, read.applied_index)),
            other => Err(other.into_error()),
        }
    }

    /// A lease as it stands; `None` once it has ended. Leases are granted, renewed and revoked by commands.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn lease(
        &self,
        lease: LeaseId,
        consistency: Consistency,
    ) -> Result<Read<Option<KvLease>>, ReadError> {
        let read = self.ask_kv(consistency, &KvQuery::Lease { lease }).await?;
        match read.value {
            KvAnswer::Lease(lease) => Ok(Read::new(lease, read.applied_index)),
            other => Err(other.into_error()),
        }
    }

    /// Follows the keys of `range`, as the node that is asked applies changes of them.
    #[must_use]
    pub fn watch_kv(&self, range: KeyRange, from: WatchFrom) -> KvClientWatch<S> {
        KvClientWatch::new(self.clone(), range, from)
    }

    async fn ask_kv(&self, consistency: Consistency, query: &KvQuery) -> Result<Read<KvAnswer>, ReadError> {
        let read = self.query(consistency, encode(query)?, self.timeout).await?;
        Ok(Read::new(decode(&read.value)?, read.applied_index))
    }
}

impl KvAnswer {
    /// The error that an answer is which belongs to no question asked.
    pub(super) fn into_error(self) -> ReadError {
        match self {
            Self::NotAt(error) => error.into(),
            _ => not_understood(&"another kind of answer"),
        }
    }
}

impl From<KvReadError> for ReadError {
    fn from(error: KvReadError) -> Self {
        Self::Revision(error)
    }
}

pub(super) fn encode(query: &impl Serialize) -> Result<Vec<u8>, ReadError> {
    postcard::to_allocvec(query).map_err(|error| not_understood(&error))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ReadError> {
    postcard::from_bytes(bytes).map_err(|error| not_understood(&error))
}

fn not_understood(what: &dyn std::fmt::Display) -> ReadError {
    let message = format!("the two ends do not understand each other: {what}; use one release");
    ReadError::Refused(Refusal::new("malformed-request", message))
}
