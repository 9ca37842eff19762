//! The snapshot of a `KvStore`: a header, then records one by one, so that neither side ever holds it whole.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use super::{KvEntry, KvStore, LeaseId, history::History};
use crate::{
    MAX_COMMAND_BYTES,
    expiry::Deadline,
    records::{invalid, read_record, read_u64, read_version, write_record, write_u64},
};

/// Version of the encoding. 0 is unstable: refused once there is a 1.
const VERSION: u8 = 0;

/// Most bytes of one record: a key, a value and room for the numbers.
const MAX_RECORD_BYTES: usize = MAX_COMMAND_BYTES + 128;

/// Of a lease: id, whether it is of one key, time to live, when it ends.
type LeaseRecord = (LeaseId, bool, u64, Option<u64>);

/// Version, revision, oldest revision, leases ever granted; leases, keys and remembered revisions, each
/// group behind its number. A revision is itself followed by its number of changes and by what they
/// replaced.
pub(super) fn encode(store: &KvStore, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[VERSION])?;
    write_u64(out, store.revision)?;
    write_u64(out, store.history.oldest())?;
    write_u64(out, store.leases.granted())?;
    write_u64(out, store.leases.len() as u64)?;
    for (id, lease, deadline) in store.leases.iter() {
        let record: LeaseRecord = (id, lease.of_key, deadline.ttl_ms, deadline.at_ms);
        write_record(out, &record)?;
    }
    write_u64(out, store.map.len() as u64)?;
    for (key, entry) in store.map.iter() {
        write_record(out, &(&**key, entry))?;
    }
    write_u64(out, store.history.len() as u64)?;
    for (revision, keys) in store.history.revisions_from(0) {
        write_u64(out, revision)?;
        write_u64(out, keys.len() as u64)?;
        for key in keys.iter() {
            write_record(out, &(&**key, store.history.replaced_by(key, revision)))?;
        }
    }
    Ok(())
}

/// Checks what other parts of the store take for granted, so that a snapshot that cannot be right is an
/// error here and not a panic or a difference between replicas later.
pub(super) fn decode(input: &mut dyn Read) -> io::Result<KvStore> {
    read_version(input, VERSION, "the map")?;
    let revision = read_u64(input)?;
    let oldest = read_u64(input)?;
    let granted = read_u64(input)?;
    let mut store = KvStore {
        revision,
        history: History::starting_at(oldest),
        ..KvStore::default()
    };
    if oldest > revision {
        return Err(invalid("the map's oldest revision is after its last"));
    }
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
        if last.is_some_and(|last| last >= key) || entry.mod_revision > store.revision {
            return Err(invalid("the map's keys are not in order"));
        }
        if let Some(lease) = entry.lease {
            let attached = store.leases.attach(lease, &key);
            attached.ok_or_else(|| invalid("a key of the map hangs on a lease that does not exist"))?;
        }
        store.map.insert(Arc::clone(&key), entry);
        last = Some(key);
    }
    Ok(())
}

fn read_history(store: &mut KvStore, input: &mut dyn Read) -> io::Result<()> {
    let mut last = store.history.oldest();
    for _ in 0..read_u64(input)? {
        let revision = read_u64(input)?;
        if revision <= last || revision > store.revision {
            return Err(invalid("the map's revisions are not in order"));
        }
        last = revision;
        // Grows as records arrive, so that a wrong number allocates nothing.
        let mut changes = Vec::new();
        for _ in 0..read_u64(input)? {
            let (key, previous): (String, Option<KvEntry>) = read_record(input, MAX_RECORD_BYTES)?;
            changes.push((key.into(), previous));
        }
        store.history.record(revision, changes);
    }
    Ok(())
}
