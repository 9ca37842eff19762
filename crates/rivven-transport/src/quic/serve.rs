//! The answering side of one class of one connection: reading requests, running handlers.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, VarInt};
use tokio::{
    io::AsyncReadExt,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tracing::{debug, error, warn};

use super::{
    dial::priority,
    frame::{self, DEADLINE_LEN, FrameError, Kind, Prefix, StreamError},
    hello::close,
    limits::{MAX_CALL_TIME, MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_REJECTION_TEXT, max_frame},
    lock,
    shared::Shared,
    write::{Outgoing, write_loop},
};
use crate::{Caller, Class, PeerIdentity, Rejection, TaskGroup, identity::Role};

/// The answering side of one class of one connection.
pub(super) struct ServedLane {
    shared: Arc<Shared>,
    peer: PeerIdentity,
    role: Role,
    /// The peer's certificate had expired when it connected.
    expired: bool,
    class: Class,
    handlers: TaskGroup,
    running: Running,
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Handlers at work, by call number.
type Running = Arc<Mutex<BTreeMap<u64, AbortHandle>>>;

impl ServedLane {
    pub(super) fn new(
        shared: &Arc<Shared>,
        (peer, role, expired): (&PeerIdentity, Role, bool),
        class: Class,
        handlers: &TaskGroup,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            peer: peer.clone(),
            role,
            expired,
            class,
            handlers: handlers.clone(),
            running: Running::default(),
            calls: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            bytes: Arc::new(Semaphore::new(MAX_IN_FLIGHT_BYTES)),
        }
    }

    pub(super) async fn run(
        self,
        connection: Connection,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        lanes: TaskGroup,
    ) {
        // The stream is new, so it cannot be closed.
        let _ = send.set_priority(priority(self.class));
        let (answers, queued) = mpsc::channel(MAX_IN_FLIGHT);
        lanes.spawn(async move {
            if let Err(error) = write_loop(send, queued).await {
                debug!(%error, "stopped writing answers");
            }
        });
        if let Err(error) = self.read_loop(recv, answers).await
            && connection.close_reason().is_none()
        {
            warn!(peer = self.peer.node, %error, "closing connection: its peer breaks the protocol");
            connection.close(VarInt::from_u32(close::PROTOCOL), b"protocol error");
        }
    }

    async fn read_loop(
        &self,
        mut stream: quinn::RecvStream,
        answers: mpsc::Sender<Outgoing>,
    ) -> Result<(), StreamError> {
        while let Some(prefix) = frame::read_prefix(&mut stream, max_frame(self.class)).await? {
            match prefix.kind {
                Kind::Request => self.request(&mut stream, prefix, &answers).await?,
                Kind::Cancel => {
                    frame::discard(&mut stream, prefix.rest).await?;
                    if let Some(handler) = lock(&self.running).remove(&prefix.call) {
                        handler.abort();
                    }
                }
                Kind::Response | Kind::Rejection | Kind::Lost => return Err(FrameError::Direction.into()),
            }
        }
        Ok(())
    }

    async fn request(
        &self,
        stream: &mut quinn::RecvStream,
        prefix: Prefix,
        answers: &mpsc::Sender<Outgoing>,
    ) -> Result<(), StreamError> {
        let len = prefix
            .rest
            .checked_sub(DEADLINE_LEN)
            .ok_or(FrameError::TooShort)?;
        let remaining = Duration::from_millis(stream.read_u32().await?.into()).min(MAX_CALL_TIME);
        let deadline = Instant::now() + remaining;
        if let Some(rejection) = self.refuse(prefix.method, len) {
            frame::discard(stream, len).await?;
            if let Some(frame) = rejection_frame(prefix, rejection) {
                // A closed queue means that the connection ends, which the next read notices.
                let _ = answers.send(frame).await;
            }
            return Ok(());
        }
        // While the limits are reached nothing more is read, and flow control holds the peer back.
        let permits = self.permits(len).await;
        let body = frame::read_body(stream, len).await?;
        self.start(prefix, body, deadline, answers.clone(), permits)
    }

    /// What speaks against a request before its body is read.
    fn refuse(&self, method: u16, len: usize) -> Option<Rejection> {
        if self.shared.is_closing() {
            return Some(Rejection::new(
                "shutting-down",
                "this node is shutting down; call another one",
            ));
        }
        let Some(spec) = self.shared.router.spec(method) else {
            let text = format!("method {method:#06x} is not served here");
            return Some(Rejection::new("unknown-method", text));
        };
        if spec.class != self.class {
            let text = format!("{} is not of class {:?}", spec.name, self.class);
            return Some(Rejection::new("wrong-class", text));
        }
        if !spec.roles.contains(self.role) {
            let text = format!("{} may not be called by the role {}", spec.name, self.role);
            return Some(Rejection::new("role-not-allowed", text));
        }
        if self.expired && !spec.after_expiry {
            let text = "the caller's certificate has expired; renew it, nothing else is answered until then";
            return Some(Rejection::new("certificate-expired", text));
        }
        (len > spec.max_request).then(|| {
            let text = format!("{}: {len} bytes, the limit is {}", spec.name, spec.max_request);
            Rejection::new("request-too-large", text)
        })
    }

    async fn permits(&self, len: usize) -> Vec<OwnedSemaphorePermit> {
        let len = u32::try_from(len.min(MAX_IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
        let call = Arc::clone(&self.calls).acquire_owned().await;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(len).await;
        // The semaphores are never closed, so both are there.
        call.into_iter().chain(bytes).collect()
    }

    fn start(
        &self,
        prefix: Prefix,
        body: Bytes,
        deadline: Instant,
        answers: mpsc::Sender<Outgoing>,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Result<(), StreamError> {
        let caller = Caller {
            peer: self.peer.clone(),
            role: Some(self.role),
            deadline,
        };
        let in_flight = self.shared.in_flight.token();
        let router = self.shared.router.clone();
        let running = Arc::clone(&self.running);
        let work = async move {
            let handled = AssertUnwindSafe(router.dispatch(caller, prefix.method, body)).catch_unwind();
            let answer = timeout_at(deadline, handled).await;
            lock(&running).remove(&prefix.call);
            let frame = match answer {
                Ok(Ok(Ok(response))) => Outgoing::other(Kind::Response, prefix.method, prefix.call, response),
                Ok(Ok(Err(rejection))) => rejection_frame(prefix, rejection),
                Ok(Err(_panic)) => {
                    error!(method = prefix.method, "handler panicked");
                    Outgoing::other(Kind::Lost, prefix.method, prefix.call, Bytes::new())
                }
                // Nobody waits any more.
                Err(_) => None,
            };
            if let Some(frame) = frame {
                // A closed queue means that the connection has ended, and with it the call.
                let _ = answers.send(frame.holding(permits, in_flight)).await;
            }
        };
        // Held while spawning, so that the handler cannot end before it is listed.
        let mut running = lock(&self.running);
        if running.contains_key(&prefix.call) {
            return Err(FrameError::DuplicateCall.into());
        }
        running.insert(prefix.call, self.handlers.spawn(work).abort_handle());
        Ok(())
    }
}

fn rejection_frame(prefix: Prefix, rejection: Rejection) -> Option<Outgoing> {
    let body = encode_rejection(rejection)?;
    Outgoing::other(Kind::Rejection, prefix.method, prefix.call, body)
}

/// The body of a rejection, its texts cut to what fits.
pub(super) fn encode_rejection(mut rejection: Rejection) -> Option<Bytes> {
    for text in [&mut rejection.code, &mut rejection.message] {
        if text.len() > MAX_REJECTION_TEXT {
            *text = text.chars().take(MAX_REJECTION_TEXT / 4).collect();
        }
    }
    postcard::to_allocvec(&rejection).ok().map(Bytes::from)
}
