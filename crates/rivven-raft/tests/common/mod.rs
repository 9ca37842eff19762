//! A group of nodes on a network of its own.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

pub(crate) mod backup;
pub(crate) mod recorder;

use std::{path::Path, time::Duration};

use rivven_raft::{Consistency, Fabric, KvCommand, KvStore, NodeDir, NodeId, RaftConfig, RaftNode};
use rivven_types::ClusterId;

pub(crate) type Node = RaftNode<KvStore>;

pub(crate) const WAIT: Duration = Duration::from_secs(10);

/// The cluster of data directories, unless a test says another one.
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// The data directory of a node in `root`.
pub(crate) fn open(root: &Path, node_id: NodeId) -> NodeDir {
    open_of(root, CLUSTER, node_id)
}

/// The data directory of a node of some cluster in `root`.
pub(crate) fn open_of(root: &Path, cluster: ClusterId, node_id: NodeId) -> NodeDir {
    let random = [u8::try_from(node_id).unwrap(); 16];
    NodeDir::open(root.join(node_id.to_string()), cluster, node_id, random).unwrap()
}

pub(crate) fn config(node_id: NodeId, voters: u64) -> RaftConfig {
    RaftConfig {
        node_id,
        peers: (1..=voters).filter(|peer| *peer != node_id).collect(),
        election_timeout_ms: 150..300,
        heartbeat_interval_ms: 50,
    }
}

pub(crate) async fn start(fabric: &Fabric, node_id: NodeId, voters: u64) -> Node {
    RaftNode::builder(config(node_id, voters))
        .fabric(fabric)
        .seed(node_id)
        .state_machine(KvStore::new())
        .start()
        .await
        .unwrap()
}

/// `count` nodes, in the order of their ids from 1.
pub(crate) async fn group(fabric: &Fabric, count: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node_id in 1..=count {
        nodes.push(start(fabric, node_id, count).await);
    }
    nodes
}

/// The leader that every one of `nodes` names.
pub(crate) async fn agreed_leader(nodes: &[Node]) -> NodeId {
    let agreed = async {
        loop {
            let first = nodes[0].status().leader;
            if let Some(leader) = first
                && nodes.iter().all(|node| node.status().leader == first)
            {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, agreed).await.expect("a leader")
}

pub(crate) fn node(nodes: &[Node], id: NodeId) -> &Node {
    nodes.iter().find(|node| node.status().node_id == id).unwrap()
}

pub(crate) async fn put(node: &Node, key: &str, value: &str) {
    node.propose(KvCommand::put(key, value.to_owned())).await.unwrap();
}

pub(crate) async fn get(node: &Node, key: &str) -> Option<String> {
    let read = node.read(Consistency::Linearizable, |kv| value(kv, key)).await;
    read.unwrap().value
}

pub(crate) fn value(kv: &KvStore, key: &str) -> Option<String> {
    kv.get(key)
        .map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

/// Cuts every link of `id`, both ways.
pub(crate) fn isolate(fabric: &Fabric, id: NodeId, others: &[NodeId]) {
    for other in others {
        fabric.network().cut(id, *other);
        fabric.network().cut(*other, id);
    }
}
