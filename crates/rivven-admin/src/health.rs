//! `livez`, `readyz` and `metrics`: what a kubelet, a load balancer and a scraper ask for.

use std::{
    convert::Infallible,
    fmt::Write as _,
    future::{Future, Ready, ready},
};

use hyper::{Request, Response, StatusCode, body::Body as HttpBody, service::Service};
use rivven_cluster::{Check, Cluster};
use tokio::net::TcpListener;

use crate::{
    MetricsRecorder,
    error::{ApiError, Body, plain},
    route::HealthRoute,
    server::{self, HEALTH_HEADER_TIMEOUT, Patience},
};

const TEXT: &str = "text/plain; charset=utf-8";
/// Media type of the Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The health endpoints of a node, and nothing else: safe to open to other machines.
///
/// Liveness never asks for a quorum: restarting a node because its peers are away cures nothing.
#[derive(Clone, Debug)]
pub struct HealthService {
    cluster: Cluster,
    metrics: Option<MetricsRecorder>,
}

impl HealthService {
    /// The health endpoints of `cluster`'s node.
    #[must_use]
    pub const fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            metrics: None,
        }
    }

    /// Shows what `recorder` has counted, beside the state of the node.
    #[must_use]
    pub fn with_metrics(mut self, recorder: MetricsRecorder) -> Self {
        self.metrics = Some(recorder);
        self
    }

    /// Answers one request. Bodies are not read.
    #[must_use]
    pub fn handle<B>(&self, request: &Request<B>) -> Response<Body> {
        match HealthRoute::parse(request.method(), request.uri().path()) {
            Ok(route) => answer(&self.cluster, self.metrics.as_ref(), &route),
            Err(error) => error.into_response(),
        }
    }

    /// Serves on `listener` until `stop` resolves.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let patience = Patience {
            headers: HEALTH_HEADER_TIMEOUT,
            replaces_oldest: true,
        };
        server::serve(listener, self, patience, stop).await;
    }
}

impl<B: HttpBody> Service<Request<B>> for HealthService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        ready(Ok(self.handle(&request)))
    }
}

pub(crate) fn answer(
    cluster: &Cluster,
    recorder: Option<&MetricsRecorder>,
    route: &HealthRoute,
) -> Response<Body> {
    match route {
        HealthRoute::Livez(name) => checks("livez", &cluster.liveness(), name.as_deref()),
        HealthRoute::Readyz(name) => checks("readyz", &cluster.readiness(), name.as_deref()),
        HealthRoute::Metrics => {
            let counted = recorder.map(MetricsRecorder::render).unwrap_or_default();
            plain(StatusCode::OK, PROMETHEUS, metrics(cluster) + &counted)
        }
    }
}

/// The form of Kubernetes and etcd: a line per check, status 503 when one fails.
fn checks(endpoint: &str, checks: &[Check], name: Option<&str>) -> Response<Body> {
    let asked: Vec<&Check> = checks
        .iter()
        .filter(|check| name.is_none_or(|name| check.name == name))
        .collect();
    if let Some(name) = name.filter(|_| asked.is_empty()) {
        let known: Vec<_> = checks.iter().map(|check| check.name).collect();
        return ApiError::not_found(
            "unknown-check",
            format!("{endpoint} has no check `{}`", name.escape_default()),
            format!("use one of: {}", known.join(", ")),
        )
        .into_response();
    }
    let healthy = asked.iter().all(|check| check.ok);
    let mut text = String::new();
    for check in asked {
        let (sign, word) = if check.ok { ('+', "ok") } else { ('-', "failed") };
        // Writing to a String cannot fail.
        let _ = write!(text, "[{sign}]{} {word}", check.name);
        let _ = match check.detail.as_str() {
            "" => writeln!(text),
            detail => writeln!(text, ": {detail}"),
        };
    }
    let _ = writeln!(
        text,
        "{endpoint} check {}",
        if healthy { "passed" } else { "failed" }
    );
    let status = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    plain(status, TEXT, text)
}

/// The state of the node as gauges in the Prometheus text format.
fn metrics(cluster: &Cluster) -> String {
    let status = cluster.status();
    let members = cluster.members().list();
    let alive = members.iter().filter(|member| member.state == "alive").count();
    let map = cluster.partitions().assignments();
    let leaderless = map
        .topics()
        .flat_map(|topic| topic.partitions())
        .filter(|partition| partition.leader().is_none())
        .count();
    let gauges: [(&str, &str, u64); 8] = [
        ("rivven_raft_term", "Raft term.", status.term),
        (
            "rivven_raft_is_leader",
            "Whether this node is the Raft leader.",
            u64::from(status.controller == Some(status.node_id)),
        ),
        (
            "rivven_raft_commit_index",
            "Highest log index known to be committed.",
            status.commit_index,
        ),
        (
            "rivven_raft_applied_index",
            "Highest log index applied here.",
            status.applied_index,
        ),
        (
            "rivven_raft_replicas_differ",
            "Whether this replica differs from others.",
            u64::from(
                status
                    .problems
                    .iter()
                    .any(|problem| problem.code == "replicas-differ"),
            ),
        ),
        ("rivven_members_alive", "Members seen alive.", alive as u64),
        (
            "rivven_partitions_leaderless",
            "Partitions without a leader.",
            leaderless as u64,
        ),
        (
            "rivven_node_ready",
            "Whether every readiness check passes.",
            u64::from(cluster.readiness().iter().all(|check| check.ok)),
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        let _ = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        );
    }
    text
}
