//! Limits of commands, which need no state to be checked.

use bytes::Bytes;

use super::{
    KeyRange, KvCommand, KvOp, KvTxn, Lifetime, MAX_KEY_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES,
    lease::{MAX_LEASE_TTL_MS, MIN_LEASE_TTL_MS},
};
use crate::Refusal;

pub(super) fn check(command: &KvCommand) -> Result<(), Refusal> {
    match command {
        KvCommand::Put { key, value, lifetime } => check_put(key, value, *lifetime),
        KvCommand::Delete { key } => check_key(key),
        KvCommand::Cas {
            key,
            value: Some(value),
            lifetime,
            ..
        } => check_put(key, value, *lifetime),
        KvCommand::Cas { key, value: None, .. } => check_key(key),
        KvCommand::DeleteRange { range } => check_range(range),
        KvCommand::Txn(txn) => check_txn(txn),
        KvCommand::GrantLease { ttl_ms } => check_ttl(*ttl_ms),
        KvCommand::RenewLease { .. } | KvCommand::RevokeLease { .. } | KvCommand::Compact { .. } => Ok(()),
    }
}

fn check_txn(txn: &KvTxn) -> Result<(), Refusal> {
    let most = txn.compare.len().max(txn.then.len()).max(txn.otherwise.len());
    if most > MAX_TXN_OPS {
        let message = format!("{most} comparisons or operations, the limit is {MAX_TXN_OPS}; split them");
        return Err(Refusal::new("operations-out-of-range", message));
    }
    txn.compare
        .iter()
        .try_for_each(|compare| check_key(&compare.key))?;
    txn.then.iter().chain(&txn.otherwise).try_for_each(|op| match op {
        KvOp::Put { key, value, lifetime } => check_put(key, value, *lifetime),
        KvOp::Delete { key } => check_key(key),
        KvOp::DeleteRange { range } | KvOp::Range { range, .. } => check_range(range),
    })
}

fn check_put(key: &str, value: &Bytes, lifetime: Lifetime) -> Result<(), Refusal> {
    check_key(key)?;
    check_value(value)?;
    match lifetime {
        Lifetime::Ttl(ttl_ms) => check_ttl(ttl_ms),
        Lifetime::Unlimited | Lifetime::Lease(_) => Ok(()),
    }
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::new("empty-key", "the key is empty; give it a name"));
    }
    check_key_len(key)
}

fn check_key_len(key: &str) -> Result<(), Refusal> {
    if key.len() > MAX_KEY_BYTES {
        let message = format!(
            "the key has {} bytes, the limit is {MAX_KEY_BYTES}; shorten it",
            key.len()
        );
        return Err(Refusal::new("key-too-long", message));
    }
    Ok(())
}

fn check_range(range: &KeyRange) -> Result<(), Refusal> {
    check_key_len(range.start())?;
    // The end of one key's range is a byte longer than the key.
    let end = range.end().unwrap_or_default();
    check_key_len(end.strip_suffix('\0').unwrap_or(end))
}

fn check_value(value: &Bytes) -> Result<(), Refusal> {
    if value.len() > MAX_VALUE_BYTES {
        let message = format!(
            "the value has {} bytes, the limit is {MAX_VALUE_BYTES}; split it or store a reference",
            value.len()
        );
        return Err(Refusal::new("value-too-large", message));
    }
    Ok(())
}

fn check_ttl(ttl_ms: u64) -> Result<(), Refusal> {
    if (MIN_LEASE_TTL_MS..=MAX_LEASE_TTL_MS).contains(&ttl_ms) {
        return Ok(());
    }
    let message = format!(
        "a time to live of {ttl_ms} ms is not within {MIN_LEASE_TTL_MS} to {MAX_LEASE_TTL_MS} ms; choose one \
         that is"
    );
    Err(Refusal::new("ttl-out-of-range", message))
}
