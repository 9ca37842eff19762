//! The one door to every check, scenario and benchmark of this workspace.

mod cluster_test;

use std::process::ExitCode;

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
    /// Start real rivven-node processes and run named scenarios against them.
    ClusterTest(cluster_test::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::ClusterTest(args) => cluster_test::main(&args),
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
