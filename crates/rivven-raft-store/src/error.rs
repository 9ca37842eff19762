//! [`StoreError`]: what can go wrong with a log on disk, and what to do about it.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{codec::CodecError, record::RecordError, window::OutOfOrder};

/// The way back for a node whose disk cannot be trusted any more.
pub(crate) const REPLACE: &str =
    "move the data directory away and rebuild this node with `rivven-node member replace`";

/// Why the log could not be opened, read or written.
///
/// After any error that concerns the file the store is *poisoned*: every later call fails with
/// [`StoreError::Poisoned`] and the first cause. What was being written then has an unknown outcome; only a
/// reopened store knows which entries it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened or created. Nothing was changed. Retry once the cause is gone.
    #[error("cannot open the log {}: {source}; check the path, its permissions and the disk", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// What redb or the operating system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file is open already, here or in another process. Nothing was changed.
    #[error("the log {} is already open; stop the other process first", path.display())]
    Locked {
        /// The log.
        path: PathBuf,
    },
    /// The log belongs to another node, instance or cluster. Nothing was changed; retrying cannot help.
    #[error("the log {} belongs to {found}, but this is {expected}; put back the log of this node, or {REPLACE}", path.display())]
    Foreign {
        /// The log.
        path: PathBuf,
        /// Who opened it.
        expected: String,
        /// Who wrote it.
        found: String,
    },
    /// There was a log, and it is gone. Nothing was created: without its vote the node must not take part.
    #[error("the log {} is gone; put it back, or {REPLACE}", path.display())]
    Missing {
        /// The log.
        path: PathBuf,
    },
    /// A newer release wrote this. Nothing was changed; retrying cannot help.
    #[error("{record} of the log {} has {what} {found}, which this build does not know; run the release that wrote it, or a newer one", path.display())]
    NewerFormat {
        /// The log.
        path: PathBuf,
        /// What could not be read.
        record: Record,
        /// What of it is unknown: its format version, or a field of the codec.
        what: &'static str,
        /// The value of that.
        found: u64,
    },
    /// redb does not know the format of the file. Nothing was changed; retrying cannot help.
    #[error("the log {} is of another file format, or its first page is damaged: {detail}; run the release that wrote it; if no other release ever did, {REPLACE}", path.display())]
    OtherFormat {
        /// The log.
        path: PathBuf,
        /// What redb said.
        detail: String,
    },
    /// The file fails its integrity check. It must not be used any more; retrying cannot help.
    #[error("the log {} is damaged: {detail}; {REPLACE}", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// What the check found.
        detail: String,
    },
    /// One record is damaged or missing. The file must not be used any more; retrying cannot help.
    #[error("{record} of the log {} is damaged: {source}; {REPLACE}", path.display())]
    DamagedRecord {
        /// The log.
        path: PathBuf,
        /// Which record.
        record: Record,
        /// What is wrong with it.
        source: CodecError,
    },
    /// An entry within the log is not there. The file must not be used any more; retrying cannot help.
    #[error("entry {index} of the log {} is missing; {REPLACE}", path.display())]
    MissingEntry {
        /// The log.
        path: PathBuf,
        /// Its index.
        index: u64,
    },
    /// An entry was purged or truncated while a stream was about to read it. Nothing is wrong with the log;
    /// read again from where it begins.
    #[error("entry {index} of the log {} was removed while it was being read; read again from where the log begins", path.display())]
    Overtaken {
        /// The log.
        path: PathBuf,
        /// Its index.
        index: u64,
    },
    /// An append that would leave a hole or overwrite entries. Nothing was written: the caller is wrong.
    #[error(
        "an entry with index {found} was appended where index {expected} comes next; nothing was written"
    )]
    OutOfOrder {
        /// The index that comes next.
        expected: u64,
        /// The index that was offered.
        found: u64,
    },
    /// An entry larger than the limit of the store. Nothing was written; split the command.
    #[error(
        "entry {index} has {bytes} bytes encoded, the limit is {limit}; nothing was written, split the command"
    )]
    TooLarge {
        /// Its index.
        index: u64,
        /// Its size.
        bytes: usize,
        /// The most a store takes.
        limit: usize,
    },
    /// The codec refused an entry. Nothing was written.
    #[error("entry {index} cannot be encoded: {source}; nothing was written")]
    Encode {
        /// Its index.
        index: u64,
        /// Why.
        source: CodecError,
    },
    /// The disk is full. What was in flight has an unknown outcome. Make room, then reopen the store.
    #[error("the disk is full, the log {} cannot grow; make room, the store can then be reopened with nothing lost that was acknowledged", path.display())]
    Full {
        /// The log.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Reading, writing or syncing failed. What was in flight has an unknown outcome.
    #[error("the log {} failed: {source}; check the disk, then restart the node", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// What redb or the operating system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// An earlier error has stopped the store. Nothing of this call was done.
    #[error("the log is stopped after an earlier error: {cause}")]
    Poisoned {
        /// The first error.
        #[source]
        cause: Arc<Self>,
    },
    /// The store has been dropped; a reader outlived it. Nothing was done.
    #[error("the log {} is closed", path.display())]
    Closed {
        /// The log.
        path: PathBuf,
    },
}

/// A record of the log file, for error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// The entry with this index.
    Entry(u64),
    /// The vote.
    Vote,
    /// The id of the last purged entry.
    Purged,
    /// The id of the last entry known to be committed.
    Committed,
    /// Whose log it is.
    Owner,
}

impl Record {
    /// Key in the table of single values. Entries have a table of their own.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Entry(_) => "entry",
            Self::Vote => "vote",
            Self::Purged => "purged",
            Self::Committed => "committed",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(index) => write!(f, "entry {index}"),
            Self::Vote | Self::Purged | Self::Committed | Self::Owner => {
                write!(f, "the record \"{}\"", self.key())
            }
        }
    }
}

impl StoreError {
    /// Stable code in kebab case. A poisoned store answers with the code of its first error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "log-not-opened",
            Self::Locked { .. } => "log-locked",
            Self::Foreign { .. } => "log-foreign",
            Self::Missing { .. } => "log-missing",
            Self::NewerFormat { .. } => "log-newer-format",
            Self::OtherFormat { .. } => "log-other-format",
            Self::Overtaken { .. } => "log-overtaken",
            Self::Damaged { .. } | Self::DamagedRecord { .. } | Self::MissingEntry { .. } => "log-damaged",
            Self::OutOfOrder { .. } => "log-out-of-order",
            Self::TooLarge { .. } => "entry-too-large",
            Self::Encode { .. } => "entry-not-encodable",
            Self::Full { .. } => "disk-full",
            Self::Io { .. } => "log-io",
            Self::Poisoned { cause } => cause.code(),
            Self::Closed { .. } => "log-closed",
        }
    }

    /// Whether this says no more than that there was an error before it.
    pub(crate) fn is_echo(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(source.downcast_ref(), Some(redb::Error::PreviousIo)),
            _ => false,
        }
    }

    pub(crate) fn from_record(path: &Path, record: Record, error: RecordError) -> Self {
        let path = path.to_path_buf();
        match error {
            RecordError::Newer { what, found } => Self::NewerFormat {
                path,
                record,
                what,
                found,
            },
            RecordError::Damaged(source) => Self::DamagedRecord { path, record, source },
        }
    }

    /// An error of redb while the store is in use.
    pub(crate) fn from_redb(path: &Path, error: impl Into<redb::Error>) -> Self {
        let path = path.to_path_buf();
        match error.into() {
            redb::Error::Io(source) if is_full(&source) => Self::Full { path, source },
            redb::Error::Corrupted(detail) => Self::Damaged { path, detail },
            redb::Error::DatabaseClosed => Self::Closed { path },
            // The tables are as this store makes them, or somebody else, or rot, has changed them; the file
            // is as long as its header says, or has been cut.
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_)) => Self::Damaged {
                path,
                detail: error.to_string(),
            },
            redb::Error::Io(source) if is_rot(&source) => Self::Damaged {
                path,
                detail: source.to_string(),
            },
            other => Self::Io {
                path,
                source: other.into(),
            },
        }
    }

    /// An error of redb while the store is being opened.
    pub(crate) fn from_open(path: &Path, error: redb::DatabaseError) -> Self {
        let path = path.to_path_buf();
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::Locked { path },
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(detail))
                if detail.starts_with(OTHER_FORMAT) =>
            {
                Self::OtherFormat { path, detail }
            }
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(detail)) => {
                Self::Damaged { path, detail }
            }
            error @ redb::DatabaseError::UpgradeRequired(_) => Self::OtherFormat {
                path,
                detail: error.to_string(),
            },
            redb::DatabaseError::Storage(redb::StorageError::Io(source)) if is_full(&source) => {
                Self::Full { path, source }
            }
            // redb says so about a file that does not begin with its magic number.
            redb::DatabaseError::Storage(redb::StorageError::Io(source)) if is_rot(&source) => {
                let detail = source.to_string();
                Self::Damaged { path, detail }
            }
            other => Self::Open {
                path,
                source: other.into(),
            },
        }
    }
}

/// How redb, which has no variant of its own for it, begins to say that a newer redb wrote the file.
const OTHER_FORMAT: &str = "Expected file format version";

/// Whether a file ends too early, or does not begin as one of redb does.
fn is_rot(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl From<OutOfOrder> for StoreError {
    fn from(OutOfOrder { expected, found }: OutOfOrder) -> Self {
        Self::OutOfOrder { expected, found }
    }
}

impl From<StoreError> for io::Error {
    /// Keeps the [`StoreError`] as the inner error, to be found with [`io::Error::get_ref`].
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Full { .. } => ErrorKind::StorageFull,
            StoreError::OutOfOrder { .. } | StoreError::TooLarge { .. } | StoreError::Encode { .. } => {
                ErrorKind::InvalidInput
            }
            StoreError::NewerFormat { .. }
            | StoreError::OtherFormat { .. }
            | StoreError::Damaged { .. }
            | StoreError::DamagedRecord { .. }
            | StoreError::MissingEntry { .. } => ErrorKind::InvalidData,
            StoreError::Poisoned { cause } if matches!(**cause, StoreError::Full { .. }) => {
                ErrorKind::StorageFull
            }
            StoreError::Open { .. }
            | StoreError::Locked { .. }
            | StoreError::Foreign { .. }
            | StoreError::Missing { .. }
            | StoreError::Overtaken { .. }
            | StoreError::Io { .. }
            | StoreError::Poisoned { .. }
            | StoreError::Closed { .. } => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
