//! Which request is which: a pure function from method, path and query.

mod features;
mod members;
mod partitions;

use hyper::Method;
use rivven_cluster::RebalanceAction;
use rivven_types::NodeId;

pub(crate) use self::{
    features::FeatureRoute,
    members::MemberRoute,
    partitions::{PlanQuery, UncleanQuery},
};

use crate::{
    error::ApiError,
    query::{Query, decode_text},
};

/// How long a change is tried when the request does not say.
const DEFAULT_TIMEOUT_MS: u64 = 10_000;
/// Longest time a request may ask for.
const MAX_TIMEOUT_MS: u64 = 60_000;

/// Keys listed when the request does not say.
const DEFAULT_LIST: usize = 100;
/// Most keys in one list.
const MAX_LIST: usize = 1_000;
/// How long a session lasts unused when the request does not say.
const DEFAULT_SESSION_TTL_MS: u64 = 60_000;

/// How current a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadLevel {
    /// Sees every write acknowledged before it, on whichever node it was acknowledged.
    Linearizable,
    /// The same by the leader's lease, where the cluster has lease reads on.
    Lease,
    /// What the asked node has applied.
    Stale,
}

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Status,
    Members,
    Membership,
    ChangeMember(MemberRoute),
    Topics,
    Topic { name: String },
    CreateTopic,
    ChangeTopic { name: String },
    DeleteTopic { name: String },
    SetWeight { node: NodeId, weight: Option<u16> },
    Nodes,
    Ring,
    RingSvg,
    Settings,
    Configure,
    UncleanElections,
    ElectUnclean(UncleanQuery),
    Rebalance,
    RebalancePlan(PlanQuery),
    StartRebalance(PlanQuery),
    ControlRebalance { id: u64, action: RebalanceAction },
    Assignments,
    KvGet { key: String, read: KvRead },
    KvList(KvList),
    KvPut(KvWrite),
    KvDelete(KvWrite),
    Watch(WatchQuery),
    Session(SessionRoute),
    TransferLeader { to: NodeId },
    MakeJoinToken,
    RotateGossipKeys,
    Features,
    FinalizeFeature(FeatureRoute),
    Snapshot,
    Refoundings,
    Health(HealthRoute),
}

/// How a read is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvRead {
    pub(crate) level: ReadLevel,
    /// Revision to read; `None` for what is.
    pub(crate) revision: Option<u64>,
}

/// A list of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvList {
    pub(crate) prefix: String,
    /// The last key of the list before.
    pub(crate) start_after: Option<String>,
    pub(crate) limit: usize,
    pub(crate) read: KvRead,
}

/// What is to be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchQuery {
    pub(crate) prefix: String,
    /// First revision to deliver; `None`: the keys as they are, then what changes.
    pub(crate) from_revision: Option<u64>,
}

/// A request about sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionRoute {
    Open { ttl_ms: u64 },
    Renew(u64),
    Close(u64),
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvWrite {
    pub(crate) key: String,
    /// Revision the key must be at; 0 for a key that must not exist.
    pub(crate) if_revision: Option<u64>,
    /// How long the key lasts.
    pub(crate) ttl_ms: Option<u64>,
    /// Session and number, to be applied once.
    pub(crate) session: Option<(u64, u64)>,
    /// How long to try.
    pub(crate) timeout_ms: u64,
}

/// A request of the health endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HealthRoute {
    /// All liveness checks, or the one named.
    Livez(Option<String>),
    /// All readiness checks, or the one named.
    Readyz(Option<String>),
    Metrics,
}

impl Route {
    /// Whether the request needs the token: it changes something, or takes everything there is.
    pub(crate) const fn needs_token(&self) -> bool {
        match self {
            Self::ChangeMember(asked) => !asked.plan,
            Self::Status
            | Self::Members
            | Self::Membership
            | Self::Features
            | Self::Topics
            | Self::Topic { .. }
            | Self::Nodes
            | Self::Ring
            | Self::RingSvg
            | Self::Settings
            | Self::UncleanElections
            | Self::Rebalance
            | Self::RebalancePlan(_)
            | Self::Assignments
            | Self::KvGet { .. }
            | Self::KvList(_)
            | Self::Watch(_)
            | Self::Refoundings
            | Self::Health(_) => false,
            Self::CreateTopic
            | Self::ChangeTopic { .. }
            | Self::DeleteTopic { .. }
            | Self::SetWeight { .. }
            | Self::Configure
            | Self::ElectUnclean(_)
            | Self::StartRebalance(_)
            | Self::ControlRebalance { .. }
            | Self::KvPut(_)
            | Self::KvDelete(_)
            | Self::Session(_)
            | Self::TransferLeader { .. }
            | Self::MakeJoinToken
            | Self::FinalizeFeature(_)
            | Self::RotateGossipKeys
            | Self::Snapshot => true,
        }
    }

    pub(crate) fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, ApiError> {
        let mut query = Query::parse(query)?;
        let route = Self::parse_path(method, path, &mut query)?;
        query.finish()?;
        Ok(route)
    }

    fn parse_path(method: &Method, path: &str, query: &mut Query) -> Result<Self, ApiError> {
        if let Some(rest) = path.strip_prefix("/v1/kv/").filter(|rest| !rest.is_empty()) {
            return kv(method, decode_text(rest)?, query);
        }
        if let Some(id) = path.strip_prefix("/v1/sessions/") {
            return session(method, id);
        }
        if let Some(name) = path.strip_prefix("/v1/topics/").filter(|rest| !rest.is_empty()) {
            let name = decode_text(name)?;
            return match *method {
                Method::GET => Ok(Self::Topic { name }),
                Method::PATCH => Ok(Self::ChangeTopic { name }),
                Method::DELETE => Ok(Self::DeleteTopic { name }),
                _ => Err(ApiError::method_not_allowed("GET, PATCH, DELETE")),
            };
        }
        if let Some(rest) = path.strip_prefix("/v1/rebalance") {
            return partitions::rebalance(method, rest, query);
        }
        if let Some(rest) = path.strip_prefix("/v1/members/") {
            return members::change(method, rest, query);
        }
        if let Some(rest) = path.strip_prefix("/v1/features") {
            return features::parse(method, rest, query);
        }
        if let Some(rest) = path.strip_prefix("/v1/nodes/") {
            return partitions::weight(method, rest, query);
        }
        match path {
            "/v1/status" => get(method, Self::Status),
            "/v1/members" => get(method, Self::Members),
            "/v1/membership" => get(method, Self::Membership),
            "/v1/nodes" => get(method, Self::Nodes),
            "/v1/ring" => get(method, Self::Ring),
            "/v1/ring.svg" => get(method, Self::RingSvg),
            "/v1/settings" => partitions::settings(method),
            "/v1/unclean-elections" => partitions::unclean(method, query),
            "/v1/assignments" => get(method, Self::Assignments),
            "/v1/topics" => match *method {
                Method::GET => Ok(Self::Topics),
                Method::POST => Ok(Self::CreateTopic),
                _ => Err(ApiError::method_not_allowed("GET, POST")),
            },
            "/v1/kv" => kv_list(query).and_then(|list| get(method, Self::KvList(list))),
            "/v1/watch" => watch(query).and_then(|query| get(method, Self::Watch(query))),
            "/v1/sessions" if *method == Method::POST => {
                let ttl_ms = query.take_number("ttl_ms")?.unwrap_or(DEFAULT_SESSION_TTL_MS);
                Ok(Self::Session(SessionRoute::Open { ttl_ms }))
            }
            "/v1/sessions" => Err(ApiError::method_not_allowed("POST")),
            "/v1/leader/transfer" => transfer(method, query),
            "/v1/snapshot" => get(method, Self::Snapshot),
            "/v1/refoundings" => get(method, Self::Refoundings),
            "/v1/join-tokens" if *method == Method::POST => Ok(Self::MakeJoinToken),
            "/v1/join-tokens" => Err(ApiError::method_not_allowed("POST")),
            "/v1/gossip-keys" if *method == Method::POST => Ok(Self::RotateGossipKeys),
            "/v1/gossip-keys" => Err(ApiError::method_not_allowed("POST")),
            _ => HealthRoute::parse(method, path).map(Self::Health),
        }
    }
}

impl HealthRoute {
    pub(crate) fn parse(method: &Method, path: &str) -> Result<Self, ApiError> {
        let (head, check) = match path.trim_start_matches('/').split_once('/') {
            Some((head, check)) => (head, Some(check.to_owned()).filter(|check| !check.is_empty())),
            None => (path.trim_start_matches('/'), None),
        };
        let route = match (head, check) {
            ("livez", check) => Self::Livez(check),
            ("readyz", check) => Self::Readyz(check),
            ("metrics", None) => Self::Metrics,
            _ => {
                return Err(unknown_path());
            }
        };
        get(method, route)
    }
}

fn get<T>(method: &Method, route: T) -> Result<T, ApiError> {
    if *method == Method::GET {
        Ok(route)
    } else {
        Err(ApiError::method_not_allowed("GET"))
    }
}

fn kv(method: &Method, key: String, query: &mut Query) -> Result<Route, ApiError> {
    match *method {
        Method::GET => {
            let read = read(query)?;
            Ok(Route::KvGet { key, read })
        }
        Method::PUT => {
            let ttl_ms = query.take_number("ttl_ms")?;
            let write = kv_write(key, query)?;
            Ok(Route::KvPut(KvWrite { ttl_ms, ..write }))
        }
        Method::DELETE => kv_write(key, query).map(Route::KvDelete),
        _ => Err(ApiError::method_not_allowed("GET, PUT, DELETE")),
    }
}

fn kv_write(key: String, query: &mut Query) -> Result<KvWrite, ApiError> {
    let if_revision = query.take_number("if_revision")?;
    let timeout_ms = query.take_number("timeout_ms")?.unwrap_or(DEFAULT_TIMEOUT_MS);
    let session = match (query.take_number("session")?, query.take_number("seq")?) {
        (Some(session), Some(seq)) => Some((session, seq)),
        (None, None) => None,
        _ => {
            return Err(ApiError::bad_request(
                "bad-parameter",
                "`session` and `seq` are given one without the other",
                "give both, with a new `seq` for each write, or neither",
            ));
        }
    };
    Ok(KvWrite {
        key,
        if_revision,
        ttl_ms: None,
        session,
        timeout_ms: timeout_ms.min(MAX_TIMEOUT_MS),
    })
}

fn kv_list(query: &mut Query) -> Result<KvList, ApiError> {
    let limit = query.take_number("limit")?.unwrap_or(DEFAULT_LIST);
    Ok(KvList {
        prefix: query.take("prefix").unwrap_or_default(),
        start_after: query.take("start_after"),
        limit: limit.min(MAX_LIST),
        read: read(query)?,
    })
}

fn watch(query: &mut Query) -> Result<WatchQuery, ApiError> {
    Ok(WatchQuery {
        prefix: query.take("prefix").unwrap_or_default(),
        from_revision: query.take_number("from_revision")?,
    })
}

fn session(method: &Method, id: &str) -> Result<Route, ApiError> {
    let id = id.parse().map_err(|_| {
        ApiError::not_found(
            "unknown-path",
            "a session is named by a number",
            "open one: POST /v1/sessions",
        )
    })?;
    match *method {
        Method::POST => Ok(Route::Session(SessionRoute::Renew(id))),
        Method::DELETE => Ok(Route::Session(SessionRoute::Close(id))),
        _ => Err(ApiError::method_not_allowed("POST, DELETE")),
    }
}

fn read(query: &mut Query) -> Result<KvRead, ApiError> {
    Ok(KvRead {
        level: read_level(query.take("consistency").as_deref())?,
        revision: query.take_number("revision")?,
    })
}

fn read_level(text: Option<&str>) -> Result<ReadLevel, ApiError> {
    match text {
        None | Some("linearizable") => Ok(ReadLevel::Linearizable),
        Some("lease") => Ok(ReadLevel::Lease),
        Some("stale") => Ok(ReadLevel::Stale),
        Some(_) => Err(ApiError::bad_request(
            "bad-parameter",
            "`consistency` is none of `linearizable`, `lease` and `stale`",
            "leave it out to read linearizably",
        )),
    }
}

fn unknown_path() -> ApiError {
    ApiError::not_found(
        "unknown-path",
        "nothing is served at this path",
        "see docs/operating/admin-api.md for the paths",
    )
}

fn transfer(method: &Method, query: &mut Query) -> Result<Route, ApiError> {
    if *method != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    match query.take_number("to")? {
        Some(to) => Ok(Route::TransferLeader { to }),
        None => Err(ApiError::bad_request(
            "bad-parameter",
            "`to` is missing",
            "name the node that is to lead: ?to=2",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, target: &str) -> Result<Route, (u16, String)> {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(p, q)| (p, Some(q)));
        Route::parse(&method, path, query).map_err(|error| (error.status.as_u16(), error.body.code))
    }

    #[test]
    fn each_path_is_its_route() {
        let check =
            |method, target: &str, expected| assert_eq!(parse(method, target), Ok(expected), "{target}");
        check(Method::GET, "/v1/status", Route::Status);
        check(Method::POST, "/v1/topics", Route::CreateTopic);
        check(
            Method::GET,
            "/v1/topics/a%20b",
            Route::Topic { name: "a b".into() },
        );
        check(
            Method::POST,
            "/v1/leader/transfer?to=2",
            Route::TransferLeader { to: 2 },
        );
        check(Method::POST, "/v1/join-tokens", Route::MakeJoinToken);
        check(Method::POST, "/v1/gossip-keys", Route::RotateGossipKeys);
        check(Method::GET, "/v1/snapshot", Route::Snapshot);
        assert!(Route::Snapshot.needs_token() && !Route::Refoundings.needs_token());
        check(Method::GET, "/v1/refoundings", Route::Refoundings);
        check(Method::GET, "/livez", Route::Health(HealthRoute::Livez(None)));
        check(
            Method::GET,
            "/readyz/raft_leader",
            Route::Health(HealthRoute::Readyz(Some("raft_leader".into()))),
        );
        let read = |level, revision| KvRead { level, revision };
        let (key, now) = ("a/b".to_owned(), read(ReadLevel::Stale, None));
        check(
            Method::GET,
            "/v1/kv/a/b?consistency=stale",
            Route::KvGet { key, read: now },
        );
        let list = KvList {
            prefix: "a/".into(),
            start_after: Some("a/b".into()),
            limit: MAX_LIST,
            read: read(ReadLevel::Linearizable, Some(3)),
        };
        let target = "/v1/kv?prefix=a/&start_after=a/b&limit=99999&revision=3";
        check(Method::GET, target, Route::KvList(list));
        let (prefix, from_revision) = ("a".to_owned(), Some(7));
        let query = WatchQuery {
            prefix,
            from_revision,
        };
        check(
            Method::GET,
            "/v1/watch?prefix=a&from_revision=7",
            Route::Watch(query),
        );
        let ttl_ms = DEFAULT_SESSION_TTL_MS;
        for (method, target, session) in [
            (Method::POST, "/v1/sessions", SessionRoute::Open { ttl_ms }),
            (Method::POST, "/v1/sessions/9", SessionRoute::Renew(9)),
            (Method::DELETE, "/v1/sessions/9", SessionRoute::Close(9)),
        ] {
            check(method, target, Route::Session(session));
        }
        let write = KvWrite {
            key: "a/b".into(),
            if_revision: Some(7),
            ttl_ms: Some(5_000),
            session: Some((3, 4)),
            timeout_ms: MAX_TIMEOUT_MS,
        };
        let target = "/v1/kv/a%2Fb?if_revision=7&timeout_ms=999999&ttl_ms=5000&session=3&seq=4";
        check(Method::PUT, target, Route::KvPut(write));
    }

    #[test]
    fn what_is_not_served_is_refused_with_its_status() {
        let check = |method, target: &str, status, code: &str| {
            assert_eq!(parse(method, target), Err((status, code.to_owned())), "{target}");
        };
        check(Method::GET, "/", 404, "unknown-path");
        check(Method::GET, "/v1/kv/", 404, "unknown-path");
        check(Method::GET, "/metrics/x", 404, "unknown-path");
        check(Method::PATCH, "/v1/kv/a", 405, "method-not-allowed");
        check(Method::GET, "/v1/join-tokens", 405, "method-not-allowed");
        check(Method::POST, "/v1/status", 405, "method-not-allowed");
        check(Method::POST, "/v1/leader/transfer", 400, "bad-parameter");
        check(Method::POST, "/v1/leader/transfer?to=-1", 400, "bad-parameter");
        check(Method::GET, "/v1/kv/a?consistency=strong", 400, "bad-parameter");
        check(Method::GET, "/v1/status?verbose=1", 400, "bad-parameter");
        check(Method::PUT, "/v1/kv/a?session=3", 400, "bad-parameter");
        check(Method::DELETE, "/v1/kv/a?ttl_ms=5000", 400, "bad-parameter");
        check(Method::POST, "/v1/kv", 405, "method-not-allowed");
        check(Method::GET, "/v1/sessions", 405, "method-not-allowed");
        check(Method::POST, "/v1/sessions/x", 404, "unknown-path");
        check(Method::GET, "/v1/kv/%zz", 400, "bad-encoding");
    }
}
