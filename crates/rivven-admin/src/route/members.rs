//! Paths about who belongs to the cluster.

use std::time::Duration;

use hyper::Method;
use rivven_cluster::{MemberChange, MemberRole};
use rivven_types::NodeId;

use super::{MAX_TIMEOUT_MS, Route, unknown_path};
use crate::{error::ApiError, query::Query};

/// How long a change is waited for when the request does not say.
const DEFAULT_WAIT_MS: u64 = 30_000;

/// A change of the membership that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberRoute {
    pub(crate) change: MemberChange,
    /// Only what it would bring with it.
    pub(crate) plan: bool,
    /// Why to go on where it costs what it should not.
    pub(crate) force: Option<String>,
    pub(crate) wait: Duration,
}

/// Everything below `/v1/members/`.
pub(super) fn change(method: &Method, rest: &str, query: &mut Query) -> Result<Route, ApiError> {
    let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
    let node: NodeId = id.parse().map_err(|_| unknown_path())?;
    let change = match (action, method) {
        ("", &Method::POST) => MemberChange::Add {
            node,
            role: role(query.take("role").as_deref())?,
        },
        ("", &Method::DELETE) => MemberChange::Remove { node },
        ("", _) => return Err(ApiError::method_not_allowed("POST, DELETE")),
        ("replace" | "promote" | "demote", method) if *method != Method::POST => {
            return Err(ApiError::method_not_allowed("POST"));
        }
        ("replace", _) => MemberChange::Replace { node },
        ("promote", _) => MemberChange::Promote { node },
        ("demote", _) => MemberChange::Demote { node },
        _ => return Err(unknown_path()),
    };
    let plan = match query.take("plan").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(bad("`plan` is neither true nor false", "write ?plan=true")),
    };
    let wait_ms = query.take_number("wait_ms")?.unwrap_or(DEFAULT_WAIT_MS);
    Ok(Route::ChangeMember(MemberRoute {
        change,
        plan,
        force: query.take("force"),
        wait: Duration::from_millis(wait_ms.min(MAX_TIMEOUT_MS)),
    }))
}

fn role(text: Option<&str>) -> Result<Option<MemberRole>, ApiError> {
    let roles = [MemberRole::Auto, MemberRole::Voter, MemberRole::Observer];
    let Some(text) = text else { return Ok(None) };
    let role = roles.into_iter().find(|role| role.as_str() == text);
    role.map(Some).ok_or_else(|| {
        bad(
            "`role` is none of `auto`, `voter` and `observer`",
            "leave it out to go by the node's own configuration",
        )
    })
}

fn bad(message: &str, remedy: &str) -> ApiError {
    ApiError::bad_request("bad-parameter", message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str, query: Option<&str>) -> Result<Route, u16> {
        Route::parse(&method, path, query).map_err(|error| error.into_response().status().as_u16())
    }

    #[test]
    fn each_change_has_its_route() {
        let check = |method, path: &str, query: Option<&str>, expected: MemberRoute| {
            let route = parse(method, path, query).unwrap();
            assert_eq!(
                route.needs_token(),
                !expected.plan,
                "{path}: a plan needs no token"
            );
            assert_eq!(route, Route::ChangeMember(expected), "{path}");
        };
        let plain = |change| MemberRoute {
            change,
            plan: false,
            force: None,
            wait: Duration::from_secs(30),
        };
        let (node, role) = (4, Some(MemberRole::Observer));
        check(
            Method::POST,
            "/v1/members/4",
            None,
            plain(MemberChange::Add { node, role: None }),
        );
        check(
            Method::POST,
            "/v1/members/4",
            Some("role=observer"),
            plain(MemberChange::Add { node, role }),
        );
        let wanted = MemberRoute {
            plan: true,
            force: Some("sold".into()),
            wait: Duration::from_secs(60),
            ..plain(MemberChange::Remove { node })
        };
        let query = Some("plan=true&force=sold&wait_ms=9999999");
        check(Method::DELETE, "/v1/members/4", query, wanted);
        for (action, change) in [
            ("replace", MemberChange::Replace { node }),
            ("promote", MemberChange::Promote { node }),
            ("demote", MemberChange::Demote { node }),
        ] {
            let path = format!("/v1/members/4/{action}");
            check(Method::POST, &path, None, plain(change));
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        for (method, path, query, status) in [
            (Method::GET, "/v1/members/4", None, 405),
            (Method::DELETE, "/v1/members/4/replace", None, 405),
            (Method::POST, "/v1/members/4/fire", None, 404),
            (Method::POST, "/v1/members/four", None, 404),
            (Method::POST, "/v1/members/4", Some("role=leader"), 400),
            (Method::POST, "/v1/members/4/promote", Some("role=voter"), 400),
            (Method::DELETE, "/v1/members/4", Some("plan=maybe"), 400),
            (Method::POST, "/v1/membership", None, 405),
        ] {
            assert_eq!(parse(method, path, query), Err(status), "{path}");
        }
    }
}
