//! The calling side of one class: one stream, many calls at a time.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use rivven_types::NodeId;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use tracing::{debug, warn};

use super::{
    alarm::{Alarm, Look},
    drive::once_free,
    frame::{Decoder, FrameError, Head, Kind, Part},
    hello::close,
    limits::{
        MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_QUEUED, MAX_REJECTION, MAX_WAITING, READ_CHUNKS, max_frame,
    },
    lock,
    pending::{Answer, Entered, Pending},
    read::StreamError,
    shared::Shared,
    write::{Outbox, Outgoing},
};
use crate::{CallCtx, CallError, Class, MethodSpec, Rejection};

/// The calling side of a connection.
pub(super) type Lanes = Vec<(Class, Arc<Lane>)>;

/// Calls to one peer in one class, over one connection.
pub(super) struct Lane {
    class: Class,
    node: NodeId,
    outbox: Outbox,
    pending: Mutex<Pending>,
    /// The earliest deadline of `pending` has changed, or it is closed.
    alarm: Alarm,
    begun: AtomicU64,
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

/// Why a lane gave no response.
pub(super) enum LaneError {
    /// The connection was gone before anything was sent. Try the next one with the request that is given back.
    Gone(Bytes),
    /// The end of the call.
    Final(CallError),
}

impl Lane {
    /// The lane of `class` over a stream that has just been opened, and the tasks that serve it.
    ///
    /// Frames are written and read on the runtime of the callers, so that a batch of calls and a batch of
    /// answers change threads once. Deadlines are kept on the transport's own threads: they hold when the
    /// callers' runtime has stopped.
    pub(super) fn start(
        shared: &Shared,
        (class, node): (Class, NodeId),
        connection: &Connection,
        (send, recv): (SendStream, RecvStream),
    ) -> Arc<Self> {
        let lane = Arc::new(Self::new(class, node, send));
        let (writer, writing) = (Arc::clone(&lane), connection.clone());
        shared.lanes.spawn(async move {
            if let Err(error) = writer.outbox.run().await {
                debug!(%error, "stopped writing calls");
                // Closing twice would hide why the connection has ended.
                if writing.close_reason().is_none() {
                    writing.close(VarInt::from_u32(close::PROTOCOL), b"a call stream ended");
                }
            }
        });
        let (reader, reading) = (Arc::clone(&lane), connection.clone());
        shared.lanes.spawn(async move {
            let ended = reader.read_loop(recv).await;
            if reading.close_reason().is_none() {
                warn!(peer = node, ?ended, "closing connection: its call stream ended");
                reading.close(VarInt::from_u32(close::PROTOCOL), b"a call stream ended");
            }
        });
        let keeper = Arc::clone(&lane);
        shared.tasks.spawn(async move { keeper.keep_deadlines().await });
        lane
    }

    fn new(class: Class, node: NodeId, send: SendStream) -> Self {
        Self {
            class,
            node,
            outbox: Outbox::new(send),
            pending: Mutex::default(),
            alarm: Alarm::default(),
            begun: AtomicU64::new(0),
            calls: Semaphore::new(MAX_IN_FLIGHT),
            bytes: Semaphore::new(MAX_IN_FLIGHT_BYTES),
            waiting: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            emptied: Notify::new(),
        }
    }

    /// Sends a request and waits for its answer. Cancel safety: dropping the future cancels the call.
    pub(super) async fn call(
        &self,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> Result<Bytes, LaneError> {
        let overloaded = || LaneError::Final(CallError::Overloaded { node: self.node });
        let len = u32::try_from(body.len()).map_err(|_| overloaded())?;
        let at_once = self.try_turn(len);
        let waited = at_once.is_none();
        let _turn = match at_once {
            Some(turn) => turn,
            None => match self.turn(len, ctx.deadline).await {
                Ok(Some(turn)) => turn,
                Ok(None) => return Err(LaneError::Gone(body)),
                Err(error) => return Err(LaneError::Final(error)),
            },
        };
        let remaining = ctx.remaining();
        if remaining.is_zero() {
            // A turn that comes with the deadline came too late.
            let error = if waited {
                overloaded()
            } else {
                LaneError::Final(CallError::unsent_in_time())
            };
            return Err(error);
        }
        let kind = Kind::Request {
            deadline_ms: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1),
            trace: ctx.trace,
        };
        let Some(entered) = self.enter(method, ctx.deadline) else {
            return Err(LaneError::Gone(body));
        };
        if entered.alarm {
            self.alarm.ring();
        }
        let call = entered.call;
        let mut entry = Entry {
            lane: self,
            call,
            method: method.id,
            left: false,
        };
        self.begun.fetch_add(1, Ordering::Relaxed);
        if let Err(frame) = self.outbox.push(Outgoing::new(kind, method.id, call, body)) {
            return Err(LaneError::Gone(frame.into_body()));
        }
        if entered.alone {
            self.outbox.send();
        } else {
            self.outbox.call_writer();
        }
        let answer = poll_fn(|cx| lock(&self.pending).poll(call, cx.waker())).await;
        entry.left = true;
        self.outcome(&entry, answer)
    }

    /// Enters a call among those that wait. `None` when the lane takes no further ones.
    fn enter(&self, method: MethodSpec, deadline: Instant) -> Option<Entered> {
        let mut pending = lock(&self.pending);
        if self.retired.load(Ordering::SeqCst) {
            return None;
        }
        let entered = pending.enter(method.max_response, deadline)?;
        self.active.fetch_add(1, Ordering::SeqCst);
        Some(entered)
    }

    /// A place among the calls in flight, if there is one.
    fn try_turn(&self, len: u32) -> Option<[SemaphorePermit<'_>; 2]> {
        let call = self.calls.try_acquire().ok()?;
        let bytes = self.bytes.try_acquire_many(len).ok()?;
        Some([call, bytes])
    }

    /// Waits until the call fits the limits of the lane. `None` when the lane is closed.
    async fn turn(&self, len: u32, deadline: Instant) -> Result<Option<[SemaphorePermit<'_>; 2]>, CallError> {
        let overloaded = || CallError::Overloaded { node: self.node };
        let _queued = Queued::enter(&self.waiting).ok_or_else(overloaded)?;
        let turn = async {
            let call = self.calls.acquire().await.ok()?;
            let bytes = self.bytes.acquire_many(len).await.ok()?;
            Some([call, bytes])
        };
        timeout_at(deadline, turn).await.map_err(|_| overloaded())
    }

    fn outcome(&self, entry: &Entry<'_>, answer: Answer) -> Result<Bytes, LaneError> {
        let node = self.node;
        Err(LaneError::Final(match answer {
            Answer::Response(body) => return Ok(body),
            Answer::Rejected(rejection) => CallError::Rejected(rejection),
            Answer::Lost => CallError::MaybeExecuted {
                node,
                cause: "the handler ended without an answer; see the peer's log".into(),
            },
            Answer::Expired if self.outbox.take_back(entry.call).is_some() => CallError::unsent_in_time(),
            Answer::Expired => {
                entry.cancel();
                CallError::Deadline
            }
            Answer::Closed => {
                if let Some(body) = self.outbox.take_back(entry.call) {
                    return Err(LaneError::Gone(body));
                }
                let cause = lock(&self.pending)
                    .closed()
                    .unwrap_or("the connection is closing")
                    .to_owned();
                CallError::MaybeExecuted { node, cause }
            }
        }))
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
    /// Cancel safe: can be dropped and called again.
    pub(super) async fn drained(&self) {
        // No call begins once the lane is retired, so the number only falls.
        while self.active.load(Ordering::SeqCst) > 0 {
            self.emptied.notified().await;
        }
    }

    /// Ends every call in flight: what they asked may have been done. The first cause counts.
    pub(super) fn close(&self, cause: &str) {
        let mut wakers = Vec::new();
        lock(&self.pending).close(cause, &mut wakers);
        self.calls.close();
        self.bytes.close();
        self.alarm.ring();
        self.outbox.close();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Calls begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether a call waits for its answer.
    pub(super) fn has_pending(&self) -> bool {
        lock(&self.pending).waiting() > 0
    }

    /// Ends calls at their deadline, to the millisecond that timers have, until the lane is closed.
    ///
    /// One timer for all: it stands at the earliest deadline of the calls that were in flight when it was last
    /// set, so calls that are answered in time do not touch it.
    async fn keep_deadlines(&self) {
        let mut wakers = Vec::new();
        let look = |now| {
            let mut pending = lock(&self.pending);
            if pending.closed().is_some() {
                return Look::Never;
            }
            let next = pending.expire(now, &mut wakers);
            drop(pending);
            for waker in wakers.drain(..) {
                waker.wake();
            }
            Look::from(next)
        };
        self.alarm.keep(look).await;
    }

    /// Hands answers to their calls until the stream ends.
    async fn read_loop(&self, mut stream: RecvStream) -> Result<(), StreamError> {
        let mut decoder = Decoder::new(max_frame(self.class));
        let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
        let mut wakers = Vec::new();
        while let Some(read) = once_free(stream.read_chunks(&mut chunks)).await? {
            let result = self.answers(&mut decoder, chunks.iter_mut().take(read), &mut wakers);
            if result.is_err() {
                // Before callers learn of it, who may call again at once.
                self.retire();
            }
            for waker in wakers.drain(..) {
                waker.wake();
            }
            result?;
            // A peer that is never done must not keep other tasks from running.
            tokio::task::coop::consume_budget().await;
        }
        if decoder.is_between_frames() {
            Ok(())
        } else {
            Err(FrameError::Unfinished.into())
        }
    }

    /// Takes in what was read at once, adding whom to wake for it.
    fn answers<'a>(
        &self,
        decoder: &mut Decoder,
        chunks: impl Iterator<Item = &'a mut Bytes>,
        wakers: &mut Vec<std::task::Waker>,
    ) -> Result<(), FrameError> {
        let mut pending = lock(&self.pending);
        for chunk in chunks {
            decoder.push(std::mem::take(chunk));
            while let Some(part) = decoder.next()? {
                match part {
                    Part::Head(head) => match limit(&mut pending, head)? {
                        Some(limit) if head.len > limit => {
                            let len = head.len;
                            return Err(FrameError::TooLong { len, limit });
                        }
                        Some(_) => {}
                        // The caller has stopped waiting.
                        None => decoder.skip(),
                    },
                    Part::Body(head, body) => wakers.extend(pending.end(head.call, answer(head, body))),
                }
            }
        }
        Ok(())
    }
}

/// How long the body of an answer may be; `None` if nobody waits for it.
fn limit(pending: &mut Pending, head: Head) -> Result<Option<usize>, FrameError> {
    let max_response = pending.max_response(head.call);
    match head.kind {
        Kind::Response => Ok(max_response),
        Kind::Rejection => Ok(max_response.map(|_| MAX_REJECTION)),
        Kind::Lost => Ok(max_response.map(|_| 0)),
        Kind::Request { .. } | Kind::Cancel => Err(FrameError::Direction),
    }
}

fn answer(head: Head, body: Bytes) -> Answer {
    match head.kind {
        Kind::Response => Answer::Response(body),
        Kind::Rejection => Answer::Rejected(decode_rejection(&body)),
        Kind::Lost | Kind::Request { .. } | Kind::Cancel => Answer::Lost,
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

/// A call in flight. Dropped before its answer was taken, it tells the peer that nobody waits for one.
struct Entry<'a> {
    lane: &'a Lane,
    call: u64,
    method: u16,
    left: bool,
}

impl Entry<'_> {
    /// Tells the peer that nobody waits for an answer.
    fn cancel(&self) {
        let cancel = Outgoing::new(Kind::Cancel, self.method, self.call, Bytes::new());
        // A full queue means a stalled peer, whose handler ends at the deadline anyway.
        if self.lane.outbox.push_below(MAX_QUEUED, cancel) {
            self.lane.outbox.call_writer();
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let unanswered = !self.left && lock(&self.lane.pending).leave(self.call);
        // A request that has not left needs no cancellation, and shall not leave.
        if unanswered && self.lane.outbox.take_back(self.call).is_none() {
            self.cancel();
        }
        // In one order with `retire` and `drained`: either this sees the lane retired, or they see it empty.
        if self.lane.active.fetch_sub(1, Ordering::SeqCst) == 1 && self.lane.retired.load(Ordering::SeqCst) {
            self.lane.emptied.notify_one();
        }
    }
}
