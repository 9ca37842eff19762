//! Accepting connections, within limits.

mod stream;

use std::{
    collections::VecDeque, convert::Infallible, future::Future, net::SocketAddr, pin::pin, sync::Arc,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
};

use self::stream::Impatient;
use crate::error::Body;

/// Connections served at a time. Further ones of the admin API wait in the kernel's accept queue; further ones of
/// the health endpoints, which anyone may reach, take the place of the oldest.
pub const MAX_CONNECTIONS: usize = 256;
/// Longest wait for the headers of a request to the admin API, idle time on a kept connection included.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for the health endpoints.
pub const HEALTH_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the body of a request.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait until a client takes more of an answer; then its connection is cut, and with it ends whatever is kept
/// for the answer.
///
/// A kernel says that there is room only once a good part of its buffer is free, a megabyte or so: a client that takes
/// less than that in this time may be cut too.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of request line and headers.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Most header lines of a request.
pub const MAX_HEADERS: usize = 64;
/// Longest wait for requests under way when the server stops.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause after a failed `accept`, which mostly means that the process is out of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address can be reached from other machines and nobody asked for that by name.
    ///
    /// Nothing was opened. Bind to loopback, or set `admin.insecure: true`.
    #[error(
        "the admin address {0} is reachable from other machines, and the admin API has no TLS; \
         use 127.0.0.1, or accept the risk with `admin.insecure: true`"
    )]
    NotLoopback(SocketAddr),
    /// Another process listens there.
    ///
    /// Nothing was opened. Stop the other process or choose another port.
    #[error("the address {0} is in use; stop the other process or choose another port")]
    InUse(SocketAddr),
    /// The operating system refused for another reason.
    ///
    /// Nothing was opened. The source names the reason.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
}

impl BindError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotLoopback(_) => "admin-not-loopback",
            Self::InUse(_) => "port-in-use",
            Self::Io { .. } => "bind-failed",
        }
    }
}

/// Opens the listener of the admin API.
///
/// # Errors
/// When `address` is not loopback and `insecure` is not set, or when it cannot be bound.
pub async fn bind_admin(address: SocketAddr, insecure: bool) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() && !insecure {
        return Err(BindError::NotLoopback(address));
    }
    bind_health(address).await
}

/// Opens the listener of the health endpoints, which may be reached by anyone.
///
/// # Errors
/// When `address` cannot be bound.
pub async fn bind_health(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => BindError::InUse(address),
            _ => BindError::Io { address, source },
        })
}

/// How patient a server is with those who connect and ask nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Longest wait for the headers of a request.
    pub(crate) headers: Duration,
    /// With all places taken, the next connection takes that of the oldest one, which is cut.
    ///
    /// For answers that take no time: whoever is cut either asks nothing or reads nothing.
    pub(crate) replaces_oldest: bool,
}

/// Serves `service` on `listener` until `stop` resolves; then answers what was asked and returns.
///
/// Dropping the future cuts every connection at once.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    service: S,
    patience: Patience,
    stop: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    // The oldest first, and some that have ended.
    let mut served: VecDeque<AbortHandle> = VecDeque::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed, so a permit always comes.
            if !patience.replaces_oldest {
                let slot = Arc::clone(&slots).acquire_owned().await;
                return (slot, listener.accept().await);
            }
            let accepted = listener.accept().await;
            if slots.available_permits() == 0 {
                served.retain(|connection| !connection.is_finished());
                if let Some(oldest) = served.pop_front() {
                    oldest.abort();
                }
            }
            (Arc::clone(&slots).acquire_owned().await, accepted)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        if served.len() > 2 * MAX_CONNECTIONS {
            served.retain(|connection| !connection.is_finished());
        }
        match accepted {
            Ok((stream, remote)) => {
                // Answers are small and complete: waiting to coalesce them only adds delay.
                let _ = stream.set_nodelay(true);
                let peer = (stream, remote);
                let connection = connection(peer, service.clone(), patience.headers, stopped.clone());
                let served_by = connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
                if patience.replaces_oldest {
                    served.push_back(served_by);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, drained).await.is_err() {
        tracing::warn!("connections were cut because their requests did not end in time");
    }
}

async fn connection<T, S>(
    (stream, remote): (T, SocketAddr),
    service: S,
    headers: Duration,
    mut stopped: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Impatient::new(stream)), service);
    let mut connection = pin!(connection);
    let stopped = async {
        // An error means that the server is gone, which is a reason to stop too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%remote, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
