//! Paths about where partitions are.

use hyper::Method;
use rivven_cluster::{RebalanceAction, ZoneRule};
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
    /// Topics, or single partitions of them, that stay as they are.
    pub(crate) pins: Vec<(String, Option<u32>)>,
    /// Whether replicas may share a zone, in place of what the settings say.
    pub(crate) zones: Option<ZoneRule>,
}

/// A replica that was not in sync is to lead, on whose word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UncleanQuery {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) node: NodeId,
    pub(crate) reason: String,
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
    let exclude: Result<Vec<NodeId>, _> = words(&exclude).map(str::parse).collect();
    let pins = query.take("pin").unwrap_or_default();
    let pins: Option<Vec<_>> = words(&pins).map(pin).collect();
    let replace_down = match query.take("replace_down").as_deref() {
        None | Some("false") => Some(false),
        Some("true") => Some(true),
        Some(_) => None,
    };
    let zones = match query.take("zones").as_deref() {
        None => Some(None),
        Some("preferred") => Some(Some(ZoneRule::Preferred)),
        Some("hard") => Some(Some(ZoneRule::Hard)),
        Some(_) => None,
    };
    match (exclude, replace_down, pins, zones) {
        (Ok(exclude), Some(replace_down), Some(pins), Some(zones)) => Ok(PlanQuery {
            exclude,
            replace_down,
            pins,
            zones,
        }),
        _ => Err(ApiError::bad_request(
            "bad-parameter",
            "`exclude` takes numbers of nodes, `replace_down` true or false, `pin` topics or partitions such as \
             orders/3, `zones` preferred or hard",
            "write ?exclude=3,4&replace_down=true&pin=orders,payments/3&zones=hard",
        )),
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|word| !word.is_empty())
}

/// A topic, or a partition of one.
fn pin(word: &str) -> Option<(String, Option<u32>)> {
    match word.split_once('/') {
        None => Some((word.to_owned(), None)),
        Some((topic, partition)) => Some((topic.to_owned(), Some(partition.parse().ok()?))),
    }
}

/// `GET /v1/unclean-elections`, or `POST` to hold one.
pub(super) fn unclean(method: &Method, query: &mut Query) -> Result<Route, ApiError> {
    match *method {
        Method::GET => Ok(Route::UncleanElections),
        Method::POST => {
            let (topic, reason) = (query.take("topic"), query.take("reason"));
            let (partition, node) = (query.take_number("partition")?, query.take_number("node")?);
            match (topic, partition, node, reason) {
                (Some(topic), Some(partition), Some(node), Some(reason)) if !reason.is_empty() => {
                    Ok(Route::ElectUnclean(UncleanQuery {
                        topic,
                        partition,
                        node,
                        reason,
                    }))
                }
                _ => Err(ApiError::bad_request(
                    "bad-parameter",
                    "an unclean election names `topic`, `partition`, `node` and a `reason`, all of them",
                    "write ?topic=orders&partition=3&node=2&reason=why; what node 2 lacks is lost",
                )),
            }
        }
        _ => Err(ApiError::method_not_allowed("GET, POST")),
    }
}

/// `GET /v1/settings`, or `PATCH` to change some.
pub(super) fn settings(method: &Method) -> Result<Route, ApiError> {
    match *method {
        Method::GET => Ok(Route::Settings),
        Method::PATCH => Ok(Route::Configure),
        _ => Err(ApiError::method_not_allowed("GET, PATCH")),
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
            ..PlanQuery::default()
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
    fn pins_settings_and_unclean_elections_have_theirs() {
        let pinned = PlanQuery {
            pins: vec![("orders".into(), None), ("pay.ments".into(), Some(3))],
            zones: Some(ZoneRule::Hard),
            ..PlanQuery::default()
        };
        let lost = "topic=orders&partition=3&node=2&reason=a%20fire";
        let election = UncleanQuery {
            topic: "orders".into(),
            partition: 3,
            node: 2,
            reason: "a fire".into(),
        };
        for (method, path, query, expected) in [
            (
                Method::GET,
                "/v1/rebalance/plan",
                Some("pin=orders,pay.ments/3&zones=hard"),
                Route::RebalancePlan(pinned),
            ),
            (
                Method::POST,
                "/v1/unclean-elections",
                Some(lost),
                Route::ElectUnclean(election),
            ),
            (
                Method::GET,
                "/v1/unclean-elections",
                None,
                Route::UncleanElections,
            ),
            (Method::GET, "/v1/settings", None, Route::Settings),
            (Method::PATCH, "/v1/settings", None, Route::Configure),
            (Method::GET, "/v1/nodes", None, Route::Nodes),
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
            (Method::GET, "/v1/rebalance/plan", Some("pin=orders/x"), 400),
            (Method::GET, "/v1/rebalance/plan", Some("zones=soft"), 400),
            (
                Method::POST,
                "/v1/unclean-elections",
                Some("topic=a&partition=0&node=1"),
                400,
            ),
            (Method::DELETE, "/v1/unclean-elections", None, 405),
            (Method::PUT, "/v1/settings", None, 405),
            (Method::POST, "/v1/nodes", None, 405),
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
