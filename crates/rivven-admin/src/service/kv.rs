//! The key-value map over HTTP.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{ETAG, HeaderName, HeaderValue},
};
use rivven_cluster::{Cluster, Consistency, KeyRange, Kv, LeaseId, Lifetime, SessionId, Swap};

use super::{changed, refuse};
use crate::{
    api::{APPLIED_INDEX_HEADER, ChangedBody, KeyBody, ListingBody, REVISION_HEADER},
    error::{ApiError, Body, json, plain},
    route::{KvList, KvRead, KvWrite, ReadLevel},
};

/// Media type of a value: the cluster does not know what it is.
const VALUE: &str = "application/octet-stream";

/// Most bytes of keys and values in one listing, if it has more than one key.
const MAX_LIST_BYTES: usize = 4 << 20;

pub(super) async fn get(cluster: &Cluster, key: String, read: KvRead) -> Result<Response<Body>, ApiError> {
    let (entry, applied) = match read.revision {
        None => {
            let found = cluster.kv().get_at(&key, consistency(read.level)).await;
            let found = found.map_err(|error| refuse::read(&error))?;
            (found.value, found.applied_index)
        }
        Some(_) => {
            let range = KeyRange::key(key);
            let listing = cluster
                .kv()
                .range(&range, read.revision, 1, consistency(read.level))
                .await;
            let entries = listing.map_err(|error| refuse::read(&error))?.entries;
            (entries.into_iter().next().map(|(_, entry)| entry), None)
        }
    };
    let Some(entry) = entry else {
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
    if read.revision.is_none() {
        let applied = HeaderValue::from(applied.unwrap_or(0));
        headers.insert(HeaderName::from_static(APPLIED_INDEX_HEADER), applied);
    }
    Ok(response)
}

/// Keys of a prefix, as many as were asked for and fit an answer.
pub(super) async fn list(cluster: &Cluster, list: KvList) -> Result<Response<Body>, ApiError> {
    let range = match list.start_after {
        Some(key) => after(&list.prefix, key),
        None => KeyRange::prefix(list.prefix),
    };
    let limit = list.limit;
    let listing = cluster
        .kv()
        .range(&range, list.read.revision, limit, consistency(list.read.level))
        .await;
    let listing = listing.map_err(|error| refuse::read(&error))?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let mut more = listing.more;
    for (key, entry) in &listing.entries {
        bytes += key.len() + entry.value.len();
        more |= bytes > MAX_LIST_BYTES && !entries.is_empty();
        if bytes > MAX_LIST_BYTES && !entries.is_empty() {
            break;
        }
        entries.push(KeyBody::new(key, entry));
    }
    let revision = listing.revision;
    let body = ListingBody {
        revision,
        entries,
        more,
    };
    Ok(json(StatusCode::OK, &body))
}

/// Keys of a prefix behind one of them.
fn after(prefix: &str, key: String) -> KeyRange {
    let whole = KeyRange::prefix(prefix);
    // The first text behind a key is the same with a zero character.
    let start = prefix.to_owned().max(key + "\0");
    match whole.end() {
        Some(end) => KeyRange::from_to(start, end),
        None => KeyRange::starting_at(start),
    }
}

const fn consistency(level: ReadLevel) -> Consistency {
    match level {
        ReadLevel::Linearizable => Consistency::Linearizable,
        ReadLevel::Lease => Consistency::Lease,
        ReadLevel::Stale => Consistency::Stale,
    }
}

pub(super) async fn put(cluster: &Cluster, write: KvWrite, value: Bytes) -> Result<Response<Body>, ApiError> {
    let kv = map(cluster, &write);
    let lifetime = write.ttl_ms.map_or(Lifetime::Unlimited, Lifetime::Ttl);
    match write.if_revision {
        None => {
            let written = kv.put_for(write.key, value, lifetime).await;
            let written = written.map_err(|error| refuse::write(&error))?;
            Ok(leased(written.revision, written.lease))
        }
        Some(expected) => {
            let expected = existing(expected);
            let swap = kv.swap_for(write.key, expected, Some(value), lifetime).await;
            swapped(swap.map_err(|error| refuse::write(&error))?)
        }
    }
}

pub(super) async fn delete(cluster: &Cluster, write: KvWrite) -> Result<Response<Body>, ApiError> {
    let kv = map(cluster, &write);
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

/// The map as this write asks for it.
fn map(cluster: &Cluster, write: &KvWrite) -> Kv {
    let kv = cluster.kv().with_timeout(Duration::from_millis(write.timeout_ms));
    match write.session {
        Some((session, seq)) => kv.with_id(SessionId(session), seq),
        None => kv,
    }
}

fn leased(revision: u64, lease: Option<LeaseId>) -> Response<Body> {
    let lease = lease.map(|lease| lease.0);
    json(StatusCode::OK, &ChangedBody { revision, lease })
}

/// Revision 0 stands for a key that does not exist: the first change has revision 1.
fn existing(expected: u64) -> Option<u64> {
    Some(expected).filter(|expected| *expected > 0)
}

fn swapped(swap: Swap) -> Result<Response<Body>, ApiError> {
    let current = match swap {
        Swap::Done { revision, lease } => return Ok(leased(revision, lease)),
        Swap::Conflict { current } => current.unwrap_or(0),
    };
    Err(ApiError::new(
        StatusCode::PRECONDITION_FAILED,
        "revision-mismatch",
        format!("the key is at revision {current}, and nothing was changed"),
        "read the key again and decide anew",
    ))
}
