//! What one stream has to write: frames are queued by anybody and written in batches.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use quinn::{SendStream, WriteError};

use super::{
    drive::at_once,
    frame::{Head, Kind, MAX_HEAD},
    limits::{COPY_BELOW, MAX_BATCH, MAX_BATCH_BYTES},
    lock,
    room::Held,
};

/// A frame on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    head: Head,
    body: Bytes,
    /// What the frame holds on to until it is written.
    held: Option<Held>,
}

impl Outgoing {
    pub(super) fn new(kind: Kind, method: u16, call: u64, body: Bytes) -> Self {
        let len = body.len();
        let head = Head {
            kind,
            method,
            call,
            len,
        };
        Self {
            head,
            body,
            held: None,
        }
    }

    /// What comes after the head.
    pub(super) fn into_body(self) -> Bytes {
        self.body
    }

    /// Keeps `held` until the frame is written.
    pub(super) fn holding(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }
}

/// The writing end of a stream.
///
/// Frames are queued by [`Self::push`]. Then either [`Self::call_writer`] has the task that runs [`Self::run`]
/// write them, after everybody who is about to queue more has done so; or [`Self::flush`] writes them at once.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    writing: Mutex<Writing>,
    /// The writer has been called and has not looked yet.
    called: AtomicBool,
    writer: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Outgoing>,
    closed: bool,
}

/// The batch that is being written, of which the stream may have taken a part.
#[derive(Debug)]
struct Writing {
    /// `None` once closed: a stream keeps the socket open.
    stream: Option<SendStream>,
    chunks: Vec<Bytes>,
    /// The first of `chunks` that is not written.
    next: usize,
    held: Vec<Held>,
    /// Where heads and small bodies are put together.
    small: BytesMut,
    /// The writer, once it runs.
    waker: Option<Waker>,
    /// The writer has let others go first.
    gave_way: bool,
}

impl Outbox {
    pub(super) fn new(stream: SendStream) -> Self {
        Self {
            queue: Mutex::default(),
            writing: Mutex::new(Writing {
                stream: Some(stream),
                chunks: Vec::new(),
                next: 0,
                held: Vec::new(),
                small: BytesMut::new(),
                waker: None,
                gave_way: false,
            }),
            called: AtomicBool::new(false),
            writer: AtomicWaker::new(),
        }
    }

    /// Queues a frame. Gives it back once the stream is closed.
    pub(super) fn push(&self, frame: Outgoing) -> Result<(), Outgoing> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(frame);
        }
        queue.frames.push_back(frame);
        Ok(())
    }

    /// Queues a frame that can be done without, unless `limit` are queued already. Whether it was.
    pub(super) fn push_below(&self, limit: usize, frame: Outgoing) -> bool {
        let mut queue = lock(&self.queue);
        let room = !queue.closed && queue.frames.len() < limit;
        if room {
            queue.frames.push_back(frame);
        }
        room
    }

    /// Takes back the request of a call that no byte has been written of. Returns its body.
    pub(super) fn take_back(&self, call: u64) -> Option<Bytes> {
        let mut queue = lock(&self.queue);
        let is_it =
            |frame: &Outgoing| frame.head.call == call && matches!(frame.head.kind, Kind::Request { .. });
        let at = queue.frames.iter().position(is_it)?;
        queue.frames.remove(at).map(|frame| frame.body)
    }

    /// Has the writer write what is queued, and what will be until its turn comes.
    pub(super) fn call_writer(&self) {
        if !self.called.swap(true, Ordering::AcqRel) {
            self.writer.wake();
        }
    }

    /// The same as [`Self::flush`], and the packet leaves from this thread.
    pub(super) fn send(&self) {
        at_once(|| self.flush());
    }

    /// Writes what is queued at once, as far as the peer takes it; the writer does the rest.
    pub(super) fn flush(&self) {
        let mut writing = match self.writing.try_lock() {
            Ok(writing) => writing,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever is writing may have looked at the queue before the caller's frame was in it.
            Err(TryLockError::WouldBlock) => return self.call_writer(),
        };
        let Some(waker) = writing.waker.clone() else {
            // The writer has not begun; it begins with what is queued.
            return;
        };
        let written = writing.write(&self.queue, &mut Context::from_waker(&waker));
        drop(writing);
        if matches!(written, Poll::Ready(Err(_))) {
            self.call_writer();
        }
    }

    /// Writes whenever called, until the stream fails or is closed.
    pub(super) async fn run(&self) -> Result<(), WriteError> {
        let result = poll_fn(|cx| self.poll_run(cx)).await;
        self.close();
        result
    }

    fn poll_run(&self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        self.writer.register(cx.waker());
        let mut writing = lock(&self.writing);
        if writing
            .waker
            .as_ref()
            .is_none_or(|known| !known.will_wake(cx.waker()))
        {
            writing.waker = Some(cx.waker().clone());
        }
        if self.called.load(Ordering::Acquire) && !writing.gave_way {
            // Behind every task that is ready to run: their frames go with this write.
            writing.gave_way = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        writing.gave_way = false;
        // Before the queue is looked at, so that a frame put in after that calls again.
        self.called.store(false, Ordering::Release);
        match writing.write(&self.queue, cx) {
            Poll::Ready(Ok(())) if writing.stream.is_some() => Poll::Pending,
            other => other,
        }
    }

    /// Drops the stream and what is queued, except for requests, which their calls take back.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue
            .frames
            .retain(|frame| matches!(frame.head.kind, Kind::Request { .. }));
        drop(queue);
        let mut writing = lock(&self.writing);
        writing.stream = None;
        writing.chunks = Vec::new();
        writing.held = Vec::new();
        drop(writing);
        self.called.store(true, Ordering::Release);
        self.writer.wake();
    }
}

impl Writing {
    /// Writes until the queue is empty or the peer takes no more; then the task of `cx` is woken later.
    fn write(&mut self, queue: &Mutex<Queue>, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let Some(mut stream) = self.stream.take() else {
            return Poll::Ready(Ok(()));
        };
        let result = loop {
            let chunks = self.chunks.get_mut(self.next..).unwrap_or_default();
            if chunks.is_empty() {
                self.chunks.clear();
                self.held.clear();
                self.next = 0;
                if !self.gather(queue) {
                    break Poll::Ready(Ok(()));
                }
                continue;
            }
            match pin!(stream.write_chunks(chunks)).poll(cx) {
                Poll::Ready(Ok(written)) => self.next += written.chunks,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.stream = Some(stream);
        result
    }

    /// Takes a batch from the queue: small bodies copied together, large ones left where they are.
    fn gather(&mut self, queue: &Mutex<Queue>) -> bool {
        let mut queue = lock(queue);
        let mut bytes = 0;
        for _ in 0..MAX_BATCH {
            if bytes >= MAX_BATCH_BYTES {
                break;
            }
            let Some(Outgoing { head, body, held }) = queue.frames.pop_front() else {
                break;
            };
            bytes += MAX_HEAD + body.len();
            self.held.extend(held);
            if !head.encode(&mut self.small) {
                // Nothing as long as that passes the limits of methods and classes.
                continue;
            }
            if body.len() <= COPY_BELOW {
                self.small.extend_from_slice(&body);
            } else {
                self.chunks.push(self.small.split().freeze());
                self.chunks.push(body);
            }
        }
        drop(queue);
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
        !self.chunks.is_empty()
    }
}
