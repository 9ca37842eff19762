//! The part of a log that is in memory: its edges, and its newest entries in one contiguous run.

use std::{
    collections::VecDeque,
    ops::{Bound, Range, RangeBounds},
};

use openraft::{LogState, RaftTypeConfig, entry::RaftEntry, type_config::alias::LogIdOf};

/// An entry was offered at an index that would leave a hole in the log or overwrite part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfOrder {
    pub(crate) expected: u64,
    pub(crate) found: u64,
}

/// The edges of the log and its newest entries.
///
/// `first` is the index of the oldest entry, `last` the id of the newest; the log is empty without a
/// `last`. The slots are the entries `tail_start()..next()`. Entries `first..tail_start()` must be readable
/// elsewhere; a window that never evicts has none of those.
#[derive(Debug)]
pub(crate) struct Window<C: RaftTypeConfig> {
    purged: Option<LogIdOf<C>>,
    first: u64,
    last: Option<LogIdOf<C>>,
    slots: VecDeque<Slot<C>>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot<C: RaftTypeConfig> {
    entry: C::Entry,
    bytes: usize,
    /// Number of the append that brought the entry. An index can be written, truncated and written again
    /// while its first write is still under way, so "durable up to index" would name the wrong entry.
    append: u64,
}

impl<C: RaftTypeConfig> Window<C> {
    /// The edges of a log whose entries `first..=last` are readable elsewhere.
    pub(crate) const fn new(purged: Option<LogIdOf<C>>, first: u64, last: Option<LogIdOf<C>>) -> Self {
        Self {
            purged,
            first,
            last,
            slots: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Whether an entry with this index may come next.
    ///
    /// A log that was never written to may begin anywhere: openraft starts it at 0, or after a snapshot.
    fn check_next(&self, found: u64) -> Result<(), OutOfOrder> {
        let expected = match self.last.as_ref().or(self.purged.as_ref()) {
            Some(id) => id.index.saturating_add(1),
            None => found,
        };
        if expected == found {
            Ok(())
        } else {
            Err(OutOfOrder { expected, found })
        }
    }

    /// Whether these entries may come next, in this order.
    pub(crate) fn check_run(&self, entries: &[C::Entry]) -> Result<(), OutOfOrder> {
        let mut next = None;
        for entry in entries {
            let found = entry.index();
            match next {
                None => self.check_next(found)?,
                Some(expected) if expected == found => {}
                Some(expected) => return Err(OutOfOrder { expected, found }),
            }
            next = Some(found.saturating_add(1));
        }
        Ok(())
    }

    /// Adds an entry that [`Self::check_run`] accepted.
    pub(crate) fn push(&mut self, entry: C::Entry, bytes: usize, append: u64) {
        let id = entry.log_id();
        if self.last.is_none() {
            self.first = id.index;
        }
        self.last = Some(id);
        self.bytes = self.bytes.saturating_add(bytes);
        self.slots.push_back(Slot { entry, bytes, append });
    }

    /// Removes the entries after `keep`; all of them without one. False if there were none.
    pub(crate) fn truncate_after(&mut self, keep: Option<LogIdOf<C>>) -> bool {
        let Some(last) = &self.last else {
            return false;
        };
        if keep.as_ref().is_some_and(|keep| keep.index >= last.index) {
            return false;
        }
        let kept = keep.as_ref().map_or(0, |keep| keep.index.saturating_add(1));
        let removed = self.next().saturating_sub(kept);
        for _ in 0..removed {
            let Some(slot) = self.slots.pop_back() else { break };
            self.bytes = self.bytes.saturating_sub(slot.bytes);
        }
        self.last = keep.filter(|keep| keep.index >= self.first);
        true
    }

    /// Removes the entries up to `upto`. False if they have been purged before.
    pub(crate) fn purge(&mut self, upto: LogIdOf<C>) -> bool {
        if self
            .purged
            .as_ref()
            .is_some_and(|purged| purged.index >= upto.index)
        {
            return false;
        }
        let first = upto.index.saturating_add(1);
        while self.tail_start() < first && !self.slots.is_empty() {
            self.pop_front();
        }
        if self.last.as_ref().is_some_and(|last| last.index < first) {
            self.last = None;
        }
        self.first = self.first.max(first);
        self.purged = Some(upto);
        true
    }

    /// Forgets the oldest slots beyond `max_bytes` whose append is at most `durable`, and returns their
    /// entries: dropping thousands takes a while, and is better done without holding a lock.
    #[must_use = "drop them after the lock"]
    pub(crate) fn evict(&mut self, durable: u64, max_bytes: usize) -> Vec<C::Entry> {
        let mut evicted = Vec::new();
        while self.bytes > max_bytes && self.slots.front().is_some_and(|slot| slot.append <= durable) {
            let Some(slot) = self.slots.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(slot.bytes);
            evicted.push(slot.entry);
        }
        evicted
    }

    /// The part of `range` that the log contains.
    pub(crate) fn clip(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let start = start.max(self.first);
        start..end.min(self.next()).max(start)
    }

    /// The entries of a clipped range that are in memory, with their sizes.
    pub(crate) fn slots(&self, range: &Range<u64>) -> impl Iterator<Item = (&C::Entry, usize)> {
        let tail = self.tail_start();
        let skip = range.start.saturating_sub(tail);
        let take = range.end.saturating_sub(range.start.max(tail));
        self.slots
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .take(usize::try_from(take).unwrap_or(usize::MAX))
            .map(|slot| (&slot.entry, slot.bytes))
    }

    /// Index of the oldest entry in memory; equals `next()` when there is none.
    pub(crate) fn tail_start(&self) -> u64 {
        self.next().saturating_sub(self.slots.len() as u64)
    }

    /// What openraft asks for.
    pub(crate) fn log_state(&self) -> LogState<C> {
        LogState {
            last_purged_log_id: self.purged.clone(),
            last_log_id: self.last.clone().or_else(|| self.purged.clone()),
        }
    }

    /// Index after the newest entry.
    fn next(&self) -> u64 {
        self.last
            .as_ref()
            .map_or(self.first, |last| last.index.saturating_add(1))
    }

    fn pop_front(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.bytes = self.bytes.saturating_sub(slot.bytes);
        }
    }
}
