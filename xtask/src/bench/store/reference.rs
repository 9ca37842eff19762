//! What the log is compared with: redb as a careful user would call it, and a plain file.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use redb::{Database, StorageBackend, TableDefinition, backends::FileBackend};
use tokio::time::Instant;

use super::{
    CACHE_BYTES, COMMAND_BYTES, PRELOAD,
    round::{Cpu, Round},
};

const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

/// What a careful user of redb writes by hand: a transaction per batch, sorted keys through a cursor.
pub(super) fn bare_redb(path: &Path, batch: u64, commits: u64) -> Result<Round> {
    let counts = Arc::<Counts>::default();
    let backend = Counted::create(path, &counts)?;
    let db = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)?;
    commit(&db, 0..PRELOAD)?;
    let mut round = Round::default();
    let (before, cpu) = (counts.get(), Cpu::start());
    for number in 0..commits {
        let start = PRELOAD + number * batch;
        let begin = Instant::now();
        commit(&db, start..start + batch)?;
        round.latencies.push(begin.elapsed());
    }
    round.elapsed = round.latencies.iter().sum();
    round.entries = commits * batch;
    counts.since(before, &mut round);
    round.cpu_ns = cpu.ns();
    Ok(round)
}

fn commit(db: &Database, range: std::ops::Range<u64>) -> Result<()> {
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

/// The least a durable log can do: append the bytes to a file and sync them.
pub(super) fn plain_file(path: &Path, batch: u64, commits: u64) -> Result<Round> {
    let mut file = File::create_new(path)?;
    let bytes = vec![7; COMMAND_BYTES * usize::try_from(batch)?];
    let mut round = Round::default();
    let cpu = Cpu::start();
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
    round.cpu_ns = cpu.ns();
    Ok(round)
}

/// A file that counts what is done to it.
#[derive(Debug)]
pub(super) struct Counted {
    file: FileBackend,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    pub(super) fn get(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.syncs), read(&self.bytes))
    }

    pub(super) fn since(&self, (syncs, bytes): (u64, u64), round: &mut Round) {
        let now = self.get();
        round.syncs = now.0 - syncs;
        round.bytes = now.1 - bytes;
    }
}

impl Counted {
    pub(super) fn create(path: &Path, counts: &Arc<Counts>) -> Result<Self> {
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
