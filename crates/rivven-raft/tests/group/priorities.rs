//! Leadership that goes where it is wanted, and no further.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::time::Duration;

use rivven_raft::{Fabric, JoinAs, KvStore, NodeId, RaftNode};
use tokio::time::{Instant, sleep};

use crate::common::*;

const HOLD: Duration = Duration::from_secs(2);

async fn start(fabric: &Fabric, id: NodeId, seed: u64) -> Node {
    let builder = RaftNode::builder(config(id, 3))
        .fabric(fabric)
        .seed(seed * 10 + id);
    let builder = builder.priority_hold(HOLD).state_machine(KvStore::new());
    builder.start().await.unwrap()
}

/// Three nodes of these priorities, by id; `None` says nothing of it.
async fn prefer(fabric: &Fabric, priorities: [Option<u16>; 3], seed: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(fabric, id, seed).await);
    }
    for (node, priority) in nodes.iter().zip(priorities) {
        if let Some(priority) = priority {
            node.announce(JoinAs::new().priority(priority)).await.unwrap();
        }
    }
    nodes
}

/// Waits until everybody follows `id`; how long that took.
async fn led_by(nodes: &[Node], id: NodeId) -> Duration {
    let begin = Instant::now();
    while agreed_leader(nodes).await != id {
        assert!(begin.elapsed() < WAIT, "node {id} does not lead");
        sleep(Duration::from_millis(20)).await;
    }
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_node_of_the_highest_priority_leads_and_no_write_fails_on_its_way_there() {
    for seed in 0..3 {
        println!("seed {seed}");
        let fabric = Fabric::new();
        let nodes = prefer(&fabric, [None, Some(150), Some(200)], seed).await;
        let writes = async {
            for number in 0..600 {
                put(&nodes[number % 3], "k", &number.to_string()).await;
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::join!(writes, led_by(&nodes, 3));
        let view = nodes[0].membership().await.unwrap();
        assert_eq!(
            (
                view.leader,
                view.member(1).unwrap().priority,
                view.member(3).unwrap().priority
            ),
            (3, 100, 200)
        );
        let term = nodes[0].status().term;
        sleep(HOLD * 4).await;
        assert_eq!(nodes[0].status().term, term, "there it stays");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_of_priority_zero_leads_only_while_nobody_else_can() {
    let fabric = Fabric::new();
    let mut nodes = prefer(&fabric, [Some(0), Some(0), None], 1).await;
    led_by(&nodes, 3).await;
    // An operator may ask for it all the same, and it lasts only for as long as the one before is held back.
    nodes[0].transfer_leader(1).await.unwrap();
    let back = led_by(&nodes, 3).await;
    assert!(back <= HOLD + Duration::from_secs(2), "{back:?}");
    // Alone they have to.
    let gone = nodes.remove(2);
    gone.kill().await;
    drop(gone);
    put(&nodes[0], "k", "v").await;
    let leader = agreed_leader(&nodes).await;
    sleep(HOLD * 10).await;
    assert_eq!(
        agreed_leader(&nodes).await,
        leader,
        "they do not pass it to and fro"
    );
    nodes.push(start(&fabric, 3, 2).await);
    led_by(&nodes, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_of_high_priority_that_comes_and_goes_does_not_take_leadership_along() {
    let fabric = Fabric::new();
    let mut nodes = prefer(&fabric, [None, None, Some(500)], 1).await;
    led_by(&nodes, 3).await;
    let mut led = 0;
    const FLAPS: u32 = 5;
    for flap in 0..FLAPS {
        let gone = nodes.remove(2);
        gone.kill().await;
        drop(gone);
        agreed_leader(&nodes).await;
        put(&nodes[0], "k", &flap.to_string()).await;
        nodes.push(start(&fabric, 3, 2 + u64::from(flap)).await);
        sleep(HOLD * 3).await;
        led += u32::from(agreed_leader(&nodes).await == 3);
    }
    assert!(
        led <= 2,
        "it was given leadership {led} times while it came and went {FLAPS} times"
    );
    // It has to live for longer, and then it leads.
    let begin = Instant::now();
    while agreed_leader(&nodes).await != 3 {
        assert!(begin.elapsed() < HOLD * 2_u32.pow(FLAPS + 3), "never");
        sleep(Duration::from_secs(5)).await;
    }
}
