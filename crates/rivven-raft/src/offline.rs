//! What is done while no node runs: a backup is verified and restored, and a lost quorum given up.
//!
//! Both a restore and a recovery end in the same two entries, written to the log in one transaction: a
//! membership with one voter, and the command that says so in the replicated state and shuts everybody else
//! out. They are committed by declaration. The term jumps, so that no entry and no fencing token of the
//! history that was given up has a twin in the one that goes on.

mod log;
mod recover;
mod report;
mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use bytes::Bytes;
use openraft::{
    EntryPayload,
    storage::{RaftLogStorage, RaftLogStorageExt},
};
use rivven_raft_store::{NodeDirError, SnapshotError, StoreError};
use rivven_types::{ClusterId, InstanceId, NodeId, PeerAddr};

pub use self::{
    log::{DirCheck, LogCheck, check_dir, verify_log},
    recover::{RecoveryPlan, plan_recovery, recover},
    report::{BackupReport, LogPlace, MemberPlace, verify_backup},
    restore::{RestoreAs, restore_backup},
};
use crate::{
    Refounding,
    system::{Refound, SystemCommand},
    types::{
        LogCommand, LogEntry, LogId, Membership, NAMESPACE_SYSTEM, Seat, StoredMembership, TypeConfig,
        log_id, term_of, vote,
    },
};

/// By how much the term jumps: more often than this no group has elected a leader without the survivor knowing.
///
/// Few enough that many refoundings stay below the 2^20 beyond which a ring of gossip keys, whose version begins with
/// the term, is taken for a lie by a node that has none.
const TERM_GAP: u64 = 1 << 14;

/// Why a backup cannot be used, or a group not be made of one. Nothing was changed unless a variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The backup cannot be read. Check the path and its permissions.
    #[error("cannot read the backup {}: {source}; check the path, its permissions and the disk", path.display())]
    BackupUnreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The backup is damaged or incomplete. Use another copy of it, or an older one.
    #[error("the backup {} is damaged: {detail}; use another copy of it, or an older backup", path.display())]
    BackupDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The backup is whole, and this release cannot make a state of it. Use the release that made it, or a
    /// newer one.
    #[error("the backup {} is whole, but this release cannot restore it: {cause}; use the release that made it, or a newer one", path.display())]
    BackupNotUnderstood {
        /// The file.
        path: PathBuf,
        /// What the state said.
        cause: String,
    },
    /// The backup is of the very cluster that it is to be restored as. Two histories of one cluster id must
    /// never exist: make another cluster with certificates of its own, or recover the one there is.
    #[error("the backup {} is of cluster {cluster}, and so are these certificates: a restore makes a new cluster; make certificates for it with `rivven-node cert init`", path.display())]
    SameCluster {
        /// The file.
        path: PathBuf,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Dir(#[from] NodeDirError),
    /// A snapshot in the data directory cannot be read or written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log in the data directory cannot be read or written.
    #[error(transparent)]
    Log(#[from] StoreError),
    /// The snapshots of the data directory do not reach its log, so that its state cannot be had. Recover
    /// another survivor, or restore a backup.
    #[error("no whole snapshot in {} reaches its log, which begins behind entry {purged}; recover another survivor, or restore a backup", path.display())]
    NoState {
        /// The directory.
        path: PathBuf,
        /// The last entry that is in no file.
        purged: u64,
    },
    /// The node is no member of any group by its own log: it never joined, or was removed.
    #[error("node {node} is no member by its own log; recover a node that was")]
    NoMember {
        /// The node.
        node: NodeId,
    },
    /// The node is the only voter already, so no quorum is lost. Start it.
    #[error("node {node} is the only voter by its own log, so it needs nobody else; start it")]
    NotNeeded {
        /// The node.
        node: NodeId,
    },
}

impl OfflineError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BackupUnreadable { .. } => "backup-unreadable",
            Self::BackupDamaged { .. } => "backup-damaged",
            Self::BackupNotUnderstood { .. } => "backup-not-understood",
            Self::SameCluster { .. } => "restore-same-cluster",
            Self::Dir(error) => error.code(),
            Self::Snapshot(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::NoState { .. } => "recover-no-state",
            Self::NoMember { .. } => "recover-no-member",
            Self::NotNeeded { .. } => "recover-not-needed",
        }
    }
}

/// Everybody who votes in a membership, in either half of one that is changing.
fn voters(stored: &StoredMembership) -> BTreeSet<NodeId> {
    stored.membership().voter_ids().collect()
}

/// The one who goes on, and where.
struct Sole {
    node: NodeId,
    instance: InstanceId,
    addr: PeerAddr,
}

/// Appends the entries that begin the group anew behind `last`, committed, in one transaction.
async fn append_refounding<L: RaftLogStorage<TypeConfig>>(
    log: &mut L,
    (last, voted_term): (LogId, u64),
    sole: Sole,
    before: &StoredMembership,
    record: Refounding,
) -> io::Result<()> {
    let term = term_of(&last).max(voted_term).saturating_add(TERM_GAP);
    let lost = before.membership().nodes();
    let lost: BTreeMap<NodeId, Option<InstanceId>> = lost
        .filter(|(node, seat)| **node != sole.node || seat.instance.is_some_and(|disk| disk != sole.instance))
        .map(|(node, seat)| (*node, seat.instance))
        .collect();
    let seat = Seat {
        addr: sole.addr.clone(),
        instance: Some(sole.instance),
    };
    let configs = vec![BTreeSet::from([sole.node])];
    let membership =
        Membership::new(configs, BTreeMap::from([(sole.node, seat)])).map_err(io::Error::other)?;
    let refound = Refound {
        record,
        addr: sole.addr,
        lost,
    };
    let command = SystemCommand::Refound(Box::new(refound));
    let body = postcard::to_allocvec(&command).map_err(io::Error::other)?;
    let command = LogCommand {
        namespace: NAMESPACE_SYSTEM,
        body: Bytes::from(body),
    };
    let id = |behind| log_id(term, last.index.saturating_add(behind));
    let entries = vec![
        LogEntry {
            log_id: id(1),
            payload: EntryPayload::Membership(membership),
        },
        LogEntry {
            log_id: id(2),
            payload: EntryPayload::Normal(command),
        },
    ];
    log.save_vote(&vote(term, sole.node, false)).await?;
    // The id waits for company and is written with the entries: a committed id without them, as without it a
    // membership that nobody may act on yet, would be half a change.
    let committed = log.read_committed().await?;
    log.save_committed(Some(id(2))).await?;
    if let Err(error) = log.blocking_append(entries).await {
        log.save_committed(committed).await?;
        return Err(io::Error::other(error));
    }
    Ok(())
}
