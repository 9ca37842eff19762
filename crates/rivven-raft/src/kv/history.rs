//! What was: earlier values, and which keys each revision changed.

use std::sync::Arc;

use super::{KeyRange, KvEntry};
use crate::shared_map::SharedMap;

/// Most changes that are remembered. With more, the oldest revisions are forgotten.
pub const MAX_HISTORY_EVENTS: usize = 100_000;

/// Most bytes of keys and earlier values that are remembered, in whole revisions.
pub const MAX_HISTORY_BYTES: usize = 64 << 20;

/// Counted for each change beside its key and value: what the trees take.
const CHANGE_OVERHEAD_BYTES: usize = 128;

/// A key, and the revision that replaced or removed what it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Replaced {
    pub(super) key: Arc<str>,
    pub(super) at: u64,
}

/// Changes since the oldest readable revision, with what they replaced.
///
/// The value of a key at a revision is what the first later change of the key replaced; without one, it is
/// what the key is. So nothing is stored twice.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The keys each revision changed, in order.
    log: SharedMap<u64, Arc<[Arc<str>]>>,
    /// What a change replaced; `None`: the key did not exist.
    replaced: SharedMap<Replaced, Option<KvEntry>>,
    /// The oldest revision that can be read: all later changes are here.
    oldest: u64,
    bytes: usize,
}

impl History {
    pub(super) fn starting_at(oldest: u64) -> Self {
        Self {
            oldest,
            ..Self::default()
        }
    }

    pub(super) const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Notes what `revision` replaced, by key. The caller then has [`Self::limit`] applied.
    pub(super) fn record(
        &mut self,
        revision: u64,
        changes: impl IntoIterator<Item = (Arc<str>, Option<KvEntry>)>,
    ) {
        let mut keys = Vec::new();
        for (key, previous) in changes {
            self.bytes += change_bytes(&key, previous.as_ref());
            let at = Replaced {
                key: Arc::clone(&key),
                at: revision,
            };
            self.replaced.insert(at, previous);
            keys.push(key);
        }
        self.log.insert(revision, keys.into());
    }

    /// Forgets the oldest revisions until the limits are kept.
    pub(super) fn limit(&mut self) {
        while self.replaced.len() > MAX_HISTORY_EVENTS || self.bytes > MAX_HISTORY_BYTES {
            let Some((&revision, _)) = self.log.first() else {
                return;
            };
            self.compact(revision);
        }
    }

    /// Makes `oldest` the oldest revision that can be read.
    pub(super) fn compact(&mut self, oldest: u64) {
        while let Some((&revision, keys)) = self.log.first() {
            if revision > oldest {
                break;
            }
            for key in Arc::clone(keys).iter() {
                let at = Replaced {
                    key: Arc::clone(key),
                    at: revision,
                };
                if let Some(previous) = self.replaced.remove(&at) {
                    self.bytes -= change_bytes(key, previous.as_ref());
                }
            }
            self.log.remove(&revision);
        }
        self.oldest = self.oldest.max(oldest);
    }

    /// What `key` was at `revision`, if it was changed later: `None` if it is what it was.
    pub(super) fn at(&self, key: &str, revision: u64) -> Option<Option<&KvEntry>> {
        let after = |at: &Replaced| (&*at.key, at.at) <= (key, revision);
        let (at, previous) = self.replaced.iter_from(after).next()?;
        (&*at.key == key).then_some(previous.as_ref())
    }

    /// What `revision` replaced at `key`, if it did.
    pub(super) fn replaced_by(&self, key: &Arc<str>, revision: u64) -> Option<&KvEntry> {
        let at = Replaced {
            key: Arc::clone(key),
            at: revision,
        };
        self.replaced.get(&at)?.as_ref()
    }

    /// Keys of `range` that changed after `revision`, in order, with what they were then.
    pub(super) fn changed_since<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: u64,
    ) -> impl Iterator<Item = (&'a str, Option<&'a KvEntry>)> {
        let mut last: Option<&str> = None;
        self.replaced
            .iter_from(move |at| &*at.key < range.start())
            .take_while(|(at, _)| !range.is_before(&at.key))
            .filter(move |(at, _)| {
                // The first change after the revision counts, by whatever later ones it is followed.
                let first = at.at > revision && last != Some(&*at.key);
                if first {
                    last = Some(&at.key);
                }
                first
            })
            .map(|(at, previous)| (&*at.key, previous.as_ref()))
    }

    /// Revisions from `from` on, with the keys they changed.
    pub(super) fn revisions_from(&self, from: u64) -> impl Iterator<Item = (u64, &Arc<[Arc<str>]>)> {
        let revisions = self.log.iter_from(move |revision| *revision < from);
        revisions.map(|(revision, keys)| (*revision, keys))
    }

    /// How many revisions are remembered.
    pub(super) const fn len(&self) -> usize {
        self.log.len()
    }
}

fn change_bytes(key: &str, previous: Option<&KvEntry>) -> usize {
    key.len() + previous.map_or(0, |entry| entry.value.len()) + CHANGE_OVERHEAD_BYTES
}
