//! Disks that stall for half a second, as those of clouds do, and nobody who takes it for a dead leader.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::time::Duration;

use rivven_raft::{DiskPace, Fabric, KvStore, NodeDir, RaftConfig, RaftNode, SimulatedDisk};
use rivven_types::ClusterId;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::common::*;

const STALL: Duration = Duration::from_millis(500);

/// The timing of `profile: lan`.
fn lan(node_id: u64) -> RaftConfig {
    RaftConfig {
        election_timeout_ms: 500..1_000,
        heartbeat_interval_ms: 100,
        ..config(node_id, 3)
    }
}

pub(crate) fn calm_disks() -> Vec<SimulatedDisk> {
    let disks = (1..=3).map(SimulatedDisk::new);
    disks.inspect(|disk| disk.set_pace(CALM)).collect()
}

pub(crate) async fn group_on(
    disks: &[SimulatedDisk],
    fabric: &Fabric,
    root: &TempDir,
    timing: fn(u64) -> RaftConfig,
) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (id, disk) in (1..).zip(disks) {
        let random = [u8::try_from(id).unwrap(); 16];
        let path = root.path().join(id.to_string());
        let dir = NodeDir::open(path, ClusterId::from_bytes([7; 16]), id, random).unwrap();
        let builder = RaftNode::builder(timing(id))
            .fabric(fabric)
            .seed(id)
            .data_dir(dir);
        let builder = builder.simulated_disk(disk).state_machine(KvStore::new());
        nodes.push(builder.start().await.unwrap());
    }
    nodes
}

const CALM: DiskPace = DiskPace {
    sync: Duration::from_millis(1),
    jitter: Duration::from_millis(2),
};

/// Writes one after the other until `end`; how long the longest took, and how many there were.
async fn write_until(node: &Node, key: &str, end: Instant) -> (Duration, u32) {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while Instant::now() < end {
        let begin = Instant::now();
        put(node, key, "v").await;
        longest = longest.max(begin.elapsed());
        count += 1;
        sleep(Duration::from_millis(20)).await;
    }
    (longest, count)
}

#[tokio::test(start_paused = true)]
async fn stalls_of_half_a_second_elect_nobody_with_the_timing_of_a_lan() {
    // Each alone, each two, and all at once: as many bits as disks.
    for stalled in 1..8_usize {
        let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
        let disks = calm_disks();
        let nodes = group_on(&disks, &fabric, &root, lan).await;
        let leader = agreed_leader(&nodes).await;
        put(&nodes[0], "k", "v").await;
        let term = nodes[0].status().term;
        let end = Instant::now() + Duration::from_secs(8);
        let stalls = async {
            while Instant::now() < end {
                for (at, disk) in disks
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| stalled & (1 << at) != 0)
                {
                    // Not in step: each begins while others are at work.
                    sleep(Duration::from_millis(30 * at as u64)).await;
                    disk.set_pace(DiskPace {
                        sync: STALL,
                        ..DiskPace::default()
                    });
                }
                sleep(STALL * 3).await;
                disks.iter().for_each(|disk| disk.set_pace(CALM));
                sleep(Duration::from_millis(700)).await;
            }
        };
        let writers = nodes.iter().zip(["a", "b", "c"]);
        let writers = writers.map(|(node, key)| write_until(node, key, end));
        let (written, ()) = tokio::join!(futures_util::future::join_all(writers), stalls);
        for node in &nodes {
            let status = node.status();
            assert_eq!(
                (status.term, status.leader),
                (term, Some(leader)),
                "disks {stalled:03b}"
            );
        }
        let longest = written.iter().map(|(longest, _)| *longest).max().unwrap();
        let count: u32 = written.iter().map(|(_, count)| count).sum();
        assert!(count > 50, "disks {stalled:03b}: only {count} writes");
        // Two disks that stall are half of every quorum but one; the stalls must have been felt.
        if stalled.count_ones() >= 2 {
            assert!(longest >= STALL / 2, "disks {stalled:03b}: {longest:?}");
        }
    }
}

/// About the election timeout: until the vote of whoever stands is on such a disk, others may have stood.
const SLOW: DiskPace = DiskPace {
    sync: Duration::from_millis(100),
    jitter: Duration::ZERO,
};

#[tokio::test(start_paused = true)]
async fn leadership_reaches_a_slow_disk_although_others_are_elected_first() {
    let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
    let disks = calm_disks();
    let nodes = group_on(&disks, &fabric, &root, |id| config(id, 3)).await;
    agreed_leader(&nodes).await;
    disks[2].set_pace(SLOW);
    for round in 0..20 {
        for to in [1, 3] {
            let handed = nodes[0].transfer_leader(to).await;
            assert!(handed.is_ok(), "round {round}, to {to}: {handed:?}");
            put(&nodes[0], "k", "v").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn terms_from_before_a_restart_delay_no_election() {
    let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
    let timing: fn(u64) -> RaftConfig = |id| config(id, 3);
    let disks = calm_disks();
    let nodes = group_on(&disks, &fabric, &root, timing).await;
    for to in [1, 2, 3, 1, 2, 3] {
        nodes[0].transfer_leader(to).await.unwrap();
    }
    let term = nodes[0].status().term;
    assert!(term > 6, "{term}");
    for node in &nodes {
        node.shutdown().await;
    }
    drop(nodes);
    let nodes = group_on(&disks, &fabric, &root, timing).await;
    let begin = Instant::now();
    agreed_leader(&nodes).await;
    let elapsed = begin.elapsed();
    assert!(elapsed < Duration::from_millis(600), "{elapsed:?}");
}
