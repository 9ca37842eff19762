//! Backups, restores and recoveries with the real program.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rivven_admin::CreateTopicBody;
use rivven_node::{
    client::{AdminClient, ReadLevel},
    harness::{Harness, HarnessOptions, NodeProcess, NodeSpec, STOP_GRACE, token_path, until},
};

const BINARY: &str = env!("CARGO_BIN_EXE_rivven-node");
const LIMIT: Duration = Duration::from_secs(60);

/// Values written before a backup.
const KEYS: u64 = 200;

fn run(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(BINARY);
    for arg in args {
        command.arg(arg);
    }
    command.output().unwrap()
}

/// What a command shows that succeeds.
fn shows(args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = run(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The code that a command has failed with.
fn code_of(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{errors}");
    let code = errors.rsplit_once("error[").map(|(_, rest)| rest);
    code.and_then(|rest| rest.split(']').next())
        .unwrap_or(&errors)
        .to_owned()
}

/// The code that a command fails with.
fn fails(args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    code_of(&run(args))
}

async fn fill(client: &mut AdminClient, keys: std::ops::Range<u64>) {
    for key in keys {
        let value = format!("{key}-").repeat(200);
        client.put(&format!("k{key:04}"), value.into()).await.unwrap();
    }
}

async fn check(client: &mut AdminClient, keys: std::ops::Range<u64>) {
    for key in keys {
        let found = client
            .get(&format!("k{key:04}"), ReadLevel::Linearizable)
            .await
            .unwrap();
        assert_eq!(found.unwrap().value, format!("{key}-").repeat(200));
    }
}

/// Waits until every partition of the topic has a leader; who leads.
async fn leaders(node: &NodeProcess) -> Vec<u64> {
    let look = || async {
        let partitions = node
            .client()
            .topic("orders")
            .await
            .map_err(|error| error.to_string())?;
        let leaders: Option<Vec<u64>> = partitions.partitions.iter().map(|one| one.leader).collect();
        leaders.ok_or_else(|| format!("{partitions:?}"))
    };
    until("every partition has a leader", LIMIT, look).await.unwrap()
}

async fn create_topic(harness: &Harness) {
    let topic = CreateTopicBody {
        name: "orders".into(),
        partitions: 6,
        replication_factor: Some(3),
    };
    harness.client(1).unwrap().create_topic(&topic).await.unwrap();
    leaders(harness.node(1).unwrap()).await;
}

fn save(node: &NodeProcess, file: &Path, more: &[&str]) -> Output {
    let spec = node.spec();
    let mut command = Command::new(BINARY);
    command.args(["snapshot", "save"]).arg(file).args(more);
    command.args(["--admin", &spec.admin.to_string(), "--admin-token"]);
    command.arg(token_path(&spec.data_dir)).output().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Certificates of a new cluster, and the node of the old one whose place the founder takes.
struct Drill {
    certs: PathBuf,
    spec: NodeSpec,
}

impl Drill {
    fn command(&self, file: &Path, data: &Path) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["snapshot", "restore"]).arg(file);
        command.arg("--config").arg(&self.spec.config);
        command.arg("--tls-dir").arg(&self.certs).arg("--data-dir");
        command.arg(data);
        command
    }

    fn code(&self, file: &Path, data: &Path) -> String {
        code_of(&self.command(file, data).output().unwrap())
    }
}

/// Memory of the node, as it is and at its highest since it was last asked, in bytes.
#[cfg(target_os = "linux")]
fn memory(node: &NodeProcess) -> [u64; 2] {
    let proc = Path::new("/proc").join(node.pid().unwrap().to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    // From here on the highest mark begins anew.
    fs::write(proc.join("clear_refs"), "5").unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib << 10
    })
}

/// Two readers that take nothing have both places: a third is told so, everything else goes on, and the node keeps no more
/// for them than some pieces of 1 MiB.
#[tokio::test]
async fn readers_that_take_nothing_cost_little_and_keep_nobody_from_anything_but_a_backup() {
    let mut options = HarnessOptions::new(BINARY);
    options.nodes = 1;
    let harness = Harness::start(options).unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();
    let node = harness.node(1).unwrap();
    let mut client = node.client();
    // More than what two sockets hold of a stream, and 3 MiB.
    let values = 24_u64;
    for key in 0..values {
        let value = vec![u8::try_from(key).unwrap(); 1 << 20];
        client.put(&format!("large{key}"), value.into()).await.unwrap();
    }
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("cluster.backup");
    assert!(save(node, &file, &[]).status.success());
    #[cfg(target_os = "linux")]
    let before = memory(node)[0];

    let first = client.snapshot().await.unwrap();
    let mut second = client.snapshot().await.unwrap();
    assert_eq!(code_of(&save(node, &file, &["--force"])), "too-many-backups");
    fill(&mut client, 0..10).await;
    check(&mut client, 0..10).await;
    #[cfg(target_os = "linux")]
    {
        let grown = memory(node)[1].saturating_sub(before);
        assert!(
            grown < 16 << 20,
            "{grown} bytes for {} of backups",
            2 * second.total_bytes
        );
    }

    // Whoever goes away leaves its place free, and so does whoever has it all.
    drop(first);
    let save_again = || async {
        let saved = save(node, &file, &["--force"]);
        saved
            .status
            .success()
            .then_some(())
            .ok_or_else(|| code_of(&saved))
    };
    until("a place is free", LIMIT, save_again).await.unwrap();
    let mut received = 0;
    while let Some(bytes) = second.next().await.unwrap() {
        received += bytes.len() as u64;
    }
    assert!(received == second.total_bytes && received > values << 20);
    let third = client.snapshot().await.unwrap();
    until("the other place is free", LIMIT, save_again).await.unwrap();
    drop(third);
    assert_eq!(names(files.path()), ["cluster.backup"]);
}

/// Three nodes are backed up; a new cluster begins with the backup, and a second node joins.
#[tokio::test]
async fn a_cluster_is_saved_verified_and_restored_as_a_new_one() {
    let mut harness = Harness::start(HarnessOptions::new(BINARY)).unwrap();
    let all = harness.ids();
    harness.wait_ready(&all, LIMIT).await.unwrap();
    fill(&mut harness.client(1).unwrap(), 0..KEYS).await;
    create_topic(&harness).await;
    let old = harness.status(1).await.unwrap().cluster_id;
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("cluster.backup");

    saved(&mut harness, &file, &old).await;
    harness.stop_all().await.unwrap();
    restored(&harness, &file, &old).await;
}

/// Saves a backup, and what must not be saved.
async fn saved(harness: &mut Harness, file: &Path, old: &str) {
    let files = file.parent().unwrap();
    let output = save(harness.node(2).unwrap(), file, &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains(old) && text.contains("all checked") && text.contains("node 3 votes"),
        "{text}"
    );
    assert_eq!(names(files), ["cluster.backup"]);
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
    // Written after the backup, so not in it.
    fill(&mut harness.client(1).unwrap(), KEYS..KEYS + 1).await;
    assert_eq!(code_of(&save(harness.node(2).unwrap(), file, &[])), "file-exists");
    let other = files.join("other.backup");
    fs::write(&other, "another file").unwrap();
    assert!(
        save(harness.node(3).unwrap(), &other, &["--force"])
            .status
            .success()
    );
    assert_eq!(names(files), ["cluster.backup", "other.backup"]);
    assert!(shows(&[&"snapshot", &"verify", &other]).contains("all checked"));
    // Not without the token.
    let stranger = AdminClient::new(harness.node(1).unwrap().spec().admin);
    assert_eq!(stranger.snapshot().await.unwrap_err().code(), "token-missing");
}

/// Restores a backup as a new cluster of one.
async fn restored(harness: &Harness, file: &Path, old: &str) {
    let files = file.parent().unwrap();
    shows(&[
        &"cert",
        &"init",
        &"--nodes",
        &"1,2",
        &"--out",
        &files.join("certs"),
    ]);
    let drill = Drill {
        certs: files.join("certs/node-1"),
        spec: harness.node(1).unwrap().spec().clone(),
    };
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    refusals(&drill, file, home.path());

    // Killed at any moment, it leaves nothing or the whole.
    for pause_ms in [0, 5, 20, 60, 150] {
        let mut child = drill.command(file, &data).stdout(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let _ = child.kill();
        child.wait().unwrap();
        if data.exists() {
            assert_eq!(drill.code(file, &data), "data-dir-not-empty");
            fs::remove_dir_all(&data).unwrap();
        }
    }
    let output = drill.command(file, &data).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("NEW cluster"), "{text}");
    assert_eq!(names(home.path()), ["data"]);

    let mut founder = node_with(&drill, &data, home.path());
    founder.start().unwrap();
    let status = ready(&founder).await;
    assert_ne!(status, old);
    check(&mut founder.client(), 0..KEYS).await;
    let mut client = founder.client();
    assert_eq!(
        client
            .get(&format!("k{KEYS:04}"), ReadLevel::Linearizable)
            .await
            .unwrap(),
        None
    );
    let done = client.refoundings().await.unwrap().refoundings;
    assert_eq!(
        (done[0].cause.as_str(), &*done[0].cluster_id, &done[0].voters),
        ("restored", old, &vec![1, 2, 3])
    );
    assert_eq!(leaders(&founder).await, [1; 6]);
    fill(&mut client, KEYS + 1..KEYS + 5).await;
    check(&mut client, KEYS + 1..KEYS + 5).await;
    founder.terminate(STOP_GRACE).await.unwrap();
}

/// What a restore does not do leaves nothing behind.
fn refusals(drill: &Drill, file: &Path, home: &Path) {
    let data = home.join("data");
    let bytes = fs::read(file).unwrap();
    let damaged = file.with_extension("damaged");
    fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(fails(&[&"snapshot", &"verify", &damaged]), "backup-damaged");
    assert_eq!(drill.code(&damaged, &data), "backup-damaged");
    fs::remove_file(&damaged).unwrap();
    assert_eq!(drill.code(&damaged, &data), "backup-unreadable");
    // With the certificates of the cluster that the backup is of.
    let own = Drill {
        certs: fs::read_to_string(&drill.spec.config)
            .unwrap()
            .lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix("tls_dir: ")
                    .map(|dir| PathBuf::from(dir.trim_matches('"')))
            })
            .unwrap(),
        spec: drill.spec.clone(),
    };
    assert_eq!(own.code(file, &data), "restore-same-cluster");
    assert_eq!(drill.code(file, &drill.spec.data_dir), "data-dir-not-empty");
    assert_eq!(names(home), Vec::<String>::new());
}

/// Node 1 of the new cluster, alone, on the addresses of the old one.
fn node_with(drill: &Drill, data: &Path, home: &Path) -> NodeProcess {
    let text = fs::read_to_string(&drill.spec.config).unwrap();
    let mut config = rivven_cluster::ClusterConfig::from_yaml_str(&text, "old").unwrap();
    config.data_dir = Some(data.to_owned());
    config.tls_dir = Some(drill.certs.clone());
    let spec = NodeSpec {
        config: home.join("new.yaml"),
        data_dir: data.to_owned(),
        log: home.join("new.log"),
        ..drill.spec.clone()
    };
    fs::write(&spec.config, config.to_yaml()).unwrap();
    NodeProcess::new(spec)
}

/// Waits until a node is ready; its cluster.
async fn ready(node: &NodeProcess) -> String {
    let look = || async {
        let mut client = node.client();
        let ready = client.is_ready().await.map_err(|error| error.to_string())?;
        let status = client.status().await.map_err(|error| error.to_string())?;
        ready
            .then_some(status.cluster_id.clone())
            .ok_or_else(|| format!("{status:?}"))
    };
    until("the node is ready", LIMIT, look).await.unwrap()
}

/// One of three survives, goes on, and two new nodes join it. An old one that comes back is refused and told why.
#[tokio::test]
async fn a_lost_quorum_is_recovered_from_one_survivor() {
    let mut harness = Harness::start(HarnessOptions::new(BINARY)).unwrap();
    let all = harness.ids();
    harness.wait_ready(&all, LIMIT).await.unwrap();
    let cluster = harness.status(1).await.unwrap().cluster_id;
    fill(&mut harness.client(1).unwrap(), 0..KEYS).await;
    create_topic(&harness).await;
    let data = |harness: &Harness, id| harness.node(id).unwrap().spec().data_dir.clone();
    let first = data(&harness, 1);
    assert_eq!(
        fails(&[&"recover", &"--data-dir", &first, &"--yes-data-may-be-lost"]),
        "data-dir-locked"
    );
    harness.kill_all().unwrap();

    // Killed is not damaged; damaged is found, and nothing is mended by the way.
    let checked = shows(&[&"check", &"--data-dir", &first]);
    assert!(checked.contains("the node can be started"), "{checked}");
    let log = first.join("log.redb");
    let whole = fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    let half = damaged.len() / 2;
    damaged[4_096..half].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(&log, &damaged).unwrap();
    let code = fails(&[&"check", &"--data-dir", &first]);
    assert_eq!(code, "log-damaged");
    assert_eq!(fs::read(&log).unwrap(), damaged);
    fs::write(&log, whole).unwrap();

    // The certificates do not matter: nothing is connected to.
    let before = fs::read(first.join("founding.json")).unwrap();
    let plan = shows(&[&"recover", &"--data-dir", &first, &"--plan"]);
    for part in [
        &*cluster,
        "node 2 votes",
        "given up: node 3",
        "nothing was changed",
    ] {
        assert!(plan.contains(part), "no {part:?} in {plan}");
    }
    assert_eq!(fs::read(first.join("founding.json")).unwrap(), before);
    let config = &harness.node(1).unwrap().spec().config;
    let done = shows(&[&"recover", &"--config", config, &"--yes-data-may-be-lost"]);
    assert!(done.contains("done: node 1 is the only voter"), "{done}");
    assert_eq!(
        fails(&[&"recover", &"--data-dir", &first, &"--yes-data-may-be-lost"]),
        "recover-not-needed"
    );

    harness.node_mut(1).unwrap().start().unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();
    let status = harness.status(1).await.unwrap();
    assert_eq!((status.cluster_id, status.voters), (cluster, vec![1]));
    check(&mut harness.client(1).unwrap(), 0..KEYS).await;
    let refoundings = harness
        .client(1)
        .unwrap()
        .refoundings()
        .await
        .unwrap()
        .refoundings;
    assert_eq!(
        (refoundings[0].cause.as_str(), &refoundings[0].voters),
        ("recovered", &vec![1, 2, 3])
    );

    assert_eq!(leaders(harness.node(1).unwrap()).await, [1; 6]);
    an_old_one_comes_back(&mut harness).await;
    new_ones_join(&mut harness).await;
}

async fn an_old_one_comes_back(harness: &mut Harness) {
    harness.node_mut(2).unwrap().start().unwrap();
    let told = || async {
        let status = harness.status(2).await.map_err(|error| error.to_string())?;
        let problem = status
            .problems
            .iter()
            .find(|problem| problem.code == "cluster-recovered");
        let told = problem.filter(|problem| problem.message.contains("with an empty one"));
        told.map(|_| ()).ok_or_else(|| format!("{status:?}"))
    };
    until("the old node is told that it was given up", LIMIT, told)
        .await
        .unwrap();
    assert!(!harness.client(2).unwrap().is_ready().await.unwrap());
    fill(&mut harness.client(1).unwrap(), KEYS..KEYS + 10).await;
    harness.node_mut(2).unwrap().terminate(STOP_GRACE).await.unwrap();
}

/// The number of the old one with an empty disk, and a new one.
async fn new_ones_join(harness: &mut Harness) {
    harness.wipe(2).unwrap();
    harness.node_mut(2).unwrap().start().unwrap();
    harness.add(4).unwrap().start().unwrap();
    harness.wait_ready(&[1, 2, 4], LIMIT).await.unwrap();
    let vote = || async {
        let status = harness.status(1).await.map_err(|error| error.to_string())?;
        let voters = status.voters.clone();
        (voters == [1, 2, 4])
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    };
    until("three vote", LIMIT, vote).await.unwrap();
    check(&mut harness.client(4).unwrap(), 0..KEYS + 10).await;
    // Also without the survivor.
    harness.node_mut(1).unwrap().kill().unwrap();
    check(&mut harness.client(2).unwrap(), KEYS..KEYS + 10).await;
    let put = || async {
        let mut client = harness.client(4).map_err(|error| error.to_string())?;
        client
            .put("after", "1".into())
            .await
            .map_err(|error| error.to_string())
    };
    until("the new nodes go on", LIMIT, put).await.unwrap();
}
