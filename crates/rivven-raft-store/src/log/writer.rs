//! The one writer of a log: takes what waits, writes one transaction, syncs once, answers everyone.

use std::{
    ops::Bound,
    path::Path,
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use openraft::RaftTypeConfig;
use redb::{CursorMut, Database, TableDefinition, WriteTransaction};
use tokio::time::Instant;

use super::{
    options::LogOptions,
    queue::{self, Answer, Batch, Change, Limits, Next, Op, Records, Taken, Waiting},
    shared::Shared,
};
use crate::error::{Record, StoreError};

/// Index of an entry to its record.
pub(super) const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

/// Key of a single value to its record; the keys are those of [`Record`].
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

pub(super) struct Writer<C: RaftTypeConfig> {
    pub(super) shared: Arc<Shared<C>>,
    /// The newest committed id that no transaction has taken along yet; the inner `None` erases it.
    committed: Option<Option<Vec<u8>>>,
    /// Whether it looks at what rides along without being woken.
    listens: bool,
    limits: Limits,
    tail_bytes: usize,
    committed_flush: Duration,
}

/// What became of one transaction, before anyone is told.
pub(super) enum Written<C: RaftTypeConfig> {
    Durable(Taken<C>),
    Refused(Vec<Answer<C>>, Arc<StoreError>),
}

impl<C: RaftTypeConfig> Writer<C> {
    pub(super) const fn new(shared: Arc<Shared<C>>, options: &LogOptions) -> Self {
        Self {
            shared,
            committed: None,
            listens: false,
            limits: Limits {
                bytes: options.batch_bytes,
                entries: options.batch_entries,
                expected: 1,
            },
            tail_bytes: options.tail_bytes,
            committed_flush: options.committed_flush,
        }
    }

    /// The owner thread: until every caller is gone and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Waiting<C>>) {
        loop {
            match queue::wait(queue, self.quiet()) {
                Next::Op(waiting) => self.serve(waiting, queue),
                Next::Quiet => self.quieten(queue),
                Next::Closed => break,
            }
        }
        self.close();
    }

    /// From here on a committed id need not wake the owner.
    fn listen(&mut self) {
        if !self.listens {
            self.listens = true;
            self.shared.state().rider.listen();
        }
    }

    /// The log has been quiet for a while: writes a committed id that has waited, or rests until it is woken.
    fn quieten(&mut self, queue: &Receiver<Waiting<C>>) {
        match self.shared.take_rider(queue) {
            Ok(rider) => {
                self.committed = rider.or_else(|| self.committed.take());
                self.listens = self.shared.state().rider.rest_unless(self.committed.is_some());
                self.flush_committed();
            }
            Err(waiting) => self.serve(waiting, queue),
        }
    }

    fn serve(&mut self, (op, room): Waiting<C>, queue: &Receiver<Waiting<C>>) {
        self.shared.metrics.dequeued();
        self.commit(op, Some(queue));
        drop(room);
        self.listen();
    }

    /// How long the log has to be quiet until a committed id is written by itself, if one waits or may come.
    pub(super) fn quiet(&self) -> Option<Duration> {
        (self.listens || self.committed.is_some()).then_some(self.committed_flush)
    }

    /// Makes `first` and what arrives behind it durable, then answers; a store that has stopped only
    /// answers.
    pub(super) fn commit(&mut self, first: Op<C>, queue: Option<&Receiver<Waiting<C>>>) {
        if let Change::Committed(bytes) = first.change {
            // It waits for company, or until the log has been quiet for a while.
            self.committed = Some(bytes);
            return;
        }
        let written = self.write(first, queue);
        self.answer(written);
    }

    /// Makes `first` and what arrives behind it durable, unless the store has stopped.
    pub(super) fn write(&mut self, first: Op<C>, queue: Option<&Receiver<Waiting<C>>>) -> Written<C> {
        if let Some(cause) = self.shared.failure() {
            return Written::Refused(vec![first.answer], cause);
        }
        let shared = Arc::clone(&self.shared);
        let committed = self.committed.take();
        let mut batch = Batch::new(first, queue, self.limits, &shared);
        let begin = Instant::now();
        let outcome = shared.transact(|txn| {
            apply(txn, &mut batch)?;
            match batch.taken.committed.as_ref().or(committed.as_ref()) {
                None => Ok(()),
                Some(bytes) => put(txn, Record::Committed, bytes.as_deref()),
            }
        });
        let taken = batch.taken;
        match outcome {
            Ok(()) => {
                self.limits.expected = taken.appends;
                let took = begin.elapsed();
                shared.metrics.committed(taken.entries, taken.bytes, took);
                Written::Durable(taken)
            }
            Err(error) => Written::Refused(taken.answers, shared.fail(error)),
        }
    }

    /// Tells everyone whose change was in a transaction what became of it.
    pub(super) fn answer(&self, written: Written<C>) {
        match written {
            Written::Durable(taken) => self.acknowledge(taken),
            Written::Refused(answers, cause) => refuse(answers, &cause),
        }
    }

    /// Writes what waits, then closes the file. Later operations and readers find the store closed.
    pub(super) fn close(&mut self) {
        if let Some(rider) = self.shared.state().rider.take() {
            self.committed = Some(rider);
        }
        self.flush_committed();
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

    /// Writes a committed id that nothing has taken along.
    pub(super) fn flush_committed(&mut self) {
        let Some(bytes) = self.committed.take() else {
            return;
        };
        if self.shared.failure().is_some() {
            return;
        }
        let written = self
            .shared
            .transact(|txn| put(txn, Record::Committed, bytes.as_deref()));
        if let Err(error) = written {
            self.shared.fail(error);
        }
    }

    fn acknowledge(&self, taken: Taken<C>) {
        let votes = taken.answers.iter().filter_map(|answer| match answer {
            Answer::Vote { vote, .. } => Some(vote),
            Answer::Append { .. } | Answer::Nobody => None,
        });
        {
            let mut state = self.shared.state();
            if let Some(vote) = votes.last() {
                state.vote = Some(vote.clone());
            }
            Records::reuse(taken.spent, &mut state.spare);
        }
        // Whoever is answered comes back with the next operation, and finds room for it.
        drop(taken.room);
        let mut durable = None;
        for answer in taken.answers {
            match answer {
                Answer::Append { number, callback } => {
                    durable = Some(number);
                    callback.io_completed(Ok(()));
                }
                // Whoever saved the vote may have stopped waiting.
                Answer::Vote { done, .. } => drop(done.send(Ok(()))),
                Answer::Nobody => {}
            }
        }
        // Nobody waits for the tail to shrink, so it comes last.
        if let Some(durable) = durable {
            let evicted = self.shared.state().window.evict(durable, self.tail_bytes);
            drop(evicted);
        }
    }
}

fn refuse<C: RaftTypeConfig>(answers: Vec<Answer<C>>, cause: &Arc<StoreError>) {
    for answer in answers {
        let error = StoreError::Poisoned {
            cause: Arc::clone(cause),
        };
        match answer {
            Answer::Append { callback, .. } => callback.io_completed(Err(error.into())),
            Answer::Vote { done, .. } => drop(done.send(Err(error))),
            // The next call of their sender fails.
            Answer::Nobody => {}
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

/// Writes the changes of a batch in the order in which they arrive.
fn apply<C: RaftTypeConfig>(txn: &WriteTransaction, batch: &mut Batch<'_, C>) -> Result<(), redb::Error> {
    let mut log = txn.open_table(LOG)?;
    let mut next = batch.next();
    while let Some(change) = next.take() {
        match change {
            Change::Append(records) => {
                // Appends that follow each other become one ascending run at the end of the table, which
                // redb writes several times faster than single inserts. A key that is not the greatest is
                // refused: the file would hold entries that the window does not know of.
                let mut end = log.upper_bound_mut(Bound::<u64>::Unbounded)?;
                insert(&mut end, &records)?;
                batch.taken.spent.push(records);
                next = loop {
                    match batch.next() {
                        Some(Change::Append(records)) => {
                            insert(&mut end, &records)?;
                            batch.taken.spent.push(records);
                        }
                        other => break other,
                    }
                };
                end.close()?;
                continue;
            }
            Change::Vote(bytes) => put(txn, Record::Vote, Some(&bytes))?,
            Change::Truncate { keep: None } => log.retain(|_, _| false)?,
            Change::Truncate { keep: Some(keep) } => {
                log.retain_in(keep.saturating_add(1).., |_, _| false)?;
            }
            Change::Purge { upto, bytes } => {
                log.retain_in(..=upto, |_, _| false)?;
                put(txn, Record::Purged, Some(&bytes))?;
            }
            // A batch takes these apart: they are written last.
            Change::Committed(_) => {}
        }
        next = batch.next();
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
