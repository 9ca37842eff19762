//! Offline check and dump: they find what is wrong, and change nothing.

use std::fs;

use openraft::storage::RaftLogStorage;
use rivven_raft_store::{LogOptions, PlainCodec, inspect, verify};

use crate::support::{Codec, Store, Types, append, entries, log_id, threaded, vote};

async fn filled(path: &std::path::Path) -> Store {
    let mut store = Store::open(path, threaded()).unwrap();
    store.save_vote(&vote(3)).await.unwrap();
    append(&mut store, entries(2, 0..50)).await.unwrap();
    store.purge(log_id(2, 9)).await.unwrap();
    store.save_committed(Some(log_id(2, 40))).await.unwrap();
    append(&mut store, entries(2, 50..60)).await.unwrap();
    store
}

#[tokio::test]
async fn a_whole_log_is_reported_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    drop(filled(&path).await);
    let before = fs::read(&path).unwrap();

    let report = verify::<Types, Codec>(&path).unwrap();
    assert_eq!(report.vote, Some(vote(3)));
    assert_eq!(report.purged, Some(log_id(2, 9)));
    assert_eq!(report.first, Some(log_id(2, 10)));
    assert_eq!(report.last, Some(log_id(2, 59)));
    assert_eq!(report.committed, Some(log_id(2, 40)));
    assert_eq!(report.entries, 50);
    assert_eq!(report.file_bytes, before.len() as u64);

    let mut dump = Vec::new();
    inspect::<Types, Codec>(&path, 58.., &mut dump).unwrap();
    let dump = String::from_utf8(dump).unwrap();
    let lines: Vec<&str> = dump.lines().collect();
    assert_eq!(lines.len(), 2 + 9, "two entries and the report:\n{dump}");
    assert!(lines[0].contains("58") && lines[1].contains("59"), "{dump}");
    assert!(dump.contains("entries    50"), "{dump}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn an_empty_or_foreign_redb_file_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    redb::Database::create(&path).unwrap();
    let error = verify::<Types, Codec>(&path).err().unwrap();
    assert_eq!(error.code(), "log-damaged");
    assert!(error.to_string().contains("not a Raft log"), "{error}");

    let foreign: redb::TableDefinition<'static, u64, u64> = redb::TableDefinition::new("log");
    let db = redb::Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    drop(txn.open_table(foreign).unwrap());
    txn.commit().unwrap();
    drop(db);
    let error = verify::<Types, Codec>(&path).err().unwrap();
    assert_eq!(error.code(), "log-damaged", "{error}");
}

#[tokio::test]
async fn the_log_of_a_killed_process_is_checked_without_repairing_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let killed = dir.path().join("killed.redb");
    let store = filled(&path).await;
    // What the page cache has while the process runs.
    fs::copy(&path, &killed).unwrap();
    drop(store);
    let before = fs::read(&killed).unwrap();
    assert_ne!(
        before,
        fs::read(&path).unwrap(),
        "a clean close leaves another file"
    );
    assert_eq!(verify::<Types, Codec>(&killed).unwrap().entries, 50);
    assert_eq!(fs::read(&killed).unwrap(), before);
}

#[tokio::test]
async fn a_log_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let store = filled(&path).await;
    assert_eq!(verify::<Types, Codec>(&path).unwrap_err().code(), "log-locked");
    drop(store);
    verify::<Types, Codec>(&path).unwrap();
}

#[tokio::test]
async fn what_is_not_a_whole_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let code = || verify::<Types, Codec>(&path).unwrap_err().code();
    assert_eq!(code(), "log-missing");
    assert!(!path.exists(), "a check creates nothing");
    fs::write(&path, b"").unwrap();
    assert_eq!(code(), "log-damaged");
    fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert_eq!(code(), "log-damaged");
    fs::remove_file(&path).unwrap();

    drop(filled(&path).await);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(code(), "log-damaged");
    // One bit inside the value of an entry.
    let needle = b"2.50 2.50 2.50";
    let at = whole
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap();
    let mut flipped = whole;
    flipped[at] ^= 1;
    fs::write(&path, &flipped).unwrap();
    assert_eq!(code(), "log-damaged");
}

/// The codec for openraft's default types, through a log and back.
#[tokio::test]
async fn the_plain_codec_keeps_every_kind_of_entry() {
    use openraft::{
        BasicNode, EntryPayload, Membership,
        entry::RaftEntry,
        storage::RaftLogStorageExt,
        type_config::alias::{EntryOf, LeaderIdOf, LogIdOf, StoredMembershipOf, VoteOf},
        vote::RaftLeaderId,
    };
    use rivven_raft_store::{EntryCodec, RedbLogStore};
    openraft::declare_raft_types!(Plain: D = String, R = String);

    let id = |index| LogIdOf::<Plain>::new(LeaderIdOf::<Plain>::new(7, 3), index);
    let nodes = [(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2"))];
    let membership = Membership::new(
        vec![[1].into(), [1, 2].into()],
        std::collections::BTreeMap::from(nodes),
    )
    .unwrap();
    let written = vec![
        EntryOf::<Plain>::new(id(0), EntryPayload::Membership(membership.clone())),
        EntryOf::<Plain>::new(id(1), EntryPayload::Blank),
        EntryOf::<Plain>::new(id(2), EntryPayload::Normal("text".into())),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut log = RedbLogStore::<Plain, PlainCodec>::open(&path, LogOptions::default()).unwrap();
    let vote = VoteOf::<Plain>::new_committed(7, 3);
    log.save_vote(&vote).await.unwrap();
    log.blocking_append(written.clone()).await.unwrap();
    drop(log);
    let mut log = RedbLogStore::<Plain, PlainCodec>::open(&path, LogOptions::default()).unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(
        openraft::RaftLogReader::try_get_log_entries(&mut reader, ..)
            .await
            .unwrap(),
        written
    );
    assert_eq!(
        openraft::RaftLogReader::read_vote(&mut reader).await.unwrap(),
        Some(vote)
    );

    let stored = StoredMembershipOf::<Plain>::new(Some(id(0)), membership);
    let mut bytes = Vec::new();
    <PlainCodec as EntryCodec<Plain>>::encode_membership(&stored, &mut bytes).unwrap();
    let decode = <PlainCodec as EntryCodec<Plain>>::decode_membership;
    assert_eq!(decode(&bytes).unwrap(), stored);
    // Whatever is cut off, nothing panics and nothing is taken for a membership.
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    bytes[0] = 1;
    assert_eq!(decode(&bytes).unwrap_err().code(), "unknown-kind");
}
