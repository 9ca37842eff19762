//! The order of the measurements, and what each one is.

use std::{path::Path, pin::Pin, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rivven_transport::{
    CallCtx, Method, PeerStatus, QuicTransport, Router, Transport,
    datagram::{DatagramOpener, DatagramSealer, GossipKey},
    identity::{NodeIdentity, node_dir_name, write_cluster},
};
use tokio::time::{Instant, sleep};

use super::{
    Args, Part,
    child::Peer,
    load::{self, Shown},
    report::Report,
    stream_per_request, tcp, transfer, usage,
    wire::{self, Blob, Call, Chunk, PEER, Ping, Used},
};

/// Idle connections whose memory is measured.
const IDLE_CONNECTIONS: u64 = 64;

/// How long and how often.
struct Effort {
    load: Duration,
    pings: u32,
    handshakes: u32,
    restarts: u64,
    seals: u32,
    /// Bytes of one transfer.
    transfer: u64,
}

const QUICK: Effort = Effort {
    load: Duration::from_millis(400),
    pings: 300,
    handshakes: 50,
    restarts: 3,
    seals: 50_000,
    transfer: 128 << 20,
};

const FULL: Effort = Effort {
    load: Duration::from_secs(3),
    pings: 3_000,
    handshakes: 300,
    restarts: 20,
    seals: 500_000,
    transfer: 1 << 30,
};

/// Everything the measurements share.
struct Bench {
    dir: tempfile::TempDir,
    effort: Effort,
    transport: Transport,
    report: Report,
}

pub(super) async fn main(args: &Args) -> Result<()> {
    let effort = if args.quick { QUICK } else { FULL };
    println!(
        "rpc: two processes on loopback, optimized build, mutual TLS; one worker thread each, beside the transport's own"
    );
    println!("conditions: {}", usage::conditions());
    println!(
        "each load {:?} after a warm-up; one run, so read ratios rather than digits",
        effort.load
    );
    let dir = tempfile::tempdir()?;
    let nodes: Vec<_> = (1..=PEER + IDLE_CONNECTIONS).collect();
    write_cluster(&dir.path().join("tls"), &nodes)?;
    let peer = Peer::start(dir.path(), 1, 0).await?;
    let transport = node(dir.path(), 1)?;
    transport.set_address(PEER, peer.quic.into());
    let mut bench = Bench {
        dir,
        effort,
        transport,
        report: Report::new("rpc"),
    };
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Memory) {
        bench.idle_connections(&peer).await?;
    }
    if wanted(Part::Calls) {
        bench.calls(&peer).await?;
    }
    if wanted(Part::Bulk) {
        bench.bulk(&peer).await?;
    }
    if wanted(Part::Control) {
        bench.control_beside_bulk().await?;
    }
    if wanted(Part::Streams) {
        bench.streams(&peer).await?;
    }
    if wanted(Part::Handshakes) {
        bench.handshakes(&peer).await?;
    }
    if wanted(Part::Datagrams) {
        bench.datagrams()?;
    }
    if wanted(Part::Restarts) {
        bench.restarts(peer).await?;
    }
    bench.transport.shutdown(Duration::from_millis(100)).await;
    println!("\nthe same for a page:\n\n{}", bench.report.markdown());
    if let Some(path) = &args.json {
        bench.report.write(path)?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// A node of the measuring process.
fn node(dir: &Path, node: u64) -> Result<Transport> {
    let identity = NodeIdentity::load(&dir.join("tls").join(node_dir_name(node)))?;
    let local = wire::local(&identity, 1);
    Ok(QuicTransport::builder(identity, local)
        .router(Router::new())
        .start()?)
}

/// Time since the peer was `killed` until its connection counts as lost.
async fn noticed(transport: &Transport, killed: Instant) -> Result<Duration> {
    while transport.status(PEER) == PeerStatus::Up {
        ensure!(
            killed.elapsed() < Duration::from_secs(10),
            "a dead peer counts as connected"
        );
        sleep(Duration::from_millis(1)).await;
    }
    Ok(killed.elapsed())
}

/// One call that must succeed.
async fn call<M: Method<Request = Blob, Response = Blob>>(transport: Transport, body: Blob) -> Result<()> {
    let ctx = CallCtx::timeout(Duration::from_secs(10));
    let response = transport.call::<M>(PEER, &body, ctx).await?;
    ensure!(
        response.0.len() == wire::RESPONSE,
        "a response of {} bytes",
        response.0.len()
    );
    Ok(())
}

/// A call in flight.
type CallFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A request function for [`load::run`].
fn caller<M: Method<Request = Blob, Response = Blob>>(
    transport: &Transport,
    len: usize,
) -> impl Fn() -> CallFuture + Clone + Send + 'static {
    let (transport, body) = (transport.clone(), Blob::zeros(len));
    move || Box::pin(call::<M>(transport.clone(), body.clone())) as CallFuture
}

impl Bench {
    /// Calls of two sizes, few and many at a time, beside both references.
    async fn calls(&mut self, peer: &Peer) -> Result<()> {
        let duration = self.effort.load;
        let tls = self.dir.path().join("tls").join(node_dir_name(1));
        let tasks = rivven_transport::TaskGroup::current();
        for (size, name) in [(128, "128 B"), (64 << 10, "64 KiB")] {
            for at_a_time in [1, 16, 256] {
                let bare = tcp::run(peer.tcp, size, at_a_time, duration).await?;
                let body = Bytes::from(vec![0; size]);
                let client = tcp::Client::connect(peer.tcp, &tasks).await?;
                let request = body.clone();
                let raw = load::run(at_a_time, duration, move || client.clone().call(request.clone()));
                let raw = self.costing(raw).await?;
                let (endpoint, connection) = stream_per_request::connect(peer.quinn, &tls).await?;
                let naive = load::run(at_a_time, duration, move || {
                    stream_per_request::request(connection.clone(), body.clone())
                });
                let naive = self.costing(naive).await?;
                endpoint.close(0u32.into(), b"done");
                let own = load::run(at_a_time, duration, caller::<Call>(&self.transport, size));
                let own = self.costing(own).await?;
                let references = [
                    ("raw tcp", &raw),
                    ("raw tcp loop", &bare),
                    ("quinn stream each", &naive),
                ];
                self.compare(&format!("{name}, {at_a_time} in flight"), &own, &references);
            }
        }
        tasks.abort();
        Ok(())
    }

    /// What `load` shows, with what it costs both processes.
    async fn costing(&self, load: impl Future<Output = Result<Shown>>) -> Result<Shown> {
        let before = [Used::now(), wire::usage(&self.transport).await?];
        let shown = load.await?;
        let after = [Used::now(), wire::usage(&self.transport).await?];
        let sum = |of: fn(&Used) -> u64| {
            let total = |used: &[Used; 2]| used.iter().map(of).sum::<u64>();
            total(&after).saturating_sub(total(&before))
        };
        Ok(shown.costing(sum(|used| used.cpu_ns), sum(|used| used.sleeps)))
    }

    fn compare(&mut self, case: &str, own: &Shown, references: &[(&'static str, &Shown)]) {
        let of = |of: &dyn Fn(&Shown) -> f64| {
            let each = references.iter().map(|(name, shown)| (*name, of(shown)));
            each.collect::<Vec<_>>()
        };
        let rate = of(&Shown::per_second);
        self.report.add(case, "rate", (own.per_second(), "1/s"), &rate);
        for (metric, percent) in [("p50", 50), ("p99", 99)] {
            let times = of(&|shown| shown.percentile_us(percent));
            self.report
                .add(case, metric, (own.percentile_us(percent), "us"), &times);
        }
        if let Some((cpu, sleeps)) = own.cost_each() {
            let cpus = of(&|shown| shown.cost_each().map_or(f64::NAN, |(cpu, _)| cpu));
            self.report.add(case, "cpu, both", (cpu, "us"), &cpus);
            let others = of(&|shown| shown.cost_each().map_or(f64::NAN, |(_, sleeps)| sleeps));
            self.report.add(case, "sleeps", (sleeps, ""), &others);
        }
    }

    /// Chunks of 1 MiB, eight in flight.
    async fn bulk(&mut self, peer: &Peer) -> Result<()> {
        let (size, at_a_time) = (1 << 20, 8);
        let duration = self.effort.load * 2;
        let raw = tcp::run(peer.tcp, size, at_a_time, duration).await?;
        let own = load::run(at_a_time, duration, caller::<Chunk>(&self.transport, size)).await?;
        let megabytes = |shown: &Shown| shown.per_second() * 1.048_576;
        let figure = (megabytes(&own), "MB/s");
        self.report.add(
            "bulk, 1 MiB chunks",
            "rate",
            figure,
            &[("raw tcp", megabytes(&raw))],
        );
        Ok(())
    }

    /// A heartbeat every 5 ms, alone and beside a bulk transfer that takes all it gets.
    async fn control_beside_bulk(&mut self) -> Result<()> {
        let idle = self.pings().await?;
        let tasks = rivven_transport::TaskGroup::current();
        for _ in 0..8 {
            let chunk = caller::<Chunk>(&self.transport, 1 << 20);
            tasks.spawn(async move { while chunk().await.is_ok() {} });
        }
        sleep(Duration::from_millis(200)).await;
        let beside = self.pings().await;
        tasks.abort();
        tasks.join(Duration::from_secs(5)).await;
        let beside = beside?;
        for (metric, percent) in [("p50", 50), ("p99", 99)] {
            let reference = [("idle", idle.percentile_us(percent))];
            let value = (beside.percentile_us(percent), "us");
            self.report.add("control beside bulk", metric, value, &reference);
        }
        Ok(())
    }

    /// One stream that takes all it gets, alone and beside heartbeats.
    async fn streams(&mut self, peer: &Peer) -> Result<()> {
        let duration = self.effort.load * 2;
        let raw = tcp::run(peer.tcp, 1 << 20, 8, duration).await?;
        let raw = [("raw tcp", raw.per_second() * 1.048_576)];
        let bytes = self.effort.transfer;
        let alone = transfer::rate(&self.transport, bytes, 3).await?;
        self.report.add("bulk, one stream", "rate", (alone, "MB/s"), &raw);
        let idle = self.pings().await?;
        let endless = transfer::Endless::start(&self.transport, bytes);
        sleep(Duration::from_millis(200)).await;
        let from = endless.sent();
        let beside = self.pings().await;
        let rate = endless.rate_since(from);
        endless.stop().await?;
        let beside = beside?;
        let case = &format!("control beside a transfer of {}", transfer::size(bytes));
        for (metric, percent) in [("p50", 50), ("p99", 99)] {
            let reference = [("idle", idle.percentile_us(percent))];
            let value = (beside.percentile_us(percent), "us");
            self.report.add(case, metric, value, &reference);
        }
        self.report
            .add("stream beside control", "rate", (rate, "MB/s"), &raw);
        Ok(())
    }

    async fn pings(&self) -> Result<Shown> {
        let ping = caller::<Ping>(&self.transport, 128);
        let began = Instant::now();
        let mut times = Vec::new();
        for _ in 0..self.effort.pings {
            sleep(Duration::from_millis(5)).await;
            let start = Instant::now();
            ping().await?;
            times.push(start.elapsed());
        }
        Ok(Shown::new(times, began.elapsed()))
    }

    /// Connections made and closed one after the other, hello included.
    async fn handshakes(&mut self, peer: &Peer) -> Result<()> {
        let both = |here: Option<u64>, there: u64| here.unwrap_or(0) + there;
        let before = both(usage::cpu_ns(), wire::usage(&self.transport).await?.cpu_ns);
        let (began, mut times) = (Instant::now(), Vec::new());
        for _ in 0..self.effort.handshakes {
            let start = Instant::now();
            let ctx = CallCtx::timeout(Duration::from_secs(5));
            self.transport.discover(peer.quic.into(), ctx).await?;
            times.push(start.elapsed());
        }
        let shown = Shown::new(times, began.elapsed());
        let after = both(usage::cpu_ns(), wire::usage(&self.transport).await?.cpu_ns);
        let case = "handshake and hello";
        self.report.add(case, "p50", (shown.percentile_us(50), "us"), &[]);
        if usage::cpu_ns().is_some() {
            let nanos = u32::try_from((after - before) / u64::from(self.effort.handshakes))?;
            let cpu = (f64::from(nanos) / 1e3, "us");
            self.report.add(case, "cpu, both", cpu, &[]);
        }
        Ok(())
    }

    /// Memory that the answering end keeps for a connection after its first call.
    async fn idle_connections(&mut self, peer: &Peer) -> Result<()> {
        let warm = node(self.dir.path(), PEER + IDLE_CONNECTIONS)?;
        warm.set_address(PEER, peer.quic.into());
        call::<Ping>(warm, Blob::zeros(128)).await?;
        call::<Ping>(self.transport.clone(), Blob::zeros(128)).await?;
        let before = wire::usage(&self.transport).await?.resident;
        if before == 0 {
            println!("memory per idle connection: not measured, this system has no /proc");
            return Ok(());
        }
        let mut others = Vec::new();
        for other in 1..IDLE_CONNECTIONS {
            let other = node(self.dir.path(), PEER + other)?;
            other.set_address(PEER, peer.quic.into());
            call::<Ping>(other.clone(), Blob::zeros(128)).await?;
            others.push(other);
        }
        sleep(Duration::from_millis(300)).await;
        let after = wire::usage(&self.transport).await?.resident;
        let each = u32::try_from(after.saturating_sub(before) / (IDLE_CONNECTIONS - 1))?;
        let value = (f64::from(each) / 1e3, "kB");
        self.report.add("idle connection, one end", "memory", value, &[]);
        for other in others {
            other.shutdown(Duration::ZERO).await;
        }
        Ok(())
    }

    /// Sealing and opening datagrams of gossip.
    fn datagrams(&mut self) -> Result<()> {
        let key = GossipKey::generate()?;
        let local = self.transport.local();
        for (len, case) in [(128, "datagram of 128 B"), (1_200, "datagram of 1,200 B")] {
            let mut sealer = DatagramSealer::new(&key, local);
            let mut opener = DatagramOpener::new(&key, local.cluster);
            let (plain, mut sealed, mut opened) = (vec![7; len], Vec::new(), Vec::new());
            let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..self.effort.seals {
                let start = Instant::now();
                sealer.seal(&plain, &mut sealed)?;
                let between = Instant::now();
                opener.open(&sealed, &mut opened)?;
                sealing += between - start;
                opening += between.elapsed();
            }
            ensure!(
                opened == plain,
                "a datagram was changed by sealing and opening it"
            );
            for (metric, time) in [("seal", sealing), ("open", opening)] {
                let nanos = time.as_secs_f64() * 1e9 / f64::from(self.effort.seals);
                self.report.add(case, metric, (nanos, "ns"), &[]);
            }
        }
        Ok(())
    }

    /// Kills the peer, and counts until that is noticed; starts it again on its port, and counts from the moment it
    /// says that it listens.
    async fn restarts(&mut self, mut peer: Peer) -> Result<()> {
        let (mut times, mut deaths) = (Vec::new(), Vec::new());
        let began = Instant::now();
        for round in 0..self.effort.restarts {
            let port = peer.quic.port();
            call::<Ping>(self.transport.clone(), Blob::zeros(128)).await?;
            let tasks = rivven_transport::TaskGroup::current();
            peer.kill().await?;
            let killed = Instant::now();
            let (answered, mut answers) = tokio::sync::mpsc::channel(1);
            let transport = self.transport.clone();
            let each = tasks.clone();
            tasks.spawn(async move {
                loop {
                    let (transport, answered) = (transport.clone(), answered.clone());
                    each.spawn(async move {
                        let ctx = CallCtx::timeout(Duration::from_secs(1));
                        let answer = transport.call::<Ping>(PEER, &Blob::zeros(128), ctx).await;
                        if answer.is_ok() {
                            // A full channel holds an earlier answer, which is the one that counts.
                            let _ = answered.try_send(Instant::now());
                        }
                    });
                    sleep(Duration::from_millis(10)).await;
                }
            });
            deaths.push(noticed(&self.transport, killed).await?);
            // Long enough dead for the reconnect pauses to have grown.
            sleep(Duration::from_millis(500)).await;
            peer = Peer::start(self.dir.path(), round + 2, port).await?;
            let listens = Instant::now();
            let first = tokio::time::timeout(Duration::from_secs(20), answers.recv()).await;
            let first = first.ok().flatten().with_context(|| {
                format!(
                    "no answer from the restarted peer, {:?} after the kill",
                    killed.elapsed()
                )
            })?;
            times.push(first.saturating_duration_since(listens));
            tasks.abort();
            tasks.join(Duration::from_secs(5)).await;
        }
        for (case, times) in [("dead peer noticed", deaths), ("restarted peer answers", times)] {
            let shown = Shown::new(times, began.elapsed());
            let p50 = (shown.percentile_us(50) / 1e3, "ms");
            self.report.add(case, "p50", p50, &[]);
            self.report.add(case, "max", (shown.max_us() / 1e3, "ms"), &[]);
        }
        Ok(())
    }
}
