//! A snapshot on its way to a follower, interrupted over and over.

use std::time::Duration;

use rivven_raft::{Fabric, KvCommand, KvStore};
use rivven_transport::LinkProfile;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;

/// Values of 64 KiB, each of which differs from all others.
const VALUES: u64 = 120;
const VALUE_BYTES: usize = 64 << 10;

/// How much of a snapshot is sent at a time.
const SNAPSHOT_PIECE_BYTES: u64 = 256 << 10;

/// What crosses a link in a second. One piece of a snapshot takes about 60 ms.
const BANDWIDTH: u64 = 4 << 20;

fn value_of(number: u64) -> Vec<u8> {
    let mut value = vec![b'.'; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

/// Bytes of the snapshot that is being received.
fn received(root: &Path, node_id: NodeId) -> u64 {
    let files = std::fs::read_dir(root.join(node_id.to_string()).join("snapshots")).unwrap();
    let lens = files.filter_map(|file| {
        let path = file.unwrap().path();
        let unfinished = path.extension().is_some_and(|end| end == "partial");
        unfinished.then(|| path.metadata().map_or(0, |meta| meta.len()))
    });
    lens.max().unwrap_or(0)
}

/// What a transfer is interrupted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The link, for a short time or long enough for everybody to notice.
    Link,
    /// The end of the receiving process.
    Receiver,
}

/// Three nodes of which one lacks everything, and is cut off.
async fn group_with_one_behind(fabric: &Fabric, root: &Path) -> (Vec<Node>, NodeId, NodeId) {
    let nodes = durable_group(fabric, root).await;
    let leader = agreed_leader(&nodes).await;
    let away = if leader == 3 { 2 } else { 3 };
    let others: Vec<NodeId> = (1..=3).filter(|id| *id != away).collect();
    isolate(fabric, away, &others);
    for number in 0..VALUES {
        let put = KvCommand::put(format!("{number:03}"), value_of(number));
        node(&nodes, leader).propose(put).await.unwrap();
    }
    let slow = LinkProfile {
        bandwidth: Some(BANDWIDTH),
        ..LinkProfile::default()
    };
    for other in &others {
        fabric.network().link(*other, away, slow);
    }
    (nodes, leader, away)
}

/// More bytes than `most` of the snapshot that is on its way, once they are there; `None` if all of it is.
async fn more(behind: &Node, root: &Path, most: u64) -> Option<u64> {
    while behind.status().snapshot_index.is_none() {
        let now = received(root, behind.status().node_id);
        if now > most {
            return Some(now);
        }
        sleep(Duration::from_millis(5)).await;
    }
    None
}

async fn interrupt(cut: Cut) {
    let (root, fabric) = (TempDir::new().unwrap(), Fabric::new());
    let (mut nodes, leader, away) = group_with_one_behind(&fabric, root.path()).await;
    let others: Vec<NodeId> = (1..=3).filter(|id| *id != away).collect();
    let at = nodes
        .iter()
        .position(|node| node.status().node_id == away)
        .unwrap();
    let (mut cuts, mut most) = (0, 0);
    fabric.network().heal();
    while let Some(now) = timeout(Duration::from_secs(60), more(&nodes[at], root.path(), most))
        .await
        .unwrap()
    {
        (cuts, most) = (cuts + 1, now);
        match cut {
            Cut::Link => {
                isolate(&fabric, away, &others);
                // Some cuts are short, others are noticed by everybody.
                sleep(Duration::from_millis(if cuts % 2 == 0 { 50 } else { 1_500 })).await;
                fabric.network().heal();
            }
            Cut::Receiver => {
                nodes[at].kill().await;
                let again = builder(&fabric, root.path(), away, 3).snapshot_every(50);
                nodes[at] = again.start().await.unwrap();
            }
        }
        let kept = received(root.path(), away);
        assert!(kept >= most, "cut {cuts}: of {most} bytes {kept} are left");
    }
    let pieces = most / SNAPSHOT_PIECE_BYTES;
    assert!(
        cuts >= pieces,
        "{cuts} interruptions of a snapshot of {pieces} pieces"
    );
    let read = nodes[at]
        .read(Consistency::Linearizable, |kv: &KvStore| {
            let whole = |number: &u64| {
                let found = kv.get(&format!("{number:03}"));
                found.is_some_and(|entry| entry.value == value_of(*number))
            };
            (0..VALUES).filter(whole).count()
        })
        .await;
    assert_eq!(read.unwrap().value as u64, VALUES);
    let (whole, other) = (nodes[at].digest().await, node(&nodes, leader).digest().await);
    assert_eq!(whole, other, "the same state, entry by entry");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_interrupted_at_every_chunk_arrives_and_is_never_begun_anew() {
    interrupt(Cut::Link).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_receiver_ends_at_every_chunk_arrives_and_is_never_begun_anew() {
    interrupt(Cut::Receiver).await;
}
