//! A state machine that cannot read its snapshots, or takes its time to write or to read them.

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

/// What the state machines of one test are told. Snapshots carry its number, since they are read without one of
/// the state machines at hand.
#[derive(Clone, Default)]
struct Will {
    number: u64,
    /// Snapshots that they will not read.
    unreadable: Arc<AtomicU64>,
    writing: Arc<Passage>,
    reading: Arc<Passage>,
}

static WILLS: Mutex<Vec<Will>> = Mutex::new(Vec::new());

impl Will {
    fn new() -> Self {
        let mut wills = WILLS.lock().unwrap();
        let number = u64::try_from(wills.len()).unwrap();
        wills.push(Self {
            number,
            ..Self::default()
        });
        wills.last().unwrap().clone()
    }

    fn of(number: u64) -> Self {
        WILLS.lock().unwrap()[usize::try_from(number).unwrap()].clone()
    }
}

/// Where a thread may be held up.
#[derive(Default)]
struct Passage {
    /// Who comes as this one, counted from 0, or later is held up; without, nobody is.
    closed_from: Mutex<Option<u64>>,
    opened: Condvar,
    /// How many have come this far.
    reached: AtomicU64,
}

impl Passage {
    fn pass(&self) {
        let number = self.reached.fetch_add(1, Ordering::Relaxed);
        let closed = self.closed_from.lock().unwrap();
        let held = |from: &mut Option<u64>| from.is_some_and(|from| number >= from);
        drop(self.opened.wait_while(closed, held).unwrap());
    }

    /// Closed until the end of the test at the latest: a runtime waits for every thread of its own.
    fn close_from(&self, number: u64) -> Closed<'_> {
        *self.closed_from.lock().unwrap() = Some(number);
        Closed(self)
    }

    fn open(&self) {
        *self.closed_from.lock().unwrap() = None;
        self.opened.notify_all();
    }

    fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
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
        will.writing.pass();
        out.write_all(&count.to_le_bytes())?;
        out.write_all(&will.number.to_le_bytes())
    }
    fn decode_snapshot(input: &mut dyn Read) -> io::Result<Self::Snapshot> {
        let mut number = || {
            let mut bytes = [0; 8];
            input.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        let (count, will) = (number()?, Will::of(number()?));
        will.reading.pass();
        let one_less = |left: u64| left.checked_sub(1);
        let left = &will.unreadable;
        match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Err(io::Error::other("it cannot be understood")),
            Err(_) => Ok((count, will)),
        }
    }
    fn restore(&mut self, (count, _): Self::Snapshot) {
        self.count = count;
    }
}

struct Closed<'a>(&'a Passage);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.open();
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
    let (fabric, will) = (Fabric::new(), Will::new());
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
    will.unreadable.store(unreadable, Ordering::Relaxed);
    let back = start_stubborn(&fabric, root, 3, 3, &will).await;
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
    let again = start_stubborn(&Fabric::new(), root.path(), 3, 3, &Will::new()).await;
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
    let will = Will::new();
    let node = start_stubborn(&Fabric::new(), root.path(), 1, 1, &will).await;
    let closed = will.writing.close_from(0);
    while will.writing.reached() == 0 {
        node.propose(()).await.unwrap();
    }
    let killed = tokio::time::timeout(Duration::from_millis(50), node.kill()).await;
    assert!(killed.is_err(), "it waits for its tasks");
    drop(node);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = || NodeDir::open(root.path().join("1"), CLUSTER, 1, [1; 16]);
    assert!(matches!(again(), Err(NodeDirError::Locked { .. })));
    drop(closed);
    let freed = async {
        while again().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, freed).await.unwrap();
}

/// How long a node may take to answer what it has at hand.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn stale(node: &RaftNode<Stubborn>) -> u64 {
    let read = node.read(Consistency::Stale, |state| state.count);
    tokio::time::timeout(AT_ONCE, read).await.unwrap().unwrap().value
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(WAIT, waited).await;
    assert!(waited.is_ok(), "never: {what}");
}

/// A follower that runs on with an old state, 1, while a snapshot of a newer one is being read beside it, after
/// some that could not be read. Then it may be.
async fn serves_the_old_state(unreadable: u64) {
    let root = TempDir::new().unwrap();
    let (fabric, will) = (Fabric::new(), Will::new());
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        nodes.push(start_stubborn(&fabric, root.path(), node_id, 3, &will).await);
    }
    nodes[0].propose(()).await.unwrap();
    let leader = nodes[0].wait_for_leader(WAIT).await.unwrap();
    let lagging = nodes.remove(usize::from(leader == 1));
    let id = lagging.status().node_id;
    until("it counts", async || stale(&lagging).await == 1).await;
    let others: Vec<NodeId> = (1..=3).filter(|other| *other != id).collect();
    isolate(&fabric, id, &others);
    for _ in 0..200 {
        nodes[0].propose(()).await.unwrap();
    }
    will.unreadable.store(unreadable, Ordering::Relaxed);
    let closed = will.reading.close_from(unreadable);
    fabric.network().heal();
    until("it is held up", async || will.reading.reached() > unreadable).await;
    for _ in 0..10 {
        assert_eq!(stale(&lagging).await, 1);
        let status = lagging.status();
        assert!(status.stopped.is_none(), "{status:?}");
        let digest = tokio::time::timeout(AT_ONCE, lagging.digest()).await.unwrap();
        assert!(digest.is_some());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(nodes[0].propose(()).await.unwrap(), 202);
    assert_eq!(will.reading.reached(), unreadable + 1, "it is still being read");
    drop(closed);
    until("the new state", async || stale(&lagging).await == 202).await;
}

/// In real time: what blocks holds up time that is made up.
#[tokio::test]
async fn the_old_state_is_read_while_a_snapshot_of_the_new_one_is() {
    serves_the_old_state(0).await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_restored_leaves_the_old_state_as_it_was() {
    serves_the_old_state(1).await;
}
