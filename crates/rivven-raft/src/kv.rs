//! `KvStore`, the default state machine: a map from text to bytes that remembers its revisions.

mod check;
mod command;
mod decode;
mod encode;
mod history;
mod lease;
mod query;
mod queue;
mod range;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

pub use self::{
    command::{
        CompareTarget, Comparison, KvCommand, KvCompare, KvEntry, KvOp, KvOpResult, KvResponse, KvTxn,
        LeaseId, Lifetime,
    },
    history::{MAX_HISTORY_BYTES, MAX_HISTORY_EVENTS},
    lease::{MAX_LEASE_KEYS, MAX_LEASE_TTL_MS, MAX_LEASES, MIN_LEASE_TTL_MS},
    query::KvPage,
    range::KeyRange,
    read::{KvChanges, KvEvent, KvLease, KvReadError},
    write::{MAX_DELETED_KEYS, MAX_TXN_READ_BYTES},
};
use self::{
    history::{History, Limits},
    lease::Leases,
    write::Writer,
};
pub(crate) use self::{
    query::{KvAnswer, KvQuery},
    read::Place,
};
use rivven_transport::identity::Role;

use crate::{ApplyCtx, REFOUNDING_GAP, Refusal, StateMachine, shared_map::SharedMap};

/// Most bytes of a key.
pub const MAX_KEY_BYTES: usize = 4 << 10;

/// Most bytes of a value.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Most comparisons, and most operations of either branch, of a transaction.
pub const MAX_TXN_OPS: usize = 128;

/// A map from text keys to byte values, in key order, where every change gets the next revision.
///
/// It remembers the last [`MAX_HISTORY_EVENTS`] changes, up to [`MAX_HISTORY_BYTES`], for reads of the past
/// and for watches. Keys can hang on leases, which end when they are not renewed in log time.
///
/// Replicated by a [`RaftNode`](crate::RaftNode); as a value it is an ordinary map. A clone takes constant
/// time and shares everything; each side copies what it changes, a few small nodes per change, and the first
/// change of either copies the list of the history's chunks, of which there are [`MAX_HISTORY_EVENTS`] / 128
/// at most.
///
/// ```
/// use rivven_raft::{ApplyCtx, KvCommand, KvStore, StateMachine};
///
/// let mut store = KvStore::new();
/// for (index, value) in (1..).zip(["old", "new"]) {
///     store.apply(&ApplyCtx::new(index, 1), KvCommand::put("k", value));
/// }
/// let value = |revision| Some(&store.get_at("k", revision).ok()??.value[..]);
/// assert_eq!((value(1), value(2)), (Some(&b"old"[..]), Some(&b"new"[..])));
/// ```
#[derive(Clone, Debug, Default)]
pub struct KvStore {
    map: SharedMap<Arc<str>, Arc<KvEntry>>,
    revision: u64,
    history: History,
    leases: Leases,
}

impl KvStore {
    /// An empty map at revision 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn put(&mut self, key: &str, value: bytes::Bytes, lifetime: Lifetime) -> KvResponse {
        if let Err(refusal) = write::check_lifetimes(self, [lifetime]) {
            return KvResponse::Refused(refusal);
        }
        let mut writer = Writer::new(self);
        let (previous, lease) = writer.put(key, value, lifetime);
        let revision = writer.finish();
        KvResponse::Written {
            revision,
            previous,
            lease,
        }
    }

    fn delete(&mut self, key: &str) -> KvResponse {
        let mut writer = Writer::new(self);
        let previous = writer.delete(key);
        let revision = writer.finish();
        KvResponse::Deleted { revision, previous }
    }

    fn delete_range(&mut self, range: &KeyRange) -> KvResponse {
        let mut writer = Writer::new(self);
        let (deleted, more) = writer.delete_range(range);
        let revision = writer.finish();
        KvResponse::DeletedRange {
            revision,
            deleted,
            more,
        }
    }

    fn txn(&mut self, txn: KvTxn) -> KvResponse {
        let holds = |compare: &KvCompare| compare.holds(self.get(&compare.key));
        let succeeded = txn.compare.iter().all(holds);
        let ops = if succeeded { txn.then } else { txn.otherwise };
        let lifetimes = ops.iter().map(|op| match op {
            KvOp::Put { lifetime, .. } => *lifetime,
            KvOp::Delete { .. } | KvOp::DeleteRange { .. } | KvOp::Range { .. } => Lifetime::Unlimited,
        });
        if let Err(refusal) = write::check_lifetimes(self, lifetimes) {
            return KvResponse::Refused(refusal);
        }
        let mut writer = Writer::new(self);
        let results = ops.into_iter().map(|op| writer.op(op)).collect();
        let revision = writer.finish();
        KvResponse::Txn {
            revision,
            succeeded,
            results,
        }
    }

    fn grant(&mut self, ttl_ms: u64) -> KvResponse {
        if self.leases.len() >= MAX_LEASES {
            return KvResponse::Refused(lease::too_many());
        }
        let lease = self.leases.grant(ttl_ms, false);
        KvResponse::Leased { lease, ttl_ms }
    }

    fn renew(&mut self, lease: LeaseId) -> KvResponse {
        match self.leases.renew(lease) {
            Some(ttl_ms) => KvResponse::Leased { lease, ttl_ms },
            None => KvResponse::Refused(lease::not_found(lease)),
        }
    }

    fn revoke(&mut self, lease: LeaseId) -> KvResponse {
        if self.leases.get(lease).is_none() {
            return KvResponse::Refused(lease::not_found(lease));
        }
        self.leases.remove(lease);
        let mut writer = Writer::new(self);
        let deleted = writer.delete_leased(lease);
        KvResponse::DeletedRange {
            revision: writer.finish(),
            deleted,
            more: false,
        }
    }

    fn compact(&mut self, revision: u64) -> KvResponse {
        if revision > self.revision {
            let current = self.revision;
            let error = KvReadError::FutureRevision { current };
            return KvResponse::Refused(Refusal::new(error.code(), error.to_string()));
        }
        self.history.compact(revision);
        let oldest = self.history.oldest();
        KvResponse::Compacted { oldest }
    }
}

impl AsRef<Self> for KvStore {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl StateMachine for KvStore {
    type Command = KvCommand;
    type Response = KvResponse;
    type Snapshot = Self;

    fn check(command: &KvCommand) -> Result<(), Refusal> {
        check::check(command)
    }

    fn open_to(role: Role, _command: &KvCommand) -> bool {
        matches!(role, Role::Client | Role::Operator)
    }

    fn query(&self, role: Role, query: &[u8]) -> Result<Vec<u8>, Refusal> {
        query::answer(self, role, query)
    }

    fn apply(&mut self, _ctx: &ApplyCtx, command: KvCommand) -> KvResponse {
        // Limits were checked before it was proposed, here and on the leader. Were they checked again, two
        // releases with different limits would apply the same log differently.
        match command {
            KvCommand::Put { key, value, lifetime } => self.put(&key, value, lifetime),
            KvCommand::Delete { key } => self.delete(&key),
            KvCommand::Cas {
                key,
                expected,
                value,
                lifetime,
            } => {
                let current = self.map.get(key.as_str()).map(|entry| entry.mod_revision);
                match value {
                    _ if current != expected => KvResponse::Conflict { current },
                    Some(value) => self.put(&key, value, lifetime),
                    None => self.delete(&key),
                }
            }
            KvCommand::DeleteRange { range } => self.delete_range(&range),
            KvCommand::Txn(txn) => self.txn(txn),
            KvCommand::GrantLease { ttl_ms } => self.grant(ttl_ms),
            KvCommand::RenewLease { lease } => self.renew(lease),
            KvCommand::RevokeLease { lease } => self.revoke(lease),
            KvCommand::Compact { revision } => self.compact(revision),
        }
    }

    fn without_texts(response: &KvResponse) -> Option<KvResponse> {
        match response {
            KvResponse::Refused(refusal) => Some(KvResponse::Refused(refusal.without_text())),
            _ => None,
        }
    }

    fn needs_ticks(&self) -> bool {
        self.leases.len() > 0
    }

    /// Removes the keys of leases that have ended, in one revision.
    fn tick(&mut self, ctx: &ApplyCtx) {
        let mut writer = Writer::new(self);
        while writer.may_delete()
            && let Some(lease) = writer.pop_lease(ctx.log_time_ms)
        {
            writer.delete_leased(lease);
        }
        writer.finish();
        self.leases.begin(ctx.log_time_ms);
    }

    /// Revisions and leases go on behind all that may have been given out, and whoever watches from a revision
    /// that may be lost hears that it is compacted, and lists anew.
    fn refounded(&mut self, _ctx: &ApplyCtx) {
        self.revision = self.revision.saturating_add(REFOUNDING_GAP);
        self.history.compact(self.revision);
        self.leases.skip(REFOUNDING_GAP);
    }

    fn snapshot(&self) -> Self {
        self.clone()
    }

    fn encode_snapshot(snapshot: &Self, out: &mut dyn Write) -> io::Result<()> {
        encode::encode(snapshot, out)
    }

    fn decode_snapshot(input: &mut dyn Read) -> io::Result<Self> {
        decode::decode(input, Limits::default())
    }

    fn restore(&mut self, snapshot: Self) {
        *self = snapshot;
    }
}
