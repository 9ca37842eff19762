//! Replicate a state machine: a Raft node that hides its consensus library.
//!
//! Give [`RaftNode`] a [`StateMachine`] and it keeps copies of it on several nodes, in the same order of
//! commands everywhere. [`KvStore`] is the state machine to start with.

mod adapter;
mod builder;
mod codec;
mod config;
mod error;
mod fabric;
mod kv;
mod machine;
mod network;
mod node;
mod propose;
mod read;
mod runtime;
mod service;
mod snapshot;
mod status;
mod types;
mod wire;

pub use builder::RaftBuilder;
pub use config::RaftConfig;
pub use error::{InitializeError, ProposeError, ReadError, StartError, TransferError};
pub use fabric::Fabric;
pub use kv::{KvCommand, KvEntry, KvResponse, KvStore, MAX_KEY_BYTES, MAX_VALUE_BYTES};
pub use machine::{ApplyCtx, Refusal, StateMachine};
pub use node::RaftNode;
pub use propose::ProposeOptions;
pub use read::{Consistency, Read};
pub use status::{NoLeader, RaftStatus, RaftWatch, Role};

pub use rivven_raft_store::{NodeDir, NodeDirError};
pub use rivven_transport::{MemoryNetwork, Outcome};
pub use rivven_types::{NodeId, PeerAddr};

/// Most bytes of one encoded command; larger ones are refused before they are proposed.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;
