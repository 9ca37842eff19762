//! When no snapshot of this node reaches its log any more: the state for it, and the way out of it.

use std::fmt;

use openraft::{
    LogState, RaftLogReader, RaftTypeConfig,
    entry::RaftEntry,
    storage::{RaftLogStorage, RaftLogStorageExt},
    type_config::alias::LogIdOf,
};

use super::{DamagedSnapshot, SnapshotError, SnapshotFile, SnapshotStore};
use crate::codec::EntryCodec;

/// The entries up to `purged` were removed because snapshots covered them, and no snapshot does any more.
///
/// A node in this state must not start its core: it would begin with an empty state machine and miss what
/// was applied. Its vote and its log are whole, so it is no stranger to its cluster either. The way out is a
/// snapshot of any peer that reaches `purged` or further: a snapshot holds committed entries only, so it
/// does not matter who leads. [`SnapshotStore::repair`] makes it this node's own.
pub struct SnapshotGap<C: RaftTypeConfig> {
    /// The last entry that is in no file of this node.
    pub purged: LogIdOf<C>,
    /// Up to where the newest whole snapshot reaches, if there is one.
    pub latest: Option<LogIdOf<C>>,
    /// The snapshots that were set aside.
    pub damaged: Vec<DamagedSnapshot>,
}

impl<C: RaftTypeConfig> fmt::Debug for SnapshotGap<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotGap")
            .field("purged", &self.purged)
            .field("latest", &self.latest)
            .field("damaged", &self.damaged)
            .finish()
    }
}

impl<C: RaftTypeConfig> fmt::Display for SnapshotGap<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { purged, damaged, .. } = self;
        write!(
            f,
            "the log was purged up to {purged}, and no snapshot reaches that far"
        )?;
        for DamagedSnapshot { path, reason, .. } in damaged {
            write!(f, "; {} was set aside: {reason}", path.display())?;
        }
        Ok(())
    }
}

impl<C, K> SnapshotStore<C, K>
where
    C: RaftTypeConfig,
    K: EntryCodec<C>,
{
    /// What is missing between the snapshots and a log of this state; None for a node that can start.
    #[must_use]
    pub fn gap(&self, log: &LogState<C>) -> Option<SnapshotGap<C>> {
        let purged = log.last_purged_log_id.clone()?;
        let latest = self
            .latest()
            .and_then(|snapshot| snapshot.meta().last_log_id.clone());
        if latest.as_ref().is_some_and(|latest| latest.index >= purged.index) {
            return None;
        }
        Some(SnapshotGap {
            purged,
            latest,
            damaged: self.damaged(),
        })
    }

    /// Keeps a snapshot that was received from a peer while the core of this node is not running, and makes
    /// the log fit it. The vote stays, and so do the entries that agree with the snapshot.
    ///
    /// An entry at the snapshot's own place with another id was never committed; it and what follows it are
    /// removed first. Interrupted at any point, it is repeated with the same or another snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::TooOld`] for one that leaves a gap; those of [`Self::keep`] and of the log.
    pub async fn repair<L>(&self, log: &mut L, snapshot: &SnapshotFile<C>) -> Result<(), SnapshotError>
    where
        L: RaftLogStorage<C>,
    {
        let at = |source| SnapshotError::Io {
            path: snapshot.path(),
            source,
        };
        let state = log.get_log_state().await.map_err(at)?;
        let needed = state.last_purged_log_id.as_ref().map(|purged| purged.index);
        let reaches = snapshot.meta().last_log_id.clone();
        let (Some(reaches), true) = (reaches, snapshot.index() >= needed) else {
            return Err(SnapshotError::TooOld {
                path: snapshot.path(),
                found: snapshot.index(),
                needed: needed.unwrap_or_default(),
            });
        };
        let mut reader = log.get_log_reader().await;
        let there = reader.try_get_log_entries(reaches.index..=reaches.index).await;
        let there = there.map_err(at)?.first().map(RaftEntry::log_id);
        if there.is_some_and(|there| there != reaches) {
            log.truncate_after(state.last_purged_log_id).await.map_err(at)?;
            // The removal must be durable before the snapshot is; an append waits for all before it.
            log.blocking_append(Vec::new())
                .await
                .map_err(|error| at(std::io::Error::other(error)))?;
        }
        self.keep(snapshot.meta(), snapshot)
    }
}
