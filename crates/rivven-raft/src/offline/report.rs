//! What a backup says about itself, and whether it is whole.

use std::{collections::BTreeMap, fmt, path::Path};

use rivven_raft_store::{SnapshotError, SnapshotFile};
use rivven_types::{ClusterId, InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use super::{OfflineError, voters};
use crate::{
    Digest, Refounding,
    codec::LogCodec,
    system::{Features, System},
    types::{LogId, StoredMembership, TypeConfig, term_of},
};

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPlace {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

impl LogPlace {
    pub(super) fn of(id: &LogId) -> Self {
        Self {
            term: term_of(id),
            index: id.index,
        }
    }
}

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of term {}", self.index, self.term)
    }
}

/// A member, as a membership in a log or a snapshot has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberPlace {
    /// The node.
    pub node: NodeId,
    /// Where it was reached when it became a member.
    pub addr: PeerAddr,
    /// The data directory it is bound to, if that was known.
    pub instance: Option<InstanceId>,
    /// Whether it votes.
    pub votes: bool,
}

/// The members of a membership, by node id.
pub(super) fn members(stored: &StoredMembership) -> Vec<MemberPlace> {
    let voters = voters(stored);
    let members = stored.membership().nodes().map(|(node, seat)| MemberPlace {
        node: *node,
        addr: seat.addr.clone(),
        instance: seat.instance,
        votes: voters.contains(node),
    });
    members.collect()
}

/// What a backup says about itself. It is whole: every byte of it was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Bytes of the file.
    pub bytes: u64,
    /// CRC32C of all of them.
    pub crc32c: u32,
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The last entry in it.
    pub last: LogPlace,
    /// Who belonged to the group there.
    pub members: Vec<MemberPlace>,
    /// The feature levels that were finalised: what a release must support to restore it.
    pub levels: BTreeMap<String, u32>,
    /// How many client sessions were open.
    pub sessions: usize,
    /// The log time, in milliseconds.
    pub log_time_ms: u64,
    /// What was applied and answered up to there, in one number.
    pub digest: Option<Digest>,
    /// How often and why the group began anew before, the last first.
    pub refoundings: Vec<Refounding>,
}

/// Reads all of a backup and checks every checksum in it. Changes nothing, needs no node, and has no more than
/// some hundred kilobytes of it in memory. Blocks.
///
/// Whether this release and this application can make a state of it is found out by a restore, which does so
/// before anything is in place.
///
/// # Errors
/// The file cannot be read, is damaged, or was written by a newer release.
pub fn verify_backup(file: &Path) -> Result<BackupReport, OfflineError> {
    open(file).map(|(_, report)| report)
}

pub(super) fn open(path: &Path) -> Result<(SnapshotFile<TypeConfig>, BackupReport), OfflineError> {
    let file = SnapshotFile::open::<LogCodec>(path).map_err(|error| of_backup(error, path))?;
    let damaged = |detail: &str| OfflineError::BackupDamaged {
        path: path.to_path_buf(),
        detail: detail.to_owned(),
    };
    let decoded = System::decode(Features::of_anybody(), &mut file.content());
    let system = decoded.map_err(|error| OfflineError::BackupNotUnderstood {
        path: path.to_path_buf(),
        cause: error.to_string(),
    })?;
    let meta = file.meta();
    let last = meta.last_log_id.as_ref();
    let last = last.ok_or_else(|| damaged("it is of a group that has not begun"))?;
    let mut refoundings: Vec<Refounding> = system.refoundings.iter().cloned().collect();
    refoundings.reverse();
    let report = BackupReport {
        bytes: file.transfer_len(),
        crc32c: file.transfer().checksum,
        cluster: file.cluster(),
        last: LogPlace::of(last),
        members: members(&meta.last_membership),
        levels: system.features.finalized().clone(),
        sessions: system.sessions.lens().0,
        log_time_ms: system.log_time_ms,
        digest: system.chain.last(),
        refoundings,
    };
    Ok((file, report))
}

/// What is wrong with a snapshot that is a backup, which no peer replaces.
fn of_backup(error: SnapshotError, path: &Path) -> OfflineError {
    let path = path.to_path_buf();
    match error {
        SnapshotError::Io { source, .. } => OfflineError::BackupUnreadable { path, source },
        SnapshotError::Damaged { detail, .. } => OfflineError::BackupDamaged { path, detail },
        other => OfflineError::Snapshot(other),
    }
}
