//! The admin API as a service over `Cluster`.

mod features;
mod kv;
mod members;
mod nodes;
mod rebalance;
mod refuse;
mod snapshot;
mod view;
mod watch;

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{Request, Response, StatusCode, body::Body as HttpBody, header::ACCEPT, service::Service};
use rivven_cluster::{Cluster, NodeId, SessionId, TopicSpec, TraceContext};
use serde::de::DeserializeOwned;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    MetricsRecorder,
    api::{
        ChangedBody, ConfigureBody, CreateTopicBody, CreatedTopicBody, GossipKeysBody, JoinTokenBody,
        MakeJoinTokenBody, SessionBody, TransferBody,
    },
    error::{ApiError, Body, json},
    guard::{AdminToken, check_host, check_token},
    health,
    route::{Route, SessionRoute},
    server::{self, BODY_TIMEOUT, HEADER_TIMEOUT, Patience},
};

pub use self::{snapshot::MAX_BACKUPS, watch::MAX_WATCHES};

/// Most bytes of a request body: the largest value of the key-value map.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// Header with the trace that a request belongs to ("Trace Context", section 3.2).
const TRACEPARENT: &str = "traceparent";

/// Life of a join token when the request does not say.
const JOIN_TOKEN_LIFE: Duration = Duration::from_secs(3600);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who may use the API, and under which names it is reached.
#[derive(Clone, Debug)]
pub struct AdminOptions {
    /// What a request that changes something must present.
    pub token: AdminToken,
    /// Host names a request may carry beside IP addresses and `localhost`: those of `advertise_address`.
    pub host_names: Vec<String>,
    /// What `GET /metrics` shows beside the state of the node.
    pub metrics: Option<MetricsRecorder>,
}

/// The admin API of a node, a [`hyper`] service to serve by itself or to mount in a server of yours.
///
/// Any node answers any request. Success means that a change is durable on a quorum; status 503 that it is
/// known not to have happened; status 504 with code `unknown-outcome` that it may have.
#[derive(Clone, Debug)]
pub struct AdminService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    options: AdminOptions,
    /// For watches that are served.
    watches: Arc<Semaphore>,
    /// For backups that are served.
    backups: Arc<Semaphore>,
}

impl AdminService {
    /// The API of `cluster`'s node.
    #[must_use]
    pub fn new(cluster: Cluster, options: AdminOptions) -> Self {
        Self(Arc::new(Inner {
            cluster,
            options,
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            backups: Arc::new(Semaphore::new(MAX_BACKUPS)),
        }))
    }

    /// Serves on `listener` until `stop` resolves, then answers what was asked.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let patience = Patience {
            headers: HEADER_TIMEOUT,
            replaces_oldest: false,
        };
        server::serve(listener, self, patience, stop).await;
    }

    /// Answers one request. What it asks of other nodes belongs to the trace of its header `traceparent`, if that
    /// is sampled ([`TraceContext`]).
    ///
    /// Cancel safety: a change whose future is dropped may still happen.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody,
        B::Error: Into<BoxError>,
    {
        let trace = request
            .headers()
            .get(TRACEPARENT)
            .and_then(|value| value.to_str().ok());
        let trace = trace.and_then(TraceContext::from_traceparent);
        // Boxed, because the futures of all routes nest deeper than a caller's should.
        let answering = Box::pin(self.0.answer(request));
        let answer = match trace {
            Some(trace) => trace.scope(answering).await,
            None => answering.await,
        };
        match answer {
            Ok(response) => response,
            Err(error) => error.into_response(),
        }
    }
}

impl<B> Service<Request<B>> for AdminService
where
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.handle(request).await) })
    }
}

impl Inner {
    async fn answer<B>(&self, request: Request<B>) -> Result<Response<Body>, ApiError>
    where
        B: HttpBody,
        B::Error: Into<BoxError>,
    {
        check_host(&request, &self.options.host_names)?;
        let uri = request.uri();
        let route = Route::parse(request.method(), uri.path(), uri.query())?;
        if route.needs_token() {
            check_token(&request, &self.options.token)?;
        }
        let cluster = &self.cluster;
        match route {
            Route::Status if wants_events(&request) => watch::serve_status(cluster, &self.watches),
            Route::Status => Ok(json(StatusCode::OK, &view::status(cluster.status()))),
            Route::Members => Ok(json(StatusCode::OK, &view::members(cluster))),
            Route::Membership => members::view(cluster).await,
            Route::ChangeMember(asked) => members::change(cluster, asked).await,
            Route::Topics => Ok(json(StatusCode::OK, &view::topics(cluster))),
            Route::Topic { name } => {
                let assignments = view::topic(cluster, &name).ok_or_else(|| refuse::unknown_topic(&name))?;
                Ok(json(StatusCode::OK, &assignments))
            }
            Route::CreateTopic => self.create_topic(from_json(&read_body(request).await?)?).await,
            Route::ChangeTopic { name } => {
                let body = from_json(&read_body(request).await?)?;
                changed(rebalance::change_topic(cluster, &name, body).await?)
            }
            Route::SetWeight { node, weight } => {
                let set = cluster.partitions().set_weight(node, weight).await;
                changed(set.map_err(|error| refuse::write(&error))?)
            }
            Route::Nodes => Ok(json(StatusCode::OK, &nodes::list(cluster))),
            Route::Ring => Ok(json(StatusCode::OK, &nodes::ring(cluster)?)),
            Route::RingSvg => nodes::ring_svg(cluster),
            Route::Settings => Ok(json(StatusCode::OK, &nodes::settings(cluster))),
            Route::Configure => {
                let body: ConfigureBody = from_json(&read_body(request).await?)?;
                let configured = cluster.partitions().configure(body.settings).await;
                changed(configured.map_err(|error| refuse::write(&error))?)
            }
            Route::UncleanElections => Ok(json(StatusCode::OK, &nodes::unclean_elections(cluster))),
            Route::ElectUnclean(query) => changed(nodes::elect_unclean(cluster, query).await?),
            Route::Rebalance => Ok(rebalance::state(cluster)),
            Route::RebalancePlan(query) => rebalance::plan(cluster, query).await,
            Route::StartRebalance(query) => rebalance::start(cluster, query).await,
            Route::ControlRebalance { id, action } => {
                let done = cluster.partitions().control_rebalance(id, action).await;
                changed(done.map_err(|error| refuse::write(&error))?)
            }
            Route::DeleteTopic { name } => {
                let deleted = cluster.partitions().delete_topic(&name).await;
                changed(deleted.map_err(|error| refuse::write(&error))?)
            }
            Route::Assignments => Ok(json(StatusCode::OK, &view::assignments(cluster))),
            Route::KvGet { key, read } => kv::get(cluster, key, read).await,
            Route::KvList(list) => kv::list(cluster, list).await,
            Route::KvPut(write) => kv::put(cluster, write, read_body(request).await?).await,
            Route::KvDelete(write) => kv::delete(cluster, write).await,
            Route::Watch(query) => watch::serve(cluster, &self.watches, query),
            Route::Session(session) => self.session(session).await,
            Route::TransferLeader { to } => self.transfer_leader(to).await,
            Route::MakeJoinToken => self.join_token(from_json(&read_body(request).await?)?).await,
            Route::Features => features::list(cluster).await,
            Route::FinalizeFeature(asked) => features::finalize(cluster, asked).await,
            Route::Snapshot => snapshot::serve(cluster, &self.backups).await,
            Route::Refoundings => Ok(snapshot::refoundings(cluster).await),
            Route::RotateGossipKeys => self.rotate_gossip_keys().await,
            Route::Health(route) => Ok(health::answer(cluster, self.options.metrics.as_ref(), &route)),
        }
    }

    async fn create_topic(&self, topic: CreateTopicBody) -> Result<Response<Body>, ApiError> {
        let mut spec = TopicSpec::new(topic.partitions);
        if let Some(factor) = topic.replication_factor {
            spec = spec.replication_factor(factor);
        }
        let created = self.cluster.partitions().create_topic(&topic.name, spec).await;
        let id = created.map_err(|error| refuse::write(&error))?.0;
        Ok(json(StatusCode::OK, &CreatedTopicBody { id }))
    }

    async fn session(&self, route: SessionRoute) -> Result<Response<Body>, ApiError> {
        let kv = self.cluster.kv();
        let session = match route {
            SessionRoute::Open { ttl_ms } => kv.open_session(Duration::from_millis(ttl_ms)).await,
            SessionRoute::Renew(id) => kv.renew_session(SessionId(id)).await.map(|()| SessionId(id)),
            SessionRoute::Close(id) => kv.close_session(SessionId(id)).await.map(|()| SessionId(id)),
        };
        let session = session.map_err(|error| refuse::session(&error))?.0;
        Ok(json(StatusCode::OK, &SessionBody { session }))
    }

    async fn transfer_leader(&self, to: NodeId) -> Result<Response<Body>, ApiError> {
        let transferred = self.cluster.transfer_leader(to).await;
        transferred.map_err(|error| refuse::transfer(&error))?;
        Ok(json(StatusCode::OK, &TransferBody { to }))
    }

    async fn rotate_gossip_keys(&self) -> Result<Response<Body>, ApiError> {
        let rotated = self.cluster.rotate_gossip_keys().await;
        let epoch = rotated.map_err(|error| refuse::rotate(&error))?;
        Ok(json(StatusCode::OK, &GossipKeysBody { epoch }))
    }

    async fn join_token(&self, asked: MakeJoinTokenBody) -> Result<Response<Body>, ApiError> {
        let life = asked.life_s.map_or(JOIN_TOKEN_LIFE, Duration::from_secs);
        let made = self.cluster.join_token(asked.node, life).await;
        let token = made.map_err(|error| refuse::join_token(&error))?;
        let body = JoinTokenBody {
            token: token.to_text().to_string(),
            id: token.id().to_string(),
            node: token.node(),
            expires_s: token.expires_s(),
        };
        Ok(json(StatusCode::OK, &body))
    }
}

/// Whether the client asks for a stream of events (WHATWG HTML, section 9.2).
fn wants_events<B>(request: &Request<B>) -> bool {
    let accepted = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/event-stream"))
}

fn changed(revision: u64) -> Result<Response<Body>, ApiError> {
    let lease = None;
    Ok(json(StatusCode::OK, &ChangedBody { revision, lease }))
}

/// The whole body, if it is short enough and comes in time.
async fn read_body<B>(request: Request<B>) -> Result<Bytes, ApiError>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(MAX_BODY_BYTES)),
        Ok(Err(error)) => Err(ApiError::bad_request(
            "body-not-read",
            format!("the request body broke off: {error}"),
            "send the request again",
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-too-slow",
            format!("the request body did not arrive within {BODY_TIMEOUT:?}"),
            "send the request again",
        )),
    }
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(
            "bad-json",
            format!("the request body is not what this path takes: {error}"),
            r#"send JSON such as {"name":"orders","partitions":12,"replication_factor":3}"#,
        )
    })
}
