//! Three nodes: they form, replicate, assign partitions, survive a crash, and keep what they were told.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::time::Duration;

use common::{Nodes, eventually, leaders, ready};
use rivven_cluster::{Cluster, Consistency, NodeId, TopicSpec, WriteError};

/// Writes until it is acknowledged; a write whose outcome is unknown is repeated, since it is idempotent.
async fn put(node: &Cluster, key: &str, value: &str) -> u64 {
    for _ in 0..20 {
        match node.kv().put(key, value.to_owned()).await {
            Ok(revision) => return revision,
            Err(error @ (WriteError::NotReady { .. } | WriteError::Refused(_))) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("no write was acknowledged");
}

async fn get(node: &Cluster, key: &str) -> Option<String> {
    let entry = node.kv().get(key, Consistency::Linearizable).await.unwrap();
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_survive_a_crash_and_keep_their_data() {
    let hosts = Nodes::new(3);
    let mut nodes = hosts.start_all().await;
    let cluster_id = nodes[0].status().cluster_id;
    every_node_writes_and_reads(&nodes).await;
    a_topic_is_spread_evenly(&nodes).await;
    let victim = the_controller_crashes(&mut nodes).await;
    it_comes_back(&hosts, &mut nodes, victim).await;

    // All crash at once; nothing acknowledged is lost.
    for node in &nodes {
        node.kill().await;
    }
    drop(nodes);
    let nodes = hosts.start_all().await;
    assert_eq!(nodes[0].status().cluster_id, cluster_id);
    for node in &nodes {
        assert_eq!(get(node, "after-the-crash").await.as_deref(), Some("written"));
        assert_eq!(get(node, "key-2").await.as_deref(), Some("value-2"));
        assert_eq!(
            node.partitions()
                .assignments()
                .topic("orders")
                .unwrap()
                .partition_count(),
            12
        );
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

async fn every_node_writes_and_reads(nodes: &[Cluster]) {
    for (at, node) in nodes.iter().enumerate() {
        put(node, &format!("key-{at}"), &format!("value-{at}")).await;
    }
    for node in nodes {
        for at in 0..3 {
            assert_eq!(get(node, &format!("key-{at}")).await, Some(format!("value-{at}")));
        }
    }
}

/// Every partition led, evenly, and every node of one opinion.
async fn a_topic_is_spread_evenly(nodes: &[Cluster]) {
    let spec = TopicSpec::new(12).replication_factor(3);
    nodes[1]
        .partitions()
        .create_topic("orders", spec.clone())
        .await
        .unwrap();
    let again = nodes[2]
        .partitions()
        .create_topic("orders", spec)
        .await
        .unwrap_err();
    assert_eq!(again.code(), "topic-exists");
    eventually(nodes, "all nodes know the leaders", || {
        nodes.iter().all(|node| leaders(node, "orders").len() == 12)
    })
    .await;
    for node in 1..=3 {
        let led = leaders(&nodes[0], "orders")
            .iter()
            .filter(|leader| **leader == node)
            .count();
        assert_eq!(led, 4, "node {node}");
    }
}

/// The Raft leader is the controller and leads partitions too. Returns who it was.
async fn the_controller_crashes(nodes: &mut Vec<Cluster>) -> NodeId {
    let status = nodes[0].status();
    let victim = status.controller.unwrap();
    let before: Vec<_> = (0..12)
        .map(|p| nodes[0].partitions().leader("orders", p).unwrap())
        .collect();
    let at = nodes.iter().position(|node| node.node_id() == victim).unwrap();
    let killed = nodes.remove(at);
    killed.kill().await;
    put(&nodes[0], "after-the-crash", "written").await;
    eventually(nodes, "the leaders have moved", || {
        nodes.iter().all(|node| {
            let leaders = leaders(node, "orders");
            leaders.len() == 12 && !leaders.contains(&victim)
        })
    })
    .await;
    for (partition, before) in (0..).zip(before) {
        let now = nodes[0].partitions().leader("orders", partition).unwrap();
        assert_eq!(
            now.epoch > before.epoch,
            before.node == victim,
            "partition {partition}"
        );
    }
    victim
}

/// With its data, which it catches up on; it is in sync everywhere.
async fn it_comes_back(hosts: &Nodes, nodes: &mut Vec<Cluster>, node: NodeId) {
    let at = usize::try_from(node).unwrap() - 1;
    nodes.insert(at, hosts.start(node).await);
    ready(nodes).await;
    assert_eq!(
        get(&nodes[at], "after-the-crash").await.as_deref(),
        Some("written")
    );
    assert_eq!(nodes[at].status().boot_epoch, 2);
    eventually(nodes, "the returned node is in sync everywhere", || {
        let map = nodes[0].partitions().assignments();
        map.topic("orders")
            .unwrap()
            .partitions()
            .all(|partition| partition.in_sync().count() == 3)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_in_order_hands_over_first() {
    let hosts = Nodes::new(3);
    let mut nodes = hosts.start_all().await;
    let spec = TopicSpec::new(12).replication_factor(3);
    nodes[0].partitions().create_topic("orders", spec).await.unwrap();
    let controller = nodes[0].status().controller.unwrap();
    let at = nodes
        .iter()
        .position(|node| node.node_id() == controller)
        .unwrap();
    let leaving = nodes.remove(at);
    eventually(&nodes, "the leaders are known", || {
        leaders(&leaving, "orders").len() == 12
    })
    .await;

    let report = leaving.shutdown().await;
    assert_eq!(
        (report.led, report.still_led, report.warnings.len()),
        (4, 0, 0),
        "{report:?}"
    );
    assert!(
        nodes
            .iter()
            .any(|node| Some(node.node_id()) == report.leadership_to),
        "{report:?}"
    );
    assert_eq!(
        leaving.shutdown().await,
        report,
        "a second shutdown says the same"
    );
    assert!(leaving.readiness().iter().any(|check| !check.ok));
    assert_eq!(leaving.kv().put("k", "v").await.unwrap_err().code(), "not-ready");

    put(&nodes[0], "k", "v").await;
    eventually(&nodes, "the others say that it left", || {
        nodes.iter().all(|node| {
            let members = node.members().list();
            members
                .iter()
                .any(|member| member.node_id == controller && member.state != "alive")
        })
    })
    .await;
    // The directory was given back, and the mark of leaving ended with the process.
    nodes.insert(at, hosts.start(controller).await);
    ready(&nodes).await;
    assert_eq!(get(&nodes[at], "k").await.as_deref(), Some("v"));
    eventually(&nodes, "the returned node leads again", || {
        leaders(&nodes[at], "orders").contains(&controller)
    })
    .await;
}
