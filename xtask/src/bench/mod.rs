//! `cargo xtask bench`: figures with their reference measured in the same run. See `docs/design/bench.md`.

mod child;
mod load;
mod peer;
mod plan;
mod raft;
mod report;
mod ring;
mod rpc;
mod store;
mod stream_per_request;
mod swim;
mod tcp;
mod transfer;
mod usage;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

pub(crate) use peer::PeerArgs;
pub(crate) use plan::Args as PlanArgs;
pub(crate) use raft::{Args as RaftArgs, FloorArgs, NodeArgs};
pub(crate) use ring::Args as RingArgs;
pub(crate) use store::Args as StoreArgs;
pub(crate) use swim::Args as SwimArgs;

/// How long to measure, and where to report.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure briefly: under a minute, enough to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Write one JSON line per figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only this.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    Memory,
    Calls,
    Bulk,
    Control,
    Streams,
    Handshakes,
    Datagrams,
    Restarts,
}

/// Runs `cargo xtask bench rpc`.
pub(crate) fn main(root: &Path, args: &Args) -> Result<bool> {
    optimized(root, || runtime()?.block_on(rpc::main(args)))
}

/// Runs `cargo xtask bench store`.
pub(crate) fn store(root: &Path, args: &StoreArgs) -> Result<bool> {
    optimized(root, || store::main(root, args))
}

/// Runs `cargo xtask bench ring`.
pub(crate) fn ring(root: &Path, args: &RingArgs) -> Result<bool> {
    optimized(root, || ring::main(args))
}

/// Runs `cargo xtask bench swim`.
pub(crate) fn swim(root: &Path, args: &SwimArgs) -> Result<bool> {
    optimized(root, || swim::main(args))
}

/// Runs `cargo xtask bench plan`.
pub(crate) fn plan(root: &Path, args: &PlanArgs) -> Result<bool> {
    optimized(root, || plan::main(args))
}

/// Runs `cargo xtask bench raft`.
pub(crate) fn raft(root: &Path, args: &RaftArgs) -> Result<bool> {
    optimized(root, || runtime()?.block_on(raft::main(args)))
}

/// A node of the Raft benchmark.
pub(crate) fn raft_node(args: &NodeArgs) -> Result<bool> {
    raft::node(args).map(|()| true)
}

/// A process of the Raft benchmark's floor.
pub(crate) fn raft_floor(args: &FloorArgs) -> Result<bool> {
    raft::floor(args).map(|()| true)
}

/// Measures in an optimized build: an unoptimized one of this program hands over to one.
fn optimized(root: &Path, measure: impl FnOnce() -> Result<()>) -> Result<bool> {
    if cfg!(debug_assertions) {
        println!("building the benchmark, optimized ...");
        let status = Command::new("cargo")
            .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
            .args(std::env::args_os().skip(1))
            .current_dir(root)
            .status()
            .context("cannot run cargo; is it in PATH?")?;
        return Ok(status.success());
    }
    measure()?;
    Ok(true)
}

/// The other end of a benchmark.
pub(crate) fn peer(args: &PeerArgs) -> Result<bool> {
    runtime()?.block_on(peer::main(args))?;
    Ok(true)
}

/// One worker for each of the two processes: the machine may have no more than two cores.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start a runtime")
}
