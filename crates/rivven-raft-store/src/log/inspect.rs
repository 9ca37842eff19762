//! Looking at a log without changing a byte of it: [`verify`] and [`inspect`].

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Write},
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    RaftTypeConfig,
    entry::RaftEntry,
    type_config::alias::{LogIdOf, VoteOf},
};
use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

use super::{
    LogOptions, LogOwner, RedbLogReader,
    open::{self, IfEmpty},
};
use crate::{codec::EntryCodec, error::StoreError};

/// Encoded bytes of entries that are in memory at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Blocks that an open may write, 256 MiB of them, before it must be a runaway repair.
const MAX_OVERLAY_BLOCKS: usize = (256 << 20) / 4096;

/// What [`verify`] found in a log that is whole.
pub struct LogReport<C: RaftTypeConfig> {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// Whose log it is, if it is somebody's.
    pub owner: Option<LogOwner>,
    /// The vote, if there ever was one.
    pub vote: Option<VoteOf<C>>,
    /// The last entry known to be committed. May be older than what was committed before a crash.
    pub committed: Option<LogIdOf<C>>,
    /// The last entry that was purged.
    pub purged: Option<LogIdOf<C>>,
    /// Id of the oldest entry.
    pub first: Option<LogIdOf<C>>,
    /// Id of the newest entry.
    pub last: Option<LogIdOf<C>>,
    /// How many entries there are, each of which was decoded.
    pub entries: u64,
}

impl<C: RaftTypeConfig> fmt::Debug for LogReport<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<C: RaftTypeConfig> fmt::Display for LogReport<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "log        {}", self.path.display())?;
        writeln!(f, "bytes      {}", self.file_bytes)?;
        match &self.owner {
            Some(owner) => writeln!(f, "owner      {owner}")?,
            None => writeln!(f, "owner      anybody")?,
        }
        match &self.vote {
            Some(vote) => writeln!(f, "vote       {vote}")?,
            None => writeln!(f, "vote       none")?,
        }
        for (name, id) in [
            ("purged", &self.purged),
            ("first", &self.first),
            ("last", &self.last),
            ("committed", &self.committed),
        ] {
            match id {
                Some(id) => writeln!(f, "{name:<10} {id}")?,
                None => writeln!(f, "{name:<10} none")?,
            }
        }
        writeln!(f, "entries    {}", self.entries)
    }
}

/// Checks a log that nobody has open, without changing it: every page, every checksum, every entry decoded,
/// and that no index is missing.
///
/// A log whose process was killed is repaired in memory for the check, as the next start would repair the
/// file. Blocks; takes about a second per million entries.
///
/// # Errors
/// [`StoreError::Locked`] while a node has the log open; otherwise the first thing that is wrong with it.
/// The file is as it was in every case.
pub fn verify<C, K>(path: impl AsRef<Path>) -> Result<LogReport<C>, StoreError>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
    K: EntryCodec<C>,
{
    walk::<C, K>(path.as_ref(), .., |_| Ok(()))
}

/// As [`verify`], and hands every entry to `each`, the oldest first.
///
/// # Errors
/// As [`verify`]. Whatever is whole in front of the first damage has been handed out by then.
pub fn verify_each<C, K>(
    path: impl AsRef<Path>,
    mut each: impl FnMut(&C::Entry),
) -> Result<LogReport<C>, StoreError>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
    K: EntryCodec<C>,
{
    walk::<C, K>(path.as_ref(), .., |entry| {
        each(entry);
        Ok(())
    })
}

/// Writes a readable dump of a log to `out`: a line for each entry in `range`, then what [`verify`] reports.
///
/// # Errors
/// As [`verify`], and [`StoreError::Open`] if `out` cannot be written to. Whatever is whole in front of the
/// first damage has been written by then.
pub fn inspect<C, K>(
    path: impl AsRef<Path>,
    range: impl RangeBounds<u64>,
    out: &mut dyn Write,
) -> Result<LogReport<C>, StoreError>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
    K: EntryCodec<C>,
{
    let path = path.as_ref();
    let at = |error: io::Error| StoreError::Open {
        path: path.to_path_buf(),
        source: error.into(),
    };
    let report = walk::<C, K>(path, range, |entry| writeln!(out, "{entry}").map_err(at))?;
    write!(out, "{report}").map_err(at)?;
    Ok(report)
}

/// Opens the log above an overlay and hands out its entries; those outside `shown` are checked only.
fn walk<C, K>(
    path: &Path,
    shown: impl RangeBounds<u64>,
    mut show: impl FnMut(&C::Entry) -> Result<(), StoreError>,
) -> Result<LogReport<C>, StoreError>
where
    C: RaftTypeConfig,
    C::Entry: Clone,
    K: EntryCodec<C>,
{
    let (overlay, file_bytes) = Overlay::open(path)?;
    let shared = Arc::new(open::from_backend::<C, K>(
        overlay,
        path,
        &LogOptions::default(),
        IfEmpty::Refuse,
    )?);
    let mut report = {
        let state = shared.state();
        let log = state.window.log_state();
        LogReport {
            path: path.to_path_buf(),
            file_bytes,
            owner: state.owner,
            vote: state.vote.clone(),
            committed: state.committed.clone(),
            purged: log.last_purged_log_id.clone(),
            first: None,
            last: None,
            entries: 0,
        }
    };
    let mut rest = shared.state().window.clip(&(0..));
    let reader = RedbLogReader::<C, K>::new(Arc::clone(&shared));
    while !rest.is_empty() {
        let entries = reader.read(rest.clone(), CHUNK_BYTES)?;
        if entries.is_empty() {
            let index = rest.start;
            let path = path.to_path_buf();
            return Err(StoreError::MissingEntry { path, index });
        }
        for entry in &entries {
            if shown.contains(&entry.index()) {
                show(entry)?;
            }
            report.first.get_or_insert_with(|| entry.log_id());
            report.last = Some(entry.log_id());
            report.entries = report.entries.saturating_add(1);
        }
        rest.start = rest.start.saturating_add(entries.len() as u64);
    }
    Ok(report)
}

/// A file that is only read. What redb writes, to repair it or to mark it as open, stays in memory.
#[derive(Debug)]
struct Overlay {
    file: FileBackend,
    writes: Mutex<Writes>,
}

#[derive(Debug)]
struct Writes {
    len: u64,
    /// What of the file has never been cut off.
    file_len: u64,
    /// Offset of a block of [`BLOCK`] bytes to what it contains.
    blocks: BTreeMap<u64, Vec<u8>>,
}

/// Granularity of the overlay.
const BLOCK: u64 = 4096;

impl Overlay {
    fn open(path: &Path) -> Result<(Self, u64), StoreError> {
        let at = |error: io::Error| {
            let path = path.to_path_buf();
            if error.kind() == io::ErrorKind::NotFound {
                return StoreError::Missing { path };
            }
            StoreError::Open {
                path,
                source: error.into(),
            }
        };
        let file_len = fs::metadata(path).map_err(at)?.len();
        if file_len == 0 {
            let detail = "the file is empty".into();
            let path = path.to_path_buf();
            return Err(StoreError::Damaged { path, detail });
        }
        let file = File::open(path).map_err(at)?;
        let file =
            FileBackend::new(file).map_err(|error: DatabaseError| StoreError::from_open(path, error))?;
        let writes = Writes {
            len: file_len,
            file_len,
            blocks: BTreeMap::new(),
        };
        let overlay = Self {
            file,
            writes: Mutex::new(writes),
        };
        Ok((overlay, file_len))
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        // Nothing panics half-way through a change of the blocks.
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block at `start` as the file has it; zeroes behind its end.
    fn block_of_file(&self, file_len: u64, start: u64) -> io::Result<Vec<u8>> {
        let there = file_len.saturating_sub(start).min(BLOCK);
        let mut block = vec![0; usize::try_from(there).map_err(io::Error::other)?];
        if there > 0 {
            self.file.read(start, &mut block)?;
        }
        block.resize(usize::try_from(BLOCK).map_err(io::Error::other)?, 0);
        Ok(block)
    }
}

/// Cuts `offset..offset + len` at the edges of blocks: block, offset in it, offset in the range, length.
fn cuts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let end = offset.saturating_add(len as u64);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let block = at - at % BLOCK;
        let next = block.saturating_add(BLOCK).min(end);
        let to_usize = |number: u64| usize::try_from(number).ok();
        let cut = (
            block,
            to_usize(at - block)?,
            to_usize(at - offset)?,
            to_usize(next - at)?,
        );
        at = next;
        Some(cut)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.writes().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let writes = self.writes();
        let end = offset.saturating_add(out.len() as u64);
        if end > writes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if writes.blocks.is_empty() && end <= writes.file_len {
            return self.file.read(offset, out);
        }
        for (start, skip, at, len) in cuts(offset, out.len()) {
            let Some(part) = out.get_mut(at..at + len) else {
                continue;
            };
            let of_file;
            let block = match writes.blocks.get(&start) {
                Some(block) => block,
                None => {
                    of_file = self.block_of_file(writes.file_len, start)?;
                    &of_file
                }
            };
            part.copy_from_slice(block.get(skip..skip + len).unwrap_or_default());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut writes = self.writes();
        writes.len = len;
        // What is cut off must come back as zeroes, should the storage grow again.
        writes.file_len = writes.file_len.min(len);
        drop(writes.blocks.split_off(&len.next_multiple_of(BLOCK)));
        let inside = usize::try_from(len % BLOCK).map_err(io::Error::other)?;
        if let Some(block) = writes.blocks.get_mut(&(len - len % BLOCK)) {
            block.iter_mut().skip(inside).for_each(|byte| *byte = 0);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut writes = self.writes();
        if writes.blocks.len() >= MAX_OVERLAY_BLOCKS {
            return Err(io::Error::other(
                "the repair needs more memory than a check may take",
            ));
        }
        for (start, skip, at, len) in cuts(offset, data.len()) {
            if !writes.blocks.contains_key(&start) {
                let block = self.block_of_file(writes.file_len, start)?;
                writes.blocks.insert(start, block);
            }
            let target = writes
                .blocks
                .get_mut(&start)
                .and_then(|block| block.get_mut(skip..skip + len));
            if let (Some(target), Some(part)) = (target, data.get(at..at + len)) {
                target.copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    // Checks may run side by side, but never beside a node that writes.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
