//! Good configurations read as meant; each mistake is shown in its place with its remedy.

use super::*;

const PROMISED: &str = include_str!("../../../../tests/promises/config.yaml");

fn parse(text: &str) -> Result<ClusterConfig, ConfigError> {
    ClusterConfig::from_yaml_str(text, "node1.yaml")
}

/// Parses and validates: what a start would run into.
fn verdict(text: &str) -> Result<ClusterConfig, ConfigError> {
    let config = parse(text)?;
    config.validate()?;
    Ok(config)
}

#[test]
fn the_promised_file_is_accepted_unchanged() {
    let config = verdict(PROMISED).unwrap();
    assert_eq!(config.node_id, 1);
    assert_eq!(config.bind_address, "0.0.0.0:9093".parse().unwrap());
    assert_eq!(
        config.raft.peers,
        ["node2:9093".parse().unwrap(), "node3:9093".parse().unwrap()]
    );
    assert_eq!(config.gossip.known_peers, ["node2:7946".parse().unwrap()]);
    let full = config.effective();
    assert_eq!(full.raft.heartbeat_interval_ms, Some(50));
    assert_eq!(full.gossip.suspect_timeout_ms, Some(5_000));
    assert_eq!(full.data_dir.as_deref(), Some(Path::new("./rivven-data/1")));
    assert_eq!(full.tls_dir.as_deref(), Some(Path::new("./rivven-data/1/tls")));
    assert_eq!(full.advertise_address, None, "0.0.0.0 is never advertised");
}

#[test]
fn what_is_written_reads_back_equal() {
    let mut odd = ClusterConfig::dev("/a \"b\"\\\n\u{7}é");
    odd.zone = Some("#1: true".into());
    odd.advertise_address = Some("[::1]:1".parse().unwrap());
    for config in [
        verdict(PROMISED).unwrap(),
        verdict(PROMISED).unwrap().effective(),
        odd,
    ] {
        let text = config.to_yaml();
        assert_eq!(parse(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn profiles_fill_in_what_is_left_out() {
    let check = |text: &str, expected| {
        let full = verdict(&format!("cluster: {{node_id: 1, {text}}}"))
            .unwrap()
            .effective();
        let raft = (
            full.raft.election_timeout_min_ms,
            full.raft.election_timeout_max_ms,
        );
        let all = (
            raft,
            full.raft.heartbeat_interval_ms,
            full.gossip.protocol_period_ms,
        );
        assert_eq!(all, expected, "{text}");
    };
    let some = |min, max, heartbeat, period| ((Some(min), Some(max)), Some(heartbeat), Some(period));
    check("profile: local", some(150, 300, 50, 200));
    check("", some(500, 1_000, 100, 1_000));
    check("profile: wan", some(2_000, 4_000, 400, 2_000));
    check("raft: {election_timeout_max_ms: 300}", some(150, 300, 50, 1_000));
    check("raft: {election_timeout_min_ms: 300}", some(300, 600, 100, 1_000));
}

#[test]
fn the_environment_overrides_the_file_and_its_mistakes_are_named() {
    let mut config = parse(PROMISED).unwrap();
    config
        .apply_env([
            ("HOME", "/"),
            ("RIVVEN_LOG", "info"),
            ("RIVVEN_CLUSTER_PORT", "tcp://10.0.0.1"),
            ("RIVVEN_CLUSTER__NODE_ID", "7"),
            ("RIVVEN_CLUSTER__RAFT__ELECTION_TIMEOUT_MIN_MS", "200"),
            ("RIVVEN_CLUSTER__RAFT__PEERS", "a:1, b:2"),
            ("RIVVEN_CLUSTER__ADMIN__INSECURE", "true"),
        ])
        .unwrap();
    assert_eq!(
        (config.node_id, config.raft.election_timeout_min_ms),
        (7, Some(200))
    );
    assert_eq!(
        config.raft.peers,
        ["a:1".parse().unwrap(), "b:2".parse().unwrap()]
    );
    assert!(config.admin.insecure);

    let before = config.clone();
    let check = |name: &str, value: &str, expected: &[&str]| {
        let mut config = before.clone();
        let error = config.apply_env([(name, value)]).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
        assert_eq!(config, before, "a refused variable changes nothing");
    };
    check(
        "RIVVEN_CLUSTER__RAFT__PEER",
        "a:1",
        &[
            "unknown key `peer`",
            "environment variable RIVVEN_CLUSTER__RAFT__PEER=a:1",
            "did you mean `peers`?",
        ],
    );
    check(
        "RIVVEN_CLUSTER__NODE_ID",
        "one",
        &["`cluster.node_id`: expected a whole number", "the text \"one\""],
    );
}

#[test]
fn a_flag_overrides_and_is_named_in_the_error() {
    let mut config = parse(PROMISED).unwrap();
    config
        .set("cluster.raft.heartbeat_interval_ms", "149", "--heartbeat")
        .unwrap();
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("--> --heartbeat 149"), "{error}");
}

#[test]
fn a_mistake_is_shown_where_it_was_made() {
    let text = PROMISED.replace("election_timeout_min_ms", "election_timout_min_ms");
    let error = parse(&text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown key `election_timout_min_ms` in `cluster.raft` (config-unknown-key)
 --> node1.yaml:9:5
  |
9 |     election_timout_min_ms: 150
  |     ^^^^^^^^^^^^^^^^^^^^^^
  = help: did you mean `election_timeout_min_ms`?
  = help: known keys here: peers, election_timeout_min_ms, election_timeout_max_ms, heartbeat_interval_ms"
    );
}

/// Replaces one line of the promised file, and checks code, place and words of the verdict.
#[track_caller]
fn bad(from: &str, to: &str, code: &str, place: (usize, usize), words: &[&str]) {
    assert!(PROMISED.contains(from), "the promised file has no {from:?}");
    let text = PROMISED.replacen(from, to, 1);
    let error = verdict(&text).expect_err(to);
    let shown = error.to_string();
    assert_eq!(error.code(), code, "{shown}");
    assert_eq!(error.line_column(), Some(place), "{shown}");
    for part in words {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
}

#[test]
fn unknown_and_repeated_keys_are_refused() {
    let unknown = "config-unknown-key";
    bad("node_id", "nodeid", unknown, (2, 3), &["did you mean `node_id`?"]);
    bad(
        "cluster:",
        "clutser:",
        unknown,
        (1, 1),
        &["at the top of the file", "did you mean `cluster`?"],
    );
    bad(
        "  raft:",
        "  peers: []\n  raft:",
        unknown,
        (5, 3),
        &["`peers` belongs in `cluster.raft`"],
    );
    bad(
        "  gossip:",
        "  sharding: 1\n  gossip:",
        unknown,
        (12, 3),
        &["known keys here: node_id,"],
    );
    let twice = "config-duplicate-key";
    bad(
        "  bind_address",
        "  node_id: 2\n  bind_address",
        twice,
        (3, 3),
        &["it is given at 2:3 already"],
    );
    bad(
        "  gossip:",
        "  raft: {}\n  gossip:",
        twice,
        (12, 3),
        &["`raft` is given twice"],
    );
}

#[test]
fn wrong_types_are_refused() {
    let wrong = "config-wrong-type";
    bad(
        "node_id: 1",
        "node_id: one",
        wrong,
        (2, 12),
        &["expected a whole number", "the text \"one\"", "^^^"],
    );
    bad(
        "node_id: 1",
        "node_id: \"1\"",
        wrong,
        (2, 12),
        &["remove the quotes"],
    );
    bad(
        "node_id: 1",
        "node_id: -1",
        wrong,
        (2, 12),
        &["found the number -1"],
    );
    bad(
        "node_id: 1",
        "node_id: 1.5",
        wrong,
        (2, 12),
        &["found the number 1.5"],
    );
    bad("node_id: 1", "node_id:", wrong, (2, 10), &["found nothing"]);
    bad(
        "node_id: 1",
        "node_id: 1\n  zone: 2",
        wrong,
        (3, 9),
        &["put it in quotes"],
    );
    bad(
        "\"0.0.0.0:9093\"",
        "\"node1:9093\"",
        wrong,
        (3, 17),
        &["an IP address and a port"],
    );
    bad(
        "bind_port: 7946",
        "bind_port: 70000",
        wrong,
        (13, 16),
        &["from 0 to 65535", "70000"],
    );
    bad(
        "\"node3:9093\"",
        "\"node3\"",
        wrong,
        (8, 9),
        &[
            "`cluster.raft.peers[1]`",
            "the text \"node3\"",
            "the port is missing; write host:port",
        ],
    );
    bad("150", "[150]", wrong, (9, 30), &["found a list"]);
    bad("150", "yes", wrong, (9, 30), &["found the text \"yes\""]);
    let section = "partitioning:\n    virtual_nodes: 128\n    replication_factor: 3";
    bad(
        section,
        "partitioning: 3",
        wrong,
        (18, 17),
        &["expected a mapping of settings", "the number 3"],
    );
    bad(
        "node_id: 1",
        "node_id: 1\n  profile: fast",
        wrong,
        (3, 12),
        &["`local`, `lan` or `wan`"],
    );
    assert_eq!(verdict("- cluster").unwrap_err().code(), wrong);
}

#[test]
fn values_that_cannot_work_are_refused_with_a_remedy() {
    let invalid = "config-invalid-value";
    bad(
        "150",
        "5",
        invalid,
        (9, 30),
        &[
            "`cluster.raft.election_timeout_min_ms`: 5 is out of range",
            "from 20 to",
        ],
    );
    bad("300", "150", invalid, (10, 30), &["too little room", "write 300"]);
    bad(
        "300",
        "300\n    heartbeat_interval_ms: 100",
        invalid,
        (11, 28),
        &["write 50 or less"],
    );
    bad(
        "1000",
        "1000\n    suspect_timeout_ms: 1500",
        invalid,
        (17, 25),
        &["write 5000"],
    );
    bad(
        "7946",
        "9093",
        invalid,
        (13, 16),
        &["taken by `cluster.bind_address`"],
    );
    bad("node3:9093", "node2:9093", invalid, (8, 9), &["named twice"]);
    bad(
        "node3:9093",
        "0.0.0.0:9093",
        invalid,
        (8, 9),
        &["nobody can dial it"],
    );
    bad("node3:9093", "node3:0", invalid, (8, 9), &["port 0"]);
    bad("128", "0", invalid, (19, 20), &["from 1 to 4096"]);
    bad("factor: 3", "factor: 16", invalid, (20, 25), &["from 1 to 15"]);
    let admin = "node_id: 1\n  admin: {address: \"0.0.0.0:9640\"}";
    bad("node_id: 1", admin, invalid, (3, 20), &["`admin.insecure: true`"]);
    verdict(&PROMISED.replace("node_id: 1", &admin.replace('}', ", insecure: true}"))).unwrap();
}

#[test]
fn a_missing_node_id_and_broken_yaml_are_refused() {
    for text in [
        "",
        "cluster:",
        "cluster: {}",
        "# nothing\n",
        "cluster: {node_id: 0}",
    ] {
        assert_eq!(
            verdict(text).unwrap_err().code(),
            "config-missing-key",
            "{text:?}"
        );
    }
    for text in [
        "cluster: {",
        "cluster: [1",
        "a: b: c",
        "cluster:\n\tnode_id: 1",
        "*x",
        "a: 1\n---\nb: 2",
    ] {
        let error = verdict(text).unwrap_err();
        assert_eq!(error.code(), "config-syntax", "{text:?}: {error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node1.yaml");
    let error = ClusterConfig::from_yaml_file(&path).unwrap_err();
    assert!(error.to_string().contains("node1.yaml") && error.code() == "config-unreadable");
    fs::write(&path, vec![b' '; usize::try_from(MAX_CONFIG_BYTES).unwrap() + 1]).unwrap();
    assert!(
        ClusterConfig::from_yaml_file(&path)
            .unwrap_err()
            .to_string()
            .contains("longer than")
    );
    fs::write(&path, [0xff]).unwrap();
    assert_eq!(
        ClusterConfig::from_yaml_file(&path).unwrap_err().code(),
        "config-unreadable"
    );
    fs::write(&path, PROMISED).unwrap();
    assert_eq!(
        ClusterConfig::from_yaml_file(&path).unwrap(),
        parse(PROMISED).unwrap()
    );
}
