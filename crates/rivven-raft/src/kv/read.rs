//! Reads: as it is, as it was, and what has changed since.

use std::{cmp::Ordering, iter::from_fn, sync::Arc};

use super::{KeyRange, KvEntry, KvStore, LeaseId, history::Change};

/// Why a past revision cannot be read or watched from. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum KvReadError {
    /// What was before `oldest` is forgotten. Read as it is and go on from the revision of that.
    #[error("revisions before {oldest} are compacted; read the current state and go on from there")]
    Compacted {
        /// The oldest revision that can be read. Changes after it can be watched.
        oldest: u64,
    },
    /// There is no such revision on this node yet. Wait, or read another node.
    #[error("this node is at revision {current}; read later, or linearizably")]
    FutureRevision {
        /// The revision it is at.
        current: u64,
    },
}

impl KvReadError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Compacted { .. } => "compacted",
            Self::FutureRevision { .. } => "future-revision",
        }
    }
}

/// A key changed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct KvEvent {
    /// The revision that changed it. Several events can have one revision: they took effect together.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// What it became; `None`: it was removed.
    pub entry: Option<KvEntry>,
    /// What it was; `None`: it did not exist.
    pub previous: Option<KvEntry>,
}

impl KvEvent {
    fn of(revision: u64, change: &Change) -> Self {
        Self {
            revision,
            key: (*change.key).to_owned(),
            entry: change.entry.as_deref().cloned(),
            previous: change.previous.as_deref().cloned(),
        }
    }
}

/// Changes in order, and where they go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvChanges {
    /// The changes, all of each revision.
    pub events: Vec<KvEvent>,
    /// The first revision that was not looked at.
    pub next: u64,
}

/// A place among all changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Place {
    /// Everything before this revision lies before it,
    pub(crate) revision: u64,
    /// and as many changes of the revision itself, of keys in any range.
    pub(crate) skip: u64,
}

impl Place {
    /// Before every change of `revision`.
    pub(crate) const fn at(revision: u64) -> Self {
        Self { revision, skip: 0 }
    }
}

/// A lease as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct KvLease {
    /// Its id.
    pub id: LeaseId,
    /// Milliseconds without a renewal after which it ends.
    pub ttl_ms: u64,
    /// When it ends, in log time; `None` until its time begins with the next tick.
    pub ends_at_ms: Option<u64>,
    /// How many keys hang on it.
    pub keys: usize,
}

impl KvStore {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&KvEntry> {
        self.map.get(key).map(Arc::as_ref)
    }

    /// The value that `key` had at `revision`.
    ///
    /// Takes time for every change of the key since then.
    ///
    /// # Errors
    /// The revision is forgotten or still to come.
    pub fn get_at(&self, key: &str, revision: u64) -> Result<Option<&KvEntry>, KvReadError> {
        self.check_revision(revision)?;
        Ok(self.history.at(key, revision, self.get(key)))
    }

    /// Keys that start with `prefix`, in order, with their values.
    pub fn prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a KvEntry)> {
        self.range_from(prefix)
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Keys from `start` on, in order, with their values.
    pub fn range_from<'a>(&'a self, start: &str) -> impl Iterator<Item = (&'a str, &'a KvEntry)> + use<'a> {
        let entries = self.map.iter_from(|key| &**key < start);
        entries.map(|(key, entry)| (&**key, &**entry))
    }

    /// Keys of `range`, in order, with their values.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = (&'a str, &'a KvEntry)> {
        self.range_from(range.start())
            .take_while(move |(key, _)| !range.is_before(key))
    }

    /// Keys of `range` as they were at `revision`, in order, with their values.
    ///
    /// Takes time for every change of a key in the range since then, beside the keys themselves, and for every
    /// remembered removal of one.
    ///
    /// # Errors
    /// The revision is forgotten or still to come.
    pub fn range_at<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: u64,
    ) -> Result<impl Iterator<Item = (&'a str, &'a KvEntry)>, KvReadError> {
        self.check_revision(revision)?;
        let mut current = self.range(range).peekable();
        let mut removed = self.history.removed_since(range, revision).peekable();
        let keys = from_fn(move || {
            // Of the same key, what was removed was there before what is.
            let first = match (current.peek(), removed.peek()) {
                (Some((key, _)), Some((gone, _))) => gone.cmp(key),
                (None, Some(_)) => Ordering::Less,
                (_, None) => Ordering::Greater,
            };
            if first == Ordering::Greater {
                let (key, entry) = current.next()?;
                return Some((key, self.history.back(key, Some(entry), revision)));
            }
            if first == Ordering::Equal {
                current.next();
            }
            let (key, at) = removed.next()?;
            Some((key, self.history.before(key, at, revision)))
        });
        Ok(keys.filter_map(|(key, entry)| Some((key, entry?))))
    }

    /// Changes of keys in `range` from revision `from` on: what a watch delivers.
    ///
    /// Looks at about `limit` changes, also of other keys, so that a call takes bounded time. Go on at
    /// [`KvChanges::next`], until that is beyond [`Self::revision`].
    ///
    /// # Errors
    /// [`KvReadError::Compacted`] if changes from `from` on are forgotten.
    pub fn changes(&self, range: &KeyRange, from: u64, limit: usize) -> Result<KvChanges, KvReadError> {
        if from <= self.history.oldest() {
            let oldest = self.history.oldest();
            return Err(KvReadError::Compacted { oldest });
        }
        let (mut events, mut seen, mut next) = (Vec::new(), 0, from);
        for (revision, places) in self.history.revisions_from(from) {
            if seen > 0 && seen + places.len() > limit {
                return Ok(KvChanges { events, next });
            }
            seen += places.len();
            next = revision + 1;
            let changes = self.history.changes(places);
            let inside = changes.filter(|change| range.contains(&change.key));
            events.extend(inside.map(|change| KvEvent::of(revision, change)));
        }
        Ok(KvChanges { events, next })
    }

    /// As [`Self::changes`] from `from` on, where `hold` says of each event whether there is room for it: a
    /// revision that changed much comes in parts. At least one event is taken, if there is one.
    pub(super) fn changes_part(
        &self,
        range: &KeyRange,
        from: Place,
        limit: usize,
        mut hold: impl FnMut(&KvEvent) -> bool,
    ) -> Result<(Vec<KvEvent>, Place), KvReadError> {
        let oldest = self.history.oldest();
        if from.revision <= oldest {
            return Err(KvReadError::Compacted { oldest });
        }
        let (mut events, mut place, mut seen) = (Vec::new(), from, 0);
        for (revision, places) in self.history.revisions_from(from.revision) {
            let skip = if revision == from.revision { from.skip } else { 0 };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(places.len());
            let rest = places.start + skipped..places.end;
            for (skip, change) in (skip..).zip(self.history.changes(rest)) {
                place = Place { revision, skip };
                if seen >= limit {
                    return Ok((events, place));
                }
                seen += 1;
                if range.contains(&change.key) {
                    let event = KvEvent::of(revision, change);
                    if !hold(&event) && !events.is_empty() {
                        return Ok((events, place));
                    }
                    events.push(event);
                }
            }
            place = Place::at(revision + 1);
        }
        Ok((events, place))
    }

    /// The lease of this id, if it has not ended.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<KvLease> {
        let (lease, deadline) = self.leases.get(id)?;
        Some(KvLease {
            id,
            ttl_ms: deadline.ttl_ms,
            ends_at_ms: deadline.at_ms,
            keys: lease.keys,
        })
    }

    /// How many leases there are.
    #[must_use]
    pub const fn leases(&self) -> usize {
        self.leases.len()
    }

    /// How many revisions there have been; the last one.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The oldest revision that can be read. Changes after it can be watched.
    #[must_use]
    pub const fn oldest_revision(&self) -> u64 {
        self.history.oldest()
    }

    /// How many keys there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    fn check_revision(&self, revision: u64) -> Result<(), KvReadError> {
        let (oldest, current) = (self.oldest_revision(), self.revision);
        if revision < oldest {
            return Err(KvReadError::Compacted { oldest });
        }
        if revision > current {
            return Err(KvReadError::FutureRevision { current });
        }
        Ok(())
    }
}
