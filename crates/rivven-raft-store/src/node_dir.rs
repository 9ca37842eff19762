//! [`NodeDir`]: the data directory of one node, and who that node is.

mod identity;
mod partial;
mod room;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::future::BoxFuture;
use openraft::RaftTypeConfig;
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};

use self::identity::{IDENTITY_VERSION, Identity};
pub use self::partial::PartialDir;
use crate::{
    EntryCodec, LogOptions, LogOwner, RedbLogStore, SimulatedDisk, SnapshotError, SnapshotStore, StoreError,
    durable, error::REPLACE,
};

/// Names of files in the directory.
const LOG_FILE: &str = "log.redb";
const IDENTITY_FILE: &str = "identity.json";
const PROBE_FILE: &str = "room.probe";
const LOCK_FILE: &str = "lock";

/// The data directory of one node, held by one process at a time.
///
/// Opening takes the lock, checks that the directory belongs to this node of this cluster, and counts the
/// boot epoch up durably. The lock lasts as long as the value: keep it until every file below is closed.
///
/// ```
/// use rivven_raft_store::NodeDir;
/// use rivven_types::ClusterId;
///
/// # let parent = tempfile::tempdir()?;
/// # let path = parent.path().join("1");
/// let cluster = ClusterId::from_random([7; 16]);
/// let random = [42; 16]; // from the operating system
/// let first = NodeDir::open(&path, cluster, 1, random)?;
/// let instance = first.instance();
/// assert_eq!(first.boot_epoch().0, 1);
/// drop(first);
///
/// let second = NodeDir::open(&path, cluster, 1, random)?;
/// assert_eq!(second.instance(), instance);
/// assert_eq!(second.boot_epoch().0, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NodeDir {
    path: PathBuf,
    cluster: ClusterId,
    node: NodeId,
    instance: InstanceId,
    boot_epoch: BootEpoch,
    /// Whether the log was created, and must be there from then on.
    has_log: AtomicBool,
    /// Holds the lock until it is dropped.
    _lock: File,
}

/// Why a data directory could not be opened. Nothing in it was changed unless a variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeDirError {
    /// The directory or a file in it cannot be created or written. Retry once that is possible.
    #[error("cannot write to the data directory {}: {source}; make it writable for this user, or choose another data_dir", path.display())]
    NotWritable {
        /// What could not be written.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file in the directory cannot be read. Retry once it can.
    #[error("cannot read {}: {source}; make it readable for this user", path.display())]
    NotReadable {
        /// What could not be read.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process has the directory open. Retry once it has ended.
    #[error("the data directory {} is in use by another process; stop that process, or give this node its own data_dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to a node of another cluster. Retrying cannot help.
    #[error("the data directory {} belongs to cluster {found}, but this node is of cluster {expected}; use the certificates of that cluster, or another data_dir", path.display())]
    ForeignCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster of this node.
        expected: ClusterId,
        /// The cluster that owns the directory.
        found: ClusterId,
    },
    /// The directory belongs to another node of this cluster. Retrying cannot help.
    #[error("the data directory {} belongs to node {found}, but this is node {expected}; set node_id to {found}, or use another data_dir", path.display())]
    ForeignNode {
        /// The directory.
        path: PathBuf,
        /// This node.
        expected: NodeId,
        /// The node that owns the directory.
        found: NodeId,
    },
    /// There is no node in the directory. Check the path.
    #[error("there is no node in {}; name the data directory of a node that has run", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// A node was to be made in a directory that is not empty. Retrying cannot help.
    #[error("{} is not empty; name a directory that does not exist yet, or move what is there away", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// There is a log, but nothing says whose it is. Retrying cannot help.
    #[error("{} is missing beside an existing log, so nobody can say whose log it is; restore the file from a backup, or {REPLACE}", path.display())]
    IdentityMissing {
        /// The identity file.
        path: PathBuf,
    },
    /// The identity file is not what this node wrote. Retrying cannot help.
    #[error("{} is damaged ({reason}); restore it from a backup, or {REPLACE}", path.display())]
    IdentityDamaged {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer release wrote the identity file. Retrying cannot help.
    #[error("{} has format version {found}, this build reads up to {IDENTITY_VERSION}; run the release that wrote it, or a newer one", path.display())]
    NewerFormat {
        /// The identity file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
}

impl NodeDirError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotWritable { .. } => "data-dir-not-writable",
            Self::NotReadable { .. } => "data-dir-not-readable",
            Self::Locked { .. } => "data-dir-locked",
            Self::ForeignCluster { .. } => "data-dir-foreign-cluster",
            Self::ForeignNode { .. } => "data-dir-foreign-node",
            Self::Empty { .. } => "data-dir-empty",
            Self::NotEmpty { .. } => "data-dir-not-empty",
            Self::IdentityMissing { .. } => "data-dir-identity-missing",
            Self::IdentityDamaged { .. } => "data-dir-identity-damaged",
            Self::NewerFormat { .. } => "data-dir-newer-format",
        }
    }
}

impl NodeDir {
    /// Opens the directory of `node` in `cluster`, creating it if need be.
    ///
    /// `random` becomes the instance id if the directory is new; take it from the operating system. Blocks
    /// for two syncs of small files.
    ///
    /// # Errors
    /// Each [`NodeDirError`] says what to do. A directory of another owner is left as it is.
    pub fn open(
        path: impl AsRef<Path>,
        cluster: ClusterId,
        node: NodeId,
        random: [u8; 16],
    ) -> Result<Self, NodeDirError> {
        let path = path.as_ref().to_path_buf();
        let lock = lock(&path)?;
        Self::open_locked(path, lock, (cluster, node), random)
    }

    /// Opens the directory of whichever node it is, to look at it or to mend it while that node does not run.
    ///
    /// Nothing is changed: nobody connects as this node, so the boot epoch stays.
    ///
    /// # Errors
    /// [`NodeDirError::Empty`] where no node has run, [`NodeDirError::Locked`] while one does, and what is
    /// wrong with its identity.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self, NodeDirError> {
        let path = path.as_ref().to_path_buf();
        if !path.is_dir() || !holds_files(&path) {
            return Err(NodeDirError::Empty { path });
        }
        let lock = lock(&path)?;
        let identity_path = path.join(IDENTITY_FILE);
        match Identity::read(&identity_path)? {
            Some(identity) => Ok(Self::of(path, lock, &identity)),
            None if path.join(LOG_FILE).exists() => {
                Err(NodeDirError::IdentityMissing { path: identity_path })
            }
            None => Err(NodeDirError::Empty { path }),
        }
    }

    fn open_locked(
        path: PathBuf,
        lock: File,
        (cluster, node): (ClusterId, NodeId),
        random: [u8; 16],
    ) -> Result<Self, NodeDirError> {
        // Left behind by a process that ended while it looked for room.
        drop(fs::remove_file(path.join(PROBE_FILE)));
        let identity_path = path.join(IDENTITY_FILE);
        let mut identity = match Identity::read(&identity_path)? {
            Some(identity) => identity,
            None if path.join(LOG_FILE).exists() => {
                return Err(NodeDirError::IdentityMissing { path: identity_path });
            }
            None => Identity {
                cluster,
                node,
                instance: InstanceId::from_random(random),
                boot_epoch: BootEpoch(0),
                has_log: false,
            },
        };
        if identity.cluster != cluster {
            let found = identity.cluster;
            return Err(NodeDirError::ForeignCluster {
                path,
                expected: cluster,
                found,
            });
        }
        if identity.node != node {
            let found = identity.node;
            return Err(NodeDirError::ForeignNode {
                path,
                expected: node,
                found,
            });
        }
        identity.boot_epoch = identity.boot_epoch.next();
        identity.write(&identity_path)?;
        Ok(Self::of(path, lock, &identity))
    }

    const fn of(path: PathBuf, lock: File, identity: &Identity) -> Self {
        Self {
            path,
            cluster: identity.cluster,
            node: identity.node,
            instance: identity.instance,
            boot_epoch: identity.boot_epoch,
            has_log: AtomicBool::new(identity.has_log),
            _lock: lock,
        }
    }

    /// Opens the log of this node, creating it the first time.
    ///
    /// `options.owner` is set to this node. A log that was there once and is gone is an error, not a new
    /// log: a node that forgot its vote could elect a second leader.
    ///
    /// # Errors
    /// [`StoreError::Missing`], and those of [`RedbLogStore::open`].
    pub fn open_log<C, K>(&self, mut options: LogOptions) -> Result<RedbLogStore<C, K>, StoreError>
    where
        C: RaftTypeConfig,
        K: EntryCodec<C>,
    {
        let path = self.log_path();
        self.check_log(path.exists())?;
        options.owner = Some(self.owner());
        let log = RedbLogStore::open(&path, options)?;
        self.remember_log()?;
        Ok(log)
    }

    /// Opens the log of this node on a simulated disk, creating it the first time; the rest of the directory
    /// is on the real one. The task returned has to run for anything to be written.
    ///
    /// # Errors
    /// As [`Self::open_log`].
    pub fn open_simulated_log<C, K>(
        &self,
        disk: &SimulatedDisk,
        mut options: LogOptions,
    ) -> Result<(RedbLogStore<C, K>, BoxFuture<'static, ()>), StoreError>
    where
        C: RaftTypeConfig,
        K: EntryCodec<C>,
    {
        self.check_log(!disk.is_empty())?;
        if !self.has_log.load(Ordering::Relaxed) {
            // A creation that the power interrupted, as a file that did not get its name yet.
            disk.wipe();
        }
        options.owner = Some(self.owner());
        let opened = RedbLogStore::open_simulated(disk, self.log_path(), options)?;
        self.remember_log()?;
        Ok(opened)
    }

    /// Refuses to begin a second log.
    fn check_log(&self, exists: bool) -> Result<(), StoreError> {
        let had_log = self.has_log.load(Ordering::Relaxed);
        // A snapshot, too, is made of a log.
        if !exists && (had_log || holds_files(&self.snapshots_path())) {
            let path = self.log_path();
            return Err(StoreError::Missing { path });
        }
        Ok(())
    }

    /// Makes it durable that there is a log.
    fn remember_log(&self) -> Result<(), StoreError> {
        if !self.has_log.load(Ordering::Relaxed) {
            let identity = Identity {
                cluster: self.cluster,
                node: self.node,
                instance: self.instance,
                boot_epoch: self.boot_epoch,
                has_log: true,
            };
            identity
                .write(&self.path.join(IDENTITY_FILE))
                .map_err(|error| StoreError::Open {
                    path: self.log_path(),
                    source: error.into(),
                })?;
            self.has_log.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Opens the snapshots of this node.
    ///
    /// # Errors
    /// Those of [`SnapshotStore::open`].
    pub fn open_snapshots<C, K>(&self) -> Result<SnapshotStore<C, K>, SnapshotError>
    where
        C: RaftTypeConfig,
        K: EntryCodec<C>,
    {
        SnapshotStore::open(self.snapshots_path(), self.cluster)
    }

    /// Whether this many bytes can be written beside the log, found out by writing them. Blocks.
    ///
    /// What a file system calls free is not what a process may use: quotas and blocks kept for others lie
    /// between the two. Nothing is left of what was written.
    ///
    /// # Errors
    /// The directory cannot be written for another reason than a lack of room.
    pub fn has_room(&self, bytes: u64) -> io::Result<bool> {
        room::has_room(&self.path.join(PROBE_FILE), bytes)
    }

    /// What the log says about whose it is.
    #[must_use]
    pub const fn owner(&self) -> LogOwner {
        LogOwner {
            cluster: self.cluster,
            node: self.node,
            instance: self.instance,
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log belongs.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG_FILE)
    }

    /// The directory where snapshots belong.
    #[must_use]
    pub fn snapshots_path(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// The cluster the directory belongs to.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The node the directory belongs to.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Which directory this is: the same for its whole life, another one after a lost disk.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    /// How often the directory has been opened, this time included.
    #[must_use]
    pub const fn boot_epoch(&self) -> BootEpoch {
        self.boot_epoch
    }
}

/// Creates the directory and takes its lock.
fn lock(path: &Path) -> Result<File, NodeDirError> {
    let not_writable = |path: &Path| {
        let path = path.to_path_buf();
        |source| NodeDirError::NotWritable { path, source }
    };
    durable::create_dir(path).map_err(not_writable(path))?;
    let lock_path = path.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(not_writable(&lock_path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(NodeDirError::Locked {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(not_writable(&lock_path)(source)),
    }
}

/// Whether there is a file in `dir`; one that cannot be looked into is as good as full.
fn holds_files(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut files) => files.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests;
