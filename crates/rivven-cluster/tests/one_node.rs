//! A cluster of one, and every start that must be refused.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::{collections::BTreeMap, net::UdpSocket, time::Duration};

use common::{Nodes, PATIENCE, refused};
use rivven_cluster::{
    Cluster, ClusterConfig, Consistency, Goal, KeyRange, KvCompare, KvOp, KvOpResult, KvTxn, KvUpdate,
    Lifetime, Phase, Swap, TopicChange, TopicSpec, WatchFrom, identity,
};

#[tokio::test]
async fn a_cluster_of_one_works_and_keeps_its_data() {
    let hosts = Nodes::new(1);
    let mut config = ClusterConfig::dev(hosts.path().join("dev"));
    config.tls_dir = Some(hosts.tls_dir(1));
    let node = Cluster::start(config.clone()).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    assert_eq!(node.status().phase, Phase::Running);
    assert!(node.liveness().iter().all(|check| check.ok));

    let revision = node.kv().put("k", "v").await.unwrap();
    let conflict = node
        .kv()
        .swap("k", Some(revision + 1), Some("w".into()))
        .await
        .unwrap();
    assert_eq!(
        conflict,
        Swap::Conflict {
            current: Some(revision)
        }
    );
    let done = node
        .kv()
        .swap("k", Some(revision), Some("w".into()))
        .await
        .unwrap();
    assert_eq!(
        done,
        Swap::Done {
            revision: revision + 1,
            lease: None,
        }
    );
    assert_eq!(node.kv().put("", "v").await.unwrap_err().code(), "empty-key");
    node.kv().put("k2", "v").await.unwrap();
    let listed = node.kv().list("k", 10, Consistency::Stale).await.unwrap();
    assert_eq!(
        listed.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["k", "k2"]
    );
    node.kv().delete("k2").await.unwrap();

    topics_come_and_go(&node).await;
    keys_change_together_and_end_with_their_lease(&node).await;

    let report = node.shutdown().await;
    assert!(report.warnings.is_empty(), "{report:?}");
    drop(node);
    config.weight = 50;
    config.endpoints = [("client".into(), "n1.example.org:9092".parse().unwrap())].into();
    let node = Cluster::start(config).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    let client = node.partitions().endpoint(1, "client").unwrap();
    assert_eq!(client.to_string(), "n1.example.org:9092");
    assert_eq!(node.partitions().endpoint(1, "web"), None);
    let map = node.partitions().assignments();
    assert_eq!(map.node(1).unwrap().weight(), 50);
    let entry = node
        .kv()
        .get("k", Consistency::Linearizable)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((entry.value, entry.create_revision), ("w".into(), revision));
    assert_eq!(
        node.kv().get("k2", Consistency::Linearizable).await.unwrap(),
        None
    );
}

async fn keys_change_together_and_end_with_their_lease(node: &Cluster) {
    let kv = node.kv();
    let lease = kv.grant_lease(Duration::from_secs(60)).await.unwrap();
    let before = kv.put_for("lock", "me", Lifetime::Lease(lease)).await.unwrap();
    let claim = |owner: &'static str| {
        KvTxn::new()
            .when(KvCompare::absent("lock"))
            .then(KvOp::put("lock", owner))
            .otherwise(KvOp::get("lock"))
    };
    let lost = kv.txn(claim("you")).await.unwrap();
    assert_eq!((lost.succeeded, lost.revision), (false, before.revision));
    assert!(matches!(&lost.results[..], [KvOpResult::Range { entries, .. }] if entries[0].1.value == "me"));

    let mut watch = kv
        .watch(KeyRange::key("lock"), WatchFrom::Revision(before.revision + 1))
        .unwrap();
    kv.renew_lease(lease).await.unwrap();
    kv.revoke_lease(lease).await.unwrap();
    let gone = tokio::time::timeout(PATIENCE, watch.next())
        .await
        .unwrap()
        .unwrap();
    let KvUpdate::Changes { events } = gone else {
        panic!("{gone:?}")
    };
    assert_eq!(
        (events[0].key.as_str(), events[0].entry.is_none()),
        ("lock", true)
    );
    assert_eq!(kv.renew_lease(lease).await.unwrap_err().code(), "lease-not-found");
    let won = kv.txn(claim("you")).await.unwrap();
    assert!(won.succeeded);

    assert_eq!(kv.compact(won.revision).await.unwrap(), won.revision);
    let past = kv
        .range(&KeyRange::all(), Some(before.revision), 1, Consistency::Stale)
        .await;
    assert_eq!(past.unwrap_err().code(), "compacted");
    kv.delete("lock").await.unwrap();
}

async fn topics_come_and_go(node: &Cluster) {
    // The replication factor comes from the configuration, which is 1 for a cluster of one.
    node.partitions()
        .create_topic("t", TopicSpec::new(2))
        .await
        .unwrap();
    assert_eq!(node.partitions().leader("t", 1).unwrap().node, 1);
    assert_eq!(
        node.partitions().leader("t", 2).unwrap_err().code(),
        "unknown-partition"
    );
    assert_eq!(
        node.partitions().leader("u", 0).unwrap_err().code(),
        "unknown-topic"
    );
    let few = node
        .partitions()
        .create_topic("u", TopicSpec::new(1).replication_factor(3))
        .await;
    assert_eq!(few.unwrap_err().code(), "not-enough-nodes");
    let mut watch = node.partitions().watch();
    let more = TopicChange {
        partitions: Some(3),
        settings: BTreeMap::from([("x-retention".into(), Some("a week".into()))]),
        ..TopicChange::default()
    };
    node.partitions().change_topic("t", more).await.unwrap();
    let update = watch.next().await;
    let topic = update.map.topic("t").unwrap().get().clone();
    assert_eq!(update.changes.unwrap().topics, [topic.id]);
    let mut grown = update.map;
    while grown.topic("t").unwrap().settings.get("x-retention") != Some("a week") {
        grown = watch.changed().await;
    }
    assert_eq!(grown.topic("t").unwrap().partition_count(), 3);
    assert!(node.partitions().plan(&Goal::default()).await.unwrap().is_empty());
    assert_eq!(node.partitions().rebalance(), None);
    node.partitions().delete_topic("t").await.unwrap();
    assert!(watch.changed().await.topic("t").is_none());
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_node() {
    let hosts = Nodes::new(1);
    let config = hosts.config(1);
    let node = Cluster::start(config.clone()).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    let kv = node.kv();
    drop(node);
    // What was held ends without anybody waiting for it, so it takes a moment.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let node = loop {
        match Cluster::start(config.clone()).await {
            Ok(node) => break node,
            Err(error) if tokio::time::Instant::now() >= deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(kv.put("k", "v").await.unwrap_err().code(), "not-ready");
    node.wait_ready(PATIENCE).await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn each_start_that_cannot_work_is_refused_with_its_cause() {
    let hosts = Nodes::new(2);
    let with = |change: &dyn Fn(&mut ClusterConfig)| {
        let mut config = hosts.config(1);
        config.raft.peers.clear();
        change(&mut config);
        config
    };

    let (code, text) = refused(with(&|c| c.tls_dir = Some("nowhere".into()))).await;
    assert!(text.contains("rivven-node cert init"), "{code}: {text}");
    let (code, _) = refused(with(&|c| c.raft.heartbeat_interval_ms = Some(1_000))).await;
    assert_eq!(code, "config-invalid-value");
    let (code, text) = refused(with(&|c| c.tls_dir = Some(hosts.tls_dir(2)))).await;
    assert_eq!(code, "node-id-mismatch");
    assert!(text.contains("node 2") && text.contains("node_id"), "{text}");
    let file = hosts.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, _) = refused(with(&|c| c.data_dir = Some(file.join("data")))).await;
    assert_eq!(code, "data-dir-not-writable");

    // Ports in use, of either kind; what was opened before is closed again.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken_addr = taken.local_addr().unwrap();
    let (code, text) = refused(with(&|c| c.bind_address = taken_addr)).await;
    assert_eq!(code, "port-in-use", "{text}");
    assert!(text.contains(&taken_addr.port().to_string()), "{text}");
    let (code, text) = refused(with(&|c| c.gossip.bind_port = taken_addr.port())).await;
    assert_eq!(code, "port-in-use", "{text}");

    let node = Cluster::start(with(&|_| {})).await.unwrap();
    let (code, _) = refused(with(&|c| c.bind_address = "127.0.0.1:0".parse().unwrap())).await;
    assert_eq!(code, "data-dir-locked");
    node.shutdown().await;
    drop(node);

    // The directory of node 1, under node 2 and then under another cluster.
    let (code, _) = refused(with(&|c| {
        c.node_id = 2;
        c.tls_dir = Some(hosts.tls_dir(2));
    }))
    .await;
    assert_eq!(code, "data-dir-foreign-node");
    identity::write_cluster(&hosts.path().join("other"), &[1]).unwrap();
    let (code, _) = refused(with(&|c| c.tls_dir = Some(hosts.path().join("other/node-1")))).await;
    assert_eq!(code, "data-dir-foreign-cluster");

    // Nothing was harmed by any of it.
    let node = Cluster::start(with(&|_| {})).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    node.shutdown().await;
}
