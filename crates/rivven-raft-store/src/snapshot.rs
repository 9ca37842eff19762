//! [`SnapshotStore`]: snapshots in files, the newest two of which are known to be whole.

mod dir;
mod error;
mod file;
mod format;
mod receive;
mod repair;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, BufWriter, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use openraft::{RaftTypeConfig, type_config::alias::SnapshotMetaOf};
use rivven_types::ClusterId;

use self::{
    dir::{DAMAGED, Name, Unfinished, WHOLE, index_of, open_file, scan, unusable, whole},
    format::Header,
    receive::{Claim, remove_outrun},
};
pub use self::{
    error::SnapshotError,
    file::{SnapshotContent, SnapshotFile},
    format::write_snapshot,
    receive::{SnapshotReceiver, SnapshotTransfer},
    repair::SnapshotGap,
};
use crate::{codec::EntryCodec, durable};

/// Snapshots kept. The log may be purged behind the older only, so that a damaged newest one is replaced by
/// the older and the log.
const KEPT: usize = 2;

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
    /// Whether a snapshot is on its way in.
    receiving: Arc<AtomicBool>,
}

struct State<C: RaftTypeConfig> {
    /// By place in the log, then by age. At most [`KEPT`], all verified.
    kept: BTreeMap<Name, SnapshotFile<C>>,
    /// Number of the next file.
    next: u64,
    /// Set aside since the store was opened.
    damaged: Vec<DamagedSnapshot>,
}

/// A snapshot that failed its check when the store was opened, or could not be restored, and was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Where the file is, under a name that is not used any more.
    pub path: PathBuf,
    /// Index of its last log entry, as its name says.
    pub index: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl<C, K> SnapshotStore<C, K>
where
    C: RaftTypeConfig,
    K: EntryCodec<C>,
{
    /// Opens the directory, creating it if need be, and verifies the snapshots in it.
    ///
    /// Damaged and unreadable ones are set aside; see [`Self::damaged`]. If that was all of them, [`Self::latest`] is None;
    /// whether the node can start then is told by [`Self::gap`].
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
            damaged: Vec::new(),
        };
        for name in found.whole.into_iter().rev() {
            let file = path.join(name.file(WHOLE));
            match open_file::<C, K>(&file, cluster) {
                Ok(snapshot) if state.kept.len() < KEPT => {
                    state.kept.insert(name, snapshot);
                }
                Ok(_surplus) => fs::remove_file(&file).map_err(at)?,
                Err(error) => {
                    let reason = unusable(&file, error)?;
                    state.set_aside(&path, name, reason).map_err(at)?;
                }
            }
        }
        let dir = Directory {
            path,
            cluster,
            state: Mutex::new(state),
            receiving: Arc::default(),
        };
        Ok(Self {
            dir: Arc::new(dir),
            codec: PhantomData,
        })
    }

    /// The newest whole snapshot in a directory that nobody has open. Changes nothing: whatever is damaged or
    /// left over stays where it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn newest(
        path: impl AsRef<Path>,
        cluster: ClusterId,
    ) -> Result<Option<SnapshotFile<C>>, SnapshotError> {
        let path = path.as_ref();
        for name in whole(path)?.into_iter().rev() {
            let file = path.join(name.file(WHOLE));
            match open_file::<C, K>(&file, cluster) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error) => drop(unusable(&file, error)?),
            }
        }
        Ok(None)
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
        // Refused before there is a file.
        drop(Header::<C>::encode::<K>(self.dir.cluster, meta).map_err(SnapshotError::Encode)?);
        let name = Name {
            index: index_of::<C>(meta),
            number: self.state().number(),
        };
        let (unfinished, file) = Unfinished::create(&self.dir.path, name)?;
        let written = || -> io::Result<()> {
            write_snapshot::<C, K>(self.dir.cluster, meta, BufWriter::new(&file), write)?;
            file.sync_all()
        };
        written().map_err(|source| unfinished.io(source))?;
        // Reading it back costs a fraction of writing it, and the log may be purged because of it.
        let snapshot = open_file::<C, K>(&unfinished.path, self.dir.cluster)?;
        self.adopt(name.index, &snapshot, &unfinished.path)?;
        unfinished.keep();
        Ok(snapshot)
    }

    /// Begins to receive a snapshot, or goes on where an earlier attempt was interrupted, in this process or
    /// one before it: [`SnapshotReceiver::offset`] says where. What there is of any other is removed.
    ///
    /// # Errors
    /// [`SnapshotError::Busy`] while another is on its way in; the disk's.
    pub fn receive(&self, transfer: SnapshotTransfer) -> Result<SnapshotReceiver<C, K>, SnapshotError> {
        let claim = Claim::take(&self.dir.receiving).ok_or(SnapshotError::Busy)?;
        SnapshotReceiver::open(&self.dir.path, transfer, self.dir.cluster, claim)
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
        self.adopt(index_of::<C>(meta), snapshot, &from)
    }

    /// Gives a verified file its name and drops what is older than the newest two.
    fn adopt(&self, index: u64, snapshot: &SnapshotFile<C>, from: &Path) -> Result<(), SnapshotError> {
        let mut state = self.state();
        let name = Name {
            index,
            number: state.number(),
        };
        let to = self.dir.path.join(name.file(WHOLE));
        durable::rename(from, &to).map_err(|source| {
            // Whether the name would be there after a power cut is not known, so nobody may count on it.
            drop(fs::remove_file(&to));
            let path = to.clone();
            SnapshotError::Io { path, source }
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
        drop(state);
        if let Some(_nobody_receives) = Claim::take(&self.dir.receiving) {
            remove_outrun::<C, K>(&self.dir.path, index);
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

    /// Every snapshot kept, the newest first.
    #[must_use]
    pub fn kept(&self) -> Vec<SnapshotFile<C>> {
        self.state().kept.values().rev().cloned().collect()
    }

    /// Renames a kept snapshot that cannot be restored, so that it is not used any more; says the new name.
    /// None if it is not kept.
    ///
    /// The file stays, for whoever looks into the cause. An older snapshot or that of a peer takes its place.
    ///
    /// # Errors
    /// The disk's; the snapshot is still kept then.
    pub fn set_aside(
        &self,
        snapshot: &SnapshotFile<C>,
        reason: String,
    ) -> Result<Option<PathBuf>, SnapshotError> {
        let path = snapshot.path();
        let mut state = self.state();
        let found = state.kept.iter().find(|(_, kept)| kept.path() == path);
        let Some(name) = found.map(|(name, _)| *name) else {
            return Ok(None);
        };
        let aside = state.set_aside(&self.dir.path, name, reason);
        aside
            .map(Some)
            .map_err(|source| SnapshotError::Io { path, source })
    }

    /// The snapshots that were set aside when the store was opened, the newest first, and since.
    #[must_use]
    pub fn damaged(&self) -> Vec<DamagedSnapshot> {
        self.state().damaged.clone()
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        // Nothing panics half-way through a change of the state.
        self.dir.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: RaftTypeConfig> State<C> {
    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    /// Gives a snapshot a name that is not used any more.
    fn set_aside(&mut self, dir: &Path, name: Name, reason: String) -> io::Result<PathBuf> {
        let aside = dir.join(name.file(DAMAGED));
        durable::rename(&dir.join(name.file(WHOLE)), &aside)?;
        tracing::warn!(path = %aside.display(), reason, "a snapshot cannot be used and was set aside");
        self.kept.remove(&name);
        self.damaged.push(DamagedSnapshot {
            path: aside.clone(),
            index: name.index,
            reason,
        });
        Ok(aside)
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
