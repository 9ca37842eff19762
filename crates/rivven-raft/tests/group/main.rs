//! A group in memory: election, replication, forwarding, reads, fail-over.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod elections;
mod failures;
mod founding;
mod leases;
mod life;
mod machine;
mod outside;
mod priorities;
mod proposals;
mod stages;
mod stalls;
