//! The snapshot of a `KvStore` is read, and nothing in it believed.

use std::{
    io::{self, Read},
    sync::Arc,
};

use super::{
    KvEntry, KvStore,
    encode::{LeaseRecord, MAX_RECORD_BYTES, VERSION},
    history::{History, Limits},
};
use crate::{
    expiry::Deadline,
    records::{invalid, read_record, read_u64, read_version},
};

/// Most revisions, and most leases ever granted: so many that no store gets there, and too few for one to
/// count past the last number from there.
const MAX_COUNTED: u64 = 1 << 62;

/// Checks what other parts of the store take for granted, so that a snapshot that cannot be right is an
/// error here and not a panic or a difference between replicas later. Of a history longer than `limits` allow
/// the oldest revisions are forgotten on the way.
pub(super) fn decode(input: &mut dyn Read, limits: Limits) -> io::Result<KvStore> {
    read_version(input, VERSION, "the map")?;
    let revision = read_u64(input)?;
    let oldest = read_u64(input)?;
    let granted = read_u64(input)?;
    if revision.max(granted) > MAX_COUNTED {
        return Err(invalid("the map has more revisions or leases than there can be"));
    }
    if oldest > revision {
        return Err(invalid("the map's oldest revision is after its last"));
    }
    let mut store = KvStore {
        revision,
        history: History::starting_at(oldest, limits),
        ..KvStore::default()
    };
    read_leases(&mut store, granted, input)?;
    read_keys(&mut store, input)?;
    read_history(&mut store, input)?;
    Ok(store)
}

fn read_leases(store: &mut KvStore, granted: u64, input: &mut dyn Read) -> io::Result<()> {
    for _ in 0..read_u64(input)? {
        let (id, of_key, ttl_ms, at_ms): LeaseRecord = read_record(input, MAX_RECORD_BYTES)?;
        let restored = store.leases.restore(id, of_key, Deadline { ttl_ms, at_ms });
        restored.ok_or_else(|| invalid("the map's leases are not in order"))?;
    }
    let possible = store.leases.set_granted(granted);
    possible.ok_or_else(|| invalid("the map has more leases than were granted"))
}

fn read_keys(store: &mut KvStore, input: &mut dyn Read) -> io::Result<()> {
    let mut last: Option<Arc<str>> = None;
    for _ in 0..read_u64(input)? {
        let (key, entry): (String, KvEntry) = read_record(input, MAX_RECORD_BYTES)?;
        let key: Arc<str> = key.into();
        if last.is_some_and(|last| last >= key) {
            return Err(invalid("the map's keys are not in order"));
        }
        check_entry(&entry, store.revision)?;
        if let Some(lease) = entry.lease {
            let attached = store.leases.attach(lease, &key);
            attached.ok_or_else(|| invalid("a key of the map hangs on a lease that does not exist"))?;
        }
        store.map.insert(Arc::clone(&key), Arc::new(entry));
        last = Some(key);
    }
    Ok(())
}

fn read_history(store: &mut KvStore, input: &mut dyn Read) -> io::Result<()> {
    for revision in store.history.oldest() + 1..=store.revision {
        let count = read_u64(input)?;
        if count == 0 {
            return Err(invalid("a revision of the map changes nothing"));
        }
        let mut last: Option<Arc<str>> = None;
        for _ in 0..count {
            let (key, previous): (String, Option<KvEntry>) = read_record(input, MAX_RECORD_BYTES)?;
            let key: Arc<str> = key.into();
            if last.is_some_and(|last| last >= key) {
                return Err(invalid("the changes of a revision of the map are not in order"));
            }
            if let Some(previous) = &previous {
                check_entry(previous, revision - 1)?;
            }
            store.history.restore(revision, Arc::clone(&key), previous);
            store.history.limit();
            last = Some(key);
        }
    }
    store.history.link(&store.map)?;
    store.history.limit();
    Ok(())
}

/// A key that was put last at `latest` or before.
fn check_entry(entry: &KvEntry, latest: u64) -> io::Result<()> {
    let KvEntry {
        create_revision: created,
        mod_revision: changed,
        version,
        ..
    } = *entry;
    let possible = (1..=changed).contains(&created) && changed <= latest;
    // A revision puts a key at most once.
    if possible && (1..=changed - created + 1).contains(&version) {
        return Ok(());
    }
    Err(invalid(
        "the revisions or the version of a key of the map cannot be",
    ))
}
