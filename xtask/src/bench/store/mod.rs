//! `bench store`: the Raft log against bare redb and against plain append + fdatasync, in one run.
//!
//! Rounds of the three alternate, so that a noisy neighbour hits all of them; figures are medians over the
//! rounds. Every store counts its syncs and bytes through its own storage backend.

mod log;
mod reference;
mod reopen;
mod round;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use self::round::Rounds;
use super::{report::Report, usage};

/// Bytes of one command.
const COMMAND_BYTES: usize = 256;

/// Entries in every log before a measurement begins, so that none is measured as an empty tree.
const PRELOAD: u64 = 20_000;

/// Memory for pages, the same for both.
const CACHE_BYTES: usize = 16 << 20;

const BATCHES: [u64; 3] = [1, 64, 1024];
const APPENDERS: [u64; 5] = [1, 16, 64, 256, 1024];

/// Arguments of `bench store`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A short run that takes well under a minute; its figures are only good for seeing that it works.
    #[arg(long)]
    quick: bool,
    /// Write one JSON object per figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only cases whose name contains this, `appenders 256` for one.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Where the files are written: the disk to measure. Default: `target` in the workspace.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the benchmark.
pub(super) fn main(root: &Path, args: &Args) -> Result<()> {
    let parent = args.dir.clone().unwrap_or_else(|| root.join("target"));
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let dir = tempfile::tempdir_in(&parent)?;
    println!(
        "bench store: {COMMAND_BYTES} B entries, files in {}{}",
        dir.path().display(),
        if args.quick { ", quick" } else { "" }
    );
    println!("{}", usage::conditions());
    let mut bench = Bench {
        dir: dir.path().to_path_buf(),
        quick: args.quick,
        case: args.case.clone().unwrap_or_default(),
        report: Report::new("store"),
        files: 0,
    };
    // One thread for the appenders, like the Raft core's; the log has its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        bench.batches().await?;
        bench.appenders().await?;
        bench.reopen().await
    })?;
    match &args.json {
        Some(path) => bench.report.write(path),
        None => Ok(()),
    }
}

struct Bench {
    dir: PathBuf,
    quick: bool,
    /// What the names of the cases to measure contain.
    case: String,
    report: Report,
    files: u32,
}

impl Bench {
    /// One writer whose every batch is durable before the next begins.
    async fn batches(&mut self) -> Result<()> {
        println!("\none writer, each batch durable before the next; references: the same batches");
        for batch in BATCHES {
            let case = format!("batch {batch}");
            if !case.contains(&self.case) {
                continue;
            }
            let commits = match (self.quick, batch) {
                (false, 1) => 2000,
                (false, 64) => 1000,
                (false, _) => 200,
                (true, 1) => 200,
                (true, 64) => 100,
                (true, _) => 20,
            };
            let mut rounds = Rounds::default();
            for _ in 0..self.rounds() {
                rounds
                    .ours
                    .push(log::in_batches(&self.path(), batch, commits).await?);
                rounds
                    .redb
                    .push(reference::bare_redb(&self.path(), batch, commits)?);
                rounds
                    .file
                    .push(reference::plain_file(&self.path(), batch, commits)?);
            }
            rounds.report(&case, &mut self.report);
        }
        Ok(())
    }

    /// Many appenders with one entry in flight each; the references get the whole crowd as one batch.
    async fn appenders(&mut self) -> Result<()> {
        println!("\nconcurrent appenders, one entry in flight each; references: as many entries per commit");
        let mut lone = None;
        for appenders in APPENDERS {
            let case = format!("appenders {appenders}");
            if !case.contains(&self.case) {
                continue;
            }
            let turns = match (self.quick, appenders) {
                (false, 1) => 2000,
                (false, 1024) => 300,
                (false, _) => 1000,
                (true, 1) => 200,
                (true, _) => 60,
            };
            let mut rounds = Rounds::default();
            for _ in 0..self.rounds() {
                rounds
                    .ours
                    .push(log::with_appenders(&self.path(), appenders, turns).await?);
                rounds
                    .redb
                    .push(reference::bare_redb(&self.path(), appenders, turns)?);
                rounds
                    .file
                    .push(reference::plain_file(&self.path(), appenders, turns)?);
            }
            rounds.report(&case, &mut self.report);
            let rate = rounds.rate();
            if appenders == 1 {
                lone = Some(rate);
            } else if let Some(lone) = lone {
                self.report.add(case, "of one", (rate / lone, "x"), &[]);
            }
        }
        Ok(())
    }

    const fn rounds(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// A name that no file has.
    fn path(&mut self) -> PathBuf {
        self.files += 1;
        self.dir.join(format!("{}.redb", self.files))
    }
}
