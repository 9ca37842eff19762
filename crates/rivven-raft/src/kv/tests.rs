//! `KvStore`, case by case; `model` compares it with a simple one.

mod damage;
mod model;

use super::*;

fn apply(store: &mut KvStore, command: KvCommand) -> KvResponse {
    apply_at(store, store.revision() + 1, 0, command)
}

fn apply_at(store: &mut KvStore, index: u64, now_ms: u64, command: KvCommand) -> KvResponse {
    store.apply(&ApplyCtx::new(index, 1).at(now_ms), command)
}

fn tick(store: &mut KvStore, now_ms: u64) {
    store.tick(&ApplyCtx::new(1, 1).at(now_ms));
}

fn encoded(store: &KvStore) -> Vec<u8> {
    let mut bytes = Vec::new();
    KvStore::encode_snapshot(&store.snapshot(), &mut bytes).unwrap();
    bytes
}

fn refusal(response: KvResponse) -> String {
    match response {
        KvResponse::Refused(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn grant(store: &mut KvStore, ttl_ms: u64) -> LeaseId {
    match apply(store, KvCommand::GrantLease { ttl_ms }) {
        KvResponse::Leased { lease, .. } => lease,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn puts_count_revisions_and_keep_the_revision_of_creation() {
    let mut store = KvStore::new();
    let written = |revision, previous| KvResponse::Written {
        revision,
        previous,
        lease: None,
    };
    assert_eq!(apply(&mut store, KvCommand::put("a", "1")), written(1, None));
    assert_eq!(apply(&mut store, KvCommand::put("a", "2")), written(2, Some(1)));
    let entry = store.get("a").unwrap();
    assert_eq!(
        (
            entry.value.as_ref(),
            entry.create_revision,
            entry.mod_revision,
            entry.version
        ),
        (&b"2"[..], 1, 2, 2)
    );
    let deleted = |previous| KvResponse::Deleted {
        revision: 3,
        previous,
    };
    assert_eq!(apply(&mut store, KvCommand::delete("a")), deleted(Some(2)));
    assert_eq!(apply(&mut store, KvCommand::delete("a")), deleted(None));
}

#[test]
fn compare_and_swap_changes_only_what_is_as_expected() {
    let mut store = KvStore::new();
    let value = Some(bytes::Bytes::from_static(b"v"));
    assert!(matches!(
        apply(&mut store, KvCommand::cas("a", None, value.clone())),
        KvResponse::Written { .. }
    ));
    assert_eq!(
        apply(&mut store, KvCommand::cas("a", None, value.clone())),
        KvResponse::Conflict { current: Some(1) }
    );
    assert_eq!(
        apply(&mut store, KvCommand::cas("b", Some(1), value)),
        KvResponse::Conflict { current: None }
    );
    assert!(matches!(
        apply(&mut store, KvCommand::cas("a", Some(1), None)),
        KvResponse::Deleted {
            previous: Some(1),
            ..
        }
    ));
    assert!(store.is_empty());
}

#[test]
fn what_breaks_a_limit_is_refused_before_it_is_proposed_and_what_is_in_the_log_is_applied_as_it_stands() {
    let check = |command: KvCommand, code: &str| {
        assert_eq!(KvStore::check(&command).unwrap_err().code, code);
        // Another release may have had another limit; what it wrote means the same to all.
        let mut store = KvStore::new();
        let response = apply(&mut store, command);
        assert!(!response.is_refusal(), "{response:?}");
        let again = KvStore::decode_snapshot(&mut &encoded(&store)[..]).unwrap();
        assert_eq!(encoded(&again), encoded(&store));
    };
    let (long, large) = ("k".repeat(MAX_KEY_BYTES + 1), vec![0; MAX_VALUE_BYTES + 1]);
    check(KvCommand::put("", "v"), "empty-key");
    check(KvCommand::delete(long.clone()), "key-too-long");
    check(KvCommand::put("k", large.clone()), "value-too-large");
    check(
        KvCommand::cas("k", None, Some(large.clone().into())),
        "value-too-large",
    );
    check(
        KvCommand::put_for("k", "v", Lifetime::Ttl(MIN_LEASE_TTL_MS - 1)),
        "ttl-out-of-range",
    );
    check(
        KvCommand::GrantLease {
            ttl_ms: MAX_LEASE_TTL_MS + 1,
        },
        "ttl-out-of-range",
    );
    let range = KeyRange::prefix(long);
    check(KvCommand::DeleteRange { range }, "key-too-long");
    let txn = KvTxn::new().then(KvOp::put("a", "1"));
    check(
        KvCommand::Txn(txn.clone().otherwise(KvOp::put("k", large))),
        "value-too-large",
    );
    check(
        KvCommand::Txn(txn.clone().when(KvCompare::absent(""))),
        "empty-key",
    );
    let many = (0..MAX_TXN_OPS).fold(txn, |txn, _| txn.then(KvOp::get("a")));
    check(KvCommand::Txn(many), "operations-out-of-range");
    let longest = "k".repeat(MAX_KEY_BYTES);
    let largest = KvCommand::put(longest.clone(), vec![0; MAX_VALUE_BYTES]);
    assert_eq!(KvStore::check(&largest), Ok(()));
    let range = KeyRange::key(longest);
    assert_eq!(KvStore::check(&KvCommand::DeleteRange { range }), Ok(()));
}

#[test]
fn a_lease_ends_with_its_keys_when_nobody_renews_it() {
    let mut store = KvStore::new();
    let lease = grant(&mut store, 1_000);
    assert!(store.needs_ticks());
    for key in ["a", "b"] {
        apply(&mut store, KvCommand::put_for(key, "v", Lifetime::Lease(lease)));
    }
    apply(&mut store, KvCommand::put("c", "v"));
    // Its time begins here, however long ago the last tick was.
    tick(&mut store, 10_000);
    tick(&mut store, 10_999);
    assert_eq!(store.len(), 3);
    apply(&mut store, KvCommand::RenewLease { lease });
    tick(&mut store, 11_000);
    tick(&mut store, 11_999);
    assert_eq!(store.len(), 3, "renewed");
    tick(&mut store, 12_000);
    assert_eq!((store.len(), store.revision()), (1, 4), "both in one revision");
    assert!(!store.needs_ticks());
    assert_eq!(
        refusal(apply(&mut store, KvCommand::RenewLease { lease })),
        "lease-not-found"
    );
    let late = KvCommand::put_for("a", "v", Lifetime::Lease(lease));
    assert_eq!(refusal(apply(&mut store, late)), "lease-not-found");
}

#[test]
fn a_key_leaves_its_lease_when_it_is_put_anew() {
    let mut store = KvStore::new();
    let put = KvCommand::put_for("a", "v", Lifetime::Ttl(1_000));
    let KvResponse::Written { lease: Some(own), .. } = apply(&mut store, put) else {
        panic!("no lease")
    };
    let other = KvCommand::put_for("b", "v", Lifetime::Lease(own));
    assert_eq!(
        refusal(apply(&mut store, other)),
        "lease-not-found",
        "it is a's alone"
    );
    apply(&mut store, KvCommand::put("a", "w"));
    assert_eq!(store.leases(), 0);
    tick(&mut store, 0);
    tick(&mut store, 5_000);
    assert_eq!(store.len(), 1);
}

#[test]
fn leases_and_their_keys_are_bounded() {
    let mut store = KvStore::new();
    let lease = grant(&mut store, 1_000);
    for i in 0..MAX_LEASE_KEYS {
        apply(
            &mut store,
            KvCommand::put_for(format!("{i}"), "", Lifetime::Lease(lease)),
        );
    }
    let more = || KvOp::Put {
        key: "more".into(),
        value: "".into(),
        lifetime: Lifetime::Lease(lease),
    };
    let txn = KvTxn::new().then(KvOp::put("first", "")).then(more());
    let revision = store.revision();
    assert_eq!(refusal(apply(&mut store, KvCommand::Txn(txn))), "lease-full");
    assert_eq!(
        (store.revision(), store.get("first")),
        (revision, None),
        "nothing was changed"
    );
    while store.leases() < MAX_LEASES {
        grant(&mut store, 1_000);
    }
    let code = refusal(apply(&mut store, KvCommand::GrantLease { ttl_ms: 1_000 }));
    assert_eq!(code, "too-many-leases");
    let code = refusal(apply(
        &mut store,
        KvCommand::put_for("k", "", Lifetime::Ttl(1_000)),
    ));
    assert_eq!(code, "too-many-leases");
    tick(&mut store, 0);
    while store.leases() > 0 {
        let before = store.len();
        tick(&mut store, 1_000);
        assert!(before - store.len() <= MAX_DELETED_KEYS + MAX_LEASE_KEYS);
    }
    assert!(store.is_empty());
}

#[test]
fn a_range_is_removed_in_bounded_steps() {
    let mut store = KvStore::new();
    for i in 0..MAX_DELETED_KEYS + 10 {
        apply(&mut store, KvCommand::put(format!("{i:06}"), ""));
    }
    let remove = || KvCommand::DeleteRange {
        range: KeyRange::all(),
    };
    let last = store.revision();
    let expected = |revision, deleted, more| KvResponse::DeletedRange {
        revision,
        deleted,
        more,
    };
    assert_eq!(
        apply(&mut store, remove()),
        expected(last + 1, u32::try_from(MAX_DELETED_KEYS).unwrap(), true)
    );
    assert_eq!(apply(&mut store, remove()), expected(last + 2, 10, false));
    assert_eq!(apply(&mut store, remove()), expected(last + 2, 0, false));
}

#[test]
fn reads_of_a_transaction_answer_within_their_limit() {
    let mut store = KvStore::new();
    for i in 0..5 {
        apply(&mut store, KvCommand::put(format!("{i}"), vec![0; 600 << 10]));
    }
    let range = KeyRange::all();
    let txn = KvTxn::new()
        .then(KvOp::Range { range, limit: 100 })
        .then(KvOp::get("0"));
    let KvResponse::Txn { results, .. } = apply(&mut store, KvCommand::Txn(txn)) else {
        panic!("no answer")
    };
    let read: Vec<_> = results
        .into_iter()
        .map(|result| match result {
            KvOpResult::Range { entries, more } => (entries.len(), more),
            other => panic!("not a read: {other:?}"),
        })
        .collect();
    assert_eq!(read, [(3, true), (0, true)]);
}

#[test]
fn history_is_bounded_in_changes_and_in_bytes() {
    let mut store = KvStore::new();
    for i in 0..MAX_HISTORY_EVENTS + 5 {
        apply(&mut store, KvCommand::put(format!("{}", i % 7), ""));
    }
    assert_eq!(store.oldest_revision(), 5);
    let mut store = KvStore::new();
    for _ in 0..200 {
        apply(&mut store, KvCommand::put("k", vec![0; MAX_VALUE_BYTES]));
    }
    let kept = store.revision() - store.oldest_revision();
    assert_eq!(kept, (MAX_HISTORY_BYTES / MAX_VALUE_BYTES) as u64 - 1);
    assert_eq!(
        store.changes(&KeyRange::all(), 1, 10),
        Err(KvReadError::Compacted {
            oldest: store.oldest_revision()
        })
    );
    assert_eq!(
        store.get_at("k", 201),
        Err(KvReadError::FutureRevision { current: 200 })
    );
}

/// The bytes of version 0, written out: a change of these is a change of the format.
#[test]
fn the_snapshot_is_that_of_version_0() {
    let mut store = KvStore::new();
    let lease = grant(&mut store, 1_000);
    apply(&mut store, KvCommand::put("k", "old"));
    apply(&mut store, KvCommand::put_for("k", "new", Lifetime::Lease(lease)));
    apply(&mut store, KvCommand::Compact { revision: 1 });
    tick(&mut store, 7);
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let expected = [
        b"\x00".to_vec(),
        numbers(&[2, 1, 1]),
        // One lease: 1, not of one key, 1,000 ms, ends at 1,007.
        numbers(&[1]),
        b"\x07\0\0\0\x01\x00\xe8\x07\x01\xef\x07".to_vec(),
        // One key: value, created at 1, changed at 2, version 2, on lease 1.
        numbers(&[1]),
        b"\x0b\0\0\0\x01k\x03new\x01\x02\x02\x01\x01".to_vec(),
        // The second revision has one change, which replaced "old".
        numbers(&[1]),
        b"\x0b\0\0\0\x01k\x01\x03old\x01\x01\x01\x00".to_vec(),
    ];
    assert_eq!(encoded(&store), expected.concat());
}

#[test]
fn the_commands_are_those_of_version_0() {
    let check = |command: KvCommand, bytes: &[u8]| {
        assert_eq!(postcard::to_allocvec(&command).unwrap(), bytes, "{command:?}");
        assert_eq!(postcard::from_bytes::<KvCommand>(bytes).unwrap(), command);
    };
    check(KvCommand::put("k", "v"), b"\x00\x01k\x01v\x00");
    check(
        KvCommand::put_for("k", "v", Lifetime::Lease(LeaseId(3))),
        b"\x00\x01k\x01v\x01\x03",
    );
    check(KvCommand::delete("k"), b"\x01\x01k");
    check(
        KvCommand::cas("k", Some(9), Some("v".into())),
        b"\x02\x01k\x01\x09\x01\x01v\x00",
    );
    let range = KeyRange::prefix("a");
    check(KvCommand::DeleteRange { range }, b"\x03\x01a\x01\x01b");
    let txn = KvTxn::new()
        .when(KvCompare::mod_revision("k", 4))
        .then(KvOp::put("k", "v"))
        .otherwise(KvOp::get("k"));
    check(
        KvCommand::Txn(txn),
        b"\x04\x01\x01k\x03\x00\x04\x01\x00\x01k\x01v\x00\x01\x03\x01k\x01\x02k\0\x01",
    );
    check(KvCommand::GrantLease { ttl_ms: 1 }, b"\x05\x01");
    let lease = LeaseId(1);
    check(KvCommand::RenewLease { lease }, b"\x06\x01");
    check(KvCommand::RevokeLease { lease }, b"\x07\x01");
    check(KvCommand::Compact { revision: 1 }, b"\x08\x01");
}

#[test]
fn a_snapshot_does_not_see_later_changes() {
    let mut store = KvStore::new();
    for i in 0..1000 {
        apply(&mut store, KvCommand::put(format!("{i:04}"), "old"));
    }
    let snapshot = store.snapshot();
    for i in 0..1000 {
        apply(&mut store, KvCommand::put(format!("{i:04}"), "new"));
    }
    let all = |store: &KvStore, value: &[u8]| store.range_from("").all(|(_, entry)| entry.value == value);
    assert!(all(&snapshot, b"old"));
    assert!(all(&store, b"new"));
    assert_eq!(store.prefix("00").count(), 100);
}
