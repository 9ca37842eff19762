//! Bodies of the key-value map.

use rivven_cluster::{KvEntry, KvEvent};
use serde::{Deserialize, Serialize};

use crate::base64;

/// Answer of `GET /v1/kv`, and a part of the snapshot that opens a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingBody {
    /// The revision that was read. Watch from the next one to follow what changes.
    pub revision: u64,
    /// Keys in order.
    pub entries: Vec<KeyBody>,
    /// Whether there are more.
    pub more: bool,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBody {
    /// The key.
    pub key: String,
    /// The value in base64 (RFC 4648, section 4).
    pub value_base64: String,
    /// Revision at which the key came into being.
    pub create_revision: u64,
    /// Revision of the last change.
    pub mod_revision: u64,
    /// In how many revisions it was put since it came into being.
    pub version: u64,
    /// The lease the key ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
}

impl KeyBody {
    /// `key` as it is.
    #[must_use]
    pub fn new(key: &str, entry: &KvEntry) -> Self {
        Self {
            key: key.to_owned(),
            value_base64: base64::encode(&entry.value),
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            version: entry.version,
            lease: entry.lease.map(|lease| lease.0),
        }
    }
}

/// Event `changes` of `GET /v1/watch`: what one revision changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesBody {
    /// The revision.
    pub revision: u64,
    /// The changes, in order of keys.
    pub changes: Vec<KeyChangeBody>,
}

impl ChangesBody {
    /// `events` by revision: what took effect together.
    pub fn of(events: &[KvEvent]) -> impl Iterator<Item = Self> {
        let revisions = events.chunk_by(|one, next| one.revision == next.revision);
        revisions.filter_map(|events| {
            Some(Self {
                revision: events.first()?.revision,
                changes: events.iter().map(KeyChangeBody::new).collect(),
            })
        })
    }
}

/// A key that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChangeBody {
    /// The key.
    pub key: String,
    /// What it became; `null`: it was removed.
    pub entry: Option<KeyBody>,
}

impl KeyChangeBody {
    fn new(event: &KvEvent) -> Self {
        let entry = event.entry.as_ref();
        Self {
            key: event.key.clone(),
            entry: entry.map(|entry| KeyBody::new(&event.key, entry)),
        }
    }
}
