//! One revision in the making: what a command changes, all of it or nothing.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    KeyRange, KvEntry, KvOp, KvOpResult, KvStore, LeaseId, Lifetime,
    history::Change,
    lease::{self, MAX_LEASE_KEYS, MAX_LEASES},
};
use crate::Refusal;

/// Most keys that one command removes by ranges. The answer says whether some are left.
pub const MAX_DELETED_KEYS: usize = 10_000;

/// Most bytes of keys and values with which the reads of a transaction answer.
pub const MAX_TXN_READ_BYTES: usize = 2 << 20;

/// Counted for each entry that is read beside its key and value.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Changes a store at the revision after its last. Every method succeeds: what can be refused has been
/// looked at by [`check_lifetimes`] before.
pub(super) struct Writer<'a> {
    store: &'a mut KvStore,
    revision: u64,
    changed: Changed,
    deletable: usize,
    readable: usize,
}

/// What changed so far, in the order in which it did. One change, which is all that most revisions have,
/// allocates nothing.
#[derive(Default)]
struct Changed {
    first: Option<Change>,
    others: Vec<Change>,
}

impl Changed {
    fn push(&mut self, change: Change) {
        match &self.first {
            None => self.first = Some(change),
            Some(_) => self.others.push(change),
        }
    }

    /// By key, each with what it was before the first change and what the last one made of it.
    fn by_key(self) -> impl Iterator<Item = Change> {
        let (mut first, mut all) = (self.first, self.others);
        if !all.is_empty() {
            all.extend(first.take());
            all.rotate_right(1);
            // Stable, so the changes of a key stay in their order.
            all.sort_by(|a, b| a.key.cmp(&b.key));
            all.dedup_by(|later, earlier| {
                let same = later.key == earlier.key;
                if same {
                    earlier.entry = later.entry.take();
                }
                same
            });
            // What came and went within the revision was never there.
            all.retain(|change| change.previous.is_some() || change.entry.is_some());
        }
        first.into_iter().chain(all)
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(store: &'a mut KvStore) -> Self {
        let revision = store.revision + 1;
        Self {
            store,
            revision,
            changed: Changed::default(),
            deletable: MAX_DELETED_KEYS,
            readable: MAX_TXN_READ_BYTES,
        }
    }

    /// Ends the revision, if anything changed, and returns the store's.
    pub(super) fn finish(self) -> u64 {
        let Self {
            store,
            revision,
            changed,
            ..
        } = self;
        for change in changed.by_key() {
            store.revision = revision;
            store.history.record(change);
        }
        store.history.limit();
        store.revision
    }

    /// Returns the revision the key was last written at, and the lease it hangs on.
    pub(super) fn put(
        &mut self,
        key: &str,
        value: Bytes,
        lifetime: Lifetime,
    ) -> (Option<u64>, Option<LeaseId>) {
        let lease = match lifetime {
            Lifetime::Unlimited => None,
            Lifetime::Lease(lease) => Some(lease),
            Lifetime::Ttl(ttl_ms) => Some(self.store.leases.grant(ttl_ms, true)),
        };
        let revision = self.revision;
        let (previous, (key, entry)) = self.store.map.put(key, |key, previous| {
            let (create_revision, version) = match previous {
                Some(entry) if entry.mod_revision == revision => (entry.create_revision, entry.version),
                Some(entry) => (entry.create_revision, entry.version + 1),
                None => (revision, 1),
            };
            let entry = Arc::new(KvEntry {
                value,
                create_revision,
                mod_revision: revision,
                version,
                lease,
            });
            (Arc::clone(&entry), (Arc::clone(key), entry))
        });
        let replaced = previous.as_ref().map(|entry| entry.mod_revision);
        self.free(&key, previous.as_deref());
        if let Some(lease) = lease {
            self.store.leases.attach(lease, &key);
        }
        self.changed.push(Change {
            at: revision,
            key,
            previous,
            entry: Some(entry),
        });
        (replaced, lease)
    }

    /// Returns the revision the key was last written at.
    pub(super) fn delete(&mut self, key: &str) -> Option<u64> {
        let (key, previous) = self.store.map.remove_entry(key)?;
        let replaced = previous.mod_revision;
        self.free(&key, Some(&previous));
        self.changed.push(Change {
            at: self.revision,
            key,
            previous: Some(previous),
            entry: None,
        });
        Some(replaced)
    }

    /// Returns how many keys there were, and whether some are left.
    pub(super) fn delete_range(&mut self, range: &KeyRange) -> (u32, bool) {
        let keys = self.store.range(range).map(|(key, _)| key.to_owned());
        let mut keys: Vec<String> = keys.take(self.deletable.saturating_add(1)).collect();
        let more = keys.len() > self.deletable;
        keys.truncate(self.deletable);
        self.deletable -= keys.len();
        for key in &keys {
            self.delete(key);
        }
        (u32::try_from(keys.len()).unwrap_or(u32::MAX), more)
    }

    /// Removes the keys of a lease that is gone. Returns how many there were.
    pub(super) fn delete_leased(&mut self, lease: LeaseId) -> u32 {
        let keys: Vec<Arc<str>> = self.store.leases.keys(lease).cloned().collect();
        for key in &keys {
            self.delete(key);
        }
        self.deletable = self.deletable.saturating_sub(keys.len());
        u32::try_from(keys.len()).unwrap_or(u32::MAX)
    }

    /// Whether more leases may end in this revision.
    pub(super) const fn may_delete(&self) -> bool {
        self.deletable > 0
    }

    /// Takes out a lease that has ended.
    pub(super) fn pop_lease(&mut self, now_ms: u64) -> Option<LeaseId> {
        self.store.leases.pop(now_ms)
    }

    /// Carries out one operation of a transaction.
    pub(super) fn op(&mut self, op: KvOp) -> KvOpResult {
        match op {
            KvOp::Put { key, value, lifetime } => {
                let (previous, lease) = self.put(&key, value, lifetime);
                KvOpResult::Written { previous, lease }
            }
            KvOp::Delete { key } => {
                let deleted = u32::from(self.delete(&key).is_some());
                let more = false;
                KvOpResult::Deleted { deleted, more }
            }
            KvOp::DeleteRange { range } => {
                let (deleted, more) = self.delete_range(&range);
                KvOpResult::Deleted { deleted, more }
            }
            KvOp::Range { range, limit } => self.read(&range, limit),
        }
    }

    fn read(&mut self, range: &KeyRange, limit: u32) -> KvOpResult {
        let mut entries = Vec::new();
        let mut more = false;
        for (key, entry) in self.store.range(range) {
            let bytes = key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES;
            more = entries.len() >= limit as usize || bytes > self.readable;
            if more {
                break;
            }
            self.readable -= bytes;
            entries.push((key.to_owned(), entry.clone()));
        }
        KvOpResult::Range { entries, more }
    }

    /// Frees a key from the lease it had.
    fn free(&mut self, key: &Arc<str>, previous: Option<&KvEntry>) {
        if let Some(lease) = previous.and_then(|entry| entry.lease) {
            self.store.leases.detach(lease, key);
        }
    }
}

/// Whether leases allow that keys are put for these lifetimes, all together.
pub(super) fn check_lifetimes(
    store: &KvStore,
    lifetimes: impl IntoIterator<Item = Lifetime>,
) -> Result<(), Refusal> {
    let mut granted = 0;
    let mut attached: BTreeMap<LeaseId, usize> = BTreeMap::new();
    for lifetime in lifetimes {
        match lifetime {
            Lifetime::Unlimited => {}
            Lifetime::Lease(id) => {
                let found = store.leases.get(id).filter(|(lease, _)| !lease.of_key);
                let (lease, _) = found.ok_or_else(|| lease::not_found(id))?;
                let keys = attached.entry(id).or_insert(lease.keys);
                *keys += 1;
                if *keys > MAX_LEASE_KEYS {
                    return Err(lease::full(id));
                }
            }
            Lifetime::Ttl(_) => {
                granted += 1;
                if store.leases.len() + granted > MAX_LEASES {
                    return Err(lease::too_many());
                }
            }
        }
    }
    Ok(())
}
