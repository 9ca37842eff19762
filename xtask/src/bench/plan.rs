//! `cargo xtask bench plan`: planning, failover and lookups on a million partitions.

mod cases;
mod control;
mod timing;
mod world;

use std::path::PathBuf;

use anyhow::Result;

use super::report::Report;

/// How long to measure, and where to report.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure briefly: some seconds on a tenth of the partitions, enough to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Write one JSON line per figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures and reports.
pub(super) fn main(args: &Args) -> Result<()> {
    let (topics, passes) = if args.quick { (100, 2) } else { (1_000, 5) };
    println!("plan: {topics} topics of 1,000 partitions of 3 replicas, optimized build, one thread");
    println!("conditions: {}", super::usage::conditions());
    println!(
        "times are CPU time of the one thread, or on the wall below 200 ms; the least of {passes} passes"
    );
    let mut report = Report::new("plan");
    cases::all(topics, passes, &mut report)?;
    control::all(topics, passes, &mut report)?;
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(())
}
