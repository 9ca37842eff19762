//! How soon a leader is replaced, and when it is not.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::time::Duration;

use rivven_raft::{Fabric, KvCommand, KvStore, Outcome, ProposeOptions, RaftNode, Role};
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

/// Time from the end of the leader's process until another node has written; the nodes that are left.
async fn time_to_replace(nodes: &mut Vec<Node>) -> Duration {
    let leader = agreed_leader(nodes).await;
    let begin = Instant::now();
    node(nodes, leader).kill().await;
    nodes.retain(|node| node.status().node_id != leader);
    put(&nodes[0], "a", "1").await;
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_no_other_voter_meets_unseats_nobody() {
    let fabric = Fabric::new();
    let mut nodes = group(&fabric, 5).await;
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    sleep(Duration::from_secs(10)).await;
    // The others hear nothing of its host: they know no more than that the leader is silent.
    let deaf: Vec<u64> = (1..=5).filter(|id| *id != leader).skip(1).collect();
    isolate(&fabric, leader, &deaf);
    let noticed = time_to_replace(&mut nodes).await;
    assert!(noticed >= Duration::from_millis(100), "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn elections_by_hints_have_pauses_between_them() {
    let fabric = Fabric::new();
    let mut nodes = group(&fabric, 7).await;
    put(&nodes[0], "a", "1").await;
    sleep(Duration::from_secs(10)).await;
    let first = time_to_replace(&mut nodes).await;
    assert!(first <= Duration::from_millis(100), "{first:?}");
    // A host that refuses by mistake must not keep a group electing.
    let at_once = time_to_replace(&mut nodes).await;
    assert!(at_once >= Duration::from_millis(100), "{at_once:?}");
    sleep(Duration::from_secs(6)).await;
    let later = time_to_replace(&mut nodes).await;
    assert!(later <= Duration::from_millis(100), "{later:?}");
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
async fn a_leader_that_lost_its_quorum_does_not_say_that_it_leads() {
    let mut replaced = 0;
    for seed in 0..10 {
        println!("seed {seed}");
        let fabric = Fabric::new();
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let builder = RaftNode::builder(config(id, 3))
                .fabric(&fabric)
                .seed(seed * 10 + id);
            nodes.push(builder.state_machine(KvStore::new()).start().await.unwrap());
        }
        let leader = agreed_leader(&nodes).await;
        let old = node(&nodes, leader);
        put(old, "a", "1").await;
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        let mut watch = old.watch();
        isolate(&fabric, leader, &others);
        let cut = Instant::now();
        let told = async {
            while watch.changed().await.leader.is_some() {}
            cut.elapsed()
        };
        let never_two = async {
            while cut.elapsed() < Duration::from_secs(2) {
                let leads = |node: &&Node| node.status().role == Role::Leader;
                assert!(nodes.iter().filter(leads).count() <= 1, "{:?}", cut.elapsed());
                sleep(Duration::from_millis(1)).await;
            }
        };
        let (told, ()) = tokio::join!(told, never_two);
        // Not at the first lost heartbeat, and before anybody else can lead.
        let expected = Duration::from_millis(100)..=Duration::from_millis(180);
        assert!(expected.contains(&told), "{told:?}");
        let status = old.status();
        assert_eq!((status.leader, status.role), (None, Role::Follower));
        let waited = old.wait_for_leader(Duration::from_millis(100)).await;
        assert_eq!(waited.unwrap_err().code(), "no-leader");
        fabric.network().heal();
        replaced += u32::from(agreed_leader(&nodes).await != leader);
    }
    assert!(replaced >= 9, "only {replaced} leaders were replaced");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_quorum_comes_back_in_time_says_so() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let old = node(&nodes, leader);
    let term = old.status().term;
    // What the others say is lost, so they follow while nobody confirms it.
    for other in (1..=3).filter(|id| *id != leader) {
        fabric.network().cut(other, leader);
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!(old.status().leader, None);
    fabric.network().heal();
    assert_eq!(agreed_leader(&nodes).await, leader);
    assert_eq!(old.status().term, term);
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_leads_without_anybody_to_confirm_it() {
    let fabric = Fabric::new();
    let node = start(&fabric, 1, 1).await;
    node.wait_for_leader(WAIT).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(node.status().role, Role::Leader);
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
