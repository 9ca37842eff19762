//! The commands on a good day.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use rivven_cluster::ClusterConfig;
use rivven_node::{
    client::{AdminClient, ReadLevel},
    harness::{
        Harness, HarnessOptions, History, Load, LoadOptions, NodeProcess, NodeSpec, Outcome, STOP_GRACE,
        token_path, until,
    },
};

const BINARY: &str = env!("CARGO_BIN_EXE_rivven-node");
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_promised_configuration_is_accepted_and_shown() {
    let promised = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/promises/config.yaml");
    let output = Command::new(BINARY)
        .args(["config", "check", promised])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("heartbeat_interval_ms: 50") && text.contains("suspect_timeout_ms: 5000"),
        "{text}"
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node1.yaml");
    std::fs::write(
        &file,
        "cluster: { node_id: 1, data_dir: from-file, zone: from-file }",
    )
    .unwrap();
    let output = Command::new(BINARY)
        .args(["run", "--print-config", "--data-dir", "from-flag", "--config"])
        .arg(&file)
        .env("RIVVEN_CLUSTER__DATA_DIR", "from-env")
        .env("RIVVEN_CLUSTER__ZONE", "from-env")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let shown = ClusterConfig::from_yaml_str(&text, "printed").unwrap();
    assert_eq!(shown.data_dir, Some("from-flag".into()));
    assert_eq!(shown.zone.as_deref(), Some("from-env"));
}

/// One node: writes survive SIGTERM and SIGKILL, and `status` shows it.
#[tokio::test]
async fn a_node_keeps_its_data_and_its_identity() {
    let mut options = HarnessOptions::new(BINARY);
    options.nodes = 1;
    let mut harness = Harness::start(options).unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();
    let first = harness.status(1).await.unwrap();
    harness.client(1).unwrap().put("k", "kept".into()).await.unwrap();

    let status = harness.node_mut(1).unwrap().terminate(STOP_GRACE).await.unwrap();
    assert!(status.success(), "{status}");
    harness.node_mut(1).unwrap().start().unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();
    harness.node_mut(1).unwrap().kill().unwrap();
    harness.node_mut(1).unwrap().start().unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();

    let found = harness
        .client(1)
        .unwrap()
        .get("k", ReadLevel::Linearizable)
        .await
        .unwrap();
    assert_eq!(found.unwrap().value, "kept");
    let third = harness.status(1).await.unwrap();
    assert_eq!(
        (&third.cluster_id, &third.instance_id),
        (&first.cluster_id, &first.instance_id)
    );
    assert_eq!(third.boot_epoch, first.boot_epoch + 2);

    let admin = harness.node(1).unwrap().spec().admin.to_string();
    let output = Command::new(BINARY)
        .args(["status", "--admin", &admin])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&first.cluster_id) && text.contains("controller"),
        "{text}"
    );
    let folder = tempfile::tempdir().unwrap();
    partitions_are_managed_from_the_shell(&harness, &folder.path().join("ring.svg"));
    harness.stop_all().await.unwrap();

    let output = Command::new(BINARY)
        .args(["status", "--admin", &admin])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("error[node-unreachable]") && text.contains("help: "),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// Every member of three uses the key that one of them was asked for.
#[tokio::test]
async fn the_keys_of_gossip_are_changed_with_one_command() {
    let harness = Harness::start(HarnessOptions::new(BINARY)).unwrap();
    let all = harness.ids();
    harness.wait_ready(&all, LIMIT).await.unwrap();
    let spec = harness.node(2).unwrap().spec().clone();
    let rotate = |more: &[&str]| {
        let token = token_path(&spec.data_dir);
        let mut command = Command::new(BINARY);
        command.args(["gossip-keys", "rotate", "--admin", &spec.admin.to_string()]);
        command.arg("--admin-token").arg(token).args(more);
        command.output().unwrap()
    };
    let before = harness.status(2).await.unwrap().gossip_key_epoch.unwrap();
    let output = rotate(&[]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with(&format!("key {} seals gossip", before + 1)),
        "{text}"
    );
    let output = rotate(&["--wait", "0s"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with(&format!("key {} is on its way", before + 2)),
        "{text}"
    );
    for id in all {
        let uses = || async {
            let status = harness.status(id).await.map_err(|error| error.to_string())?;
            let epoch = status.gossip_key_epoch;
            (epoch == Some(before + 2))
                .then_some(())
                .ok_or_else(|| format!("{epoch:?}"))
        };
        until("every member uses the second key", LIMIT, uses)
            .await
            .unwrap();
    }
}

/// Topics, nodes, rebalances and the ring, as an operator types them.
fn partitions_are_managed_from_the_shell(harness: &Harness, picture: &std::path::Path) {
    let spec = harness.node(1).unwrap().spec();
    let (admin, token) = (spec.admin.to_string(), spec.data_dir.join("admin.token"));
    let run = |words: &str, changes: bool| {
        let mut command = Command::new(BINARY);
        command.args(words.split(' ')).args(["--admin", &admin]);
        if changes {
            command.arg("--admin-token").arg(&token);
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        (output.status.code(), text)
    };
    let says = |words: &str, changes: bool, expected: &[&str]| {
        let (code, text) = run(words, changes);
        assert_eq!(code, Some(0), "{words}: {text}");
        for part in expected {
            assert!(text.contains(part), "{words}: no {part:?} in {text}");
        }
    };
    says(
        "topic create orders --partitions 3 --replication-factor 1",
        true,
        &["created orders"],
    );
    says(
        "topic change orders --partitions 4 --set x-owner=me",
        true,
        &["changed orders"],
    );
    says("topic list", false, &["TOPIC", "orders", "4"]);
    says("topic list orders", false, &["LEADER", "IN SYNC"]);
    says("node weight 1 50", true, &["node 1 has the weight 50"]);
    says("node list", false, &["active", "50", "LEADERS"]);
    says("node weight 1", true, &["the weight of its configuration"]);
    says("rebalance plan --pin orders", false, &["MAX/MEAN"]);
    says(
        "rebalance start --pin orders/1",
        true,
        &["nothing is to be moved"],
    );
    says("rebalance status", false, &["no rebalance is under way"]);
    says(
        &format!("ring --svg {}", picture.display()),
        false,
        &["fingerprint", "100.00 %", "drawn to"],
    );
    assert!(std::fs::read_to_string(picture).unwrap().starts_with("<svg "));
    says("topic delete orders", true, &["deleted orders"]);
    let (code, text) = run("rebalance pause 9", true);
    assert!(
        code == Some(1) && text.contains("error[unknown-rebalance]"),
        "{text}"
    );
    let (code, text) = run("rebalance plan --pin orders", false);
    assert!(code == Some(1) && text.contains("error[unknown-topic]"), "{text}");
}

/// `--dev` needs no file: certificates, data and all.
#[tokio::test]
async fn dev_runs_without_any_file() {
    let mut options = HarnessOptions::new(BINARY);
    options.nodes = 1;
    // Only for its free ports.
    let ports = Harness::prepare(options).unwrap();
    let config = ClusterConfig::from_yaml_file(&ports.node(1).unwrap().spec().config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(BINARY)
        .args(["run", "--dev", "--end-with-stdin", "--data-dir"])
        .arg(dir.path())
        .env("RIVVEN_CLUSTER__BIND_ADDRESS", config.bind_address.to_string())
        .env(
            "RIVVEN_CLUSTER__GOSSIP__BIND_PORT",
            config.gossip.bind_port.to_string(),
        )
        .env("RIVVEN_CLUSTER__ADMIN__ADDRESS", config.admin.address.to_string())
        .env(
            "RIVVEN_CLUSTER__ADMIN__HEALTH_ADDRESS",
            config.admin.health_address.to_string(),
        )
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let spec = NodeSpec {
        data_dir: dir.path().to_owned(),
        ..ports.node(1).unwrap().spec().clone()
    };
    let ready = until("dev is ready", LIMIT, || async {
        let ready = AdminClient::new(spec.admin).is_ready().await;
        ready
            .map_err(|error| error.to_string())?
            .then_some(())
            .ok_or_else(|| "not ready".to_owned())
    });
    let ready = ready.await;
    let written = NodeProcess::new(spec.clone()).client().put("k", "v".into()).await;
    // Closing its standard input is how a parent that dies takes its nodes along.
    drop(child.stdin.take());
    let status = child.wait().unwrap();
    ready.unwrap();
    written.unwrap();
    assert!(status.success(), "{status}");
}

/// The count of lost writes must be able to fail: it is shown a promise that nobody kept.
#[tokio::test]
async fn a_promised_write_that_is_missing_or_altered_is_counted_as_lost() {
    let mut options = HarnessOptions::new(BINARY);
    options.nodes = 1;
    let harness = Harness::start(options).unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();
    let load = Load::start(&harness, &LoadOptions::new("load")).unwrap();
    load.wait_acknowledged(20, LIMIT).await.unwrap();
    let mut history = load.stop().await.unwrap();
    let verify = async |history: &History| {
        history
            .verify(&harness, 1, ReadLevel::Linearizable)
            .await
            .unwrap()
    };
    let kept = verify(&history).await;
    assert!(kept.acknowledged >= 20 && kept.lost() == 0, "{kept:?}");

    let altered = history.writes[0].key.clone();
    harness
        .client(1)
        .unwrap()
        .put(&altered, "another value".into())
        .await
        .unwrap();
    let mut invented = history.writes[0].clone();
    invented.key = "load/never/written".into();
    history.writes.push(invented.clone());
    assert_eq!(verify(&history).await.lost(), 2);

    invented.outcome = Outcome::Unknown;
    history.writes = vec![invented];
    assert_eq!(
        verify(&history).await.acknowledged,
        0,
        "only what was promised counts"
    );
}

/// What `rivven-node member` prints, by way of node 1, and its exit code.
fn member(harness: &Harness, args: &[&str]) -> (String, Option<i32>) {
    let spec = harness.node(1).unwrap().spec();
    let token = token_path(&spec.data_dir);
    let mut command = Command::new(BINARY);
    command
        .arg("member")
        .args(args)
        .args(["--admin", &spec.admin.to_string()]);
    if args[0] != "list" {
        command.arg("--admin-token").arg(token);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

/// What `rivven-node feature` prints, and its exit code.
fn feature(harness: &Harness, args: &[&str]) -> (String, Option<i32>) {
    let spec = harness.node(1).unwrap().spec();
    let mut command = Command::new(BINARY);
    command
        .arg("feature")
        .args(args)
        .args(["--admin", &spec.admin.to_string()]);
    if args[0] != "list" {
        command.arg("--admin-token").arg(token_path(&spec.data_dir));
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

#[tokio::test]
async fn a_feature_level_is_shown_and_finalised_from_the_command_line() {
    let mut options = HarnessOptions::new(BINARY);
    options.nodes = 1;
    let harness = Harness::start(options).unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();
    let (text, code) = feature(&harness, &["list"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("rivven-node feature finalize rivven 1"), "{text}");
    let (text, code) = feature(&harness, &["finalize", "rivven", "9"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("error[feature-not-supported]"), "{text}");
    let (text, code) = feature(&harness, &["finalize", "rivven", "1"]);
    assert_eq!(
        (text.trim(), code),
        ("level 1 of feature rivven is finalised", Some(0))
    );
    let (text, _) = feature(&harness, &["list"]);
    assert!(text.contains("nothing is left to finalise"), "{text}");
}

/// A node is let in, joins, is asked to vote and leaves again, each time as planned.
#[tokio::test]
async fn members_are_shown_planned_and_changed_from_the_command_line() {
    let mut options = HarnessOptions::new(BINARY);
    options.nodes = 1;
    let mut harness = Harness::start(options).unwrap();
    harness.wait_ready(&[1], LIMIT).await.unwrap();
    let check = |harness: &Harness, args: &[&str], code: i32, parts: &[&str]| {
        let (text, exit) = member(harness, args);
        assert_eq!(exit, Some(code), "{args:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{args:?}: {part:?} is not in {text}");
        }
    };
    check(
        &harness,
        &["list"],
        0,
        &["leader", "1 of 1 voters live", "nothing is left to do"],
    );
    check(
        &harness,
        &["remove", "1", "--plan"],
        1,
        &["error[no-successor]", "help: start or add one first"],
    );
    check(&harness, &["promote", "9"], 1, &["error[unknown-member]"]);
    check(
        &harness,
        &["add", "2", "--role", "observer"],
        0,
        &["node 2 may join; start it"],
    );

    harness.add(2).unwrap().start().unwrap();
    harness.wait_ready(&[2], LIMIT).await.unwrap();
    check(&harness, &["list"], 0, &["learner", "observer"]);
    let plan = [
        "voters   1  ->  1, 2",
        "2 of 2 voters live",
        "nothing was changed",
    ];
    check(&harness, &["promote", "2", "--plan"], 0, &plan);
    check(&harness, &["list"], 0, &["1 of 1 voters live"]);
    check(&harness, &["promote", "2"], 0, &["node 2 votes", "done"]);
    check(&harness, &["list"], 0, &["2 of 2 voters live"]);
    check(&harness, &["replace", "2"], 1, &["error[member-lives]"]);
    check(&harness, &["remove", "2"], 0, &["shut out for good", "done"]);
    check(&harness, &["list"], 0, &["1 of 1 voters live", "removed  2"]);
    harness.client(1).unwrap().put("k", "v".into()).await.unwrap();
}
