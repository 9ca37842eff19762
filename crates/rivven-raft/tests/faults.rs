//! Seeded faults: links cut and healed, nodes killed and started from their disks, under load.
//!
//! A failing seed is printed; run it alone by narrowing the range in the test.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::*;
use rivven_raft::{
    Consistency, Fabric, KvCommand, KvStore, NodeDir, NodeId, Outcome, ProposeOptions, RaftNode,
};
use rivven_types::ClusterId;
use tempfile::TempDir;

const NODES: u64 = 3;

/// Knuth's generator, good enough to choose faults.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

async fn start_on_disk(fabric: &Fabric, root: &Path, node_id: NodeId, seed: u64) -> Node {
    let cluster = ClusterId::from_bytes([7; 16]);
    let random = [u8::try_from(node_id).unwrap(); 16];
    let dir = NodeDir::open(root.join(node_id.to_string()), cluster, node_id, random).unwrap();
    RaftNode::builder(config(node_id, NODES))
        .fabric(fabric)
        .data_dir(dir)
        .inline_writes()
        .seed(seed)
        .snapshot_every(30)
        .state_machine(KvStore::new())
        .start()
        .await
        .unwrap()
}

type Slots = Arc<Mutex<BTreeMap<NodeId, Node>>>;

/// Writes `writer-0`, `writer-1`, … through whichever node is up; returns what was acknowledged.
async fn write(slots: Slots, writer: u64, seed: u64) -> Vec<String> {
    let mut random = Random(seed * 31 + writer);
    let options = ProposeOptions {
        deadline: Duration::from_millis(700),
    };
    let mut acknowledged = Vec::new();
    for i in 0..120 {
        let node = slots.lock().unwrap().get(&(1 + random.below(NODES))).cloned();
        if let Some(node) = node {
            let key = format!("{writer}-{i}");
            match node.propose_with(KvCommand::put(key.clone(), "v"), options).await {
                Ok(_) => acknowledged.push(key),
                Err(error) => assert!(
                    matches!(error.outcome(), Outcome::NotDone | Outcome::Unknown),
                    "{error}"
                ),
            }
        }
        tokio::time::sleep(Duration::from_millis(20 + random.below(60))).await;
    }
    acknowledged
}

/// Kills nodes at once and starts them again after a while.
async fn restart(slots: &Slots, fabric: &Fabric, root: &Path, ids: &[NodeId], seed: u64, after_ms: u64) {
    let killed: Vec<Node> = ids
        .iter()
        .filter_map(|id| slots.lock().unwrap().remove(id))
        .collect();
    futures_util::future::join_all(killed.iter().map(Node::kill)).await;
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    for id in ids {
        let again = start_on_disk(fabric, root, *id, seed + id).await;
        slots.lock().unwrap().insert(*id, again);
    }
}

/// Cuts links, heals them, kills nodes and starts them again. Returns how much it did.
async fn disturb(slots: Slots, fabric: Fabric, root: &Path, seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut faults = 0;
    for step in 0..16 {
        let (one, other) = (1 + random.below(NODES), 1 + random.below(NODES));
        match random.below(5) {
            0 => fabric.network().cut(one, other),
            1 => isolate(&fabric, one, &[1, 2, 3]),
            2 => fabric.network().heal(),
            3 => restart(&slots, &fabric, root, &[one], seed + step, random.below(600)).await,
            _ => restart(&slots, &fabric, root, &[1, 2, 3], seed + step, 0).await,
        }
        faults += 1;
        tokio::time::sleep(Duration::from_millis(100 + random.below(700))).await;
    }
    fabric.network().heal();
    faults
}

/// Where a sync costs nothing, if there is such a place: crashes here are of tasks, not of power.
fn disk() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

async fn run(seed: u64) {
    let root = disk();
    let fabric = Fabric::new();
    let slots = Slots::default();
    for node_id in 1..=NODES {
        let node = start_on_disk(&fabric, root.path(), node_id, seed).await;
        slots.lock().unwrap().insert(node_id, node);
    }
    let writers = futures_util::future::join_all((0..3).map(|writer| write(slots.clone(), writer, seed)));
    let (acknowledged, faults) =
        tokio::join!(writers, disturb(slots.clone(), fabric.clone(), root.path(), seed));
    let acknowledged: Vec<String> = acknowledged.into_iter().flatten().collect();
    // A check that saw no faults or no writes proves nothing.
    assert!(
        faults == 16 && acknowledged.len() > 60,
        "seed {seed}: {} writes",
        acknowledged.len()
    );
    let nodes: Vec<Node> = slots.lock().unwrap().values().cloned().collect();
    agreed_leader(&nodes).await;
    for node in &nodes {
        let missing = node
            .read(Consistency::Linearizable, |kv| {
                acknowledged
                    .iter()
                    .filter(|key| kv.get(key).is_none())
                    .cloned()
                    .collect::<Vec<_>>()
            })
            .await
            .unwrap();
        assert_eq!(
            missing.value,
            Vec::<String>::new(),
            "seed {seed}: acknowledged and lost"
        );
    }
    for node in nodes {
        node.shutdown().await;
    }
}

#[test]
fn acknowledged_writes_survive_cuts_and_kills() {
    for seed in 1..=4 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        println!("seed {seed}");
        runtime.block_on(run(seed));
    }
}
