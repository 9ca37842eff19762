//! `KvStore`, the default state machine: a map from text to bytes that counts its revisions.

mod cow;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::cow::CowMap;
use crate::{ApplyCtx, Refusal, StateMachine};

/// Most bytes of a key.
pub const MAX_KEY_BYTES: usize = 4 << 10;

/// Most bytes of a value.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Version of the snapshot encoding. 0 is unstable: refused once there is a 1.
const SNAPSHOT_VERSION: u8 = 0;

/// Most bytes of one encoded snapshot record: key, value and room for the numbers.
const MAX_RECORD_BYTES: usize = MAX_KEY_BYTES + MAX_VALUE_BYTES + 64;

/// A map from text keys to byte values, in key order, where every change gets the next revision.
///
/// Replicated by a [`RaftNode`](crate::RaftNode); as a value it is an ordinary map. Snapshots share their
/// parts with the live map, which copies a part when it changes it.
#[derive(Clone, Debug, Default)]
pub struct KvStore {
    map: CowMap,
    revision: u64,
}

/// A value and when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// The bytes put.
    pub value: Bytes,
    /// Revision at which the key came into being; kept by later puts, lost by a delete.
    pub create_revision: u64,
    /// Revision of the last put.
    pub mod_revision: u64,
}

/// A change of a [`KvStore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvCommand {
    /// Sets `key` to `value`.
    Put {
        /// At most [`MAX_KEY_BYTES`], not empty.
        key: String,
        /// At most [`MAX_VALUE_BYTES`].
        value: Bytes,
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
}

impl KvStore {
    /// An empty map at revision 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&KvEntry> {
        self.map.get(key)
    }

    /// Keys that start with `prefix`, in order, with their values.
    pub fn prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a KvEntry)> {
        self.map
            .from(prefix)
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Keys from `start` on, in order, with their values.
    pub fn range_from<'a>(&'a self, start: &str) -> impl Iterator<Item = (&'a str, &'a KvEntry)> + use<'a> {
        self.map.from(start)
    }

    /// How many changes there have been; the revision of the last one.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many keys there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    fn put(&mut self, key: String, value: Bytes) -> KvResponse {
        self.revision += 1;
        let previous = self.map.get(&key);
        let entry = KvEntry {
            value,
            create_revision: previous.map_or(self.revision, |entry| entry.create_revision),
            mod_revision: self.revision,
        };
        let previous = previous.map(|entry| entry.mod_revision);
        self.map.insert(Arc::from(key), entry);
        KvResponse::Written {
            revision: self.revision,
            previous,
        }
    }

    fn delete(&mut self, key: &str) -> KvResponse {
        let previous = self.map.remove(key).map(|entry| entry.mod_revision);
        if previous.is_some() {
            self.revision += 1;
        }
        KvResponse::Deleted {
            revision: self.revision,
            previous,
        }
    }
}

impl KvCommand {
    /// A put.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
        }
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
        }
    }
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::new("empty-key", "the key is empty; give it a name"));
    }
    if key.len() > MAX_KEY_BYTES {
        let message = format!("the key has {} bytes, the limit is {MAX_KEY_BYTES}", key.len());
        return Err(Refusal::new("key-too-long", message));
    }
    Ok(())
}

fn check_value(value: &Bytes) -> Result<(), Refusal> {
    if value.len() > MAX_VALUE_BYTES {
        let message = format!(
            "the value has {} bytes, the limit is {MAX_VALUE_BYTES}; split it or store a reference",
            value.len()
        );
        return Err(Refusal::new("value-too-large", message));
    }
    Ok(())
}

impl StateMachine for KvStore {
    type Command = KvCommand;
    type Response = KvResponse;
    type Snapshot = Self;

    fn check(command: &KvCommand) -> Result<(), Refusal> {
        match command {
            KvCommand::Put { key, value } => check_key(key).and_then(|()| check_value(value)),
            KvCommand::Delete { key } => check_key(key),
            KvCommand::Cas { key, value, .. } => {
                check_key(key)?;
                value.as_ref().map_or(Ok(()), check_value)
            }
        }
    }

    fn apply(&mut self, _ctx: &ApplyCtx, command: KvCommand) -> KvResponse {
        match command {
            KvCommand::Put { key, value } => self.put(key, value),
            KvCommand::Delete { key } => self.delete(&key),
            KvCommand::Cas { key, expected, value } => {
                let current = self.map.get(&key).map(|entry| entry.mod_revision);
                match value {
                    _ if current != expected => KvResponse::Conflict { current },
                    Some(value) => self.put(key, value),
                    None => self.delete(&key),
                }
            }
        }
    }

    fn snapshot(&self) -> Self {
        self.clone()
    }

    /// Version, revision and count, then one record per key in order, each behind its length.
    fn encode_snapshot(snapshot: &Self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[SNAPSHOT_VERSION])?;
        out.write_all(&snapshot.revision.to_le_bytes())?;
        out.write_all(&(snapshot.len() as u64).to_le_bytes())?;
        for (key, entry) in snapshot.map.from("") {
            let record = postcard::to_allocvec(&(key, entry)).map_err(io::Error::other)?;
            let len = u32::try_from(record.len()).map_err(io::Error::other)?;
            out.write_all(&len.to_le_bytes())?;
            out.write_all(&record)?;
        }
        Ok(())
    }

    fn restore(&mut self, input: &mut dyn Read) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut version = [0];
        input.read_exact(&mut version)?;
        if version != [SNAPSHOT_VERSION] {
            return Err(invalid(
                "the snapshot of the map has an unknown version; upgrade this node",
            ));
        }
        let mut number = [0; 8];
        input.read_exact(&mut number)?;
        let revision = u64::from_le_bytes(number);
        input.read_exact(&mut number)?;
        let mut map = CowMap::default();
        for _ in 0..u64::from_le_bytes(number) {
            let mut len = [0; 4];
            input.read_exact(&mut len)?;
            let len = u32::from_le_bytes(len) as usize;
            if len > MAX_RECORD_BYTES {
                return Err(invalid("a record of the map's snapshot is too large"));
            }
            let mut record = vec![0; len];
            input.read_exact(&mut record)?;
            let (key, entry): (String, KvEntry) =
                postcard::from_bytes(&record).map_err(|error| invalid(&error.to_string()))?;
            map.insert(Arc::from(key), entry);
        }
        *self = Self { map, revision };
        Ok(())
    }
}
