//! What the store, its readers and its owner thread share.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, mpsc::Receiver},
};

use openraft::{
    RaftTypeConfig,
    type_config::alias::{LogIdOf, VoteOf},
};
use redb::{Database, WriteTransaction};

use super::{
    metrics::LogMetrics,
    options::LogOwner,
    queue::{Records, Waiting},
    writer,
};
use crate::{error::StoreError, window::Window};

pub(super) struct Shared<C: RaftTypeConfig> {
    pub(super) path: PathBuf,
    /// None once the store is closed. Held for reading by whoever uses the database, never across a wait.
    db: RwLock<Option<Database>>,
    state: Mutex<State<C>>,
    pub(super) metrics: LogMetrics,
    /// The error that stopped the store.
    failure: OnceLock<Arc<StoreError>>,
}

/// The log as its callers see it: what they were told, whether or not it is on disk yet.
pub(super) struct State<C: RaftTypeConfig> {
    pub(super) window: Window<C>,
    /// The vote on disk. Changes only once the new one is durable.
    pub(super) vote: Option<VoteOf<C>>,
    pub(super) committed: Option<LogIdOf<C>>,
    /// Whose log it is, if it is somebody's.
    pub(super) owner: Option<LogOwner>,
    /// Number of the newest append.
    pub(super) appends: u64,
    /// Buffers for the next appends.
    pub(super) spare: Vec<Records>,
    pub(super) rider: Rider,
}

/// The newest committed id on its way to the owner. It wakes nobody who looks by himself: whoever hears of a commit
/// would otherwise wake the owner once more for each batch, to write nothing.
#[derive(Debug, Default)]
pub(super) struct Rider {
    /// Goes with the next transaction that empties the queue; the inner `None` erases it.
    waiting: Option<Option<Vec<u8>>>,
    /// Whether the owner looks before long.
    is_awaited: bool,
}

impl Rider {
    /// Leaves `bytes` for the owner; gives them back if it has to be woken for them.
    pub(super) fn board(&mut self, bytes: Option<Vec<u8>>) -> Result<(), Option<Vec<u8>>> {
        if !self.is_awaited {
            return Err(bytes);
        }
        self.waiting = Some(bytes);
        Ok(())
    }

    /// From now on the owner looks by itself.
    pub(super) const fn listen(&mut self) {
        self.is_awaited = true;
    }

    /// The owner stops to look, unless something has boarded or it is `busy`; whether it still looks.
    pub(super) const fn rest_unless(&mut self, busy: bool) -> bool {
        self.is_awaited = busy || self.waiting.is_some();
        self.is_awaited
    }

    pub(super) const fn take(&mut self) -> Option<Option<Vec<u8>>> {
        self.waiting.take()
    }
}

impl<C: RaftTypeConfig> State<C> {
    /// Makes entries readable; their records are `records`. All or none.
    pub(super) fn push(&mut self, entries: Vec<C::Entry>, records: &Records) -> Result<u64, StoreError> {
        self.window.check_run(&entries)?;
        self.appends = self.appends.saturating_add(1);
        for (entry, (_, bytes)) in entries.into_iter().zip(&records.entries) {
            self.window.push(entry, *bytes, self.appends);
        }
        Ok(self.appends)
    }
}

impl<C: RaftTypeConfig> Shared<C> {
    pub(super) fn new(path: PathBuf, db: Database, state: State<C>) -> Self {
        Self {
            path,
            db: RwLock::new(Some(db)),
            state: Mutex::new(state),
            metrics: LogMetrics::new(),
            failure: OnceLock::new(),
        }
    }

    /// The state of the log. Held for moments only.
    pub(super) fn state(&self) -> MutexGuard<'_, State<C>> {
        // Nothing panics half-way through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What rides along, if `queue` is empty: its entries are on disk then, or in the hands of who asks. Otherwise
    /// what arrived first.
    pub(super) fn take_rider(
        &self,
        queue: &Receiver<Waiting<C>>,
    ) -> Result<Option<Option<Vec<u8>>>, Waiting<C>> {
        let mut state = self.state();
        match queue.try_recv() {
            Ok(waiting) => Err(waiting),
            Err(_) => Ok(state.rider.take()),
        }
    }

    /// The database, unless the store is closed.
    pub(super) fn db(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the database away from everybody.
    pub(super) fn take_db(&self) -> Option<Database> {
        self.db.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// An error if the store has stopped.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            Some(cause) => Err(StoreError::Poisoned {
                cause: Arc::clone(cause),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn failure(&self) -> Option<Arc<StoreError>> {
        self.failure.get().cloned()
    }

    /// Stops the store. The first error stays the cause.
    pub(super) fn fail(&self, error: StoreError) -> Arc<StoreError> {
        let cause = self.failure.get_or_init(|| {
            tracing::error!(path = %self.path.display(), code = error.code(), %error, "the log has stopped");
            LogMetrics::failed(error.code());
            Arc::new(error)
        });
        Arc::clone(cause)
    }

    /// The error of a call that finds the store gone.
    pub(super) fn closed(&self) -> StoreError {
        match self.check() {
            Err(poisoned) => poisoned,
            Ok(()) => StoreError::Closed {
                path: self.path.clone(),
            },
        }
    }

    /// Runs `change` in a transaction and makes it durable.
    pub(super) fn transact(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let guard = self.db();
        let db = guard.as_ref().ok_or_else(|| StoreError::Closed {
            path: self.path.clone(),
        })?;
        self.contain(|| writer::transact(db, &self.path, change))
    }

    /// Runs code of redb, which panics on some damaged pages, and turns a panic into an error.
    ///
    /// Sound because after an error the store is stopped: nobody looks again at what a panic left behind.
    pub(super) fn contain<T>(&self, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        contain(&self.path, run)
    }
}

/// See [`Shared::contain`].
pub(super) fn contain<T>(
    path: &std::path::Path,
    run: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Err(StoreError::Damaged {
            path: path.to_path_buf(),
            detail: format!("redb panicked: {}", text.as_deref().unwrap_or("no message")),
        })
    })
}

/// Tells whether a store works, and if not, why. Outlives the store.
pub struct LogMonitor<C: RaftTypeConfig> {
    shared: Arc<Shared<C>>,
}

impl<C: RaftTypeConfig> LogMonitor<C> {
    pub(super) const fn new(shared: Arc<Shared<C>>) -> Self {
        Self { shared }
    }

    /// The error that stopped the store, if it has stopped.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<StoreError>> {
        self.shared.failure()
    }
}

impl<C: RaftTypeConfig> Clone for LogMonitor<C> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl<C: RaftTypeConfig> fmt::Debug for LogMonitor<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMonitor")
            .field("failure", &self.failure())
            .finish_non_exhaustive()
    }
}
