//! Snapshots: whole or not at all, two of them, and the older when the newer is damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use openraft::{
    BasicNode, Membership,
    type_config::alias::{SnapshotMetaOf, StoredMembershipOf},
};
use rivven_raft_store::{
    CodecError, EntryCodec, SnapshotError, SnapshotFile, SnapshotStore, SnapshotTransfer,
};
use rivven_types::ClusterId;

use crate::support::{Codec, Entry, LogId, Random, Types, Vote, log_id};

pub(crate) type Snapshots = SnapshotStore<Types, Codec>;
pub(crate) type Meta = SnapshotMetaOf<Types>;

pub(crate) const OURS: ClusterId = ClusterId::from_random([1; 16]);

/// Content that takes three chunks, the last of them short.
pub(crate) const LEN: usize = 600_000;

pub(crate) fn open(dir: &Path) -> Snapshots {
    Snapshots::open(dir, OURS).unwrap()
}

pub(crate) fn meta(index: u64) -> Meta {
    let nodes = BTreeMap::from([(1, BasicNode::new("one:9093")), (2, BasicNode::new("two:9093"))]);
    let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
    Meta {
        last_log_id: Some(log_id(2, index)),
        last_membership: StoredMembershipOf::<Types>::new(Some(log_id(1, 3)), membership),
    }
}

/// Bytes that depend on the place in the log.
pub(crate) fn content(index: u64, len: usize) -> Vec<u8> {
    let mut random = Random(index);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    bytes.truncate(len);
    bytes
}

pub(crate) fn write(store: &Snapshots, index: u64, len: usize) -> SnapshotFile<Types> {
    store
        .write(&meta(index), |out| out.write_all(&content(index, len)))
        .unwrap()
}

pub(crate) fn read(snapshot: &SnapshotFile<Types>) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.content().read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn transfer(from: &SnapshotFile<Types>, to: &Snapshots) -> Result<SnapshotFile<Types>, SnapshotError> {
    let mut receiver = to.receive(from.transfer())?;
    while receiver.offset() < from.transfer_len() {
        receiver.write(&from.read_transfer(receiver.offset(), 10_000).unwrap())?;
    }
    receiver.finish()
}

#[test]
fn a_snapshot_comes_back_as_it_was_written() {
    for len in [0, 1, 256 << 10, (256 << 10) + 1, LEN] {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&open(dir.path()), 7, len);
        assert_eq!(read(&written), content(7, len));
        let latest = open(dir.path()).latest().unwrap();
        assert_eq!((latest.meta(), latest.index()), (&meta(7), Some(7)));
        assert_eq!(read(&latest), content(7, len));
        assert_eq!(latest.transfer_len(), fs::metadata(latest.path()).unwrap().len());
    }
}

#[test]
fn a_snapshot_of_nothing_has_no_log_id() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = Meta {
        last_log_id: None,
        last_membership: StoredMembershipOf::<Types>::default(),
    };
    open(dir.path()).write(&nothing, |_| Ok(())).unwrap();
    let latest = open(dir.path()).latest().unwrap();
    assert_eq!((latest.meta(), latest.index()), (&nothing, None));
}

#[test]
fn two_snapshots_are_kept_and_the_older_bounds_the_purge() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.latest().is_none());
    assert_eq!(store.purge_bound(), None);
    write(&store, 10, 100);
    assert_eq!(store.purge_bound(), None);
    write(&store, 20, 100);
    assert_eq!(store.purge_bound(), Some(10));
    let second = store.latest().unwrap();
    write(&store, 30, 100);
    write(&store, 40, 100);
    assert_eq!(
        (store.latest().unwrap().index(), store.purge_bound()),
        (Some(40), Some(30))
    );
    assert_eq!(files(dir.path()).len(), 2);
    // Whoever still sends the replaced one can finish.
    assert_eq!(read(&second), content(20, 100));

    // A second one of the same place replaces the first, not the older.
    write(&store, 40, 200);
    assert_eq!(
        (store.latest().unwrap().index(), store.purge_bound()),
        (Some(40), Some(30))
    );
    let reopened = open(dir.path());
    assert_eq!(
        (reopened.latest().unwrap().index(), reopened.purge_bound()),
        (Some(40), Some(30))
    );
    assert_eq!(read(&reopened.latest().unwrap()), content(40, 200));
}

#[test]
fn a_damaged_newest_snapshot_gives_way_to_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 10, LEN);
    let newest = write(&store, 20, LEN).path();
    drop(store);
    let mut bytes = fs::read(&newest).unwrap();
    bytes[300_000] ^= 4;
    fs::write(&newest, bytes).unwrap();

    let store = open(dir.path());
    assert_eq!(read(&store.latest().unwrap()), content(10, LEN));
    assert_eq!(store.purge_bound(), None);
    let set_aside = store.damaged();
    let [damaged] = &set_aside[..] else {
        panic!("{set_aside:?}")
    };
    assert_eq!(damaged.index, 20);
    assert!(damaged.reason.contains("chunk 1"), "{}", damaged.reason);
    assert!(damaged.path.exists() && !newest.exists());
    // It stays aside, and the next ones are numbered past it.
    drop(store);
    let store = open(dir.path());
    assert!(store.damaged().is_empty());
    write(&store, 20, 10);
    assert_eq!(store.purge_bound(), Some(10));
}

#[test]
#[cfg(unix)]
fn a_newest_snapshot_that_cannot_be_read_gives_way_to_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 5, 100);
    let newest = write(&store, 9, 100).path();
    drop(store);
    // It opens, but reading it is an I/O error, as on a bad sector.
    fs::remove_file(&newest).unwrap();
    fs::create_dir(&newest).unwrap();

    let store = open(dir.path());
    assert_eq!(store.latest().unwrap().index(), Some(5));
    assert_eq!(store.purge_bound(), None, "one snapshot is no reason to purge");
    let set_aside = store.damaged();
    let [damaged] = &set_aside[..] else {
        panic!("{set_aside:?}")
    };
    assert!(damaged.reason.contains("cannot be read"), "{}", damaged.reason);
    assert!(damaged.path.exists() && !newest.exists());
}

#[test]
fn when_all_are_damaged_there_is_none_and_the_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let paths = [10, 20].map(|index| write(&store, index, LEN).path());
    drop(store);
    for path in paths {
        fs::write(path, "damaged").unwrap();
    }
    let store = open(dir.path());
    assert!(store.latest().is_none());
    assert_eq!(
        store
            .damaged()
            .iter()
            .map(|damaged| damaged.index)
            .collect::<Vec<_>>(),
        [20, 10]
    );
    write(&store, 30, LEN);
    assert_eq!(store.latest().unwrap().index(), Some(30));
}

/// Every length that a torn file can have around the edges of its parts, and many between.
#[test]
fn a_torn_snapshot_is_never_taken_for_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let path = write(&store, 10, LEN).path();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let chunk = 8 + (256 << 10);
    let header = whole.len() - (2 * chunk + (8 + LEN - 2 * (256 << 10)) + 24);
    let mut lens: Vec<usize> = (0..=header).step_by(7).collect();
    for edge in [
        8,
        12,
        16,
        20,
        header,
        header + chunk,
        header + 2 * chunk,
        whole.len() - 24,
        whole.len(),
    ] {
        lens.extend((edge.saturating_sub(9)..edge + 9).filter(|len| *len < whole.len()));
    }
    for len in lens {
        fs::write(&path, &whole[..len]).unwrap();
        let store = open(dir.path());
        assert!(store.latest().is_none(), "{len} bytes");
        assert_eq!(store.damaged().len(), 1, "{len} bytes");
    }
    fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(open(dir.path()).damaged()[0].reason.contains("behind its end"));
}

#[test]
fn a_flipped_bit_in_any_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let path = write(&store, 10, 100).path();
    drop(store);
    let whole = fs::read(&path).unwrap();
    for byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 1 << (byte % 8);
        fs::write(&path, damaged).unwrap();
        let store = open(dir.path());
        assert!(
            store.latest().is_none() && store.damaged().len() == 1,
            "byte {byte}"
        );
    }
}

#[test]
fn a_failed_snapshot_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = store.write(&meta(10), |out| {
        out.write_all(&content(10, LEN))?;
        Err(io::Error::other("the machine gave up"))
    });
    let error = error.unwrap_err();
    assert_eq!(error.code(), "snapshot-io");
    assert!(error.to_string().contains("the machine gave up"), "{error}");
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_received_snapshot_is_kept_only_when_told_so() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sent = write(&open(there.path()), 50, LEN);
    let store = open(here.path());
    write(&store, 10, 100);

    let received = transfer(&sent, &store).unwrap();
    assert_eq!(received.meta(), &meta(50));
    assert_eq!(store.latest().unwrap().index(), Some(10));
    drop(received);
    assert_eq!(files(here.path()).len(), 1, "not kept, so deleted");

    let received = transfer(&sent, &store).unwrap();
    store.keep(&meta(50), &received).unwrap();
    store.keep(&meta(50), &received).unwrap();
    assert_eq!(read(&received), content(50, LEN));
    drop((received, store));
    let store = open(here.path());
    assert_eq!(
        (store.latest().unwrap().index(), store.purge_bound()),
        (Some(50), Some(10))
    );
    assert_eq!(read(&store.latest().unwrap()), content(50, LEN));
}

#[test]
fn a_snapshot_that_arrives_wrong_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sent = write(&open(there.path()), 50, 1000);
    let bytes = sent.read_transfer(0, usize::MAX).unwrap();
    assert_eq!(bytes.len() as u64, sent.transfer_len());
    let store = open(here.path());
    let check = |bytes: &[u8], announced: SnapshotTransfer, says: &str, left: usize| {
        let mut receiver = store.receive(announced).unwrap();
        assert_eq!(receiver.offset(), 0);
        let error = receiver
            .write(bytes)
            .and_then(|()| receiver.finish().map(drop))
            .unwrap_err();
        assert_eq!(error.code(), "snapshot-damaged");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(files(here.path()).len(), left, "{says}");
    };
    let SnapshotTransfer { len, checksum } = sent.transfer();
    let announce = |len, checksum| SnapshotTransfer { len, checksum };
    check(&bytes[..10], announce(len, checksum), "only 10 of", 1);
    check(&bytes, announce(len - 1, checksum), "more than the", 1);
    check(
        &bytes,
        announce(len, checksum ^ 1),
        "not the snapshot that was announced",
        0,
    );
    let mut damaged = bytes.clone();
    damaged[900] ^= 1;
    check(&damaged, announce(len, checksum), "chunk 0 does not match", 0);

    let other = tempfile::tempdir().unwrap();
    let theirs = Snapshots::open(other.path(), ClusterId::from_random([2; 16])).unwrap();
    let foreign = theirs.write(&meta(50), |_| Ok(())).unwrap();
    assert_eq!(transfer(&foreign, &store).unwrap_err().code(), "snapshot-foreign");

    let received = transfer(&sent, &store).unwrap();
    let error = store.keep(&meta(51), &received).unwrap_err();
    assert!(
        error.to_string().contains("not the snapshot that was announced"),
        "{error}"
    );
}

#[test]
fn foreign_and_newer_snapshots_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&open(dir.path()), 10, 100).path();
    let error = Snapshots::open(dir.path(), ClusterId::from_random([2; 16])).unwrap_err();
    assert_eq!(error.code(), "snapshot-foreign");
    assert!(error.to_string().contains(&OURS.to_string()), "{error}");
    assert_eq!(read(&open(dir.path()).latest().unwrap()), content(10, 100));

    // Version 9 with a checksum that holds.
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    let len = usize::try_from(u32::from_le_bytes(bytes[12..16].try_into().unwrap())).unwrap();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..12]), &bytes[20..20 + len]);
    bytes[16..20].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = Snapshots::open(dir.path(), OURS).unwrap_err();
    assert_eq!(error.code(), "snapshot-newer-format");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// The codec of a build that does not know memberships as they are written.
struct Older;

impl EntryCodec<Types> for Older {
    fn encode_entry(entry: &Entry, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Codec::encode_entry(entry, out)
    }
    fn decode_entry(log_id: LogId, body: &[u8]) -> Result<Entry, CodecError> {
        Codec::decode_entry(log_id, body)
    }
    fn encode_log_id(log_id: &LogId, out: &mut Vec<u8>) {
        Codec::encode_log_id(log_id, out);
    }
    fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
        Codec::decode_log_id(bytes)
    }
    fn encode_vote(vote: &Vote, out: &mut Vec<u8>) {
        Codec::encode_vote(vote, out);
    }
    fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
        Codec::decode_vote(bytes)
    }
    fn encode_membership(
        membership: &StoredMembershipOf<Types>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        Codec::encode_membership(membership, out)
    }
    fn decode_membership(_: &[u8]) -> Result<StoredMembershipOf<Types>, CodecError> {
        Err(CodecError::Unknown {
            what: "codec version",
            value: 9,
        })
    }
}

#[test]
fn a_snapshot_of_a_newer_codec_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&open(dir.path()), 10, 100).path();
    let error = SnapshotStore::<Types, Older>::open(dir.path(), OURS).unwrap_err();
    assert_eq!(error.code(), "snapshot-newer-format");
    assert!(error.to_string().contains("codec version 9"), "{error}");
    assert!(path.exists());
    assert_eq!(read(&open(dir.path()).latest().unwrap()), content(10, 100));
}

#[test]
fn what_was_never_finished_is_removed_and_other_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let unfinished = dir.path().join("00000000000000000010-0000000000.tmp");
    let other = dir.path().join("notes.txt");
    fs::write(&unfinished, "half").unwrap();
    fs::write(&other, "mine").unwrap();
    open(dir.path());
    assert!(!unfinished.exists() && other.exists());
}
