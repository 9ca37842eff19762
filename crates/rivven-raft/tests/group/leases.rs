//! Lease reads: what they save, and that a leader that stood still never answers from the past.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::time::Duration;

use rivven_raft::{Consistency, Fabric, KvCommand, KvStore, RaftBuilder, RaftNode, TaskGroup};
use rivven_transport::LinkProfile;
use tokio::time::{Instant, sleep, timeout};

use crate::common::*;

fn builder(fabric: &Fabric, node_id: u64, seed: u64) -> RaftBuilder<KvStore> {
    RaftNode::builder(config(node_id, 3))
        .fabric(fabric)
        .seed(seed * 10 + node_id)
        .state_machine(KvStore::new())
}

/// How long a read takes while every frame takes 10 ms.
async fn time_of_read(node: &Node, consistency: Consistency) -> Duration {
    let begin = Instant::now();
    node.read(consistency, KvStore::len).await.unwrap();
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_lease_read_saves_the_round_to_a_quorum_and_only_where_it_is_on() {
    for on in [true, false] {
        let fabric = Fabric::new();
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let builder = builder(&fabric, id, 1);
            let builder = if on { builder.lease_reads() } else { builder };
            nodes.push(builder.start().await.unwrap());
        }
        let leader = agreed_leader(&nodes).await;
        put(&nodes[0], "a", "1").await;
        fabric.network().default_link(LinkProfile {
            delay: Duration::from_millis(10),
            ..LinkProfile::default()
        });
        sleep(Duration::from_secs(1)).await;
        let leader = node(&nodes, leader);
        let round = time_of_read(leader, Consistency::Linearizable).await;
        assert!(round >= Duration::from_millis(20), "{round:?}");
        let lease = time_of_read(leader, Consistency::Lease).await;
        assert_eq!(lease < Duration::from_millis(1), on, "{lease:?}");
        // Elsewhere it takes the way to the leader and back.
        let follower = nodes
            .iter()
            .find(|node| node.status().node_id != leader.status().node_id);
        let lease = time_of_read(follower.unwrap(), Consistency::Lease).await;
        let round = time_of_read(follower.unwrap(), Consistency::Linearizable).await;
        assert_eq!(lease < round, on, "{lease:?} {round:?}");
    }
}

/// Writes key `number`; whether that was acknowledged.
async fn write(node: &Node, number: u64) -> bool {
    node.propose(KvCommand::put(format!("k{number}"), "there"))
        .await
        .is_ok()
}

/// Those of `numbers` that a lease read does not find.
async fn missing(node: &Node, numbers: &[u64]) -> Vec<u64> {
    let numbers = numbers.to_vec();
    let read = node.read(Consistency::Lease, move |kv| {
        let lost = |number: &u64| kv.get(&format!("k{number}")).is_none();
        numbers.into_iter().filter(lost).collect()
    });
    read.await.unwrap().value
}

/// The leader is suspended again and again while the others go on; a lease read on any node finds everything that
/// was acknowledged before it began.
#[tokio::test(start_paused = true)]
async fn a_lease_read_under_a_paused_leader_is_never_stale() {
    const SEEDS: std::ops::Range<u64> = 0..20;
    let (mut replaced, mut written) = (0, 0);
    for seed in SEEDS {
        println!("seed {seed}; replay by making SEEDS {seed}..{}", seed + 1);
        let fabric = Fabric::new();
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let tasks = TaskGroup::simulated();
            groups.push(tasks.clone());
            let builder = builder(&fabric, id, seed).lease_reads().tasks(tasks);
            nodes.push(builder.start().await.unwrap());
        }
        let (mut acknowledged, mut next) = (Vec::new(), 0_u64);
        for round in 0..10_u64 {
            let old = agreed_leader(&nodes).await;
            let at = usize::try_from(old - 1).unwrap();
            let other = nodes.iter().find(|node| node.status().node_id != old).unwrap();
            groups[at].pause();
            // One read begins while the leader stands still, others afterwards.
            let pause = Duration::from_millis((seed * 37 + round * 61) % 400);
            let during = missing(&nodes[at], &acknowledged);
            let goes_on = async {
                let done = timeout(pause, write(other, next)).await;
                sleep(pause / 2).await;
                groups[at].resume();
                done.unwrap_or(false)
            };
            let (during, done) = tokio::join!(during, goes_on);
            assert!(during.is_empty(), "seed {seed} round {round}: {during:?}");
            acknowledged.extend(done.then_some(next));
            for node in &nodes {
                let missing = missing(node, &acknowledged).await;
                assert!(missing.is_empty(), "seed {seed} round {round}: {missing:?}");
            }
            replaced += u32::from(agreed_leader(&nodes).await != old);
            next += 1;
            if write(&nodes[0], next).await {
                acknowledged.push(next);
            }
            next += 1;
        }
        written += acknowledged.len();
    }
    assert!(replaced >= 20, "only {replaced} leaders were replaced");
    assert!(written >= 200, "only {written} writes were acknowledged");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_just_started_votes_only_when_a_lease_from_before_has_run_out() {
    let fabric = Fabric::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(builder(&fabric, id, 1).lease_reads().start().await.unwrap());
    }
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    // The leader's last word reaches one follower, which restarts; the other has not heard of it for long.
    isolate(&fabric, others[0], &[leader, others[1]]);
    sleep(Duration::from_secs(1)).await;
    put(node(&nodes, leader), "a", "2").await;
    nodes.retain(|node| node.status().node_id != others[1]);
    isolate(&fabric, leader, &others);
    fabric.network().heal_link(others[0], others[1]);
    fabric.network().heal_link(others[1], others[0]);
    let restarted = Instant::now();
    nodes.push(
        builder(&fabric, others[1], 2)
            .lease_reads()
            .start()
            .await
            .unwrap(),
    );
    // While the old leader may still answer by its lease, nobody else may lead.
    while restarted.elapsed() < Duration::from_millis(120) {
        let leaders = nodes.iter().filter(|node| {
            let status = node.status();
            status.node_id != leader && status.leader == Some(status.node_id)
        });
        assert_eq!(leaders.count(), 0, "{:?}", restarted.elapsed());
        sleep(Duration::from_millis(1)).await;
    }
}

/// What the others confirmed to the old leader is on its way for so long that they have elected another one meanwhile.
/// Both answers are due to the same entry; between them the old leader learns that the entry is committed.
#[tokio::test(start_paused = true)]
async fn an_answer_that_was_long_on_its_way_confirms_no_leader() {
    for consistency in [Consistency::Linearizable, Consistency::Lease] {
        let fabric = Fabric::new();
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(builder(&fabric, id, 1).lease_reads().start().await.unwrap());
        }
        let leader = agreed_leader(&nodes).await;
        let old = node(&nodes, leader);
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        put(old, "a", "before").await;
        sleep(Duration::from_secs(1)).await;
        for (other, delay) in others.iter().zip([900, 920]) {
            let delay = Duration::from_millis(delay);
            let profile = LinkProfile {
                delay,
                ..LinkProfile::default()
            };
            fabric.network().link(*other, leader, profile);
        }
        let begin = Instant::now();
        let last_word = old.propose(KvCommand::put("b", "1"));
        let others_go_on = async {
            sleep(Duration::from_millis(5)).await;
            for other in &others {
                fabric.network().cut(leader, *other);
            }
            let other = node(&nodes, others[0]);
            while other.status().leader.is_none_or(|now| now == leader) {
                sleep(Duration::from_millis(5)).await;
            }
            put(other, "a", "after").await;
            assert!(
                begin.elapsed() < Duration::from_millis(850),
                "{:?}",
                begin.elapsed()
            );
            let reads = (0..300).map(|number| async move {
                sleep(Duration::from_millis(number * 5)).await;
                let within = Duration::from_millis(200);
                old.read_within(consistency, within, |kv| value(kv, "a")).await
            });
            for read in futures_util::future::join_all(reads).await.into_iter().flatten() {
                assert_eq!(read.value.as_deref(), Some("after"), "{consistency:?}");
            }
        };
        let (done, ()) = tokio::join!(last_word, others_go_on);
        done.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn reads_that_wait_at_the_same_time_share_their_rounds() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    fabric.network().default_link(LinkProfile {
        delay: Duration::from_millis(5),
        ..LinkProfile::default()
    });
    for node in &nodes {
        let before = fabric.network().stats();
        let reads = (0..200).map(|_| node.read(Consistency::Linearizable, KvStore::len));
        for read in futures_util::future::join_all(reads).await {
            assert_eq!(read.unwrap().value, 1);
        }
        let after = fabric.network().stats();
        let messages = after.sent - before.sent;
        assert!(
            messages < 60,
            "node {} of leader {leader}: {messages}",
            node.status().node_id
        );
    }
}
