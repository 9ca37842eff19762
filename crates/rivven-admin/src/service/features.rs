//! Feature levels over HTTP.

use hyper::{Response, StatusCode};
use rivven_cluster::{Cluster, FeatureError, FinalizeError, Outcome};

use super::refuse;
use crate::{
    api::{FeatureBody, FeaturesBody, FinalizedBody, MemberLevelBody},
    error::{ApiError, Body, json},
    route::FeatureRoute,
};

pub(super) async fn list(cluster: &Cluster) -> Result<Response<Body>, ApiError> {
    let view = cluster.features().await.map_err(|error| refused(&error))?;
    let feature = |(feature, levels): (String, rivven_cluster::FeatureLevels)| FeatureBody {
        feature,
        finalized: levels.finalized,
        common: levels.common(),
        members: levels
            .supported
            .into_iter()
            .map(|(node_id, level)| MemberLevelBody { node_id, level })
            .collect(),
    };
    let body = FeaturesBody {
        features: view.features.into_iter().map(feature).collect(),
        silent: view.silent.into_iter().collect(),
    };
    Ok(json(StatusCode::OK, &body))
}

pub(super) async fn finalize(cluster: &Cluster, asked: FeatureRoute) -> Result<Response<Body>, ApiError> {
    let finalized = cluster.finalize_feature(&asked.feature, asked.level).await;
    let level = finalized.map_err(|error| refused(&error))?;
    Ok(json(StatusCode::OK, &FinalizedBody { level }))
}

/// To finalise a level again is harmless, whatever became of it before.
fn refused(error: &FeatureError) -> ApiError {
    let status = match error {
        FeatureError::Finalize(FinalizeError::Unsupported { .. }) => StatusCode::CONFLICT,
        FeatureError::Finalize(FinalizeError::Propose(error)) if error.outcome() == Outcome::Unknown => {
            StatusCode::GATEWAY_TIMEOUT
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse::answer(
        status,
        error.code(),
        &error.to_string(),
        "look at /v1/features and repeat",
    )
}
