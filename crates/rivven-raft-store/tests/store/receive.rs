//! A transfer that is interrupted goes on where it was, also in another process.

use std::{fs, path::PathBuf};

use rivven_raft_store::SnapshotTransfer;

use crate::snapshots::{LEN, content, files, meta, open, read, write};

const CHUNK: u64 = 8 + (256 << 10);

/// The bytes of a snapshot at `index` as a peer would send them, and what names them.
fn peer(index: u64, len: usize) -> (SnapshotTransfer, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let sent = write(&open(dir.path()), index, len);
    let bytes = sent.read_transfer(0, usize::MAX).unwrap();
    (sent.transfer(), bytes)
}

fn partials(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut paths = files(dir);
    paths.retain(|path| path.extension().is_some_and(|end| end == "partial"));
    paths
}

/// Where the parts of the file of [`LEN`] bytes of content end.
fn edges(bytes: &[u8]) -> Vec<u64> {
    let header = 20 + u64::from(u32::from_le_bytes(bytes[12..16].try_into().unwrap()));
    vec![
        0,
        header,
        header + CHUNK,
        header + 2 * CHUNK,
        bytes.len() as u64 - 24,
        bytes.len() as u64,
    ]
}

#[test]
fn a_transfer_torn_anywhere_goes_on_behind_its_last_whole_chunk() {
    let (transfer, bytes) = peer(50, LEN);
    let edges = edges(&bytes);
    let mut cuts: Vec<u64> = edges
        .iter()
        .flat_map(|edge| edge.saturating_sub(3)..=edge + 3)
        .collect();
    cuts.extend((0..transfer.len).step_by(37_007));
    cuts.retain(|cut| *cut <= transfer.len);
    for cut in cuts {
        let dir = tempfile::tempdir().unwrap();
        let mut receiver = open(dir.path()).receive(transfer).unwrap();
        receiver.write(&bytes[..usize::try_from(cut).unwrap()]).unwrap();
        drop(receiver);
        // Another process opens the directory.
        let store = open(dir.path());
        let mut receiver = store.receive(transfer).unwrap();
        let whole = edges.iter().rfind(|edge| **edge <= cut).unwrap();
        assert_eq!(receiver.offset(), *whole, "torn at {cut}");
        receiver
            .write(&bytes[usize::try_from(*whole).unwrap()..])
            .unwrap();
        let snapshot = receiver.finish().unwrap();
        store.keep(&meta(50), &snapshot).unwrap();
        assert_eq!(read(&snapshot), content(50, LEN), "torn at {cut}");
        assert_eq!(files(dir.path()), [snapshot.path()], "torn at {cut}");
    }
}

#[test]
fn what_a_power_cut_damaged_of_a_transfer_is_received_again() {
    let (transfer, bytes) = peer(50, LEN);
    let edges = edges(&bytes);
    for (byte, expected) in [
        (3, 0),
        (edges[1] - 1, 0),
        (edges[1] + 1, edges[1]),
        (edges[2] + 100, edges[2]),
        (edges[4] + 20, edges[4]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.receive(transfer).unwrap().write(&bytes).unwrap();
        let [path] = partials(dir.path()).try_into().unwrap();
        let mut torn = bytes.clone();
        // Unsynced pages come back as zeroes.
        let start = usize::try_from(byte).unwrap();
        torn[start..(start + 512).min(bytes.len())].fill(0);
        torn[start] = !bytes[start];
        fs::write(&path, torn).unwrap();
        let mut receiver = open(dir.path()).receive(transfer).unwrap();
        assert_eq!(receiver.offset(), expected, "damaged at {byte}");
        receiver
            .write(&bytes[usize::try_from(expected).unwrap()..])
            .unwrap();
        assert_eq!(read(&receiver.finish().unwrap()), content(50, LEN));
    }
}

#[test]
fn a_transfer_takes_the_place_of_one_that_was_given_up() {
    let (first, first_bytes) = peer(50, LEN);
    let (second, second_bytes) = peer(60, LEN);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store
        .receive(first)
        .unwrap()
        .write(&first_bytes[..300_000])
        .unwrap();
    let before = partials(dir.path());
    let mut receiver = store.receive(second).unwrap();
    assert_eq!(receiver.offset(), 0);
    receiver.write(&second_bytes[..300_000]).unwrap();
    drop(receiver);
    let after = partials(dir.path());
    assert_eq!((before.len(), after.len()), (1, 1), "one at a time takes room");
    assert_ne!(before, after);

    // A snapshot that reaches further makes it useless, one that does not leaves it alone.
    write(&store, 59, 10);
    assert_eq!(partials(dir.path()), after);
    write(&store, 60, 10);
    assert!(partials(dir.path()).is_empty());
}

#[test]
fn one_snapshot_is_received_at_a_time() {
    let (first, bytes) = peer(50, 1000);
    let (second, _) = peer(60, 1000);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut receiver = store.receive(first).unwrap();
    for transfer in [first, second] {
        let error = store.receive(transfer).unwrap_err();
        assert_eq!(error.code(), "snapshot-busy", "{error}");
    }
    receiver.write(&bytes).unwrap();
    let snapshot = receiver.finish().unwrap();
    // What arrived is being restored.
    assert_eq!(store.receive(second).unwrap_err().code(), "snapshot-busy");
    store.keep(&meta(50), &snapshot).unwrap();
    drop(store.receive(second).unwrap());
    assert_eq!(read(&snapshot), content(50, 1000));
}
