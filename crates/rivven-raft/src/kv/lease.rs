//! Leases: times to live that keys hang on.

use std::sync::Arc;

use super::LeaseId;
use crate::{
    Refusal,
    expiry::{Deadline, Expiry},
    shared_map::SharedMap,
};

/// Shortest time to live, in milliseconds: two ticks of the log time, so that a holder can renew in time.
pub const MIN_LEASE_TTL_MS: u64 = 1_000;

/// Longest time to live, in milliseconds: thirty days.
pub const MAX_LEASE_TTL_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// Most leases at one time. Granting more is refused.
pub const MAX_LEASES: usize = 100_000;

/// Most keys that hang on one lease. Attaching more is refused, since they end together in one entry.
pub const MAX_LEASE_KEYS: usize = 10_000;

/// The leases of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    expiry: Expiry,
    leases: SharedMap<u64, Lease>,
    /// By lease, then by key.
    attached: SharedMap<(u64, Arc<str>), ()>,
    /// How many there have ever been; the id of the last.
    granted: u64,
}

/// Of a lease beside its time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    pub(super) keys: usize,
    /// Made for one key, with which it ends.
    pub(super) of_key: bool,
}

impl Leases {
    pub(super) const fn len(&self) -> usize {
        self.expiry.len()
    }

    pub(super) const fn granted(&self) -> u64 {
        self.granted
    }

    /// Leaves out the next so many ids.
    pub(super) const fn skip(&mut self, ids: u64) {
        self.granted = self.granted.saturating_add(ids);
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<(Lease, Deadline)> {
        Some((*self.leases.get(&id.0)?, self.expiry.get(id.0)?))
    }

    /// Every lease, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LeaseId, Lease, Deadline)> {
        let with = |(id, deadline)| Some((LeaseId(id), *self.leases.get(&id)?, deadline));
        self.expiry.iter().filter_map(with)
    }

    /// The keys of a lease, in order.
    pub(super) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Arc<str>> {
        self.attached
            .iter_from(move |(lease, _)| *lease < id.0)
            .take_while(move |((lease, _), ())| *lease == id.0)
            .map(|((_, key), ())| key)
    }

    pub(super) fn grant(&mut self, ttl_ms: u64, of_key: bool) -> LeaseId {
        self.granted += 1;
        let lease = Lease { keys: 0, of_key };
        self.leases.insert(self.granted, lease);
        self.expiry.renew(self.granted, ttl_ms);
        LeaseId(self.granted)
    }

    /// Restores a lease from a snapshot; its keys are attached later. `None`: it cannot be right.
    pub(super) fn restore(&mut self, id: LeaseId, of_key: bool, deadline: Deadline) -> Option<()> {
        let newer = id.0 > self.granted;
        let lease = Lease { keys: 0, of_key };
        let new = newer && self.leases.insert(id.0, lease).is_none();
        self.expiry.insert(id.0, deadline);
        self.granted = id.0;
        new.then_some(())
    }

    /// Ends the restoration: more leases may have been granted than there are.
    pub(super) fn set_granted(&mut self, granted: u64) -> Option<()> {
        let possible = granted >= self.granted;
        self.granted = granted;
        possible.then_some(())
    }

    /// Gives a lease its whole time again. Returns its time to live.
    pub(super) fn renew(&mut self, id: LeaseId) -> Option<u64> {
        let ttl_ms = self.expiry.get(id.0)?.ttl_ms;
        self.expiry.renew(id.0, ttl_ms);
        Some(ttl_ms)
    }

    /// Removes a lease. Its keys have to be removed with it.
    pub(super) fn remove(&mut self, id: LeaseId) {
        self.expiry.remove(id.0);
        self.leases.remove(&id.0);
    }

    /// Takes out a lease that has ended. Its keys have to be removed with it.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<LeaseId> {
        let id = self.expiry.pop(now_ms)?;
        self.leases.remove(&id);
        Some(LeaseId(id))
    }

    /// Begins the time of leases granted or renewed since the last tick.
    pub(super) fn begin(&mut self, now_ms: u64) {
        self.expiry.begin(now_ms);
    }

    pub(super) fn attach(&mut self, id: LeaseId, key: &Arc<str>) -> Option<()> {
        let mut lease = *self.leases.get(&id.0)?;
        if self.attached.insert((id.0, Arc::clone(key)), ()).is_none() {
            lease.keys += 1;
            self.leases.insert(id.0, lease);
        }
        Some(())
    }

    pub(super) fn detach(&mut self, id: LeaseId, key: &Arc<str>) {
        if self.attached.remove(&(id.0, Arc::clone(key))).is_none() {
            return;
        }
        // A lease that is on its way out has been removed before its keys.
        let Some(mut lease) = self.leases.get(&id.0).copied() else {
            return;
        };
        lease.keys -= 1;
        if lease.of_key && lease.keys == 0 {
            self.remove(id);
        } else {
            self.leases.insert(id.0, lease);
        }
    }
}

pub(super) fn not_found(id: LeaseId) -> Refusal {
    let message = format!("there is no lease {id}; it has ended or was revoked: grant a new one");
    Refusal::new("lease-not-found", message)
}

pub(super) fn too_many() -> Refusal {
    let message = format!("there are {MAX_LEASES} leases; share leases between keys, or revoke some");
    Refusal::new("too-many-leases", message)
}

pub(super) fn full(id: LeaseId) -> Refusal {
    let message = format!("lease {id} has {MAX_LEASE_KEYS} keys; grant another one");
    Refusal::new("lease-full", message)
}
