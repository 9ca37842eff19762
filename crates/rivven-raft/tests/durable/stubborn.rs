//! A state machine that cannot read its snapshots, or takes its time to write them.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rivven_raft::{ApplyCtx, NodeDir, NodeDirError, StateMachine};

use super::*;

/// Counts.
#[derive(Default)]
struct Stubborn {
    count: u64,
    will: Will,
}

#[derive(Clone, Default)]
struct Will {
    /// Snapshots that it will not read.
    unreadable: Arc<AtomicU64>,
    /// Whether it is to wait with writing one.
    held: Arc<(Mutex<bool>, Condvar)>,
    writing: Arc<AtomicU64>,
}

impl StateMachine for Stubborn {
    type Command = ();
    type Response = u64;
    type Snapshot = (u64, Will);
    fn apply(&mut self, _ctx: &ApplyCtx, (): ()) -> u64 {
        self.count += 1;
        self.count
    }
    fn snapshot(&self) -> Self::Snapshot {
        (self.count, self.will.clone())
    }
    fn encode_snapshot((count, will): &Self::Snapshot, out: &mut dyn Write) -> io::Result<()> {
        will.writing.fetch_add(1, Ordering::Relaxed);
        let (held, released) = &*will.held;
        drop(released.wait_while(held.lock().unwrap(), |held| *held).unwrap());
        out.write_all(&count.to_le_bytes())
    }
    fn restore(&mut self, input: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        self.count = u64::from_le_bytes(bytes);
        let left = &self.will.unreadable;
        let refused = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if self.count > 0 && refused.is_ok() {
            // Half of it is there by then.
            return Err(io::Error::other("it cannot be understood"));
        }
        Ok(())
    }
}

async fn start_stubborn(
    fabric: &Fabric,
    root: &Path,
    node_id: NodeId,
    voters: u64,
    will: &Will,
) -> RaftNode<Stubborn> {
    let builder = RaftNode::builder(config(node_id, voters))
        .fabric(fabric)
        .seed(node_id)
        .snapshot_every(20)
        .data_dir(open(root, node_id))
        .inline_writes();
    let machine = Stubborn {
        count: 0,
        will: will.clone(),
    };
    builder.state_machine(machine).start().await.unwrap()
}

/// Two nodes that have counted far, and a third that was away and has to be sent a snapshot.
async fn with_a_laggard(root: &Path, unreadable: u64) -> (Vec<RaftNode<Stubborn>>, RaftNode<Stubborn>) {
    let (fabric, will) = (Fabric::new(), Will::default());
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        nodes.push(start_stubborn(&fabric, root, node_id, 3, &will).await);
    }
    nodes[0].propose(()).await.unwrap();
    let away = nodes.remove(2);
    away.shutdown().await;
    drop(away);
    for _ in 0..200 {
        nodes[0].propose(()).await.unwrap();
    }
    let unwilling = Will::default();
    unwilling.unreadable.store(unreadable, Ordering::Relaxed);
    let back = start_stubborn(&fabric, root, 3, 3, &unwilling).await;
    (nodes, back)
}

fn set_aside(root: &Path) -> usize {
    let files = std::fs::read_dir(root.join("3/snapshots")).unwrap();
    let damaged = |name: &str| name.contains("damaged");
    files
        .filter(|file| damaged(file.as_ref().unwrap().file_name().to_str().unwrap()))
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_received_snapshot_that_cannot_be_restored_is_set_aside_and_fetched_again() {
    let root = TempDir::new().unwrap();
    let (_nodes, back) = with_a_laggard(root.path(), 1).await;
    let caught_up = async {
        while back
            .read(Consistency::Stale, |state| state.count)
            .await
            .unwrap()
            .value
            < 201
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, caught_up).await.unwrap();
    assert!(back.status().stopped.is_none() && back.status().suspended.is_none());
    assert_eq!(set_aside(root.path()), 1);
    assert_eq!(back.propose(()).await.unwrap(), 202);
    // The directory is as good as any other.
    back.shutdown().await;
    drop(back);
    let again = start_stubborn(&Fabric::new(), root.path(), 3, 3, &Will::default()).await;
    assert!(
        again
            .read(Consistency::Stale, |state| state.count)
            .await
            .unwrap()
            .value
            >= 180
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_can_restore_no_snapshot_stops_and_names_them() {
    let root = TempDir::new().unwrap();
    let (nodes, back) = with_a_laggard(root.path(), u64::MAX).await;
    let stopped = async {
        while back.status().stopped.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, stopped).await.unwrap();
    let cause = back.status().stopped.unwrap();
    assert!(
        cause.contains("cannot be understood") && cause.contains("set aside as"),
        "{cause}"
    );
    assert!(cause.contains("member replace"), "{cause}");
    assert!(set_aside(root.path()) > 0);
    assert_eq!(nodes[1].propose(()).await.unwrap(), 202, "the others go on");
}

/// With real time: what blocks keeps tokio's clock from running ahead.
#[tokio::test]
async fn the_directory_stays_locked_for_as_long_as_a_snapshot_is_being_written() {
    let root = TempDir::new().unwrap();
    let will = Will::default();
    let node = start_stubborn(&Fabric::new(), root.path(), 1, 1, &will).await;
    *will.held.0.lock().unwrap() = true;
    while will.writing.load(Ordering::Relaxed) == 0 {
        node.propose(()).await.unwrap();
    }
    let killed = tokio::time::timeout(Duration::from_millis(50), node.kill()).await;
    assert!(killed.is_err(), "it waits for its tasks");
    drop(node);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = || NodeDir::open(root.path().join("1"), CLUSTER, 1, [1; 16]);
    assert!(matches!(again(), Err(NodeDirError::Locked { .. })));
    *will.held.0.lock().unwrap() = false;
    will.held.1.notify_all();
    let freed = async {
        while again().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, freed).await.unwrap();
}
