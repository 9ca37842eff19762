//! Calls, bulk streams and sealed datagrams between the nodes of one cluster, over QUIC with mutual TLS.
//!
//! This crate moves bytes and knows who sent them; what the bytes mean is the caller's business.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod call;
mod clock;
pub mod datagram;
mod fault;
#[doc(hidden)]
pub mod fuzzing;
pub mod gossip_keys;
pub mod identity;
pub mod issuer;
pub mod join;
mod limits;
mod memory;
mod method;
mod metrics;
mod network;
mod quic;
mod router;
mod secret_file;
mod seeded;
mod stream;
mod task;
mod trace;
#[cfg(test)]
mod warnings;

pub use call::{CallCtx, CallError, Outcome, Rejection};
pub use fault::{FaultLayer, FaultProfile, FaultStats};
pub use limits::MAX_CALL_TIME;
pub use memory::{LinkProfile, MemoryNetwork, MemoryNetworkError, MemoryStats};
pub use method::{Class, Method, MethodSpec, max_body};
pub use network::{LocalIdentity, Network, PeerIdentity, PeerStatus, Transport};
pub use quic::{BindError, QuicKeys, QuicKeysError, QuicTransport, QuicTransportBuilder};
pub use router::{Caller, Router};
pub use stream::{
    Incoming, Interruption, MAX_CHUNK_BYTES, MAX_TRANSFERS, MAX_WINDOW_BYTES, Offered, Transfer, TransferCtx,
    TransferError, TransferPipe, TransferSpec,
};
pub use task::TaskGroup;
pub use trace::TraceContext;

/// The choice of cryptography, and randomness of the operating system for ids that must never repeat.
pub use rivven_crypto::{EntropyError, KeyKind, Provider, ProviderError, random_bytes};
pub use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId, PeerAddr};
