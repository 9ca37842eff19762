//! Durable log, vote and snapshots for openraft, on redb.
//!
//! The crate is generic over openraft's `RaftTypeConfig` and knows no transport and no state machine:
//!
//! - [`EntryCodec`] turns the caller's entries, votes and memberships into bytes. The bytes on disk are
//!   the caller's, never openraft's, so an openraft release cannot make old data unreadable.
//! - [`NodeDir`] is the data directory: its lock, its owner, its boot epoch.
//! - [`RedbLogStore`] keeps the log in one file, with one fsync for everything that waits.
//! - [`SnapshotStore`] keeps snapshots in files, the newest two of which are known to be whole.
//! - [`SimulatedDisk`] is a disk for a log that takes simulated time and forgets what was not synced.
//! - [`MemLogStore`] keeps the log in memory: deterministic, without a thread, gone with the process.
#![forbid(unsafe_code)]

mod codec;
mod durable;
mod error;
mod log;
mod mem;
mod membership;
mod node_dir;
mod plain;
mod record;
mod simulated;
mod snapshot;
mod window;

pub use codec::{CodecError, EntryCodec, FieldReader, put_bytes, put_u64};
pub use error::{Record, StoreError};
pub use log::{
    LogMonitor, LogOptions, LogOwner, LogReport, RedbLogReader, RedbLogStore, WriterMode, inspect, verify,
    verify_each,
};
pub use mem::MemLogStore;
pub use membership::{get_membership, put_membership};
pub use node_dir::{NodeDir, NodeDirError, PartialDir};
/// The openraft release this crate is built for, pinned to the letter because it is an alpha.
pub use openraft;
pub use plain::{CommandCodec, PlainCodec};
pub use simulated::{DiskPace, DiskStats, SimulatedDisk};
pub use snapshot::{
    DamagedSnapshot, SnapshotContent, SnapshotError, SnapshotFile, SnapshotGap, SnapshotReceiver,
    SnapshotStore, SnapshotTransfer, write_snapshot,
};

/// The README, so that its example is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
