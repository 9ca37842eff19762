//! One writer per stream, which gathers what is queued into few writes.

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    frame::{Kind, PREFIX_LEN, Prefix},
    limits::{COPY_BELOW, MAX_BATCH},
};

/// A frame on its way.
pub(super) struct Outgoing {
    prefix: [u8; PREFIX_LEN],
    /// Remaining milliseconds, in a request.
    deadline_ms: Option<u32>,
    body: Bytes,
    /// What the frame holds on to until it is written.
    held: Option<(Vec<OwnedSemaphorePermit>, TaskTrackerToken)>,
}

impl Outgoing {
    /// A request. `None` if it is too long for any frame.
    pub(super) fn request(method: u16, call: u64, deadline_ms: u32, body: Bytes) -> Option<Self> {
        Self::new(Kind::Request, method, call, Some(deadline_ms), body)
    }

    /// Any frame but a request.
    pub(super) fn other(kind: Kind, method: u16, call: u64, body: Bytes) -> Option<Self> {
        Self::new(kind, method, call, None, body)
    }

    fn new(kind: Kind, method: u16, call: u64, deadline_ms: Option<u32>, body: Bytes) -> Option<Self> {
        let prefix = Prefix {
            kind,
            method,
            call,
            rest: body.len() + deadline_ms.map_or(0, |_| super::frame::DEADLINE_LEN),
        };
        Some(Self {
            prefix: prefix.encode()?,
            deadline_ms,
            body,
            held: None,
        })
    }

    /// Keeps `permits` and the mark of a call in flight until the frame is written.
    pub(super) fn holding(mut self, permits: Vec<OwnedSemaphorePermit>, in_flight: TaskTrackerToken) -> Self {
        self.held = Some((permits, in_flight));
        self
    }
}

/// Writes what is queued until the queue or the stream ends.
pub(super) async fn write_loop(
    mut stream: quinn::SendStream,
    mut queue: mpsc::Receiver<Outgoing>,
) -> Result<(), quinn::WriteError> {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let mut chunks = gather(&batch);
        stream.write_all_chunks(&mut chunks).await?;
        batch.clear();
    }
    Ok(())
}

/// The bytes of `batch`, small bodies copied together, large ones left where they are.
fn gather(batch: &[Outgoing]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut small = BytesMut::new();
    for frame in batch {
        small.extend_from_slice(&frame.prefix);
        if let Some(deadline_ms) = frame.deadline_ms {
            small.extend_from_slice(&deadline_ms.to_be_bytes());
        }
        if frame.body.len() <= COPY_BELOW {
            small.extend_from_slice(&frame.body);
        } else {
            chunks.push(small.split().freeze());
            chunks.push(frame.body.clone());
        }
    }
    if !small.is_empty() {
        chunks.push(small.freeze());
    }
    chunks
}
