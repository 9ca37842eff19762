//! `cargo xtask bench ring`: lookups, builds and balance of the ring, beside two ring crates.

mod cases;
mod keys;
mod timing;

use std::path::PathBuf;

use anyhow::Result;

use super::report::Report;

/// Virtual nodes of every ring here.
const VIRTUAL_NODES: u32 = 128;

/// Sizes of the rings, in nodes.
const NODES: [usize; 3] = [10, 100, 1_000];

/// How long to measure, and where to report.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure briefly: some seconds, enough to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Write one JSON line per figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures and reports.
pub(super) fn main(args: &Args) -> Result<()> {
    println!("ring: {VIRTUAL_NODES} virtual nodes each, optimized build, one thread unless said otherwise");
    println!("conditions: {}", super::usage::conditions());
    println!(
        "keys: {} (topic, partition) pairs, shuffled; each time is the least of several passes",
        keys::COUNT
    );
    let passes = if args.quick { 3 } else { 15 };
    let keys = keys::Keys::new();
    let mut report = Report::new("ring");
    for nodes in NODES {
        cases::of(nodes, passes, &keys, &mut report)?;
    }
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(())
}
