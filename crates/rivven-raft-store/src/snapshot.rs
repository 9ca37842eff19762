//! [`SnapshotStore`]: snapshots in files, the newest two of which are known to be whole.

mod error;
mod file;
mod format;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{RaftTypeConfig, type_config::alias::SnapshotMetaOf};
use rivven_types::ClusterId;

use self::format::{ChunkWriter, FormatError, Header};
pub use self::{
    error::SnapshotError,
    file::{SnapshotContent, SnapshotFile},
};
use crate::{codec::EntryCodec, durable};

/// Snapshots kept. The log may be purged behind the older only, so that a damaged newest one is replaced by
/// the older and the log.
const KEPT: usize = 2;

/// Damaged files kept for whoever wants to know what happened.
const DAMAGED_KEPT: usize = 2;

/// Ends of file names.
const WHOLE: &str = "snapshot";
const UNFINISHED: &str = "tmp";
const DAMAGED: &str = "damaged";

/// The snapshots of one node, in a directory of their own.
///
/// A snapshot is written under a temporary name, synced, renamed, and its name is synced; so a power cut
/// leaves it whole or not at all. Opening verifies every byte of the snapshots there are, sets damaged ones
/// aside, and says so. All methods block on the disk. Cheap to clone; clones are the same store.
pub struct SnapshotStore<C: RaftTypeConfig, K: EntryCodec<C>> {
    dir: Arc<Directory<C>>,
    codec: PhantomData<fn() -> K>,
}

struct Directory<C: RaftTypeConfig> {
    path: PathBuf,
    cluster: ClusterId,
    state: Mutex<State<C>>,
    damaged: Vec<DamagedSnapshot>,
}

struct State<C: RaftTypeConfig> {
    /// By place in the log, then by age. At most [`KEPT`], all verified.
    kept: BTreeMap<Name, SnapshotFile<C>>,
    /// Number of the next file.
    next: u64,
}

/// A snapshot that failed its check when the store was opened, and was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Where the file is, under a name that is not used any more.
    pub path: PathBuf,
    /// Index of its last log entry, as its name says.
    pub index: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Name of a snapshot file. Ordered by what it covers, then by when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    index: u64,
    number: u64,
}

impl Name {
    fn file(self, end: &str) -> String {
        format!("{:020}-{:010}.{end}", self.index, self.number)
    }

    /// The name of a file that ends in `end`.
    fn parse(file: &str, end: &str) -> Option<Self> {
        let stem = file.strip_suffix(end)?.strip_suffix('.')?;
        let (index, number) = stem.split_once('-')?;
        Some(Self {
            index: index.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl<C, K> SnapshotStore<C, K>
where
    C: RaftTypeConfig,
    K: EntryCodec<C>,
{
    /// Opens the directory, creating it if need be, and verifies the snapshots in it.
    ///
    /// Damaged and unreadable ones are set aside; see [`Self::damaged`]. If that was all of them, [`Self::latest`] is None:
    /// the node then needs a snapshot of a peer unless its log begins at the first entry.
    ///
    /// # Errors
    /// An inaccessible directory, and snapshots of another cluster or a newer release, which stay as they
    /// are.
    pub fn open(path: impl AsRef<Path>, cluster: ClusterId) -> Result<Self, SnapshotError> {
        let path = path.as_ref().to_path_buf();
        let at = |source| SnapshotError::Io {
            path: path.clone(),
            source,
        };
        durable::create_dir(&path).map_err(at)?;
        let found = scan(&path)?;
        let mut state = State {
            kept: BTreeMap::new(),
            next: found.next,
        };
        let mut damaged = Vec::new();
        for name in found.whole.into_iter().rev() {
            let file = path.join(name.file(WHOLE));
            match open_file::<C, K>(&file, cluster, true) {
                Ok(snapshot) if state.kept.len() < KEPT => {
                    state.kept.insert(name, snapshot);
                }
                Ok(_surplus) => fs::remove_file(&file).map_err(at)?,
                Err(error) => {
                    let reason = unusable(&file, error)?;
                    let aside = path.join(name.file(DAMAGED));
                    durable::rename(&file, &aside).map_err(at)?;
                    tracing::warn!(path = %aside.display(), reason, "a snapshot is damaged and was set aside");
                    damaged.push(DamagedSnapshot {
                        path: aside,
                        index: name.index,
                        reason,
                    });
                }
            }
        }
        let dir = Directory {
            path,
            cluster,
            state: Mutex::new(state),
            damaged,
        };
        Ok(Self {
            dir: Arc::new(dir),
            codec: PhantomData,
        })
    }

    /// Writes a snapshot with `write` and keeps it.
    ///
    /// # Errors
    /// Those of `write` and of the disk. Nothing is left of a snapshot that failed.
    pub fn write(
        &self,
        meta: &SnapshotMetaOf<C>,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<SnapshotFile<C>, SnapshotError> {
        let header = Header::<C>::encode::<K>(self.dir.cluster, meta).map_err(SnapshotError::Encode)?;
        let (unfinished, file) = self.create(index_of::<C>(meta))?;
        let written = || -> io::Result<()> {
            let mut out = BufWriter::new(&file);
            out.write_all(&header)?;
            let mut content = ChunkWriter::new(out);
            write(&mut content)?;
            content.finish()?.flush()?;
            file.sync_all()
        };
        written().map_err(|source| unfinished.io(source))?;
        // Reading it back costs a fraction of writing it, and the log may be purged because of it.
        let snapshot = open_file::<C, K>(&unfinished.path, self.dir.cluster, false)?;
        unfinished.keep();
        self.keep(meta, &snapshot)?;
        Ok(snapshot)
    }

    /// Prepares to receive a snapshot of `len` bytes, as [`SnapshotFile::transfer_len`] has it.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn receive(&self, len: u64) -> Result<SnapshotReceiver<C, K>, SnapshotError> {
        // What it covers is known once it is here.
        let (unfinished, file) = self.create(0)?;
        Ok(SnapshotReceiver {
            unfinished,
            file,
            len,
            received: 0,
            cluster: self.dir.cluster,
            codec: PhantomData,
        })
    }

    /// Keeps a snapshot that was received, and drops what is older than the newest two.
    ///
    /// `meta` is what the sender said about it. A snapshot that is kept already stays so.
    ///
    /// # Errors
    /// The snapshot is not of this place in the log, or the disk's.
    pub fn keep(&self, meta: &SnapshotMetaOf<C>, snapshot: &SnapshotFile<C>) -> Result<(), SnapshotError> {
        let Some(from) = snapshot.arrived_at() else {
            return Ok(());
        };
        if snapshot.meta() != meta {
            let detail = "it is not the snapshot that was announced".into();
            return Err(SnapshotError::Damaged { path: from, detail });
        }
        let mut state = self.state();
        let name = Name {
            index: index_of::<C>(meta),
            number: state.number(),
        };
        let to = self.dir.path.join(name.file(WHOLE));
        durable::rename(&from, &to).map_err(|source| SnapshotError::Io {
            path: to.clone(),
            source,
        })?;
        snapshot.kept_at(to);
        // A second snapshot of the same place takes the place of the first.
        let surplus: Vec<Name> = state
            .kept
            .keys()
            .filter(|kept| kept.index == name.index)
            .copied()
            .collect();
        state.kept.insert(name, snapshot.clone());
        surplus
            .into_iter()
            .for_each(|name| state.discard(&self.dir.path, name));
        while state.kept.len() > KEPT {
            let Some(oldest) = state.kept.keys().next().copied() else {
                break;
            };
            state.discard(&self.dir.path, oldest);
        }
        Ok(())
    }

    /// The newest snapshot.
    #[must_use]
    pub fn latest(&self) -> Option<SnapshotFile<C>> {
        self.state().kept.values().next_back().cloned()
    }

    /// Index up to which the log may be purged: that of the older of two snapshots; None with fewer.
    #[must_use]
    pub fn purge_bound(&self) -> Option<u64> {
        let state = self.state();
        let older = state.kept.len().checked_sub(KEPT)?;
        state.kept.values().nth(older).and_then(SnapshotFile::index)
    }

    /// The snapshots that were set aside when the store was opened, the newest first.
    #[must_use]
    pub fn damaged(&self) -> &[DamagedSnapshot] {
        &self.dir.damaged
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        // Nothing panics half-way through a change of the state.
        self.dir.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a file that is deleted again unless it is kept.
    fn create(&self, index: u64) -> Result<(Unfinished, File), SnapshotError> {
        let name = Name {
            index,
            number: self.state().number(),
        };
        let path = self.dir.path.join(name.file(UNFINISHED));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&path) {
            Ok(file) => Ok((Unfinished { path, kept: false }, file)),
            Err(source) => Err(SnapshotError::Io { path, source }),
        }
    }
}

impl<C: RaftTypeConfig> State<C> {
    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    fn discard(&mut self, dir: &Path, name: Name) {
        self.kept.remove(&name);
        let path = dir.join(name.file(WHOLE));
        if let Err(error) = fs::remove_file(&path) {
            // It takes room, no more; the next open removes it.
            tracing::warn!(path = %path.display(), %error, "an old snapshot could not be removed");
        }
    }
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> Clone for SnapshotStore<C, K> {
    fn clone(&self) -> Self {
        Self {
            dir: Arc::clone(&self.dir),
            codec: PhantomData,
        }
    }
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> fmt::Debug for SnapshotStore<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore")
            .field("path", &self.dir.path)
            .finish_non_exhaustive()
    }
}

/// A snapshot on its way in. Dropped before [`SnapshotReceiver::finish`], nothing is left of it.
pub struct SnapshotReceiver<C: RaftTypeConfig, K: EntryCodec<C>> {
    unfinished: Unfinished,
    file: File,
    len: u64,
    received: u64,
    cluster: ClusterId,
    codec: PhantomData<fn() -> (C, K)>,
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> SnapshotReceiver<C, K> {
    /// Offset of the byte that comes next.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.received
    }

    /// Takes the bytes that come next.
    ///
    /// # Errors
    /// More bytes than were announced, or the disk's.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let received = self.received.saturating_add(bytes.len() as u64);
        if received > self.len {
            let detail = format!("it has more than the {} bytes announced", self.len);
            return Err(self.unfinished.damaged(detail));
        }
        self.file
            .write_all(bytes)
            .map_err(|source| self.unfinished.io(source))?;
        self.received = received;
        Ok(())
    }

    /// Syncs and verifies what arrived. It is not kept before [`SnapshotStore::keep`].
    ///
    /// # Errors
    /// Missing or damaged bytes, a snapshot of another cluster or a newer release, or the disk's.
    pub fn finish(self) -> Result<SnapshotFile<C>, SnapshotError> {
        if self.received != self.len {
            let detail = format!("only {} of {} bytes arrived", self.received, self.len);
            return Err(self.unfinished.damaged(detail));
        }
        self.file
            .sync_all()
            .map_err(|source| self.unfinished.io(source))?;
        let snapshot = open_file::<C, K>(&self.unfinished.path, self.cluster, false)?;
        self.unfinished.keep();
        Ok(snapshot)
    }
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> fmt::Debug for SnapshotReceiver<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReceiver")
            .field("received", &self.received)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// A file that goes away with this value, unless it was kept.
struct Unfinished {
    path: PathBuf,
    kept: bool,
}

impl Unfinished {
    fn keep(mut self) {
        self.kept = true;
    }

    fn io(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn damaged(&self, detail: String) -> SnapshotError {
        SnapshotError::Damaged {
            path: self.path.clone(),
            detail,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // What is left over is removed when the store is opened next.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn index_of<C: RaftTypeConfig>(meta: &SnapshotMetaOf<C>) -> u64 {
    meta.last_log_id.as_ref().map_or(0, |id| id.index)
}

/// Verifies a file, and that it is of this cluster.
fn open_file<C: RaftTypeConfig, K: EntryCodec<C>>(
    path: &Path,
    expected: ClusterId,
    kept: bool,
) -> Result<SnapshotFile<C>, SnapshotError> {
    let at = path.to_path_buf();
    match SnapshotFile::<C>::verify::<K>(path, kept) {
        Ok(snapshot) if snapshot.cluster() == expected => Ok(snapshot),
        Ok(snapshot) => Err(SnapshotError::Foreign {
            path: at,
            expected,
            found: snapshot.cluster(),
        }),
        Err(FormatError::Io(source)) => Err(SnapshotError::Io { path: at, source }),
        Err(FormatError::Damaged(detail)) => Err(SnapshotError::Damaged { path: at, detail }),
        Err(FormatError::Newer(found)) => Err(SnapshotError::NewerFormat { path: at, found }),
    }
}

/// Why a snapshot must be set aside; an error that an operator has to cure instead is handed back.
///
/// A file that opens but cannot be read lies on bad sectors, which no retry heals: the older snapshot takes
/// its place. One that does not even open has wrong permissions, or the process has too many files.
fn unusable(path: &Path, error: SnapshotError) -> Result<String, SnapshotError> {
    match error {
        SnapshotError::Damaged { detail, .. } => Ok(detail),
        SnapshotError::Io { source, .. } if File::open(path).is_ok() => {
            Ok(format!("it cannot be read: {source}"))
        }
        SnapshotError::Io { .. }
        | SnapshotError::NewerFormat { .. }
        | SnapshotError::Foreign { .. }
        | SnapshotError::Encode(_) => Err(error),
    }
}

struct Found {
    /// From the oldest to the newest.
    whole: Vec<Name>,
    /// A number that no file has.
    next: u64,
}

/// Lists the snapshots; removes what was never finished, and damaged files beyond the newest few.
fn scan(dir: &Path) -> Result<Found, SnapshotError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        |source| SnapshotError::Io { path, source }
    };
    let (mut whole, mut damaged, mut next) = (Vec::new(), Vec::new(), 0);
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if Name::parse(name, UNFINISHED).is_some() {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(at(&path))?;
        } else if let Some(found) = Name::parse(name, WHOLE) {
            whole.push(found);
            next = found.number.saturating_add(1).max(next);
        } else if let Some(found) = Name::parse(name, DAMAGED) {
            damaged.push(found);
            next = found.number.saturating_add(1).max(next);
        }
    }
    damaged.sort_unstable();
    let surplus = damaged.len().saturating_sub(DAMAGED_KEPT);
    for name in damaged.into_iter().take(surplus) {
        let path = dir.join(name.file(DAMAGED));
        fs::remove_file(&path).map_err(at(&path))?;
    }
    whole.sort_unstable();
    Ok(Found { whole, next })
}
