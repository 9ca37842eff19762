//! What is done to files while no node runs: verifying and restoring backups, giving up a lost quorum.
//!
//! A backup is restored as a **new cluster**: with a cluster id, and so with a certificate authority and
//! certificates, of its own. Two histories under one cluster id could not be told apart.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rivven_raft::{NodeDir, PartialDir};
use rivven_transport::{LocalIdentity, random_bytes};
use rivven_types::{ClusterId, InstanceId, NodeId, PeerAddr};

pub use rivven_raft::{
    Backup, BackupReport, DirCheck, LogCheck, LogPlace, MAX_REFOUNDINGS, MemberPlace, REFOUNDING_GAP,
    RecoveryPlan, Refounding, RefoundingCause, verify_backup,
};

use crate::{
    ClusterConfig, StartError, clock,
    config::CheckedConfig,
    founding::{Founder, Founding, FoundingId, file},
    joining,
    state::ClusterState,
};

/// Name of the file of the founding in a data directory.
pub(crate) const FOUNDING_FILE: &str = "founding.json";

/// Name of the file in which the founding of a recovery waits until the log is changed.
const NEXT_FILE: &str = "founding.next.json";

/// Why nothing was restored or recovered. Nothing was changed unless a variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// Configuration, certificates or data directory cannot be used.
    #[error(transparent)]
    Setup(#[from] StartError),
    /// Backup, log or snapshots cannot be used.
    #[error(transparent)]
    Raft(#[from] rivven_raft::OfflineError),
    /// The certificates lie in the very directory that is to be made. Name them elsewhere.
    #[error(
        "the certificates are looked for in {}, inside the data directory that is to be made; name another place with \
         `--tls-dir`, and copy them there afterwards", path.display()
    )]
    TlsInside {
        /// The TLS directory.
        path: PathBuf,
    },
    /// Nothing says how others reach this node. Set `cluster.advertise_address`, or a specific `bind_address`.
    #[error(
        "the configuration does not say how other nodes reach this one; set `cluster.advertise_address`, or an address \
         of this machine as `cluster.bind_address`"
    )]
    NoAddress,
}

impl OfflineError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Setup(error) => error.code(),
            Self::Raft(error) => error.code(),
            Self::TlsInside { .. } => "restore-tls-inside",
            Self::NoAddress => "no-address",
        }
    }
}

impl From<rivven_raft::NodeDirError> for OfflineError {
    fn from(error: rivven_raft::NodeDirError) -> Self {
        Self::Raft(error.into())
    }
}

/// A backup that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its founder, whose certificate was given.
    pub node: NodeId,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// What was done, as it stands in the replicated state.
    pub refounding: Refounding,
}

/// A quorum that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// What was done, as it stands in the replicated state.
    pub refounding: Refounding,
    /// The founding by which the node knows its cluster from here on.
    pub founding: InstanceId,
}

/// Makes a new cluster of one node from a backup: the node that `config` describes, with the certificates that
/// it names. Start the node then; it leads alone, and others join it as usual.
///
/// The data directory must not exist or be empty. It is made beside its place, under a name that ends in
/// `.partial`, and appears whole or not at all; an interrupted restore is repeated. Nodes of the old cluster that
/// the state mentions are shut out by their data directories, and the controller gives their partitions away as
/// those of lost disks. Blocks for about as long as reading and writing the backup twice takes.
///
/// # Errors
/// [`OfflineError`]; nothing is left behind.
pub async fn restore(config: ClusterConfig, backup: &Path) -> Result<Restored, OfflineError> {
    let config = config.check().map_err(StartError::from)?;
    if config.tls_dir.starts_with(&config.data_dir) {
        return Err(OfflineError::TlsInside { path: config.tls_dir });
    }
    let (identity, _) = joining::load(&config)?;
    let addr = address(&config).ok_or(OfflineError::NoAddress)?;
    let (cluster, node) = (identity.cluster(), identity.node());
    // What is wrong with the backup is said before anything is made.
    verify_backup(backup)?;
    let random = random_bytes().map_err(StartError::from)?;
    let partial = PartialDir::create(&config.data_dir, cluster, node, random)?;
    let refounding = restore_into(partial.dir(), addr, backup).await?;
    partial.finish()?;
    Ok(Restored {
        cluster,
        node,
        data_dir: config.data_dir,
        refounding,
    })
}

async fn restore_into(dir: &NodeDir, addr: PeerAddr, backup: &Path) -> Result<Refounding, OfflineError> {
    let founder = rivven_raft::RestoreAs {
        addr: addr.clone(),
        features: BTreeMap::new(),
        at_ms: clock::unix_ms(),
    };
    let refounding = rivven_raft::restore_backup::<ClusterState>(backup, dir, founder).await?;
    found(dir, FOUNDING_FILE, addr, None)?;
    Ok(refounding)
}

/// Checks every byte that the node in `data_dir` needs for a start: founding, log and newest snapshot. Changes
/// nothing. The node must not run. Blocks, for about a second per million log entries and 300 MB of snapshot.
///
/// # Errors
/// [`OfflineError`] says what is damaged or missing.
pub fn check(data_dir: &Path) -> Result<DirCheck, OfflineError> {
    let dir = NodeDir::open_existing(data_dir)?;
    file::read(&data_dir.join(FOUNDING_FILE), &local(&dir))?;
    Ok(rivven_raft::check_dir(&dir)?)
}

/// Says what a recovery of the node in `data_dir` would do. Changes nothing. Blocks.
///
/// # Errors
/// It cannot be done; [`OfflineError`] says why.
pub fn plan_recovery(data_dir: &Path) -> Result<RecoveryPlan, OfflineError> {
    let dir = NodeDir::open_existing(data_dir)?;
    // A founding that cannot be read is in the way of a recovery.
    file::read(&data_dir.join(FOUNDING_FILE), &local(&dir))?;
    Ok(rivven_raft::plan_recovery(&dir)?)
}

/// Gives up every member of a cluster but the node in `data_dir`, and makes its log the truth. For when a majority
/// of the voters is lost **for good**: what was committed without this node is lost with them.
///
/// The node leads alone once it is started. Every other member is shut out by its data directory, and joins again
/// with an empty one; one that comes back as it was is told `cluster-recovered`. Cluster id and certificates stay.
/// What was done stands in the replicated state ([`Cluster::refoundings`](crate::Cluster::refoundings)), in
/// `founding.json`, and in the log. Interrupted before the log is changed, it was never begun; after that, the next
/// start of the node ends it. Blocks.
///
/// # Errors
/// [`OfflineError`]; nothing was changed, unless the cause is the disk's: repeat it.
pub async fn recover(data_dir: &Path) -> Result<Recovered, OfflineError> {
    let dir = NodeDir::open_existing(data_dir)?;
    settle(&dir)?;
    let plan = rivven_raft::plan_recovery(&dir)?;
    let before = file::read(&data_dir.join(FOUNDING_FILE), &local(&dir))?;
    let own = plan.members.iter().find(|member| member.node == plan.node);
    let addr = own.map(|own| own.addr.clone());
    let addr = addr.ok_or(rivven_raft::OfflineError::NoMember { node: plan.node })?;
    // A node that goes on alone must never do so under the founding of those it gave up, nor one that does not under
    // another founding than theirs. So the founding is there before the log is changed, and counts after it.
    let founding = found(&dir, NEXT_FILE, addr, before.as_ref())?;
    let refounding = rivven_raft::recover(&dir, clock::unix_ms()).await?;
    settle(&dir)?;
    tracing::warn!(
        node_id = plan.node,
        founding_id = %founding,
        before = before.as_ref().map(|before| before.id.to_string()),
        "the node has founded its cluster anew"
    );
    Ok(Recovered {
        refounding,
        founding: founding.0,
    })
}

/// Brings a recovery to its end that was interrupted after it had changed the log, and forgets one that had not.
///
/// # Errors
/// The disk's, or the log cannot be read. Nothing was changed.
pub(crate) fn settle(dir: &NodeDir) -> Result<(), StartError> {
    let (next, path) = (dir.path().join(NEXT_FILE), dir.path().join(FOUNDING_FILE));
    let failed = |cause: io::Error| StartError::File {
        path: next.clone(),
        cause,
    };
    if !next.try_exists().map_err(failed)? {
        return Ok(());
    }
    let settled = match rivven_raft::plan_recovery(dir) {
        // The log has this node as its only voter: it is changed.
        Err(rivven_raft::OfflineError::NotNeeded { .. }) => file::replace(&next, &path),
        Ok(_) => fs::remove_file(&next),
        Err(error) => Err(io::Error::other(error)),
    };
    settled.map_err(failed)
}

/// Writes the founding by which the node in `dir` goes on alone.
fn found(
    dir: &NodeDir,
    name: &str,
    addr: PeerAddr,
    before: Option<&Founding>,
) -> Result<FoundingId, StartError> {
    let id = FoundingId::from_random(random_bytes()?);
    let founder = Founder {
        instance: dir.instance(),
        addr,
    };
    let founding = Founding::recovered(id, (dir.node(), founder), before);
    let path = dir.path().join(name);
    file::write(&path, &local(dir), &founding).map_err(|cause| StartError::File { path, cause })?;
    Ok(id)
}

const fn local(dir: &NodeDir) -> LocalIdentity {
    LocalIdentity {
        cluster: dir.cluster(),
        node: dir.node(),
        instance: dir.instance(),
        boot_epoch: dir.boot_epoch(),
    }
}

/// How others reach a node, as far as its configuration says so.
fn address(config: &CheckedConfig) -> Option<PeerAddr> {
    if let Some(addr) = &config.advertise_address {
        return Some(addr.clone());
    }
    let bound = config.bind_address;
    if !bound.ip().is_unspecified() {
        return Some(bound.into());
    }
    // A cluster of one is seen by nobody, and nobody needs to reach it.
    let alone = std::net::SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), bound.port());
    config.peers.is_empty().then(|| alone.into())
}
