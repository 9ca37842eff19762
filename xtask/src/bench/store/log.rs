//! The log under measurement: its types, and the two ways in which it is loaded.

use std::{future::Future, io, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
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
use tokio::time::Instant;

use super::{
    CACHE_BYTES, COMMAND_BYTES, PRELOAD,
    reference::{Counted, Counts},
    round::{Cpu, Round},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command(Arc<[u8]>);

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
    pub(super) Types:
        D = Command,
        R = (),
);

pub(super) type Store = RedbLogStore<Types, PlainCodec>;

pub(super) fn options() -> LogOptions {
    LogOptions {
        cache_bytes: CACHE_BYTES,
        ..LogOptions::default()
    }
}

/// Entries with the indexes of `range`.
pub(super) fn entries(range: std::ops::Range<u64>) -> Vec<EntryOf<Types>> {
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

/// Appends and waits until the entries are durable.
pub(super) async fn append(store: &mut Store, entries: Vec<EntryOf<Types>>) -> io::Result<()> {
    submit(store, entries).await?.await
}

/// A log with [`PRELOAD`] entries.
async fn preloaded(path: &Path, counts: &Arc<Counts>) -> Result<Store> {
    let backend = Counted::create(path, counts)?;
    let mut store = Store::open_with_backend(backend, path, options())?;
    append(&mut store, entries(0..PRELOAD)).await?;
    Ok(store)
}

/// One writer whose every batch is durable before the next begins.
pub(super) async fn in_batches(path: &Path, batch: u64, commits: u64) -> Result<Round> {
    let counts = Arc::<Counts>::default();
    let mut store = preloaded(path, &counts).await?;
    let mut round = Round::default();
    let (before, cpu) = (counts.get(), Cpu::start());
    for number in 0..commits {
        let start = PRELOAD + number * batch;
        let entries = entries(start..start + batch);
        let begin = Instant::now();
        append(&mut store, entries).await?;
        round.latencies.push(begin.elapsed());
    }
    round.elapsed = round.latencies.iter().sum();
    round.entries = commits * batch;
    counts.since(before, &mut round);
    round.cpu_ns = cpu.ns();
    Ok(round)
}

/// `appenders` with one entry in flight each, who append the next as soon as theirs is durable.
pub(super) async fn with_appenders(path: &Path, appenders: u64, turns: u64) -> Result<Round> {
    let counts = Arc::<Counts>::default();
    let mut store = preloaded(path, &counts).await?;
    let mut round = Round::default();
    let (before, cpu) = (counts.get(), Cpu::start());
    let total = appenders * turns;
    // Made beforehand, as for the other loads: making them is no work of the log's.
    let mut entries = entries(PRELOAD..PRELOAD + total).into_iter();
    let mut waiting = FuturesUnordered::new();
    let begin = Instant::now();
    for number in 0..total {
        if number >= appenders {
            let latency: io::Result<Duration> = waiting.next().await.unwrap_or(Ok(Duration::ZERO));
            round.latencies.push(latency?);
        }
        let start = Instant::now();
        let durable = submit(&mut store, entries.by_ref().take(1).collect()).await?;
        waiting.push(async move { durable.await.map(|()| start.elapsed()) });
    }
    while let Some(latency) = waiting.next().await {
        round.latencies.push(latency?);
    }
    round.elapsed = begin.elapsed();
    round.entries = total;
    counts.since(before, &mut round);
    round.cpu_ns = cpu.ns();
    Ok(round)
}
