//! Seeded faults: links cut and healed, nodes killed and started from their disks, under load.
//!
//! A failing seed is printed; run it alone by narrowing the range in the test.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
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
    Consistency, Fabric, KvCommand, KvStore, NodeDir, NodeId, Outcome, ProposalId, ProposeError,
    ProposeOptions, RaftNode, SessionId,
};
use rivven_types::ClusterId;
use tempfile::TempDir;

const NODES: u64 = 3;

/// Keys written through a session.
const ONCE: u64 = 120;

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
        ..ProposeOptions::default()
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

fn any(slots: &Slots, random: &mut Random) -> Option<Node> {
    slots.lock().unwrap().get(&(1 + random.below(NODES))).cloned()
}

async fn open_session(slots: &Slots, random: &mut Random) -> SessionId {
    loop {
        if let Some(node) = any(slots, random)
            && let Ok(session) = node.open_session(Duration::from_secs(3_600)).await
        {
            return session.id();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes each of its keys through one node after the other, under one number, until one says it is done.
/// Returns how many attempts had an unknown outcome.
async fn write_once(slots: Slots, seed: u64) -> u64 {
    let mut random = Random(seed * 37);
    let session = open_session(&slots, &mut random).await;
    let mut unknown = 0;
    for seq in 1..=ONCE {
        let options = ProposeOptions {
            deadline: Duration::from_millis(60 + random.below(100)),
            id: Some(ProposalId { session, seq }),
        };
        loop {
            if let Some(node) = any(&slots, &mut random) {
                let put = KvCommand::put(format!("once-{seq}"), "v");
                match node.propose_with(put, options).await {
                    Ok(_) => break,
                    Err(ProposeError::SessionLost { cause, .. }) => panic!("seed {seed}: {cause}"),
                    Err(error) => unknown += u64::from(error.outcome() == Outcome::Unknown),
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    unknown
}

/// Keys written through a session whose value was put any other number of times than once.
fn not_once(kv: &KvStore) -> Vec<String> {
    let keys = (1..=ONCE).map(|seq| format!("once-{seq}"));
    let once = |key: &String| kv.get(key).is_some_and(|entry| entry.version == 1);
    keys.filter(|key| !once(key)).collect()
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

/// Returns how many attempts of a session had an unknown outcome.
async fn run(seed: u64) -> u64 {
    let root = disk();
    let fabric = Fabric::new();
    let slots = Slots::default();
    for node_id in 1..=NODES {
        let node = start_on_disk(&fabric, root.path(), node_id, seed).await;
        slots.lock().unwrap().insert(node_id, node);
    }
    let writers = futures_util::future::join_all((0..3).map(|writer| write(slots.clone(), writer, seed)));
    let (acknowledged, faults, unknown) = tokio::join!(
        writers,
        disturb(slots.clone(), fabric.clone(), root.path(), seed),
        write_once(slots.clone(), seed),
    );
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
    for node in &nodes {
        let read = node.read(Consistency::Linearizable, not_once).await.unwrap();
        assert_eq!(read.value, Vec::<String>::new(), "seed {seed}: not applied once");
    }
    agree_on_digest(&nodes, seed).await;
    for node in nodes {
        node.shutdown().await;
    }
    unknown
}

/// Checks that every node comes to the same digest: restarts, replays and restored snapshots included.
async fn agree_on_digest(nodes: &[Node], seed: u64) {
    for _ in 0..500 {
        let mut digests = Vec::new();
        for node in nodes {
            digests.push(node.digest().await.unwrap());
        }
        let first = digests[0];
        if digests.iter().all(|digest| digest.index == first.index) {
            assert!(
                digests.iter().all(|digest| *digest == first),
                "seed {seed}: {digests:?}"
            );
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("seed {seed}: the nodes never stood at the same index");
}

#[test]
fn acknowledged_writes_survive_cuts_and_kills() {
    let mut unknown = 0;
    for seed in 1..=4 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        println!("seed {seed}");
        unknown += runtime.block_on(run(seed));
    }
    assert!(unknown > 0, "no attempt of a session had to be repeated");
}
