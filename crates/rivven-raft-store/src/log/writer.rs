//! The one writer of a log: drains the queue, writes one transaction, syncs once, answers everyone.

use std::{ops::Bound, path::Path, sync::Arc};

use openraft::{RaftTypeConfig, storage::IOFlushed, type_config::alias::VoteOf};
use redb::{CursorMut, Database, TableDefinition, WriteTransaction};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};

use super::{options::LogOptions, shared::Shared};
use crate::error::{Record, StoreError};

/// Index of an entry to its record.
pub(super) const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

/// Key of a single value to its record; the keys are those of [`Record`].
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// How often the owner lets other threads run when fewer operations wait than the last batch had.
///
/// Those that were answered together come back together, a few microseconds later. Whoever syncs for the
/// first of them alone makes the others wait for two syncs. A lone appender is never waited for, and no
/// clock is involved: a crowd that got smaller costs these few yields once.
const PATIENCE: u32 = 8;

/// One change of the log, in the order of the queue.
pub(super) enum Op<C: RaftTypeConfig> {
    Append {
        records: Records,
        /// Number of the append, for [`Window::evict`](crate::window::Window::evict).
        number: u64,
        callback: IOFlushed<C>,
        /// The room that the records take in the queue; given back when the append is answered.
        permit: Option<OwnedSemaphorePermit>,
    },
    Vote {
        vote: VoteOf<C>,
        bytes: Vec<u8>,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Removes the entries after `keep`.
    Truncate { keep: Option<u64> },
    /// Removes the entries up to `upto` and records that they were there.
    Purge { upto: u64, bytes: Vec<u8> },
    /// Rides in the next transaction.
    Committed { bytes: Option<Vec<u8>> },
}

/// The records of one append, end to end.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) bytes: Vec<u8>,
    /// Index and length of each.
    pub(super) entries: Vec<(u64, usize)>,
}

pub(super) struct Writer<C: RaftTypeConfig> {
    shared: Arc<Shared<C>>,
    /// The newest committed id that no transaction has taken along yet; the inner `None` erases it.
    committed: Option<Option<Vec<u8>>>,
    batch_bytes: usize,
    batch_entries: usize,
    tail_bytes: usize,
}

impl<C: RaftTypeConfig> Writer<C> {
    pub(super) const fn new(shared: Arc<Shared<C>>, options: &LogOptions) -> Self {
        Self {
            shared,
            committed: None,
            batch_bytes: options.batch_bytes,
            batch_entries: options.batch_entries,
            tail_bytes: options.tail_bytes,
        }
    }

    /// The owner thread: until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Op<C>>) {
        let mut expected = 1;
        while let Some(first) = queue.blocking_recv() {
            let (mut bytes, mut entries) = first.size();
            self.shared.metrics.queued(queue.len().saturating_add(1));
            let mut batch = vec![first];
            let mut patience = PATIENCE;
            while bytes < self.batch_bytes && entries < self.batch_entries {
                let Ok(op) = queue.try_recv() else {
                    if batch.len() >= expected || patience == 0 {
                        break;
                    }
                    patience -= 1;
                    std::thread::yield_now();
                    continue;
                };
                let (op_bytes, op_entries) = op.size();
                bytes = bytes.saturating_add(op_bytes);
                entries = entries.saturating_add(op_entries);
                batch.push(op);
            }
            expected = batch.len();
            self.commit(batch);
            self.shared.metrics.queued(queue.len());
        }
        self.close();
    }

    /// Makes a batch durable, then answers it; after an earlier failure only answers it.
    pub(super) fn commit(&mut self, mut batch: Vec<Op<C>>) {
        for op in &mut batch {
            if let Op::Committed { bytes } = op {
                self.committed = Some(bytes.take());
            }
        }
        let outcome = match self.shared.failure() {
            Some(cause) => Err(cause),
            None if batch.iter().all(|op| matches!(op, Op::Committed { .. })) => Ok(()),
            None => self.write(&batch).map_err(|error| self.shared.fail(error)),
        };
        match outcome {
            Ok(()) => self.acknowledge(batch),
            Err(cause) => refuse(batch, &cause),
        }
    }

    /// Writes what waits, then closes the file. Later operations and readers find the store closed.
    pub(super) fn close(&mut self) {
        if self.committed.is_some()
            && self.shared.failure().is_none()
            && let Err(error) = self.write(&[])
        {
            self.shared.fail(error);
        }
        let Some(db) = self.shared.take_db() else { return };
        let path = &self.shared.path;
        let closed = self
            .shared
            .contain(|| db.close().map_err(|error| StoreError::from_redb(path, error)));
        if let Err(error) = closed {
            // Everything acknowledged is durable; the next open repairs what a clean close leaves tidy.
            tracing::warn!(path = %path.display(), %error, "the log was not closed cleanly");
        }
    }

    /// One transaction with one sync.
    fn write(&mut self, batch: &[Op<C>]) -> Result<(), StoreError> {
        let path = &self.shared.path;
        let guard = self.shared.db();
        let db = guard
            .as_ref()
            .ok_or_else(|| StoreError::Closed { path: path.clone() })?;
        let committed = self.committed.as_ref();
        let begin = Instant::now();
        self.shared.contain(|| {
            transact(db, path, |txn| {
                apply(txn, batch)?;
                match committed {
                    None => Ok(()),
                    Some(bytes) => put(txn, Record::Committed, bytes.as_deref()),
                }
            })
        })?;
        drop(guard);
        self.committed = None;
        let (bytes, entries) = batch.iter().map(Op::size).fold((0_usize, 0_usize), |sum, size| {
            (sum.0.saturating_add(size.0), sum.1.saturating_add(size.1))
        });
        self.shared.metrics.committed(entries, bytes, begin.elapsed());
        Ok(())
    }

    fn acknowledge(&self, batch: Vec<Op<C>>) {
        let mut durable = None;
        let mut votes = batch.iter().filter_map(|op| match op {
            Op::Vote { vote, .. } => Some(vote),
            Op::Append { .. } | Op::Truncate { .. } | Op::Purge { .. } | Op::Committed { .. } => None,
        });
        if let Some(vote) = votes.next_back() {
            self.shared.state().vote = Some(vote.clone());
        }
        for op in batch {
            match op {
                Op::Append {
                    number,
                    callback,
                    permit,
                    ..
                } => {
                    durable = Some(number);
                    drop(permit);
                    callback.io_completed(Ok(()));
                }
                // Whoever saved the vote may have stopped waiting.
                Op::Vote { done, .. } => drop(done.send(Ok(()))),
                Op::Truncate { .. } | Op::Purge { .. } | Op::Committed { .. } => {}
            }
        }
        // Nobody waits for the tail to shrink, so it comes last.
        if let Some(durable) = durable {
            let evicted = self.shared.state().window.evict(durable, self.tail_bytes);
            drop(evicted);
        }
    }
}

impl<C: RaftTypeConfig> Op<C> {
    /// Bytes and entries to write.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Append { records, .. } => (records.bytes.len(), records.entries.len()),
            Self::Vote { bytes, .. } | Self::Purge { bytes, .. } => (bytes.len(), 1),
            Self::Truncate { .. } => (0, 1),
            Self::Committed { .. } => (0, 0),
        }
    }
}

fn refuse<C: RaftTypeConfig>(batch: Vec<Op<C>>, cause: &Arc<StoreError>) {
    for op in batch {
        let error = StoreError::Poisoned {
            cause: Arc::clone(cause),
        };
        match op {
            Op::Append { callback, permit, .. } => {
                drop(permit);
                callback.io_completed(Err(error.into()));
            }
            Op::Vote { done, .. } => drop(done.send(Err(error))),
            // Nobody waits for these; the next call of their sender fails.
            Op::Truncate { .. } | Op::Purge { .. } | Op::Committed { .. } => {}
        }
    }
}

/// Runs `change` in a transaction and makes it durable. redb's default is one sync per commit.
pub(super) fn transact(
    db: &Database,
    path: &Path,
    change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), StoreError> {
    let write = || -> Result<(), redb::Error> {
        let txn = db.begin_write()?;
        change(&txn)?;
        txn.commit()?;
        Ok(())
    };
    write().map_err(|error| StoreError::from_redb(path, error))
}

/// Writes or erases a single value.
pub(super) fn put(txn: &WriteTransaction, record: Record, bytes: Option<&[u8]>) -> Result<(), redb::Error> {
    let mut meta = txn.open_table(META)?;
    match bytes {
        Some(bytes) => drop(meta.insert(record.key(), bytes)?),
        None => drop(meta.remove(record.key())?),
    }
    Ok(())
}

fn apply<C: RaftTypeConfig>(txn: &WriteTransaction, batch: &[Op<C>]) -> Result<(), redb::Error> {
    let mut log = txn.open_table(LOG)?;
    let mut ops = batch.iter().peekable();
    while let Some(op) = ops.next() {
        match op {
            Op::Append { records, .. } => {
                // Appends that follow each other become one ascending run at the end of the table, which
                // redb writes several times faster than single inserts. A key that is not the greatest is
                // refused: the file would hold entries that the window does not know of.
                let mut end = log.upper_bound_mut(Bound::<u64>::Unbounded)?;
                insert(&mut end, records)?;
                while let Some(op) = ops.next_if(|op| matches!(op, Op::Append { .. } | Op::Committed { .. }))
                {
                    if let Op::Append { records, .. } = op {
                        insert(&mut end, records)?;
                    }
                }
                end.close()?;
            }
            Op::Vote { bytes, .. } => put(txn, Record::Vote, Some(bytes))?,
            Op::Truncate { keep: None } => log.retain(|_, _| false)?,
            Op::Truncate { keep: Some(keep) } => log.retain_in(keep.saturating_add(1).., |_, _| false)?,
            Op::Purge { upto, bytes } => {
                log.retain_in(..=*upto, |_, _| false)?;
                put(txn, Record::Purged, Some(bytes))?;
            }
            Op::Committed { .. } => {}
        }
    }
    Ok(())
}

/// Inserts the records of one append where the cursor stands: at the end of the log.
fn insert(end: &mut CursorMut<'_, u64, &[u8]>, records: &Records) -> Result<(), redb::Error> {
    let mut rest = records.bytes.as_slice();
    for (index, len) in &records.entries {
        let (record, behind) = rest.split_at_checked(*len).unwrap_or((rest, &[]));
        end.insert_before(index, record)?;
        rest = behind;
    }
    Ok(())
}
