//! Who may open a data directory, and what each refusal is called.

use std::{fs, process::Command};

use super::*;

const OURS: ClusterId = ClusterId::from_random([1; 16]);
const RANDOM: [u8; 16] = [9; 16];

fn open(path: &Path) -> Result<NodeDir, NodeDirError> {
    NodeDir::open(path, OURS, 1, RANDOM)
}

fn refused(result: Result<NodeDir, NodeDirError>) -> (&'static str, String) {
    let error = result.expect_err("the directory must be refused");
    (error.code(), error.to_string())
}

#[test]
fn each_start_keeps_the_instance_and_raises_the_boot_epoch() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b/1");
    for epoch in 1..=3 {
        let dir = NodeDir::open(&path, OURS, 1, [epoch; 16]).unwrap();
        assert_eq!(dir.instance(), InstanceId::from_random([1; 16]));
        assert_eq!(dir.boot_epoch(), BootEpoch(epoch.into()));
        assert_eq!((dir.cluster(), dir.node()), (OURS, 1));
        assert_eq!(dir.log_path(), path.join("log.redb"));
    }
}

#[test]
fn two_directories_are_two_instances() {
    let parent = tempfile::tempdir().unwrap();
    let one = NodeDir::open(parent.path().join("1"), OURS, 1, [1; 16]).unwrap();
    let two = NodeDir::open(parent.path().join("2"), OURS, 1, [2; 16]).unwrap();
    assert_ne!(one.instance(), two.instance());
}

#[test]
fn a_directory_is_open_once_at_a_time() {
    let parent = tempfile::tempdir().unwrap();
    let held = open(parent.path()).unwrap();
    let (code, message) = refused(open(parent.path()));
    assert_eq!(code, "data-dir-locked");
    assert!(message.contains("another process"), "{message}");
    drop(held);
    // The refused attempt has not counted as a start.
    assert_eq!(open(parent.path()).unwrap().boot_epoch(), BootEpoch(2));
}

/// Runs as a child of the next test, in which the directory is open.
#[test]
fn child_process_tries_the_directory_of_its_parent() {
    if let Some(path) = std::env::var_os("RIVVEN_TEST_LOCKED_DIR") {
        assert_eq!(refused(open(Path::new(&path))).0, "data-dir-locked");
    }
}

#[test]
fn another_process_is_kept_out() {
    let parent = tempfile::tempdir().unwrap();
    let _held = open(parent.path()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "node_dir::tests::child_process_tries_the_directory_of_its_parent",
        ])
        .env("RIVVEN_TEST_LOCKED_DIR", parent.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}"
    );
}

#[test]
fn foreign_directories_are_refused_and_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    drop(open(parent.path()).unwrap());
    let before = fs::read(parent.path().join("identity.json")).unwrap();

    let theirs = ClusterId::from_random([2; 16]);
    let (code, message) = refused(NodeDir::open(parent.path(), theirs, 1, RANDOM));
    assert_eq!(code, "data-dir-foreign-cluster");
    assert!(
        message.contains(&OURS.to_string()) && message.contains(&theirs.to_string()),
        "{message}"
    );

    let (code, message) = refused(NodeDir::open(parent.path(), OURS, 2, RANDOM));
    assert_eq!(code, "data-dir-foreign-node");
    assert!(
        message.contains("belongs to node 1, but this is node 2"),
        "{message}"
    );

    assert_eq!(fs::read(parent.path().join("identity.json")).unwrap(), before);
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    for path in [file.clone(), file.join("below")] {
        let (code, message) = refused(open(&path));
        assert_eq!(code, "data-dir-not-writable");
        assert!(message.contains(file.to_str().unwrap()), "{message}");
    }
}

#[test]
fn every_flipped_bit_of_the_identity_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    drop(open(parent.path()).unwrap());
    let path = parent.path().join("identity.json");
    let intact = fs::read(&path).unwrap();
    for bit in 0..intact.len() * 8 {
        let mut damaged = intact.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match Identity::parse(&damaged, &path) {
            Err(error) => assert!(
                ["data-dir-identity-damaged", "data-dir-newer-format"].contains(&error.code()),
                "bit {bit}: {error}"
            ),
            // White space between the fields means nothing, whichever kind it is.
            Ok(identity) => {
                assert!(intact[bit / 8].is_ascii_whitespace(), "bit {bit}");
                assert_eq!(
                    (identity.cluster, identity.node, identity.boot_epoch),
                    (OURS, 1, BootEpoch(1))
                );
            }
        }
    }
    fs::write(&path, &intact[..intact.len() / 2]).unwrap();
    assert_eq!(refused(open(parent.path())).0, "data-dir-identity-damaged");
}

#[test]
fn an_identity_of_a_newer_release_is_refused_by_its_version() {
    let parent = tempfile::tempdir().unwrap();
    fs::write(
        parent.path().join("identity.json"),
        r#"{"version": 3, "shape": "unknown"}"#,
    )
    .unwrap();
    let (code, message) = refused(open(parent.path()));
    assert_eq!(code, "data-dir-newer-format");
    assert!(message.contains("format version 3"), "{message}");
}

#[test]
fn a_log_without_an_identity_is_nobodys() {
    let parent = tempfile::tempdir().unwrap();
    fs::write(parent.path().join("log.redb"), "").unwrap();
    assert_eq!(refused(open(parent.path())).0, "data-dir-identity-missing");
}

mod log {
    //! Whether a log must exist already.

    use openraft::storage::RaftLogStorage;

    use super::*;
    use crate::{CodecError, put_u64};

    openraft::declare_raft_types!(
        pub(crate) Types:
            D = u64,
            R = (),
    );

    type Entry = openraft::type_config::alias::EntryOf<Types>;
    type LogId = openraft::type_config::alias::LogIdOf<Types>;
    type Vote = openraft::type_config::alias::VoteOf<Types>;
    type Membership = openraft::type_config::alias::StoredMembershipOf<Types>;

    /// A codec for a log that nothing is written to.
    struct Empty;

    impl EntryCodec<Types> for Empty {
        fn encode_entry(_: &Entry, _: &mut Vec<u8>) -> Result<(), CodecError> {
            Ok(())
        }
        fn decode_entry(_: LogId, _: &[u8]) -> Result<Entry, CodecError> {
            Err(CodecError::Truncated)
        }
        fn encode_log_id(id: &LogId, out: &mut Vec<u8>) {
            put_u64(out, id.index);
        }
        fn decode_log_id(_: &[u8]) -> Result<LogId, CodecError> {
            Err(CodecError::Truncated)
        }
        fn encode_vote(_: &Vote, _: &mut Vec<u8>) {}
        fn decode_vote(_: &[u8]) -> Result<Vote, CodecError> {
            Err(CodecError::Truncated)
        }
        fn encode_membership(_: &Membership, _: &mut Vec<u8>) -> Result<(), CodecError> {
            Ok(())
        }
        fn decode_membership(_: &[u8]) -> Result<Membership, CodecError> {
            Err(CodecError::Truncated)
        }
    }

    fn open_log(dir: &NodeDir) -> Result<RedbLogStore<Types, Empty>, StoreError> {
        dir.open_log(LogOptions::default())
    }

    #[tokio::test]
    async fn a_log_that_was_there_once_is_never_created_again() {
        let parent = tempfile::tempdir().unwrap();
        let dir = open(parent.path()).unwrap();
        for _ in 0..2 {
            let mut log = open_log(&dir).unwrap();
            assert_eq!(log.get_log_state().await.unwrap(), openraft::LogState::default());
        }
        drop(dir);
        fs::remove_file(parent.path().join("log.redb")).unwrap();
        let dir = open(parent.path()).unwrap();
        let error = open_log(&dir).unwrap_err();
        assert_eq!(error.code(), "log-missing");
        assert!(!dir.log_path().exists());
    }

    #[test]
    fn the_log_of_another_directory_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let one = NodeDir::open(parent.path().join("1"), OURS, 1, [1; 16]).unwrap();
        let two = NodeDir::open(parent.path().join("2"), OURS, 1, [2; 16]).unwrap();
        drop(open_log(&one).unwrap());
        fs::copy(one.log_path(), two.log_path()).unwrap();
        assert_eq!(open_log(&two).unwrap_err().code(), "log-foreign");
    }
}
