//! A new group made of a backup.

use std::{io, path::Path};

use openraft::storage::RaftLogStorage;
use rivven_raft_store::{LogOptions, NodeDir, RedbLogStore, SnapshotError, WriterMode};
use rivven_types::PeerAddr;

use super::{OfflineError, Sole, append_refounding, report::open, voters};
use crate::{
    Refounding, RefoundingCause, StateMachine,
    applied::Decoded,
    codec::LogCodec,
    system::{Features, Levels},
    types::TypeConfig,
};

/// What the founder of the new group is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreAs {
    /// Where it is reached.
    pub addr: PeerAddr,
    /// The levels of the application's features that this program supports, as given to
    /// [`RaftBuilder::feature`](crate::RaftBuilder::feature).
    pub features: Levels,
    /// The time, in milliseconds since 1970, for the record of what was done.
    pub at_ms: u64,
}

/// Makes a new group of one node in `dir` from a backup of another cluster.
///
/// Everything that was replicated is taken over: the application's state, sessions, feature levels. Its members
/// are not: the node leads alone, every other data directory of the old group is shut out, and others join as
/// usual. Numbers that serve as names or fencing tokens jump ([`REFOUNDING_GAP`](crate::REFOUNDING_GAP)).
/// The backup is decoded once for a trial, as a state of `S`. Blocks, and has one state in memory.
///
/// Give it the directory of a [`PartialDir`](crate::PartialDir), and finish that once this has succeeded: so a
/// restore that is interrupted leaves nothing that a node could be started in.
///
/// # Errors
/// The backup is damaged, of the same cluster, or not understood by this release; or the disk's. The directory
/// is of no use then.
pub async fn restore_backup<S: StateMachine>(
    file: &Path,
    dir: &NodeDir,
    founder: RestoreAs,
) -> Result<Refounding, OfflineError> {
    let (backup, report) = open(file)?;
    if report.cluster == dir.cluster() {
        return Err(OfflineError::SameCluster {
            path: file.to_path_buf(),
            cluster: report.cluster,
        });
    }
    // Whether this release and this application make a state of it.
    let features = Features::supporting(founder.features);
    let tried = Decoded::<S>::read(features, &mut backup.content());
    tried.map_err(|cause| OfflineError::BackupNotUnderstood {
        path: file.to_path_buf(),
        cause,
    })?;
    let meta = backup.meta().clone();
    let record = Refounding {
        cause: RefoundingCause::Restored,
        at_ms: founder.at_ms,
        node: dir.node(),
        instance: dir.instance(),
        cluster: report.cluster,
        voters: voters(&meta.last_membership).into_iter().collect(),
        last_term: report.last.term,
        last_index: report.last.index,
    };
    let sole = Sole {
        node: dir.node(),
        instance: dir.instance(),
        addr: founder.addr,
    };
    // The log first: a directory with a snapshot and without a log is taken for one that has lost its log.
    let options = LogOptions {
        writer: WriterMode::Inline,
        ..LogOptions::default()
    };
    let mut log: RedbLogStore<TypeConfig, LogCodec> = dir.open_log(options)?;
    let snapshots = dir.open_snapshots::<TypeConfig, LogCodec>()?;
    snapshots.write(&meta, |out| io::copy(&mut backup.content(), out).map(drop))?;
    let last = crate::types::log_id(report.last.term, report.last.index);
    let appended = async {
        log.purge(last).await?;
        append_refounding(&mut log, (last, 0), sole, &meta.last_membership, record.clone()).await
    };
    appended.await.map_err(|source| SnapshotError::Io {
        path: dir.log_path(),
        source,
    })?;
    Ok(record)
}
