//! What happens to a store and its model, at random.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::super::super::{history::Limits, *};

/// Most often nothing is forgotten; else a little is remembered, or nothing at all.
pub(super) fn limits() -> impl Strategy<Value = Limits> {
    let changes = prop_oneof![1 => Just(MAX_HISTORY_EVENTS), 2 => 0..40_usize];
    let bytes = prop_oneof![1 => Just(MAX_HISTORY_BYTES), 1 => 0..8_000_usize];
    (changes, bytes).prop_map(|(changes, bytes)| Limits { changes, bytes })
}

fn key() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn value() -> impl Strategy<Value = Bytes> {
    "[xy]{0,2}".prop_map(Bytes::from)
}

pub(super) fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        Just(KeyRange::all()),
        key().prop_map(KeyRange::prefix),
        key().prop_map(KeyRange::key),
        (key(), key()).prop_map(|(a, b)| KeyRange::from_to(a, b)),
        key().prop_map(KeyRange::starting_at),
    ]
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..12_u64).prop_map(LeaseId)
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    prop_oneof![
        3 => Just(Lifetime::Unlimited),
        2 => lease().prop_map(Lifetime::Lease),
        1 => (1_000..3_000_u64).prop_map(Lifetime::Ttl),
    ]
}

fn op() -> impl Strategy<Value = KvOp> {
    prop_oneof![
        4 => (key(), value(), lifetime()).prop_map(|(key, value, lifetime)| KvOp::Put { key, value, lifetime }),
        2 => key().prop_map(KvOp::delete),
        1 => range().prop_map(|range| KvOp::DeleteRange { range }),
        2 => (range(), 0..4_u32).prop_map(|(range, limit)| KvOp::Range { range, limit }),
    ]
}

fn compare() -> impl Strategy<Value = KvCompare> {
    let target = prop_oneof![
        any::<bool>().prop_map(CompareTarget::Exists),
        value().prop_map(|value| CompareTarget::Value(Comparison::Less, value)),
        (0..3_u64).prop_map(|to| CompareTarget::Version(Comparison::Greater, to)),
        (0..40_u64).prop_map(|to| CompareTarget::ModRevision(Comparison::Equal, to)),
        (0..40_u64).prop_map(|to| CompareTarget::CreateRevision(Comparison::NotEqual, to)),
    ];
    (key(), target).prop_map(|(key, target)| KvCompare::new(key, target))
}

fn command() -> impl Strategy<Value = KvCommand> {
    let txn = (vec(compare(), 0..2), vec(op(), 0..5), vec(op(), 0..3));
    prop_oneof![
        6 => (key(), value(), lifetime()).prop_map(|(key, value, lifetime)| KvCommand::put_for(key, value, lifetime)),
        2 => key().prop_map(KvCommand::delete),
        2 => (key(), option::of(0..60_u64), option::of(value()), lifetime()).prop_map(
            |(key, expected, value, lifetime)| KvCommand::Cas { key, expected, value, lifetime }
        ),
        1 => range().prop_map(|range| KvCommand::DeleteRange { range }),
        4 => txn.prop_map(|(compare, then, otherwise)| KvCommand::Txn(KvTxn { compare, then, otherwise })),
        2 => (1_000..3_000_u64).prop_map(|ttl_ms| KvCommand::GrantLease { ttl_ms }),
        1 => lease().prop_map(|lease| KvCommand::RenewLease { lease }),
        1 => lease().prop_map(|lease| KvCommand::RevokeLease { lease }),
        1 => (0..60_u64).prop_map(|revision| KvCommand::Compact { revision }),
    ]
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Apply(KvCommand),
    Tick(u64),
    /// Goes on with a store restored from a snapshot.
    Restore,
    /// Keeps a clone, which later steps must not change.
    Clone,
    /// Begins anew: see [`StateMachine::refounded`].
    Refound,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        36 => command().prop_map(Step::Apply),
        9 => select(vec![0, 500, 1_000, 2_500]).prop_map(Step::Tick),
        3 => Just(Step::Restore),
        3 => Just(Step::Clone),
        1 => Just(Step::Refound),
    ]
}
