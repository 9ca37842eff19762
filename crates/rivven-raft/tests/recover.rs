//! A lost quorum: what one survivor has goes on, and nobody else comes back.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::{fs, path::Path, time::Duration};

use common::*;
use rivven_raft::{
    Consistency, Fabric, JoinAs, KvStore, NodeDir, NodeId, REFOUNDING_GAP, RaftBuilder, RaftNode,
    RefoundingCause, Role, plan_recovery, recover,
};
use tempfile::TempDir;

fn existing(root: &Path, node_id: NodeId) -> NodeDir {
    NodeDir::open_existing(root.join(node_id.to_string())).unwrap()
}

fn builder(fabric: &Fabric, root: &Path, node_id: NodeId, voters: u64) -> RaftBuilder<KvStore> {
    RaftNode::builder(config(node_id, voters))
        .fabric(fabric)
        .seed(node_id)
        .inline_writes()
        .data_dir(open(root, node_id))
        .state_machine(KvStore::new())
}

async fn start(fabric: &Fabric, root: &Path, node_id: NodeId) -> Node {
    builder(fabric, root, node_id, 3).start().await.unwrap()
}

/// Three nodes that are bound to their directories.
async fn group_in(fabric: &Fabric, root: &Path, snapshot_every: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let builder = builder(fabric, root, node_id, 3).snapshot_every(snapshot_every);
        nodes.push(builder.start().await.unwrap());
    }
    agreed_leader(&nodes).await;
    until("every member is bound", || async {
        let view = nodes[0].membership().await.ok()?;
        let bound = view.members.iter().filter(|member| member.instance.is_some());
        (bound.count() == 3).then_some(())
    })
    .await;
    nodes
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(WAIT, found).await;
    found.map_err(|_| format!("waited in vain until {what}")).unwrap()
}

async fn shutdown(nodes: Vec<Node>) {
    for node in nodes {
        node.shutdown().await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_three_goes_on_new_nodes_join_it_and_old_ones_are_refused() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let nodes = group_in(&fabric, root.path(), 50).await;
    let leader = agreed_leader(&nodes).await;
    for i in 0..120 {
        put(&nodes[0], &format!("{i:03}"), "v").await;
    }
    let before = node(&nodes, leader).status();
    let revision = nodes[0]
        .read(Consistency::Linearizable, KvStore::revision)
        .await
        .unwrap()
        .value;
    shutdown(nodes).await;

    let survivor = existing(root.path(), 2);
    let unchanged = fs::read(survivor.log_path()).unwrap();
    let plan = plan_recovery(&survivor).unwrap();
    assert_eq!((plan.node, plan.voters().collect::<Vec<_>>()), (2, vec![1, 2, 3]));
    assert_eq!(plan.lost().map(|lost| lost.node).collect::<Vec<_>>(), [1, 3]);
    assert!(
        plan.last.index >= before.commit_index.unwrap_or_default(),
        "{plan:?}"
    );
    assert_eq!(plan.uncertain(), plan.last.index - plan.committed.unwrap().index);
    assert_eq!(
        fs::read(survivor.log_path()).unwrap(),
        unchanged,
        "a plan changes nothing"
    );
    let done = recover(&survivor, 1_700_000_000_000).await.unwrap();
    assert_eq!(
        (done.cause, &done.voters[..]),
        (RefoundingCause::Recovered, &[1, 2, 3][..])
    );
    let again = recover(&survivor, 0).await.unwrap_err();
    assert_eq!(again.code(), "recover-not-needed");
    drop(survivor);

    let fabric = Fabric::new();
    let recovered = start(&fabric, root.path(), 2).await;
    for key in ["000", "119"] {
        assert_eq!(get(&recovered, key).await.as_deref(), Some("v"));
    }
    put(&recovered, "after", "1").await;
    let status = recovered.status();
    assert!(status.term > before.term + (1 << 14), "{status:?}");
    let now = recovered
        .read(Consistency::Linearizable, KvStore::revision)
        .await
        .unwrap()
        .value;
    assert_eq!(now, revision + REFOUNDING_GAP + 1);
    assert_eq!(recovered.refoundings().await, [done]);

    nobody_hears_an_old_voter(&fabric, root.path(), &recovered).await;
    empty_disks_join(&fabric, root.path(), recovered).await;
}

async fn nobody_hears_an_old_voter(fabric: &Fabric, root: &Path, recovered: &Node) {
    let term = recovered.status().term;
    let old = start(fabric, root, 1).await;
    let refused = recovered.is_shut_out(1, old.instance_id());
    assert!(refused);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((old.status().leader, recovered.status().term), (None, term));
    old.shutdown().await;
    drop(old);
}

/// The id of the old one comes back with an empty disk, and a new one.
async fn empty_disks_join(fabric: &Fabric, root: &Path, recovered: Node) {
    fs::remove_dir_all(root.join("1")).unwrap();
    let mut joined = Vec::new();
    for node_id in [1, 4] {
        let dir = NodeDir::open(
            root.join(node_id.to_string()),
            CLUSTER,
            node_id,
            [90 + u8::try_from(node_id).unwrap(); 16],
        )
        .unwrap();
        let builder = RaftNode::builder(config(node_id, 3))
            .fabric(fabric)
            .seed(node_id)
            .inline_writes()
            .data_dir(dir)
            .state_machine(KvStore::new());
        let node = builder.joining(JoinAs::new()).start().await.unwrap();
        node.wait_joined(WAIT).await.unwrap();
        joined.push(node);
    }
    until("three vote", || async {
        (recovered.status().voters.len() == 3).then_some(())
    })
    .await;
    put(&joined[0], "joined", "2").await;
    assert_eq!(get(&joined[1], "119").await.as_deref(), Some("v"));
    recovered.shutdown().await;
    assert_eq!(get(&joined[1], "joined").await.as_deref(), Some("2"));
}

/// The others were not lost at all: they are a majority of the old group, and elect a leader. It cannot change a
/// byte of the one that went on.
#[tokio::test(start_paused = true)]
async fn a_majority_that_comes_back_does_not_overwrite_the_one_that_went_on() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let nodes = group_in(&fabric, root.path(), 10_000).await;
    put(&nodes[0], "key", "old").await;
    shutdown(nodes).await;
    recover(&existing(root.path(), 3), 0).await.unwrap();

    let fabric = Fabric::new();
    let recovered = start(&fabric, root.path(), 3).await;
    put(&recovered, "key", "new").await;
    let mut old = Vec::new();
    for node_id in [1, 2] {
        old.push(start(&fabric, root.path(), node_id).await);
    }
    agreed_leader(&old).await;
    put(&old[0], "key", "theirs").await;
    put(&recovered, "other", "x").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(get(&recovered, "key").await.as_deref(), Some("new"));
    assert_eq!(get(&old[1], "other").await, None);
    let status = recovered.status();
    assert_eq!((status.role, status.stopped), (Role::Leader, None));
    // Also after restarts, when what is applied has to be found first.
    shutdown(vec![recovered]).await;
    let recovered = start(&fabric, root.path(), 3).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(get(&recovered, "key").await.as_deref(), Some("new"));
    assert_eq!(recovered.status().role, Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_to_be_committed_is_kept() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let nodes = group_in(&fabric, root.path(), 10_000).await;
    let leader = agreed_leader(&nodes).await;
    put(node(&nodes, leader), "certain", "1").await;
    // A leader alone writes what it cannot commit.
    let (alone, others): (Vec<Node>, Vec<Node>) = nodes
        .into_iter()
        .partition(|node| node.status().node_id == leader);
    shutdown(others).await;
    let lost = alone[0].propose_with(
        rivven_raft::KvCommand::put("uncertain", "2"),
        rivven_raft::ProposeOptions {
            deadline: Duration::from_millis(50),
            ..Default::default()
        },
    );
    assert_eq!(lost.await.unwrap_err().outcome(), rivven_raft::Outcome::Unknown);
    shutdown(alone).await;
    let dir = existing(root.path(), leader);
    assert!(plan_recovery(&dir).unwrap().uncertain() >= 1);
    recover(&dir, 0).await.unwrap();
    drop(dir);
    let recovered = start(&Fabric::new(), root.path(), leader).await;
    assert_eq!(get(&recovered, "certain").await.as_deref(), Some("1"));
    assert_eq!(get(&recovered, "uncertain").await.as_deref(), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_cannot_be_right_is_refused() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let nodes = group_in(&fabric, root.path(), 20).await;
    for i in 0..80 {
        put(&nodes[0], &i.to_string(), "v").await;
    }
    let path = |node_id: NodeId| root.path().join(node_id.to_string());
    let runs = NodeDir::open_existing(path(1)).unwrap_err();
    assert_eq!(runs.code(), "data-dir-locked", "{runs}");
    shutdown(nodes).await;
    assert_eq!(
        NodeDir::open_existing(path(8)).unwrap_err().code(),
        "data-dir-empty"
    );

    drop(open(root.path(), 5));
    let code = |node_id: NodeId| plan_recovery(&existing(root.path(), node_id)).unwrap_err().code();
    assert_eq!(code(5), "log-missing");
    let snapshots = path(2).join("snapshots");
    for file in fs::read_dir(&snapshots).unwrap() {
        fs::write(file.unwrap().path(), "nonsense").unwrap();
    }
    assert_eq!(code(2), "recover-no-state");
    assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 2, "left as they are");
    let mut log = fs::read(path(3).join("log.redb")).unwrap();
    log.truncate(log.len() / 2);
    fs::write(path(3).join("log.redb"), log).unwrap();
    let damaged = code(3);
    assert!(damaged.starts_with("log-"), "{damaged}");
}
