//! Which request is which: a pure function from method, path and query.

use hyper::Method;
use rivven_types::NodeId;

use crate::{
    error::ApiError,
    query::{Query, decode_text},
};

/// How long a change is tried when the request does not say.
const DEFAULT_TIMEOUT_MS: u64 = 10_000;
/// Longest time a request may ask for.
const MAX_TIMEOUT_MS: u64 = 60_000;

/// How current a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadLevel {
    /// Sees every write acknowledged before it, on whichever node it was acknowledged.
    Linearizable,
    /// What the asked node has applied.
    Stale,
}

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Status,
    Members,
    Topics,
    Topic { name: String },
    CreateTopic,
    DeleteTopic { name: String },
    Assignments,
    KvGet { key: String, level: ReadLevel },
    KvPut(KvWrite),
    KvDelete(KvWrite),
    TransferLeader { to: NodeId },
    Health(HealthRoute),
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvWrite {
    pub(crate) key: String,
    /// Revision the key must be at; 0 for a key that must not exist.
    pub(crate) if_revision: Option<u64>,
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
    /// Whether the request changes something, and so needs the token.
    pub(crate) const fn is_mutation(&self) -> bool {
        match self {
            Self::Status
            | Self::Members
            | Self::Topics
            | Self::Topic { .. }
            | Self::Assignments
            | Self::KvGet { .. }
            | Self::Health(_) => false,
            Self::CreateTopic
            | Self::DeleteTopic { .. }
            | Self::KvPut(_)
            | Self::KvDelete(_)
            | Self::TransferLeader { .. } => true,
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
        if let Some(name) = path.strip_prefix("/v1/topics/").filter(|rest| !rest.is_empty()) {
            let name = decode_text(name)?;
            return match *method {
                Method::GET => Ok(Self::Topic { name }),
                Method::DELETE => Ok(Self::DeleteTopic { name }),
                _ => Err(ApiError::method_not_allowed("GET, DELETE")),
            };
        }
        match path {
            "/v1/status" => get(method, Self::Status),
            "/v1/members" => get(method, Self::Members),
            "/v1/assignments" => get(method, Self::Assignments),
            "/v1/topics" => match *method {
                Method::GET => Ok(Self::Topics),
                Method::POST => Ok(Self::CreateTopic),
                _ => Err(ApiError::method_not_allowed("GET, POST")),
            },
            "/v1/leader/transfer" => transfer(method, query),
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
                return Err(ApiError::not_found(
                    "unknown-path",
                    "nothing is served at this path",
                    "see docs/operating/admin-api.md for the paths",
                ));
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
            let level = read_level(query.take("consistency").as_deref())?;
            Ok(Route::KvGet { key, level })
        }
        Method::PUT => kv_write(key, query).map(Route::KvPut),
        Method::DELETE => kv_write(key, query).map(Route::KvDelete),
        _ => Err(ApiError::method_not_allowed("GET, PUT, DELETE")),
    }
}

fn kv_write(key: String, query: &mut Query) -> Result<KvWrite, ApiError> {
    let if_revision = query.take_number("if_revision")?;
    let timeout_ms = query.take_number("timeout_ms")?.unwrap_or(DEFAULT_TIMEOUT_MS);
    Ok(KvWrite {
        key,
        if_revision,
        timeout_ms: timeout_ms.min(MAX_TIMEOUT_MS),
    })
}

fn read_level(text: Option<&str>) -> Result<ReadLevel, ApiError> {
    match text {
        None | Some("linearizable") => Ok(ReadLevel::Linearizable),
        Some("stale") => Ok(ReadLevel::Stale),
        Some(_) => Err(ApiError::bad_request(
            "bad-parameter",
            "`consistency` is neither `linearizable` nor `stale`",
            "leave it out to read linearizably",
        )),
    }
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
        check(Method::GET, "/livez", Route::Health(HealthRoute::Livez(None)));
        check(
            Method::GET,
            "/readyz/raft_leader",
            Route::Health(HealthRoute::Readyz(Some("raft_leader".into()))),
        );
        let (key, level) = ("a/b".to_owned(), ReadLevel::Stale);
        check(
            Method::GET,
            "/v1/kv/a/b?consistency=stale",
            Route::KvGet { key, level },
        );
        let write = KvWrite {
            key: "a/b".into(),
            if_revision: Some(7),
            timeout_ms: MAX_TIMEOUT_MS,
        };
        let target = "/v1/kv/a%2Fb?if_revision=7&timeout_ms=999999";
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
        check(Method::POST, "/v1/status", 405, "method-not-allowed");
        check(Method::POST, "/v1/leader/transfer", 400, "bad-parameter");
        check(Method::POST, "/v1/leader/transfer?to=-1", 400, "bad-parameter");
        check(Method::GET, "/v1/kv/a?consistency=strong", 400, "bad-parameter");
        check(Method::GET, "/v1/status?verbose=1", 400, "bad-parameter");
        check(Method::GET, "/v1/kv/%zz", 400, "bad-encoding");
    }
}
