//! `cargo xtask bench swim`: failure detection and gossip in a simulated network, beside foca in the same one.

mod contender;
mod crashes;
mod lasting;
mod rival;
mod steady;

use std::path::PathBuf;

use anyhow::Result;
use rivven_swim::sim::SimMember;

use self::rival::FocaMember;
use super::{report::Report, usage};

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
    /// Seed of every simulation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// A member crashes: when is it suspected, declared dead, known by all to be dead?
    Crashes,
    /// Nothing happens but loss: load, wrong suspicions, evictions, processor time.
    Steady,
    /// A newcomer joins, a large cluster forms at once.
    Join,
    /// A split of two minutes ends.
    Merge,
    /// Members whose network is blocked again and again, as in Lifeguard's evaluation.
    Blocked,
    /// Members that lose most packets, or hear nothing every other 20 s, as in Rapid's evaluation.
    Lossy,
    /// Ten thousand members.
    Scale,
}

/// Measures and reports.
pub(super) fn main(args: &Args) -> Result<()> {
    println!(
        "swim: simulated network, one-way delay 0.2 to 1 ms, one thread, optimized build, seed {}",
        args.seed
    );
    println!("conditions: {}", usage::conditions());
    println!(
        "bytes: with IPv4 and UDP headers; rivven's sealed (61 bytes each), foca's in the clear as it ships"
    );
    println!("settings: rivven's defaults (period 1 s); foca's Config::new_lan of the cluster's size");
    let mut report = Report::new("swim");
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Crashes) {
        crashes::measure(args, &mut report)?;
    }
    if wanted(Part::Steady) {
        steady::measure(args, &mut report)?;
    }
    if wanted(Part::Join) {
        lasting::join(args, &mut report)?;
    }
    if wanted(Part::Merge) {
        lasting::merge(args, &mut report)?;
    }
    if wanted(Part::Blocked) {
        lasting::blocked(args, &mut report)?;
    }
    if wanted(Part::Lossy) {
        lasting::lossy(args, &mut report)?;
    }
    // Ten gigabytes of views: only when there is time for it.
    if wanted(Part::Scale) && (!args.quick || args.only.is_some()) {
        steady::scale(args, &mut report)?;
    }
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    Ok(())
}

/// Ours.
type Ours = SimMember;

/// The reference.
type Theirs = FocaMember;
