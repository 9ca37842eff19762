//! Nodes that are lost or cut off.

use std::time::Duration;

use rivven_raft::{
    Consistency, Fabric, KvCommand, KvStore, MAX_VALUE_BYTES, Outcome, ProposeError, ProposeOptions,
    ReadError,
};
use tokio::time::Instant;

use crate::common::*;

#[tokio::test(start_paused = true)]
async fn the_group_survives_the_loss_of_one_node() {
    let fabric = Fabric::new();
    let mut nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    nodes.retain(|node| node.status().node_id != leader);
    let lost = Instant::now();
    put(&nodes[0], "a", "2").await;
    assert!(
        lost.elapsed() < Duration::from_millis(600),
        "{:?}",
        lost.elapsed()
    );
    assert_eq!(get(&nodes[1], "a").await.as_deref(), Some("2"));
    assert_ne!(agreed_leader(&nodes).await, leader);
    // An empty node with the same id catches up: there is no disk that could have held its vote.
    nodes.push(start(&fabric, leader, 3).await);
    put(&nodes[2], "a", "3").await;
    assert_eq!(get(&nodes[2], "a").await.as_deref(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_is_replaced_and_answers_nothing_linearizable() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let old = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "before").await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    isolate(&fabric, old, &others);
    // The old leader still believes in itself at this moment.
    let old = node(&nodes, old);
    let within = Duration::from_secs(1);
    let read = old
        .read_within(Consistency::Linearizable, within, |kv| value(kv, "a"))
        .await;
    assert!(matches!(read, Err(ReadError::NoLeader { .. })), "{read:?}");
    let options = ProposeOptions {
        deadline: within,
        ..ProposeOptions::default()
    };
    let lost = old
        .propose_with(KvCommand::put("a", "lost"), options)
        .await
        .unwrap_err();
    assert!(
        lost.outcome() == Outcome::Unknown || matches!(lost, ProposeError::NoLeader { .. }),
        "{lost}"
    );
    let new = node(&nodes, others[0]);
    put(new, "a", "after").await;
    assert_eq!(
        old.read(Consistency::Stale, |kv| value(kv, "a"))
            .await
            .unwrap()
            .value
            .as_deref(),
        Some("before")
    );
    fabric.network().heal();
    assert_eq!(get(old, "a").await.as_deref(), Some("after"));
    agreed_leader(&nodes).await;
}

#[tokio::test(start_paused = true)]
async fn a_proposal_that_no_quorum_takes_has_an_unknown_outcome_at_its_deadline() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    isolate(&fabric, leader, &others);
    let options = ProposeOptions {
        deadline: Duration::from_millis(100),
        ..ProposeOptions::default()
    };
    let error = node(&nodes, leader)
        .propose_with(KvCommand::put("a", "1"), options)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.outcome()),
        ("unknown-outcome", Outcome::Unknown)
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_without_a_leader_reports_that_nothing_was_done() {
    let fabric = Fabric::new();
    let node = start(&fabric, 1, 3).await;
    let options = ProposeOptions {
        deadline: Duration::from_millis(500),
        ..ProposeOptions::default()
    };
    let error = node
        .propose_with(KvCommand::put("a", "1"), options)
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("no-leader", Outcome::NotDone));
    let read = node
        .read_within(Consistency::Linearizable, options.deadline, KvStore::len)
        .await;
    assert_eq!(read.unwrap_err().code(), "no-leader");
    assert_eq!(
        node.read(Consistency::Stale, KvStore::len).await.unwrap().value,
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_cut_off_does_not_unseat_the_leader() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let term = nodes[0].status().term;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != follower).collect();
    isolate(&fabric, follower, &others);
    tokio::time::sleep(Duration::from_secs(10)).await;
    fabric.network().heal();
    put(node(&nodes, follower), "a", "1").await;
    assert_eq!(agreed_leader(&nodes).await, leader);
    assert_eq!(nodes[0].status().term, term, "pre-vote kept the term");
}
#[tokio::test(start_paused = true)]
async fn large_values_reach_a_follower_that_was_away() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
    isolate(&fabric, away, &others);
    // From 64 KiB to the largest there may be, each unlike the others.
    let value = |i: u8| vec![i; (64 << 10 << (i % 5)).min(MAX_VALUE_BYTES)];
    for i in 0..40 {
        let command = KvCommand::put(format!("{i}"), value(i));
        node(&nodes, leader).propose(command).await.unwrap();
    }
    fabric.network().heal();
    for node in &nodes {
        let read = node.read(Consistency::Linearizable, |kv: &KvStore| {
            let whole = |i: &u8| {
                kv.get(&format!("{i}"))
                    .is_some_and(|entry| entry.value == value(*i))
            };
            (0..40).filter(whole).count()
        });
        assert_eq!(read.await.unwrap().value, 40);
    }
}
