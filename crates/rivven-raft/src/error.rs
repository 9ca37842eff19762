//! Errors, and what each says about whether anything happened.

use std::{io, time::Duration};

use rivven_transport::Outcome;
use rivven_types::NodeId;

use crate::{KvReadError, Refusal, SessionId};

/// Why a node did not start. Nothing on disk was harmed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The timing cannot be kept. The message says which value to change.
    #[error("invalid timing: {reason}")]
    InvalidTiming {
        /// Cause and remedy.
        reason: String,
    },
    /// The peer list cannot be right. The message says why.
    #[error("invalid peers: {reason}")]
    InvalidPeers {
        /// Cause and remedy.
        reason: String,
    },
    /// A live node of this process has the id. Drop or shut it down first, or choose another id.
    #[error(
        "node {node} of cluster `{cluster}` already runs in this process; drop it first or use another id"
    )]
    DuplicateNode {
        /// The id.
        node: NodeId,
        /// Name of the fabric's cluster.
        cluster: String,
    },
    /// Another node of the fabric was started with other founding voters: two different founding sets
    /// would make two clusters. Give every node the same set.
    #[error("node {node} names the voters {here:?}, but this cluster was founded by {there:?}; use one set")]
    DifferentVoters {
        /// The node that was refused.
        node: NodeId,
        /// Its voters.
        here: Vec<NodeId>,
        /// The voters of the node that started first.
        there: Vec<NodeId>,
    },
    /// [`RaftBuilder::state_machine`](crate::RaftBuilder::state_machine) was not called.
    #[error("no state machine was given; call `state_machine` on the builder")]
    NoStateMachine,
    /// The transport or the data directory belongs to another node than `node_id` says.
    #[error(
        "the configuration says node {configured}, but the {what} belongs to node {found}; correct one of them"
    )]
    IdentityMismatch {
        /// `node_id` of the configuration.
        configured: NodeId,
        /// Whose it is.
        found: NodeId,
        /// `transport` or `data directory`.
        what: &'static str,
    },
    /// The log or the snapshots of the data directory could not be opened or read.
    #[error("cannot open the data directory: {cause}")]
    Storage {
        /// Stable code of the cause.
        code: &'static str,
        /// What the store says.
        #[source]
        cause: io::Error,
    },
    /// No snapshot of this node reaches its log any more, and no peer gave one within a minute. Vote and log
    /// are whole. Start the node again once other nodes of the cluster run, or put back a backup.
    #[error("{gap}; no peer gave a snapshot, start this node again once others of its cluster run")]
    NoSnapshot {
        /// What is missing, and which files were set aside.
        gap: String,
    },
    /// The consensus core refused to start from what is on disk.
    #[error("the consensus core did not start: {cause}")]
    Core {
        /// What it says.
        cause: String,
    },
}

impl StartError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidTiming { .. } => "invalid-timing",
            Self::InvalidPeers { .. } => "invalid-peers",
            Self::DuplicateNode { .. } => "duplicate-node",
            Self::DifferentVoters { .. } => "different-voters",
            Self::NoStateMachine => "no-state-machine",
            Self::IdentityMismatch { .. } => "identity-mismatch",
            Self::Storage { code, .. } => code,
            Self::NoSnapshot { .. } => "snapshot-missing",
            Self::Core { .. } => "core-not-started",
        }
    }
}

/// Why a group could not be initialised. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitializeError {
    /// The node already has a log or a vote. Not an error for a founder that is restarted.
    #[error("this node is already a member of an initialised group")]
    AlreadyInitialized,
    /// The set does not hold this node. Initialise from one of the founders.
    #[error("node {node} is not among the founders {founders:?}; initialise from a founder")]
    NotAFounder {
        /// This node.
        node: NodeId,
        /// The set given.
        founders: Vec<NodeId>,
    },
    /// The node has stopped.
    #[error("the node has stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
}

impl InitializeError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AlreadyInitialized => "already-initialized",
            Self::NotAFounder { .. } => "not-a-founder",
            Self::Stopped { .. } => "stopped",
        }
    }
}

/// Why a proposal has no response. [`ProposeError::outcome`] says whether it may have been applied.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The encoded command is larger than the log takes. Not done; split it.
    #[error("the command has {size} bytes, the limit is {limit}; split it")]
    TooLarge {
        /// Encoded size.
        size: usize,
        /// [`MAX_COMMAND_BYTES`](crate::MAX_COMMAND_BYTES).
        limit: usize,
    },
    /// The state machine's [`check`](crate::StateMachine::check) refused the command. Not done; correct it.
    #[error("the command was refused: {0}")]
    Refused(Refusal),
    /// Too many proposals are in flight on this node or on the leader. Not done; back off and repeat.
    #[error("too many proposals in flight; back off and repeat")]
    Overloaded,
    /// No leader could be reached before the deadline. Not done; repeat when there is one.
    #[error("no leader took the proposal within {waited:?}: {cause}")]
    NoLeader {
        /// How long was waited.
        waited: Duration,
        /// What the last attempt ran into.
        cause: String,
    },
    /// The disk of this node is full. Not done; propose through another node, or repeat once there is room,
    /// which this node waits for by itself.
    #[error("this node takes no proposals: {cause}")]
    DiskFull {
        /// What could not be written.
        cause: String,
    },
    /// The node has stopped. Not done.
    #[error("the node has stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
    /// The session has ended or is past the number. This attempt was not applied, an earlier one with the
    /// same id may have been. Open a new session; read before repeating what is not idempotent.
    #[error("session {session} is of no use: {cause}; open a new one, and read before repeating")]
    SessionLost {
        /// The session.
        session: SessionId,
        /// What became of it.
        cause: String,
    },
    /// The proposal may or may not be applied, now or later. Read before repeating what is not idempotent.
    #[error("the outcome is unknown: {cause}")]
    Unknown {
        /// What interrupted the wait.
        cause: String,
    },
}

impl ProposeError {
    /// Whether the command may have been applied.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::TooLarge { .. }
            | Self::Refused(_)
            | Self::Overloaded
            | Self::NoLeader { .. }
            | Self::DiskFull { .. }
            | Self::Stopped { .. } => Outcome::NotDone,
            Self::Unknown { .. } | Self::SessionLost { .. } => Outcome::Unknown,
        }
    }

    /// Stable code in kebab case, listed in `docs/errors.md`. That of a refusal is in the [`Refusal`].
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "command-too-large",
            Self::Refused(_) => "command-refused",
            Self::Overloaded => "overloaded",
            Self::NoLeader { .. } => "no-leader",
            Self::DiskFull { .. } => "disk-full",
            Self::Stopped { .. } => "stopped",
            Self::SessionLost { .. } => "session-lost",
            Self::Unknown { .. } => "unknown-outcome",
        }
    }
}

/// Why a read gave no value. Reads change nothing, so each can be repeated.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed before the deadline that it still leads. Repeat, or read stale.
    #[error("no leader confirmed the read within {waited:?}: {cause}")]
    NoLeader {
        /// How long was waited.
        waited: Duration,
        /// What the last attempt ran into.
        cause: String,
    },
    /// This node has not applied the log far enough before the deadline. Repeat, or read elsewhere.
    #[error(
        "this node has applied the log to {applied:?}, the read needs {needed}; repeat or read elsewhere"
    )]
    Behind {
        /// Index this node has reached.
        applied: Option<u64>,
        /// Index the read needs.
        needed: u64,
    },
    /// The state machine refused to answer. Correct the query.
    #[error("the query was refused: {0}")]
    Refused(Refusal),
    /// The revision of a key-value store that was asked for is forgotten, or still to come.
    #[error(transparent)]
    Revision(KvReadError),
    /// The disk of this node is full, so that it hears of no leader. Read elsewhere, or stale.
    #[error("this node confirms no reads: {cause}")]
    DiskFull {
        /// What could not be written.
        cause: String,
    },
    /// The node has stopped.
    #[error("the node has stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
}

impl ReadError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoLeader { .. } => "no-leader",
            Self::Behind { .. } => "behind",
            Self::Refused(_) => "query-refused",
            Self::Revision(error) => error.code(),
            Self::DiskFull { .. } => "disk-full",
            Self::Stopped { .. } => "stopped",
        }
    }
}

/// Why leadership was not transferred. The group has a leader, or elects one, in either case.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Only a voter can lead.
    #[error("node {to} is not a voter; transfer to one of {voters:?}")]
    NotAVoter {
        /// The node asked for.
        to: NodeId,
        /// Who votes.
        voters: Vec<NodeId>,
    },
    /// No leader could be reached.
    #[error("no leader could be asked: {cause}")]
    NoLeader {
        /// What the last attempt ran into.
        cause: String,
    },
    /// The node did not take over in time. It may still; look at the status.
    #[error("node {to} did not take over within {waited:?}; it may lag or be unreachable")]
    Timeout {
        /// The node asked for.
        to: NodeId,
        /// How long was waited.
        waited: Duration,
    },
    /// The node has stopped.
    #[error("the node has stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
}

impl TransferError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotAVoter { .. } => "not-a-voter",
            Self::NoLeader { .. } => "no-leader",
            Self::Timeout { .. } => "transfer-timeout",
            Self::Stopped { .. } => "stopped",
        }
    }
}

/// Why a feature level was not finalised.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinalizeError {
    /// A member runs a release that does not support the level. Nothing was changed; upgrade it.
    #[error("node {node} supports level {supported} of feature `{feature}`, not {level}; upgrade it")]
    Unsupported {
        /// The member.
        node: NodeId,
        /// The feature.
        feature: String,
        /// The level asked for.
        level: u32,
        /// What it supports; 0 if it does not know the feature.
        supported: u32,
    },
    /// A member could not be asked whether it supports the level. Nothing was changed; start the member or
    /// remove it.
    #[error("node {node} could not be asked which levels it supports: {cause}; start it or remove it")]
    Unreachable {
        /// The member.
        node: NodeId,
        /// Why.
        cause: String,
    },
    /// The proposal failed. Its outcome says whether the level may be finalised; asking again is harmless.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl FinalizeError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "feature-not-supported",
            Self::Unreachable { .. } => "member-unreachable",
            Self::Propose(error) => error.code(),
        }
    }
}
