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
    odd.role = MemberRole::Observer;
    odd.raft.voter_target = Some(3);
    odd.raft.replace = Replace::Auto;
    odd.raft.priority = 0;
    odd.raft.priority_hold_ms = Some(1_000);
    odd.weight = 250;
    let endpoint = |name: &str, addr: &str| (name.into(), addr.parse().unwrap());
    odd.endpoints = [endpoint("0", "[::1]:1"), endpoint("a.b-C_d", "x.org:9092")].into();
    odd.tls.renewal = Renewal::Manual;
    odd.raft.lease_reads = true;
    odd.raft.auto_finalize_after_ms = Some(0);
    odd.raft.max_snapshot_rate = Some(1 << 20);
    odd.tls.name_template = "spiffe://a/{cluster}/{role}/{id}".into();
    odd.tls.issuer.ca_key = Some("keys: #/ca.key".into());
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
fn an_issuer_is_told_its_key_and_what_it_issues() {
    let check = |text: &str| verdict(&format!("cluster: {{node_id: 1, tls: {text}}}"));
    let issuer = check("{issuer: {ca_key: a/ca.key}}").unwrap();
    assert_eq!(issuer.effective().tls.issuer.certificate_life_days, Some(30));
    let checked = issuer.check().unwrap();
    let life = checked
        .issuer
        .map(|issuer| (issuer.ca_key, issuer.life.as_secs()));
    assert_eq!(life, Some(("a/ca.key".into(), 30 * 24 * 3600)));
    let plain = check("{}").unwrap();
    assert_eq!(plain.effective().tls, TlsSection::default());
    assert_eq!(plain.tls.renewal, Renewal::Automatic);
    let spiffe = "spiffe://example.org/{cluster}/{role}/{id}";
    let named = check(&format!("{{name_template: '{spiffe}'}}")).unwrap();
    assert_eq!(named.check().unwrap().name_template.to_string(), spiffe);
    let default = plain.check().unwrap().name_template.to_string();
    assert_eq!(default, "rivven://{cluster}/{role}/{id}");
    assert_eq!(check("{renewal: manual}").unwrap().tls.renewal, Renewal::Manual);
    for (text, expected) in [
        ("{renewal: never}", "expected `automatic` or `manual`"),
        (
            "{issuer: {certificate_life_days: 7}}",
            "this node issues no certificates",
        ),
        (
            "{issuer: {ca_key: a, certificate_life_days: 0}}",
            "0 is out of range",
        ),
        (
            "{issuer: {ca_key: a, certificate_life_days: 366}}",
            "write a number from 1 to 365",
        ),
        ("{issuer: {ca_key: ''}}", "the path is empty"),
        (
            "{name_template: 'spiffe://example.org/{id}'}",
            "not a template of names",
        ),
        ("{ca_key: a}", "`ca_key` belongs in `cluster.tls.issuer`"),
    ] {
        let error = check(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in:\n{error}");
    }
}

#[test]
fn a_node_has_a_weight_and_endpoints() {
    let plain = verdict(PROMISED).unwrap();
    assert_eq!((plain.weight, plain.endpoints.len()), (100, 0));
    let text = "cluster:\n  node_id: 1\n  weight: 0\n  endpoints:\n    client: \"n1:9092\"\n    web: n1:80\n";
    let mut config = verdict(text).unwrap();
    let checked = config.check().unwrap();
    let endpoints: Vec<_> = checked
        .endpoints
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        (checked.weight, endpoints.join(",").as_str()),
        (0, "client=n1:9092,web=n1:80")
    );
    config
        .apply_env([("RIVVEN_CLUSTER__ENDPOINTS", "rpc=[::1]:1, b=h:2")])
        .unwrap();
    assert!(config.endpoints.keys().eq(["b", "rpc"]));
    let error = config.apply_env([("RIVVEN_CLUSTER__ENDPOINTS", "rpc")]);
    assert!(error.unwrap_err().to_string().contains("name=host:port"));
    for (text, place, expected) in [
        ("weight: 10001", "1:31", "write a number from 0 to 10000"),
        ("endpoints: [a]", "1:34", "expected a mapping of names"),
        (
            "endpoints: {a: 7}",
            "1:38",
            "`cluster.endpoints.a`: expected an address",
        ),
        ("endpoints: {a: 'x:0'}", "1:38", "port 0"),
        ("endpoints: {a: '0.0.0.0:1'}", "1:38", "nobody can dial it"),
        ("endpoints: {a/b: 'x:1'}", "1:40", "no name of an endpoint"),
        ("endpoints: {a: 'x:1', a: 'y:1'}", "1:48", "given twice"),
    ] {
        let error = verdict(&format!("cluster: {{node_id: 1, {text}}}"));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains(place),
            "{text}: {error}"
        );
    }
    let many: Vec<_> = (0..17).map(|i| format!("e{i}: 'h:{}'", i + 1)).collect();
    let many = format!("cluster: {{node_id: 1, endpoints: {{{}}}}}", many.join(", "));
    assert!(
        verdict(&many)
            .unwrap_err()
            .to_string()
            .contains("name at most 16")
    );
}

#[test]
fn what_is_filled_in_is_valid_too() {
    let text = "cluster: {node_id: 1, raft: {peers: ['127.0.0.1:1', '127.0.0.1:2', 'b:1']}}";
    let full = verdict(text).unwrap().effective();
    full.validate().unwrap();
    let known = ["127.0.0.1:7946", "b:7946"].map(|addr| addr.parse().unwrap());
    assert_eq!(full.gossip.known_peers, known);
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
            ("RIVVEN_CLUSTER__RAFT__LEASE_READS", "true"),
            ("RIVVEN_CLUSTER__RAFT__MAX_SNAPSHOT_RATE", "65536"),
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
    assert!(
        config.admin.insecure && config.raft.lease_reads && config.check().is_ok_and(|it| it.lease_reads)
    );

    assert_eq!(
        config.check().unwrap().max_snapshot_rate,
        Some(rivven_raft::MIN_SNAPSHOT_RATE)
    );

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
  = help: known keys here: peers, voter_target, voter_replace_after_ms, priority, priority_hold_ms, replace, election_timeout_min_ms, election_timeout_max_ms, heartbeat_interval_ms, lease_reads, auto_finalize_after_ms, max_snapshot_rate"
    );
}

/// Runs a table of mistakes. Each line says what of the promised file is replaced by what, at which line and
/// column the verdict points, and which words it has: `from => to => line:column => words | words`.
#[track_caller]
fn mistakes(code: &str, table: &str) {
    for case in table.lines().filter(|line| !line.trim().is_empty()) {
        let parts: Vec<&str> = case.split(" => ").map(str::trim).collect();
        let &[from, to, place, words] = parts.as_slice() else {
            panic!("not a case: {case:?}");
        };
        let (from, to) = (from.replace("\\n", "\n"), to.replace("\\n", "\n"));
        assert!(PROMISED.contains(&from), "the promised file has no {from:?}");
        let error = verdict(&PROMISED.replacen(&from, &to, 1)).expect_err(case);
        let shown = error.to_string();
        let (line, column) = error.line_column().unwrap();
        assert_eq!(
            (error.code(), format!("{line}:{column}").as_str()),
            (code, place),
            "{case}\n{shown}"
        );
        for part in words.split(" | ") {
            assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
        }
    }
}

#[test]
fn unknown_and_repeated_keys_are_refused() {
    mistakes(
        "config-unknown-key",
        r#"
        node_id => nodeid => 2:3 => did you mean `node_id`?
        cluster: => clutser: => 1:1 => at the top of the file | did you mean `cluster`?
        raft:\n => peers: []\n  raft:\n => 5:3 => `peers` belongs in `cluster.raft`
        gossip: => sharding: 1\n  gossip: => 12:3 => known keys here: node_id,
        "#,
    );
    mistakes(
        "config-duplicate-key",
        r#"
        bind_address => node_id: 2\n  bind_address => 3:3 => it is given at 2:3 already
        gossip: => raft: {}\n  gossip: => 12:3 => `raft` is given twice
        "#,
    );
}

#[test]
fn wrong_types_are_refused() {
    mistakes(
        "config-wrong-type",
        r#"
        node_id: 1 => node_id: one => 2:12 => expected a whole number | the text "one" | ^^^
        node_id: 1 => node_id: "1" => 2:12 => remove the quotes
        node_id: 1 => node_id: -1 => 2:12 => found the number -1
        node_id: 1 => node_id: 1.5 => 2:12 => found the number 1.5
        node_id: 1 => node_id: => 2:10 => found nothing
        node_id: 1 => node_id: 1\n  zone: 2 => 3:9 => put it in quotes
        node_id: 1 => node_id: 1\n  profile: fast => 3:12 => `local`, `lan` or `wan`
        node_id: 1 => node_id: 1\n  role: leader => 3:9 => `auto`, `voter` or `observer`
        "0.0.0.0:9093" => "node1:9093" => 3:17 => an IP address and a port
        bind_port: 7946 => bind_port: 70000 => 13:16 => from 0 to 65535 | 70000
        "node3:9093" => "node3" => 8:9 => `cluster.raft.peers[1]` | the text "node3" | write host:port
        150 => [150] => 9:30 => found a list
        150 => yes => 9:30 => found the text "yes"
        virtual_nodes: 128\n    replication_factor: 3 => 3 => 19:5 => expected a mapping of settings | the number 3
        "#,
    );
    assert_eq!(verdict("- cluster").unwrap_err().code(), "config-wrong-type");
}

#[test]
fn values_that_cannot_work_are_refused_with_a_remedy() {
    mistakes(
        "config-invalid-value",
        r#"
        150 => 5 => 9:30 => `cluster.raft.election_timeout_min_ms`: 5 is out of range | from 20 to
        300 => 150 => 10:30 => too little room | write 300
        300 => 300\n    heartbeat_interval_ms: 100 => 11:28 => write 50 or less
        1000 => 1000\n    suspect_timeout_ms: 1500 => 17:25 => write 5000
        7946 => 9093 => 13:16 => taken by `cluster.bind_address`
        node3:9093 => node2:9093 => 8:9 => named twice
        node3:9093 => 0.0.0.0:9093 => 8:9 => nobody can dial it
        node3:9093 => node3:0 => 8:9 => port 0
        128 => 0 => 19:20 => from 1 to 4096
        factor: 3 => factor: 16 => 20:25 => from 1 to 15
        node_id: 1 => node_id: 1\n  admin: {address: "0.0.0.0:9640"} => 3:20 => `admin.insecure: true`
        "#,
    );
    let open = "node_id: 1\n  admin: {address: \"0.0.0.0:9640\", insecure: true}";
    verdict(&PROMISED.replace("node_id: 1", open)).unwrap();
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

#[test]
fn the_cryptography_is_chosen_by_name_and_what_is_missing_is_said() {
    let with = |provider: &str| verdict(&format!("cluster:\n  node_id: 1\n  tls_provider: {provider}\n"));
    assert_eq!(with("rust-crypto").unwrap().tls_provider, "rust-crypto");
    for (provider, feature) in [("ring", "crypto-ring"), ("aws-lc-rs", "crypto-aws-lc-rs")] {
        match with(provider) {
            Ok(config) => assert_eq!(config.tls_provider, provider),
            Err(error) => {
                assert_eq!(error.code(), "config-invalid-value");
                let text = error.to_string();
                assert!(text.contains("node1.yaml:3:") && text.contains(feature), "{text}");
            }
        }
    }
    let text = with("openssl").unwrap_err().to_string();
    assert!(text.contains("rust-crypto, ring, aws-lc-rs"), "{text}");
}
