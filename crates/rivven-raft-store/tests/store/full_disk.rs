//! A file system that is really full: a small one in memory, mounted in a namespace of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use openraft::storage::RaftLogStorage;
use rivven_raft_store::verify;

use crate::{
    snapshots::{content, meta, open, write},
    support::{Codec, Store, Types, append, entries, read_all, store_error, threaded, vote},
};

/// Tells the test below that it runs inside, and where the small file system is.
const INSIDE: &str = "RIVVEN_TEST_FULL_DISK";

const NAME: &str = "full_disk::a_log_on_a_full_file_system_refuses_and_goes_on_once_there_is_room";

/// Everything the file system holds.
const SIZE: &str = "size=6m";

/// Runs this test again in namespaces where it may mount. None where the system forbids that.
fn run_inside(dir: &Path) -> Option<bool> {
    let script = format!(
        "mount -t tmpfs -o {SIZE} tmpfs '{0}' && exec '{1}' --exact {NAME} --nocapture",
        dir.display(),
        std::env::current_exe().unwrap().display()
    );
    for namespaces in [["--mount"].as_slice(), &["--user", "--map-root-user", "--mount"]] {
        let allowed = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", &format!("mount -t tmpfs tmpfs '{}'", dir.display())])
            .stderr(Stdio::null())
            .status();
        if allowed.is_ok_and(|status| status.success()) {
            let inside = Command::new("unshare")
                .args(namespaces)
                .args(["sh", "-c", &script])
                .env(INSIDE, dir)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&inside.stdout);
            print!("{said}{}", String::from_utf8_lossy(&inside.stderr));
            return Some(inside.status.success() && said.contains("went on with"));
        }
    }
    None
}

#[tokio::test]
async fn a_log_on_a_full_file_system_refuses_and_goes_on_once_there_is_room() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        fill_the_log(Path::new(&dir)).await;
        fill_with_snapshots(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    match run_inside(dir.path()) {
        Some(passed) => assert!(passed, "it failed inside"),
        None => println!("skipped: this system allows no mount of a small file system"),
    }
}

async fn fill_the_log(dir: &Path) {
    let (path, ballast) = (dir.join("log.redb"), dir.join("ballast"));
    fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let mut store = Store::open(&path, threaded()).unwrap();
    store.save_vote(&vote(3)).await.unwrap();
    let mut acknowledged = 0;
    let (error, took) = loop {
        let begin = tokio::time::Instant::now();
        match append(&mut store, entries(3, acknowledged..acknowledged + 50)).await {
            Ok(()) => acknowledged += 50,
            Err(error) => break (error, begin.elapsed()),
        }
        assert!(acknowledged < 1_000_000, "the file system is not small");
    };
    assert!(took < Duration::from_secs(1), "refused after {took:?}");
    assert!(error.to_string().contains("disk is full"), "{error}");
    let refused = store.save_vote(&vote(4)).await.unwrap_err();
    assert_eq!(store_error(&refused).code(), "disk-full");
    assert_eq!(store.monitor().failure().unwrap().code(), "disk-full");
    drop(store);

    // Without room it does not come back, or it does and is full again; never with less than it promised.
    if let Ok(mut store) = Store::open(&path, threaded()) {
        assert!(read_all(&mut store).await.unwrap().len() as u64 >= acknowledged);
    }
    fs::remove_file(&ballast).unwrap();
    let mut store = Store::open(&path, threaded()).unwrap();
    let found = read_all(&mut store).await.unwrap();
    let next = found.len() as u64;
    assert!(next >= acknowledged, "{next} of {acknowledged} entries are left");
    assert_eq!(found, entries(3, 0..next));
    append(&mut store, entries(3, next..next + 50)).await.unwrap();
    drop(store);
    assert_eq!(verify::<Types, Codec>(&path).unwrap().entries, next + 50);
    println!("went on with entry {next} after {acknowledged} were acknowledged");
    fs::remove_file(&path).unwrap();
}

fn fill_with_snapshots(dir: &Path) {
    let elsewhere = tempfile::tempdir().unwrap();
    let sent = write(&open(elsewhere.path()), 50, 8 << 20);
    let store = open(&dir.join("snapshots"));
    write(&store, 10, 100);
    let error = store
        .write(&meta(20), |out| out.write_all(&content(20, 8 << 20)))
        .unwrap_err();
    assert_eq!(error.code(), "snapshot-io", "{error}");

    let mut receiver = store.receive(sent.transfer()).unwrap();
    let error = loop {
        let piece = sent.read_transfer(receiver.offset(), 1 << 20).unwrap();
        if let Err(error) = receiver.write(&piece) {
            break error;
        }
    };
    assert_eq!(error.code(), "snapshot-io", "{error}");
    drop(receiver);
    // Neither holds the room that the log needs.
    assert_eq!(fs::read_dir(dir.join("snapshots")).unwrap().count(), 1);
    assert_eq!(store.latest().unwrap().index(), Some(10));
}
