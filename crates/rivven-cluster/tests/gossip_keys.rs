//! Gossip keys of a real cluster: changed while it runs, kept, fetched, and made when there are none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::{fs, time::Duration};

use common::{Nodes, eventually};
use rivven_cluster::{Cluster, MemberEvent, MemberEvents};
use tokio::time::timeout;

fn epochs(nodes: &[Cluster]) -> Vec<Option<u64>> {
    nodes.iter().map(|node| node.status().gossip_key_epoch).collect()
}

fn all_alive(nodes: &[Cluster]) -> bool {
    let alive = |node: &Cluster| {
        node.members()
            .list()
            .iter()
            .filter(|m| m.state == "alive")
            .count()
    };
    nodes.iter().all(|node| alive(node) == nodes.len())
}

/// Nobody was given up for dead so far. That nobody is even suspected is shown with fewer tasks per core, in
/// `rivven-swim`.
async fn nobody_died(events: &mut MemberEvents) {
    while let Ok(Some(event)) = timeout(Duration::from_millis(100), events.next()).await {
        assert!(!matches!(event, MemberEvent::Dead(_)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_under_live_gossip_without_a_suspicion_and_survive_restarts() {
    let hosts = Nodes::new(3);
    let mut nodes = hosts.start_all().await;
    eventually(&nodes, "members meet", || all_alive(&nodes)).await;
    assert_eq!(epochs(&nodes), [Some(0); 3], "gossip.key is the first");
    let mut events: Vec<MemberEvents> = nodes.iter().map(|node| node.members().events()).collect();
    for (round, node) in (1..).zip(&nodes) {
        assert_eq!(node.rotate_gossip_keys().await.unwrap(), round);
        let done = || epochs(&nodes).iter().all(|epoch| *epoch == Some(round));
        eventually(&nodes, "every node seals under the new key", done).await;
    }
    for events in &mut events {
        nobody_died(events).await;
    }
    assert!(all_alive(&nodes));

    // One that has lost what it had finds the others by its first key, and fetches.
    let last = nodes.pop().unwrap();
    last.kill().await;
    drop(last);
    let kept = hosts.path().join("data-3/gossip.keys");
    assert!(fs::read_to_string(&kept).unwrap().contains("current 3 "));
    fs::remove_file(&kept).unwrap();
    nodes.push(hosts.start(3).await);
    eventually(&nodes, "the node fetches the keys", || {
        epochs(&nodes) == [Some(3); 3] && all_alive(&nodes)
    })
    .await;

    // All at once: what each has kept is enough, also without the first key.
    for node in &nodes {
        node.kill().await;
    }
    drop(nodes);
    for node in 1..=3 {
        fs::remove_file(hosts.tls_dir(node).join("gossip.key")).unwrap();
    }
    let nodes = hosts.start_all().await;
    eventually(&nodes, "members meet again", || {
        epochs(&nodes) == [Some(3); 3] && all_alive(&nodes)
    })
    .await;
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_gossip_key_files_makes_its_keys_over_quic() {
    let hosts = Nodes::new(3);
    for node in 1..=3 {
        fs::remove_file(hosts.tls_dir(node).join("gossip.key")).unwrap();
    }
    let nodes = hosts.start_all().await;
    eventually(&nodes, "members meet", || {
        epochs(&nodes) == [Some(1); 3] && all_alive(&nodes)
    })
    .await;
    let mut events = nodes[0].members().events();
    assert_eq!(nodes[1].rotate_gossip_keys().await.unwrap(), 2);
    eventually(&nodes, "the next key", || epochs(&nodes) == [Some(2); 3]).await;
    nobody_died(&mut events).await;
    for node in &nodes {
        node.kill().await;
    }
}
