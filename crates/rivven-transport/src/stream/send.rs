//! The sending side of a transfer: one future that writes chunks while it reads what the receiver says.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use metrics::Counter;
use rivven_types::NodeId;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::debug;

use super::{
    Broken, Frame, FrameReader, FrameWriter, Interruption, MAX_CHUNK_BYTES, MAX_TRANSFERS, TransferCtx,
    TransferError, TransferPipe, TransferSpec, window::Window,
};
use crate::{
    CallError, Rejection, Transport,
    clock::{after, later},
    metrics::{Direction, TransferMetrics},
};

/// Room for [`MAX_TRANSFERS`] to, or from, each peer.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<BTreeMap<NodeId, Arc<Semaphore>>>);

impl Slots {
    fn of(&self, peer: NodeId) -> Arc<Semaphore> {
        // Poisoning changes nothing: the table is consistent after every statement.
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds or wants a slot holds a clone; the rest only takes room.
        peers.retain(|node, slots| *node == peer || Arc::strong_count(slots) > 1);
        let slots = peers
            .entry(peer)
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_TRANSFERS)));
        Arc::clone(slots)
    }

    async fn take(&self, to: NodeId, until: Instant) -> Result<OwnedSemaphorePermit, CallError> {
        match timeout_at(until, self.of(to).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(CallError::Overloaded { node: to }),
        }
    }

    /// A slot for a transfer from `from`, if there is one.
    pub(crate) fn try_take(&self, from: NodeId) -> Option<OwnedSemaphorePermit> {
        self.of(from).try_acquire_owned().ok()
    }
}

/// What both halves of the sender look at. Never held across an await.
struct State {
    window: Window,
    /// Latest sign of progress.
    moved: Instant,
    /// Everything was sent.
    complete: bool,
}

struct Sender<'a> {
    to: NodeId,
    ctx: &'a TransferCtx,
    /// Counts the bytes of the content.
    counter: Counter,
    state: Mutex<State>,
    /// There is more room in the window.
    room: Notify,
}

/// Runs a transfer from its announcement to its receipt, and counts it.
pub(super) async fn send<S, F>(
    transport: &Transport,
    to: NodeId,
    spec: TransferSpec,
    header: Bytes,
    source: S,
    ctx: &TransferCtx,
) -> Result<Bytes, TransferError>
where
    S: FnMut(u64) -> F + Send,
    F: Future<Output = io::Result<Bytes>> + Send,
{
    let mut counted = TransferMetrics::begin(Direction::Sent, spec.name, transport.peer_label(to));
    let result = run(transport, to, spec, header, source, ctx, counted.bytes()).await;
    counted.ended(result.as_ref().map_or_else(TransferError::label, |_| "answered"));
    result
}

/// Sends until the receipt. Cut off by a change of connections, the transfer goes on over the next one, from
/// where its receiver wants it; as long as each connection brings it further.
async fn run<S, F>(
    transport: &Transport,
    to: NodeId,
    spec: TransferSpec,
    header: Bytes,
    mut source: S,
    ctx: &TransferCtx,
    counter: Counter,
) -> Result<Bytes, TransferError>
where
    S: FnMut(u64) -> F + Send,
    F: Future<Output = io::Result<Bytes>> + Send,
{
    let begin_by = ctx.until(after(ctx.idle));
    let slot = transport.slots().take(to, begin_by).await;
    let _slot = slot.map_err(TransferError::NotBegun)?;
    let mut reached = 0;
    loop {
        let begin_by = ctx.until(after(ctx.idle));
        let mut pipe = match transport.network().open_transfer(to, spec, begin_by).await {
            Ok(pipe) => pipe,
            Err(error) if reached == 0 => return Err(TransferError::NotBegun(error)),
            Err(error) => {
                let (node, held) = (to, reached);
                let cause = Interruption::Lost(error.to_string());
                return Err(TransferError::Interrupted { node, held, cause });
            }
        };
        let sender = Sender::new(to, ctx, counter.clone());
        let sent = sender.attempt(&mut pipe, (spec, header.clone()), &mut source, begin_by);
        match sent.await {
            Err(TransferError::Interrupted {
                held,
                cause: Interruption::Lost(cause),
                ..
            }) if (pipe.moved)() && held > reached => {
                debug!(
                    peer = to,
                    held, cause, "a transfer goes on over another connection"
                );
                reached = held;
            }
            sent => return sent,
        }
    }
}

impl TransferCtx {
    /// `moment`, or the deadline if that is earlier.
    fn until(&self, moment: Instant) -> Instant {
        self.deadline.map_or(moment, |deadline| deadline.min(moment))
    }
}

impl<'a> Sender<'a> {
    fn new(to: NodeId, ctx: &'a TransferCtx, counter: Counter) -> Self {
        Self {
            to,
            ctx,
            counter,
            state: Mutex::new(State {
                window: Window::new(0),
                moved: Instant::now(),
                complete: false,
            }),
            room: Notify::new(),
        }
    }

    /// One transfer over `pipe`, from its announcement to its receipt. The first answer must come by `begin_by`.
    async fn attempt<S, F>(
        &self,
        pipe: &mut TransferPipe,
        (spec, header): (TransferSpec, Bytes),
        source: S,
        begin_by: Instant,
    ) -> Result<Bytes, TransferError>
    where
        S: FnMut(u64) -> F + Send,
        F: Future<Output = io::Result<Bytes>> + Send,
    {
        let opening = async {
            pipe.writer.write(Frame::Open { id: spec.id, header }).await?;
            pipe.reader.read().await
        };
        let Ok(answer) = timeout_at(begin_by, opening).await else {
            return Err(self.out_of_time(Instant::now()));
        };
        let start = match answer.map_err(|broken| self.lost(&broken))? {
            Frame::Start(offset) => offset,
            last => return self.last(last),
        };
        self.with(|state| {
            state.window = Window::new(start);
            state.moved = Instant::now();
        });
        self.tell_progress(start);
        tokio::select! {
            biased;
            receipt = self.hear(&mut *pipe.reader, spec.max_receipt) => receipt,
            error = self.write(&mut *pipe.writer, source) => Err(error),
            error = self.watch_progress() => Err(error),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // Poisoning changes nothing: the state is consistent after every statement.
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell_progress(&self, held: u64) {
        if let Some(progress) = &self.ctx.progress {
            progress.send_replace(held);
        }
    }

    /// Reads what the receiver says until its last word.
    async fn hear(&self, reader: &mut dyn FrameReader, max_receipt: usize) -> Result<Bytes, TransferError> {
        loop {
            match reader.read().await.map_err(|broken| self.lost(&broken))? {
                Frame::Held(offset) => {
                    let now = Instant::now();
                    let claimed = self.with(|state| {
                        state.moved = now;
                        state.window.on_held(now, offset)
                    });
                    claimed.map_err(|claim| self.lost(&Broken(claim.to_string())))?;
                    self.tell_progress(offset);
                    self.room.notify_one();
                }
                Frame::Receipt(receipt) if receipt.len() > max_receipt => {
                    let cause = format!("a receipt of {} bytes, the limit is {max_receipt}", receipt.len());
                    return Err(TransferError::MaybeExecuted { node: self.to, cause });
                }
                last => return self.last(last),
            }
        }
    }

    /// Sends what `source` gives, as far as the window lets it. Returns only if that fails.
    async fn write<S, F>(&self, writer: &mut dyn FrameWriter, mut source: S) -> TransferError
    where
        S: FnMut(u64) -> F + Send,
        F: Future<Output = io::Result<Bytes>> + Send,
    {
        loop {
            let offset = self.with(|state| state.window.sent());
            let mut chunk = match source(offset).await {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => chunk,
                Err(error) => return self.interrupted(Interruption::Source(error)),
            };
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(MAX_CHUNK_BYTES));
                let len = piece.len() as u64;
                while self.with(|state| state.window.room()) < len {
                    self.room.notified().await;
                }
                self.with(|state| state.window.on_sent(Instant::now(), len));
                if let Err(broken) = writer.write(Frame::Data(piece)).await {
                    return self.after(&broken).await;
                }
                self.counter.increment(len);
            }
        }
        // Set first: from here on the receiver may act.
        self.with(|state| state.complete = true);
        if let Err(broken) = writer.write(Frame::End).await {
            return self.after(&broken).await;
        }
        writer.finish();
        pending().await
    }

    /// A receiver that has said its last word reads no more, which the writer may notice first.
    async fn after(&self, broken: &Broken) -> TransferError {
        tokio::time::sleep(LAST_WORD).await;
        self.lost(broken)
    }

    /// Returns when the transfer has stood still for too long, or its deadline has passed.
    async fn watch_progress(&self) -> TransferError {
        loop {
            let (moved, all_held) = self.with(|state| {
                let all_held = state.complete && state.window.held() == state.window.sent();
                (state.moved, all_held)
            });
            let patience = if all_held {
                self.ctx.finish.max(self.ctx.idle)
            } else {
                self.ctx.idle
            };
            let until = self.ctx.until(later(moved, patience));
            sleep_until(until).await;
            let now = Instant::now();
            let late = self.ctx.deadline.is_some_and(|deadline| deadline <= now);
            if late || self.with(|state| state.moved) == moved {
                return self.out_of_time(now);
            }
        }
    }

    /// What the receiver's last word means.
    fn last(&self, frame: Frame) -> Result<Bytes, TransferError> {
        match frame {
            Frame::Receipt(receipt) => Ok(receipt),
            Frame::Rejected(body) => Err(TransferError::Rejected(
                postcard::from_bytes(&body).unwrap_or_else(|_| {
                    Rejection::new("malformed-rejection", "the peer's refusal cannot be read")
                }),
            )),
            Frame::Lost => Err(TransferError::MaybeExecuted {
                node: self.to,
                cause: "the handler ended without an answer; see the peer's log".into(),
            }),
            Frame::Open { .. } | Frame::Data(_) | Frame::End | Frame::Start(_) | Frame::Held(_) => {
                Err(self.lost(&Broken("the peer broke the protocol of transfers".into())))
            }
        }
    }

    fn out_of_time(&self, now: Instant) -> TransferError {
        if self.ctx.deadline.is_some_and(|deadline| deadline <= now) {
            return self.interrupted(Interruption::Deadline);
        }
        self.interrupted(Interruption::Stalled(self.ctx.idle))
    }

    fn lost(&self, broken: &Broken) -> TransferError {
        self.interrupted(Interruption::Lost(broken.0.clone()))
    }

    /// Before all was sent the receiver cannot have acted on the whole; after that nobody knows.
    fn interrupted(&self, cause: Interruption) -> TransferError {
        let (held, complete) = self.with(|state| (state.window.held(), state.complete));
        let node = self.to;
        if complete {
            let cause = cause.to_string();
            return TransferError::MaybeExecuted { node, cause };
        }
        TransferError::Interrupted { node, held, cause }
    }
}

/// How long a receiver's last word may be behind the news that it has stopped reading.
const LAST_WORD: Duration = Duration::from_secs(1);
