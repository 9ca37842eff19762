//! Backups: the state at one moment, at least as new as everything acknowledged before, read piece by piece.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use rivven_raft_store::write_snapshot;
use rivven_transport::TaskGroup;
use tokio::time::{Instant, timeout_at};

use crate::{
    Consistency, RaftNode, ReadError, Refounding, StateMachine,
    codec::LogCodec,
    node::Inner,
    snapshot::{SnapshotData, Snapshots},
    types::{SnapshotMeta, term_of},
};

/// Bytes of one piece of a backup, and so what a reader holds in memory.
const PIECE_BYTES: usize = 1 << 20;

/// How often a snapshot that does not come is asked for again: one that was under way may not have reached far
/// enough.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// Why there is no backup. Nothing was changed in any case.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// No quorum confirmed how new the state must be, or the node has stopped. Retry once there is a leader.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no room for a snapshot on the disk of the node that was asked, or was none within the last minute. Make
    /// room, or ask another one.
    #[error("there is no room for a snapshot on this node: {cause}; make room, or ask another node")]
    NoRoom {
        /// What the disk said.
        cause: String,
    },
    /// The snapshot was not whole in time. It is written all the same: a retry finds it.
    #[error("the snapshot was not written within {waited:?}; try again, it is found if it is done by then")]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
    /// The snapshot of a node without a data directory could not be encoded.
    #[error("the snapshot cannot be encoded: {cause}; ask a node with a data directory")]
    NotEncoded {
        /// What went wrong.
        cause: String,
    },
}

impl BackupError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read(error) => error.code(),
            Self::NoRoom { .. } => "snapshot-not-written",
            Self::Timeout { .. } => "backup-timeout",
            Self::NotEncoded { .. } => "snapshot-not-encodable",
        }
    }
}

/// A backup that is being read: the bytes of a snapshot file, checksummed piece by piece and as a whole.
///
/// It stays readable, and takes its room on the disk, until it is dropped, whatever the node does meanwhile.
/// [`verify_backup`](crate::verify_backup) checks what was stored of it,
/// [`restore_backup`](crate::restore_backup) makes a new group of it.
pub struct Backup {
    data: SnapshotData,
    meta: SnapshotMeta,
    tasks: TaskGroup,
    /// What comes next.
    offset: u64,
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup")
            .field("last_log_id", &self.meta.last_log_id)
            .field("total_bytes", &self.total_bytes())
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Backup {
    /// Bytes in all.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.data.transfer().len
    }

    /// CRC32C of all bytes.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.data.transfer().checksum
    }

    /// Index of the last log entry in it.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }

    /// Term of that entry.
    #[must_use]
    pub fn last_term(&self) -> u64 {
        self.meta.last_log_id.as_ref().map_or(0, term_of)
    }

    /// The next piece, of at most 1 MiB; `None` behind the last.
    ///
    /// Cancel safety: a dropped future loses nothing.
    ///
    /// # Errors
    /// The disk's. What comes of a damaged sector is noticed by whoever verifies the whole.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.offset >= self.total_bytes() {
            return Ok(None);
        }
        let (data, offset) = (self.data.clone(), self.offset);
        let read = self
            .tasks
            .blocking(move || data.read_transfer(offset, PIECE_BYTES));
        let piece = read.await.map_err(io::Error::other)??;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset = self.offset.saturating_add(piece.len() as u64);
        Ok(Some(piece))
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// The state of the group at one moment, with everything that was acknowledged before this call, on
    /// whichever node.
    ///
    /// A node with a data directory writes a snapshot unless its newest is new enough, which stops nothing,
    /// and reads from its file; without one the encoded state is in memory while the backup exists.
    ///
    /// Cancel safety: a dropped future leaves at most a newer snapshot behind.
    ///
    /// # Errors
    /// There was none within `within`; [`BackupError`] says why.
    pub async fn backup(&self, within: Duration) -> Result<Backup, BackupError> {
        self.inner().backup(within).await
    }

    /// When and why this group began anew from a backup or from one survivor, the last first. Empty for most.
    pub async fn refoundings(&self) -> Vec<Refounding> {
        let read = |system: &crate::system::System| system.refoundings.iter().cloned().collect();
        let mut refoundings: Vec<Refounding> = self.inner().shared.read_system(read).await;
        refoundings.reverse();
        refoundings
    }
}

impl<S: StateMachine> Inner<S> {
    async fn backup(&self, within: Duration) -> Result<Backup, BackupError> {
        let deadline = Instant::now() + within;
        let confirmed = self.read_state(Consistency::Linearizable, within, |_| ()).await?;
        let snapshot = self.snapshot_from(confirmed.applied_index);
        let late = |_| BackupError::Timeout { waited: within };
        let (meta, data) = timeout_at(deadline, snapshot).await.map_err(late)??;
        let data = match data {
            SnapshotData::Memory(content) => self.framed(&meta, content).await?,
            data @ SnapshotData::File(_) => data,
        };
        Ok(Backup {
            data,
            meta,
            tasks: self.scope.group().clone(),
            offset: 0,
        })
    }

    /// A snapshot that reaches `index`, made if there is none.
    async fn snapshot_from(&self, index: Option<u64>) -> Result<(SnapshotMeta, SnapshotData), BackupError> {
        let mut metrics = self.source.metrics();
        let found = |snapshots: &Snapshots| {
            let latest = snapshots.latest();
            latest.filter(|(meta, _)| meta.last_log_id.map(|id| id.index) >= index)
        };
        loop {
            if let Some(found) = found(&self.snapshots) {
                return Ok(found);
            }
            let raft = self.raft().map_err(ReadError::from)?;
            let asked = raft.call(|raft| async move { raft.trigger().snapshot().await });
            asked.await.map_err(|fatal| ReadError::Stopped {
                cause: fatal.to_string(),
            })?;
            // Any news of the core will do, or none: then another snapshot was under way.
            let pause = Instant::now() + ASK_INTERVAL;
            while Instant::now() < pause && found(&self.snapshots).is_none() {
                let stopped = |_| ReadError::Stopped {
                    cause: "the consensus core has ended".into(),
                };
                if let Ok(news) = timeout_at(pause, metrics.changed()).await {
                    news.map_err(stopped)?;
                }
            }
            if let Some(cause) = self.source.no_snapshot() {
                return Err(BackupError::NoRoom { cause });
            }
        }
    }

    /// A snapshot in memory as it stands in a file.
    async fn framed(&self, meta: &SnapshotMeta, content: Bytes) -> Result<SnapshotData, BackupError> {
        let (cluster, meta) = (self.transport.local().cluster, meta.clone());
        let frame = move || {
            let mut bytes = Vec::new();
            write_snapshot::<_, LogCodec>(cluster, &meta, &mut bytes, |out| out.write_all(&content))?;
            Ok::<_, io::Error>(bytes)
        };
        let framed = self.scope.group().blocking(frame).await.map_err(io::Error::other);
        let bytes = framed.flatten().map_err(|error| BackupError::NotEncoded {
            cause: error.to_string(),
        })?;
        Ok(SnapshotData::Memory(bytes.into()))
    }
}
