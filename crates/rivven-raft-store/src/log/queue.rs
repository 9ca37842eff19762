//! The way from callers to the owner thread: ordered, bounded in operations and bytes.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use openraft::{RaftTypeConfig, storage::IOFlushed, type_config::alias::VoteOf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{options::LogOptions, shared::Shared};
use crate::error::StoreError;

/// How often the owner looks at an empty queue in one batch, for each append that the last batch had: a
/// microsecond or two for each, against the several that writing one takes.
///
/// Those that were answered together come back together, a microsecond apart. Whoever syncs for the first
/// of them alone makes the others wait for two syncs. A lone appender is never waited for, and a crowd that
/// got smaller costs this once. The owner does not yield its core meanwhile: on a busy machine it would get
/// it back milliseconds later.
const PATIENCE: usize = 64;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Change {
    Append(Records),
    Vote(Vec<u8>),
    /// Removes the entries after `keep`.
    Truncate {
        keep: Option<u64>,
    },
    /// Removes the entries up to `upto` and records that they were there.
    Purge {
        upto: u64,
        bytes: Vec<u8>,
    },
    /// Rides in the next transaction; `None` erases it.
    Committed(Option<Vec<u8>>),
}

/// Who is told once it is durable.
pub(super) enum Answer<C: RaftTypeConfig> {
    Append {
        /// Number of the append, for [`Window::evict`](crate::window::Window::evict).
        number: u64,
        callback: IOFlushed<C>,
    },
    Vote {
        vote: VoteOf<C>,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    Nobody,
}

/// One operation.
pub(super) struct Op<C: RaftTypeConfig> {
    pub(super) change: Change,
    pub(super) answer: Answer<C>,
}

/// The records of one append, end to end.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) bytes: Vec<u8>,
    /// Index and length of each.
    pub(super) entries: Vec<(u64, usize)>,
}

/// Buffers kept for the next appends, and the largest that is worth keeping: 4 MiB in all.
const SPARE: usize = 1024;
const SPARE_BYTES: usize = 4096;

impl Records {
    /// Hands buffers back to those who append. A buffer that one thread makes and another drops has both
    /// wait for one lock of the allocator, a thousand times in a batch of a thousand.
    pub(super) fn reuse(spent: Vec<Self>, spare: &mut Vec<Self>) {
        let room = SPARE.saturating_sub(spare.len());
        let small = spent
            .into_iter()
            .filter(|records| records.bytes.capacity() <= SPARE_BYTES);
        spare.extend(small.take(room));
    }
}

impl Change {
    /// Bytes and entries to write.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Append(records) => (records.bytes.len(), records.entries.len()),
            Self::Vote(bytes) | Self::Purge { bytes, .. } => (bytes.len(), 1),
            Self::Truncate { .. } => (0, 1),
            Self::Committed(_) => (0, 0),
        }
    }
}

/// Room in the queue, for operations and for bytes at once.
///
/// One semaphore counts both: an operation takes its bytes, and at least the share of the budget that lets
/// `queue_len` of them fill it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    budget: Arc<Semaphore>,
    whole: u32,
    share: u32,
}

impl Room {
    pub(super) fn new(options: &LogOptions) -> Self {
        // On a target where a permit is too small for the budget, the budget is that much smaller.
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let len = NonZeroUsize::new(options.queue_len).unwrap_or(NonZeroUsize::MIN);
        let whole = u32::try_from(options.queue_bytes.max(len.get())).map_or(most, |bytes| bytes.min(most));
        let share = usize::try_from(whole).map_or(1, |whole| whole / len);
        Self {
            budget: Arc::new(Semaphore::new(
                usize::try_from(whole).unwrap_or(Semaphore::MAX_PERMITS),
            )),
            whole,
            share: u32::try_from(share).unwrap_or(whole),
        }
    }

    /// Waits for room. An operation larger than the whole budget passes alone instead of never.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(self.share);
        let room = Arc::clone(&self.budget).acquire_many_owned(bytes.min(self.whole));
        room.await.ok()
    }
}

/// An operation that waits for the owner, with the room that it takes until it is answered.
pub(super) type Waiting<C> = (Op<C>, OwnedSemaphorePermit);

/// The sending end.
pub(super) struct Callers<C: RaftTypeConfig> {
    pub(super) room: Room,
    sender: Sender<Waiting<C>>,
    /// Wakes an owner that is a task; dropped after the sender, so that the owner finds the queue closed.
    arrived: Option<Bell>,
}

/// Rings for every operation, and when there will be no more.
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl<C: RaftTypeConfig> Callers<C> {
    pub(super) const fn new(room: Room, sender: Sender<Waiting<C>>) -> Self {
        let arrived = None;
        Self {
            room,
            sender,
            arrived,
        }
    }

    /// Callers of an owner that waits for `arrived`.
    pub(super) fn of_task(room: Room, sender: Sender<Waiting<C>>, arrived: Arc<Notify>) -> Self {
        let arrived = Some(Bell(arrived));
        Self {
            room,
            sender,
            arrived,
        }
    }

    /// Hands an operation over.
    pub(super) fn send(&self, waiting: Waiting<C>) {
        // The owner ends only after the last sender; if it panicked, the answer is dropped with the
        // operation, and whoever waits for it is told.
        drop(self.sender.send(waiting));
        if let Some(arrived) = &self.arrived {
            arrived.0.notify_one();
        }
    }
}

/// What came out of waiting for the next operation.
pub(super) enum Next<C: RaftTypeConfig> {
    Op(Waiting<C>),
    /// Nothing for as long as was asked.
    Quiet,
    /// Every caller is gone, and the queue is empty.
    Closed,
}

/// Waits for the next operation; with `quiet` for no longer than that.
pub(super) fn wait<C: RaftTypeConfig>(queue: &Receiver<Waiting<C>>, quiet: Option<Duration>) -> Next<C> {
    let received = match quiet {
        Some(quiet) => queue.recv_timeout(quiet),
        None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
    };
    match received {
        Ok(waiting) => Next::Op(waiting),
        Err(RecvTimeoutError::Timeout) => Next::Quiet,
        Err(RecvTimeoutError::Disconnected) => Next::Closed,
    }
}

/// The operations of one transaction, taken as they arrive: while one is being written, the next is being
/// handed over by its caller on another core.
pub(super) struct Batch<'a, C: RaftTypeConfig> {
    first: Option<Op<C>>,
    /// None for a writer that has no queue.
    queue: Option<&'a Receiver<Waiting<C>>>,
    limits: Limits,
    /// Looks at an empty queue that are left for the whole batch, so that it ends whatever arrives how fast.
    patience: usize,
    shared: &'a Shared<C>,
    pub(super) taken: Taken<C>,
}

/// How much one transaction may take along.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) entries: usize,
    /// Appends that are worth waiting for: as many as the last batch had.
    pub(super) expected: usize,
}

/// What a batch has taken from the queue.
pub(super) struct Taken<C: RaftTypeConfig> {
    pub(super) answers: Vec<Answer<C>>,
    pub(super) room: Vec<OwnedSemaphorePermit>,
    /// Records that have been written.
    pub(super) spent: Vec<Records>,
    pub(super) bytes: usize,
    pub(super) entries: usize,
    pub(super) appends: usize,
    /// The newest committed id that passed by.
    pub(super) committed: Option<Option<Vec<u8>>>,
}

impl<'a, C: RaftTypeConfig> Batch<'a, C> {
    pub(super) fn new(
        first: Op<C>,
        queue: Option<&'a Receiver<Waiting<C>>>,
        limits: Limits,
        shared: &'a Shared<C>,
    ) -> Self {
        Self {
            first: Some(first),
            queue,
            limits,
            patience: limits.expected.saturating_mul(PATIENCE),
            shared,
            taken: Taken {
                answers: Vec::with_capacity(limits.expected),
                room: Vec::with_capacity(limits.expected),
                spent: Vec::with_capacity(limits.expected),
                bytes: 0,
                entries: 0,
                appends: 0,
                committed: None,
            },
        }
    }

    /// The next change to write, never a committed id; none when the transaction should be committed.
    pub(super) fn next(&mut self) -> Option<Change> {
        loop {
            let Op { change, answer } = match self.first.take() {
                Some(first) => first,
                None => self.arrival()?,
            };
            let (bytes, entries) = change.size();
            self.taken.bytes = self.taken.bytes.saturating_add(bytes);
            self.taken.entries = self.taken.entries.saturating_add(entries);
            self.taken.answers.push(answer);
            self.taken.appends += usize::from(matches!(change, Change::Append(_)));
            if matches!(change, Change::Vote(_)) {
                // An election waits for it; what is there goes with it, and nothing else is waited for.
                self.patience = 0;
            }
            match change {
                Change::Committed(bytes) => self.taken.committed = Some(bytes),
                Change::Append(_) | Change::Vote(_) | Change::Truncate { .. } | Change::Purge { .. } => {
                    return Some(change);
                }
            }
        }
    }

    /// What else waits, and those that were answered together with it the last time.
    fn arrival(&mut self) -> Option<Op<C>> {
        if self.taken.bytes >= self.limits.bytes || self.taken.entries >= self.limits.entries {
            return None;
        }
        let queue = self.queue?;
        loop {
            if let Ok(waiting) = queue.try_recv() {
                return Some(self.accept(waiting));
            }
            if self.taken.appends >= self.limits.expected || self.patience == 0 {
                break;
            }
            self.patience -= 1;
            std::hint::spin_loop();
        }
        match self.shared.take_rider(queue) {
            Ok(rider) => {
                self.taken.committed = rider.or_else(|| self.taken.committed.take());
                None
            }
            Err(waiting) => Some(self.accept(waiting)),
        }
    }

    fn accept(&mut self, (op, room): Waiting<C>) -> Op<C> {
        self.taken.room.push(room);
        self.shared.metrics.dequeued();
        op
    }
}
