//! Errors of the umbrella, and what each says about whether anything happened.

use std::{io, path::PathBuf};

use rivven_partition::PartitionError;
use rivven_raft::{KvReadError, Outcome, ProposeError, Refusal};
use rivven_transport::{
    EntropyError, datagram::GossipKeyError, gossip_keys::KeyFileError, identity::IdentityError,
};
use rivven_types::{ClusterId, NodeId};

use crate::ConfigError;

/// Why a node did not start. What was opened is closed again; nothing on disk was harmed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot work. Correct it; retrying cannot help.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates are missing, expired, or do not belong together. The message names the command
    /// that makes them.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate names another node than the configuration. Correct one of them.
    #[error(
        "the certificate in {} is that of node {certificate}, but `cluster.node_id` is {configured}; correct \
         node_id, or use the directory `node-{configured}` that `rivven-node cert init` made", tls_dir.display()
    )]
    NodeIdMismatch {
        /// Where the certificate is.
        tls_dir: PathBuf,
        /// Whose it is.
        certificate: NodeId,
        /// What the configuration says.
        configured: NodeId,
    },
    /// The gossip key is missing, readable by others, or no key.
    #[error(transparent)]
    GossipKey(#[from] GossipKeyError),
    /// `gossip.keys` in the data directory cannot be used. Removing it is harmless while a peer runs.
    #[error(transparent)]
    GossipKeys(#[from] KeyFileError),
    /// The operating system gave no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The data directory is in use, of another node, or cannot be written.
    #[error(transparent)]
    DataDir(#[from] rivven_raft::NodeDirError),
    /// The secret behind the QUIC endpoint cannot be read or written. Removing its file is harmless.
    #[error(transparent)]
    QuicKeys(#[from] rivven_transport::QuicKeysError),
    /// `founding.json` cannot be read or written, or is damaged.
    #[error("cannot use {}: {cause}; restore it from a backup, or mend its permissions", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: io::Error,
    },
    /// The founding file belongs to another cluster or node: the directory was copied together from two.
    #[error(
        "{} was written by node {node} of cluster {cluster}; restore this node's own directory", path.display()
    )]
    ForeignFounding {
        /// The file.
        path: PathBuf,
        /// Its cluster.
        cluster: ClusterId,
        /// Its node.
        node: NodeId,
    },
    /// The QUIC endpoint could not be opened, mostly because its port is in use.
    #[error(transparent)]
    Transport(#[from] rivven_transport::BindError),
    /// Raft could not be started.
    #[error(transparent)]
    Raft(#[from] rivven_raft::StartError),
    /// Gossip could not be started, mostly because its port is in use.
    #[error(transparent)]
    Gossip(#[from] rivven_swim::StartError),
}

impl StartError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::NodeIdMismatch { .. } => "node-id-mismatch",
            Self::GossipKey(error) => error.code(),
            Self::GossipKeys(error) => error.code(),
            Self::Entropy(error) => error.code(),
            Self::DataDir(error) => error.code(),
            Self::QuicKeys(error) => error.code(),
            Self::File { .. } => "data-file-unusable",
            Self::ForeignFounding { .. } => "foreign-founding",
            Self::Transport(error) => error.code(),
            Self::Raft(error) => error.code(),
            Self::Gossip(error) => error.code(),
        }
    }

    /// Whether the cause is a setting rather than the machine: exit code 2 of `rivven-node`.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        match self {
            Self::Config(_) | Self::NodeIdMismatch { .. } => true,
            Self::Identity(_)
            | Self::GossipKey(_)
            | Self::GossipKeys(_)
            | Self::Entropy(_)
            | Self::DataDir(_)
            | Self::QuicKeys(_)
            | Self::File { .. }
            | Self::ForeignFounding { .. }
            | Self::Transport(_)
            | Self::Raft(_)
            | Self::Gossip(_) => false,
        }
    }
}

/// Why a write was not acknowledged. [`WriteError::outcome`] says whether it may have happened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The cluster is not founded yet, or this node is stopping. Not done; wait or ask another node.
    #[error("this node takes no writes: {cause}")]
    NotReady {
        /// What it waits for.
        cause: String,
    },
    /// The key, the value or the command breaks a limit. Not done; correct it.
    #[error("the write was refused: {0}")]
    Refused(Refusal),
    /// The topic or partition does not allow it: it exists, or does not. Not done; correct it.
    #[error(transparent)]
    Partition(PartitionError),
    /// Too many writes in flight. Not done; back off and repeat.
    #[error("too many writes are in flight; back off and repeat")]
    Overloaded,
    /// No Raft leader could be reached in time, or this node has stopped. Not done; repeat elsewhere.
    #[error("no leader took the write: {cause}")]
    NoLeader {
        /// What the last attempt ran into.
        cause: String,
    },
    /// The disk of this node is full. Not done; write through another node, or wait until there is room, which
    /// this node does too.
    #[error("this node takes no writes: {cause}")]
    DiskFull {
        /// What could not be written.
        cause: String,
    },
    /// The session has ended or is past the number. This attempt did nothing, an earlier one with the same
    /// number may have happened. Read, and open a new session.
    #[error("{cause}")]
    SessionLost {
        /// Which session, and what became of it.
        cause: String,
    },
    /// The write may or may not have happened, or may yet. Read before repeating what is not idempotent.
    #[error("the outcome of the write is unknown: {cause}; read before repeating it")]
    Unknown {
        /// What interrupted the wait.
        cause: String,
    },
}

impl WriteError {
    /// Whether the write may have happened.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NotReady { .. }
            | Self::Refused(_)
            | Self::Partition(_)
            | Self::Overloaded
            | Self::NoLeader { .. }
            | Self::DiskFull { .. } => Outcome::NotDone,
            Self::SessionLost { .. } | Self::Unknown { .. } => Outcome::Unknown,
        }
    }

    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::Refused(refusal) => &refusal.code,
            Self::Partition(error) => error.code(),
            Self::Overloaded => "overloaded",
            Self::NoLeader { .. } => "no-leader",
            Self::DiskFull { .. } => "disk-full",
            Self::SessionLost { .. } => "session-lost",
            Self::Unknown { .. } => "unknown-outcome",
        }
    }
}

impl From<ProposeError> for WriteError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(refusal) => Self::Refused(refusal),
            ProposeError::Overloaded => Self::Overloaded,
            ProposeError::Unknown { cause } => Self::Unknown { cause },
            ProposeError::DiskFull { cause } => Self::DiskFull { cause },
            ProposeError::SessionLost { .. } => Self::SessionLost {
                cause: error.to_string(),
            },
            ProposeError::TooLarge { .. } => Self::Refused(Refusal::new(error.code(), error.to_string())),
            // What rivven-raft may add later is not known to be harmless, unless it says so itself.
            error if error.outcome() == Outcome::NotDone => Self::NoLeader {
                cause: error.to_string(),
            },
            error => Self::Unknown {
                cause: error.to_string(),
            },
        }
    }
}

/// Why a read gave no value. Reads change nothing, so each can be repeated.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The cluster is not founded yet, or this node is stopping. Wait or ask another node.
    #[error("this node answers no reads: {cause}")]
    NotReady {
        /// What it waits for.
        cause: String,
    },
    /// The read could not be confirmed in time.
    #[error(transparent)]
    Raft(rivven_raft::ReadError),
    /// The revision asked for is forgotten, or still to come.
    #[error(transparent)]
    Revision(KvReadError),
}

impl ReadError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::Raft(error) => error.code(),
            Self::Revision(error) => error.code(),
        }
    }
}

impl From<rivven_raft::ReadError> for ReadError {
    fn from(error: rivven_raft::ReadError) -> Self {
        match error {
            rivven_raft::ReadError::Revision(error) => Self::Revision(error),
            error => Self::Raft(error),
        }
    }
}

/// Why the Raft leadership was not transferred. There is a leader, or one is elected, in either case.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The cluster is not founded yet.
    #[error("this node cannot transfer leadership: {cause}")]
    NotReady {
        /// What it waits for.
        cause: String,
    },
    /// Raft did not.
    #[error(transparent)]
    Raft(#[from] rivven_raft::TransferError),
}

impl TransferError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::Raft(error) => error.code(),
        }
    }
}

/// Why the gossip keys were not changed by hand.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The cluster is not founded yet, or has no leader. Not done; try again.
    #[error("the gossip keys cannot be changed: {cause}")]
    NotReady {
        /// What is missing.
        cause: String,
    },
    /// The controller was not reached, or did not begin in time. It may begin yet: asking again makes one
    /// more key, and does no harm.
    #[error("the controller has not begun to change the gossip keys: {0}")]
    Controller(#[from] rivven_transport::CallError),
}

impl RotateError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::Controller(error) => error.code(),
        }
    }
}
