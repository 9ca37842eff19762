//! The API over a real cluster of one, in this process.

// A request is one future from the parser of its path down to the log.
#![recursion_limit = "256"]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, header};
use rivven_admin::{
    APPLIED_INDEX_HEADER, AdminOptions, AdminService, AdminToken, ErrorBody, GossipKeysBody, HealthService,
    ListingBody, MAX_BODY_BYTES, MAX_WATCHES, MetricsRecorder, SessionBody, TOKEN_BYTES,
};
use rivven_cluster::{Cluster, ClusterConfig, identity};
use tempfile::TempDir;

#[path = "api/partitions.rs"]
mod partitions;
#[path = "api/snapshot.rs"]
mod snapshot;
#[path = "api/traces.rs"]
mod traces;

struct Api {
    service: AdminService,
    cluster: Cluster,
    token: AdminToken,
    _dir: TempDir,
}

struct Answer {
    status: StatusCode,
    headers: header::HeaderMap,
    body: Bytes,
}

impl Api {
    /// The recorder of metrics is one per process, so one test gives it.
    async fn start(metrics: Option<MetricsRecorder>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        identity::write_cluster(&dir.path().join("certs"), &[1]).unwrap();
        let mut config = ClusterConfig::dev(dir.path().join("data"));
        config.tls_dir = Some(dir.path().join("certs/node-1"));
        let cluster = Cluster::start(config).await.unwrap();
        cluster.wait_ready(Duration::from_secs(60)).await.unwrap();
        let token = AdminToken::from_random([3; TOKEN_BYTES]);
        let options = AdminOptions {
            token: token.clone(),
            host_names: vec!["node1.example".into()],
            metrics,
        };
        Self {
            service: AdminService::new(cluster.clone(), options),
            cluster,
            token,
            _dir: dir,
        }
    }

    /// As a client that holds the token.
    async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let bearer = format!("Bearer {}", self.token.reveal());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1:9640")
            .header(header::AUTHORIZATION, bearer)
            .body(Full::new(body.into()))
            .unwrap();
        self.send(request).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.service.handle(request).await.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    async fn check_error(&self, method: Method, path: &str, body: impl Into<Bytes>, status: u16, code: &str) {
        let answer = self.ask(method, path, body).await;
        let error: ErrorBody = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (answer.status.as_u16(), error.code.as_str()),
            (status, code),
            "{path}: {}",
            error.message
        );
        assert!(
            !error.message.is_empty() && !error.remedy.is_empty(),
            "{path}: {error:?}"
        );
    }
}

fn revision(answer: &Answer) -> u64 {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    body["revision"].as_u64().unwrap()
}

#[tokio::test]
async fn keys_topics_and_views_work_and_mistakes_are_named() {
    let api = Api::start(Some(MetricsRecorder::install().unwrap())).await;
    keys(&api).await;
    past_and_prefix(&api).await;
    lifetimes(&api).await;
    sessions(&api).await;
    partitions::topics(&api).await;
    views(&api).await;
    traces::follow(&api).await;
    join_tokens(&api).await;
    gossip_keys(&api).await;
    snapshot::backups(&api).await;
    guards(&api).await;
    api.cluster.shutdown().await;
    api.check_error(Method::PUT, "/v1/kv/late", "v", 503, "not-ready")
        .await;
}

async fn keys(api: &Api) {
    let first = revision(&api.ask(Method::PUT, "/v1/kv/a/b%20c", "one").await);
    let found = api.ask(Method::GET, "/v1/kv/a/b%20c", "").await;
    assert_eq!((found.status, &found.body[..]), (StatusCode::OK, &b"one"[..]));
    assert_eq!(found.headers[header::ETAG], format!("\"{first}\""));
    assert!(
        found.headers[APPLIED_INDEX_HEADER]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    let stale = api
        .ask(Method::GET, "/v1/kv/a%2Fb%20c?consistency=stale", "")
        .await;
    assert_eq!(stale.body, "one");

    api.check_error(
        Method::PUT,
        "/v1/kv/a/b%20c?if_revision=0",
        "two",
        412,
        "revision-mismatch",
    )
    .await;
    let path = format!("/v1/kv/a/b%20c?if_revision={first}");
    let second = revision(&api.ask(Method::PUT, &path, "two").await);
    assert!(second > first);
    api.check_error(Method::DELETE, &path, "", 412, "revision-mismatch")
        .await;
    revision(&api.ask(Method::DELETE, "/v1/kv/a/b%20c", "").await);
    api.check_error(Method::GET, "/v1/kv/a/b%20c", "", 404, "key-not-found")
        .await;

    revision(&api.ask(Method::PUT, "/v1/kv/big", vec![7; MAX_BODY_BYTES]).await);
    api.check_error(
        Method::PUT,
        "/v1/kv/big",
        vec![7; MAX_BODY_BYTES + 1],
        413,
        "body-too-large",
    )
    .await;
    let long = format!("/v1/kv/{}", "k".repeat(5000));
    let answer = api.ask(Method::PUT, &long, "v").await;
    assert!(answer.status.is_client_error(), "{:?}", answer.body);
}

async fn past_and_prefix(api: &Api) {
    let first = revision(&api.ask(Method::PUT, "/v1/kv/p/1", "old").await);
    revision(&api.ask(Method::PUT, "/v1/kv/p/2", vec![0xfb, 0xff]).await);
    let last = revision(&api.ask(Method::PUT, "/v1/kv/p/1", "new").await);
    let past = api
        .ask(Method::GET, &format!("/v1/kv/p/1?revision={first}"), "")
        .await;
    assert_eq!((past.status, &past.body[..]), (StatusCode::OK, &b"old"[..]));
    api.check_error(
        Method::GET,
        "/v1/kv/p/1?revision=999999",
        "",
        404,
        "future-revision",
    )
    .await;

    let list = async |query: &str| {
        let answer = api.ask(Method::GET, &format!("/v1/kv?{query}"), "").await;
        serde_json::from_slice::<ListingBody>(&answer.body).unwrap()
    };
    let now = list("prefix=p/").await;
    let keys: Vec<_> = now
        .entries
        .iter()
        .map(|entry| (entry.key.as_str(), entry.version))
        .collect();
    assert_eq!(
        (now.revision, keys, now.more),
        (last, vec![("p/1", 2), ("p/2", 1)], false)
    );
    assert_eq!(now.entries[1].value_base64, "+/8=");
    let then = list(&format!("prefix=p/&revision={first}")).await;
    assert_eq!(
        (then.entries.len(), then.entries[0].value_base64.as_str()),
        (1, "b2xk")
    );
    let page = list("prefix=p/&limit=1").await;
    assert_eq!((page.entries.len(), page.more), (1, true));
    let rest = list("prefix=p/&start_after=p/1").await;
    assert_eq!((rest.entries[0].key.as_str(), rest.more), ("p/2", false));
}

async fn lifetimes(api: &Api) {
    let put = api.ask(Method::PUT, "/v1/kv/lasts?ttl_ms=1000", "v").await;
    let body: serde_json::Value = serde_json::from_slice(&put.body).unwrap();
    assert!(body["lease"].as_u64().is_some(), "{body}");
    assert_eq!(
        api.ask(Method::GET, "/v1/kv/lasts", "").await.status,
        StatusCode::OK
    );
    let ended = async {
        while api.ask(Method::GET, "/v1/kv/lasts", "").await.status == StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .unwrap();
    api.check_error(Method::PUT, "/v1/kv/lasts?ttl_ms=1", "v", 400, "ttl-out-of-range")
        .await;
}

async fn sessions(api: &Api) {
    let opened = api.ask(Method::POST, "/v1/sessions?ttl_ms=60000", "").await;
    let SessionBody { session } = serde_json::from_slice(&opened.body).unwrap();
    let put = |seq: u64| format!("/v1/kv/once?session={session}&seq={seq}");
    let first = revision(&api.ask(Method::PUT, &put(1), "v").await);
    let again = revision(&api.ask(Method::PUT, &put(1), "v").await);
    assert_eq!(first, again, "answered as the first time");
    assert!(revision(&api.ask(Method::PUT, &put(2), "v").await) > first);
    api.check_error(Method::PUT, &put(1), "other", 409, "session-number-reused")
        .await;

    let path = format!("/v1/sessions/{session}");
    for method in [Method::POST, Method::DELETE] {
        assert_eq!(api.ask(method, &path, "").await.status, StatusCode::OK);
    }
    api.check_error(Method::POST, &path, "", 404, "session-lost")
        .await;
    api.check_error(Method::PUT, &put(3), "v", 504, "session-lost")
        .await;
}

/// What a watch sends next.
async fn frame(body: &mut (impl hyper::body::Body<Data = Bytes, Error = Infallible> + Unpin)) -> String {
    let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await;
    let data = frame
        .expect("in time")
        .expect("an event")
        .unwrap()
        .into_data()
        .unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

#[tokio::test]
async fn a_watch_sends_the_state_then_changes_and_says_how_it_ends() {
    let api = Api::start(None).await;
    let first = revision(&api.ask(Method::PUT, "/v1/kv/w/1", "v").await);
    let watch = async |path: String| {
        let request = Request::get(path).header(header::HOST, "localhost");
        let response = api
            .service
            .handle(request.body(Full::new(Bytes::new())).unwrap())
            .await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        response.into_body()
    };
    let mut body = watch("/v1/watch?prefix=w/".into()).await;
    let entry = format!(
        r#"{{"key":"w/1","value_base64":"dg==","create_revision":{first},"mod_revision":{first},"version":1}}"#
    );
    assert_eq!(
        frame(&mut body).await,
        format!(
            "event: snapshot\nid: {first}\ndata: {{\"revision\":{first},\"entries\":[{entry}],\"more\":false}}\n\n"
        )
    );
    revision(&api.ask(Method::PUT, "/v1/kv/other", "v").await);
    let removed = revision(&api.ask(Method::DELETE, "/v1/kv/w/1", "").await);
    let change = format!(
        "event: changes\nid: {removed}\ndata: {{\"revision\":{removed},\"changes\":[{{\"key\":\"w/1\",\"entry\":null}}]}}\n\n"
    );
    assert_eq!(frame(&mut body).await, change);
    let mut resumed = watch(format!("/v1/watch?prefix=w/&from_revision={removed}")).await;
    assert_eq!(frame(&mut resumed).await, change);

    let mut held = Vec::new();
    for _ in 2..MAX_WATCHES {
        held.push(watch("/v1/watch".into()).await);
    }
    api.check_error(Method::GET, "/v1/watch", "", 503, "too-many-watches")
        .await;
    drop(held);
    let mut forgotten = watch("/v1/watch?from_revision=0".into()).await;
    let end = frame(&mut forgotten).await;
    assert!(
        end.starts_with("event: end\ndata: {\"code\":\"compacted\""),
        "{end}"
    );
    assert!(forgotten.frame().await.is_none());

    let (end, _) = tokio::join!(frame(&mut body), api.cluster.shutdown());
    assert!(
        end.starts_with("event: end\ndata: {\"code\":\"stopped\""),
        "{end}"
    );
}

async fn views(api: &Api) {
    for path in [
        "/v1/status",
        "/v1/members",
        "/v1/topics",
        "/v1/assignments",
        "/livez",
        "/readyz",
        "/metrics",
    ] {
        assert_eq!(
            api.ask(Method::GET, path, "").await.status,
            StatusCode::OK,
            "{path}"
        );
    }
    let one = api.ask(Method::GET, "/readyz/raft_leader", "").await;
    assert!(one.body.starts_with(b"[+]raft_leader ok"), "{:?}", one.body);
    api.check_error(Method::GET, "/readyz/nonsense", "", 404, "unknown-check")
        .await;
    api.check_error(Method::GET, "/v2/status", "", 404, "unknown-path")
        .await;
    api.check_error(Method::POST, "/v1/leader/transfer?to=9", "", 400, "not-a-voter")
        .await;

    // The state of the node, and what its libraries have counted since it started.
    let text = api.ask(Method::GET, "/metrics", "").await.body;
    let text = std::str::from_utf8(&text).unwrap();
    for line in [
        "rivven_raft_is_leader 1",
        "# TYPE raft_log_commit_seconds histogram",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }
    let health = HealthService::new(api.cluster.clone());
    let ask = |path: &str| {
        health
            .handle(&Request::get(path).body(()).unwrap())
            .status()
            .as_u16()
    };
    assert_eq!((ask("/readyz"), ask("/metrics")), (200, 200));
    assert_eq!(
        (ask("/v1/status"), ask("/v1/kv/big")),
        (404, 404),
        "nothing but health"
    );
}

/// The one member acknowledges the new keys at once.
async fn gossip_keys(api: &Api) {
    for _ in 0..2 {
        let before = api.cluster.status().gossip_key_epoch.unwrap();
        let answer = api.ask(Method::POST, "/v1/gossip-keys", "").await;
        assert_eq!(answer.status, StatusCode::OK);
        let body: GossipKeysBody = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body.epoch, before + 1);
        while api.cluster.status().gossip_key_epoch != Some(body.epoch) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    api.check_error(Method::GET, "/v1/gossip-keys", "", 405, "method-not-allowed")
        .await;
}

/// The node that is asked holds no authority's key.
async fn join_tokens(api: &Api) {
    let path = "/v1/join-tokens";
    for (body, status, code) in [
        (r#"{"node":4}"#, 503, "no-issuer"),
        (r#"{"node":4,"life_s":1}"#, 400, "join-token-life"),
        (r#"{"node":4,"life":60}"#, 400, "bad-json"),
        ("", 400, "bad-json"),
    ] {
        api.check_error(Method::POST, path, body, status, code).await;
    }
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, "127.0.0.1:9640");
    let answer = api
        .send(request.body(Full::new(r#"{"node":4}"#.into())).unwrap())
        .await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{:?}", answer.body);
}

async fn guards(api: &Api) {
    let request = |method: Method, host: &str| {
        let request = Request::builder()
            .method(method)
            .uri("/v1/kv/big")
            .header(header::HOST, host);
        request.body(Full::new(Bytes::new())).unwrap()
    };
    let status = async |request| api.send(request).await.status.as_u16();
    assert_eq!(
        status(request(Method::GET, "node1.example:9640")).await,
        200,
        "reading needs no token"
    );
    assert_eq!(status(request(Method::GET, "rebound.example")).await, 403);
    for method in [Method::PUT, Method::DELETE] {
        assert_eq!(status(request(method, "localhost")).await, 401);
    }
    assert_eq!(status(request(Method::PATCH, "localhost")).await, 405);
}

#[tokio::test]
async fn the_status_is_followed_as_events_until_the_node_has_stopped() {
    let api = Api::start(None).await;
    let request = Request::get("/v1/status").header(header::HOST, "localhost");
    let request = request.header(header::ACCEPT, "text/event-stream");
    let response = api
        .service
        .handle(request.body(Full::new(Bytes::new())).unwrap())
        .await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    let first = frame(&mut body).await;
    assert!(
        first.starts_with("event: status\ndata: {") && first.contains("\"role\":\"leader\""),
        "{first}"
    );
    let written = revision(&api.ask(Method::PUT, "/v1/kv/a", "v").await);
    let commit = format!("\"commit_index\":{}", api.cluster.status().commit_index);
    assert!(written > 0 && !first.contains(&commit));
    let mut next = String::new();
    while !next.contains(&commit) {
        next = frame(&mut body).await;
    }
    let ((), _) = tokio::join!(
        async {
            while let Some(Ok(frame)) = body.frame().await {
                next = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
            }
        },
        api.cluster.shutdown()
    );
    assert!(next.contains("\"phase\":\"stopped\""), "{next}");
}
