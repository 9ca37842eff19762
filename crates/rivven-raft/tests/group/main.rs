//! A group in memory: election, replication, forwarding, reads, fail-over.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod failures;
mod founding;
mod life;
mod proposals;
