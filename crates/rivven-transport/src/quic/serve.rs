//! The answering side of one class of one connection: reading requests, running handlers.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::{task::AbortHandle, time::Instant};
use tracing::{debug, error, warn};

use super::{
    alarm::{Alarm, Look},
    dial::priority,
    drive::once_free,
    frame::{Decoder, FrameError, Head, Kind, Part},
    hello::close,
    limits::{MAX_CALL_TIME, READ_CHUNKS, max_frame},
    lock,
    read::StreamError,
    room::{Held, Room},
    shared::Shared,
    write::{Outbox, Outgoing},
};
use crate::{
    Caller, Class, PeerIdentity, Rejection, TaskGroup, TraceContext, identity::Role, metrics::refused,
};

/// The answering side of one class of one connection.
pub(super) struct ServedLane {
    shared: Arc<Shared>,
    peer: PeerIdentity,
    role: Role,
    /// The peer's certificate had expired when it connected.
    expired: bool,
    class: Class,
    handlers: TaskGroup,
    running: Arc<Running>,
    room: Arc<Room>,
}

/// Handlers that did not answer at once.
#[derive(Default)]
struct Running {
    table: Mutex<Table>,
    /// The earliest deadline has changed, or the lane has ended.
    alarm: Alarm,
}

#[derive(Default)]
struct Table {
    handlers: BTreeMap<u64, (Instant, AbortHandle)>,
    /// When the deadlines are looked at next.
    armed: Option<Instant>,
    ended: bool,
}

/// A request whose body is being read.
struct Begun {
    deadline: Instant,
    trace: Option<TraceContext>,
    held: Held,
}

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
            running: Arc::default(),
            room: Arc::default(),
        }
    }

    /// Serves until the stream ends.
    ///
    /// Requests are read where handlers run. What was read at once is handled at once: each handler is polled
    /// where it is, and only one that has to wait gets a task of its own; the answers of the others leave in
    /// one write. Deadlines are kept on the transport's own threads.
    pub(super) async fn run(self, connection: Connection, send: SendStream, recv: RecvStream) {
        // The stream is new, so it cannot be closed.
        let _ = send.set_priority(priority(self.class));
        let outbox = Arc::new(Outbox::new(send));
        let (writer, writing, peer) = (Arc::clone(&outbox), connection.clone(), self.peer.node);
        self.shared.lanes.spawn(async move {
            let Err(error) = writer.run().await else {
                return;
            };
            debug!(%error, "stopped writing answers");
            // Without answers the peer's calls would go on to be made, and each would wait for its deadline.
            if writing.close_reason().is_none() {
                warn!(peer, %error, "closing connection: its peer takes no more answers");
                writing.close(VarInt::from_u32(close::PROTOCOL), b"an answer stream ended");
            }
        });
        let running = Arc::clone(&self.running);
        self.shared
            .tasks
            .spawn(async move { running.keep_deadlines().await });
        let _end = EndOnDrop(&self.running, &outbox);
        match self.read_loop(recv, &outbox).await {
            // No further requests; those that are here are answered as long as the connection stands.
            Ok(()) => drop(connection.closed().await),
            Err(error) if connection.close_reason().is_none() => {
                warn!(peer = self.peer.node, %error, "closing connection: its peer breaks the protocol");
                connection.close(VarInt::from_u32(close::PROTOCOL), b"protocol error");
            }
            Err(_) => {}
        }
    }

    async fn read_loop(&self, mut stream: RecvStream, outbox: &Arc<Outbox>) -> Result<(), StreamError> {
        let mut decoder = Decoder::new(max_frame(self.class));
        let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
        let mut begun = None;
        while let Some(read) = once_free(stream.read_chunks(&mut chunks)).await? {
            let now = Instant::now();
            for chunk in chunks.iter_mut().take(read) {
                decoder.push(std::mem::take(chunk));
                self.requests(&mut decoder, now, &mut begun, outbox).await?;
            }
            // One packet came; one goes, and nobody else is kept waiting for its answers.
            if read == 1 {
                outbox.send();
            } else {
                outbox.flush();
            }
            // A peer that is never done must not keep other tasks from running.
            tokio::task::coop::consume_budget().await;
        }
        if decoder.is_between_frames() {
            Ok(())
        } else {
            Err(FrameError::Unfinished.into())
        }
    }

    /// Takes in what was read, at `now`.
    async fn requests(
        &self,
        decoder: &mut Decoder,
        now: Instant,
        begun: &mut Option<Begun>,
        outbox: &Arc<Outbox>,
    ) -> Result<(), FrameError> {
        while let Some(part) = decoder.next()? {
            match part {
                Part::Head(head) => match head.kind {
                    Kind::Request { deadline_ms, trace } => {
                        let held = self.held(head.len, outbox).await;
                        let remaining = Duration::from_millis(deadline_ms.into()).min(MAX_CALL_TIME);
                        if let Some(rejection) = self.refuse(head.method, head.len) {
                            decoder.skip();
                            refused(self.class.name(), &rejection);
                            let outcome = Ok(Err(rejection));
                            answer(outbox, head, outcome, held);
                            continue;
                        }
                        *begun = Some(Begun {
                            deadline: now + remaining,
                            trace,
                            held,
                        });
                    }
                    Kind::Cancel => {
                        decoder.skip();
                        self.running.cancel(head.call);
                    }
                    Kind::Response | Kind::Rejection | Kind::Lost => return Err(FrameError::Direction),
                },
                Part::Body(head, body) => {
                    if let Some(begun) = begun.take() {
                        self.start(head, body, begun, outbox)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Room for a request of `len` bytes. While there is none nothing more is read, and flow control holds the
    /// peer back.
    async fn held(&self, len: usize, outbox: &Outbox) -> Held {
        let token = self.shared.in_flight.token();
        if let Some(held) = self.room.try_enter(len, token.clone()) {
            return held;
        }
        // The answers that are there may be what takes the room.
        outbox.flush();
        self.room.enter(len, token).await
    }

    /// What speaks against a request before its body is read.
    fn refuse(&self, method: u16, len: usize) -> Option<Rejection> {
        if self.shared.is_closing() {
            return Some(Rejection::new(
                "shutting-down",
                "this node is shutting down; call another one",
            ));
        }
        // The connection of a removed peer is closed by another thread, which a request may be ahead of.
        if self.shared.is_denied(self.peer.node) {
            let text = "the caller has been removed from the cluster; add it again, or stop it";
            return Some(Rejection::new("node-removed", text));
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

    /// Runs the handler of a request as far as it comes without waiting.
    fn start(&self, head: Head, body: Bytes, begun: Begun, outbox: &Arc<Outbox>) -> Result<(), FrameError> {
        if self.running.has(head.call) {
            return Err(FrameError::DuplicateCall);
        }
        let Begun {
            deadline,
            trace,
            held,
        } = begun;
        // It may have waited for room until nobody waited for it any more.
        if deadline <= Instant::now() {
            return Ok(());
        }
        let caller = Caller {
            peer: self.peer.clone(),
            role: Some(self.role),
            deadline,
            trace,
        };
        let handler = self.shared.router.begin(caller, head.method, body);
        let mut handler = AssertUnwindSafe(handler).catch_unwind();
        // A handler that has to wait is polled again by its own task, and registers that one's waker.
        match handler.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => answer(outbox, head, outcome, held),
            Poll::Pending => {
                let (running, outbox) = (Arc::clone(&self.running), Arc::clone(outbox));
                let work = async move {
                    let outcome = handler.await;
                    running.remove(head.call);
                    answer(&outbox, head, outcome, held);
                    outbox.call_writer();
                };
                self.running
                    .insert(head.call, deadline, || self.handlers.spawn(work).abort_handle());
            }
        }
        Ok(())
    }
}

impl Running {
    fn has(&self, call: u64) -> bool {
        lock(&self.table).handlers.contains_key(&call)
    }

    /// Lists the handler that `spawn` begins, which cannot end before it is listed.
    fn insert(&self, call: u64, deadline: Instant, spawn: impl FnOnce() -> AbortHandle) {
        let mut table = lock(&self.table);
        let handler = spawn();
        table.handlers.insert(call, (deadline, handler));
        if table.armed.is_none_or(|armed| deadline < armed) {
            table.armed = Some(deadline);
            self.alarm.ring();
        }
    }

    fn remove(&self, call: u64) -> Option<AbortHandle> {
        let (_, handler) = lock(&self.table).handlers.remove(&call)?;
        Some(handler)
    }

    fn cancel(&self, call: u64) {
        if let Some(handler) = self.remove(call) {
            handler.abort();
        }
    }

    fn end(&self) {
        lock(&self.table).ended = true;
        self.alarm.ring();
    }

    /// Ends handlers at their deadline, when nobody waits for them any more, until the lane has ended.
    async fn keep_deadlines(&self) {
        let look = |now| {
            let mut table = lock(&self.table);
            if table.ended {
                Look::Never
            } else {
                table.expire(now).into()
            }
        };
        self.alarm.keep(look).await;
    }
}

impl Table {
    /// Ends what has had its time, and says when to look again.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.handlers.retain(|_, (deadline, handler)| {
            let keep = *deadline > now;
            if !keep {
                handler.abort();
            }
            keep
        });
        self.armed = self.handlers.values().map(|(deadline, _)| *deadline).min();
        self.armed
    }
}

/// Lets go of the stream and the keeper of deadlines, however the lane ends.
struct EndOnDrop<'a>(&'a Running, &'a Outbox);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
        self.1.close();
    }
}

/// What a handler came to; an error if it panicked.
type Handled = thread::Result<Result<Bytes, Rejection>>;

/// Queues the answer to the request of `head`.
fn answer(outbox: &Outbox, head: Head, handled: Handled, mut held: Held) {
    let (kind, body) = match handled {
        Ok(Ok(response)) => (Kind::Response, response),
        Ok(Err(rejection)) => match rejection.encode() {
            Some(body) => (Kind::Rejection, body),
            None => (Kind::Lost, Bytes::new()),
        },
        Err(_panic) => {
            error!(method = head.method, "handler panicked");
            (Kind::Lost, Bytes::new())
        }
    };
    held.answered(body.len());
    let frame = Outgoing::new(kind, head.method, head.call, body).holding(held);
    // A closed stream means that the connection has ended, and with it the call.
    drop(outbox.push(frame));
}
