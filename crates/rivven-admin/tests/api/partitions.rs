//! Topics, nodes, settings and rebalances over HTTP.

use hyper::{Method, StatusCode};

use super::{Api, revision};

async fn change_and_rebalance(api: &Api) {
    let path = "/v1/topics/orders";
    let change = r#"{"partitions":5,"settings":{"min-in-sync-replicas":"2"}}"#;
    revision(&api.ask(Method::PATCH, path, change).await);
    let orders = api.ask(Method::GET, path, "").await;
    let orders: rivven_admin::AssignmentsBody = serde_json::from_slice(&orders.body).unwrap();
    assert_eq!(orders.partitions.len(), 5);
    for (body, code) in [
        (r#"{"partitions":4}"#, "partitions-only-grow"),
        (r#"{"replication_factor":0}"#, "invalid-replication-factor"),
        (r#"{"settings":{"min-in-sync":"2"}}"#, "unknown-setting"),
        (r#"{"settings":{"zones":"near"}}"#, "invalid-setting"),
    ] {
        api.check_error(Method::PATCH, path, body, 400, code).await;
    }
    api.check_error(Method::PATCH, "/v1/topics/x", "{}", 404, "unknown-topic")
        .await;

    // A node alone has nothing to move.
    let plan = api.ask(Method::GET, "/v1/rebalance/plan", "").await;
    let plan: rivven_admin::PlanBody = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!((plan.partitions, plan.id), (0, None));
    let begun = api.ask(Method::POST, "/v1/rebalance", "").await;
    assert_eq!(begun.status, StatusCode::OK);
    let state = api.ask(Method::GET, "/v1/rebalance", "").await;
    assert_eq!(&state.body[..], b"{\"rebalance\":null}\n");
    let excluded = "/v1/rebalance/plan?exclude=1";
    api.check_error(Method::GET, excluded, "", 409, "not-enough-nodes")
        .await;
    api.check_error(
        Method::POST,
        "/v1/rebalance/9/pause",
        "",
        404,
        "unknown-rebalance",
    )
    .await;
    revision(&api.ask(Method::PUT, "/v1/nodes/1/weight?percent=50", "").await);
    revision(&api.ask(Method::DELETE, "/v1/nodes/1/weight", "").await);
    api.check_error(
        Method::PUT,
        "/v1/nodes/7/weight?percent=50",
        "",
        404,
        "unknown-node",
    )
    .await;
}

pub(super) async fn topics(api: &Api) {
    let body = r#"{"name":"orders","partitions":3,"replication_factor":1}"#;
    let created = api.ask(Method::POST, "/v1/topics", body).await;
    assert_eq!(
        (created.status, &created.body[..]),
        (StatusCode::OK, &b"{\"id\":0}\n"[..])
    );
    api.check_error(Method::POST, "/v1/topics", body, 409, "topic-exists")
        .await;
    api.check_error(
        Method::POST,
        "/v1/topics",
        r#"{"name":"x","partitons":1}"#,
        400,
        "bad-json",
    )
    .await;
    let many = r#"{"name":"x","partitions":1,"replication_factor":3}"#;
    api.check_error(Method::POST, "/v1/topics", many, 409, "not-enough-nodes")
        .await;
    let one = api.ask(Method::GET, "/v1/topics/orders", "").await;
    let one: rivven_admin::AssignmentsBody = serde_json::from_slice(&one.body).unwrap();
    assert_eq!(one.partitions.len(), 3);
    assert!(
        one.partitions.iter().all(|partition| partition.leader == Some(1)),
        "{one:?}"
    );
    change_and_rebalance(api).await;
    nodes_and_settings(api).await;
    revision(&api.ask(Method::DELETE, "/v1/topics/orders", "").await);
    api.check_error(Method::DELETE, "/v1/topics/orders", "", 404, "unknown-topic")
        .await;
    api.check_error(Method::GET, "/v1/topics/orders", "", 404, "unknown-topic")
        .await;
}

/// What is registered and set, what is pinned, and what an operator decides against the rules.
async fn nodes_and_settings(api: &Api) {
    let nodes = api.ask(Method::GET, "/v1/nodes", "").await;
    let nodes: rivven_admin::NodesBody = serde_json::from_slice(&nodes.body).unwrap();
    let node = &nodes.nodes[0];
    assert_eq!(
        (node.node_id, node.status.as_str(), node.registered_weight),
        (1, "active", 100)
    );
    assert!(node.replicas > 0 && node.leaders == node.replicas, "{node:?}");

    let ring = api.ask(Method::GET, "/v1/ring", "").await;
    let ring: rivven_admin::RingBody = serde_json::from_slice(&ring.body).unwrap();
    assert_eq!(
        (ring.spec, ring.virtual_nodes, ring.fingerprint.len()),
        (1, 128, 16)
    );
    assert_eq!((ring.nodes[0].name.as_str(), ring.nodes[0].weight), ("1", 100));
    assert!((ring.nodes[0].share - 1.0).abs() < 1e-9);
    let picture = api.ask(Method::GET, "/v1/ring.svg", "").await;
    assert_eq!(picture.headers["content-type"], "image/svg+xml");
    assert!(picture.body.starts_with(b"<svg "), "{:?}", picture.body);

    for (path, status, code) in [
        ("/v1/rebalance/plan?pin=nothing", 404, "unknown-topic"),
        ("/v1/rebalance/plan?pin=orders/99", 404, "unknown-partition"),
        ("/v1/rebalance/plan?zones=soft", 400, "bad-parameter"),
    ] {
        api.check_error(Method::GET, path, "", status, code).await;
    }
    let pinned = api
        .ask(
            Method::GET,
            "/v1/rebalance/plan?pin=orders,orders/1&zones=hard",
            "",
        )
        .await;
    assert_eq!(pinned.status, StatusCode::OK, "{:?}", pinned.body);

    let settings = async || {
        let settings = api.ask(Method::GET, "/v1/settings", "").await;
        serde_json::from_slice::<rivven_admin::SettingsBody>(&settings.body)
            .unwrap()
            .settings
    };
    assert!(settings().await["moves-in-flight"].is_default);
    let body = r#"{"settings":{"moves-in-flight":"64","x-mine":"1"}}"#;
    revision(&api.ask(Method::PATCH, "/v1/settings", body).await);
    let set = settings().await;
    let value = |key: &str| (set[key].value.as_str(), set[key].is_default);
    assert_eq!(
        (value("moves-in-flight"), value("x-mine")),
        (("64", false), ("1", false))
    );
    assert_eq!(value("in-sync"), ("live", true));
    for (body, code) in [
        (r#"{"settings":{"moves-in-flight":"0"}}"#, "invalid-setting"),
        (r#"{"settings":{"moves":"1"}}"#, "unknown-setting"),
        (r#"{"moves-in-flight":"1"}"#, "bad-json"),
    ] {
        api.check_error(Method::PATCH, "/v1/settings", body, 400, code)
            .await;
    }
    let unset = r#"{"settings":{"moves-in-flight":null,"x-mine":null}}"#;
    revision(&api.ask(Method::PATCH, "/v1/settings", unset).await);
    assert!(settings().await["moves-in-flight"].is_default);
    an_operator_elects_against_the_rules(api).await;
}

async fn an_operator_elects_against_the_rules(api: &Api) {
    let elect = "/v1/unclean-elections?topic=orders&partition=0&reason=a%20fire&node=";
    api.check_error(Method::POST, &format!("{elect}9"), "", 404, "unknown-node")
        .await;
    let other = elect.replace("partition=0", "partition=99");
    api.check_error(Method::POST, &format!("{other}1"), "", 404, "unknown-partition")
        .await;
    revision(&api.ask(Method::POST, &format!("{elect}1"), "").await);
    let held = api.ask(Method::GET, "/v1/unclean-elections", "").await;
    let held: rivven_admin::UncleanElectionsBody = serde_json::from_slice(&held.body).unwrap();
    let last = held.elections.last().unwrap();
    assert_eq!(
        (last.topic.as_deref(), last.node, last.reason.as_str()),
        (Some("orders"), 1, "a fire")
    );
}
