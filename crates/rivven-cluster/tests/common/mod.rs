//! Nodes of one process on loopback: real certificates, real disks, real sockets.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rivven_cluster::{Cluster, ClusterConfig, NodeId, Profile, StartError, TopicRef, identity};
use tempfile::TempDir;

/// Longest wait for anything; a healthy machine needs a second or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The directories and addresses of the nodes 1 to `n`.
pub(crate) struct Nodes {
    dir: TempDir,
    /// How many of them found the cluster; the others join.
    founders: usize,
    quic: Vec<SocketAddr>,
    gossip: Vec<SocketAddr>,
}

impl Nodes {
    pub(crate) fn new(count: u64) -> Self {
        Self::with_newcomers(count, 0)
    }

    /// Founders, and nodes that are to join them.
    pub(crate) fn with_newcomers(founders: u64, newcomers: u64) -> Self {
        let count = founders + newcomers;
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<NodeId> = (1..=count).collect();
        identity::write_cluster(&dir.path().join("certs"), &ids).unwrap();
        let ports = free_addrs(2 * ids.len());
        let (quic, gossip) = ports.split_at(ids.len());
        Self {
            dir,
            founders: usize::try_from(founders).unwrap(),
            quic: quic.to_vec(),
            gossip: gossip.to_vec(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn tls_dir(&self, node: NodeId) -> PathBuf {
        self.path().join(format!("certs/node-{node}"))
    }

    pub(crate) fn quic(&self, node: NodeId) -> SocketAddr {
        self.quic[usize::try_from(node).unwrap() - 1]
    }

    pub(crate) fn config(&self, node: NodeId) -> ClusterConfig {
        let at = usize::try_from(node).unwrap() - 1;
        let mut config = ClusterConfig::new(node);
        config.profile = Profile::Local;
        config.bind_address = self.quic[at];
        config.gossip.bind_port = self.gossip[at].port();
        config.data_dir = Some(self.path().join(format!("data-{node}")));
        config.tls_dir = Some(self.tls_dir(node));
        // The list names every founder, this node included, as an operator would copy it around.
        let founders = self.quic.iter().take(self.founders);
        config.raft.peers = founders.map(|addr| (*addr).into()).collect();
        let founders = self.gossip.iter().take(self.founders);
        config.gossip.known_peers = founders.map(|addr| (*addr).into()).collect();
        config
    }

    pub(crate) async fn start(&self, node: NodeId) -> Cluster {
        Cluster::start(self.config(node)).await.unwrap()
    }

    pub(crate) async fn start_all(&self) -> Vec<Cluster> {
        let mut nodes = Vec::new();
        for node in 1..=self.founders as u64 {
            nodes.push(self.start(node).await);
        }
        ready(&nodes).await;
        nodes
    }
}

/// Waits until every node serves.
pub(crate) async fn ready(nodes: &[Cluster]) {
    for node in nodes {
        if let Err(error) = node.wait_ready(PATIENCE).await {
            panic!("node {}: {error}\n{:?}", node.node_id(), node.status());
        }
    }
}

/// Waits until `holds`; says `what` and the status of every node when it does not in time.
pub(crate) async fn eventually(nodes: &[Cluster], what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        if tokio::time::Instant::now() >= deadline {
            for node in nodes {
                eprintln!("{:?}\n{:?}", node.status(), node.members().list());
            }
            panic!("not in time: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nodes that lead partitions of `topic`, as `node` sees it; one entry per partition that has a leader.
pub(crate) fn leaders(node: &Cluster, topic: &str) -> Vec<NodeId> {
    let map = node.partitions().assignments();
    let partitions = map.topic(topic).into_iter().flat_map(TopicRef::partitions);
    partitions.filter_map(|partition| partition.leader()).collect()
}

/// Addresses on loopback that nobody uses, none given out twice by this process.
///
/// Below the range from which the system picks ports for others, so that a port stays free while its node
/// is down.
pub(crate) fn free_addrs(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let offset = std::process::id().wrapping_mul(101);
    let candidates = std::iter::repeat_with(|| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + offset.wrapping_add(step) % 12_000;
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()))
    });
    candidates
        .filter(|addr| UdpSocket::bind(addr).is_ok())
        .take(count)
        .collect()
}

/// The code and text of a start that must fail.
pub(crate) async fn refused(config: ClusterConfig) -> (&'static str, String) {
    match Cluster::start(config).await {
        Ok(node) => panic!("node {} started", node.node_id()),
        Err(error) => (StartError::code(&error), error.to_string()),
    }
}
