//! A recovery that was interrupted: never begun, or ended by the next start.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::{fs, path::Path};

use common::*;
use rivven_cluster::{Cluster, Consistency, offline};

/// Copies a data directory, which nobody uses.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn stop(nodes: Vec<Cluster>) {
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_interrupted_was_never_begun_or_is_ended_by_the_next_start() {
    let nodes = Nodes::new(3);
    let all = nodes.start_all().await;
    all[0].kv().put("a", "1").await.unwrap();
    stop(all).await;
    let (data, before) = (nodes.path().join("data-1"), nodes.path().join("before"));
    let (founding, next) = (data.join("founding.json"), data.join("founding.next.json"));
    copy(&data, &before);
    let old = fs::read(&founding).unwrap();
    offline::recover(&data).await.unwrap();
    let new = fs::read(&founding).unwrap();
    assert!(new != old && !next.exists());

    // Power fails once the founding is written, and before the log is changed: all go on as they were.
    let interrupted_early = || {
        copy(&before, &data);
        fs::write(&next, &new).unwrap();
    };
    interrupted_early();
    let all = nodes.start_all().await;
    all[0].kv().put("b", "2").await.unwrap();
    assert_eq!(all[0].status().voters.len(), 3);
    assert!(fs::read(&founding).unwrap() == old && !next.exists());
    stop(all).await;

    // Or the recovery is repeated.
    interrupted_early();
    offline::recover(&data).await.unwrap();
    let again = fs::read(&founding).unwrap();
    assert!(again != old && again != new && !next.exists());

    // Power fails when the log is changed, and the founding does not count yet: the next start makes it count.
    fs::write(&founding, &old).unwrap();
    fs::write(&next, &again).unwrap();
    let node = nodes.start(1).await;
    ready(std::slice::from_ref(&node)).await;
    assert_eq!(node.status().voters, [1]);
    assert!(fs::read(&founding).unwrap() == again && !next.exists());
    assert!(
        node.kv()
            .get("a", Consistency::Linearizable)
            .await
            .unwrap()
            .is_some()
    );
    node.shutdown().await;

    // And so does another recovery, which is not needed.
    fs::write(&founding, &old).unwrap();
    fs::write(&next, &again).unwrap();
    let refused = offline::recover(&data).await.unwrap_err();
    assert_eq!(refused.code(), "recover-not-needed");
    assert!(fs::read(&founding).unwrap() == again && !next.exists());
}
