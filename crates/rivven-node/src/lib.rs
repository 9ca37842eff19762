//! The rivven-node binary, and the harness that runs it as real processes.
//!
//! [`harness`] starts nodes as child processes and kills them; `rivven-node demo`, `cargo xtask
//! cluster-test` and the tests share it. [`client`] talks to a node's admin API.

pub mod cli;
pub mod client;
mod demo;
pub mod harness;
mod signal;
