//! [`RedbLogStore`]: the log on disk, with one fsync for everything that waits.

mod inspect;
mod metrics;
mod open;
mod options;
mod queue;
mod reader;
mod shared;
mod simulate;
mod writer;

use std::{
    fmt, io,
    marker::PhantomData,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use futures_util::future::BoxFuture;
use openraft::{
    LogState, OptionalSend, RaftTypeConfig,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
    type_config::alias::{LogIdOf, VoteOf},
};
use redb::StorageBackend;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

pub use self::{
    inspect::{LogReport, inspect, verify, verify_each},
    options::{LogOptions, LogOwner, WriterMode},
    reader::RedbLogReader,
    shared::LogMonitor,
};
use self::{
    queue::{Answer, Callers, Change, Op, Records, Room},
    shared::Shared,
    writer::Writer,
};
use crate::{
    codec::EntryCodec,
    error::{Record, StoreError},
    record,
    simulated::SimulatedDisk,
};

/// A Raft log in one redb file.
///
/// Every change goes through one ordered, bounded queue to one owner thread. The owner takes all that
/// waits, writes it in one transaction, syncs once, and then answers all of it (group commit); so votes and
/// entries are never reordered, and the price of an fsync is shared. [`RaftLogStorage::append`] returns as
/// soon as its entries are queued: readers find them in memory.
///
/// Dropping the store writes what is queued, ends the thread and closes the file, which blocks for about
/// one fsync. Readers that outlive the store answer with [`StoreError::Closed`].
pub struct RedbLogStore<C: RaftTypeConfig, K: EntryCodec<C>> {
    shared: Arc<Shared<C>>,
    driver: Driver<C>,
    options: LogOptions,
    /// Mean size of the records of the last append.
    entry_bytes: usize,
    codec: PhantomData<fn() -> K>,
}

enum Driver<C: RaftTypeConfig> {
    Thread {
        /// None once the store is being dropped: closing the queue tells the owner to finish.
        queue: Option<Callers<C>>,
        owner: Option<std::thread::JoinHandle<()>>,
    },
    Inline(Mutex<Writer<C>>),
    /// The owner is a task of the caller's.
    Task(Callers<C>),
}

impl<C, K> RedbLogStore<C, K>
where
    C: RaftTypeConfig,
    K: EntryCodec<C>,
{
    /// Opens the log at `path`, creating it if there is none.
    ///
    /// Verifies every page of the file, which takes about 0.3 s per million entries; blocks meanwhile.
    ///
    /// # Errors
    /// A file that is damaged, foreign, newer, locked or inaccessible; see [`StoreError`].
    pub fn open(path: impl AsRef<Path>, options: LogOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        Self::start(open::from_path::<C, K>(path, &options)?, options)
    }

    /// Opens the log in a storage of the caller's: memory, a counting one, one that fails.
    ///
    /// `name` stands for the path in errors. An empty storage becomes a new log.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_backend(
        backend: impl StorageBackend,
        name: impl AsRef<Path>,
        options: LogOptions,
    ) -> Result<Self, StoreError> {
        let create = open::IfEmpty::Create;
        let shared = open::from_backend::<C, K>(backend, name.as_ref(), &options, create)?;
        Self::start(shared, options)
    }

    /// Opens the log on a simulated disk, and gives the task that has to run for anything to be written.
    ///
    /// What the task has not written when it is dropped is lost. Whatever [`LogOptions::writer`] says, nobody
    /// else writes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_simulated(
        disk: &SimulatedDisk,
        name: impl AsRef<Path>,
        options: LogOptions,
    ) -> Result<(Self, BoxFuture<'static, ()>), StoreError> {
        let shared =
            open::from_backend::<C, K>(disk.attach(), name.as_ref(), &options, open::IfEmpty::Create)?;
        let shared = Arc::new(shared);
        let writer = Writer::new(Arc::clone(&shared), &options);
        let (sender, waiting) = mpsc::channel();
        let arrived = Arc::new(Notify::new());
        let callers = Callers::of_task(Room::new(&options), sender, Arc::clone(&arrived));
        let log = Self {
            shared,
            driver: Driver::Task(callers),
            options,
            entry_bytes: 0,
            codec: PhantomData,
        };
        Ok((
            log,
            Box::pin(simulate::run(writer, waiting, arrived, disk.clone())),
        ))
    }

    /// A handle that tells, also after the store has been handed to openraft, why it has stopped.
    #[must_use]
    pub fn monitor(&self) -> LogMonitor<C> {
        LogMonitor::new(Arc::clone(&self.shared))
    }

    /// A reader of the entries and the vote. Readers are independent of each other.
    #[must_use]
    pub fn reader(&self) -> RedbLogReader<C, K> {
        RedbLogReader::new(Arc::clone(&self.shared))
    }

    fn start(shared: Shared<C>, options: LogOptions) -> Result<Self, StoreError> {
        let shared = Arc::new(shared);
        let writer = Writer::new(Arc::clone(&shared), &options);
        let driver = match options.writer {
            WriterMode::Inline => Driver::Inline(Mutex::new(writer)),
            WriterMode::Thread => {
                let (sender, waiting) = mpsc::channel();
                let owner = std::thread::Builder::new()
                    .name("rivven-raft-log".into())
                    .spawn(move || writer.run(&waiting))
                    .map_err(|error| {
                        let path = shared.path.clone();
                        StoreError::Open {
                            path,
                            source: error.into(),
                        }
                    })?;
                let room = Room::new(&options);
                Driver::Thread {
                    queue: Some(Callers::new(room, sender)),
                    owner: Some(owner),
                }
            }
        };
        Ok(Self {
            shared,
            driver,
            options,
            entry_bytes: 0,
            codec: PhantomData,
        })
    }

    /// Waits for room in the queue for one operation of `bytes`.
    async fn reserve(&self, bytes: usize) -> Result<Place<'_, C>, StoreError> {
        self.shared.check()?;
        let callers = match &self.driver {
            Driver::Inline(writer) => return Ok(Place::Inline(writer)),
            Driver::Thread { queue, .. } => queue.as_ref().ok_or_else(|| self.shared.closed())?,
            Driver::Task(callers) => callers,
        };
        let room = callers.room.take(bytes).await;
        let room = room.ok_or_else(|| self.shared.closed())?;
        Ok(Place::Queue(&self.shared, callers, room))
    }

    /// Encodes the entries of one append and checks each against the limit.
    fn encode(&mut self, entries: &[C::Entry]) -> Result<Records, StoreError> {
        // Entries tend to be as large as the ones before: guessing right saves most copies.
        let guess = self.entry_bytes.saturating_mul(entries.len());
        let mut records = self.shared.state().spare.pop().unwrap_or_default();
        records.bytes.clear();
        records.entries.clear();
        records.bytes.reserve(guess.min(self.options.batch_bytes));
        records.entries.reserve(entries.len());
        for entry in entries {
            let index = entry.index();
            let start = records.bytes.len();
            record::seal_entry::<C, K>(entry, &mut records.bytes)
                .map_err(|source| StoreError::Encode { index, source })?;
            let bytes = records.bytes.len().saturating_sub(start);
            let limit = self.options.max_entry_bytes;
            if bytes > limit {
                return Err(StoreError::TooLarge { index, bytes, limit });
            }
            records.entries.push((index, bytes));
        }
        self.entry_bytes = records.bytes.len().checked_div(entries.len()).unwrap_or_default();
        Ok(records)
    }

    fn log_id_record(record: Record, id: &LogIdOf<C>) -> Vec<u8> {
        let mut out = Vec::new();
        let sealed = record::seal(record, &mut out, |out| {
            K::encode_log_id(id, out);
            Ok::<(), std::convert::Infallible>(())
        });
        match sealed {
            Ok(()) => out,
        }
    }
}

/// Room for one operation: in the queue, or at the writer itself.
enum Place<'a, C: RaftTypeConfig> {
    Queue(&'a Shared<C>, &'a Callers<C>, OwnedSemaphorePermit),
    Inline(&'a Mutex<Writer<C>>),
}

impl<C: RaftTypeConfig> Place<'_, C> {
    fn submit(self, change: Change, answer: Answer<C>) {
        let op = Op { change, answer };
        match self {
            Self::Queue(shared, callers, room) => {
                shared.metrics.queued();
                callers.send((op, room));
            }
            Self::Inline(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                writer.commit(op, None);
            }
        }
    }
}

impl<C, K> RaftLogStorage<C> for RedbLogStore<C, K>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
    K: EntryCodec<C>,
{
    type LogReader = RedbLogReader<C, K>;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        self.shared.check()?;
        Ok(self.shared.state().window.log_state())
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> Result<(), io::Error> {
        let mut bytes = Vec::new();
        let Ok(()) = record::seal(Record::Vote, &mut bytes, |out| {
            K::encode_vote(vote, out);
            Ok::<(), std::convert::Infallible>(())
        });
        let (done, outcome) = oneshot::channel();
        let vote = vote.clone();
        self.reserve(bytes.len())
            .await?
            .submit(Change::Vote(bytes), Answer::Vote { vote, done });
        let outcome = outcome.await.map_err(|_| self.shared.closed())?;
        Ok(outcome?)
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let bytes = committed
            .as_ref()
            .map(|id| Self::log_id_record(Record::Committed, id));
        self.shared.check()?;
        let boarded = {
            let mut state = self.shared.state();
            state.committed = committed;
            state.rider.board(bytes)
        };
        if let Err(bytes) = boarded {
            let place = self.reserve(bytes.as_ref().map_or(0, Vec::len)).await?;
            place.submit(Change::Committed(bytes), Answer::Nobody);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<C>>, io::Error> {
        self.shared.check()?;
        Ok(self.shared.state().committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let records = self.encode(&entries)?;
        let place = self.reserve(records.bytes.len()).await?;
        // From here on nothing waits, so the entries in memory and those in the queue cannot part ways.
        let number = self.shared.state().push(entries, &records)?;
        place.submit(Change::Append(records), Answer::Append { number, callback });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let keep = last_log_id.as_ref().map(|id| id.index);
        let place = self.reserve(0).await?;
        if self.shared.state().window.truncate_after(last_log_id) {
            place.submit(Change::Truncate { keep }, Answer::Nobody);
        }
        Ok(())
    }

    async fn purge(&mut self, log_id: LogIdOf<C>) -> Result<(), io::Error> {
        let upto = log_id.index;
        let bytes = Self::log_id_record(Record::Purged, &log_id);
        let place = self.reserve(bytes.len()).await?;
        if self.shared.state().window.purge(log_id) {
            place.submit(Change::Purge { upto, bytes }, Answer::Nobody);
        }
        Ok(())
    }
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> Drop for RedbLogStore<C, K> {
    fn drop(&mut self) {
        match &mut self.driver {
            Driver::Thread { queue, owner, .. } => {
                drop(queue.take());
                if owner.take().is_some_and(|owner| owner.join().is_err()) {
                    tracing::error!(path = %self.shared.path.display(), "the owner thread of the log panicked");
                }
            }
            Driver::Inline(writer) => {
                writer.get_mut().unwrap_or_else(PoisonError::into_inner).close();
            }
            // The task closes the log when it finds its callers gone.
            Driver::Task(_) => {}
        }
    }
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> fmt::Debug for RedbLogStore<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbLogStore")
            .field("path", &self.shared.path)
            .field("state", &self.shared.state().window.log_state())
            .finish_non_exhaustive()
    }
}
