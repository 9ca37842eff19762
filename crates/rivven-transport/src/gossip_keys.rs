//! Gossip keys among the nodes of a cluster: kept, handed out over mutual TLS, and changed while all talk.
//!
//! - A [`KeyKeeper`] has the ring of one node: durable before anybody is told of it, and never replaced by
//!   a lesser one. It answers peers, and fetches what its node has missed.
//! - [`plan`] decides what becomes of a ring, from who has acknowledged what and how long ago.
//! - [`KeyRotation`] carries that out. One node at a time has the right to, whoever leads the Raft group.
//!
//! A key is sealed under only once every live member, and a majority of all, has acknowledged it durably;
//! and a key is dropped only once they have acknowledged its successor. So two nodes that talk have a
//! common key at every moment, except one that comes back after it has missed both steps: it finds a key
//! it does not know, and fetches. The majority makes two controllers after one another see what the first
//! one began, since any two majorities share a node.

mod keeper;
mod message;
mod plan;
mod rotation;
mod store;
#[cfg(test)]
mod tests;

pub use keeper::{AdoptError, KeyKeeper, Standing};
pub use plan::{Answer, KeyDemand, KeyMember, KeyStep, RotationPolicy, plan};
pub use rotation::{KeyRotation, RotationInput};
pub use store::KeyFileError;
