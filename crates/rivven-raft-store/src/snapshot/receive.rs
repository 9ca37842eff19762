//! [`SnapshotReceiver`]: a snapshot on its way in, which goes on after a restart where it was interrupted.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Seek, SeekFrom, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openraft::RaftTypeConfig;
use rivven_types::ClusterId;

use super::{
    dir::{index_of, open_file},
    error::SnapshotError,
    file::SnapshotFile,
    format::whole_prefix,
};
use crate::codec::EntryCodec;

/// End of the name of a snapshot that has not arrived completely.
const PARTIAL: &str = "partial";

/// What names a snapshot on its way between nodes: the length and the CRC32C of its file.
///
/// Two nodes may cut the same state into different files, so a place in the log would not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotTransfer {
    /// Bytes of the file.
    pub len: u64,
    /// CRC32C of all of them.
    pub checksum: u32,
}

impl SnapshotTransfer {
    fn file(self) -> String {
        let Self { len, checksum } = self;
        format!("{len:020}-{checksum:010}.{PARTIAL}")
    }

    fn is_partial(name: &str) -> bool {
        name.strip_suffix(PARTIAL).is_some_and(|stem| stem.ends_with('.'))
    }
}

/// The right to receive: one snapshot at a time, because there is one leader.
#[derive(Debug)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Takes the right, if nobody has it.
    pub(super) fn take(taken: &Arc<AtomicBool>) -> Option<Self> {
        let free = taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire);
        free.ok().map(|_| Self(Arc::clone(taken)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A snapshot on its way in.
///
/// Dropped before it is complete, what has arrived stays on disk, and
/// [`SnapshotStore::receive`](super::SnapshotStore::receive) of the same transfer goes on behind the last
/// whole chunk of it, also in another process. Nothing is synced on the way: a power cut costs at most the
/// chunks that had not reached the disk.
pub struct SnapshotReceiver<C: RaftTypeConfig, K: EntryCodec<C>> {
    path: PathBuf,
    file: File,
    transfer: SnapshotTransfer,
    received: u64,
    cluster: ClusterId,
    claim: Claim,
    codec: PhantomData<fn() -> (C, K)>,
}

impl<C: RaftTypeConfig, K: EntryCodec<C>> SnapshotReceiver<C, K> {
    /// Goes on with what is there of `transfer` in the directory `dir`, or begins.
    pub(super) fn open(
        dir: &Path,
        transfer: SnapshotTransfer,
        cluster: ClusterId,
        claim: Claim,
    ) -> Result<Self, SnapshotError> {
        let path = dir.join(transfer.file());
        remove_partials(dir, |other| other != path)?;
        let opened = || -> io::Result<(File, u64)> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&path)?;
            let whole = whole_prefix::<C, K>(&mut BufReader::new(&file)).map_or(0, |(_, whole)| whole);
            // Longer than announced, it is none of this snapshot.
            let whole = if whole > transfer.len { 0 } else { whole };
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            Ok((file, whole))
        };
        let (file, received) = opened().map_err(|source| SnapshotError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            file,
            transfer,
            received,
            cluster,
            claim,
            codec: PhantomData,
        })
    }

    /// Takes the bytes that come next.
    ///
    /// # Errors
    /// More bytes than were announced; what arrived before stays. The disk's: what arrived is removed, so
    /// that it does not take the room that a full disk needs.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let received = self.received.saturating_add(bytes.len() as u64);
        if received > self.transfer.len {
            let detail = format!("it has more than the {} bytes announced", self.transfer.len);
            return Err(self.damaged(detail));
        }
        if let Err(source) = self.file.write_all(bytes) {
            drop(fs::remove_file(&self.path));
            return Err(self.io(source));
        }
        self.received = received;
        Ok(())
    }

    /// Offset of the byte that comes next. Above 0 at once for a transfer that goes on.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.received
    }

    /// What is being received.
    #[must_use]
    pub const fn transfer(&self) -> SnapshotTransfer {
        self.transfer
    }

    /// Syncs and verifies what arrived. It is not kept before
    /// [`SnapshotStore::keep`](super::SnapshotStore::keep).
    ///
    /// # Errors
    /// Missing bytes; what arrived stays. Damaged bytes, others than announced, a snapshot of another cluster
    /// or a newer release, or the disk's; what arrived is removed.
    pub fn finish(self) -> Result<SnapshotFile<C>, SnapshotError> {
        if self.received != self.transfer.len {
            let detail = format!("only {} of {} bytes arrived", self.received, self.transfer.len);
            return Err(self.damaged(detail));
        }
        match self.verify() {
            Ok(snapshot) => {
                snapshot.arrived(self.path, self.claim);
                Ok(snapshot)
            }
            Err(error) => {
                // After a failed sync the pages may read well and still not be on the disk.
                drop(fs::remove_file(&self.path));
                Err(error)
            }
        }
    }

    fn verify(&self) -> Result<SnapshotFile<C>, SnapshotError> {
        self.file.sync_all().map_err(|source| self.io(source))?;
        let snapshot = open_file::<C, K>(&self.path, self.cluster)?;
        if snapshot.transfer() == self.transfer {
            return Ok(snapshot);
        }
        Err(self.damaged("it is not the snapshot that was announced".into()))
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

impl<C: RaftTypeConfig, K: EntryCodec<C>> fmt::Debug for SnapshotReceiver<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReceiver")
            .field("transfer", &self.transfer)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

/// Removes what is there of a transfer that reaches no further than the entry at `index`.
pub(super) fn remove_outrun<C: RaftTypeConfig, K: EntryCodec<C>>(dir: &Path, index: u64) {
    let removed = remove_partials(dir, |path| {
        let header = File::open(path)
            .ok()
            .and_then(|file| whole_prefix::<C, K>(&mut BufReader::new(file)));
        header.is_none_or(|(header, _)| index_of::<C>(&header.meta) <= index)
    });
    if let Err(error) = removed {
        // It takes room, no more; the next transfer removes it.
        tracing::warn!(%error, "what is left of an interrupted transfer could not be removed");
    }
}

fn remove_partials(dir: &Path, obsolete: impl Fn(&Path) -> bool) -> Result<(), SnapshotError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        |source| SnapshotError::Io { path, source }
    };
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let path = entry.path();
        let partial = entry
            .file_name()
            .to_str()
            .is_some_and(SnapshotTransfer::is_partial);
        if partial && obsolete(&path) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}
