//! Bounds of the calls to one peer in one class.

use std::sync::atomic::{AtomicUsize, Ordering};

use rivven_types::NodeId;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::limits::{MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_WAITING};
use crate::CallError;

/// Calls to one peer in one class.
#[derive(Debug)]
pub(super) struct Lane {
    node: NodeId,
    calls: Semaphore,
    bytes: Semaphore,
    waiting: AtomicUsize,
}

impl Lane {
    pub(super) const fn new(node: NodeId) -> Self {
        Self {
            node,
            calls: Semaphore::const_new(MAX_IN_FLIGHT),
            bytes: Semaphore::const_new(MAX_IN_FLIGHT_BYTES),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits until a call of `len` bytes fits the bounds; the call holds the permits until its end.
    pub(super) async fn turn(
        &self,
        len: usize,
        deadline: Instant,
    ) -> Result<[SemaphorePermit<'_>; 2], CallError> {
        let overloaded = || CallError::Overloaded { node: self.node };
        let _queued = Queued::enter(&self.waiting).ok_or_else(overloaded)?;
        let len = u32::try_from(len).map_err(|_| overloaded())?;
        let turn = async {
            let call = self.calls.acquire().await.map_err(|_| overloaded())?;
            let bytes = self.bytes.acquire_many(len).await.map_err(|_| overloaded())?;
            Ok([call, bytes])
        };
        timeout_at(deadline, turn).await.map_err(|_| overloaded())?
    }
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
