//! Backups: taken under load, verified, restored as a new group, refused when damaged, interrupted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    backup::{NEW, founder, restore, save},
    *,
};
use rivven_raft::{
    Consistency, Fabric, JoinAs, KeyRange, KvCommand, KvStore, KvWatchError, NodeDir, PartialDir,
    REFOUNDING_GAP, RaftBuilder, RaftConfig, RaftNode, RefoundingCause, WatchFrom, restore_backup,
    verify_backup,
};
use tempfile::TempDir;

fn builder(fabric: &Fabric, dir: NodeDir, voters: u64) -> RaftBuilder<KvStore> {
    RaftNode::builder(config(dir.node(), voters))
        .fabric(fabric)
        .seed(dir.node())
        .inline_writes()
        .data_dir(dir)
        .state_machine(KvStore::new())
}

async fn old_group(fabric: &Fabric, root: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let builder = builder(fabric, open(root, node_id), 3).snapshot_every(50);
        nodes.push(builder.start().await.unwrap());
    }
    agreed_leader(&nodes).await;
    nodes
}

/// A backup of a group that has keys `000` to `119`, sessions and leases.
async fn some_backup(root: &Path) -> PathBuf {
    let fabric = Fabric::new();
    let nodes = old_group(&fabric, root).await;
    for i in 0..120 {
        put(&nodes[0], &format!("{i:03}"), &"v".repeat(i)).await;
    }
    let file = root.join("some.backup");
    save(nodes[1].backup(WAIT).await.unwrap(), &file).await;
    for node in nodes {
        node.shutdown().await;
    }
    file
}

/// Keys that count up, written until the end; how many were acknowledged.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(node: &Node) -> Self {
        let (acknowledged, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (node, count, end) = (node.clone(), Arc::clone(&acknowledged), Arc::clone(&ends));
        #[expect(clippy::disallowed_methods, reason = "a load beside the test")]
        let task = tokio::spawn(async move {
            while !end.load(Ordering::Relaxed) {
                let next = count.load(Ordering::Relaxed);
                put(&node, &format!("{next:06}"), &next.to_string()).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            acknowledged,
            ends,
            task,
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_under_load_has_all_that_was_acknowledged_and_becomes_a_new_group() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let nodes = old_group(&fabric, root.path()).await;
    let leader = agreed_leader(&nodes).await;
    let follower = nodes.iter().find(|node| node.status().node_id != leader).unwrap();
    let writer = Writer::start(&nodes[0]);
    let mut files = Vec::new();
    for round in 1..=5_u64 {
        while writer.acknowledged() < round * 130 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = writer.acknowledged();
        let backup = follower.backup(WAIT).await.unwrap();
        let (index, term) = (backup.last_index(), backup.last_term());
        let (bytes, crc32c) = (backup.total_bytes(), backup.checksum());
        let file = root.path().join(format!("{round}.backup"));
        save(backup, &file).await;
        let report = verify_backup(&file).unwrap();
        assert_eq!((report.bytes, report.crc32c), (bytes, crc32c));
        assert_eq!((report.last.index, report.last.term), (index, term));
        assert_eq!(report.cluster, CLUSTER);
        assert_eq!(report.members.iter().filter(|member| member.votes).count(), 3);
        assert_eq!(report.digest.unwrap().index, index);
        files.push((file, before));
    }
    writer.end().await;
    for (file, before) in files {
        let dir = TempDir::new().unwrap();
        restore(&file, &dir.path().join("9"), 9).await.unwrap();
        let node = builder(&Fabric::new(), open_of(dir.path(), NEW, 9), 1)
            .start()
            .await
            .unwrap();
        let read = node.read(Consistency::Linearizable, |kv| {
            kv.range_from("")
                .map(|(key, entry)| (key.to_owned(), entry.value.to_vec()))
                .collect::<Vec<_>>()
        });
        let entries = read.await.unwrap().value;
        assert!(entries.len() as u64 >= before, "{} of {before}", entries.len());
        for (at, (key, value)) in entries.iter().enumerate() {
            assert_eq!((key, value), (&format!("{at:06}"), &at.to_string().into_bytes()));
        }
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_group_keeps_its_state_and_gives_no_number_out_again() {
    let root = TempDir::new().unwrap();
    let fabric = Fabric::new();
    let nodes = old_group(&fabric, root.path()).await;
    put(&nodes[0], "kept", "value").await;
    let session = nodes[0].open_session(Duration::from_secs(600)).await.unwrap();
    let mut last = 0;
    for key in ["a", "b"] {
        nodes[0].finalize_feature("rivven", 1).await.unwrap();
        put(&nodes[0], key, "1").await;
        last = nodes[0]
            .read(Consistency::Linearizable, KvStore::revision)
            .await
            .unwrap()
            .value;
    }
    let file = root.path().join("backup");
    save(nodes[2].backup(WAIT).await.unwrap(), &file).await;
    assert_eq!(verify_backup(&file).unwrap().sessions, 1);
    assert_eq!(verify_backup(&file).unwrap().levels["rivven"], 1);

    restore(&file, &root.path().join("new/9"), 9).await.unwrap();
    let other = Fabric::new();
    let new = root.path().join("new");
    let node = builder(&other, open_of(&new, NEW, 9), 1).start().await.unwrap();
    assert_eq!(get(&node, "kept").await.as_deref(), Some("value"));
    let status = node.status();
    assert_eq!(
        (
            status.voters.iter().copied().collect::<Vec<_>>(),
            status.learners.len()
        ),
        (vec![9], 0)
    );
    put(&node, "after", "2").await;
    let revision = node
        .read(Consistency::Linearizable, KvStore::revision)
        .await
        .unwrap()
        .value;
    assert_eq!(revision, last + REFOUNDING_GAP + 1);
    let again = node.open_session(Duration::from_secs(600)).await.unwrap();
    assert!(again.id().0 > session.id().0 + REFOUNDING_GAP / 2);
    // Whoever watched beyond the backup has seen what is no more.
    let mut watch = node.watch_kv(KeyRange::all(), WatchFrom::Revision(last + 1_000));
    let ended = watch.next().await.unwrap_err();
    assert!(matches!(ended, KvWatchError::Compacted { .. }), "{ended}");

    let refoundings = node.refoundings().await;
    assert_eq!(refoundings.len(), 1);
    let done = &refoundings[0];
    assert_eq!(
        (done.cause, done.cluster, done.node),
        (RefoundingCause::Restored, CLUSTER, 9)
    );
    assert_eq!(
        (&done.voters[..], done.at_ms),
        (&[1, 2, 3][..], 1_700_000_000_000)
    );

    // Another one joins, and has it all; also what happened.
    let joins = RaftNode::builder(RaftConfig {
        peers: vec![9],
        ..config(2, 1)
    });
    let joins = joins.fabric(&other).inline_writes().joining(JoinAs::new());
    let joins = joins
        .data_dir(open_of(&new, NEW, 2))
        .state_machine(KvStore::new());
    let joined = joins.start().await.unwrap();
    joined.wait_joined(WAIT).await.unwrap();
    assert_eq!(get(&joined, "kept").await.as_deref(), Some("value"));
    assert_eq!(joined.refoundings().await, refoundings);
    for node in nodes.into_iter().chain([node, joined]) {
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_directory_gives_the_same_kind_of_backup() {
    let root = TempDir::new().unwrap();
    let nodes = group(&Fabric::new(), 3).await;
    agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    let file = root.path().join("backup");
    save(nodes[1].backup(WAIT).await.unwrap(), &file).await;
    restore(&file, &root.path().join("9"), 9).await.unwrap();
    let node = builder(&Fabric::new(), open_of(root.path(), NEW, 9), 1)
        .start()
        .await
        .unwrap();
    assert_eq!(get(&node, "a").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_there_is_no_backup() {
    let nodes = group(&Fabric::new(), 3).await;
    agreed_leader(&nodes).await;
    for node in &nodes[1..] {
        node.shutdown().await;
    }
    let refused = nodes[0].backup(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(refused.code(), "no-leader", "{refused}");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_damaged_backup_is_refused_and_leaves_nothing_behind() {
    let root = TempDir::new().unwrap();
    let file = some_backup(root.path()).await;
    let whole = fs::read(&file).unwrap();
    let target = TempDir::new().unwrap();
    let (damaged, data) = (root.path().join("damaged"), target.path().join("9"));
    let check = async |bytes: &[u8], what: String| {
        fs::write(&damaged, bytes).unwrap();
        let refused = verify_backup(&damaged).unwrap_err();
        assert_eq!(refused.code(), "backup-damaged", "{what}: {refused}");
        let refused = restore(&damaged, &data, 9).await.unwrap_err();
        assert_eq!(refused.code(), "backup-damaged", "{what}: {refused}");
        assert_eq!(names(target.path()), Vec::<String>::new(), "{what}");
    };
    let step = whole.len() / 60 + 1;
    for at in (0..whole.len()).step_by(step) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        check(&bytes, format!("bit {} of byte {at} flipped", at % 8)).await;
        check(&whole[..at], format!("cut at {at}")).await;
    }
    check(&[&whole[..], b"x"].concat(), "one byte more".into()).await;
    let missing = restore(&root.path().join("missing"), &data, 9).await.unwrap_err();
    assert_eq!(missing.code(), "backup-unreadable");
}

#[tokio::test(start_paused = true)]
async fn a_backup_is_not_restored_as_its_own_cluster_nor_into_a_full_directory_nor_misunderstood() {
    let root = TempDir::new().unwrap();
    let file = some_backup(root.path()).await;
    let target = root.path().join("own");
    let partial = PartialDir::create(&target, CLUSTER, 1, [9; 16]).unwrap();
    let restored = restore_backup::<KvStore>(&file, partial.dir(), founder()).await;
    assert_eq!(restored.unwrap_err().code(), "restore-same-cluster");
    drop(partial);

    let full = restore(&file, &root.path().join("1"), 9).await.unwrap_err();
    assert_eq!(full.code(), "data-dir-not-empty", "{full}");

    // Of another application.
    let partial = PartialDir::create(&target, NEW, 1, [9; 16]).unwrap();
    let restored = restore_backup::<Other>(&file, partial.dir(), founder()).await;
    assert_eq!(restored.unwrap_err().code(), "backup-not-understood");
    drop(partial);
    assert!(!target.exists() && !root.path().join("own.partial").exists());
}

struct Other;

impl rivven_raft::StateMachine for Other {
    type Command = ();
    type Response = ();
    type Snapshot = ();
    fn apply(&mut self, _ctx: &rivven_raft::ApplyCtx, (): ()) {}
    fn snapshot(&self) {}
    fn encode_snapshot((): &(), _out: &mut dyn std::io::Write) -> std::io::Result<()> {
        Ok(())
    }
    fn decode_snapshot(input: &mut dyn std::io::Read) -> std::io::Result<()> {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        Err(std::io::Error::other("not mine"))
    }
    fn restore(&mut self, (): ()) {}
}

/// A restore that is killed leaves a prefix of its files, the last of them cut. Nothing of it is a directory that
/// a node starts in, and the next attempt succeeds.
#[tokio::test(start_paused = true)]
async fn a_restore_that_was_killed_at_any_step_is_repeated() {
    let root = TempDir::new().unwrap();
    let file = some_backup(root.path()).await;
    let whole = TempDir::new().unwrap();
    restore(&file, &whole.path().join("9"), 9).await.unwrap();
    let done = whole.path().join("9");
    let snapshot = names(&done.join("snapshots")).remove(0);
    let steps: [PathBuf; 4] = [
        "lock".into(),
        "identity.json".into(),
        "log.redb".into(),
        Path::new("snapshots").join(snapshot),
    ];
    for killed_at in 0..steps.len() {
        for cut in [0, 1, 2] {
            let target = TempDir::new().unwrap();
            let partial = target.path().join("9.partial");
            for (at, step) in steps[..=killed_at].iter().enumerate() {
                let mut bytes = fs::read(done.join(step)).unwrap();
                if at == killed_at {
                    bytes.truncate(bytes.len() * cut / 2);
                }
                let to = partial.join(step);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::write(to, bytes).unwrap();
            }
            let data = target.path().join("9");
            assert!(!data.exists());
            restore(&file, &data, 9).await.unwrap();
            assert_eq!(names(target.path()), ["9"]);
            let node = builder(&Fabric::new(), open_of(target.path(), NEW, 9), 1)
                .start()
                .await
                .unwrap();
            assert_eq!(get(&node, "119").await, Some("v".repeat(119)));
            let again = node.propose(KvCommand::put("more", "x")).await;
            assert!(again.is_ok(), "{again:?}");
            node.shutdown().await;
        }
    }
}
