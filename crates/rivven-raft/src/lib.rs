//! Replicate a state machine: a Raft node that hides its consensus library.
//!
//! Give [`RaftNode`] a [`StateMachine`] and it keeps copies of it on several nodes, in the same order of
//! commands everywhere. [`KvStore`] is the state machine to start with.

mod config;
mod error;
mod kv;
mod machine;
mod status;

pub use config::RaftConfig;
pub use error::{InitializeError, ProposeError, ReadError, StartError, TransferError};
pub use kv::{KvCommand, KvEntry, KvResponse, KvStore, MAX_KEY_BYTES, MAX_VALUE_BYTES};
pub use machine::{ApplyCtx, Refusal, StateMachine};
pub use status::{RaftStatus, Role};

pub use rivven_transport::Outcome;
pub use rivven_types::{NodeId, PeerAddr};

/// Most bytes of one encoded command; larger ones are refused before they are proposed.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;
