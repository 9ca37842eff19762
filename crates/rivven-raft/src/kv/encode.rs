//! The snapshot of a `KvStore` is written: a header, then records one by one, so that nobody holds it whole.

use std::io::{self, Write};

use super::{KvStore, LeaseId};
use crate::{
    MAX_COMMAND_BYTES,
    records::{write_record, write_u64},
};

/// Version of the encoding. 0 is unstable: refused once there is a 1.
pub(super) const VERSION: u8 = 0;

/// Most bytes of one record: a key, a value and room for the numbers.
pub(super) const MAX_RECORD_BYTES: usize = MAX_COMMAND_BYTES + 128;

/// Of a lease: id, whether it is of one key, time to live, when it ends.
pub(super) type LeaseRecord = (LeaseId, bool, u64, Option<u64>);

/// Version, revision, oldest revision, leases ever granted; leases and keys, each group behind its number;
/// of every revision after the oldest the number of its changes and what they replaced. What a change made of
/// its key is what the next one replaced, or what the key is.
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
        write_record(out, &(&**key, &**entry))?;
    }
    for (_, places) in store.history.revisions_from(0) {
        write_u64(out, places.len() as u64)?;
        for change in store.history.changes(places) {
            write_record(out, &(&*change.key, change.previous.as_deref()))?;
        }
    }
    Ok(())
}
