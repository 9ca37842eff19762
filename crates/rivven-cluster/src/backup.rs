//! Backups of a running cluster.

use std::time::Duration;

use rivven_raft::{Backup, Refounding};

use crate::Cluster;

/// Why there is no backup. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The cluster is not founded yet, or this node is stopping. Wait, or ask another node.
    #[error("this node has no state to back up: {cause}")]
    NotReady {
        /// What it waits for.
        cause: String,
    },
    /// No quorum confirmed how new the state must be, or the snapshot could not be written.
    #[error(transparent)]
    Raft(#[from] rivven_raft::BackupError),
}

impl BackupError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::Raft(error) => error.code(),
        }
    }
}

impl Cluster {
    /// The replicated state at one moment, with everything that was acknowledged before this call: the map, the
    /// partitions, sessions, leases and settings. From whichever node; nothing stops meanwhile.
    ///
    /// Read it piece by piece and store it; [`offline::verify_backup`](crate::offline::verify_backup) checks the
    /// file, [`offline::restore`](crate::offline::restore) makes a new cluster of it. It holds no keys and no
    /// certificates, and whatever the map holds in the clear.
    ///
    /// Cancel safety: a dropped future leaves at most a newer snapshot behind.
    ///
    /// # Errors
    /// There was none within `within`; [`BackupError`] says why.
    pub async fn backup(&self, within: Duration) -> Result<Backup, BackupError> {
        let raft = self.inner().raft().ok_or_else(|| BackupError::NotReady {
            cause: self.inner().waiting_for(),
        })?;
        Ok(raft.backup(within).await?)
    }

    /// When and why this cluster began anew from a backup or from one survivor, the last first. Empty for most,
    /// and until the cluster is founded.
    pub async fn refoundings(&self) -> Vec<Refounding> {
        match self.inner().raft() {
            Some(raft) => raft.refoundings().await,
            None => Vec::new(),
        }
    }
}
