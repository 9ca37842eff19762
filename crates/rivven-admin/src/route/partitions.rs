//! Paths about where partitions are.

use hyper::Method;
use rivven_cluster::RebalanceAction;
use rivven_types::NodeId;

use super::{Route, unknown_path};
use crate::{error::ApiError, query::Query};

/// What a rebalance is to reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanQuery {
    /// Nodes to be emptied.
    pub(crate) exclude: Vec<NodeId>,
    /// Whether nodes that are down are to be emptied too.
    pub(crate) replace_down: bool,
}

/// Everything below `/v1/rebalance`.
pub(super) fn rebalance(method: &Method, rest: &str, query: &mut Query) -> Result<Route, ApiError> {
    match (rest, method) {
        ("", &Method::GET) => Ok(Route::Rebalance),
        ("", &Method::POST) => Ok(Route::StartRebalance(plan_query(query)?)),
        ("", _) => Err(ApiError::method_not_allowed("GET, POST")),
        ("/plan", &Method::GET) => Ok(Route::RebalancePlan(plan_query(query)?)),
        ("/plan", _) => Err(ApiError::method_not_allowed("GET")),
        _ => {
            let words = rest.strip_prefix('/').and_then(|rest| rest.split_once('/'));
            let action = match words.map(|(_, action)| action) {
                Some("pause") => RebalanceAction::Pause,
                Some("resume") => RebalanceAction::Resume,
                Some("cancel") => RebalanceAction::Cancel,
                _ => return Err(unknown_path()),
            };
            let id = words.and_then(|(id, _)| id.parse().ok());
            let id = id.ok_or_else(unknown_path)?;
            if *method != Method::POST {
                return Err(ApiError::method_not_allowed("POST"));
            }
            Ok(Route::ControlRebalance { id, action })
        }
    }
}

fn plan_query(query: &mut Query) -> Result<PlanQuery, ApiError> {
    let exclude = query.take("exclude").unwrap_or_default();
    let nodes = exclude.split(',').filter(|node| !node.is_empty()).map(str::parse);
    let exclude: Result<Vec<NodeId>, _> = nodes.collect();
    let replace_down = query.take("replace_down");
    match (exclude, replace_down.as_deref()) {
        (Ok(exclude), None | Some("true" | "false")) => Ok(PlanQuery {
            exclude,
            replace_down: replace_down.as_deref() == Some("true"),
        }),
        _ => Err(ApiError::bad_request(
            "bad-parameter",
            "`exclude` takes numbers of nodes and `replace_down` true or false",
            "write ?exclude=3,4&replace_down=true",
        )),
    }
}

/// `PUT /v1/nodes/{id}/weight?percent=N`, or `DELETE` to take the registered one again.
pub(super) fn weight(method: &Method, rest: &str, query: &mut Query) -> Result<Route, ApiError> {
    let node = rest.strip_suffix("/weight").and_then(|id| id.parse().ok());
    let node = node.ok_or_else(unknown_path)?;
    match *method {
        Method::PUT => match query.take_number("percent")? {
            Some(percent) => Ok(Route::SetWeight {
                node,
                weight: Some(percent),
            }),
            None => Err(ApiError::bad_request(
                "bad-parameter",
                "`percent` is missing",
                "give the weight in percent of a normal node: ?percent=100",
            )),
        },
        Method::DELETE => Ok(Route::SetWeight { node, weight: None }),
        _ => Err(ApiError::method_not_allowed("PUT, DELETE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str, query: Option<&str>) -> Result<Route, u16> {
        Route::parse(&method, path, query).map_err(|error| error.into_response().status().as_u16())
    }

    #[test]
    fn rebalances_and_weights_have_their_routes() {
        let plan = |exclude: &[NodeId], replace_down| PlanQuery {
            exclude: exclude.to_vec(),
            replace_down,
        };
        let query = Some("exclude=3,4&replace_down=true");
        for (method, path, query, expected) in [
            (Method::GET, "/v1/rebalance", None, Route::Rebalance),
            (
                Method::GET,
                "/v1/rebalance/plan",
                None,
                Route::RebalancePlan(plan(&[], false)),
            ),
            (
                Method::POST,
                "/v1/rebalance",
                query,
                Route::StartRebalance(plan(&[3, 4], true)),
            ),
            (
                Method::POST,
                "/v1/rebalance/7/cancel",
                None,
                Route::ControlRebalance {
                    id: 7,
                    action: RebalanceAction::Cancel,
                },
            ),
            (
                Method::PUT,
                "/v1/nodes/3/weight",
                Some("percent=50"),
                Route::SetWeight {
                    node: 3,
                    weight: Some(50),
                },
            ),
            (
                Method::DELETE,
                "/v1/nodes/3/weight",
                None,
                Route::SetWeight {
                    node: 3,
                    weight: None,
                },
            ),
        ] {
            assert_eq!(parse(method, path, query), Ok(expected), "{path}");
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        for (method, path, query, status) in [
            (Method::DELETE, "/v1/rebalance", None, 405),
            (Method::POST, "/v1/rebalance/plan", None, 405),
            (Method::GET, "/v1/rebalance/7/cancel", None, 405),
            (Method::POST, "/v1/rebalance/7/stop", None, 404),
            (Method::POST, "/v1/rebalance/x/pause", None, 404),
            (Method::POST, "/v1/rebalancer", None, 404),
            (Method::GET, "/v1/rebalance/plan", Some("exclude=three"), 400),
            (Method::GET, "/v1/rebalance/plan", Some("replace_down=yes"), 400),
            (Method::PUT, "/v1/nodes/3/weight", None, 400),
            (Method::PUT, "/v1/nodes/3/weight", Some("percent=70000"), 400),
            (Method::GET, "/v1/nodes/3/weight", None, 405),
            (Method::PUT, "/v1/nodes/three/weight", None, 404),
            (Method::PUT, "/v1/nodes/3", None, 404),
        ] {
            assert_eq!(parse(method, path, query), Err(status), "{path}");
        }
    }
}
