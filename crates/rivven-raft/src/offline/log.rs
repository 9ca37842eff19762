//! What a node has stored, while it does not run: its log, entry by entry, and its newest snapshot.

use std::path::Path;

use rivven_raft_store::{EntryCodec as _, NodeDir, SnapshotStore, verify_each};
use xxhash_rust::xxh3::xxh3_128;

use super::{BackupReport, LogPlace, OfflineError, verify_backup};
use crate::{
    codec::LogCodec,
    types::{LogEntry, TypeConfig},
};

/// What a log holds. It is whole: every page of it was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogCheck {
    /// Bytes of the file.
    pub bytes: u64,
    /// The highest term that its node has voted or heard in.
    pub term: u64,
    /// The last entry that was removed because a snapshot holds it.
    pub purged: Option<LogPlace>,
    /// The first entry.
    pub first: Option<LogPlace>,
    /// The last entry.
    pub last: Option<LogPlace>,
    /// The last entry that the node knew to be committed when it wrote last.
    pub committed: Option<LogPlace>,
    /// How many entries there are.
    pub entries: u64,
}

/// Checks the log in `path`, a file that no node has open, and hands the place of each entry to `each` with a hash
/// of what it says: the oldest first. Logs of one group have the same hash wherever they have an entry of the same
/// term and index, and the same entries before it. Changes nothing. Blocks, for about a second per million entries.
///
/// # Errors
/// [`OfflineError::Log`] says what is wrong with it. What is whole in front of that has been handed out.
pub fn verify_log(path: &Path, mut each: impl FnMut(LogPlace, u128)) -> Result<LogCheck, OfflineError> {
    let mut bytes = Vec::new();
    let mut unwritten = None;
    let report = verify_each::<TypeConfig, LogCodec>(path, |entry: &LogEntry| {
        bytes.clear();
        // It was read by the same codec just now.
        match LogCodec::encode_entry(entry, &mut bytes) {
            Ok(()) => each(LogPlace::of(&entry.log_id), xxh3_128(&bytes)),
            Err(error) => unwritten = Some(error),
        }
    })?;
    debug_assert!(unwritten.is_none(), "{unwritten:?}");
    Ok(LogCheck {
        bytes: report.file_bytes,
        term: report.vote.as_ref().map_or(0, |vote| vote.leader_id().term),
        purged: report.purged.as_ref().map(LogPlace::of),
        first: report.first.as_ref().map(LogPlace::of),
        last: report.last.as_ref().map(LogPlace::of),
        committed: report.committed.as_ref().map(LogPlace::of),
        entries: report.entries,
    })
}

/// What a data directory holds. It is whole, and a node can be started from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirCheck {
    /// The log.
    pub log: LogCheck,
    /// The newest whole snapshot, if there is one: it has the form of a backup.
    pub snapshot: Option<BackupReport>,
}

/// Checks everything that the node in `dir` needs for a start, byte by byte: that its log is whole, that its newest
/// snapshot is, and that no entry is missing between them. Changes nothing. Blocks.
///
/// # Errors
/// [`OfflineError`] says what is damaged, or [`OfflineError::NoState`] that something is missing.
pub fn check_dir(dir: &NodeDir) -> Result<DirCheck, OfflineError> {
    let log = verify_log(&dir.log_path(), |_, _| ())?;
    let newest = SnapshotStore::<TypeConfig, LogCodec>::newest(dir.snapshots_path(), dir.cluster())?;
    let snapshot = newest.map(|newest| verify_backup(&newest.path())).transpose()?;
    let reached = snapshot.as_ref().map(|snapshot| snapshot.last.index);
    match log.purged.filter(|purged| reached < Some(purged.index)) {
        Some(purged) => Err(OfflineError::NoState {
            path: dir.path().to_path_buf(),
            purged: purged.index,
        }),
        None => Ok(DirCheck { log, snapshot }),
    }
}
