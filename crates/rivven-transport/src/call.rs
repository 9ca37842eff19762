//! One call: its deadline, and what a failure says about whether the peer acted.

use std::time::Duration;

use bytes::Bytes;
use rivven_types::NodeId;
use tokio::time::Instant;

use crate::{TraceContext, clock::after, limits::MAX_REJECTION_TEXT};

/// What accompanies a call.
#[derive(Clone, Copy, Debug)]
pub struct CallCtx {
    /// When the caller stops waiting. Sent to the peer as remaining time, so clocks need not agree.
    ///
    /// One later than [`MAX_CALL_TIME`](crate::MAX_CALL_TIME) from the start of the call counts as that.
    pub deadline: Instant,
    /// Where the call belongs in a trace. `None` means the trace that its caller is a part of, if that is sampled:
    /// see [`TraceContext::scope`]. Without one it costs nothing.
    pub trace: Option<TraceContext>,
}

impl CallCtx {
    /// A call that may take `timeout` from this moment, however long that is.
    #[must_use]
    pub fn timeout(timeout: Duration) -> Self {
        Self::until(after(timeout))
    }

    /// A call whose answer is of use until `deadline`.
    #[must_use]
    pub const fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            trace: None,
        }
    }

    /// The same call as part of a trace.
    #[must_use]
    pub const fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// What is left until the deadline; zero once it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Whether a failed call may have had an effect at the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer has not acted and will not: the call can be repeated safely.
    NotDone,
    /// The peer may have acted: repeat only what is idempotent.
    Unknown,
}

/// Code of a rejection: the handler acted, but its response could not be encoded.
pub(crate) const MALFORMED_RESPONSE: &str = "malformed-response";
/// Code of a rejection: the handler acted, but its response was larger than its method allows.
pub(crate) const RESPONSE_TOO_LARGE: &str = "response-too-large";

/// A refusal by the peer's handler.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rejection {
    /// Stable code in kebab case, such as `unknown-method`.
    pub code: String,
    /// For people: cause and remedy.
    pub message: String,
}

impl Rejection {
    /// A refusal with `code`, explained by `message`.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }

    /// The refusal as it travels, its texts cut to what fits. `None` if it cannot be encoded, which no text
    /// causes.
    pub(crate) fn encode(mut self) -> Option<Bytes> {
        for text in [&mut self.code, &mut self.message] {
            let mut end = MAX_REJECTION_TEXT.min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
        Some(postcard::to_allocvec(&self).ok()?.into())
    }

    /// Whether the handler ran, and only its response could not be sent.
    fn is_of_response(&self) -> bool {
        [MALFORMED_RESPONSE, RESPONSE_TOO_LARGE].contains(&self.code.as_str())
    }
}

fn unreachable(node: NodeId) -> String {
    match node {
        0 => "no node was reached".to_owned(),
        node => format!("node {node} is unreachable"),
    }
}

/// Why a call gave no response. [`CallError::outcome`] says whether the peer may have acted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No connection to the peer, and none could be made before the deadline. Not done; retry later.
    #[error("{}: {cause}", unreachable(*node))]
    Unreachable {
        /// The peer; 0 if nobody knows yet who it is.
        node: NodeId,
        /// What the last attempt ran into.
        cause: String,
    },
    /// The request did not leave this node. Not done; retry at once is safe.
    #[error("the request was not sent: {cause}")]
    NotSent {
        /// What prevented it.
        cause: String,
    },
    /// The connection was lost after the request may have reached the peer, or its response makes no sense.
    /// Unknown.
    #[error("the call to node {node} was interrupted: {cause}")]
    MaybeExecuted {
        /// The peer.
        node: NodeId,
        /// How the connection ended.
        cause: String,
    },
    /// The deadline passed after the request was sent. Unknown.
    #[error("no response before the deadline")]
    Deadline,
    /// The peer, or this node's queue to it, has too many calls in flight. Not done; back off.
    #[error("too many calls in flight to node {node}")]
    Overloaded {
        /// The peer.
        node: NodeId,
    },
    /// The peer's handler refused the call. The code says what happened. Not done, except that a handler
    /// whose *response* could not be sent has acted: then unknown.
    #[error("refused by the peer: {} ({})", .0.message, .0.code)]
    Rejected(Rejection),
    /// One of the two refused the other because another data directory under its node id is connected.
    /// Not done, and not before one of the two processes has ended.
    #[error("duplicate node id: {cause}")]
    DuplicateNode {
        /// Who refused whom.
        cause: String,
    },
    /// The peer says that this node has been removed from the cluster, and lets it in no more. Not done, and
    /// not before the node is added again.
    #[error("node {node} refuses this node: {cause}")]
    Removed {
        /// The peer.
        node: NodeId,
        /// What it says.
        cause: String,
    },
    /// The two nodes share no protocol version or no cluster. Not done.
    #[error("incompatible peer: {cause}")]
    Incompatible {
        /// What was not understood.
        cause: String,
    },
}

impl CallError {
    /// The deadline has passed before anything of the request was written.
    pub(crate) fn unsent_in_time() -> Self {
        Self::NotSent {
            cause: "its deadline passed before it could leave this node".into(),
        }
    }

    /// Whether the peer may have acted on the call.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Rejected(rejection) if rejection.is_of_response() => Outcome::Unknown,
            Self::Unreachable { .. }
            | Self::NotSent { .. }
            | Self::Overloaded { .. }
            | Self::Rejected(_)
            | Self::DuplicateNode { .. }
            | Self::Removed { .. }
            | Self::Incompatible { .. } => Outcome::NotDone,
            Self::MaybeExecuted { .. } | Self::Deadline => Outcome::Unknown,
        }
    }

    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::NotSent { .. } => "not-sent",
            Self::MaybeExecuted { .. } => "maybe-executed",
            Self::Deadline => "deadline",
            Self::Overloaded { .. } => "overloaded",
            Self::Rejected(rejection) => &rejection.code,
            Self::DuplicateNode { .. } => "duplicate-node-id",
            Self::Removed { .. } => "member-removed",
            Self::Incompatible { .. } => "incompatible",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_two_characters() {
        let long = Rejection::new("c".repeat(5_000), "ä".repeat(5_000));
        let cut: Rejection = postcard::from_bytes(&long.encode().unwrap()).unwrap();
        assert_eq!(
            (cut.code.len(), cut.message.len()),
            (MAX_REJECTION_TEXT, MAX_REJECTION_TEXT)
        );
        let odd = Rejection::new("code", format!("a{}", "ä".repeat(5_000)));
        let cut: Rejection = postcard::from_bytes(&odd.encode().unwrap()).unwrap();
        assert_eq!(
            (cut.code.as_str(), cut.message.len()),
            ("code", MAX_REJECTION_TEXT - 1)
        );
    }

    #[test]
    fn a_lost_response_leaves_open_what_happened() {
        let check = |code: &str, expected| {
            assert_eq!(
                CallError::Rejected(Rejection::new(code, "")).outcome(),
                expected,
                "{code}"
            );
        };
        check("unknown-method", Outcome::NotDone);
        check(MALFORMED_RESPONSE, Outcome::Unknown);
        check(RESPONSE_TOO_LARGE, Outcome::Unknown);
    }
}
