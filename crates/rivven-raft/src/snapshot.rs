//! Where snapshots are kept, and one that is on its way in.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use rivven_raft_store::{SnapshotFile, SnapshotReceiver, SnapshotStore, SnapshotTransfer};

use crate::{
    codec::LogCodec,
    types::{SnapshotMeta, TypeConfig},
};

/// Snapshots kept. The log is purged behind the older, so a damaged newest one is no loss.
const KEPT: usize = 2;

/// Largest snapshot that is held in memory, by a node without a data directory.
const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// The snapshots of a node. Every method may block on the disk.
#[derive(Clone, Debug)]
pub(crate) enum Snapshots {
    /// Gone with the process.
    Memory(Arc<Mutex<Vec<(SnapshotMeta, Bytes)>>>),
    /// In the data directory.
    Files(SnapshotStore<TypeConfig, LogCodec>),
}

/// One snapshot.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotData {
    Memory(Bytes),
    File(SnapshotFile<TypeConfig>),
}

impl Snapshots {
    pub(crate) fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Writes a snapshot with `write` and keeps it.
    pub(crate) fn write(
        &self,
        meta: &SnapshotMeta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<SnapshotData> {
        match self {
            Self::Memory(kept) => {
                let mut bytes = Vec::new();
                write(&mut bytes)?;
                let bytes = Bytes::from(bytes);
                keep_in_memory(kept, meta, &bytes);
                Ok(SnapshotData::Memory(bytes))
            }
            Self::Files(store) => Ok(SnapshotData::File(store.write(meta, write)?)),
        }
    }

    /// Keeps a snapshot that arrived; one that is kept already stays.
    pub(crate) fn keep(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<()> {
        match (self, data) {
            (Self::Memory(kept), SnapshotData::Memory(bytes)) => {
                keep_in_memory(kept, meta, bytes);
                Ok(())
            }
            (Self::Files(store), SnapshotData::File(file)) => Ok(store.keep(meta, file)?),
            (Self::Memory(_), SnapshotData::File(_)) | (Self::Files(_), SnapshotData::Memory(_)) => {
                Err(another_kind())
            }
        }
    }

    /// The newest snapshot.
    pub(crate) fn latest(&self) -> Option<(SnapshotMeta, SnapshotData)> {
        self.kept().into_iter().next()
    }

    /// Every snapshot kept, the newest first.
    pub(crate) fn kept(&self) -> Vec<(SnapshotMeta, SnapshotData)> {
        match self {
            Self::Memory(kept) => {
                let kept = lock(kept);
                let newest_first = kept.iter().rev();
                newest_first
                    .map(|(meta, bytes)| (meta.clone(), SnapshotData::Memory(bytes.clone())))
                    .collect()
            }
            Self::Files(store) => {
                let kept = store.kept().into_iter();
                kept.map(|file| (file.meta().clone(), SnapshotData::File(file)))
                    .collect()
            }
        }
    }

    /// Stops using a snapshot that cannot be restored. Says what became of it.
    pub(crate) fn set_aside(&self, data: &SnapshotData, reason: &str) -> io::Result<String> {
        match (self, data) {
            (Self::Files(store), SnapshotData::File(file)) => {
                let aside = store.set_aside(file, reason.to_owned())?;
                Ok(aside.map_or_else(
                    || "it is not kept".to_owned(),
                    |path| format!("it was set aside as {}", path.display()),
                ))
            }
            (Self::Memory(kept), SnapshotData::Memory(bytes)) => {
                lock(kept).retain(|(_, kept)| kept.as_ptr() != bytes.as_ptr());
                Ok("it was dropped".to_owned())
            }
            (Self::Memory(_), SnapshotData::File(_)) | (Self::Files(_), SnapshotData::Memory(_)) => {
                Err(another_kind())
            }
        }
    }

    /// Index up to which the log can be purged: that of the older of the two snapshots kept.
    pub(crate) fn purge_upto(&self) -> Option<u64> {
        match self {
            Self::Memory(kept) => {
                let kept = lock(kept);
                let older = kept.len().checked_sub(KEPT).and_then(|at| kept.get(at))?;
                older.0.last_log_id.map(|id| id.index)
            }
            Self::Files(store) => store.purge_bound(),
        }
    }

    /// Opens the reception of a snapshot, or goes on with one that was interrupted.
    pub(crate) fn receive(&self, transfer: SnapshotTransfer) -> io::Result<Incoming> {
        let len = transfer.len;
        match self {
            Self::Memory(_) if len > MAX_MEMORY_BYTES => Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("a snapshot of {len} bytes does not fit a node without a data directory"),
            )),
            // Grows with what arrives: the length is only the sender's word.
            Self::Memory(_) => Ok(Incoming::Memory {
                transfer,
                bytes: Vec::new(),
            }),
            Self::Files(store) => store
                .receive(transfer)
                .map(Incoming::File)
                .map_err(io::Error::other),
        }
    }
}

fn another_kind() -> io::Error {
    io::Error::other("the snapshot is of another kind of store")
}

fn keep_in_memory(kept: &Mutex<Vec<(SnapshotMeta, Bytes)>>, meta: &SnapshotMeta, bytes: &Bytes) {
    let mut kept = lock(kept);
    kept.retain(|(older, _)| older.last_log_id < meta.last_log_id);
    kept.push((meta.clone(), bytes.clone()));
    let surplus = kept.len().saturating_sub(KEPT);
    kept.drain(..surplus);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves the list whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SnapshotData {
    /// Whether this is the snapshot that `meta` describes, as far as it says so itself.
    pub(crate) fn is_of(&self, meta: &SnapshotMeta) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::File(file) => file.meta() == meta,
        }
    }

    /// Bytes that go over the wire.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.transfer().len,
        }
    }

    /// At most `len` bytes of what goes over the wire, from `offset` on.
    pub(crate) fn read_transfer(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(len).min(bytes.len());
                Ok(bytes.slice(start..end))
            }
            Self::File(file) => file.read_transfer(offset, len).map(Bytes::from),
        }
    }

    /// What names the snapshot on the wire, and lets the receiver check it.
    pub(crate) fn transfer(&self) -> SnapshotTransfer {
        match self {
            Self::Memory(bytes) => SnapshotTransfer {
                len: bytes.len() as u64,
                checksum: crc32c::crc32c(bytes),
            },
            Self::File(file) => file.transfer(),
        }
    }

    /// What the state machine wrote. Each piece is checked as it is read, the whole at its end.
    pub(crate) fn content(&self) -> Box<dyn Read + Send> {
        match self {
            Self::Memory(bytes) => Box::new(io::Cursor::new(bytes.clone())),
            Self::File(file) => Box::new(file.content()),
        }
    }
}

/// A snapshot that is being received.
#[derive(Debug)]
pub(crate) enum Incoming {
    Memory {
        transfer: SnapshotTransfer,
        bytes: Vec<u8>,
    },
    File(SnapshotReceiver<TypeConfig, LogCodec>),
}

impl Incoming {
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory { bytes, .. } => {
                bytes.extend_from_slice(data);
                Ok(())
            }
            Self::File(file) => file.write(data).map_err(io::Error::other),
        }
    }

    /// Offset of the byte that comes next.
    pub(crate) fn offset(&self) -> u64 {
        match self {
            Self::Memory { bytes, .. } => bytes.len() as u64,
            Self::File(file) => file.offset(),
        }
    }

    /// The snapshot, once all bytes are in: durable and verified, not yet kept.
    pub(crate) fn finish(self) -> io::Result<SnapshotData> {
        match self {
            Self::Memory { transfer, bytes } => {
                let data = SnapshotData::Memory(bytes.into());
                if data.transfer() == transfer {
                    return Ok(data);
                }
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a received snapshot is not what was offered",
                ))
            }
            Self::File(file) => Ok(SnapshotData::File(file.finish()?)),
        }
    }
}
