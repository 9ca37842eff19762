//! [`MemLogStore`]: the log in memory, for simulation and for nodes without a data directory.

use std::{
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader, RaftTypeConfig,
    storage::{IOFlushed, RaftLogStorage},
    type_config::alias::{LogIdOf, VoteOf},
};

use crate::{error::StoreError, window::Window};

/// A log in memory with the contract of a durable one, but for durability.
///
/// Deterministic: no thread, no timer, every operation is complete when it returns. Clones share one log,
/// so a simulation keeps a clone as the "disk" of a node that it stops and starts again. There is no limit
/// but memory: purge behind snapshots.
///
/// ```
/// # use openraft::storage::RaftLogStorage;
/// # async fn f<C: openraft::RaftTypeConfig>() -> std::io::Result<()> where C::Entry: Clone {
/// let disk = rivven_raft_store::MemLogStore::<C>::new();
/// let mut of_first_life = disk.clone();
/// drop(of_first_life);
/// let mut of_second_life = disk.clone();
/// of_second_life.get_log_state().await?;
/// # Ok(())
/// # }
/// ```
pub struct MemLogStore<C: RaftTypeConfig> {
    log: Arc<Mutex<MemLog<C>>>,
}

struct MemLog<C: RaftTypeConfig> {
    window: Window<C>,
    vote: Option<VoteOf<C>>,
    committed: Option<LogIdOf<C>>,
}

impl<C: RaftTypeConfig> MemLogStore<C> {
    /// An empty log that has never voted.
    #[must_use]
    pub fn new() -> Self {
        let log = MemLog {
            window: Window::new(None, 0, None),
            vote: None,
            committed: None,
        };
        Self {
            log: Arc::new(Mutex::new(log)),
        }
    }

    fn log(&self) -> MutexGuard<'_, MemLog<C>> {
        // Nothing below panics half-way through a change, so a poisoned lock still guards a whole log.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: RaftTypeConfig> Default for MemLogStore<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: RaftTypeConfig> Clone for MemLogStore<C> {
    fn clone(&self) -> Self {
        Self {
            log: Arc::clone(&self.log),
        }
    }
}

impl<C: RaftTypeConfig> Debug for MemLogStore<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.log().window.log_state();
        f.debug_struct("MemLogStore").field("state", &state).finish()
    }
}

impl<C> RaftLogReader<C> for MemLogStore<C>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
{
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<C::Entry>, io::Error> {
        let log = self.log();
        let range = log.window.clip(&range);
        Ok(log.window.slots(&range).map(|(entry, _)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<C>>, io::Error> {
        Ok(self.log().vote.clone())
    }
}

impl<C> RaftLogStorage<C> for MemLogStore<C>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
{
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        Ok(self.log().window.log_state())
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> Result<(), io::Error> {
        self.log().vote = Some(vote.clone());
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        self.log().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<C>>, io::Error> {
        Ok(self.log().committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        {
            let mut log = self.log();
            log.window.check_run(&entries).map_err(StoreError::from)?;
            for entry in entries {
                log.window.push(entry, 0, 0);
            }
        }
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        self.log().window.truncate_after(last_log_id);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogIdOf<C>) -> Result<(), io::Error> {
        self.log().window.purge(log_id);
        Ok(())
    }
}
