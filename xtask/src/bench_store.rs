//! `bench store`: the Raft log against bare redb and against plain append + fdatasync, in one run.
//!
//! Rounds of the three alternate, so that a noisy neighbour hits all of them; a ratio is the median of the
//! rounds' ratios. Every store counts its syncs and bytes through its own storage backend.

use std::{
    fs::{self, File},
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures_util::{StreamExt, stream::FuturesUnordered};
use redb::{Database, StorageBackend, TableDefinition, backends::FileBackend};
use rivven_raft_store::{
    CodecError, CommandCodec, LogOptions, PlainCodec, RedbLogStore,
    openraft::{
        self, Entry, EntryPayload,
        entry::RaftEntry,
        storage::{IOFlushed, RaftLogStorage},
        type_config::{
            TypeConfigExt,
            alias::{EntryOf, LeaderIdOf, LogIdOf},
        },
        vote::RaftLeaderId,
    },
};
use serde_json::json;
use tokio::time::Instant;

/// Bytes of one command.
const COMMAND_BYTES: usize = 256;

/// Entries in every log before a measurement begins, so that none is measured as an empty tree.
const PRELOAD: u64 = 20_000;

/// Memory for pages, the same for both.
const CACHE_BYTES: usize = 16 << 20;

const BATCHES: [u64; 3] = [1, 64, 1024];
const APPENDERS: [u64; 5] = [1, 16, 64, 256, 1024];

const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

/// Arguments of `bench store`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A short run that takes well under a minute; its figures are only good for seeing that it works.
    #[arg(long)]
    quick: bool,
    /// Write one JSON object per figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the files are written: the disk to measure. Default: `target` in the workspace.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Command(Arc<[u8]>);

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl CommandCodec for Command {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(Self(bytes.into()))
    }
}

openraft::declare_raft_types!(
    Types:
        D = Command,
        R = (),
);

type Store = RedbLogStore<Types, PlainCodec>;

/// Runs the benchmark; true unless a floor of the log itself is missed in a full run.
pub(crate) fn run(args: &Args, root: &Path) -> anyhow::Result<bool> {
    if cfg!(debug_assertions) {
        return rerun_optimised(args, root);
    }
    let parent = args.dir.clone().unwrap_or_else(|| root.join("target"));
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let dir = tempfile::tempdir_in(&parent)?;
    println!(
        "bench store: {COMMAND_BYTES} B entries, files in {}{}",
        dir.path().display(),
        if args.quick { ", quick" } else { "" }
    );
    let mut bench = Bench {
        dir: dir.path().to_path_buf(),
        quick: args.quick,
        lines: Vec::new(),
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
    if let Some(path) = &args.json {
        let text: String = bench.lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(true)
}

/// A debug build measures the compiler's absence; the same command again, optimised.
fn rerun_optimised(args: &Args, root: &Path) -> anyhow::Result<bool> {
    let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "run",
        "--release",
        "--quiet",
        "--package",
        "xtask",
        "--",
        "bench",
        "store",
    ]);
    command.args(args.quick.then_some("--quick"));
    for (flag, path) in [("--json", &args.json), ("--dir", &args.dir)] {
        if let Some(path) = path {
            command.arg(flag).arg(std::path::absolute(path)?);
        }
    }
    Ok(command.current_dir(root).status()?.success())
}

struct Bench {
    dir: PathBuf,
    quick: bool,
    lines: Vec<serde_json::Value>,
    files: u32,
}

/// What one round of one contender did.
#[derive(Clone, Debug, Default)]
struct Round {
    entries: u64,
    elapsed: Duration,
    latencies: Vec<Duration>,
    syncs: u64,
    bytes: u64,
}

impl Round {
    fn rate(&self) -> f64 {
        self.entries as f64 / self.elapsed.as_secs_f64()
    }
}

/// The rounds of the log and of its two references, in the order in which they were run.
#[derive(Debug, Default)]
struct Rounds {
    ours: Vec<Round>,
    redb: Vec<Round>,
    file: Vec<Round>,
}

impl Bench {
    /// One writer whose every batch is durable before the next begins.
    async fn batches(&mut self) -> anyhow::Result<()> {
        println!(
            "\none writer, each batch durable before the next\n{}",
            header("batch")
        );
        for batch in BATCHES {
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
                rounds.ours.push(self.ours_in_batches(batch, commits).await?);
                rounds.redb.push(self.bare_redb(batch, commits)?);
                rounds.file.push(self.plain_file(batch, commits)?);
            }
            self.report("batch", batch, &rounds);
        }
        Ok(())
    }

    /// Many appenders with one entry in flight each; the references get the whole crowd as one batch.
    async fn appenders(&mut self) -> anyhow::Result<()> {
        println!(
            "\nconcurrent appenders, one entry in flight each; references: as many entries per commit\n{}",
            header("appenders")
        );
        let mut lone = None;
        for appenders in APPENDERS {
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
                    .push(self.ours_with_appenders(appenders, turns).await?);
                rounds.redb.push(self.bare_redb(appenders, turns)?);
                rounds.file.push(self.plain_file(appenders, turns)?);
            }
            self.report("appenders", appenders, &rounds);
            let rate = median(rounds.ours.iter().map(Round::rate));
            let lone = *lone.get_or_insert(rate);
            if appenders == 256 {
                println!("  256 appenders: {:.1} x the rate of one", rate / lone);
                self.figure("appenders-256", "speedup-over-one", rate / lone, "ratio", &[]);
            }
        }
        Ok(())
    }

    /// Opening a long log, and the memory that it takes.
    async fn reopen(&mut self) -> anyhow::Result<()> {
        let entries: u64 = if self.quick { 100_000 } else { 1_000_000 };
        let path = self.path();
        let before = resident_bytes();
        let mut store = Store::open(&path, options())?;
        for start in (0..entries).step_by(1024) {
            append(&mut store, crowd(start..entries.min(start + 1024))).await?;
        }
        let grown = resident_bytes().saturating_sub(before);
        // What a killed process leaves: redb repairs it first.
        let killed = self.path();
        fs::copy(&path, &killed)?;
        drop(store);
        let mib = grown as f64 / f64::from(1 << 20);
        println!("\n{entries} entries: memory grew by {mib:.1} MiB");
        self.figure("reopen", "memory-growth", mib, "MiB", &[]);
        for (case, path) in [("closed", &path), ("killed", &killed)] {
            let start = Instant::now();
            let mut store = Store::open(path, options())?;
            let seconds = start.elapsed().as_secs_f64();
            let last = store.get_log_state().await?.last_log_id.map(|id| id.index);
            anyhow::ensure!(
                last == Some(entries - 1),
                "entries are missing: the last is {last:?}"
            );
            println!(
                "reopening it ({case}): {seconds:.3} s, every page and every record's checksum verified"
            );
            self.figure(&format!("reopen-{case}"), "open", seconds, "s", &[]);
        }
        Ok(())
    }

    async fn ours_in_batches(&mut self, batch: u64, commits: u64) -> anyhow::Result<Round> {
        let counts = Arc::<Counts>::default();
        let mut store = self.open_ours(&counts).await?;
        let mut round = Round::default();
        let before = counts.get();
        for number in 0..commits {
            let start = PRELOAD + number * batch;
            let entries = crowd(start..start + batch);
            let begin = Instant::now();
            append(&mut store, entries).await?;
            round.latencies.push(begin.elapsed());
        }
        round.elapsed = round.latencies.iter().sum();
        round.entries = commits * batch;
        counts.since(before, &mut round);
        Ok(round)
    }

    async fn ours_with_appenders(&mut self, appenders: u64, turns: u64) -> anyhow::Result<Round> {
        let counts = Arc::<Counts>::default();
        let mut store = self.open_ours(&counts).await?;
        let mut round = Round::default();
        let before = counts.get();
        let total = appenders * turns;
        let mut waiting = FuturesUnordered::new();
        let begin = Instant::now();
        for index in 0..total {
            if index >= appenders {
                let latency: io::Result<Duration> = waiting.next().await.unwrap_or(Ok(Duration::ZERO));
                round.latencies.push(latency?);
            }
            let start = Instant::now();
            let durable = submit(&mut store, crowd(PRELOAD + index..PRELOAD + index + 1)).await?;
            waiting.push(async move { durable.await.map(|()| start.elapsed()) });
        }
        while let Some(latency) = waiting.next().await {
            round.latencies.push(latency?);
        }
        round.elapsed = begin.elapsed();
        round.entries = total;
        counts.since(before, &mut round);
        Ok(round)
    }

    /// A log with [`PRELOAD`] entries.
    async fn open_ours(&mut self, counts: &Arc<Counts>) -> anyhow::Result<Store> {
        let path = self.path();
        let backend = Counted::create(&path, counts)?;
        let mut store = Store::open_with_backend(backend, &path, options())?;
        append(&mut store, crowd(0..PRELOAD)).await?;
        Ok(store)
    }

    /// What a careful user of redb writes by hand: a transaction per batch, sorted keys through a cursor.
    fn bare_redb(&mut self, batch: u64, commits: u64) -> anyhow::Result<Round> {
        let counts = Arc::<Counts>::default();
        let backend = Counted::create(&self.path(), &counts)?;
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)?;
        redb_commit(&db, 0..PRELOAD)?;
        let mut round = Round::default();
        let before = counts.get();
        for number in 0..commits {
            let start = PRELOAD + number * batch;
            let begin = Instant::now();
            redb_commit(&db, start..start + batch)?;
            round.latencies.push(begin.elapsed());
        }
        round.elapsed = round.latencies.iter().sum();
        round.entries = commits * batch;
        counts.since(before, &mut round);
        Ok(round)
    }

    /// The least a durable log can do: append the bytes to a file and sync them.
    fn plain_file(&mut self, batch: u64, commits: u64) -> anyhow::Result<Round> {
        let mut file = File::create_new(self.path())?;
        let bytes = vec![7; COMMAND_BYTES * usize::try_from(batch)?];
        let mut round = Round::default();
        for _ in 0..commits {
            let begin = Instant::now();
            file.write_all(&bytes)?;
            file.sync_data()?;
            round.latencies.push(begin.elapsed());
        }
        round.elapsed = round.latencies.iter().sum();
        round.entries = commits * batch;
        round.syncs = commits;
        round.bytes = commits * bytes.len() as u64;
        Ok(round)
    }

    fn rounds(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// A name that no file has.
    fn path(&mut self) -> PathBuf {
        self.files += 1;
        self.dir.join(format!("{}.redb", self.files))
    }

    fn report(&mut self, kind: &str, number: u64, rounds: &Rounds) {
        let paired = |reference: &[Round]| {
            let pairs = rounds.ours.iter().zip(reference);
            median(pairs.map(|(ours, reference)| ours.rate() / reference.rate()))
        };
        let (to_redb, to_file) = (paired(&rounds.redb), paired(&rounds.file));
        let rate = |rounds: &[Round]| median(rounds.iter().map(Round::rate));
        let (ours, redb, file) = (rate(&rounds.ours), rate(&rounds.redb), rate(&rounds.file));
        let (p50, p99) = (percentile(&rounds.ours, 50), percentile(&rounds.ours, 99));
        let (redb_p50, redb_p99) = (percentile(&rounds.redb, 50), percentile(&rounds.redb, 99));
        let per = |rounds: &[Round], of: fn(&Round) -> u64| {
            let entries: u64 = rounds.iter().map(|round| round.entries).sum();
            rounds.iter().map(of).sum::<u64>() as f64 / entries as f64
        };
        let (syncs, bytes) = (per(&rounds.ours, |r| r.syncs), per(&rounds.ours, |r| r.bytes));
        let (redb_syncs, redb_bytes) = (per(&rounds.redb, |r| r.syncs), per(&rounds.redb, |r| r.bytes));
        println!(
            "{number:>9} {ours:>11.0} {redb:>11.0} {file:>11.0} {to_redb:>7.2} {to_file:>7.2} {p50:>8.0} {p99:>8.0} {redb_p50:>8.0} {redb_p99:>8.0} {syncs:>9.4} {bytes:>9.0}"
        );
        let case = format!("{kind}-{number}");
        let rates = [("redb", redb, to_redb), ("file", file, to_file)];
        self.figure(&case, "entries-per-second", ours, "1/s", &rates);
        self.figure(&case, "p50", p50, "us", &[("redb", redb_p50, p50 / redb_p50)]);
        self.figure(&case, "p99", p99, "us", &[("redb", redb_p99, p99 / redb_p99)]);
        let syncs_of = [("redb", redb_syncs, syncs / redb_syncs)];
        self.figure(&case, "fsyncs-per-entry", syncs, "1", &syncs_of);
        self.figure(
            &case,
            "bytes-per-entry",
            bytes,
            "B",
            &[("redb", redb_bytes, bytes / redb_bytes)],
        );
    }

    fn figure(&mut self, case: &str, metric: &str, value: f64, unit: &str, references: &[(&str, f64, f64)]) {
        let reference: serde_json::Map<_, _> = references
            .iter()
            .map(|(name, value, _)| ((*name).to_owned(), json!(value)))
            .collect();
        let ratio: serde_json::Map<_, _> = references
            .iter()
            .map(|(name, _, ratio)| ((*name).to_owned(), json!(ratio)))
            .collect();
        self.lines.push(json!({
            "bench": "store", "case": case, "metric": metric, "value": value, "unit": unit,
            "reference": reference, "ratio": ratio,
        }));
    }
}

fn header(kind: &str) -> String {
    format!(
        "{kind:>9} {:>11} {:>11} {:>11} {:>7} {:>7} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "entries/s",
        "redb",
        "file",
        "x redb",
        "x file",
        "p50 us",
        "p99 us",
        "redb p50",
        "redb p99",
        "sync/entr",
        "B/entry"
    )
}

fn options() -> LogOptions {
    LogOptions {
        cache_bytes: CACHE_BYTES,
        ..LogOptions::default()
    }
}

/// Entries with the indexes of `range`.
fn crowd(range: std::ops::Range<u64>) -> Vec<EntryOf<Types>> {
    let command = Command(vec![7; COMMAND_BYTES].into());
    let entry = |index| {
        let id = LogIdOf::<Types>::new(LeaderIdOf::<Types>::new(1, 1), index);
        Entry::new(id, EntryPayload::Normal(command.clone()))
    };
    range.map(entry).collect()
}

/// Appends; the future resolves once the entries are durable.
async fn submit(
    store: &mut Store,
    entries: Vec<EntryOf<Types>>,
) -> io::Result<impl Future<Output = io::Result<()>> + use<>> {
    let (done, durable) = Types::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    Ok(async { durable.await.map_err(io::Error::other)? })
}

async fn append(store: &mut Store, entries: Vec<EntryOf<Types>>) -> io::Result<()> {
    submit(store, entries).await?.await
}

fn redb_commit(db: &Database, range: std::ops::Range<u64>) -> anyhow::Result<()> {
    let value = [7; COMMAND_BYTES];
    let txn = db.begin_write()?;
    {
        let mut table = txn.open_table(LOG)?;
        let mut end = table.upper_bound_mut(std::ops::Bound::<u64>::Unbounded)?;
        for index in range {
            end.insert_before(index, value.as_slice())?;
        }
        end.close()?;
    }
    txn.commit()?;
    Ok(())
}

/// A file that counts what is done to it.
#[derive(Debug)]
struct Counted {
    file: FileBackend,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn get(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.syncs), read(&self.bytes))
    }

    fn since(&self, (syncs, bytes): (u64, u64), round: &mut Round) {
        let now = self.get();
        round.syncs = now.0 - syncs;
        round.bytes = now.1 - bytes;
    }
}

impl Counted {
    fn create(path: &Path, counts: &Arc<Counts>) -> anyhow::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Self {
            file: FileBackend::new(file)?,
            counts: Arc::clone(counts),
        })
    }
}

impl StorageBackend for Counted {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.counts.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Microseconds.
fn percentile(rounds: &[Round], percent: usize) -> f64 {
    let mut all: Vec<Duration> = rounds
        .iter()
        .flat_map(|round| round.latencies.iter().copied())
        .collect();
    all.sort_unstable();
    let at = all.len().saturating_mul(percent) / 100;
    all.get(at.min(all.len().saturating_sub(1)))
        .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
}

/// Resident memory of this process; 0 where `/proc` does not tell.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
