//! The bytes on disk, spelt out. A change here is a change of `docs/formats/disk.md` and of its versions.

use std::{fs, path::Path};

use openraft::storage::RaftLogStorage;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rivven_raft_store::{LogOptions, NodeDir};
use rivven_types::ClusterId;

use crate::support::{Codec, Store, Types, append, entries, log_id, vote};

const CLUSTER: ClusterId = ClusterId::from_random([0xaa; 16]);

fn dir(path: &Path) -> NodeDir {
    NodeDir::open(path, CLUSTER, 1, [0x55; 16]).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_records_of_the_log() {
    let parent = tempfile::tempdir().unwrap();
    let dir = dir(parent.path());
    let mut store: Store = dir.open_log(LogOptions::default()).unwrap();
    store.save_vote(&vote(3)).await.unwrap();
    append(&mut store, entries(1, 0..3)).await.unwrap();
    store.save_committed(Some(log_id(1, 2))).await.unwrap();
    store.purge(log_id(1, 1)).await.unwrap();
    drop(store);

    let db = redb::Database::open(dir.log_path()).unwrap();
    let txn = db.begin_read().unwrap();
    let log = txn.open_table(TableDefinition::<u64, &[u8]>::new("log")).unwrap();
    let meta = txn
        .open_table(TableDefinition::<&str, &[u8]>::new("meta"))
        .unwrap();
    let mut found: Vec<(String, String)> = Vec::new();
    for row in log.iter().unwrap() {
        let (index, record) = row.unwrap();
        found.push((index.value().to_string(), hex(record.value())));
    }
    for row in meta.iter().unwrap() {
        let (key, record) = row.unwrap();
        found.push((key.value().to_owned(), hex(record.value())));
    }
    // Version, checksum, then the content; that of an entry: length of the log id, log id, body.
    let expected = [
        (
            "2",
            "00 4cd1154b 1800 010000000000000001000000000000000200000000000000 01 2100000000000000 312e3220312e3220312e3220312e3220312e3220312e3220312e3220312e322031",
        ),
        (
            "committed",
            "00 838a433d 0100000000000000 0100000000000000 0200000000000000",
        ),
        (
            "owner",
            "00 29b2835f aaaaaaaaaaaa4aaaaaaaaaaaaaaaaaaa 0100000000000000 55555555555545559555555555555555",
        ),
        (
            "purged",
            "00 dafedd02 0100000000000000 0100000000000000 0100000000000000",
        ),
        ("vote", "00 3913ed32 0300000000000000 0100000000000000 00"),
    ];
    assert_eq!(
        found,
        expected.map(|(key, record)| (key.to_owned(), record.replace(' ', "")))
    );
}

#[test]
fn a_snapshot_file() {
    let parent = tempfile::tempdir().unwrap();
    let snapshots = dir(parent.path()).open_snapshots::<Types, Codec>().unwrap();
    let meta = openraft::SnapshotMeta {
        last_log_id: Some(log_id(2, 7)),
        last_membership: openraft::StoredMembership::default(),
    };
    let snapshot = snapshots.write(&meta, |out| out.write_all(b"content")).unwrap();
    assert_eq!(
        snapshot.path().file_name().unwrap(),
        "00000000000000000007-0000000001.snapshot"
    );
    let expected = [
        // Magic, version, length and checksum of the header.
        "52564e534e415000 00000000 50000000 cfaaf3c9",
        // The header: cluster, log id and membership, each behind its length.
        "aaaaaaaaaaaa4aaaaaaaaaaaaaaaaaaa 1800000000000000 020000000000000001000000000000000700000000000000 1800000000000000 000000000000000000000000000000000000000000000000",
        // One chunk: length, checksum, content.
        "07000000 4ecb9f89 636f6e74656e74",
        // The end: a chunk of no length, its checksum, chunks and bytes.
        "00000000 9a26e136 0100000000000000 0700000000000000",
    ];
    assert_eq!(
        hex(&fs::read(snapshot.path()).unwrap()),
        expected.concat().replace(' ', "")
    );
}

#[test]
fn the_identity() {
    let parent = tempfile::tempdir().unwrap();
    drop(dir(parent.path()));
    let text = fs::read_to_string(parent.path().join("identity.json")).unwrap();
    let expected = r#"{
  "version": 0,
  "cluster": "aaaaaaaa-aaaa-4aaa-aaaa-aaaaaaaaaaaa",
  "node": 1,
  "instance": "55555555-5555-4555-9555-555555555555",
  "boot_epoch": 1,
  "has_log": false,
  "crc32c": "8ee09e66"
}"#;
    assert_eq!(text, expected);
}
