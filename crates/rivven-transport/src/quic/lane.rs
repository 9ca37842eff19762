//! The calling side of one class: one stream, many calls at a time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use rivven_types::NodeId;
use tokio::{
    io::AsyncRead,
    sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    frame::{self, FrameError, Kind, StreamError},
    limits::{MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_REJECTION, MAX_WAITING, max_frame},
    lock,
    write::Outgoing,
};
use crate::{CallError, Class, MethodSpec, Rejection};

/// Frames a lane queues for its writer: every call in flight, and as many cancellations.
pub(super) const QUEUE: usize = 2 * MAX_IN_FLIGHT;

/// The calling side of a connection.
pub(super) type Lanes = Vec<(Class, Arc<Lane>)>;

/// Calls to one peer in one class, over one connection.
pub(super) struct Lane {
    class: Class,
    node: NodeId,
    queue: mpsc::Sender<Outgoing>,
    pending: Mutex<Pending>,
    next: AtomicU64,
    calls: Semaphore,
    bytes: Semaphore,
    waiting: AtomicUsize,
    /// Takes no further call. Written under the lock of `pending`.
    retired: AtomicBool,
    /// Calls begun and not ended.
    active: AtomicUsize,
    /// A retired lane has ended its last call.
    emptied: Notify,
}

enum Pending {
    Open(BTreeMap<u64, Waiter>),
    Closed(String),
}

struct Waiter {
    max_response: usize,
    answer: oneshot::Sender<Answer>,
}

enum Answer {
    Response(Bytes),
    Rejected(Rejection),
    Lost,
}

/// Why a lane gave no response.
pub(super) enum LaneError {
    /// The connection was gone before anything was sent. Try the next one.
    Gone,
    /// The end of the call.
    Final(CallError),
}

impl Lane {
    pub(super) fn new(class: Class, node: NodeId, queue: mpsc::Sender<Outgoing>) -> Self {
        Self {
            class,
            node,
            queue,
            pending: Mutex::new(Pending::Open(BTreeMap::new())),
            next: AtomicU64::new(0),
            calls: Semaphore::new(MAX_IN_FLIGHT),
            bytes: Semaphore::new(MAX_IN_FLIGHT_BYTES),
            waiting: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            emptied: Notify::new(),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(
        &self,
        method: MethodSpec,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, LaneError> {
        let _turn = self.turn(body.len(), deadline).await?;
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(LaneError::Final(CallError::Overloaded { node: self.node }));
        }
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let answered = self.register(call, method)?;
        let mut guard = Cancel {
            lane: self,
            call,
            method: method.id,
            sent: false,
        };
        let deadline_ms = u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1);
        let frame = Outgoing::request(method.id, call, deadline_ms, body).ok_or_else(|| {
            LaneError::Final(CallError::NotSent {
                cause: format!("{}: the request is too long", method.name),
            })
        })?;
        match timeout_at(deadline, self.queue.send(frame)).await {
            Ok(Ok(())) => guard.sent = true,
            Ok(Err(_)) => return Err(LaneError::Gone),
            Err(_) => return Err(LaneError::Final(CallError::Overloaded { node: self.node })),
        }
        let answer = timeout_at(deadline, answered).await;
        let answer = answer.map_err(|_| LaneError::Final(CallError::Deadline))?;
        self.outcome(answer.ok()).map_err(LaneError::Final)
    }

    /// Waits until the call fits the limits of the lane.
    async fn turn(&self, len: usize, deadline: Instant) -> Result<[SemaphorePermit<'_>; 2], LaneError> {
        let overloaded = || LaneError::Final(CallError::Overloaded { node: self.node });
        let _queued = Queued::enter(&self.waiting).ok_or_else(overloaded)?;
        let len = u32::try_from(len).map_err(|_| overloaded())?;
        let turn = async {
            let call = self.calls.acquire().await;
            let bytes = self.bytes.acquire_many(len).await;
            Ok([
                call.map_err(|_| LaneError::Gone)?,
                bytes.map_err(|_| LaneError::Gone)?,
            ])
        };
        timeout_at(deadline, turn).await.map_err(|_| overloaded())?
    }

    fn register(&self, call: u64, method: MethodSpec) -> Result<oneshot::Receiver<Answer>, LaneError> {
        let (answer, answered) = oneshot::channel();
        match &mut *lock(&self.pending) {
            Pending::Closed(_) => Err(LaneError::Gone),
            Pending::Open(_) if self.retired.load(Ordering::SeqCst) => Err(LaneError::Gone),
            Pending::Open(waiters) => {
                let max_response = method.max_response;
                waiters.insert(call, Waiter { max_response, answer });
                self.active.fetch_add(1, Ordering::SeqCst);
                Ok(answered)
            }
        }
    }

    fn outcome(&self, answer: Option<Answer>) -> Result<Bytes, CallError> {
        let node = self.node;
        match answer {
            Some(Answer::Response(body)) => Ok(body),
            Some(Answer::Rejected(rejection)) => Err(CallError::Rejected(rejection)),
            Some(Answer::Lost) => Err(CallError::MaybeExecuted {
                node,
                cause: "the handler ended without an answer; see the peer's log".into(),
            }),
            None => Err(CallError::MaybeExecuted {
                node,
                cause: match &*lock(&self.pending) {
                    Pending::Closed(cause) => cause.clone(),
                    Pending::Open(_) => "the connection is closing".into(),
                },
            }),
        }
    }

    /// Takes no further call; those in flight go on, those that wait for their turn go elsewhere.
    pub(super) fn retire(&self) {
        let pending = lock(&self.pending);
        self.retired.store(true, Ordering::SeqCst);
        drop(pending);
        self.calls.close();
        self.bytes.close();
    }

    /// Waits until a retired lane has ended its last call. One task at a time waits.
    ///
    /// Cancel safety: can be dropped and called again.
    pub(super) async fn drained(&self) {
        // No call begins once the lane is retired, so the number only falls.
        while self.active.load(Ordering::SeqCst) > 0 {
            self.emptied.notified().await;
        }
    }

    /// Ends every call in flight: what they asked may have been done. The first cause counts.
    pub(super) fn close(&self, cause: &str) {
        let mut pending = lock(&self.pending);
        if matches!(&*pending, Pending::Open(_)) {
            *pending = Pending::Closed(cause.to_owned());
        }
        drop(pending);
        self.calls.close();
        self.bytes.close();
    }

    /// Calls begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether a call waits for its answer.
    pub(super) fn has_pending(&self) -> bool {
        match &*lock(&self.pending) {
            Pending::Open(waiters) => !waiters.is_empty(),
            Pending::Closed(_) => false,
        }
    }

    fn take(&self, call: u64) -> Option<Waiter> {
        match &mut *lock(&self.pending) {
            Pending::Open(waiters) => waiters.remove(&call),
            Pending::Closed(_) => None,
        }
    }

    /// Hands answers to their calls until the stream ends.
    pub(super) async fn read_loop(&self, mut stream: impl AsyncRead + Unpin) -> Result<(), StreamError> {
        while let Some(prefix) = frame::read_prefix(&mut stream, max_frame(self.class)).await? {
            let Some(waiter) = self.take(prefix.call) else {
                // The caller has stopped waiting.
                frame::discard(&mut stream, prefix.rest).await?;
                continue;
            };
            let limit = match prefix.kind {
                Kind::Response => waiter.max_response,
                Kind::Rejection => MAX_REJECTION,
                Kind::Lost => 0,
                Kind::Request | Kind::Cancel => {
                    self.retire();
                    return Err(FrameError::Direction.into());
                }
            };
            if prefix.rest > limit {
                let len = prefix.rest;
                // Before its caller learns of it, who may call again at once.
                self.retire();
                return Err(FrameError::TooLong { len, limit }.into());
            }
            let body = frame::read_body(&mut stream, prefix.rest).await?;
            let answer = match prefix.kind {
                Kind::Response => Answer::Response(body),
                Kind::Rejection => Answer::Rejected(decode_rejection(&body)),
                Kind::Lost | Kind::Request | Kind::Cancel => Answer::Lost,
            };
            // The caller may stop waiting at this moment; then nobody wants the answer.
            let _ = waiter.answer.send(answer);
        }
        Ok(())
    }
}

fn decode_rejection(body: &[u8]) -> Rejection {
    postcard::from_bytes(body)
        .unwrap_or_else(|_| Rejection::new("malformed-rejection", "the peer's refusal cannot be read"))
}

/// A place in the queue before a lane.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells the peer, when a call ends without an answer, that nobody waits for one.
struct Cancel<'a> {
    lane: &'a Lane,
    call: u64,
    method: u16,
    sent: bool,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        let unanswered = self.lane.take(self.call).is_some();
        if unanswered && self.sent {
            let cancel = Outgoing::other(Kind::Cancel, self.method, self.call, Bytes::new());
            // A full queue means a stalled peer, whose handler ends at the deadline anyway.
            let _ = cancel.map(|cancel| self.lane.queue.try_send(cancel));
        }
        // In one order with `retire` and `drained`: either this sees the lane retired, or they see it empty.
        if self.lane.active.fetch_sub(1, Ordering::SeqCst) == 1 && self.lane.retired.load(Ordering::SeqCst) {
            self.lane.emptied.notify_one();
        }
    }
}
