//! `cargo xtask bench raft`: three nodes under load from outside, beside what the machine can do without them.

mod floor;
mod group;
mod node;
mod process;
mod slow;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rivven_raft::{Client, Consistency, KvCommand, KvStore, ProposeOptions};
use rivven_transport::TaskGroup;
use tokio::time::{Instant, sleep};

use self::{
    floor::Floor,
    group::{Group, Shape, Usage},
};
pub(crate) use self::{
    floor::{FloorArgs, main as floor},
    node::{NodeArgs, main as node},
};
use super::{
    load::{self, Shown, WARM_UP},
    report::Report,
    tcp, usage,
};

/// Bytes of each value.
const VALUE_BYTES: usize = 256;

/// Keys that are written, round robin.
const KEYS: u64 = 10_000;

/// How often a new write is tried while there is no leader.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// How long a write may take before a round of fail-over counts as failed.
const FAIL_OVER_LIMIT: Duration = Duration::from_secs(10);

/// What to measure, and where to report.
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
    /// Directory for the files, on the disk to measure. Default: that of temporary files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Clients at a time, in place of 1, 16, 64, 256 and 1024.
    #[arg(long, value_delimiter = ',', value_name = "N")]
    clients: Vec<usize>,
    /// Worker threads of each node.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Leave out the floor.
    #[arg(long)]
    no_floor: bool,
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    Puts,
    SlowDisk,
    Reads,
    FailOver,
}

/// How long and how often.
struct Effort {
    load: Duration,
    reads: Duration,
    kills: u32,
    clients: &'static [usize],
}

const QUICK: Effort = Effort {
    load: Duration::from_millis(800),
    reads: Duration::from_millis(400),
    kills: 2,
    clients: &[1, 64, 256],
};

const FULL: Effort = Effort {
    load: Duration::from_secs(3),
    reads: Duration::from_secs(2),
    kills: 20,
    clients: &[1, 16, 64, 256, 1024],
};

struct Bench {
    dir: tempfile::TempDir,
    shape: Shape,
    effort: Effort,
    clients: Vec<usize>,
    group: Group,
    floor: Option<Floor>,
    report: Report,
}

/// Measures everything.
pub(crate) async fn main(args: &Args) -> Result<()> {
    let effort = if args.quick { QUICK } else { FULL };
    println!(
        "raft: three processes on loopback, mutual TLS, real fsync, values of {VALUE_BYTES} bytes, {} worker thread(s) \
         each; load from this process through one client",
        args.threads
    );
    println!("conditions: {}", usage::conditions());
    println!("floor: three processes over plain TCP, group commit to a plain file, no consensus");
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let floor = if args.no_floor {
        None
    } else {
        Some(Floor::start(dir.path()).await?)
    };
    let shape = Shape {
        threads: args.threads,
        lease_reads: false,
        slow: None,
    };
    let group = Group::start(dir.path(), shape).await?;
    let clients = if args.clients.is_empty() {
        effort.clients.to_vec()
    } else {
        args.clients.clone()
    };
    let mut bench = Bench {
        dir,
        shape,
        effort,
        clients,
        group,
        floor,
        report: Report::new("raft"),
    };
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Puts) {
        bench.puts().await?;
    }
    if wanted(Part::SlowDisk) {
        bench.slow_disk().await?;
    }
    if wanted(Part::Reads) {
        bench.reads().await?;
    }
    if wanted(Part::FailOver) {
        bench.fail_over().await?;
    }
    if let Some(path) = &args.json {
        bench.report.write(path)?;
    }
    bench.group.stop().await;
    Ok(())
}

/// The command of the `n`-th write.
fn put(n: u64) -> KvCommand {
    KvCommand::put(format!("key-{:05}", n % KEYS), vec![7; VALUE_BYTES])
}

/// One number of what a load has shown.
type Figure = fn(&Shown) -> f64;

/// Names the writes of all tasks one after the other.
#[derive(Clone, Debug, Default)]
struct Counter(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Counter {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

impl Bench {
    async fn puts(&mut self) -> Result<()> {
        self.memory("before the puts");
        for clients in self.clients.clone() {
            let floor = self.floor_puts(clients).await?;
            let load = put_load(&self.group, clients, self.effort.load).await?;
            let case = format!("put {VALUE_BYTES} B, {clients} clients");
            self.loaded(&case, &load, floor.as_ref());
        }
        self.memory("after the puts");
        Ok(())
    }

    fn memory(&mut self, case: &str) {
        let Some(memory) = self.group.memory() else { return };
        let mib = |kib: u32| (f64::from(kib) / 1024.0, "MiB");
        self.report.add(case, "memory", mib(memory.resident_kib), &[]);
        self.report
            .add(case, "memory, program", mib(memory.program_kib), &[]);
    }

    fn loaded(&mut self, case: &str, load: &Load, floor: Option<&Shown>) {
        self.rates(case, &load.shown, floor);
        self.cost(case, load);
        if load.failed > 0 {
            self.report
                .add(case, "failed", (f64::from(load.failed), "calls"), &[]);
        }
    }

    async fn floor_puts(&self, clients: usize) -> Result<Option<Shown>> {
        let Some(floor) = &self.floor else { return Ok(None) };
        Ok(Some(on_floor(floor, clients, self.effort.load).await?))
    }

    fn rates(&mut self, case: &str, shown: &Shown, floor: Option<&Shown>) {
        let beside = |figure: Figure| {
            let floor = floor.map(|floor| ("floor", figure(floor)));
            floor.into_iter().collect::<Vec<_>>()
        };
        let figures: [(&'static str, &'static str, Figure); 3] = [
            ("rate", "1/s", Shown::per_second),
            ("p50", "us", |shown| shown.percentile_us(50)),
            ("p99", "us", |shown| shown.percentile_us(99)),
        ];
        for (metric, unit, figure) in figures {
            self.report
                .add(case, metric, (figure(shown), unit), &beside(figure));
        }
    }

    /// What the three nodes have used for each request, warm-up included.
    fn cost(&mut self, case: &str, load: &Load) {
        let whole = self.effort.load + self.effort.load / WARM_UP;
        let requests = (load.shown.per_second() * whole.as_secs_f64()).max(1.0);
        let cpu = load.after.cpu.saturating_sub(load.before.cpu).as_secs_f64() * 1e6 / requests;
        let syncs = load.after.syncs.saturating_sub(load.before.syncs);
        let syncs = f64::from(u32::try_from(syncs).unwrap_or(u32::MAX));
        self.report.add(case, "cpu", (cpu, "us"), &[]);
        self.report.add(case, "fsyncs", (syncs / requests, "each"), &[]);
    }

    /// From a group of its own: lease reads are for all or none, and would keep fail-over waiting.
    async fn reads(&mut self) -> Result<()> {
        let dir = self.dir.path().join("reads");
        std::fs::create_dir(&dir)?;
        let shape = Shape {
            lease_reads: true,
            ..self.shape
        };
        let group = Group::start(&dir, shape).await?;
        group.client.propose(put(0)).await?;
        for clients in [1, 64] {
            for (name, consistency) in [
                ("linearizable", Consistency::Linearizable),
                ("lease", Consistency::Lease),
                ("stale", Consistency::Stale),
            ] {
                let client = group.client.clone();
                let shown = load::run(clients, self.effort.reads, move || {
                    let client = client.clone();
                    async move {
                        let read = client.get("key-00000", consistency).await?;
                        anyhow::ensure!(read.value.is_some(), "the value is gone");
                        Ok(())
                    }
                })
                .await?;
                self.rates(&format!("{name} read, {clients} clients"), &shown, None);
            }
        }
        group.stop().await;
        Ok(())
    }

    /// Kills the leader, again and again; a new write every few milliseconds shows when there is another.
    async fn fail_over(&mut self) -> Result<()> {
        let mut times = Vec::new();
        for round in 0..self.effort.kills {
            self.group.settled().await?;
            let leader = self.group.client.leader().context("no leader")?;
            let process = self.group.kill(leader)?;
            times.push(next_write(&self.group.client, round).await?);
            process.gone().await?;
            self.group.run(leader).await?;
        }
        let shown = Shown::new(times, Duration::from_secs(1));
        let case = format!("kill -9, {} rounds", self.effort.kills);
        for (metric, value) in [
            ("p50", shown.percentile_us(50)),
            ("p90", shown.percentile_us(90)),
            ("max", shown.max_us()),
        ] {
            self.report.add(case.as_str(), metric, (value / 1e3, "ms"), &[]);
        }
        Ok(())
    }
}

/// What a load of puts has shown.
struct Load {
    shown: Shown,
    before: Usage,
    after: Usage,
    failed: u32,
}

/// Puts by so many clients at a time.
async fn put_load(group: &Group, clients: usize, duration: Duration) -> Result<Load> {
    let before = group.usage().await?;
    let (client, counter, failed) = (group.client.clone(), Counter::default(), Counter::default());
    let (puts, failures) = (counter.clone(), failed.clone());
    let shown = load::run(clients, duration, move || {
        let (client, command, failed) = (client.clone(), put(counter.next()), failed.clone());
        async move {
            // On a busy machine a leader may be replaced; what that costs is part of the figure.
            if client.propose(command).await.is_err() {
                failed.next();
            }
            Ok(())
        }
    })
    .await?;
    let (puts, failures) = (puts.next(), failures.next());
    anyhow::ensure!(failures * 20 <= puts, "{failures} of {puts} puts failed");
    Ok(Load {
        shown,
        before,
        after: group.usage().await?,
        failed: u32::try_from(failures).unwrap_or(u32::MAX),
    })
}

/// Time from this moment until the first of many writes is acknowledged.
async fn next_write(client: &Client<KvStore>, round: u32) -> Result<Duration> {
    let tasks = TaskGroup::current();
    let begin = Instant::now();
    let (done, mut first) = tokio::sync::mpsc::channel(1);
    let mut tries = 0_u32;
    loop {
        let (client, done) = (client.clone(), done.clone());
        let command = KvCommand::put(format!("fail-over-{round}-{tries}"), "there");
        tasks.spawn(async move {
            let options = ProposeOptions {
                deadline: FAIL_OVER_LIMIT,
                ..ProposeOptions::default()
            };
            if client.propose_with(command, options).await.is_ok() {
                let _ = done.try_send(begin.elapsed());
            }
        });
        tries += 1;
        tokio::select! {
            biased;
            Some(time) = first.recv() => {
                tasks.abort();
                return Ok(time);
            }
            () = sleep(PROBE_INTERVAL) => {}
        }
        anyhow::ensure!(
            begin.elapsed() < FAIL_OVER_LIMIT,
            "no write was acknowledged after a kill"
        );
    }
}

/// The same load on the floor.
async fn on_floor(floor: &Floor, clients: usize, duration: Duration) -> Result<Shown> {
    let tasks = TaskGroup::current();
    let client = tcp::Client::connect(floor.addr, &tasks).await?;
    let body = Bytes::from(vec![7; VALUE_BYTES]);
    let shown = load::run(clients, duration, move || client.clone().call(body.clone())).await;
    tasks.abort();
    shown
}
