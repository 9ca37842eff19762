//! Whole clusters in one thread, in simulated time, from a seed: the same seed is the same run, bit for bit.
//!
//! `docs/design/simulation.md` says how to run, replay and extend it.

pub mod chance;
pub mod clients;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod host;
pub mod invariants;
pub mod linear;
pub mod logs;
pub mod members;
pub mod oracle;
pub mod priority;
pub mod run;
pub mod scenario;
pub mod trace;
