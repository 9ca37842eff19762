//! Backups over HTTP: the bytes of a snapshot file as they are read.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Response, StatusCode,
    body::Frame,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use rivven_cluster::{BackupError, Cluster, offline::Backup};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::SendError},
    },
    task::JoinSet,
    time::timeout,
};

use super::refuse;
use crate::{
    api::{RefoundingBody, RefoundingsBody, SNAPSHOT_CHECKSUM_HEADER, SNAPSHOT_INDEX_HEADER},
    error::{ApiError, Body, json},
};

/// Backups served at a time. Each keeps a snapshot file on the disk while it is read.
pub const MAX_BACKUPS: usize = 2;

/// How long the snapshot may take to be written.
const SNAPSHOT_TIME: Duration = Duration::from_secs(600);

/// How long a client may take to make room for the next piece, before it is given up with the room on the disk and the
/// place that it holds.
const STALL_TIME: Duration = Duration::from_secs(60);

/// Bytes of a piece are 1 MiB; so many pieces of a backup are in memory before the connection takes them.
const PIECES_AHEAD: usize = 2;

/// Answers with a backup as its body. A body that breaks off is shorter than its announced length.
pub(super) async fn serve(cluster: &Cluster, places: &Arc<Semaphore>) -> Result<Response<Body>, ApiError> {
    let place = Arc::clone(places).try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-backups",
            format!("this node serves {MAX_BACKUPS} backups already"),
            "wait until one is done, or ask another node",
        )
    })?;
    let backup = cluster.backup(SNAPSHOT_TIME).await;
    let backup = backup.map_err(|error| not_backed_up(&error))?;
    let headers = [
        (CONTENT_LENGTH.as_str(), backup.total_bytes().to_string()),
        (SNAPSHOT_INDEX_HEADER, backup.last_index().to_string()),
        (SNAPSHOT_CHECKSUM_HEADER, format!("{:08x}", backup.checksum())),
    ];
    let (pieces, ahead) = mpsc::channel(PIECES_AHEAD);
    // Goes with the body: a connection that ends takes the reader along.
    let mut reader = JoinSet::new();
    reader.spawn(feed(backup, pieces, place));
    let frames = stream::unfold((ahead, reader), |(mut ahead, reader)| async {
        let piece = ahead.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), (ahead, reader)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    for (name, value) in headers {
        // Numbers alone, which every header takes.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    let fixed = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// What a body is fed from.
trait Source: Send {
    /// The next piece; `None` behind the last.
    fn next(&mut self) -> impl Future<Output = io::Result<Option<Bytes>>> + Send;
}

impl Source for Backup {
    fn next(&mut self) -> impl Future<Output = io::Result<Option<Bytes>>> + Send {
        Self::next(self)
    }
}

/// Reads ahead of the connection until it has taken all, the client is gone, or it takes nothing.
///
/// The place is held as long: what was read ahead for a client is in memory until it takes it.
async fn feed(mut source: impl Source, pieces: mpsc::Sender<Bytes>, place: OwnedSemaphorePermit) {
    // Room comes first: a piece that was read and has none would be one more in memory.
    while let Some(room) = in_time(pieces.reserve()).await {
        match source.next().await {
            Ok(Some(piece)) => room.send(piece),
            Ok(None) => {
                drop(room);
                let _all_taken = in_time(pieces.reserve_many(PIECES_AHEAD)).await;
                break;
            }
            Err(error) => {
                tracing::error!(%error, "a backup broke off");
                break;
            }
        }
    }
    // Whoever sees the end of the body finds the place free.
    drop(place);
}

/// What a connection makes room for; `None` once it makes none.
async fn in_time<T>(room: impl Future<Output = Result<T, SendError<()>>>) -> Option<T> {
    let Ok(room) = timeout(STALL_TIME, room).await else {
        tracing::warn!(waited = ?STALL_TIME, "a backup was given up: its reader takes nothing");
        return None;
    };
    // Without a receiver the client is gone.
    room.ok()
}

fn not_backed_up(error: &BackupError) -> ApiError {
    refuse::answer(
        StatusCode::SERVICE_UNAVAILABLE,
        error.code(),
        &error.to_string(),
        "wait until /readyz passes and repeat, or ask another node",
    )
}

/// When and why the cluster began anew.
pub(super) async fn refoundings(cluster: &Cluster) -> Response<Body> {
    let refoundings = cluster.refoundings().await.into_iter();
    let body = RefoundingsBody {
        refoundings: refoundings.map(|done| RefoundingBody::of(&done)).collect(),
    };
    json(StatusCode::OK, &body)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::{Instant, sleep};

    use super::*;

    /// A backup of so many pieces, which counts those that were read.
    struct Pieces {
        left: usize,
        read: Arc<AtomicUsize>,
    }

    impl Source for Pieces {
        async fn next(&mut self) -> io::Result<Option<Bytes>> {
            let Some(left) = self.left.checked_sub(1) else {
                return Ok(None);
            };
            self.left = left;
            self.read.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Bytes::from_static(b"piece")))
        }
    }

    /// A backup that is fed, and what can be seen of it.
    struct Fed {
        places: Arc<Semaphore>,
        read: Arc<AtomicUsize>,
        ahead: mpsc::Receiver<Bytes>,
        _feeding: JoinSet<()>,
    }

    impl Fed {
        fn start(pieces: usize) -> Self {
            let places = Arc::new(Semaphore::new(1));
            let place = Arc::clone(&places).try_acquire_owned().unwrap();
            let read = Arc::new(AtomicUsize::new(0));
            let source = Pieces {
                left: pieces,
                read: Arc::clone(&read),
            };
            let (sender, ahead) = mpsc::channel(PIECES_AHEAD);
            let mut feeding = JoinSet::new();
            feeding.spawn(feed(source, sender, place));
            Self {
                places,
                read,
                ahead,
                _feeding: feeding,
            }
        }

        fn is_free(&self) -> bool {
            self.places.available_permits() == 1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_costs_two_pieces_and_its_place_for_a_minute() {
        // Also a short backup keeps its place, since it is in memory as a whole.
        for pieces in [1, PIECES_AHEAD, 1_000] {
            let fed = Fed::start(pieces);
            sleep(STALL_TIME - Duration::from_secs(1)).await;
            assert_eq!(fed.read.load(Ordering::Relaxed), pieces.min(PIECES_AHEAD));
            assert!(!fed.is_free(), "it has its time");
            sleep(Duration::from_secs(2)).await;
            assert!(fed.is_free());
            assert_eq!(fed.read.load(Ordering::Relaxed), pieces.min(PIECES_AHEAD));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_every_piece_and_frees_its_place_with_the_last() {
        let mut fed = Fed::start(5);
        let begun = Instant::now();
        let mut taken = 0;
        loop {
            sleep(STALL_TIME - Duration::from_secs(1)).await;
            let Some(_piece) = fed.ahead.recv().await else {
                break;
            };
            taken += 1;
            let read = fed.read.load(Ordering::Relaxed);
            assert!(read <= taken + PIECES_AHEAD, "{read} read with {taken} taken");
        }
        assert_eq!(taken, 5);
        assert!(fed.is_free() && begun.elapsed() > 4 * STALL_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_goes_away_frees_its_place_at_once() {
        let mut fed = Fed::start(1_000);
        let _first = fed.ahead.recv().await.unwrap();
        assert!(!fed.is_free());
        fed.ahead.close();
        while fed.ahead.recv().await.is_some() {}
        sleep(Duration::from_millis(1)).await;
        assert!(fed.is_free());
    }
}
