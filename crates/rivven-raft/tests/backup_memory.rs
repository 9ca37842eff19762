//! What a backup of a large state, its check and its restore cost in memory. A process of its own, since it looks at
//! the memory of the process.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{
    backup::{self, NEW, save},
    *,
};
use rivven_raft::{
    Consistency, Fabric, KvCommand, KvStore, NodeDir, RaftBuilder, RaftConfig, RaftNode, verify_backup,
};
use tokio::time::Instant;

const VALUE_BYTES: usize = 1 << 20;

/// What a backup may take beside the state while it is written, read and checked: buffers of disk and channel,
/// and the entries that the log keeps in memory.
const MAX_EXTRA_BYTES: u64 = 48 << 20;

/// The most memory that this process has had since it was last asked.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    // From here on the highest mark begins anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    kib << 10
}

fn builder(dir: NodeDir) -> RaftBuilder<KvStore> {
    let config = RaftConfig {
        node_id: 1,
        peers: Vec::new(),
        election_timeout_ms: 1_500..3_000,
        heartbeat_interval_ms: 500,
    };
    RaftNode::builder(config)
        .fabric(&Fabric::new())
        .snapshot_every(1 << 30)
        .data_dir(dir)
        .state_machine(KvStore::new())
}

/// Backs up, verifies and restores a state of so many values of 1 MiB, and measures.
async fn check(values: u64, root: &Path) {
    let node = builder(open(&root.join("old"), 1)).start().await.unwrap();
    for key in 0..values {
        let value = vec![u8::try_from(key % 251).unwrap(); VALUE_BYTES];
        node.propose(KvCommand::put(format!("{key:06}"), value))
            .await
            .unwrap();
    }
    let state = values * VALUE_BYTES as u64;
    let file = root.join("backup");
    let (_, begun) = (peak(), Instant::now());
    let before = peak();
    assert!(
        before > state,
        "the state is as large as it should be: {before} bytes"
    );
    save(node.backup(Duration::from_secs(300)).await.unwrap(), &file).await;
    let (saved, took) = (peak() - before, begun.elapsed());
    println!(
        "{} MiB saved in {took:?} with {} MiB beside the state",
        state >> 20,
        saved >> 20
    );
    assert!(saved < MAX_EXTRA_BYTES, "{saved} bytes beside the state");

    let begun = Instant::now();
    let report = verify_backup(&file).unwrap();
    let verified = peak() - before;
    println!(
        "verified in {:?} with {} MiB beside the state",
        begun.elapsed(),
        verified >> 20
    );
    assert!(
        report.bytes > state && verified < MAX_EXTRA_BYTES,
        "{verified} bytes beside the state"
    );
    node.shutdown().await;
    drop(node);
    fs::remove_dir_all(root.join("old")).unwrap();

    restore(values, &file, root).await;
}

/// The trial holds one state; that of the node is gone, though its pages may not be.
async fn restore(values: u64, file: &Path, root: &Path) {
    let begun = Instant::now();
    backup::restore(file, &root.join("new/1"), 1).await.unwrap();
    println!("restored in {:?}, {} MiB at most", begun.elapsed(), peak() >> 20);
    let node = builder(open_of(&root.join("new"), NEW, 1)).start().await.unwrap();
    node.wait_for_leader(WAIT).await.unwrap();
    let read = node.read(Consistency::Linearizable, |kv| {
        let whole = |(at, (key, entry)): (u64, (&str, &rivven_raft::KvEntry))| {
            let byte = u8::try_from(at % 251).unwrap();
            key == format!("{at:06}")
                && entry.value.len() == VALUE_BYTES
                && entry.value.iter().all(|b| *b == byte)
        };
        kv.len() as u64 == values && (0..).zip(kv.range_from("")).all(whole)
    });
    assert!(read.await.unwrap().value, "every value is what it was");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_64_mib_is_backed_up_with_bounded_memory() {
    let root = tempfile::TempDir::new().unwrap();
    check(64, root.path()).await;
}

/// A step of its own in `.ci/run`: needs 3 GiB of disk and of memory, and about a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs 3 GiB of disk and of memory; `.ci/run` has a step for it"]
async fn a_state_of_1_gib_is_backed_up_with_bounded_memory() {
    let root = tempfile::TempDir::new().unwrap();
    check(1_024, root.path()).await;
}
