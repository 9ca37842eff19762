//! `cargo xtask cluster-test`: named scenarios against real `rivven-node` processes.

mod build;
mod context;
mod kill_leader;
mod members;
mod restart;
mod scenario;
mod smoke;
mod stranger;

use std::{
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::Write as _,
    path::PathBuf,
};

use anyhow::Context as _;
use rivven_node::harness::{Harness, HarnessOptions};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use self::{
    context::{Context, Facts},
    scenario::Scenario,
};

/// What to run, on how many nodes, and where to report.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Scenarios to run; all of them when none is named.
    #[arg(value_name = "NAME")]
    names: Vec<Scenario>,
    /// List the scenarios and what each one shows.
    #[arg(long)]
    list: bool,
    /// How many nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=9))]
    nodes: u64,
    /// Seed of everything a scenario chooses at random; printed when left out.
    #[arg(long)]
    seed: Option<u64>,
    /// How often `kill-leader` kills the leader.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long the load runs before a fault is injected, in seconds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// Write one JSON line per scenario to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run this program instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Leave the directories with logs and data behind.
    #[arg(long)]
    keep: bool,
}

/// Runs the scenarios of `args`; `Ok(false)` when one failed.
///
/// # Errors
/// When the scenarios could not be started at all.
pub(crate) fn main(args: &Args) -> anyhow::Result<bool> {
    if args.list {
        for scenario in Scenario::ALL {
            say(format_args!("{:<16} {}", scenario.name(), scenario.about()));
        }
        return Ok(true);
    }
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => build::release_binary()?,
    };
    // A fresh hasher is keyed by the operating system's randomness.
    let seed = args.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let scenarios = if args.names.is_empty() {
        Scenario::ALL.to_vec()
    } else {
        args.names.clone()
    };
    say(format_args!(
        "{} scenarios on {} nodes, seed {seed}",
        scenarios.len(),
        args.nodes
    ));
    let mut json = match &args.json {
        Some(path) => Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?),
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Either signal unwinds, so that processes and directories go.
        let mut terminate = signal(SignalKind::terminate())?;
        let (mut passed, mut failed) = (0, 0);
        for scenario in scenarios {
            let report = tokio::select! {
                biased;
                _ = terminate.recv() => anyhow::bail!("interrupted in {}", scenario.name()),
                _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted in {}", scenario.name()),
                report = run(scenario, args, &binary, seed) => report,
            };
            match report.failure {
                None => passed += 1,
                Some(_) => failed += 1,
            }
            report.print();
            if let Some(file) = &mut json {
                writeln!(file, "{}", report.to_json())?;
            }
        }
        say(format_args!("{passed} passed, {failed} failed"));
        Ok(failed == 0)
    })
}

/// How one scenario went.
struct Report {
    scenario: Scenario,
    seed: u64,
    seconds: f64,
    facts: Facts,
    failure: Option<anyhow::Error>,
    logs: String,
}

async fn run(scenario: Scenario, args: &Args, binary: &std::path::Path, seed: u64) -> Report {
    let began = Instant::now();
    let mut facts = Facts::default();
    let mut options = HarnessOptions::new(binary);
    options.nodes = args.nodes;
    options.keep = args.keep;
    let (failure, logs) = match Harness::start(options) {
        Err(error) => (Some(error), String::new()),
        Ok(harness) => {
            let mut context = Context::new(harness, args.rounds, args.duration, seed, &mut facts);
            match scenario.run(&mut context).await {
                Ok(()) => (None, String::new()),
                Err(error) => (Some(error), context.harness.log_tails()),
            }
        }
    };
    Report {
        scenario,
        seed,
        seconds: began.elapsed().as_secs_f64(),
        facts,
        failure,
        logs,
    }
}

impl Report {
    fn print(&self) {
        let (name, seconds, facts) = (self.scenario.name(), self.seconds, self.facts.to_text());
        match &self.failure {
            None => say(format_args!("ok    {name:<16} {seconds:>5.1} s  {facts}")),
            Some(error) => {
                say(format_args!(
                    "FAIL  {name:<16} {seconds:>5.1} s  {error:#}; seen before: {facts}"
                ));
                eprint!("{}", self.logs);
                eprintln!("again: cargo xtask cluster-test {name} --seed {}", self.seed);
            }
        }
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "scenario": self.scenario.name(),
            "passed": self.failure.is_none(),
            "failure": self.failure.as_ref().map(|error| format!("{error:#}")),
            "seed": self.seed,
            "seconds": self.seconds,
            "facts": self.facts.to_json(),
        })
    }
}

/// Writes a line to standard output; a reader that went away is nobody to tell.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
