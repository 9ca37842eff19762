//! How soon a leader is replaced, and when it is not.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::time::Duration;

use rivven_raft::{Fabric, KvCommand, KvStore, Outcome, ProposeOptions, RaftNode};
use tokio::time::{Instant, sleep};

use crate::common::*;

/// Time from the end of the leader's process, or from its isolation, until another node has written.
async fn time_without_a_leader(lease_reads: bool, killed: bool) -> Duration {
    let fabric = Fabric::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let builder = RaftNode::builder(config(id, 3)).fabric(&fabric).seed(id);
        let builder = if lease_reads {
            builder.lease_reads()
        } else {
            builder
        };
        nodes.push(builder.state_machine(KvStore::new()).start().await.unwrap());
    }
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    sleep(Duration::from_secs(10)).await;
    let begin = Instant::now();
    if killed {
        node(&nodes, leader).kill().await;
    } else {
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        isolate(&fabric, leader, &others);
    }
    nodes.retain(|node| node.status().node_id != leader);
    put(&nodes[0], "a", "2").await;
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_leaders_process_is_noticed_long_before_the_election_timeout() {
    let noticed = time_without_a_leader(false, true).await;
    assert!(noticed <= Duration::from_millis(100), "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_alone_is_not_taken_for_the_end_of_a_process() {
    let noticed = time_without_a_leader(false, false).await;
    assert!(noticed >= Duration::from_millis(100), "{noticed:?}");
    assert!(noticed <= Duration::from_millis(600), "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_cut_short_by_a_hint() {
    let noticed = time_without_a_leader(true, true).await;
    assert!(noticed >= Duration::from_millis(100), "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_followers_process_unseats_nobody() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let term = nodes[0].status().term;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    node(&nodes, follower).kill().await;
    sleep(Duration::from_secs(20)).await;
    put(node(&nodes, leader), "a", "1").await;
    assert_eq!(node(&nodes, leader).status().term, term);
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_refuses_proposals_once_its_lease_has_run_out() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    isolate(&fabric, leader, &others);
    sleep(Duration::from_millis(300)).await;
    let before = node(&nodes, leader).status().last_log_index;
    let options = ProposeOptions {
        deadline: Duration::from_millis(500),
        ..ProposeOptions::default()
    };
    let refused = node(&nodes, leader)
        .propose_with(KvCommand::put("a", "1"), options)
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), refused.outcome()),
        ("no-leader", Outcome::NotDone)
    );
    assert_eq!(
        node(&nodes, leader).status().last_log_index,
        before,
        "nothing is written"
    );
}

#[tokio::test(start_paused = true)]
async fn leadership_waits_for_a_target_that_lags() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let target = (1..=3).find(|id| *id != leader).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != target).collect();
    isolate(&fabric, target, &others);
    for i in 0..500 {
        put(node(&nodes, leader), "k", &i.to_string()).await;
    }
    let (leading, term) = (node(&nodes, leader), node(&nodes, leader).status().term);
    let heals = async {
        sleep(Duration::from_secs(1)).await;
        // Nobody else can write meanwhile, so the leader must not have given up yet.
        put(leading, "k", "meanwhile").await;
        assert_eq!(leading.status().term, term);
        fabric.network().heal();
    };
    let (moved, ()) = tokio::join!(leading.transfer_leader(target), heals);
    moved.unwrap();
    assert_eq!(agreed_leader(&nodes).await, target);
    assert_eq!(get(&nodes[0], "k").await.as_deref(), Some("meanwhile"));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_never_catches_up_leaves_the_leader_in_place() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let target = (1..=3).find(|id| *id != leader).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != target).collect();
    isolate(&fabric, target, &others);
    put(node(&nodes, leader), "k", "1").await;
    let failed = node(&nodes, leader).transfer_leader(target).await.unwrap_err();
    assert_eq!(failed.code(), "transfer-timeout");
    put(node(&nodes, leader), "k", "2").await;
    assert_eq!(node(&nodes, leader).status().leader, Some(leader));
}
