//! Clients over a network in memory, against real nodes.

mod watch;

use rivven_transport::{
    BootEpoch, ClusterId, InstanceId, LocalIdentity, MemoryNetwork, Router, identity::Role,
};

use super::*;
use crate::{
    Fabric, KeyRange, KvCommand, KvCompare, KvOp, KvOpResult, KvResponse, KvStore, KvTxn, Lifetime, Outcome,
    RaftConfig, RaftNode,
};

type Node = RaftNode<KvStore>;

/// Three nodes over one network.
async fn group(network: &MemoryNetwork) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let router = Router::new();
        let transport = network.join(identity(node_id), router.clone()).unwrap();
        let config = RaftConfig {
            node_id,
            peers: vec![],
            election_timeout_ms: 150..300,
            heartbeat_interval_ms: 50,
        };
        let builder = RaftNode::builder(config)
            .transport(transport, router)
            .seed(node_id);
        nodes.push(builder.state_machine(KvStore::new()).start().await.unwrap());
    }
    nodes[0].initialize(members()).await.unwrap();
    for node in &nodes {
        node.wait_for_leader(Duration::from_secs(5)).await.unwrap();
    }
    nodes
}

fn members() -> BTreeMap<NodeId, PeerAddr> {
    let addr = |node| format!("node{node}:9093").parse().unwrap();
    (1..=3).map(|node| (node, addr(node))).collect()
}

fn identity(node: NodeId) -> LocalIdentity {
    LocalIdentity {
        cluster: ClusterId::from_bytes([7; 16]),
        node,
        instance: InstanceId::from_bytes([u8::try_from(node).unwrap(); 16]),
        boot_epoch: BootEpoch(1),
    }
}

fn client(network: &MemoryNetwork, role: Role) -> Client<KvStore> {
    let transport = network.join_as(identity(100), role, Router::new()).unwrap();
    Client::over(transport, members())
}

fn leader(nodes: &[Node]) -> NodeId {
    nodes[0].status().leader.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_client_finds_the_leader_and_reads_what_it_has_written() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    for i in 0..20 {
        let put = KvCommand::put(format!("k{i:02}"), format!("v{i}"));
        client.propose(put).await.unwrap();
    }
    assert_eq!(client.leader(), Some(leader(&nodes)));
    let read = client.get("k07", Consistency::Linearizable).await.unwrap();
    assert_eq!(read.value.unwrap().value, "v7");
    let page = client
        .range(KeyRange::all(), 3, None, Consistency::Linearizable)
        .await;
    let page = page.unwrap().value;
    assert_eq!(page.entries.len(), 3);
    assert!(page.more);
    let stale = client.get("k00", Consistency::Stale).await.unwrap();
    assert!(stale.applied_index.is_some());
}

#[tokio::test(start_paused = true)]
async fn many_proposals_at_once_are_applied_in_order_and_answered_each() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    let too_long = KvCommand::put("k".repeat(crate::MAX_KEY_BYTES + 1), "v");
    let puts = (0..3_000).map(|i| match i {
        1_500 => too_long.clone(),
        _ => KvCommand::put("k", format!("{i}")),
    });
    for outcomes in [
        client.propose_many(puts.clone(), Duration::from_secs(5)).await,
        nodes[0].propose_many(puts.clone(), Duration::from_secs(5)).await,
        nodes[1].propose_many(puts, Duration::from_secs(5)).await,
    ] {
        let revisions: Vec<u64> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Ok(KvResponse::Written { revision, .. }) => Some(*revision),
                _ => None,
            })
            .collect();
        assert_eq!(revisions.len(), 2_999);
        assert!(revisions.is_sorted(), "in their order");
        let refused = outcomes[1_500].as_ref().unwrap_err();
        assert_eq!(refused.code(), "command-refused");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_follows_the_leader_when_the_old_one_falls_silent() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    let session = client.open_session(Duration::from_secs(60)).await.unwrap();
    let put = |value: &str| KvCommand::put("k", value.to_owned());
    session
        .propose(put("before"), Duration::from_secs(5))
        .await
        .unwrap();
    let old = leader(&nodes);
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != old).collect();
    // Cut off from everybody, the client included: requests vanish without a word.
    network.partition(&[old], &[others[0], others[1], 100]);
    let cut = Instant::now();
    session
        .propose(put("after"), Duration::from_secs(5))
        .await
        .unwrap();
    assert!(cut.elapsed() < Duration::from_secs(1), "{:?}", cut.elapsed());
    assert_ne!(client.leader(), Some(old));
    network.heal();
    let read = client
        .get("k", Consistency::Linearizable)
        .await
        .unwrap()
        .value
        .unwrap();
    assert_eq!(
        (&read.value[..], read.version),
        (&b"after"[..], 2),
        "applied once"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_and_whose_answer_was_lost_is_done_once() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    let session = client.open_session(Duration::from_secs(60)).await.unwrap();
    let old = leader(&nodes);
    // Requests arrive, answers do not.
    network.cut(old, 100);
    let write = session.propose(KvCommand::put("k", "once"), Duration::from_secs(10));
    let committed = async {
        let done = async |node: &Node| {
            let read = node.read(Consistency::Linearizable, |kv| kv.get("k").is_some());
            read.await.unwrap().value
        };
        while !done(&nodes[0]).await {
            sleep(Duration::from_millis(5)).await;
        }
        // Its leader goes before it could answer.
        let others: Vec<NodeId> = (1..=3).filter(|node| *node != old).collect();
        network.partition(&[old], &[others[0], others[1], 100]);
    };
    let (written, ()) = tokio::join!(write, committed);
    let written = written.unwrap();
    network.heal();
    let read = client.get("k", Consistency::Linearizable).await.unwrap();
    let entry = read.value.unwrap();
    assert_eq!(entry.version, 1, "applied once");
    assert!(
        matches!(written, KvResponse::Written { revision, .. } if revision == entry.mod_revision),
        "the first answer: {written:?}"
    );
    assert_ne!(client.leader(), Some(old));
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_the_outcome_is_not_done_or_unknown_and_never_done() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    client.propose(KvCommand::put("k", "1")).await.unwrap();
    let old = leader(&nodes);
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != old).collect();
    network.partition(&[old], &others);
    network.partition(&[others[0]], &[others[1]]);
    let options = ProposeOptions {
        deadline: Duration::from_secs(1),
        ..ProposeOptions::default()
    };
    let error = client
        .propose_with(KvCommand::put("k", "2"), options)
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    sleep(Duration::from_secs(1)).await;
    let error = client
        .propose_with(KvCommand::put("k", "3"), options)
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotDone, "the lease has lapsed: {error}");
}

#[tokio::test(start_paused = true)]
async fn the_role_in_the_certificate_decides_what_may_be_asked() {
    let network = MemoryNetwork::new();
    let _nodes = group(&network).await;
    let observer = client(&network, Role::Observer);
    let options = ProposeOptions {
        deadline: Duration::from_millis(200),
        ..ProposeOptions::default()
    };
    let error = observer
        .propose_with(KvCommand::put("k", "v"), options)
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotDone, "{error}");
    drop(observer);
    let transport = network
        .join_as(identity(101), Role::Client, Router::new())
        .unwrap();
    let client = Client::<KvStore>::over(transport, members());
    let finalize = SystemCommand::Finalize {
        feature: "rivven".into(),
        level: 1,
    };
    let error = client
        .system(&finalize, Duration::from_secs(1))
        .await
        .unwrap_err();
    let ProposeError::Refused(refusal) = error else {
        panic!("{error}");
    };
    assert_eq!(refusal.code, "role-not-allowed");
}

#[tokio::test(start_paused = true)]
async fn replies_too_large_for_one_answer_are_fetched() {
    let network = MemoryNetwork::new();
    let _nodes = group(&network).await;
    let client = client(&network, Role::Client);
    let large = |i: u32| KvCommand::put(format!("k{i}"), vec![7; crate::MAX_VALUE_BYTES]);
    for i in 0..8 {
        client.propose(large(i)).await.unwrap();
    }
    // Small commands whose replies carry large values.
    let reads = (0..8).map(|i| {
        let range = KeyRange::key(format!("k{i}"));
        KvCommand::Txn(KvTxn::new().then(KvOp::Range { range, limit: 1 }))
    });
    let outcomes = client.propose_many(reads, Duration::from_secs(5)).await;
    for outcome in outcomes {
        let Ok(KvResponse::Txn { results, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        let [KvOpResult::Range { entries, .. }] = results.as_slice() else {
            panic!("{results:?}");
        };
        assert_eq!(entries[0].1.value.len(), crate::MAX_VALUE_BYTES);
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_on_proposals_in_flight_refuses_before_anything_is_written() {
    let network = MemoryNetwork::new();
    let nodes = group(&network).await;
    let client = client(&network, Role::Client);
    client.propose(KvCommand::put("k", "1")).await.unwrap();
    let before = nodes[0].status().last_log_index;
    let others: Vec<NodeId> = (1..=3).collect();
    network.partition(&[100], &others);
    let options = ProposeOptions {
        deadline: Duration::from_millis(100),
        ..ProposeOptions::default()
    };
    let puts = (0..70).map(|_| client.propose_with(KvCommand::put("k", vec![7; 1 << 20]), options));
    let outcomes = futures_util::future::join_all(puts).await;
    let refused = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(ProposeError::Overloaded)));
    assert_eq!(refused.count(), 70 - 63);
    assert_eq!(nodes[0].status().last_log_index, before);
}

#[tokio::test(start_paused = true)]
async fn a_client_on_a_fabric_without_members_says_that_nobody_answers() {
    let fabric = Fabric::new();
    let transport = fabric
        .network()
        .join_as(identity(100), Role::Client, Router::new())
        .unwrap();
    let seeds = ["nowhere:1".parse().unwrap()];
    let error = Client::<KvStore>::connect(transport, &seeds, Duration::from_millis(100)).await;
    assert_eq!(error.unwrap_err().code(), "no-node-answered");
}

#[tokio::test(start_paused = true)]
async fn a_client_holds_keys_by_a_lease_and_changes_several_at_once() {
    let network = MemoryNetwork::new();
    let _nodes = group(&network).await;
    let client = client(&network, Role::Client);
    let granted = client.propose(KvCommand::GrantLease { ttl_ms: 5_000 }).await;
    let KvResponse::Leased { lease, .. } = granted.unwrap() else {
        panic!("no lease");
    };
    let held = KvCommand::put_for("held", "v", Lifetime::Lease(lease));
    client.propose(held).await.unwrap();
    let txn = KvTxn::new()
        .when(KvCompare::exists("held"))
        .then(KvOp::put("a", "1"))
        .then(KvOp::put("b", "2"));
    let done = client.propose(KvCommand::Txn(txn)).await.unwrap();
    assert!(
        matches!(done, KvResponse::Txn { succeeded: true, .. }),
        "{done:?}"
    );
    let found = client.lease(lease, Consistency::Linearizable).await.unwrap();
    let found = found.value.unwrap();
    assert_eq!((found.id, found.ttl_ms, found.keys), (lease, 5_000, 1));
    sleep(Duration::from_secs(4)).await;
    client.propose(KvCommand::RenewLease { lease }).await.unwrap();
    sleep(Duration::from_secs(4)).await;
    assert!(
        client
            .get("held", Consistency::Linearizable)
            .await
            .unwrap()
            .value
            .is_some()
    );
    sleep(Duration::from_secs(4)).await;
    for gone in [
        client
            .get("held", Consistency::Linearizable)
            .await
            .unwrap()
            .value
            .is_none(),
        client
            .lease(lease, Consistency::Linearizable)
            .await
            .unwrap()
            .value
            .is_none(),
        client
            .get("a", Consistency::Linearizable)
            .await
            .unwrap()
            .value
            .is_some(),
    ] {
        assert!(gone);
    }
}
