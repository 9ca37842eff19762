//! Reads of a `KvStore` from outside.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Client, Consistency, KeyRange, KvEntry, KvLease, KvPage, KvStore, LeaseId, Read, ReadError, Refusal,
    kv::{KvAnswer, KvQuery},
};

/// How long a read may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What an answer is that belongs to no question asked.
const OTHER: &str = "another kind of answer";

impl Client<KvStore> {
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
            KvAnswer::Values(_) | KvAnswer::Lease(_) => Err(not_understood(&OTHER)),
        }
    }

    /// Keys of `range` in order with their values: at most `limit`, and at most 2 MiB.
    ///
    /// With `revision`, as they were then; go on there after a page that has [`KvPage::more`].
    ///
    /// # Errors
    /// As [`Self::query`]; a revision that is forgotten or still to come is refused.
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
            KvAnswer::Value { .. } | KvAnswer::Lease(_) => Err(not_understood(&OTHER)),
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
            KvAnswer::Value { .. } | KvAnswer::Values(_) => Err(not_understood(&OTHER)),
        }
    }

    async fn ask_kv(&self, consistency: Consistency, query: &KvQuery) -> Result<Read<KvAnswer>, ReadError> {
        let read = self.query(consistency, encode(query)?, DEADLINE).await?;
        Ok(Read::new(decode(&read.value)?, read.applied_index))
    }
}

fn encode(query: &impl Serialize) -> Result<Vec<u8>, ReadError> {
    postcard::to_allocvec(query).map_err(|error| not_understood(&error))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ReadError> {
    postcard::from_bytes(bytes).map_err(|error| not_understood(&error))
}

fn not_understood(what: &dyn std::fmt::Display) -> ReadError {
    let message = format!("the two ends do not understand each other: {what}; use one release");
    ReadError::Refused(Refusal::new("malformed-request", message))
}
