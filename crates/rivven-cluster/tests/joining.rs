//! Certificates that run out, nodes that come without any, and the members that issue.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{Nodes, PATIENCE, eventually, ready, refused};
use rivven_cluster::{
    Cluster, ClusterConfig, Consistency, NodeId, Renewal,
    identity::{
        CERT_FILE, CertificateAuthority, GOSSIP_KEY_FILE, KEY_FILE, NodeIdentity, NodeName, Validity,
    },
    join::{JoinError, JoinToken, join},
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn authority(nodes: &Nodes) -> CertificateAuthority {
    let read = |file: &str| fs::read_to_string(nodes.path().join("certs").join(file)).unwrap();
    CertificateAuthority::from_pem(&read("ca.pem"), &read("ca.key")).unwrap()
}

/// Gives `node` a certificate of `validity`, in place of the one it has.
fn certify(nodes: &Nodes, node: NodeId, validity: Validity) {
    let ca = authority(nodes);
    let cluster = ca.cluster();
    let issued = ca.issue_as(NodeName { cluster, node }, validity).unwrap();
    fs::write(nodes.tls_dir(node).join(CERT_FILE), issued.cert_pem()).unwrap();
    // Written over, so that it keeps its mode.
    fs::write(nodes.tls_dir(node).join(KEY_FILE), issued.key_pem()).unwrap();
}

/// Valid for a month, which ended so many days ago.
fn ended(days: u32) -> Validity {
    let end = Validity::from_now(Duration::ZERO).not_after - DAY * days;
    Validity {
        not_before: end - DAY * 30,
        not_after: end,
    }
}

fn issuing(nodes: &Nodes, node: NodeId) -> ClusterConfig {
    let mut config = nodes.config(node);
    config.tls.issuer.ca_key = Some(nodes.path().join("certs/ca.key"));
    config
}

/// All nodes, of which node 1 issues.
async fn start_all(nodes: &Nodes) -> Vec<Cluster> {
    let mut started = vec![Cluster::start(issuing(nodes, 1)).await.unwrap()];
    for node in 2..=3 {
        started.push(nodes.start(node).await);
    }
    ready(&started).await;
    started
}

/// What a node would load at its next start.
fn left(dir: &Path) -> Duration {
    let now = Validity::from_now(Duration::ZERO).not_after;
    NodeIdentity::load(dir).unwrap().validity().not_after - now
}

fn has_problem(node: &Cluster, code: &str) -> bool {
    node.status().problems.iter().any(|problem| problem.code == code)
}

/// Founded with certificates that have all expired, and again after two more months of sleep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_expired_cold_start() {
    let nodes = Nodes::new(3);
    for round in 0..2_u8 {
        for node in 1..=3 {
            certify(&nodes, node, ended(60));
        }
        let started = start_all(&nodes).await;
        for node in 1..=3 {
            let left = left(&nodes.tls_dir(node));
            assert!(left > DAY * 29 && left <= DAY * 30, "{left:?}");
        }
        assert!(!has_problem(&started[1], "certificate-expired"));
        if round == 0 {
            started[2].kv().put("k", "kept").await.unwrap();
        }
        let found = started[1].kv().get("k", Consistency::Linearizable).await.unwrap();
        assert_eq!(found.unwrap().value, "kept");
        for node in started {
            node.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_used_up_two_thirds_of_its_life_is_renewed() {
    let nodes = Nodes::new(3);
    let now = Validity::from_now(Duration::ZERO).not_after;
    let worn = Validity {
        not_before: now - HOUR * 9,
        not_after: now + HOUR,
    };
    certify(&nodes, 3, worn);
    let started = start_all(&nodes).await;
    let dir = nodes.tls_dir(3);
    eventually(&started, "renewed", || left(&dir) > DAY * 29).await;
    // Those that have just begun are left alone.
    assert!(left(&nodes.tls_dir(2)) > DAY * 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_issuer_an_expired_node_waits_and_says_what_for() {
    let nodes = Nodes::new(1);
    certify(&nodes, 1, ended(60));
    let mut config = nodes.config(1);
    config.tls.renewal = Renewal::Manual;
    assert_eq!(refused(config).await.0, "certificate-expired");
    let node = nodes.start(1).await;
    assert!(has_problem(&node, "certificate-expired"), "{:?}", node.status());
    node.shutdown().await;
    // After a year no issuer would take it, so that waiting is of no use.
    certify(&nodes, 1, ended(400));
    assert_eq!(refused(nodes.config(1)).await.0, "certificate-expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_the_authoritys_issues_nothing() {
    let (nodes, other) = (Nodes::new(1), Nodes::new(1));
    let mut config = issuing(&other, 1);
    config.tls.issuer.ca_key = Some(nodes.path().join("certs/ca.key"));
    let (code, text) = refused(config.clone()).await;
    assert_eq!(code, "identity-key-mismatch");
    assert!(text.contains(nodes.path().to_str().unwrap()), "{text}");
    config.tls.issuer.ca_key = Some(nodes.path().join("no.key"));
    assert_eq!(refused(config.clone()).await.0, "identity-missing");
    let open = nodes.path().join("open.key");
    fs::write(&open, authority(&other).key_pem().as_str()).unwrap();
    config.tls.issuer.ca_key = Some(open);
    assert_eq!(refused(config).await.0, "identity-key-exposed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_in_vain_where_nobody_issues() {
    let nodes = Nodes::new(1);
    let node = nodes.start_all().await.remove(0);
    let code = async |node_id, life| {
        node.join_token(node_id, life)
            .await
            .unwrap_err()
            .code()
            .to_owned()
    };
    assert_eq!(code(4, HOUR).await, "no-issuer");
    assert_eq!(code(4, Duration::from_secs(1)).await, "join-token-life");
    assert_eq!(code(4, DAY * 8).await, "join-token-life");
    node.shutdown().await;
    let node = Cluster::start(issuing(&nodes, 1)).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    let code = node.join_token(0, HOUR).await.unwrap_err().code().to_owned();
    assert_eq!(code, "join-token-not-made");
}

async fn joined(token: &JoinToken, dir: &Path) -> Result<(), JoinError> {
    join(token, dir, PATIENCE).await
}

/// One certificate by hand, the others by token; then a token that outlives the process that made it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_join_by_token_and_of_two_at_once_one_does() {
    let nodes = Nodes::new(3);
    for node in 2..=3 {
        fs::remove_dir_all(nodes.tls_dir(node)).unwrap();
    }
    let one = Cluster::start(issuing(&nodes, 1)).await.unwrap();
    for node in 2..=3 {
        let token = one.join_token(node, HOUR).await.unwrap();
        joined(&token, &nodes.tls_dir(node)).await.unwrap();
        assert!(nodes.tls_dir(node).join(GOSSIP_KEY_FILE).exists());
    }
    let mut started = vec![one];
    for node in 2..=3 {
        started.push(nodes.start(node).await);
    }
    ready(&started).await;

    // Any member makes tokens for the issuers there are.
    let token = started[2].join_token(4, HOUR).await.unwrap();
    assert_eq!(token.addresses(), [nodes.quic(1).into()]);
    started.remove(0).shutdown().await;
    started.push(Cluster::start(issuing(&nodes, 1)).await.unwrap());
    ready(&started).await;
    let dirs = ["a", "b"].map(|name| nodes.path().join(name));
    let (a, b) = tokio::join!(joined(&token, &dirs[0]), joined(&token, &dirs[1]));
    let outcomes = [a, b];
    let refused: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err())
        .collect();
    assert_eq!(refused.len(), 1, "{outcomes:?}");
    assert_eq!(refused[0].code(), "join-token-used");
    let winner = usize::from(outcomes[0].is_err());
    assert_eq!(NodeIdentity::load(&dirs[winner]).unwrap().node(), 4);
}
