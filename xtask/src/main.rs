//! The one door to every check, scenario and benchmark of this workspace.

#![expect(clippy::print_stdout, reason = "a command-line tool talks to its user")]

mod bench;
mod ci;
mod cluster_test;
mod cross;
mod fuzz;
mod providers;
mod sim;
mod tidy;

use std::{path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

/// Everything this workspace can check about itself.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything that a submission is checked for; changes nothing.
    Ci,
    /// Make every automatic rewrite: lint fixes, formatting.
    Fix,
    /// Check the rules of the house: crate edges, file lengths, links, error codes.
    Tidy,
    /// Check that no dependency needs a C compiler on any shipped target, and build for the host without.
    Cross,
    /// Test the cryptography that needs a C compiler against the one that does not; skipped without one.
    Providers(providers::Args),
    /// Start real rivven-node processes and run named scenarios against them.
    ClusterTest(cluster_test::Args),
    /// Simulate whole clusters in trouble, from seeds, and check everything that clients were told.
    Sim(sim::Args),
    /// Feed damaged input to everything that reads what a stranger may have sent.
    Fuzz(fuzz::Args),
    /// The answering process of a benchmark.
    #[command(hide = true)]
    BenchPeer(bench::PeerArgs),
    /// A node of the Raft benchmark.
    #[command(hide = true)]
    BenchRaftNode(bench::NodeArgs),
    /// A process of the Raft benchmark's floor.
    #[command(hide = true)]
    BenchRaftFloor(bench::FloorArgs),
    /// Measure one part against a reference, in the same run.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Calls, bulk transfer and handshakes between two processes on loopback, against raw TCP and quinn.
    Rpc(bench::Args),
    /// Three Raft nodes under load from outside, against three processes that only sync and send.
    Raft(bench::RaftArgs),
    /// Lookups, builds and balance of the hash ring, against two ring crates.
    Ring(bench::RingArgs),
    /// Plans, failover and lookups on a million partitions.
    Plan(bench::PlanArgs),
    /// The Raft log, against bare redb and plain append + fdatasync.
    Store(bench::StoreArgs),
    /// Failure detection and gossip in a simulated network, against foca in the same network.
    Swim(bench::SwimArgs),
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    let result = match Cli::parse().command {
        Command::Ci => ci::check(root).map(|()| true),
        Command::Fix => ci::fix(root).map(|()| true),
        Command::Tidy => tidy::report(root),
        Command::Cross => cross::main(root).map(|()| true),
        Command::Providers(args) => providers::main(root, args).map(|()| true),
        Command::ClusterTest(args) => cluster_test::main(&args),
        Command::Sim(args) => sim::main(root, &args),
        Command::Fuzz(args) => fuzz::main(&args),
        Command::BenchPeer(args) => bench::peer(&args),
        Command::Bench(Bench::Rpc(args)) => bench::main(root, &args),
        Command::BenchRaftNode(args) => bench::raft_node(&args),
        Command::BenchRaftFloor(args) => bench::raft_floor(&args),
        Command::Bench(Bench::Raft(args)) => bench::raft(root, &args),
        Command::Bench(Bench::Ring(args)) => bench::ring(root, &args),
        Command::Bench(Bench::Plan(args)) => bench::plan(root, &args),
        Command::Bench(Bench::Store(args)) => bench::store(root, &args),
        Command::Bench(Bench::Swim(args)) => bench::swim(root, &args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
