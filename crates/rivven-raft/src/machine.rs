//! The state machine that an application replicates.

use std::{fmt, io};

use rivven_transport::identity::Role;
use serde::{Serialize, de::DeserializeOwned};

/// Replicated state: commands go in, in the same order on every node, and responses come out.
///
/// `apply` must depend on nothing but the state, the context and the command: no clock, no randomness, no
/// iteration over a `HashMap`. It must not fail; a command that cannot be carried out gets a response that
/// says so. If it panics, the node stops, since nothing is known of the state any more.
///
/// ```
/// use std::io::{self, Read, Write};
/// use rivven_raft::{ApplyCtx, StateMachine};
///
/// /// Adds up what it is sent.
/// #[derive(Default)]
/// struct Sum(u64);
///
/// impl StateMachine for Sum {
///     type Command = u64;
///     type Response = u64;
///     type Snapshot = u64;
///     fn apply(&mut self, _ctx: &ApplyCtx, add: u64) -> u64 {
///         self.0 = self.0.wrapping_add(add);
///         self.0
///     }
///     fn snapshot(&self) -> u64 {
///         self.0
///     }
///     fn encode_snapshot(snapshot: &u64, out: &mut dyn Write) -> io::Result<()> {
///         out.write_all(&snapshot.to_le_bytes())
///     }
///     fn decode_snapshot(input: &mut dyn Read) -> io::Result<u64> {
///         let mut bytes = [0; 8];
///         input.read_exact(&mut bytes)?;
///         Ok(u64::from_le_bytes(bytes))
///     }
///     fn restore(&mut self, snapshot: u64) {
///         self.0 = snapshot;
///     }
/// }
/// ```
pub trait StateMachine: Sized + Send + Sync + 'static {
    /// What is proposed. Encoded with [postcard](https://docs.rs/postcard), at most
    /// [`MAX_COMMAND_BYTES`](crate::MAX_COMMAND_BYTES).
    type Command: Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static;
    /// What the proposer gets back.
    type Response: Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static;
    /// The state at one point in time, encoded while later commands are applied, and decoded while an older
    /// state is read.
    type Snapshot: Send + 'static;

    /// Refuses a command before it is proposed. Nothing is written for a refused command.
    ///
    /// Runs on the proposing node and again on the leader, without the state, so it is for limits and
    /// syntax. What depends on the state is answered by [`Self::apply`].
    ///
    /// # Errors
    /// Why the command is refused.
    fn check(_command: &Self::Command) -> Result<(), Refusal> {
        Ok(())
    }

    /// The feature and the level of it that must be finalised before `command` may be proposed, so that
    /// every member understands it. `None`: every release does.
    ///
    /// See [`RaftNode::finalize_feature`](crate::RaftNode::finalize_feature).
    fn requires(_command: &Self::Command) -> Option<(&'static str, u32)> {
        None
    }

    /// Whether a program with a certificate of `role` may propose `command`, other than a node, which may
    /// propose whatever is offered to it. Without this function no program outside may propose anything.
    fn open_to(_role: Role, _command: &Self::Command) -> bool {
        false
    }

    /// Answers a program outside, in bytes that it and this state machine agree on. Must be short, because
    /// commands wait meanwhile.
    ///
    /// # Errors
    /// Why there is no answer; without this function, that this state machine takes no queries.
    fn query(&self, _role: Role, _query: &[u8]) -> Result<Vec<u8>, Refusal> {
        let message = "this state machine answers no queries; read on a node";
        Err(Refusal::new("no-queries", message))
    }

    /// Carries out one committed command.
    fn apply(&mut self, ctx: &ApplyCtx, command: Self::Command) -> Self::Response;

    /// `response` without texts for people, if it has any; without this function, that it has none.
    ///
    /// The [`Digest`](crate::Digest) by which replicas are compared is made of responses. Releases may word a
    /// text differently, and would be taken for replicas that differ.
    fn without_texts(_response: &Self::Response) -> Option<Self::Response> {
        None
    }

    /// Whether the state waits for time to pass: the leader then proposes ticks.
    ///
    /// Asked on the leader after every batch; time stands still while the answer is no.
    fn needs_ticks(&self) -> bool {
        false
    }

    /// Time has passed, up to [`ApplyCtx::log_time_ms`]. As [`Self::apply`], the same on every node.
    fn tick(&mut self, _ctx: &ApplyCtx) {}

    /// The end of the history is lost: the group began anew from a backup, or from what one survivor had.
    ///
    /// Numbers that were given out as names or as fencing tokens must not be given out again: let the next
    /// ones begin [`REFOUNDING_GAP`](crate::REFOUNDING_GAP) further on. As [`Self::apply`], the same on every
    /// node. Terms and session ids do so already; [`ApplyCtx::log_index`] goes on where the log ends.
    fn refounded(&mut self, _ctx: &ApplyCtx) {}

    /// Called after a batch of commands, with the index of its last entry: publish derived views here, once
    /// per batch.
    fn batch_applied(&mut self, _last: u64) {}

    /// The state at this moment. Must be cheap, because commands wait meanwhile: share, do not copy.
    fn snapshot(&self) -> Self::Snapshot;

    /// Writes a snapshot. Runs on a thread where blocking is allowed.
    ///
    /// # Errors
    /// What `out` reports.
    fn encode_snapshot(snapshot: &Self::Snapshot, out: &mut dyn io::Write) -> io::Result<()>;

    /// Reads what [`Self::encode_snapshot`] wrote into a state aside. Runs on a thread where blocking is allowed.
    ///
    /// Meanwhile the node goes on serving the state that it has, so both are in memory for that time. The input
    /// may be any bytes: what cannot be a snapshot must be an error, not a panic, and what it claims to hold must
    /// be allocated only as it arrives. It need not be read to its end.
    ///
    /// # Errors
    /// The input could not be read or understood. The state stays as it is; the node sets the snapshot aside and
    /// fetches another, and stops after a few that failed.
    fn decode_snapshot(input: &mut dyn io::Read) -> io::Result<Self::Snapshot>;

    /// Replaces the state by one that was decoded. Must be cheap, because reads wait meanwhile: move, do not
    /// copy. [`Self::batch_applied`] follows.
    ///
    /// What is not replicated, such as handles and settings, stays that of this node. The state that is
    /// replaced need not be cheap to drop, as long as [`Self::snapshot`] shares it: it is dropped later, on a
    /// thread where blocking is allowed.
    fn restore(&mut self, snapshot: Self::Snapshot);
}

/// Where in the log a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyCtx {
    /// Index of the entry: strictly increases, the same on every node.
    pub log_index: u64,
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Log time in milliseconds: what the leaders' ticks in the log say has passed. Never goes back, and
    /// stands still while nothing needs it (see [`StateMachine::needs_ticks`]).
    pub log_time_ms: u64,
}

impl ApplyCtx {
    /// The context of the entry at `log_index`, for tests of state machines.
    #[must_use]
    pub const fn new(log_index: u64, term: u64) -> Self {
        Self {
            log_index,
            term,
            log_time_ms: 0,
        }
    }

    /// The same place in the log at another log time.
    #[must_use]
    pub const fn at(mut self, log_time_ms: u64) -> Self {
        self.log_time_ms = log_time_ms;
        self
    }
}

/// Why a command was refused before it was proposed. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// Stable code in kebab case.
    pub code: String,
    /// For people: cause and remedy.
    pub message: String,
}

impl Refusal {
    /// A refusal with `code`, explained by `message`.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

impl Refusal {
    /// What must be the same in every release: the code.
    #[must_use]
    pub fn without_text(&self) -> Self {
        Self::new(self.code.clone(), "")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}
