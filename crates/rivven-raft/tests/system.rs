//! Log time, leases, sessions, feature levels and digests in running groups.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::{
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use common::*;
use rivven_raft::{
    ApplyCtx, Fabric, FinalizeError, KeyRange, KvCommand, KvOp, KvResponse, KvStore, KvTxn, KvUpdate,
    KvWatch, KvWatchError, LeaseId, Lifetime, NodeId, ProposeError, RaftBuilder, RaftNode, StateMachine,
    TICK_INTERVAL, WatchFrom,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const SESSION_TTL: Duration = Duration::from_secs(60);

async fn put_for(node: &Node, key: &str, lifetime: Lifetime) -> LeaseId {
    match node
        .propose(KvCommand::put_for(key, "v", lifetime))
        .await
        .unwrap()
    {
        KvResponse::Written {
            lease: Some(lease), ..
        } => lease,
        other => panic!("{other:?}"),
    }
}

/// How long the key lasts from now.
async fn lasts(node: &Node, key: &str) -> Duration {
    let start = Instant::now();
    while get(node, key).await.is_some() {
        assert!(start.elapsed() < Duration::from_secs(60), "the key never ends");
        sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_key_lasts_as_long_as_its_lease_and_time_stands_still_without_one() {
    let nodes = group(&Fabric::new(), 3).await;
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "stays", "v").await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(nodes[0].log_time_ms().await, 0, "nothing waits for time");

    let ttl = Duration::from_secs(3);
    put_for(&nodes[0], "ends", Lifetime::Ttl(3_000)).await;
    let lasted = lasts(node(&nodes, leader), "ends").await;
    assert!(lasted >= ttl, "ended early, after {lasted:?}");
    assert!(lasted <= ttl + 3 * TICK_INTERVAL, "ended late, after {lasted:?}");
    assert_eq!(get(&nodes[1], "stays").await.as_deref(), Some("v"));

    let quiet = node(&nodes, leader).status().last_log_index;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(
        node(&nodes, leader).status().last_log_index,
        quiet,
        "ticks went on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_lives_on_and_a_change_of_leaders_does_not_shorten_it() {
    let nodes = group(&Fabric::new(), 3).await;
    let leader = agreed_leader(&nodes).await;
    let lease = put_for(&nodes[0], "k", Lifetime::Ttl(2_000)).await;
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
        nodes[1].propose(KvCommand::RenewLease { lease }).await.unwrap();
    }
    let start = Instant::now();
    let next = nodes
        .iter()
        .map(|node| node.status().node_id)
        .find(|id| *id != leader)
        .unwrap();
    nodes[0].transfer_leader(next).await.unwrap();
    assert_eq!(get(&nodes[0], "k").await.as_deref(), Some("v"));
    lasts(node(&nodes, next), "k").await;
    assert!(
        start.elapsed() >= Duration::from_millis(1_990),
        "ended early: {:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_proposal_whose_leader_dies_after_the_commit_is_applied_once_through_the_next() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let client = nodes.iter().find(|node| node.status().node_id != leader).unwrap();
    let client_id = client.status().node_id;
    let session = client.open_session(SESSION_TTL).await.unwrap();

    // The leader hears the client, commits with the third node, and its answer is lost.
    fabric.network().cut(leader, client_id);
    let proposed = session.propose(KvCommand::put("k", "v"), Duration::from_secs(20));
    let killed = async {
        let third = nodes
            .iter()
            .find(|node| ![leader, client_id].contains(&node.status().node_id));
        let mut applied = false;
        for _ in 0..200 {
            sleep(Duration::from_millis(1)).await;
            let read = third
                .unwrap()
                .read(rivven_raft::Consistency::Stale, |kv| kv.get("k").is_some());
            applied = read.await.unwrap().value;
            if applied {
                break;
            }
        }
        assert!(applied, "the leader never committed, so the test shows nothing");
        node(&nodes, leader).kill().await;
    };
    let (response, ()) = tokio::join!(proposed, killed);
    let first = KvResponse::Written {
        revision: 1,
        previous: None,
        lease: None,
    };
    assert_eq!(response.unwrap(), first, "the first answer");
    assert_ne!(client.status().leader, Some(leader));
    let read = client.read(rivven_raft::Consistency::Linearizable, |kv| {
        (kv.revision(), kv.get("k").map(|entry| entry.version))
    });
    assert_eq!(read.await.unwrap().value, (1, Some(1)), "applied once");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_it_is_not_used_and_says_so() {
    let nodes = group(&Fabric::new(), 3).await;
    agreed_leader(&nodes).await;
    let session = nodes[0].open_session(Duration::from_secs(5)).await.unwrap();
    let put = || KvCommand::put("k", "v");
    for _ in 0..4 {
        sleep(Duration::from_secs(3)).await;
        session.propose(put(), WAIT).await.unwrap();
    }
    sleep(Duration::from_secs(8)).await;
    let error = session.propose(put(), WAIT).await.unwrap_err();
    assert!(matches!(error, ProposeError::SessionLost { .. }), "{error}");
    assert_eq!(session.renew().await.unwrap_err().code(), "session-lost");
    let read = nodes[1].read(rivven_raft::Consistency::Linearizable, KvStore::revision);
    assert_eq!(read.await.unwrap().value, 4);

    let error = nodes[0].open_session(Duration::from_millis(1)).await.unwrap_err();
    assert!(error.to_string().contains("ttl-out-of-range"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn proposals_of_a_session_may_be_made_at_the_same_time() {
    let nodes = group(&Fabric::new(), 3).await;
    agreed_leader(&nodes).await;
    let session = nodes[2].open_session(SESSION_TTL).await.unwrap();
    let puts = (0..1_000).map(|i| session.propose(KvCommand::put(format!("{i}"), "v"), WAIT));
    let done = futures_util::future::join_all(puts).await;
    assert!(done.iter().all(Result::is_ok));
    session.close().await.unwrap();
    let read = nodes[1].read(rivven_raft::Consistency::Linearizable, KvStore::revision);
    assert_eq!(read.await.unwrap().value, 1_000);
}

/// Counts; from level 2 on by more than one.
#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
    type Command = u64;
    type Response = u64;
    type Snapshot = u64;
    fn requires(add: &u64) -> Option<(&'static str, u32)> {
        (*add > 1).then_some(("adds", 2))
    }
    fn apply(&mut self, _ctx: &ApplyCtx, add: u64) -> u64 {
        self.0 += add;
        self.0
    }
    fn snapshot(&self) -> u64 {
        self.0
    }
    fn encode_snapshot(snapshot: &u64, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&snapshot.to_le_bytes())
    }
    fn decode_snapshot(input: &mut dyn Read) -> io::Result<u64> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn restore(&mut self, snapshot: u64) {
        self.0 = snapshot;
    }
}

fn count(fabric: &Fabric, node_id: NodeId, level: u32) -> RaftBuilder<Count> {
    RaftNode::builder(config(node_id, 3))
        .fabric(fabric)
        .seed(node_id)
        .feature("adds", level)
        .state_machine(Count::default())
}

#[tokio::test(start_paused = true)]
async fn what_a_member_cannot_understand_is_refused_until_every_member_can() {
    let fabric = Fabric::new();
    let mut nodes = Vec::new();
    for (node_id, level) in [(1, 2), (2, 2), (3, 1)] {
        nodes.push(count(&fabric, node_id, level).start().await.unwrap());
    }
    nodes[0].wait_for_leader(WAIT).await.unwrap();
    nodes[0].propose(1).await.unwrap();
    for node in &nodes {
        let error = node.propose(5).await.unwrap_err();
        assert!(error.to_string().contains("feature-not-finalized"), "{error}");
    }
    let seen = nodes[1].features().await;
    assert_eq!(
        (seen.features["adds"].finalized, seen.features["adds"].common()),
        (0, 1)
    );
    let error = nodes[0].finalize_feature("adds", 2).await.unwrap_err();
    assert!(
        matches!(
            error,
            FinalizeError::Unsupported {
                node: 3,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    nodes[2].shutdown().await;
    assert_eq!(nodes[0].features().await.silent, [3].into());
    let error = nodes[0].finalize_feature("adds", 2).await.unwrap_err();
    assert!(
        matches!(error, FinalizeError::Unreachable { node: 3, .. }),
        "{error}"
    );

    // Upgraded. In memory, so it comes back empty, as a learner of everything the others have.
    nodes[2] = count(&fabric, 3, 2).start().await.unwrap();
    for node in &nodes {
        node.wait_for_leader(WAIT).await.unwrap();
    }
    assert_eq!(nodes[0].finalize_feature("adds", 2).await.unwrap(), 2);
    assert_eq!(
        nodes[1].finalize_feature("adds", 1).await.unwrap(),
        2,
        "levels only rise"
    );
    assert_eq!(nodes[2].propose(5).await.unwrap(), 6, "refusals changed nothing");
    assert_eq!(nodes[2].finalized_features().await.get("adds"), Some(&2));
    let seen = nodes[2].features().await;
    assert_eq!(
        (seen.features["adds"].finalized, seen.features["adds"].common()),
        (2, 2)
    );
    assert!(seen.silent.is_empty());
}

/// Reads a watch until it has delivered `revision`: a transcript of what it said.
async fn transcript(watch: &mut KvWatch<KvStore>, revision: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut seen = 0;
    while seen < revision {
        match watch.next().await.unwrap() {
            KvUpdate::Snapshot {
                revision, entries, ..
            } => {
                let keys: Vec<_> = entries.into_iter().map(|(key, _)| key).collect();
                lines.push(format!("{revision}: {}", keys.join(" ")));
                seen = revision;
            }
            KvUpdate::Changes { events } => {
                seen = events.last().unwrap().revision;
                lines.extend(events.into_iter().map(|event| {
                    let sign = if event.entry.is_some() { '+' } else { '-' };
                    format!("{}{sign}{}", event.revision, event.key)
                }));
            }
            other => panic!("{other:?}"),
        }
    }
    lines
}

#[tokio::test(start_paused = true)]
async fn a_watch_delivers_the_state_and_then_every_change_on_any_node() {
    let nodes = group(&Fabric::new(), 3).await;
    agreed_leader(&nodes).await;
    put(&nodes[0], "a/1", "v").await;
    put(&nodes[0], "b/1", "v").await;
    get(&nodes[2], "b/1").await;
    let mut watch = nodes[2].watch_kv(KeyRange::prefix("a/"), WatchFrom::Current);
    assert_eq!(transcript(&mut watch, 2).await, ["2: a/1"]);
    assert_eq!(watch.next_revision(), Some(3));

    let writes = async {
        put(&nodes[0], "b/2", "v").await;
        let txn = KvTxn::new().then(KvOp::put("a/2", "v")).then(KvOp::delete("a/1"));
        nodes[1].propose(KvCommand::Txn(txn)).await.unwrap();
        put_for(&nodes[0], "a/3", Lifetime::Ttl(1_000)).await;
    };
    // The last change is made by nobody: the key ends with its time.
    let (heard, ()) = tokio::join!(transcript(&mut watch, 6), writes);
    assert_eq!(heard, ["4-a/1", "4+a/2", "5+a/3", "6-a/3"]);

    let mut again = nodes[0].watch_kv(KeyRange::all(), WatchFrom::Revision(3));
    get(&nodes[0], "a/2").await;
    let all = transcript(&mut again, 6).await;
    assert_eq!(all, ["3+b/2", "4-a/1", "4+a/2", "5+a/3", "6-a/3"]);

    nodes[0]
        .propose(KvCommand::Compact { revision: 4 })
        .await
        .unwrap();
    get(&nodes[2], "a/2").await;
    let mut late = nodes[2].watch_kv(KeyRange::all(), WatchFrom::Revision(4));
    assert_eq!(late.next().await, Err(KvWatchError::Compacted { oldest: 4 }));

    let (ended, ()) = tokio::join!(watch.next(), nodes[2].shutdown());
    assert_eq!(ended, Err(KvWatchError::Stopped));
}

/// A node whose log is kept under `root`, of a release that supports `level`.
async fn release(fabric: &Fabric, root: &Path, node_id: NodeId, level: u32) -> RaftNode<Count> {
    let builder = count(fabric, node_id, level).data_dir(open(root, node_id));
    builder.start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_release_is_left_again_until_its_level_is_finalised() {
    let (fabric, root) = (Fabric::new(), TempDir::new().unwrap());
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        nodes.push(release(&fabric, root.path(), node_id, 1).await);
    }
    nodes[0].wait_for_leader(WAIT).await.unwrap();
    // There and back, one node at a time; whoever is asked meanwhile answers.
    for level in [2, 1, 2] {
        for (node_id, node) in (1..).zip(&mut nodes) {
            node.shutdown().await;
            *node = release(&fabric, root.path(), node_id, level).await;
            node.wait_for_leader(WAIT).await.unwrap();
            node.propose(1).await.unwrap();
        }
        let error = nodes[0].propose(5).await.unwrap_err();
        assert!(error.to_string().contains("feature-not-finalized"), "{error}");
    }
    assert_eq!(nodes[0].finalize_feature("adds", 2).await.unwrap(), 2);
    assert_eq!(nodes[1].propose(5).await.unwrap(), 14);
    // Until word of the commit is on the disk of a node that has nothing else to write.
    sleep(Duration::from_secs(2)).await;
    nodes[2].shutdown().await;
    let back = count(&fabric, 3, 1).data_dir(open(root.path(), 3));
    let refused = back.start().await.unwrap_err().to_string();
    assert!(refused.contains("upgrade this node"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_level_is_finalised_by_itself_once_every_member_has_supported_it_for_a_while() {
    const AFTER: Duration = Duration::from_secs(60);
    let fabric = Fabric::new();
    let mut nodes = Vec::new();
    for (node_id, level) in [(1, 2), (2, 2), (3, 1)] {
        let builder = count(&fabric, node_id, level).auto_finalize(AFTER);
        nodes.push(builder.start().await.unwrap());
    }
    nodes[0].wait_for_leader(WAIT).await.unwrap();
    sleep(AFTER * 2).await;
    assert_eq!(
        nodes[0].finalized_features().await.get("adds"),
        Some(&1),
        "what all support"
    );
    nodes[2].shutdown().await;
    nodes[2] = count(&fabric, 3, 2).auto_finalize(AFTER).start().await.unwrap();
    sleep(AFTER - Duration::from_secs(20)).await;
    assert_eq!(
        nodes[0].finalized_features().await.get("adds"),
        Some(&1),
        "too early"
    );
    sleep(Duration::from_secs(50)).await;
    for node in &nodes {
        assert_eq!(node.finalized_features().await.get("adds"), Some(&2));
    }
    assert_eq!(nodes[2].propose(5).await.unwrap(), 5);
}
