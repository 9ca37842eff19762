//! Nodes with a data directory: restart, snapshots, catching up, damage.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod common;

#[path = "durable/interrupted.rs"]
mod interrupted;
#[path = "durable/stubborn.rs"]
mod stubborn;
#[path = "durable/throttled.rs"]
mod throttled;

use std::{path::Path, time::Duration};

use common::*;
use rivven_raft::{Consistency, Fabric, KvCommand, KvStore, NodeId, RaftBuilder, RaftNode};
use tempfile::TempDir;

fn builder(fabric: &Fabric, root: &Path, node_id: NodeId, voters: u64) -> RaftBuilder<KvStore> {
    RaftNode::builder(config(node_id, voters))
        .fabric(fabric)
        .seed(node_id)
        .data_dir(open(root, node_id))
        .inline_writes()
        .state_machine(KvStore::new())
}

async fn start_durable(fabric: &Fabric, root: &Path, node_id: NodeId, voters: u64) -> Node {
    builder(fabric, root, node_id, voters).start().await.unwrap()
}

async fn durable_group(fabric: &Fabric, root: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        nodes.push(
            builder(fabric, root, node_id, 3)
                .snapshot_every(50)
                .start()
                .await
                .unwrap(),
        );
    }
    nodes
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_has_what_it_had() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let node = start_durable(&fabric, root.path(), 1, 1).await;
    for i in 0..20 {
        put(&node, &i.to_string(), "v").await;
    }
    let before = node.status();
    node.shutdown().await;
    drop(node);
    let node = start_durable(&fabric, root.path(), 1, 1).await;
    // The committed index is stored beside the log, so the state is back before there is a leader.
    let read = node.read(Consistency::Stale, KvStore::len).await.unwrap();
    assert!(read.value >= 19, "{read:?}");
    assert_eq!(get(&node, "19").await.as_deref(), Some("v"));
    let after = node.status();
    assert!(after.term > before.term && after.last_log_index > before.last_log_index);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_log_is_gone_does_not_vote_again() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let node = start_durable(&fabric, root.path(), 1, 1).await;
    put(&node, "a", "1").await;
    node.shutdown().await;
    drop(node);
    std::fs::remove_file(open(root.path(), 1).log_path()).unwrap();
    let refused = builder(&fabric, root.path(), 1, 1).start().await.unwrap_err();
    assert_eq!(refused.code(), "log-missing", "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_node_frees_its_directory_and_loses_nothing_acknowledged() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let node = start_durable(&fabric, root.path(), 1, 1).await;
    put(&node, "a", "1").await;
    drop(node);
    // Its tasks end at their next turn.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let node = start_durable(&fabric, root.path(), 1, 1).await;
    assert_eq!(get(&node, "a").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn all_nodes_restarted_at_once_go_on_where_they_were() {
    let root = TempDir::new().unwrap();
    let mut fabric = Fabric::new();
    for round in 0..3_u64 {
        let nodes = durable_group(&fabric, root.path()).await;
        agreed_leader(&nodes).await;
        for earlier in 0..round {
            assert_eq!(
                get(&nodes[1], &earlier.to_string()).await,
                Some(earlier.to_string())
            );
        }
        put(&nodes[2], &round.to_string(), &round.to_string()).await;
        for node in &nodes {
            node.shutdown().await;
        }
        fabric = Fabric::new();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lags_behind_the_purged_log_catches_up_by_snapshot() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let mut nodes = durable_group(&fabric, root.path()).await;
    agreed_leader(&nodes).await;
    let away = nodes.remove(2);
    away.shutdown().await;
    drop(away);
    let large = "x".repeat(20_000);
    for i in 0..300_u64 {
        put(&nodes[0], &format!("{i:03}"), &large).await;
    }
    // Several snapshots later the first entries are gone from the log.
    let back = start_durable(&fabric, root.path(), 3, 3).await;
    assert_eq!(get(&back, "299").await.as_deref(), Some(&*large));
    let read = back.read(Consistency::Stale, KvStore::len).await.unwrap();
    assert_eq!(read.value, 300);
    assert!(back.status().snapshot_index.is_some(), "{:?}", back.status());
    back.shutdown().await;
    drop(back);
    // What was installed is also there after a restart, without the others.
    for node in &nodes {
        node.shutdown().await;
    }
    let alone = start_durable(&fabric, root.path(), 3, 3).await;
    assert!(alone.read(Consistency::Stale, KvStore::len).await.unwrap().value >= 250);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_purged_behind_the_older_snapshot_so_a_damaged_newest_is_no_loss() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let node = builder(&fabric, root.path(), 1, 1)
        .snapshot_every(50)
        .start()
        .await
        .unwrap();
    for i in 0..230_u64 {
        put(&node, &format!("{i:03}"), "v").await;
    }
    node.shutdown().await;
    drop(node);
    let snapshots = root.path().join("1/snapshots");
    let mut files: Vec<_> = std::fs::read_dir(&snapshots)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 2, "{files:?}");
    let newest = files.pop().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let node = start_durable(&fabric, root.path(), 1, 1).await;
    assert_eq!(get(&node, "229").await.as_deref(), Some("v"));
    assert_eq!(
        node.read(Consistency::Stale, KvStore::len).await.unwrap().value,
        230
    );
}

/// MiB of each whole snapshot of node 1, the oldest first.
fn snapshot_sizes(root: &Path) -> Vec<u64> {
    let files = std::fs::read_dir(root.join("1/snapshots")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "snapshot"));
    files.sort();
    let size = |path| std::fs::metadata(path).unwrap().len() >> 20;
    files.iter().map(size).collect()
}

#[tokio::test]
async fn snapshots_follow_the_growth_of_the_log_and_the_size_of_the_state() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let node = start_durable(&fabric, root.path(), 1, 1).await;
    let value = "v".repeat(1 << 20);
    // Each key is new, so the state grows as the log does: by 9 MiB, then by 14 more.
    let mut keys = 0..;
    for (puts, snapshots) in [(9, 1), (14, 2)] {
        for key in keys.by_ref().take(puts) {
            put(&node, &key.to_string(), &value).await;
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while snapshot_sizes(root.path()).len() < snapshots {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{:?}",
                snapshot_sizes(root.path())
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let sizes = snapshot_sizes(root.path());
    assert!(
        (8..=9).contains(&sizes[0]) && (16..=23).contains(&sizes[1]),
        "{sizes:?}"
    );
    node.shutdown().await;
}

/// Turns every snapshot of a node into nonsense; how many there were.
fn damage_snapshots(root: &Path, node_id: NodeId) -> usize {
    let dir = root.join(node_id.to_string()).join("snapshots");
    let files: Vec<_> = std::fs::read_dir(dir).unwrap().collect();
    for file in &files {
        std::fs::write(file.as_ref().unwrap().path(), "nonsense").unwrap();
    }
    files.len()
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_snapshots_are_all_damaged_fetches_one_of_a_peer_before_it_starts() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let mut nodes = durable_group(&fabric, root.path()).await;
    agreed_leader(&nodes).await;
    for i in 0..230_u64 {
        put(&nodes[0], &format!("{i:03}"), "v").await;
    }
    assert_eq!(get(&nodes[2], "229").await.as_deref(), Some("v"));
    let damaged = nodes.remove(2);
    let before = damaged.status();
    damaged.shutdown().await;
    drop(damaged);
    assert_eq!(damage_snapshots(root.path(), 3), 2);

    let repaired = start_durable(&fabric, root.path(), 3, 3).await;
    assert!(
        repaired.status().snapshot_index.is_some(),
        "{:?}",
        repaired.status()
    );
    assert!(repaired.status().term >= before.term, "the vote stays");
    assert_eq!(get(&repaired, "000").await.as_deref(), Some("v"));
    let read = repaired.read(Consistency::Stale, KvStore::len).await.unwrap();
    assert_eq!(read.value, 230);
    repaired.shutdown().await;
    drop(repaired);

    // Without a peer that could help it does not start from an empty state.
    for node in nodes {
        node.shutdown().await;
    }
    damage_snapshots(root.path(), 3);
    let refused = builder(&fabric, root.path(), 3, 3).start().await.unwrap_err();
    assert_eq!(refused.code(), "snapshot-missing", "{refused}");
    assert!(refused.to_string().contains("was set aside"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_another_node_is_refused() {
    let root = TempDir::new().unwrap();
    let refused = RaftNode::builder(config(2, 3))
        .fabric(&Fabric::new())
        .data_dir(open(root.path(), 1))
        .state_machine(KvStore::new())
        .start()
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "identity-mismatch");
}

/// With the thread of the log and real time, as in production.
#[tokio::test]
async fn group_commit_serves_many_writers_at_once() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let mut config = config(node_id, 3);
        // Slow disks of test machines are not what is tested here.
        config.election_timeout_ms = 1_000..2_000;
        let builder = RaftNode::builder(config)
            .fabric(&fabric)
            .data_dir(open(root.path(), node_id));
        nodes.push(builder.state_machine(KvStore::new()).start().await.unwrap());
    }
    agreed_leader(&nodes).await;
    let writes = (0..64).map(|writer| {
        let node = nodes[writer % 3].clone();
        async move {
            for i in 0..5 {
                put(&node, &format!("{writer}-{i}"), "v").await;
            }
        }
    });
    futures_util::future::join_all(writes).await;
    let read = nodes[1]
        .read(Consistency::Linearizable, KvStore::len)
        .await
        .unwrap();
    assert_eq!(read.value, 320);
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_stops_the_node_which_says_why() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let node = builder(&fabric, root.path(), 1, 1)
        .snapshot_every(10)
        .start()
        .await
        .unwrap();
    put(&node, "a", "1").await;
    std::fs::remove_dir_all(root.path().join("1/snapshots")).unwrap();
    let stopped = async {
        while node.status().stopped.is_none() {
            // What is in flight when the node stops may or may not be done.
            let _ = node.propose(KvCommand::put("b", "2")).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(WAIT, stopped).await.unwrap();
    let reason = node.status().stopped.unwrap();
    assert!(reason.contains("snapshots"), "{reason}");
    assert_eq!(
        node.propose(KvCommand::put("c", "3")).await.unwrap_err().code(),
        "stopped"
    );
}
