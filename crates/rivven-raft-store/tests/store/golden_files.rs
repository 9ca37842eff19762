//! Whole files as an earlier build wrote them, checked in: this build must read them.
//!
//! `RIVVEN_WRITE_GOLDEN=1 cargo test -p rivven-raft-store golden_files` writes them anew. That is right only
//! together with a new version number and a line in `docs/formats/disk.md`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use openraft::{RaftLogReader, storage::RaftLogStorage};
use rivven_raft_store::{LogOptions, NodeDir, verify};
use rivven_types::ClusterId;

use crate::support::{Codec, Store, Types, append, entries, log_id, vote};

const CLUSTER: ClusterId = ClusterId::from_random([0xaa; 16]);
const SNAPSHOT: &str = "00000000000000000004-0000000001.snapshot";

/// Bytes of one line of a file that is mostly zeroes.
const ROW: usize = 64;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A redb file is hundreds of KiB of zeroes with a few pages between: its length, then the rows that are not
/// zero.
fn to_rows(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    for (number, row) in bytes.chunks(ROW).enumerate() {
        if row.iter().any(|byte| *byte != 0) {
            write!(text, "{} ", number * ROW).unwrap();
            row.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            text.push('\n');
        }
    }
    text
}

fn from_rows(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let mut bytes = vec![0; lines.next().unwrap().parse().unwrap()];
    for line in lines {
        let (at, row) = line.split_once(' ').unwrap();
        let at: usize = at.parse().unwrap();
        for (number, digits) in row.as_bytes().chunks(2).enumerate() {
            let digits = std::str::from_utf8(digits).unwrap();
            bytes[at + number] = u8::from_str_radix(digits, 16).unwrap();
        }
    }
    bytes
}

async fn write_anew() {
    let parent = tempfile::tempdir().unwrap();
    let dir = NodeDir::open(parent.path(), CLUSTER, 1, [0x55; 16]).unwrap();
    let mut store: Store = dir.open_log(LogOptions::default()).unwrap();
    store.save_vote(&vote(3)).await.unwrap();
    append(&mut store, entries(2, 0..12)).await.unwrap();
    store.save_committed(Some(log_id(2, 10))).await.unwrap();
    store.purge(log_id(2, 4)).await.unwrap();
    drop(store);
    let meta = openraft::SnapshotMeta {
        last_log_id: Some(log_id(2, 4)),
        last_membership: openraft::StoredMembership::default(),
    };
    let snapshots = dir.open_snapshots::<Types, Codec>().unwrap();
    let snapshot = snapshots
        .write(&meta, |out| out.write_all(b"the state at 4"))
        .unwrap();
    fs::create_dir_all(golden("")).unwrap();
    let log = fs::read(dir.log_path()).unwrap();
    fs::write(golden("v0-log.redb.rows"), to_rows(&log)).unwrap();
    fs::write(
        golden("v0.snapshot.rows"),
        to_rows(&fs::read(snapshot.path()).unwrap()),
    )
    .unwrap();
    fs::copy(parent.path().join("identity.json"), golden("v0-identity.json")).unwrap();
}

#[tokio::test]
async fn the_files_of_version_0_are_read() {
    if std::env::var_os("RIVVEN_WRITE_GOLDEN").is_some() {
        write_anew().await;
    }
    let parent = tempfile::tempdir().unwrap();
    let read = |name| from_rows(&fs::read_to_string(golden(name)).unwrap());
    fs::create_dir(parent.path().join("snapshots")).unwrap();
    fs::write(parent.path().join("log.redb"), read("v0-log.redb.rows")).unwrap();
    fs::write(
        parent.path().join("snapshots").join(SNAPSHOT),
        read("v0.snapshot.rows"),
    )
    .unwrap();
    fs::copy(golden("v0-identity.json"), parent.path().join("identity.json")).unwrap();

    let dir = NodeDir::open(parent.path(), CLUSTER, 1, [0x66; 16]).unwrap();
    assert_eq!(dir.boot_epoch().0, 2);
    assert_eq!(dir.instance().to_string(), "55555555-5555-4555-9555-555555555555");
    assert_eq!(
        verify::<Types, Codec>(dir.log_path()).unwrap().owner,
        Some(dir.owner())
    );
    let mut store: Store = dir.open_log(LogOptions::default()).unwrap();
    let mut reader = store.reader();
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote(3)));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(2, 10)));
    assert_eq!(
        store.get_log_state().await.unwrap().last_purged_log_id,
        Some(log_id(2, 4))
    );
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries(2, 5..12));
    // And it goes on from there.
    append(&mut store, entries(3, 12..14)).await.unwrap();

    let snapshots = dir.open_snapshots::<Types, Codec>().unwrap();
    let snapshot = snapshots.latest().unwrap();
    assert_eq!(snapshot.meta().last_log_id, Some(log_id(2, 4)));
    let mut content = String::new();
    std::io::Read::read_to_string(&mut snapshot.content(), &mut content).unwrap();
    assert_eq!(content, "the state at 4");
}
