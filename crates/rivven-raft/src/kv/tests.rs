//! `KvStore` against a simple map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn apply(store: &mut KvStore, command: KvCommand) -> KvResponse {
    store.apply(&ApplyCtx::new(store.revision() + 1, 1), command)
}

fn restored(store: &KvStore) -> KvStore {
    let mut bytes = Vec::new();
    KvStore::encode_snapshot(&store.snapshot(), &mut bytes).unwrap();
    let mut copy = KvStore::new();
    copy.restore(&mut bytes.as_slice()).unwrap();
    copy
}

#[test]
fn puts_count_revisions_and_keep_the_revision_of_creation() {
    let mut store = KvStore::new();
    assert_eq!(
        apply(&mut store, KvCommand::put("a", "1")),
        KvResponse::Written {
            revision: 1,
            previous: None
        }
    );
    assert_eq!(
        apply(&mut store, KvCommand::put("a", "2")),
        KvResponse::Written {
            revision: 2,
            previous: Some(1)
        }
    );
    let entry = store.get("a").unwrap();
    assert_eq!(
        (entry.value.as_ref(), entry.create_revision, entry.mod_revision),
        (&b"2"[..], 1, 2)
    );
    assert_eq!(
        apply(&mut store, KvCommand::delete("a")),
        KvResponse::Deleted {
            revision: 3,
            previous: Some(2)
        }
    );
    assert_eq!(
        apply(&mut store, KvCommand::delete("a")),
        KvResponse::Deleted {
            revision: 3,
            previous: None
        }
    );
}

#[test]
fn compare_and_swap_changes_only_what_is_as_expected() {
    let mut store = KvStore::new();
    let value = Some(Bytes::from_static(b"v"));
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
fn what_is_too_large_or_empty_is_refused() {
    let check = |command: KvCommand, code: &str| {
        assert_eq!(KvStore::check(&command).unwrap_err().code, code);
    };
    check(KvCommand::put("", "v"), "empty-key");
    check(KvCommand::delete("k".repeat(MAX_KEY_BYTES + 1)), "key-too-long");
    check(
        KvCommand::put("k", vec![0; MAX_VALUE_BYTES + 1]),
        "value-too-large",
    );
    check(
        KvCommand::cas("k", None, Some(vec![0; MAX_VALUE_BYTES + 1].into())),
        "value-too-large",
    );
    assert!(
        KvStore::check(&KvCommand::put(
            "k".repeat(MAX_KEY_BYTES),
            vec![0; MAX_VALUE_BYTES]
        ))
        .is_ok()
    );
}

#[test]
fn damaged_snapshots_are_errors() {
    let mut store = KvStore::new();
    apply(&mut store, KvCommand::put("a", "1"));
    let mut bytes = Vec::new();
    KvStore::encode_snapshot(&store.snapshot(), &mut bytes).unwrap();
    for len in 0..bytes.len() {
        assert!(
            KvStore::new().restore(&mut &bytes[..len]).is_err(),
            "cut at {len}"
        );
    }
    bytes[17..21].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(KvStore::new().restore(&mut bytes.as_slice()).is_err());
    assert!(KvStore::new().restore(&mut &[9_u8; 32][..]).is_err());
}

/// The bytes of version 0, written out: a change of these is a change of the format.
#[test]
fn the_snapshot_is_that_of_version_0() {
    let mut store = KvStore::new();
    apply(&mut store, KvCommand::put("k", "old"));
    apply(&mut store, KvCommand::put("k", "new"));
    let mut bytes = Vec::new();
    KvStore::encode_snapshot(&store.snapshot(), &mut bytes).unwrap();
    let expected = b"\x00\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x08\0\0\0\x01k\x03new\x01\x02";
    assert_eq!(bytes, expected);
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
    assert!(
        snapshot
            .range_from("")
            .all(|(_, entry)| entry.value.as_ref() == b"old")
    );
    assert!(
        store
            .range_from("")
            .all(|(_, entry)| entry.value.as_ref() == b"new")
    );
    assert_eq!(store.prefix("00").count(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_map_agrees_with_a_simple_one(operations in proptest::collection::vec((0_u16..400, 0_u8..3), 0..2_000)) {
        let (mut store, mut model) = (KvStore::new(), BTreeMap::new());
        for (key, kind) in operations {
            let key = format!("{key:x}");
            match kind {
                0 => {
                    let gone = model.remove(&key).is_some();
                    let response = apply(&mut store, KvCommand::delete(key));
                    prop_assert_eq!(matches!(response, KvResponse::Deleted { previous: Some(_), .. }), gone);
                }
                _ => {
                    apply(&mut store, KvCommand::put(key.clone(), vec![kind]));
                    model.insert(key, kind);
                }
            }
        }
        let copy = restored(&store);
        prop_assert_eq!(copy.revision(), store.revision());
        for map in [&store, &copy] {
            prop_assert_eq!(map.len(), model.len());
            let listed = map.range_from("").map(|(key, entry)| (key.to_owned(), entry.value[0]));
            prop_assert!(listed.eq(model.clone()));
            let some = map.prefix("1").map(|(key, _)| key);
            prop_assert!(some.eq(model.keys().filter(|key| key.starts_with('1'))));
        }
    }
}
