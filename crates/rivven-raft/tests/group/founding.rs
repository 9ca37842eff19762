//! Starting, naming founders, electing the first leader.

use std::{collections::BTreeMap, time::Duration};

use rivven_raft::{Fabric, KvCommand, KvResponse, KvStore, MemoryNetwork, RaftConfig, RaftNode, Role};
use rivven_transport::{BootEpoch, ClusterId, InstanceId, LocalIdentity, Router};
use tokio::time::Instant;

use crate::common::*;

#[tokio::test(start_paused = true)]
async fn three_calls_with_rotated_ids_are_a_cluster_within_the_configured_time() {
    let mut nodes = Vec::new();
    for (node_id, peers) in [(1, vec![2, 3]), (2, vec![3, 1]), (3, vec![1, 2])] {
        let config = RaftConfig {
            node_id,
            peers,
            election_timeout_ms: 150..300,
            heartbeat_interval_ms: 50,
        };
        nodes.push(RaftNode::new(config).await.unwrap());
    }
    let started = Instant::now();
    agreed_leader(&nodes).await;
    assert!(
        started.elapsed() <= Duration::from_millis(300),
        "{:?}",
        started.elapsed()
    );
    put(&nodes[0], "a", "1").await;
    for node in &nodes {
        assert_eq!(get(node, "a").await.as_deref(), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn new_returns_without_waiting_for_a_quorum() {
    let node = RaftNode::new(config(1, 3)).await.unwrap();
    let error = node.wait_for_leader(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.code(), "no-leader");
    assert!(node.status().initialized);
    assert_eq!(node.status().voters, [1, 2, 3].into());
}

#[tokio::test(start_paused = true)]
async fn a_single_node_leads_itself() {
    let node = start(&Fabric::new(), 1, 1).await;
    assert_eq!(node.wait_for_leader(WAIT).await.unwrap(), 1);
    let response = node.propose(KvCommand::put("a", "1")).await.unwrap();
    assert_eq!(
        response,
        KvResponse::Written {
            revision: 1,
            previous: None,
            lease: None,
        }
    );
    assert_eq!(node.status().role, Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_free_again_once_its_node_was_dropped() {
    let fabric = Fabric::new();
    let one = start(&fabric, 1, 1).await;
    let again = RaftNode::builder(config(1, 1))
        .fabric(&fabric)
        .state_machine(KvStore::new());
    assert_eq!(again.start().await.unwrap_err().code(), "duplicate-node");
    let clone = one.clone();
    drop(one);
    assert!(
        clone.wait_for_leader(WAIT).await.is_ok(),
        "a clone keeps the node alive"
    );
    drop(clone);
    start(&fabric, 1, 1).await;
}

#[tokio::test(start_paused = true)]
async fn different_founders_and_foreign_settings_are_refused() {
    let fabric = Fabric::new();
    let _one = start(&fabric, 1, 3).await;
    let two = |voters| RaftNode::builder(config(2, voters)).fabric(&fabric);
    let refused = two(2).state_machine(KvStore::new()).start().await.unwrap_err();
    assert_eq!(refused.code(), "different-voters");
    let refused = two(3).start().await.map(|node: Node| node).unwrap_err();
    assert_eq!(refused.code(), "no-state-machine");
    two(3).state_machine(KvStore::new()).start().await.unwrap();
}
#[tokio::test(start_paused = true)]
async fn over_a_given_transport_the_caller_says_who_votes() {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let identity = LocalIdentity {
            cluster: ClusterId::from_bytes([7; 16]),
            node: node_id,
            instance: InstanceId::from_bytes([1; 16]),
            boot_epoch: BootEpoch(1),
        };
        let router = Router::new();
        let transport = network.join(identity, router.clone()).unwrap();
        let wrong = RaftNode::<KvStore>::builder(config(9, 3)).transport(transport.clone(), router.clone());
        let wrong = wrong.state_machine(KvStore::new()).start().await.unwrap_err();
        assert_eq!(wrong.code(), "identity-mismatch");
        let builder = RaftNode::builder(config(node_id, 1)).transport(transport, router);
        nodes.push(builder.state_machine(KvStore::new()).start().await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        nodes
            .iter()
            .all(|node| !node.status().initialized && node.status().leader.is_none())
    );
    let voters: BTreeMap<_, _> = (1..=3)
        .map(|id| (id, format!("node{id}:9093").parse().unwrap()))
        .collect();
    let others = voters.clone().into_iter().filter(|(id, _)| *id != 1).collect();
    let error = nodes[0].initialize(others).await.unwrap_err();
    assert_eq!(error.code(), "not-a-founder");
    nodes[0].initialize(voters.clone()).await.unwrap();
    let error = nodes[0].initialize(voters).await.unwrap_err();
    assert_eq!(error.code(), "already-initialized");
    agreed_leader(&nodes).await;
    put(&nodes[2], "a", "1").await;
    assert_eq!(get(&nodes[1], "a").await.as_deref(), Some("1"));
}
