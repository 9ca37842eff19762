//! What was: the last changes, in order, each with what it replaced and what it made of its key.

mod link;

use std::{ops::Range, sync::Arc};

use super::{KeyRange, KvEntry, queue::SharedQueue};
use crate::shared_map::SharedMap;

/// Most changes that are remembered. With more, the oldest revisions are forgotten.
pub const MAX_HISTORY_EVENTS: usize = 100_000;

/// Most bytes that the remembered changes take, earlier values above all. With more, the oldest revisions are
/// forgotten.
pub const MAX_HISTORY_BYTES: usize = 16 << 20;

/// Counted for each change beside its key and what it replaced: its place in the queue (40 bytes), the numbers
/// of the earlier value (88), and what an allocator adds to them and to the value.
///
/// A number and not the size of a type: replicas of every platform forget the same revisions.
const CHANGE_BYTES: usize = 160;

/// Counted for a change that removed its key, in addition: its place among the removals, and the key, which
/// nothing else holds any more.
const REMOVAL_BYTES: usize = 64;

/// A key that a revision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The revision.
    pub(super) at: u64,
    pub(super) key: Arc<str>,
    /// What it was; `None`: it did not exist.
    pub(super) previous: Option<Arc<KvEntry>>,
    /// What it became; `None`: it was removed.
    pub(super) entry: Option<Arc<KvEntry>>,
}

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) changes: usize,
    pub(super) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            changes: MAX_HISTORY_EVENTS,
            bytes: MAX_HISTORY_BYTES,
        }
    }
}

/// Every change since the oldest readable revision.
///
/// No index leads from a key to its changes: [`KvEntry::mod_revision`] of what a key is names its last change,
/// that of what this one replaced the one before, and so on back to the revision that is asked for. Only
/// removals are indexed, where no entry is left to begin with. So to remember a put takes a push to the queue.
///
/// A value that is held twice, as what it was and as what it became, is one value.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// By revision, and by key within it. Every revision after `oldest` changed something.
    changes: SharedQueue<Change>,
    /// The changes that removed a key.
    removals: SharedMap<(Arc<str>, u64), ()>,
    /// The oldest revision that can be read: all later changes are here.
    oldest: u64,
    bytes: usize,
    limits: Limits,
}

impl History {
    pub(super) fn starting_at(oldest: u64, limits: Limits) -> Self {
        Self {
            oldest,
            limits,
            ..Self::default()
        }
    }

    /// Notes a change of the newest revision, or the next one. Those of a revision come in order of keys.
    /// The caller then has [`Self::limit`] applied.
    pub(super) fn record(&mut self, change: Change) {
        if change.entry.is_none() {
            self.index_removal(&change.key, change.at);
        }
        self.push(change);
    }

    /// Forgets the oldest revisions until the limits are kept.
    pub(super) fn limit(&mut self) {
        while self.changes.len() > self.limits.changes || self.bytes > self.limits.bytes {
            let Some(revision) = self.changes.front().map(|change| change.at) else {
                return;
            };
            self.compact(revision);
        }
    }

    /// Makes `oldest` the oldest revision that can be read.
    pub(super) fn compact(&mut self, oldest: u64) {
        while self.changes.front().is_some_and(|change| change.at <= oldest) {
            let Some(change) = self.changes.pop_front() else {
                break;
            };
            self.bytes -= change_bytes(&change);
            if change.entry.is_none() && self.removals.remove(&(change.key, change.at)).is_some() {
                self.bytes -= REMOVAL_BYTES;
            }
        }
        self.oldest = self.oldest.max(oldest);
    }

    pub(super) const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// What `key` was at `revision`, if it is `current` at the newest one.
    pub(super) fn at<'a>(
        &'a self,
        key: &str,
        revision: u64,
        current: Option<&'a KvEntry>,
    ) -> Option<&'a KvEntry> {
        let removed = self
            .removals
            .iter_from(|(name, at)| (&**name, *at) <= (key, revision));
        match removed.map(|(removal, ())| removal).next() {
            Some((name, at)) if &**name == key => self.before(key, *at, revision),
            Some(_) | None => self.back(key, current, revision),
        }
    }

    /// What `key` was at `revision`, if the one at `changed` changed it later.
    pub(super) fn before(&self, key: &str, changed: u64, revision: u64) -> Option<&KvEntry> {
        self.back(key, self.find(key, changed)?.previous.as_deref(), revision)
    }

    /// What `key` was at `revision`, if it was `entry` later and was not removed in between.
    pub(super) fn back<'a>(
        &'a self,
        key: &str,
        mut entry: Option<&'a KvEntry>,
        revision: u64,
    ) -> Option<&'a KvEntry> {
        // Ends, since what a change replaced is older than it.
        while let Some(newer) = entry.filter(|entry| entry.mod_revision > revision) {
            let change = self.find(key, newer.mod_revision)?;
            entry = change.previous.as_deref();
        }
        entry
    }

    /// Keys of `range` that were removed after `revision`, in order, each with the first revision that did.
    pub(super) fn removed_since<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: u64,
    ) -> impl Iterator<Item = (&'a str, u64)> {
        let mut last: Option<&str> = None;
        self.removals
            .iter_from(|(key, _)| &**key < range.start())
            .map(|((key, at), ())| (&**key, *at))
            .take_while(|(key, _)| !range.is_before(key))
            .filter(move |(key, at)| *at > revision && last.replace(key) != Some(key))
    }

    /// Every remembered revision from `from` on, with where its changes are.
    pub(super) fn revisions_from(&self, from: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
        let last = self.changes.back().map_or(0, |change| change.at);
        let revisions = from.max(self.oldest.saturating_add(1))..=last;
        revisions.scan(self.up_to(from.saturating_sub(1)), |start, revision| {
            let places = *start..self.up_to(revision);
            *start = places.end;
            Some((revision, places))
        })
    }

    pub(super) fn changes(&self, places: Range<usize>) -> impl Iterator<Item = &Change> {
        self.changes.range(places)
    }

    fn push(&mut self, change: Change) {
        self.bytes += change_bytes(&change);
        self.changes.push_back(change);
    }

    fn index_removal(&mut self, key: &Arc<str>, at: u64) {
        self.removals.insert((Arc::clone(key), at), ());
        self.bytes += REMOVAL_BYTES;
    }

    /// What `revision` changed of `key`.
    fn find(&self, key: &str, revision: u64) -> Option<&Change> {
        let places = self.up_to(revision.checked_sub(1)?)..self.up_to(revision);
        let place = self.changes.partition_point(places, |change| &*change.key < key);
        let change = self.changes.get(place)?;
        (change.at == revision && &*change.key == key).then_some(change)
    }

    /// How many changes are remembered of revisions up to this one.
    fn up_to(&self, revision: u64) -> usize {
        let (len, last) = (
            self.changes.len(),
            self.changes.back().map_or(0, |change| change.at),
        );
        if revision <= self.oldest || revision >= last {
            return if revision <= self.oldest { 0 } else { len };
        }
        // No revision is without a change, which leaves one place where each changed one key.
        let count = |revisions: u64| usize::try_from(revisions).unwrap_or(len).min(len);
        let places = count(revision - self.oldest)..len - count(last - revision);
        self.changes
            .partition_point(places, |change| change.at <= revision)
    }
}

fn change_bytes(change: &Change) -> usize {
    let value = change.previous.as_ref().map_or(0, |entry| entry.value.len());
    change.key.len() + value + CHANGE_BYTES
}
