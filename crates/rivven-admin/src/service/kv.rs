//! The key-value map over HTTP.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{ETAG, HeaderName, HeaderValue},
};
use rivven_cluster::{Cluster, Consistency, Swap};

use super::{changed, refuse};
use crate::{
    api::{APPLIED_INDEX_HEADER, REVISION_HEADER},
    error::{ApiError, Body, plain},
    route::{KvWrite, ReadLevel},
};

/// Media type of a value: the cluster does not know what it is.
const VALUE: &str = "application/octet-stream";

pub(super) async fn get(cluster: &Cluster, key: &str, level: ReadLevel) -> Result<Response<Body>, ApiError> {
    let consistency = match level {
        ReadLevel::Linearizable => Consistency::Linearizable,
        ReadLevel::Stale => Consistency::Stale,
    };
    let read = cluster
        .kv()
        .get_at(key, consistency)
        .await
        .map_err(|error| refuse::read(&error))?;
    let Some(entry) = read.value else {
        return Err(ApiError::not_found(
            "key-not-found",
            "there is no such key",
            "write it first, or check its spelling and percent-encoding",
        ));
    };
    let mut response = plain(StatusCode::OK, VALUE, entry.value);
    let headers = response.headers_mut();
    let revision = entry.mod_revision;
    // A number between quotes is always a valid header value.
    if let Ok(etag) = HeaderValue::try_from(format!("\"{revision}\"")) {
        headers.insert(ETAG, etag);
    }
    headers.insert(
        HeaderName::from_static(REVISION_HEADER),
        HeaderValue::from(revision),
    );
    let applied = HeaderValue::from(read.applied_index.unwrap_or(0));
    headers.insert(HeaderName::from_static(APPLIED_INDEX_HEADER), applied);
    Ok(response)
}

pub(super) async fn put(cluster: &Cluster, write: KvWrite, value: Bytes) -> Result<Response<Body>, ApiError> {
    let kv = cluster.kv().with_timeout(timeout(&write));
    match write.if_revision {
        None => changed(
            kv.put(write.key, value)
                .await
                .map_err(|error| refuse::write(&error))?,
        ),
        Some(expected) => {
            let swap = kv.swap(write.key, existing(expected), Some(value)).await;
            swapped(swap.map_err(|error| refuse::write(&error))?)
        }
    }
}

pub(super) async fn delete(cluster: &Cluster, write: KvWrite) -> Result<Response<Body>, ApiError> {
    let kv = cluster.kv().with_timeout(timeout(&write));
    match write.if_revision {
        None => changed(
            kv.delete(write.key)
                .await
                .map_err(|error| refuse::write(&error))?,
        ),
        Some(expected) => {
            let swap = kv.swap(write.key, existing(expected), None).await;
            swapped(swap.map_err(|error| refuse::write(&error))?)
        }
    }
}

/// Revision 0 stands for a key that does not exist: the first change has revision 1.
fn existing(expected: u64) -> Option<u64> {
    Some(expected).filter(|expected| *expected > 0)
}

fn swapped(swap: Swap) -> Result<Response<Body>, ApiError> {
    let current = match swap {
        Swap::Done { revision } => return changed(revision),
        Swap::Conflict { current } => current.unwrap_or(0),
    };
    Err(ApiError::new(
        StatusCode::PRECONDITION_FAILED,
        "revision-mismatch",
        format!("the key is at revision {current}, and nothing was changed"),
        "read the key again and decide anew",
    ))
}

fn timeout(write: &KvWrite) -> Duration {
    Duration::from_millis(write.timeout_ms)
}
