//! What a state machine may rely on: batches, and snapshots that stop nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rivven_raft::{ApplyCtx, Fabric, RaftNode, StateMachine};

use crate::common::*;

/// How long a snapshot waits to be let go before it fails.
const HELD: Duration = Duration::from_secs(20);

/// What a machine has seen, and whether its snapshots may be written.
#[derive(Default)]
struct Seen {
    applied: AtomicU64,
    batches: AtomicU64,
    begun: AtomicU64,
    /// What the first snapshot held.
    first: Mutex<Option<u64>>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Seen {
    fn wait(&self) -> io::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        let (open, late) = self.opened.wait_timeout_while(open, HELD, |open| !*open).unwrap();
        drop(open);
        if late.timed_out() {
            return Err(io::Error::other("nobody let the snapshot go"));
        }
        Ok(())
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// Adds up numbers.
#[derive(Default)]
struct Sum {
    sum: u64,
    seen: Arc<Seen>,
}

impl StateMachine for Sum {
    type Command = u64;
    type Response = u64;
    type Snapshot = (u64, Arc<Seen>);

    fn apply(&mut self, _: &ApplyCtx, number: u64) -> u64 {
        self.seen.applied.fetch_add(1, Ordering::SeqCst);
        self.sum += number;
        self.sum
    }

    fn batch_applied(&mut self, _: u64) {
        self.seen.batches.fetch_add(1, Ordering::SeqCst);
    }

    fn snapshot(&self) -> Self::Snapshot {
        (self.sum, Arc::clone(&self.seen))
    }

    fn encode_snapshot((sum, seen): &Self::Snapshot, out: &mut dyn io::Write) -> io::Result<()> {
        seen.first.lock().unwrap().get_or_insert(*sum);
        seen.wait()?;
        out.write_all(&sum.to_le_bytes())
    }

    fn decode_snapshot(input: &mut dyn io::Read) -> io::Result<Self::Snapshot> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok((u64::from_le_bytes(bytes), Arc::default()))
    }

    fn restore(&mut self, (sum, _): Self::Snapshot) {
        self.sum = sum;
    }
}

async fn alone(seen: &Arc<Seen>, snapshot_every: u64) -> RaftNode<Sum> {
    let machine = Sum {
        sum: 0,
        seen: Arc::clone(seen),
    };
    let builder = RaftNode::<Sum>::builder(config(1, 1))
        .fabric(&Fabric::new())
        .snapshot_every(snapshot_every);
    let node = builder.state_machine(machine).start().await.unwrap();
    node.wait_for_leader(WAIT).await.unwrap();
    node
}

#[tokio::test]
async fn what_is_committed_together_is_applied_together() {
    let seen = Arc::new(Seen::default());
    let node = alone(&seen, 1 << 30).await;
    let before = seen.batches.load(Ordering::SeqCst);
    let sums = node.propose_many(1..=2_000, WAIT).await;
    let sums: Vec<u64> = sums.into_iter().map(Result::unwrap).collect();
    assert_eq!(sums.last(), Some(&2_001_000));
    assert!(sums.is_sorted());
    let batches = seen.batches.load(Ordering::SeqCst) - before;
    assert_eq!(seen.applied.load(Ordering::SeqCst), 2_000);
    assert!(
        (1..=100).contains(&batches),
        "{batches} batches of 2,000 commands"
    );
}

#[tokio::test]
async fn a_snapshot_that_takes_long_to_write_stops_no_command() {
    let seen = Arc::new(Seen::default());
    let node = alone(&seen, 50).await;
    // Everything after the first of these is applied while the snapshot is held back.
    for number in 1..=500 {
        node.propose(number).await.unwrap();
    }
    while seen.begun.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 501..=1_000 {
        node.propose(number).await.unwrap();
    }
    let status = node.status();
    assert_eq!((status.snapshot_index, status.snapshot_failure), (None, None));
    assert_eq!(seen.applied.load(Ordering::SeqCst), 1_000);
    seen.open();
    let mut watch = node.watch();
    let written = async {
        while node.status().snapshot_index.is_none() {
            watch.changed().await;
        }
    };
    tokio::time::timeout(WAIT, written).await.unwrap();
    // The moment it was begun at, not the one it was written at.
    assert!(*seen.first.lock().unwrap() <= Some(125_250));
    assert_eq!(node.propose(0).await.unwrap(), 500_500);
}
