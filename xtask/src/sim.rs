//! `cargo xtask sim`: whole clusters in simulated time, a process for each seed.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use futures_util::{StreamExt, stream};
use tokio::process::Command;

/// One seed of so many is run twice, to see that it gives the same hash both times.
const REPEAT_ONE_IN: u64 = 50;

/// Wall-clock time that a seed may take at the least.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which seeds are run, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seeds, from the first to before the second, or one alone.
    #[arg(long, value_name = "A..B", default_value = "0..20")]
    seeds: Seeds,
    /// Simulated seconds of trouble for each seed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Play this script in place of random trouble; `all` plays each of them, a wrong name lists them.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Write down every event of the one seed given.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Seeds that run at the same time. Default: one for each core.
    #[arg(long)]
    jobs: Option<usize>,
}

#[derive(Clone, Debug)]
struct Seeds(Range<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
        let seeds = match text.split_once("..") {
            Some((first, end)) => number(first)?..number(end)?,
            None => {
                let one = number(text)?;
                one..one.checked_add(1).ok_or("the seed is too large")?
            }
        };
        if seeds.is_empty() {
            return Err(
                "there is no seed in it; write the first one, `..`, and the one after the last".into(),
            );
        }
        Ok(Self(seeds))
    }
}

/// Seeds from which on a sweep of random trouble must have seen every kind of it, once in so many of them.
const SWEEP: u64 = 100;
const SEEDS_PER_KIND: u64 = 10;

/// The trouble that only scripts make: a disk is lost, and another one takes its place under the same id.
const BY_SCRIPTS_ALONE: &str = "replacements";

/// Simulated seconds of each seed that such a sweep needs.
const SWEEP_SECONDS: u64 = 60;

/// How much there was of everything, by name.
type Counts = BTreeMap<String, u64>;

/// What a process said of its seed.
struct Ran {
    text: String,
    counts: Counts,
    clean: bool,
    /// Something else than its seed decided what happened.
    differs: bool,
}

/// Runs the seeds. `false` when any of them has a violation.
pub(crate) fn main(root: &Path, args: &Args) -> Result<bool> {
    let Seeds(seeds) = &args.seeds;
    let count = seeds.end - seeds.start;
    if args.trace.is_some() && count != 1 {
        bail!("--trace writes down one seed; give --seeds one");
    }
    let program = build(root)?;
    let scripts = scripts(&program, args.scenario.as_deref())?;
    let cores = || std::thread::available_parallelism().map_or(1, Into::into);
    let jobs = args.jobs.unwrap_or_else(cores).max(1);
    println!(
        "{count} seeds of {} simulated seconds with {} nodes, {jobs} at a time; replay one with `cargo xtask \
         sim --seeds N --seconds {} --nodes {} --trace FILE`",
        args.seconds, args.nodes, args.seconds, args.nodes
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut clean = true;
    for script in scripts {
        let sweep = Sweep {
            program: &program,
            seconds: args.seconds,
            nodes: args.nodes,
            script: &script,
            trace: args.trace.as_deref(),
            jobs,
        };
        clean &= runtime.block_on(sweep.run(seeds.clone()))?;
    }
    Ok(clean)
}

/// The scripts asked for, as the program names them; `-` is none.
fn scripts(program: &Path, asked: Option<&str>) -> Result<Vec<String>> {
    if asked != Some("all") {
        return Ok(vec![asked.unwrap_or("-").to_owned()]);
    }
    let output = std::process::Command::new(program).arg("list").output()?;
    let names = String::from_utf8(output.stdout)?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Builds the program, optimized, and says where it is.
fn build(root: &Path) -> Result<PathBuf> {
    let arguments = [
        "build",
        "--quiet",
        "--release",
        "--package",
        "rivven-tests",
        "--bin",
        "rivven-sim",
    ];
    let status = std::process::Command::new("cargo")
        .args(arguments)
        .current_dir(root)
        .status()
        .context("cannot run cargo; is it in PATH?")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let name = format!("rivven-sim{}", std::env::consts::EXE_SUFFIX);
    Ok(metadata.target_directory.join("release").join(name).into())
}

/// Seeds under one script.
struct Sweep<'a> {
    program: &'a Path,
    seconds: u64,
    nodes: u64,
    script: &'a str,
    trace: Option<&'a Path>,
    jobs: usize,
}

impl Sweep<'_> {
    /// Runs the seeds and prints a line for each, in their order. `false` when any has a violation.
    #[expect(
        clippy::disallowed_methods,
        reason = "the rate is simulated time by wall-clock time"
    )]
    async fn run(&self, seeds: Range<u64>) -> Result<bool> {
        if self.script != "-" {
            println!("{}:", self.script);
        }
        let begun = Instant::now();
        let (mut clean, mut dirty, mut counts) = (0_u64, Vec::new(), Counts::new());
        let mut ran = stream::iter(seeds.clone())
            .map(|seed| async move { (seed, self.run_seed(seed).await) })
            .buffered(self.jobs);
        while let Some((seed, ran)) = ran.next().await {
            let ran = ran?;
            print!("{}", ran.text);
            for (name, count) in ran.counts {
                *counts.entry(name).or_default() += count;
            }
            if ran.differs {
                println!("    the seed gave another line the second time");
            }
            if ran.clean && !ran.differs {
                clean += 1;
            } else {
                dirty.push(seed);
            }
        }
        let took = begun.elapsed();
        let simulated = Duration::from_secs((seeds.end - seeds.start).saturating_mul(self.seconds));
        let rate = simulated.div_duration_f64(took) / self.jobs as f64;
        println!(
            "{clean} seeds clean, {} with violations {dirty:?}; {} simulated s in {:.0} s, {rate:.0} for each \
             second and core",
            dirty.len(),
            simulated.as_secs(),
            took.as_secs_f64(),
        );
        let seen = counts.iter().filter(|(_, count)| **count > 0);
        let listed: Vec<String> = seen.map(|(name, count)| format!("{name} {count}")).collect();
        println!("in all: {}", listed.join(", "));
        let rare = self.rare(seeds.end - seeds.start, &counts);
        if !rare.is_empty() {
            println!("too easy: hardly any {}", rare.join(", "));
        }
        Ok(dirty.is_empty() && rare.is_empty())
    }

    /// What a sweep of `seeds` must have seen more of to be worth anything.
    fn rare<'a>(&self, seeds: u64, counts: &'a Counts) -> Vec<&'a str> {
        if self.script != "-" || seeds < SWEEP || self.seconds < SWEEP_SECONDS {
            return Vec::new();
        }
        let rare = counts
            .iter()
            .filter(|(name, count)| *name != BY_SCRIPTS_ALONE && **count < seeds / SEEDS_PER_KIND);
        rare.map(|(name, _)| name.as_str()).collect()
    }

    async fn run_seed(&self, seed: u64) -> Result<Ran> {
        let mut ran = self.run_once(seed).await?;
        let again = seed.is_multiple_of(REPEAT_ONE_IN) && self.trace.is_none();
        ran.differs = again && self.run_once(seed).await?.text != ran.text;
        Ok(ran)
    }

    async fn run_once(&self, seed: u64) -> Result<Ran> {
        let mut command = Command::new(self.program);
        command
            .args([seed, self.seconds, self.nodes].map(|number| number.to_string()))
            .arg(self.script)
            .args(self.trace)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let limit = PATIENCE.max(Duration::from_secs(self.seconds.saturating_mul(4)));
        let ended = tokio::time::timeout(limit, command.output()).await;
        let Ok(output) = ended else {
            return Ok(Ran {
                text: format!("seed {seed} is not over after {limit:?}\n"),
                counts: Counts::new(),
                clean: false,
                differs: false,
            });
        };
        let Output {
            status,
            stdout,
            stderr,
        } = output.with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut text = String::from_utf8_lossy(&stdout).into_owned();
        let stderr = String::from_utf8_lossy(&stderr);
        if text.is_empty() {
            text = format!("seed {seed} ended with {status}: {stderr}\n");
        }
        Ok(Ran {
            text,
            counts: counts(&stderr),
            clean: status.success(),
            differs: false,
        })
    }
}

/// What a process counted: names and numbers behind the word `counts`.
fn counts(text: &str) -> Counts {
    let line = text.lines().find_map(|line| line.strip_prefix("counts "));
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    let pairs = words.chunks_exact(2).filter_map(|pair| match pair {
        [name, count] => Some(((*name).to_owned(), count.parse().ok()?)),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_without_some_kind_of_trouble_is_too_easy() {
        let sweep = |script| Sweep {
            program: Path::new(""),
            seconds: 60,
            nodes: 3,
            script,
            trace: None,
            jobs: 1,
        };
        let seen = counts("noise\ncounts kills 30 pauses 9 terms 0 replacements 0\n");
        assert_eq!(seen.len(), 4);
        assert_eq!(sweep("-").rare(100, &seen), ["pauses", "terms"]);
        assert_eq!(sweep("-").rare(90, &seen).len(), 0);
        assert_eq!(sweep("remove-leader").rare(100, &seen).len(), 0);
    }

    #[test]
    fn seeds_are_a_range_or_one() {
        let check = |text: &str, expected: Option<Range<u64>>| {
            assert_eq!(
                text.parse::<Seeds>().ok().map(|seeds| seeds.0),
                expected,
                "{text}"
            );
        };
        check("3..7", Some(3..7));
        check("3", Some(3..4));
        check("7..3", None);
        check("3..3", None);
        check("x", None);
    }
}
