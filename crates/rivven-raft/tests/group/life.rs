//! How nodes end.

use std::{io, time::Duration};

use futures_util::StreamExt as _;
use rivven_raft::{
    ApplyCtx, Consistency, Fabric, KvCommand, KvStore, Outcome, RaftNode, Role, StateMachine, StatusChange,
    StatusUpdate,
};

use crate::common::*;

#[tokio::test(start_paused = true)]
async fn a_watch_shows_the_leader_come_and_the_node_end() {
    let fabric = Fabric::new();
    let node = start(&fabric, 1, 1).await;
    let mut watch = node.watch();
    while watch.changed().await.leader != Some(1) {}
    node.shutdown().await;
    let last = tokio::time::timeout(WAIT, async {
        loop {
            let status = watch.changed().await;
            if status.role == Role::Stopped {
                return status;
            }
        }
    });
    assert_eq!(last.await.unwrap().stopped.as_deref(), Some("it was shut down"));
    let more = tokio::time::timeout(WAIT, watch.changed()).await;
    assert!(more.is_err(), "nothing follows the end: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_delivers_all_there_is_once_and_then_every_change() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let to = 1 + leader % 3;
    let follower = node(&nodes, to);
    let watch = follower.watch();
    let read = async {
        let mut updates = std::pin::pin!(watch.into_stream());
        let Some(StatusUpdate::Snapshot(first)) = updates.next().await else {
            panic!("no snapshot");
        };
        let (mut status, mut terms, mut largest) = (*first, Vec::new(), 0);
        while let Some(update) = updates.next().await {
            let StatusUpdate::Changes(changes) = update else {
                panic!("all of it comes once");
            };
            largest = largest.max(changes.len());
            for change in changes {
                if let StatusChange::Term(term) = change {
                    terms.push(term);
                }
                status.apply(change);
            }
        }
        (status, terms, largest)
    };
    let act = async {
        for i in 0..10 {
            node(&nodes, leader)
                .propose(KvCommand::put(i.to_string(), "v"))
                .await
                .unwrap();
            // Slower than a reader.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Another leader, in a later term.
        let term = follower.status().term;
        node(&nodes, leader).transfer_leader(to).await.unwrap();
        follower.propose(KvCommand::put("last", "v")).await.unwrap();
        let before_the_end = follower.status();
        follower.shutdown().await;
        (term, before_the_end)
    };
    let ((seen, terms, largest), (term, before)) = tokio::join!(read, act);
    assert_eq!(seen, follower.status());
    assert_eq!(seen.stopped.as_deref(), Some("it was shut down"));
    assert!(seen.applied_index >= before.applied_index && before.applied_index >= Some(11));
    assert!(
        terms.is_sorted() && terms.iter().any(|seen| *seen > term),
        "{terms:?}"
    );
    // Far fewer than there are fields.
    assert!(largest < 10, "{largest} fields changed at a time");
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_idempotent_and_leaves_no_task_behind() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    for node in &nodes {
        tokio::join!(node.shutdown(), node.shutdown());
        node.shutdown().await;
        assert_eq!(
            node.propose(KvCommand::put("a", "2")).await.unwrap_err().code(),
            "stopped"
        );
        assert_eq!(
            node.read(Consistency::Stale, KvStore::len)
                .await
                .unwrap_err()
                .code(),
            "stopped"
        );
    }
    assert_eq!(
        tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        before
    );
    // The ids are free, and a dropped group leaves nothing behind either.
    let again = group(&fabric, 3).await;
    agreed_leader(&again).await;
    drop(again);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        before
    );
}

/// Applies what it is told, unless told to panic.
#[derive(Default)]
struct Fragile(u64);

impl StateMachine for Fragile {
    type Command = bool;
    type Response = u64;
    type Snapshot = u64;
    fn apply(&mut self, ctx: &ApplyCtx, healthy: bool) -> u64 {
        assert!(healthy, "told to panic");
        self.0 = ctx.log_index;
        self.0
    }
    fn snapshot(&self) -> u64 {
        self.0
    }
    fn encode_snapshot(snapshot: &u64, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&snapshot.to_le_bytes())
    }
    fn decode_snapshot(input: &mut dyn io::Read) -> io::Result<u64> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn restore(&mut self, snapshot: u64) {
        self.0 = snapshot;
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_that_panics_stops_its_node_which_says_why() {
    let fabric = Fabric::new();
    let builder = RaftNode::<Fragile>::builder(config(1, 1)).fabric(&fabric);
    let node = builder.state_machine(Fragile::default()).start().await.unwrap();
    assert!(node.propose(true).await.unwrap() > 0);
    let error = node.propose(false).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    let status = node.status();
    assert_eq!(status.role, Role::Stopped);
    let reason = status.stopped.unwrap();
    assert!(
        reason.contains("told to panic") && reason.contains("at log entry"),
        "{reason}"
    );
    let error = node.propose(true).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("stopped", Outcome::NotDone));
    node.shutdown().await;
}
