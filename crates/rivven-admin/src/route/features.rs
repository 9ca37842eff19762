//! Feature levels, as requests.

use hyper::Method;

use super::{Route, get, unknown_path};
use crate::{
    error::ApiError,
    query::{Query, decode_text},
};

/// A feature level that is to be finalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeatureRoute {
    pub(crate) feature: String,
    pub(crate) level: u32,
}

/// What follows `/v1/features` in a path.
pub(super) fn parse(method: &Method, rest: &str, query: &mut Query) -> Result<Route, ApiError> {
    if rest.is_empty() {
        return get(method, Route::Features);
    }
    let feature = rest.strip_prefix('/').filter(|feature| !feature.is_empty());
    let feature = decode_text(feature.ok_or_else(unknown_path)?)?;
    if *method != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let level = query.take_number("level")?.ok_or_else(|| {
        ApiError::bad_request(
            "bad-parameter",
            "`level` is missing",
            "name the level that the cluster is to use: ?level=2",
        )
    })?;
    Ok(Route::FinalizeFeature(FeatureRoute { feature, level }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: &Method, target: &str) -> Result<Route, (u16, String)> {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(p, q)| (p, Some(q)));
        Route::parse(method, path, query).map_err(|error| (error.status.as_u16(), error.body.code))
    }

    #[test]
    fn features_are_listed_and_finalised_by_name_and_level() {
        assert_eq!(parsed(&Method::GET, "/v1/features"), Ok(Route::Features));
        let feature = "a b".to_owned();
        let route = Route::FinalizeFeature(FeatureRoute { feature, level: 3 });
        assert!(route.needs_token() && !Route::Features.needs_token());
        assert_eq!(parsed(&Method::POST, "/v1/features/a%20b?level=3"), Ok(route));
        let refused = |status, code: &str| Err((status, code.to_owned()));
        for (method, target, expected) in [
            (Method::POST, "/v1/features/rivven", refused(400, "bad-parameter")),
            (
                Method::POST,
                "/v1/features/rivven?level=-1",
                refused(400, "bad-parameter"),
            ),
            (
                Method::GET,
                "/v1/features/rivven",
                refused(405, "method-not-allowed"),
            ),
            (Method::POST, "/v1/features", refused(405, "method-not-allowed")),
            (Method::GET, "/v1/features/", refused(404, "unknown-path")),
            (Method::GET, "/v1/featuresque", refused(404, "unknown-path")),
        ] {
            assert_eq!(parsed(&method, target), expected, "{target}");
        }
    }
}
