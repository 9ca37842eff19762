//! `rivven-node kv`: a program that is no member reads, sets and watches keys of three real nodes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rivven_cluster::{Client, ClientConfig, ClusterConfig, Consistency, NodeId, PeerAddr};
use rivven_node::harness::{Harness, HarnessOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_rivven-node");
const LIMIT: Duration = Duration::from_secs(60);

/// A cluster, and the certificate of a program.
struct Bench {
    harness: Harness,
    tls_dir: PathBuf,
    nodes: Vec<PeerAddr>,
}

impl Bench {
    async fn start() -> Self {
        let harness = Harness::start(HarnessOptions::new(BINARY)).unwrap();
        let ca = harness.dir().join("tls");
        let issued = Command::new(BINARY)
            .args(["cert", "issue", "--client", "app", "--ca"])
            .arg(&ca)
            .output()
            .unwrap();
        let text = String::from_utf8(issued.stdout).unwrap();
        assert!(text.starts_with("client app: give it "), "{text}");
        let quic = |id: NodeId| {
            let spec = harness.node(id).unwrap().spec();
            let config = ClusterConfig::from_yaml_file(&spec.config).unwrap();
            PeerAddr::from(config.bind_address)
        };
        let nodes = harness.ids().into_iter().map(quic).collect();
        harness.wait_ready(&harness.ids(), LIMIT).await.unwrap();
        Self {
            tls_dir: ca.join("client-app"),
            harness,
            nodes,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        let mut command = Command::new(BINARY);
        command.arg("kv").args(args).args(["--node", &nodes.join(",")]);
        command.arg("--tls-dir").arg(&self.tls_dir);
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What `args` print.
    #[track_caller]
    fn prints(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `args` must fail with `code`.
    #[track_caller]
    fn fails(&self, args: &[&str], exit: i32, code: &str) -> String {
        let output = self.output(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with(&format!("error[{code}]: ")), "{args:?}: {text}");
        assert!(text.contains("\n  help: "), "{text}");
        assert_eq!(output.status.code(), Some(exit), "{text}");
        text
    }

    async fn kill_the_leader(&mut self) {
        let status = self.harness.status(1).await.unwrap();
        let leader = status.controller.unwrap();
        self.harness.node_mut(leader).unwrap().kill().unwrap();
    }
}

/// A `kv watch`, which ends with this value.
struct Watching(Child, BufReader<std::process::ChildStdout>);

impl Watching {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn keys_are_set_read_watched_and_removed_from_outside() {
    let mut bench = Bench::start().await;
    let absent = bench.fails(&["get", "greeting"], 1, "key-not-found");
    assert!(absent.contains("there is no key greeting"), "{absent}");
    assert_eq!(
        bench.prints(&["put", "greeting", "hello"]),
        "greeting is at revision 1\n"
    );
    assert_eq!(bench.prints(&["get", "greeting"]), "hello");
    assert_eq!(bench.prints(&["get", "greeting", "--stale"]), "hello");
    let mut watch = Watching::start(bench.command(&["watch", "g", "--from", "1"]));
    assert_eq!(watch.line(), "1 put greeting hello");

    // Only on a condition.
    bench.fails(&["put", "greeting", "new", "--if-absent"], 1, "key-changed");
    bench.fails(
        &["put", "greeting", "new", "--if-revision", "9"],
        1,
        "key-changed",
    );
    bench.fails(&["delete", "nothing", "--if-revision", "9"], 1, "key-not-found");
    bench.prints(&["put", "greeting", "new", "--if-revision", "1"]);
    assert_eq!(watch.line(), "2 put greeting new");
    bench.prints(&["put", "other", "1", "--if-absent"]);

    // Bytes are bytes.
    let mut child = bench
        .command(&["put", "g/bytes", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&[0, 0xff, b'\n']).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(bench.output(&["get", "g/bytes"]).stdout, [0, 0xff, b'\n']);
    assert_eq!(watch.line(), "4 put g/bytes (3 bytes)");
    let json: serde_json::Value = serde_json::from_str(&bench.prints(&["get", "g/bytes", "--json"])).unwrap();
    assert_eq!(
        (&json["value_base64"], &json["version"]),
        (&"AP8K".into(), &1.into())
    );

    let listed = bench.prints(&["list"]);
    assert!(
        listed.contains("greeting") && listed.ends_with("3 keys at revision 4\n"),
        "{listed}"
    );
    let before = bench.prints(&["list", "g", "--revision", "1", "--limit", "1"]);
    assert!(
        before.contains("hello") && before.contains("1 key at revision 1"),
        "{before}"
    );
    bench.fails(&["list", "--revision", "99"], 1, "future-revision");

    // A leader dies: the watch goes on, the next write waits for its successor.
    bench.kill_the_leader().await;
    bench.prints(&["delete", "greeting"]);
    assert_eq!(watch.line(), "5 delete greeting");
    bench.prints(&["put", "g/short", "lived", "--ttl", "1s"]);
    assert_eq!(watch.line(), "6 put g/short lived");
    assert_eq!(watch.line(), "7 delete g/short");
    bench.harness.stop_all().await.unwrap();
}

#[tokio::test]
async fn who_may_not_use_the_cluster_is_told_why() {
    let mut bench = Bench::start().await;
    let own = bench.tls_dir.clone();
    let ca = bench.harness.dir().join("tls");
    // A member's certificate would take its connections from it.
    bench.tls_dir = ca.join("node-1");
    bench.fails(&["get", "k"], 2, "not-a-client");
    bench.tls_dir = ca.join("nobody");
    bench.fails(&["get", "k"], 2, "identity-missing");
    // Of another cluster.
    let foreign = tempfile::tempdir().unwrap();
    for args in [
        &["cert", "init", "--nodes", "1", "--out"][..],
        &["cert", "issue", "--operator", "eve", "--ca"],
    ] {
        let made = Command::new(BINARY)
            .args(args)
            .arg(foreign.path())
            .output()
            .unwrap();
        assert!(made.status.success());
    }
    bench.tls_dir = foreign.path().join("operator-eve");
    let text = bench.fails(&["get", "k", "--timeout", "3s"], 1, "no-node-answered");
    assert!(text.contains("certificate"), "{text}");
    // Nobody is there.
    bench.tls_dir = own.clone();
    let nodes = std::mem::replace(&mut bench.nodes, vec!["127.0.0.1:1".parse().unwrap()]);
    bench.fails(&["get", "k", "--timeout", "1s"], 1, "no-node-answered");
    bench.nodes = nodes;

    // The library, as a program embeds it, from any one of the nodes.
    let config = ClientConfig::new(&own, bench.nodes.iter().take(1).cloned());
    let client = Client::connect(config).await.unwrap();
    let kv = client.kv();
    let session = kv.open_session(Duration::from_secs(60)).await.unwrap();
    kv.clone().with_id(session, 1).put("k", "once").await.unwrap();
    kv.clone().with_id(session, 1).put("k", "once").await.unwrap();
    kv.renew_session(session).await.unwrap();
    kv.close_session(session).await.unwrap();
    let entry = kv.get("k", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.version), (&b"once"[..], 1));
    let lease = kv.grant_lease(Duration::from_secs(60)).await.unwrap();
    assert!(
        kv.lease(lease, Consistency::Linearizable)
            .await
            .unwrap()
            .is_some()
    );
    assert!(client.leader().is_some());
    client.shutdown().await;
    assert!(
        kv.with_timeout(Duration::from_millis(200))
            .put("k", "late")
            .await
            .is_err()
    );
    // Without another word, the nodes see that it is gone.
    let config = ClientConfig::new(&own, bench.nodes.clone());
    drop(Client::connect(config).await.unwrap());
    bench.harness.stop_all().await.unwrap();
}
