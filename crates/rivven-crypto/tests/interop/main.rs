//! Every provider understands every other: handshake, Retry, key update, a mebibyte echoed, refusals; and
//! which authorities each believes.
//!
//! The pure Rust provider meets those of `--features crypto-ring,crypto-aws-lc-rs` where these are enabled.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test ends with its runtime, and so do its tasks"
)]

mod authorities;
mod providers;
mod support;
