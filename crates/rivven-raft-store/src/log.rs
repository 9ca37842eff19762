//! [`RedbLogStore`]: the log on disk, with one fsync for everything that waits.

mod inspect;
mod metrics;
mod open;
mod options;
mod reader;
mod shared;
mod writer;

use std::{
    fmt, io,
    marker::PhantomData,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use openraft::{
    LogState, OptionalSend, RaftTypeConfig,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
    type_config::alias::{LogIdOf, VoteOf},
};
use redb::StorageBackend;
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use self::{
    inspect::{LogReport, inspect, verify},
    options::{LogOptions, LogOwner, WriterMode},
    reader::RedbLogReader,
    shared::LogMonitor,
};
use self::{
    shared::Shared,
    writer::{Op, Records, Writer},
};
use crate::{
    codec::EntryCodec,
    error::{Record, StoreError},
    record,
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
    codec: PhantomData<fn() -> K>,
}

enum Driver<C: RaftTypeConfig> {
    Thread {
        /// None once the store is being dropped: closing the queue tells the owner to finish.
        queue: Option<mpsc::Sender<Op<C>>>,
        /// Bytes that may wait in the queue.
        budget: Arc<Semaphore>,
        owner: Option<std::thread::JoinHandle<()>>,
    },
    Inline(Mutex<Writer<C>>),
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
        let shared = open::from_backend::<C, K>(backend, name.as_ref(), &options)?;
        Self::start(shared, options)
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
                let (queue, waiting) = mpsc::channel(options.queue_len.max(1));
                let owner = std::thread::Builder::new()
                    .name("rivven-raft-log".into())
                    .spawn(move || writer.run(waiting))
                    .map_err(|error| {
                        let path = shared.path.clone();
                        StoreError::Open {
                            path,
                            source: error.into(),
                        }
                    })?;
                Driver::Thread {
                    queue: Some(queue),
                    budget: Arc::new(Semaphore::new(options.queue_bytes.min(Semaphore::MAX_PERMITS))),
                    owner: Some(owner),
                }
            }
        };
        Ok(Self {
            shared,
            driver,
            options,
            codec: PhantomData,
        })
    }

    /// Waits for room in the queue for one operation of `bytes`.
    async fn reserve(&self, bytes: usize) -> Result<Place<'_, C>, StoreError> {
        self.shared.check()?;
        match &self.driver {
            Driver::Inline(writer) => Ok(Place::Inline(writer)),
            Driver::Thread { queue, budget, .. } => {
                let queue = queue.as_ref().ok_or_else(|| self.shared.closed())?;
                // An operation larger than the whole budget passes alone instead of never.
                let bytes = u32::try_from(bytes.min(self.options.queue_bytes)).unwrap_or(u32::MAX);
                let budget = Arc::clone(budget);
                let permit = budget
                    .acquire_many_owned(bytes)
                    .await
                    .map_err(|_| self.shared.closed())?;
                let place = queue.reserve().await.map_err(|_| self.shared.closed())?;
                Ok(Place::Queue(place, permit))
            }
        }
    }

    /// Encodes the entries of one append and checks each against the limit.
    fn encode(&self, entries: &[C::Entry]) -> Result<Records, StoreError> {
        let mut records = Records::default();
        for entry in entries {
            let index = entry.index();
            let start = records.bytes.len();
            record::seal_entry::<C, K>(entry, &mut records.bytes)
                .map_err(|source| StoreError::Encode { index, source })?;
            let bytes = records.bytes.len().saturating_sub(start);
            if start == 0 {
                // Entries of one append tend to be alike; guessing from the first saves most copies.
                let rest = entries.len().saturating_sub(1);
                let guess = bytes.saturating_mul(rest).min(self.options.batch_bytes);
                records.bytes.reserve(guess);
                records.entries.reserve(entries.len());
            }
            let limit = self.options.max_entry_bytes;
            if bytes > limit {
                return Err(StoreError::TooLarge { index, bytes, limit });
            }
            records.entries.push((index, bytes));
        }
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
    Queue(mpsc::Permit<'a, Op<C>>, tokio::sync::OwnedSemaphorePermit),
    Inline(&'a Mutex<Writer<C>>),
}

impl<C: RaftTypeConfig> Place<'_, C> {
    fn submit(self, op: impl FnOnce(Option<tokio::sync::OwnedSemaphorePermit>) -> Op<C>) {
        match self {
            Self::Queue(place, permit) => place.send(op(Some(permit))),
            Self::Inline(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                writer.commit(vec![op(None)]);
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
            .submit(|_permit| Op::Vote { vote, bytes, done });
        let outcome = outcome.await.map_err(|_| self.shared.closed())?;
        Ok(outcome?)
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let bytes = committed
            .as_ref()
            .map(|id| Self::log_id_record(Record::Committed, id));
        let place = self.reserve(bytes.as_ref().map_or(0, Vec::len)).await?;
        self.shared.state().committed = committed;
        place.submit(|_permit| Op::Committed { bytes });
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
        place.submit(|permit| Op::Append {
            records,
            number,
            callback,
            permit,
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let keep = last_log_id.as_ref().map(|id| id.index);
        let place = self.reserve(0).await?;
        if self.shared.state().window.truncate_after(last_log_id) {
            place.submit(|_permit| Op::Truncate { keep });
        }
        Ok(())
    }

    async fn purge(&mut self, log_id: LogIdOf<C>) -> Result<(), io::Error> {
        let upto = log_id.index;
        let bytes = Self::log_id_record(Record::Purged, &log_id);
        let place = self.reserve(bytes.len()).await?;
        if self.shared.state().window.purge(log_id) {
            place.submit(|_permit| Op::Purge { upto, bytes });
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
