//! Disks that fill up and get room again, and disks that fail: what the node says, and what it keeps.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking"
)]

mod common;
#[path = "full_disk/mounted.rs"]
mod mounted;

use std::{
    io::{self, ErrorKind, Read, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::*;
use rivven_raft::{
    ApplyCtx, Consistency, Fabric, KvCommand, KvStore, NodeId, Outcome, RaftNode, RaftStatus, Role,
    SimulatedDisk, StateMachine,
};
use tempfile::TempDir;
use tokio::time::Instant;

/// Within this the node takes part again once there is room.
const BACK: Duration = Duration::from_secs(5);

async fn start_on(fabric: &Fabric, root: &Path, node_id: NodeId, voters: u64, disk: &SimulatedDisk) -> Node {
    RaftNode::builder(config(node_id, voters))
        .fabric(fabric)
        .seed(node_id)
        .snapshot_every(40)
        .data_dir(open(root, node_id))
        .simulated_disk(disk)
        .state_machine(KvStore::new())
        .start()
        .await
        .unwrap()
}

async fn group_on_disks(fabric: &Fabric, root: &Path) -> (Vec<Node>, Vec<SimulatedDisk>) {
    let disks: Vec<SimulatedDisk> = (0..3).map(SimulatedDisk::new).collect();
    let mut nodes = Vec::new();
    for (node_id, disk) in (1..).zip(&disks) {
        nodes.push(start_on(fabric, root, node_id, 3, disk).await);
    }
    (nodes, disks)
}

async fn until(node: &Node, what: &str, reached: impl Fn(&RaftStatus) -> bool) -> RaftStatus {
    let mut watch = node.watch();
    let found = async {
        let mut status = node.status();
        while !reached(&status) {
            status = watch.changed().await;
        }
        status
    };
    let found = tokio::time::timeout(BACK, found).await;
    found.unwrap_or_else(|_| panic!("not {what}: {:?}", node.status()))
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_is_full_says_so_gives_up_and_comes_back_without_a_restart() {
    let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
    let (nodes, disks) = group_on_disks(&fabric, root.path()).await;
    let leader = agreed_leader(&nodes).await;
    let at = usize::try_from(leader).unwrap() - 1;
    for i in 0..60 {
        put(&nodes[at], &format!("before-{i}"), "v").await;
    }
    disks[at].fill_after(0);

    let begin = Instant::now();
    let error = nodes[at]
        .propose(KvCommand::put("at-the-brink", "v"))
        .await
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    let status = nodes[at].status();
    assert_eq!((status.role, status.leader), (Role::Suspended, None));
    assert!(status.suspended.unwrap().contains("disk is full") && status.stopped.is_none());
    let error = nodes[at]
        .propose(KvCommand::put("refused", "v"))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("disk-full", Outcome::NotDone));
    assert!(error.to_string().contains("make room"), "{error}");
    let error = nodes[at]
        .read(Consistency::Linearizable, KvStore::len)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "disk-full");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    // The others go on, and what was acknowledged is there; this one still shows what it has.
    let other = &nodes[(at + 1) % 3];
    for i in 0..60 {
        put(other, &format!("meanwhile-{i}"), "v").await;
    }
    let stale = nodes[at].read(Consistency::Stale, KvStore::len).await.unwrap();
    assert!(stale.value >= 60, "{stale:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(nodes[at].status().role, Role::Suspended);
    assert_eq!(disks[at].stats().opened, 1, "it does not try in vain");

    disks[at].make_room();
    until(&nodes[at], "back", |status| status.leader.is_some()).await;
    assert_eq!(get(&nodes[at], "meanwhile-59").await.as_deref(), Some("v"));
    let len = |kv: &KvStore| {
        (0..60)
            .filter(|i| kv.get(&format!("before-{i}")).is_some())
            .count()
    };
    assert_eq!(
        nodes[at]
            .read(Consistency::Linearizable, len)
            .await
            .unwrap()
            .value,
        60
    );
    put(&nodes[at], "again", "v").await;
    assert!(nodes[at].status().suspended.is_none() && disks[at].stats().opened >= 2);
    // Every replica applied the same, with the same effect.
    let index = nodes[at].status().applied_index;
    for node in &nodes {
        until(node, "caught up", |status| status.applied_index >= index).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_node_loses_nothing_acknowledged_and_a_watch_goes_on_through_a_full_disk() {
    let (fabric, root, disk) = (Fabric::new(), TempDir::new().unwrap(), SimulatedDisk::new(1));
    let node = start_on(&fabric, root.path(), 1, 1, &disk).await;
    node.wait_for_leader(WAIT).await.unwrap();
    let mut acknowledged = Vec::new();
    let mut unknown = 0;
    let mut watch = node.watch_kv(rivven_raft::KeyRange::all(), rivven_raft::WatchFrom::Revision(1));
    for round in 0..12_u64 {
        disk.fill_after(3 + round * 7);
        for i in 0..40 {
            let key = format!("{round}-{i}");
            match node.propose(KvCommand::put(key.clone(), "v")).await {
                Ok(_) => acknowledged.push(key),
                Err(error) if error.outcome() == Outcome::Unknown => unknown += 1,
                Err(error) => {
                    assert_eq!(error.code(), "disk-full", "{error}");
                    break;
                }
            }
        }
        assert!(
            !disk.has_room() && unknown > round,
            "round {round} met no full disk"
        );
        disk.make_room();
        until(&node, "back", |status| status.role == Role::Leader).await;
    }
    assert!(acknowledged.len() > 30, "{}", acknowledged.len());
    let missing = |kv: &KvStore| -> Vec<String> {
        let there = |key: &&String| kv.get(key).is_none();
        acknowledged.iter().filter(there).cloned().collect()
    };
    let read = node.read(Consistency::Linearizable, missing).await.unwrap();
    assert_eq!(read.value, [""; 0]);
    // A watch from before has every change once, in order.
    let revision = node
        .read(Consistency::Stale, KvStore::revision)
        .await
        .unwrap()
        .value;
    let mut seen = Vec::new();
    while seen.last() != Some(&revision) {
        let rivven_raft::KvUpdate::Changes { events } = watch.next().await.unwrap() else {
            panic!("no changes")
        };
        seen.extend(events.iter().map(|event| event.revision));
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    assert!(seen.len() >= acknowledged.len());

    // What is on the disk is what was acknowledged, too.
    node.shutdown().await;
    drop(node);
    let node = start_on(&fabric, root.path(), 1, 1, &disk).await;
    assert_eq!(
        node.read(Consistency::Linearizable, missing).await.unwrap().value,
        [""; 0]
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_disk_is_full_holds_nobody_up() {
    let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
    let (nodes, disks) = group_on_disks(&fabric, root.path()).await;
    let leader = agreed_leader(&nodes).await;
    let at = usize::try_from(leader).unwrap() % 3;
    disks[at].fill_after(0);
    // So long that the log it lacks is gone, and a snapshot has to come.
    for i in 0..150 {
        put(node(&nodes, leader), &i.to_string(), "v").await;
    }
    assert_eq!(nodes[at].status().role, Role::Suspended);
    assert_eq!(
        node(&nodes, leader).status().role,
        Role::Leader,
        "nobody was deposed"
    );
    disks[at].make_room();
    until(&nodes[at], "back", |status| status.leader.is_some()).await;
    assert_eq!(get(&nodes[at], "149").await.as_deref(), Some("v"));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_otherwise_stops_the_node_with_cause_and_remedy() {
    let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
    let (nodes, disks) = group_on_disks(&fabric, root.path()).await;
    let leader = agreed_leader(&nodes).await;
    put(node(&nodes, leader), "a", "1").await;
    let at = usize::try_from(leader).unwrap() - 1;
    disks[at].fail_syncs();
    let error = nodes[at].propose(KvCommand::put("b", "2")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    let status = nodes[at].status();
    assert_eq!(status.role, Role::Stopped);
    let cause = status.stopped.unwrap();
    assert!(
        cause.contains("bad sectors") && cause.contains("check the disk"),
        "{cause}"
    );
    let error = nodes[at].propose(KvCommand::put("c", "3")).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("stopped", Outcome::NotDone));
    // The others go on with what was acknowledged.
    assert_eq!(get(&nodes[(at + 1) % 3], "a").await.as_deref(), Some("1"));
    put(&nodes[(at + 1) % 3], "d", "4").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        nodes[at].status().role,
        Role::Stopped,
        "it does not come back by itself"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_waits_for_room_can_be_shut_down_and_frees_its_directory() {
    let (fabric, root, disk) = (Fabric::new(), TempDir::new().unwrap(), SimulatedDisk::new(1));
    let node = start_on(&fabric, root.path(), 1, 1, &disk).await;
    put(&node, "a", "1").await;
    disk.fill_after(0);
    let _ = node.propose(KvCommand::put("b", "2")).await;
    until(&node, "suspended", |status| status.role == Role::Suspended).await;
    node.shutdown().await;
    assert_eq!(node.status().role, Role::Stopped);
    drop(node);
    disk.make_room();
    let node = start_on(&fabric, root.path(), 1, 1, &disk).await;
    assert_eq!(get(&node, "a").await.as_deref(), Some("1"));
}

/// Counts; has no room for its snapshots for a while, and then takes its time.
struct Cramped {
    count: u64,
    disk: Arc<CrampedDisk>,
}

#[derive(Default)]
struct CrampedDisk {
    /// Attempts for which there is no room.
    refuse: AtomicU64,
    /// Attempts that were made.
    tried: AtomicU64,
    /// How long one takes for which there is room.
    slow_ms: AtomicU64,
}

impl StateMachine for Cramped {
    type Command = ();
    type Response = u64;
    type Snapshot = (u64, Option<Arc<CrampedDisk>>);
    fn apply(&mut self, _ctx: &ApplyCtx, (): ()) -> u64 {
        self.count += 1;
        self.count
    }
    fn snapshot(&self) -> Self::Snapshot {
        (self.count, Some(Arc::clone(&self.disk)))
    }
    fn encode_snapshot((count, disk): &Self::Snapshot, out: &mut dyn Write) -> io::Result<()> {
        let Some(disk) = disk else {
            return out.write_all(&count.to_le_bytes());
        };
        disk.tried.fetch_add(1, Ordering::Relaxed);
        let one_less = |left: u64| left.checked_sub(1);
        if disk
            .refuse
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
        {
            return Err(ErrorKind::StorageFull.into());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a disk that takes its time, on a thread that may block"
        )]
        std::thread::sleep(Duration::from_millis(disk.slow_ms.load(Ordering::Relaxed)));
        out.write_all(&count.to_le_bytes())
    }
    fn decode_snapshot(input: &mut dyn Read) -> io::Result<Self::Snapshot> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok((u64::from_le_bytes(bytes), None))
    }
    fn restore(&mut self, (count, _): Self::Snapshot) {
        self.count = count;
    }
}

async fn start_cramped(root: &Path, refuse: u64) -> (RaftNode<Cramped>, Arc<CrampedDisk>) {
    let disk = Arc::new(CrampedDisk::default());
    disk.refuse.store(refuse, Ordering::Relaxed);
    let machine = Cramped {
        count: 0,
        disk: Arc::clone(&disk),
    };
    let builder = RaftNode::<Cramped>::builder(config(1, 1)).fabric(&Fabric::new());
    let builder = builder.snapshot_every(10).data_dir(open(root, 1)).inline_writes();
    (builder.state_machine(machine).start().await.unwrap(), disk)
}

/// In real time: what blocks holds up time that is made up.
#[tokio::test]
async fn a_backup_waits_for_a_snapshot_that_is_being_tried_again() {
    let root = TempDir::new().unwrap();
    let (node, disk) = start_cramped(root.path(), 1).await;
    for _ in 0..15 {
        node.propose(()).await.unwrap();
    }
    while node.status().snapshot_failure.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let refused = node.backup(WAIT).await.unwrap_err();
    assert_eq!(refused.code(), "snapshot-not-written", "{refused}");
    disk.slow_ms.store(700, Ordering::Relaxed);
    while disk.tried.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The one that failed is still the last that is known to have come to an end.
    assert!(node.status().snapshot_failure.is_some());
    let backup = node.backup(WAIT).await.unwrap();
    assert_eq!(Some(backup.last_index()), node.status().applied_index);
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_for_which_there_is_no_room_is_tried_again_and_the_log_is_kept() {
    let root = TempDir::new().unwrap();
    let (node, disk) = start_cramped(root.path(), 3).await;
    for _ in 0..15 {
        node.propose(()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let status = node.status();
    assert!(
        status.stopped.is_none() && status.snapshot_index.is_none(),
        "{status:?}"
    );
    assert!(status.snapshot_failure.is_some(), "{status:?}");
    assert_eq!(node.propose(()).await.unwrap(), 16);
    // Tried after 1, 2 and 4 s: the fourth attempt has room, without anything being written meanwhile.
    let mut watch = node.watch();
    let begin = Instant::now();
    while node.status().snapshot_index.is_none() {
        watch.changed().await;
    }
    let took = begin.elapsed();
    assert!(
        took > Duration::from_secs(6) && took < Duration::from_secs(9),
        "{took:?}"
    );
    let status = node.status();
    assert!(status.snapshot_failure.is_none(), "{status:?}");
    assert_eq!(disk.tried.load(Ordering::Relaxed), 4);
    assert_eq!(node.propose(()).await.unwrap(), 17);
    node.shutdown().await;
}
