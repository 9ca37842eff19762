//! Why a transfer brought no receipt, and what that says about the receiver.

use std::{io, time::Duration};

use rivven_types::NodeId;

use crate::{CallError, Outcome, Rejection};

/// Why a transfer gave no receipt. [`TransferError::outcome`] says whether the peer may have acted on the
/// whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// No byte of the content was sent: the peer cannot be reached, or has too many transfers. Not done.
    #[error(transparent)]
    NotBegun(CallError),
    /// The peer's handler, or the peer before its handler, refused. The code says what happened. Not done,
    /// unless the handler acted and only its receipt could not be sent: then unknown.
    #[error("refused by the peer: {} ({})", .0.message, .0.code)]
    Rejected(Rejection),
    /// The transfer ended before all of it was sent. Not done; the peer may keep what it holds, so that a
    /// repetition goes on from there.
    #[error("the transfer to node {node} ended at byte {held}: {cause}")]
    Interrupted {
        /// The peer.
        node: NodeId,
        /// Offset up to which the peer had taken the bytes, as far as this node has heard.
        held: u64,
        /// What ended it.
        cause: Interruption,
    },
    /// The connection was lost, or time ran out, after all was sent. Unknown.
    #[error("the transfer to node {node} was sent, and its receipt did not come: {cause}")]
    MaybeExecuted {
        /// The peer.
        node: NodeId,
        /// What ended it.
        cause: String,
    },
}

/// What ended a transfer before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Interruption {
    /// The connection was lost, or the peer broke the protocol. Repeat.
    #[error("{0}")]
    Lost(String),
    /// The peer has taken nothing for this long: its handler hangs, or nothing arrives. Repeat, and see the
    /// peer's log.
    #[error("no progress for {0:?}")]
    Stalled(Duration),
    /// The deadline of the transfer has passed. Repeat with a later one.
    #[error("its deadline has passed")]
    Deadline,
    /// The source of the bytes failed on this node. The peer was told that the rest does not come.
    #[error("its source failed: {0}")]
    Source(#[source] io::Error),
}

impl Interruption {
    const fn code(&self) -> &'static str {
        match self {
            Self::Lost(_) => "transfer-interrupted",
            Self::Stalled(_) => "transfer-stalled",
            Self::Deadline => "transfer-deadline",
            Self::Source(_) => "transfer-source-failed",
        }
    }
}

impl TransferError {
    /// Whether the peer may have acted on the whole of the transfer.
    ///
    /// What a handler does with the bytes that it holds of an unfinished transfer, such as keeping them for
    /// the next attempt, does not count.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotBegun(error) => error.outcome(),
            Self::Rejected(rejection) => CallError::Rejected(rejection.clone()).outcome(),
            Self::Interrupted { .. } => Outcome::NotDone,
            Self::MaybeExecuted { .. } => Outcome::Unknown,
        }
    }

    /// How the transfer is counted: a rejection's own code may be any text.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::NotBegun(_) => "not-begun",
            Self::Rejected(_) => "rejected",
            Self::Interrupted { cause, .. } => cause.code(),
            Self::MaybeExecuted { .. } => "maybe-executed",
        }
    }

    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NotBegun(error) => error.code(),
            Self::Rejected(rejection) => &rejection.code,
            Self::Interrupted { cause, .. } => cause.code(),
            Self::MaybeExecuted { .. } => "maybe-executed",
        }
    }
}
