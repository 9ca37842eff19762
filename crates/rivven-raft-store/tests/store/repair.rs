//! All snapshots are damaged: the node says so, and a peer's takes their place with vote and log kept.

use std::fs;

use openraft::{RaftLogReader, storage::RaftLogStorage};
use rivven_raft_store::{MemLogStore, NodeDir, SnapshotFile, SnapshotTransfer};
use rivven_types::ClusterId;

use crate::{
    snapshots::{OURS, Snapshots, content, meta, open, read, write},
    support::{Codec, Store, Types, append, entries, log_id, read_all, threaded, vote},
};

const LEN: usize = 300_000;

/// Fetches the peer's newest snapshot piece by piece, as a node does over the network.
fn fetch(peer: &Snapshots, here: &Snapshots) -> SnapshotFile<Types> {
    let theirs = peer.latest().unwrap();
    let SnapshotTransfer { len, .. } = theirs.transfer();
    let mut receiver = here.receive(theirs.transfer()).unwrap();
    while receiver.offset() < len {
        let piece = theirs.read_transfer(receiver.offset(), 100_000).unwrap();
        receiver.write(&piece).unwrap();
    }
    receiver.finish().unwrap()
}

/// A node whose log was purged up to entry 20, with 40 more behind, and whose snapshots are both damaged.
async fn damaged_node(parent: &std::path::Path) -> (NodeDir, Store, Snapshots) {
    let dir = NodeDir::open(parent, OURS, 1, [3; 16]).unwrap();
    let mut log: Store = dir.open_log(threaded()).unwrap();
    log.save_vote(&vote(2)).await.unwrap();
    append(&mut log, entries(2, 0..60)).await.unwrap();
    let snapshots: Snapshots = dir.open_snapshots().unwrap();
    let paths = [20, 40].map(|index| write(&snapshots, index, LEN).path());
    log.purge(log_id(2, snapshots.purge_bound().unwrap()))
        .await
        .unwrap();
    assert!(snapshots.gap(&log.get_log_state().await.unwrap()).is_none());
    drop((log, snapshots));
    for path in paths {
        let mut bytes = fs::read(&path).unwrap();
        bytes[LEN / 2] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let log = dir.open_log(threaded()).unwrap();
    let snapshots = dir.open_snapshots().unwrap();
    (dir, log, snapshots)
}

#[tokio::test]
async fn a_node_whose_snapshots_are_all_damaged_is_repaired_from_a_peer() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, mut log, snapshots) = damaged_node(here.path()).await;
    let gap = snapshots.gap(&log.get_log_state().await.unwrap()).unwrap();
    assert_eq!(
        (gap.purged, gap.latest, gap.damaged.len()),
        (log_id(2, 20), None, 2)
    );
    let text = gap.to_string();
    assert!(
        text.contains("purged up to") && text.contains("set aside"),
        "{text}"
    );

    let peer = open(there.path());
    write(&peer, 30, LEN);
    let snapshot = fetch(&peer, &snapshots);
    snapshots.repair(&mut log, &snapshot).await.unwrap();
    drop((log, snapshots, snapshot));

    let mut log: Store = dir.open_log(threaded()).unwrap();
    let snapshots: Snapshots = dir.open_snapshots().unwrap();
    assert!(snapshots.gap(&log.get_log_state().await.unwrap()).is_none());
    assert_eq!(read(&snapshots.latest().unwrap()), content(30, LEN));
    assert_eq!(log.reader().read_vote().await.unwrap(), Some(vote(2)));
    assert_eq!(read_all(&mut log).await.unwrap(), entries(2, 21..60));
}

#[tokio::test]
async fn a_snapshot_that_leaves_a_gap_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_dir, mut log, snapshots) = damaged_node(here.path()).await;
    let peer = open(there.path());
    write(&peer, 19, 10);
    let snapshot = fetch(&peer, &snapshots);
    let error = snapshots.repair(&mut log, &snapshot).await.unwrap_err();
    assert_eq!(error.code(), "snapshot-too-old");
    assert!(error.to_string().contains("begins behind entry 20"), "{error}");
    assert!(snapshots.gap(&log.get_log_state().await.unwrap()).is_some());
    drop(snapshot);
    // The peer has taken a newer one meanwhile.
    write(&peer, 20, 10);
    snapshots
        .repair(&mut log, &fetch(&peer, &snapshots))
        .await
        .unwrap();
    assert!(snapshots.gap(&log.get_log_state().await.unwrap()).is_none());
}

/// The node had entries of a leader that lost its term: the snapshot says otherwise at its place.
#[tokio::test]
async fn entries_that_contradict_the_snapshot_are_removed() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let peer = open(there.path());
    // Snapshots of these tests are of term 2.
    write(&peer, 30, 10);
    let snapshots = open(here.path());
    let mut log = MemLogStore::<Types>::new();
    append(&mut log, entries(1, 0..60)).await.unwrap();
    log.purge(log_id(1, 9)).await.unwrap();
    let snapshot = fetch(&peer, &snapshots);
    snapshots.repair(&mut log, &snapshot).await.unwrap();
    assert_eq!(snapshots.latest().unwrap().meta(), &meta(30));
    assert!(read_all(&mut log).await.unwrap().is_empty());
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(1, 9)));
}

#[tokio::test]
async fn a_log_from_its_first_entry_needs_no_snapshot() {
    let here = tempfile::tempdir().unwrap();
    let snapshots =
        rivven_raft_store::SnapshotStore::<Types, Codec>::open(here.path(), ClusterId::from_random([1; 16]))
            .unwrap();
    let mut log = MemLogStore::<Types>::new();
    append(&mut log, entries(1, 0..5)).await.unwrap();
    assert!(snapshots.gap(&log.get_log_state().await.unwrap()).is_none());
}
