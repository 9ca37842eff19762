//! What bad input gets: a stable code, a cause, a remedy, the right exit code, and nothing harmed on disk.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::{
    ffi::OsStr,
    fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rivven_cluster::ClusterConfig;
use rivven_node::harness::{Harness, HarnessOptions, STOP_GRACE, until};
use rivven_transport::identity::{
    CA_FILE, CA_KEY_FILE, CERT_FILE, CertificateAuthority, KEY_FILE, NodeName, Validity, node_dir_name,
    write_cluster,
};

const BINARY: &str = env!("CARGO_BIN_EXE_rivven-node");
const LIMIT: Duration = Duration::from_secs(60);

/// A node that could run, until a test breaks something about it.
struct Bench {
    harness: Harness,
}

impl Bench {
    fn new() -> Self {
        let mut options = HarnessOptions::new(BINARY);
        options.nodes = 1;
        Self {
            harness: Harness::prepare(options).unwrap(),
        }
    }

    fn config_path(&self) -> PathBuf {
        self.harness.node(1).unwrap().spec().config.clone()
    }

    fn config(&self) -> ClusterConfig {
        ClusterConfig::from_yaml_file(self.config_path()).unwrap()
    }

    fn tls_dir(&self) -> PathBuf {
        self.config().tls_dir.unwrap()
    }

    fn data_dir(&self) -> PathBuf {
        self.config().data_dir.unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut ClusterConfig)) {
        let mut config = self.config();
        change(&mut config);
        fs::write(self.config_path(), config.to_yaml()).unwrap();
    }

    /// `run` as it stands must fail with `code` and `exit`; returns what it printed.
    #[track_caller]
    fn run_fails(&self, exit: i32, code: &str) -> String {
        let path = self.config_path();
        let args: [&OsStr; 3] = ["run".as_ref(), "--config".as_ref(), path.as_ref()];
        fails(args, exit, code)
    }

    /// Runs the node until it is ready, and stops it.
    async fn runs_and_stops(&mut self) {
        let node = self.harness.node_mut(1).unwrap();
        node.start().unwrap();
        self.harness.wait_ready(&[1], LIMIT).await.unwrap();
        let node = self.harness.node_mut(1).unwrap();
        assert!(node.terminate(STOP_GRACE).await.unwrap().success());
    }
}

fn rivven_node<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).stdin(Stdio::null()).env_remove("RIVVEN_LOG");
    command.output().unwrap()
}

#[track_caller]
fn fails<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I, exit: i32, code: &str) -> String {
    let output = rivven_node(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("error[{code}]: ")), "{text}");
    assert_eq!(output.status.code(), Some(exit), "{text}");
    text
}

#[test]
fn wrong_usage_ends_with_code_2() {
    for args in [
        &["run"][..],
        &["no-such-command"],
        &["cert", "init", "--nodes", "x", "--out", "y"],
    ] {
        assert_eq!(rivven_node(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(rivven_node(["--help"]).status.code(), Some(0));
}

#[test]
fn configuration_mistakes_show_their_place() {
    let bench = Bench::new();
    let path = bench.config_path();
    let good = fs::read_to_string(&path).unwrap();
    let check = |text: String, code: &str, shown: &str| {
        fs::write(&path, text).unwrap();
        let printed = bench.run_fails(2, code);
        assert!(printed.contains(shown), "{printed}");
    };
    let misspelled = good.replace("election_timeout_min_ms", "election_timout_min_ms");
    check(misspelled, "config-unknown-key", "election_timeout_min_ms");
    let wrong_type = good.replace("election_timeout_min_ms: 150", "election_timeout_min_ms: soon");
    check(wrong_type, "config-wrong-type", "soon");
    let twice = good.replace("  node_id: 1", "  node_id: 1\n  node_id: 2");
    check(twice, "config-duplicate-key", "node_id");
    let backwards = good.replace("election_timeout_min_ms: 150", "election_timeout_min_ms: 900");
    check(backwards, "config-invalid-value", "config.yaml");
    check("cluster: [".into(), "config-syntax", "config.yaml");
}

#[test]
fn a_missing_file_and_a_wrong_variable_are_named() {
    let printed = fails(["config", "check", "no-such.yaml"], 2, "config-unreadable");
    assert!(printed.contains("no-such.yaml"), "{printed}");
    let bench = Bench::new();
    let output = Command::new(BINARY)
        .args(["config", "check"])
        .arg(bench.config_path())
        .env("RIVVEN_CLUSTER__RAFT__ELECTION_TIMOUT_MIN_MS", "200")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("RIVVEN_CLUSTER__RAFT__ELECTION_TIMOUT_MIN_MS"),
        "{text}"
    );
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let bench = Bench::new();
    let output = Command::new(BINARY)
        .args(["run", "--config"])
        .arg(bench.config_path())
        .env("RIVVEN_LOG", "info,=,=")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("error[bad-log-filter]"), "{text}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn missing_certificates_name_the_command_that_makes_them() {
    let bench = Bench::new();
    bench.change(|config| config.tls_dir = None);
    let printed = bench.run_fails(2, "identity-missing");
    assert!(
        printed.contains("rivven-node cert init --nodes 1,2,3 --out DIR"),
        "{printed}"
    );
    assert!(
        !bench.data_dir().exists(),
        "a node that cannot start leaves nothing behind"
    );
}

#[test]
fn certificates_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    let dir = bench.harness.dir().to_owned();
    let own = bench.tls_dir();
    let ours = authority(&dir.join("tls"));

    let name = NodeName {
        cluster: ours.cluster(),
        node: 1,
    };
    let expired = Validity {
        not_before: Duration::ZERO,
        not_after: Duration::from_secs(1),
    };
    let issued = ours.issue_as(name, expired).unwrap();
    let tls = variant(&own, &dir.join("expired"));
    fs::write(tls.join(CERT_FILE), issued.cert_pem()).unwrap();
    fs::write(tls.join(KEY_FILE), issued.key_pem()).unwrap();
    bench.change(|config| config.tls_dir = Some(tls));
    bench.run_fails(2, "certificate-expired");

    let other = dir.join("other");
    write_cluster(&other, &[1, 2]).unwrap();
    let tls = variant(&own, &dir.join("mixed"));
    fs::copy(other.join(CA_FILE), tls.join(CA_FILE)).unwrap();
    bench.change(|config| config.tls_dir = Some(tls));
    bench.run_fails(2, "certificate-not-signed-by-ca");

    let tls = variant(&own, &dir.join("swapped"));
    fs::copy(other.join(node_dir_name(1)).join(KEY_FILE), tls.join(KEY_FILE)).unwrap();
    bench.change(|config| config.tls_dir = Some(tls));
    bench.run_fails(2, "identity-key-mismatch");

    bench.change(|config| config.tls_dir = Some(other.join(node_dir_name(2))));
    let printed = bench.run_fails(2, "node-id-mismatch");
    assert!(printed.contains("node 2"), "{printed}");
}

#[test]
fn a_port_in_use_is_named() {
    let bench = Bench::new();
    let good = bench.config();
    {
        let _taken = UdpSocket::bind(good.bind_address).unwrap();
        let printed = bench.run_fails(1, "port-in-use");
        assert!(
            printed.contains(&good.bind_address.port().to_string()),
            "{printed}"
        );
    }
    {
        let _taken = UdpSocket::bind(("127.0.0.1", good.gossip.bind_port)).unwrap();
        let printed = bench.run_fails(1, "port-in-use");
        assert!(printed.contains(&good.gossip.bind_port.to_string()), "{printed}");
    }
    for address in [good.admin.address, good.admin.health_address] {
        let _taken = TcpListener::bind(address).unwrap();
        let printed = bench.run_fails(1, "port-in-use");
        assert!(printed.contains(&address.to_string()), "{printed}");
    }
}

#[test]
fn an_admin_api_open_to_others_is_asked_for_by_name() {
    let bench = Bench::new();
    bench.change(|config| config.admin.address = "0.0.0.0:0".parse().unwrap());
    let printed = bench.run_fails(2, "config-invalid-value");
    assert!(printed.contains("admin.insecure: true"), "{printed}");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let bench = Bench::new();
    // A file in the way stops every user, root included.
    let file = bench.harness.dir().join("file");
    fs::write(&file, "in the way").unwrap();
    bench.change(|config| config.data_dir = Some(file.join("data")));
    let printed = bench.run_fails(1, "data-dir-not-writable");
    assert!(printed.contains(&file.display().to_string()), "{printed}");
    assert_eq!(fs::read(&file).unwrap(), b"in the way");
}

#[test]
fn certificates_are_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    assert!(
        rivven_node(["cert", "init", "--nodes", "1,2,3", "--out", out])
            .status
            .success()
    );
    let before = fs::read(dir.path().join(CA_KEY_FILE)).unwrap();
    fails(
        ["cert", "init", "--nodes", "1", "--out", out],
        2,
        "identity-exists",
    );
    assert_eq!(fs::read(dir.path().join(CA_KEY_FILE)).unwrap(), before);
    fails(
        ["cert", "init", "--nodes", "1,1", "--out", out],
        2,
        "identity-bad-nodes",
    );
}

#[test]
fn a_token_that_is_none_and_an_issuer_that_is_not_there_are_named() {
    let bench = Bench::new();
    let out = bench.harness.dir().join("joined");
    let join = |token: &str, exit, code| {
        fails(
            [
                "cert".as_ref(),
                "join".as_ref(),
                token.as_ref(),
                "--out".as_ref(),
                out.as_os_str(),
            ],
            exit,
            code,
        )
    };
    join("token", 2, "join-token-unreadable");
    join("rivven-join-aaaa", 2, "join-token-unreadable");
    // Nothing on standard input.
    join("-", 2, "join-token-unreadable");
    assert!(!out.exists(), "nothing is made for what is no token");
    let (admin, no_token) = (
        bench.config().admin.address.to_string(),
        bench.data_dir().join("admin.token"),
    );
    let ask = |node: &str, exit, code| {
        let options = ["--admin", &admin, "--node", node, "--admin-token"].map(OsStr::new);
        let args = ["cert", "join-token"].map(OsStr::new).into_iter().chain(options);
        fails(args.chain([no_token.as_os_str()]), exit, code)
    };
    ask("4", 2, "admin-token-unusable");
    fs::create_dir_all(bench.data_dir()).unwrap();
    fs::write(&no_token, "00".repeat(32)).unwrap();
    fs::set_permissions(&no_token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    ask("4", 1, "node-unreachable");
    assert_eq!(
        rivven_node(["cert", "join-token", "--node", "4", "--ttl", "soon"])
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test]
async fn a_directory_of_another_cluster_or_process_is_left_alone() {
    let mut bench = Bench::new();
    bench.runs_and_stops().await;
    let (tls, data) = (bench.tls_dir(), bench.data_dir());

    let other = bench.harness.dir().join("other");
    write_cluster(&other, &[1]).unwrap();
    bench.change(|config| config.tls_dir = Some(other.join(node_dir_name(1))));
    let before = contents(&data);
    bench.run_fails(1, "data-dir-foreign-cluster");
    assert_eq!(contents(&data), before, "refusing must not write");
    bench.change(|config| config.tls_dir = Some(tls.clone()));

    bench.harness.node_mut(1).unwrap().start().unwrap();
    bench.harness.wait_ready(&[1], LIMIT).await.unwrap();
    let second = bench.harness.outsider(1, "second", &tls).unwrap();
    let mut config = ClusterConfig::from_yaml_file(&second.spec().config).unwrap();
    config.data_dir = Some(data);
    fs::write(&second.spec().config, config.to_yaml()).unwrap();
    let path = second.spec().config.as_os_str();
    fails(["run".as_ref(), "--config".as_ref(), path], 1, "data-dir-locked");

    let node = bench.harness.node_mut(1).unwrap();
    assert!(node.is_running(), "the first process goes on");
    assert!(node.client().is_ready().await.unwrap());
    assert!(node.terminate(STOP_GRACE).await.unwrap().success());
}

#[tokio::test]
async fn a_peer_that_does_not_resolve_is_tried_again_and_never_fatal() {
    let mut bench = Bench::new();
    bench.change(|config| {
        config.raft.peers = vec!["no-such-host.invalid:9093".parse().unwrap()];
        config.gossip.known_peers = vec!["no-such-host.invalid:7946".parse().unwrap()];
    });
    let node = bench.harness.node_mut(1).unwrap();
    node.start().unwrap();
    let health = node.spec().health;
    let ask = || async move {
        let mut client = rivven_node::client::AdminClient::new(health);
        let (live, _) = client.text("/livez").await.map_err(|error| error.to_string())?;
        let (ready, text) = client.text("/readyz").await.map_err(|error| error.to_string())?;
        Ok((live.as_u16(), ready.as_u16(), text))
    };
    let (live, ready, text) = until("the node answers", LIMIT, ask).await.unwrap();
    assert_eq!((live, ready), (200, 503), "{text}");
    let node = bench.harness.node_mut(1).unwrap();
    assert!(node.terminate(STOP_GRACE).await.unwrap().success());
}

/// Two machines with the same certificate: the one that was there first goes on, and both say what is wrong.
#[tokio::test]
async fn a_second_node_of_the_same_id_is_refused_by_name() {
    let mut harness = Harness::start(HarnessOptions::new(BINARY)).unwrap();
    harness.wait_ready(&[1, 2, 3], LIMIT).await.unwrap();
    let tls = harness.dir().join("tls").join(node_dir_name(2));
    let mut twin = harness.outsider(2, "twin", &tls).unwrap();
    twin.start().unwrap();
    let told = until("everybody knows", LIMIT, || async {
        let twin_log = twin.log_text().unwrap_or_default();
        let first_log = harness.node(1).unwrap().log_text().unwrap_or_default();
        let problems = harness
            .status(2)
            .await
            .map_err(|error| error.to_string())?
            .problems;
        let named = problems.iter().any(|problem| problem.code == "duplicate-node-id");
        let refused = twin_log.contains("duplicate-node-id") && first_log.contains("refused");
        if named && refused {
            Ok(())
        } else {
            Err(format!("{problems:?}\n{twin_log}"))
        }
    });
    told.await.unwrap();
    assert!(!twin.client().is_ready().await.unwrap());
    assert!(twin.terminate(STOP_GRACE).await.unwrap().success());
    let mut client = harness.client(2).unwrap();
    client.put("still", "here".into()).await.unwrap();
    harness.stop_all().await.unwrap();
}

fn authority(dir: &Path) -> CertificateAuthority {
    let certificate = fs::read_to_string(dir.join(CA_FILE)).unwrap();
    let key = fs::read_to_string(dir.join(CA_KEY_FILE)).unwrap();
    CertificateAuthority::from_pem(&certificate, &key).unwrap()
}

/// A copy of a node's certificates, to break.
fn variant(of: &Path, dir: &Path) -> PathBuf {
    fs::create_dir(dir).unwrap();
    for entry in fs::read_dir(of).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    dir.to_owned()
}

/// Every file of a directory with its bytes, the lock file aside.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.is_file() && !path.ends_with("lock"))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}
