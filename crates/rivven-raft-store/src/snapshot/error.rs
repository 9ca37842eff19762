//! [`SnapshotError`]: what can go wrong with a snapshot on disk, and what to do about it.

use std::{io, path::PathBuf};

use rivven_types::ClusterId;

use crate::codec::CodecError;

/// Why a snapshot could not be written, received or opened. The snapshots kept before are still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The disk, or the state machine that was writing, failed. Nothing was kept; retry once it is cured.
    #[error("the snapshot {} failed: {source}; check the disk and its free space", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system or the state machine said.
        source: io::Error,
    },
    /// The file is damaged or incomplete. Nothing was kept; use an older snapshot, or a peer's.
    #[error("the snapshot {} is damaged: {detail}; an older one or that of a peer takes its place", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A newer release wrote the file. It was left as it is; retrying cannot help.
    #[error("the snapshot {} has {what} {found}, which this build does not know; run the release that wrote it, or a newer one", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// What of it is unknown: its format version, or a field of the codec.
        what: &'static str,
        /// The value of that.
        found: u64,
    },
    /// The file is of another cluster. It was left as it is; retrying cannot help.
    #[error("the snapshot {} belongs to cluster {found}, but this node is of cluster {expected}; put back the data directory of this cluster", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The cluster of this node.
        expected: ClusterId,
        /// The cluster of the snapshot.
        found: ClusterId,
    },
    /// The snapshot of a peer does not reach the log of this node. Nothing was kept; try another peer, or
    /// this one later.
    #[error("the snapshot {} reaches entry {}, but the log begins behind entry {needed}; another peer may have a newer one", path.display(), found.map_or_else(|| "none".to_owned(), |index| index.to_string()))]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Index of its last entry; none for a snapshot of nothing.
        found: Option<u64>,
        /// Index that it must reach.
        needed: u64,
    },
    /// Another snapshot is being received, or one that arrived is being restored. Nothing was changed.
    /// Retry once that is done.
    #[error("another snapshot is on its way in; retry once it has arrived")]
    Busy,
    /// The codec refused the membership. Nothing was written.
    #[error("the snapshot header cannot be encoded: {0}; nothing was written")]
    Encode(#[source] CodecError),
}

impl SnapshotError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "snapshot-io",
            Self::Damaged { .. } => "snapshot-damaged",
            Self::NewerFormat { .. } => "snapshot-newer-format",
            Self::Foreign { .. } => "snapshot-foreign",
            Self::TooOld { .. } => "snapshot-too-old",
            Self::Busy => "snapshot-busy",
            Self::Encode(_) => "snapshot-not-encodable",
        }
    }
}

impl From<SnapshotError> for io::Error {
    /// Keeps the [`SnapshotError`] as the inner error, to be found with [`io::Error::get_ref`].
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Io { source, .. } => source.kind(),
            SnapshotError::Damaged { .. } | SnapshotError::NewerFormat { .. } => io::ErrorKind::InvalidData,
            SnapshotError::Busy => io::ErrorKind::ResourceBusy,
            SnapshotError::Foreign { .. } | SnapshotError::TooOld { .. } | SnapshotError::Encode(_) => {
                io::ErrorKind::InvalidInput
            }
        };
        Self::new(kind, error)
    }
}
