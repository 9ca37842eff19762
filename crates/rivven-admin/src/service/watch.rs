//! Watches over HTTP: server-sent events (WHATWG HTML, section 9.2).

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Response, StatusCode,
    body::Frame,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use rivven_cluster::{Cluster, KeyRange, KvEvent, KvUpdate, KvWatch, KvWatchError, WatchFrom};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::{refuse, view};
use crate::{
    api::{ChangesBody, KeyBody, ListingBody},
    error::{ApiError, Body, ErrorBody},
    route::WatchQuery,
};

/// Watches served at a time, so that connections are left for everything else.
pub const MAX_WATCHES: usize = 64;

/// Pause after which a line without meaning is sent, which tells a dead connection from a quiet one.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Least time between two events of a node's status.
const STATUS_PAUSE: Duration = Duration::from_millis(100);

/// A watch that is served, and its place among them.
struct Served {
    watch: KvWatch,
    _place: OwnedSemaphorePermit,
}

pub(super) fn serve(
    cluster: &Cluster,
    places: &Arc<Semaphore>,
    query: WatchQuery,
) -> Result<Response<Body>, ApiError> {
    let place = place(places)?;
    let from = query
        .from_revision
        .map_or(WatchFrom::Current, WatchFrom::Revision);
    let watch = cluster.kv().watch(KeyRange::prefix(query.prefix), from);
    let served = Served {
        watch: watch.map_err(|error| refuse::read(&error))?,
        _place: place,
    };
    // Nothing is read ahead: the next event is made when the connection has taken the last.
    Ok(events(stream::unfold(Some(served), |served| async {
        Some(next(served?).await)
    })))
}

/// The status of the node as it is, then the latest whenever it has changed.
pub(super) fn serve_status(cluster: &Cluster, places: &Arc<Semaphore>) -> Result<Response<Body>, ApiError> {
    let served = (cluster.watch(), place(places)?, Duration::ZERO);
    Ok(events(stream::unfold(Some(served), |served| async {
        let (mut watch, place, pause) = served?;
        // A busy node's indexes change with every write.
        sleep(pause).await;
        let Ok(status) = tokio::time::timeout(KEEP_ALIVE, watch.next()).await else {
            return Some((":\n\n".into(), Some((watch, place, Duration::ZERO))));
        };
        let text = event("status", None, &view::status(status?));
        Some((text, Some((watch, place, STATUS_PAUSE))))
    })))
}

fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(places).try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-watches",
            format!("this node serves {MAX_WATCHES} watches already"),
            "ask another node, or end a watch",
        )
    })
}

/// A response that is made of texts as they come.
fn events(texts: impl Stream<Item = String> + Send + 'static) -> Response<Body> {
    let frames = texts.map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The next text, and the watch unless it has ended.
async fn next(mut served: Served) -> (String, Option<Served>) {
    let Ok(update) = tokio::time::timeout(KEEP_ALIVE, served.watch.next()).await else {
        return (":\n\n".into(), Some(served));
    };
    match update {
        Ok(KvUpdate::Snapshot {
            revision,
            entries,
            last,
        }) => {
            let body = ListingBody {
                revision,
                entries: entries
                    .iter()
                    .map(|(key, entry)| KeyBody::new(key, entry))
                    .collect(),
                more: !last,
            };
            // Only with the last part does the revision become one to go on from.
            let text = event("snapshot", last.then_some(revision), &body);
            (text, Some(served))
        }
        Ok(KvUpdate::Changes { events }) => (changed(&events), Some(served)),
        // An update of a kind that is not known here has nothing to say to a client either.
        Ok(_) => (":\n\n".into(), Some(served)),
        Err(error) => (event("end", None, &ended(&error)), None),
    }
}

/// One event per revision: what took effect together arrives together.
fn changed(events: &[KvEvent]) -> String {
    ChangesBody::of(events)
        .map(|body| event("changes", Some(body.revision), &body))
        .collect()
}

fn ended(error: &KvWatchError) -> ErrorBody {
    let message = error.to_string();
    let (cause, remedy) = message
        .split_once("; ")
        .unwrap_or((&message, "begin a new watch"));
    ErrorBody {
        code: error.code().to_owned(),
        message: cause.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// JSON has no line breaks of its own, so one data line holds it.
fn event<T: Serialize>(name: &str, id: Option<u64>, body: &T) -> String {
    let id = id.map_or(String::new(), |id| format!("id: {id}\n"));
    // Only a map with keys that are not text fails to serialize, and no body here has one.
    let data = serde_json::to_string(body).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}
