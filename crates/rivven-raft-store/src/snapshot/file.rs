//! [`SnapshotFile`]: one whole, verified snapshot, and a file that can be read from several places at once.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{RaftTypeConfig, type_config::alias::SnapshotMetaOf};
use rivven_types::ClusterId;

use super::{
    SnapshotError,
    format::{ChunkReader, FormatError, Header, Summed},
    receive::{Claim, SnapshotTransfer},
};
use crate::codec::EntryCodec;

/// A snapshot on disk. It was whole when it was opened; [`SnapshotFile::content`] checks again as it reads.
///
/// Cheap to clone. It stays readable while a clone exists, also once newer snapshots have replaced it. A
/// received one that was never kept is deleted with its last clone.
pub struct SnapshotFile<C: RaftTypeConfig> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: RaftTypeConfig> {
    file: File,
    transfer: SnapshotTransfer,
    header: Header<C>,
    place: Mutex<Place>,
}

/// Where a file is, and whose.
#[derive(Debug)]
enum Place {
    /// Received, and not the store's: deleted with the last clone. No other is received meanwhile.
    Arrived { path: PathBuf, _claim: Claim },
    /// The store's.
    Kept(PathBuf),
}

impl<C: RaftTypeConfig> SnapshotFile<C> {
    /// Up to where the snapshot reaches, and the membership there.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMetaOf<C> {
        &self.inner.header.meta
    }

    /// Index of the last log entry in the snapshot.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        self.meta().last_log_id.as_ref().map(|id| id.index)
    }

    /// Where the file is, or was until newer snapshots replaced it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &*self.place() {
            Place::Arrived { path, .. } | Place::Kept(path) => path.clone(),
        }
    }

    /// What names this snapshot while it is sent to another node: length and checksum of its file.
    ///
    /// Known since the file was verified; nothing is read.
    #[must_use]
    pub fn transfer(&self) -> SnapshotTransfer {
        self.inner.transfer
    }

    /// Bytes of the file as it is sent to another node.
    #[must_use]
    pub fn transfer_len(&self) -> u64 {
        self.inner.transfer.len
    }

    /// At most `len` bytes of the file from `offset` on, as they are sent to another node.
    ///
    /// # Errors
    /// The disk's. The receiver checks the bytes.
    pub fn read_transfer(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.transfer_len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        read_exact_at(&self.inner.file, &mut bytes, offset)?;
        Ok(bytes)
    }

    /// What the state machine wrote, from its first byte, each chunk checked against its checksum.
    ///
    /// The end is an error unless all of it was there, so read to the end before using the state.
    #[must_use]
    pub fn content(&self) -> SnapshotContent<C> {
        let offset = self.inner.header.len;
        let at = FileAt {
            snapshot: self.clone(),
            offset,
        };
        SnapshotContent(ChunkReader::new(BufReader::new(at)))
    }

    /// Opens a snapshot anywhere on this machine, of any cluster, and verifies it from the first byte to the
    /// last. Nothing is changed, and no more than a chunk is in memory at a time. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or was written by a newer release.
    pub fn open<K: EntryCodec<C>>(path: &Path) -> Result<Self, SnapshotError> {
        Self::verify::<K>(path).map_err(|error| error.of(path))
    }

    /// Opens and verifies the file at `path`, from the first byte to the last.
    pub(super) fn verify<K: EntryCodec<C>>(path: &Path) -> Result<Self, FormatError> {
        let file = File::open(path)?;
        let mut input = BufReader::new(Summed::new(&file));
        let header = Header::<C>::read::<K>(&mut input)?;
        // The end is reached only with the last byte of the file, so the sum covers all of it.
        io::copy(&mut ChunkReader::new(&mut input), &mut io::sink())?;
        let Summed { len, checksum, .. } = *input.get_ref();
        let place = Mutex::new(Place::Kept(path.to_path_buf()));
        Ok(Self {
            inner: Arc::new(Inner {
                file,
                transfer: SnapshotTransfer { len, checksum },
                header,
                place,
            }),
        })
    }

    /// The cluster whose state this is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.header.cluster
    }

    /// Where the file is, unless it is the store's already.
    pub(super) fn arrived_at(&self) -> Option<PathBuf> {
        match &*self.place() {
            Place::Arrived { path, .. } => Some(path.clone()),
            Place::Kept(_) => None,
        }
    }

    /// Notes that nobody keeps the file yet.
    pub(super) fn arrived(&self, path: PathBuf, claim: Claim) {
        *self.place() = Place::Arrived { path, _claim: claim };
    }

    /// Notes that the file has been renamed and is the store's.
    pub(super) fn kept_at(&self, path: PathBuf) {
        *self.place() = Place::Kept(path);
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.inner.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: RaftTypeConfig> Drop for Inner<C> {
    fn drop(&mut self) {
        if let Place::Arrived { path, .. } = self.place.get_mut().unwrap_or_else(PoisonError::into_inner) {
            // What is left over is removed when the store is opened next.
            drop(fs::remove_file(path));
        }
    }
}

impl<C: RaftTypeConfig> Clone for SnapshotFile<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C: RaftTypeConfig> fmt::Debug for SnapshotFile<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFile")
            .field("place", &*self.place())
            .field("last_log_id", &self.meta().last_log_id)
            .field("len", &self.transfer_len())
            .finish_non_exhaustive()
    }
}

/// Reads what a state machine wrote into a snapshot; see [`SnapshotFile::content`].
pub struct SnapshotContent<C: RaftTypeConfig>(ChunkReader<BufReader<FileAt<C>>>);

impl<C: RaftTypeConfig> Read for SnapshotContent<C> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl<C: RaftTypeConfig> fmt::Debug for SnapshotContent<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotContent").finish_non_exhaustive()
    }
}

/// A place in a file that other readers do not move.
struct FileAt<C: RaftTypeConfig> {
    snapshot: SnapshotFile<C>,
    offset: u64,
}

impl<C: RaftTypeConfig> Read for FileAt<C> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = read_at(&self.snapshot.inner.file, out, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, offset)
}

fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        let read = read_at(file, out, offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset = offset.saturating_add(read as u64);
        out = out.get_mut(read..).unwrap_or_default();
    }
    Ok(())
}
