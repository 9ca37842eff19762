//! Foundings that cannot succeed say why; those that only lack a node wait for it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::time::Duration;

use common::{Nodes, eventually, ready};
use rivven_cluster::{Cluster, Phase};

fn problem(node: &Cluster, code: &str) -> Option<String> {
    let problems = node.status().problems;
    problems
        .into_iter()
        .find(|problem| problem.code == code)
        .map(|problem| problem.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_or_unresolvable_founder_is_waited_for() {
    let hosts = Nodes::new(3);
    let one = hosts.start(1).await;
    let mut config = hosts.config(2);
    config.raft.peers[2] = "no-such-host.invalid:9093".parse().unwrap();
    let two = Cluster::start(config).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(one.status().phase, Phase::Founding);
    let refused = one.kv().put("k", "v").await.unwrap_err();
    assert_eq!(refused.code(), "not-ready");
    assert!(
        refused.to_string().contains(&hosts.quic(3).to_string()),
        "{refused}"
    );

    // A founder that had to be restarted with a corrected list is no harm either.
    two.shutdown().await;
    drop(two);
    let nodes = [one, hosts.start(2).await, hosts.start(3).await];
    ready(&nodes).await;
    nodes[2].kv().put("k", "v").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_told_of_different_sets_name_both() {
    let hosts = Nodes::new(3);
    let mut config = hosts.config(2);
    config.raft.peers.remove(2);
    let nodes = [
        hosts.start(1).await,
        Cluster::start(config).await.unwrap(),
        hosts.start(3).await,
    ];
    eventually(&nodes, "the difference is noticed", || {
        problem(&nodes[0], "founders-differ").is_some()
    })
    .await;
    let message = problem(&nodes[0], "founders-differ").unwrap();
    assert!(
        message.contains("1, 2, 3") && message.contains("1, 2;"),
        "{message}"
    );
    assert!(nodes.iter().all(|node| node.status().founding_id.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_under_one_node_id_is_refused_and_harms_nothing() {
    let hosts = Nodes::new(3);
    let nodes = hosts.start_all().await;
    let mut config = hosts.config(3);
    let addrs = common::free_addrs(2);
    config.bind_address = addrs[0];
    config.gossip.bind_port = addrs[1].port();
    config.data_dir = Some(hosts.path().join("twin"));
    let twin = [Cluster::start(config).await.unwrap()];
    eventually(&twin, "the twin says so", || {
        problem(&twin[0], "duplicate-node-id").is_some()
    })
    .await;
    assert_eq!(
        twin[0].status().phase,
        Phase::Founding,
        "an empty disk takes no part in Raft"
    );
    nodes[2].kv().put("k", "v").await.unwrap();
    assert!(nodes.iter().all(|node| node.status().controller.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_node_with_an_empty_disk_takes_no_part() {
    let hosts = Nodes::new(3);
    let mut nodes = hosts.start_all().await;
    nodes[0].kv().put("k", "v").await.unwrap();
    let lost = nodes.remove(2);
    lost.shutdown().await;
    drop(lost);
    std::fs::remove_dir_all(hosts.path().join("data-3")).unwrap();
    let empty = [hosts.start(3).await];
    eventually(&empty, "the loss is noticed", || {
        problem(&empty[0], "instance-differs").is_some()
    })
    .await;
    let message = problem(&empty[0], "instance-differs").unwrap();
    assert!(message.contains("rivven-node member replace 3"), "{message}");
    assert_eq!(empty[0].status().phase, Phase::Joining);
    nodes[0].kv().put("k", "w").await.unwrap();
}
