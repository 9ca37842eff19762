//! [`PartialDir`]: a data directory in the making, which appears whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rivven_types::{ClusterId, NodeId};

use super::{LOCK_FILE, NodeDir, NodeDirError, holds_files, lock};
use crate::durable;

/// End of the name of a directory in the making.
const PARTIAL: &str = "partial";

/// A data directory that is being made beside its place, under a name that ends in `.partial`.
///
/// [`Self::finish`] gives it its name. Dropped before that, it is removed; what a process that was killed has
/// left is removed by the next attempt. One process at a time makes a directory.
#[derive(Debug)]
pub struct PartialDir {
    // Before the directory, which holds the lock: what is removed is removed under it.
    making: Making,
    dir: NodeDir,
    target: PathBuf,
}

/// Removes what was made when it is dropped, unless that has its name.
#[derive(Debug)]
struct Making {
    path: PathBuf,
    named: bool,
}

impl PartialDir {
    /// Begins the directory of `node` in `cluster` that is to be at `target`, which must not exist or be
    /// empty. `random` becomes its instance id.
    ///
    /// # Errors
    /// [`NodeDirError::NotEmpty`], [`NodeDirError::Locked`] while another process makes the same directory,
    /// and those of the disk.
    pub fn create(
        target: impl AsRef<Path>,
        cluster: ClusterId,
        node: NodeId,
        random: [u8; 16],
    ) -> Result<Self, NodeDirError> {
        // Without a slash at the end, behind which the other name would be one inside.
        let target: PathBuf = target.as_ref().components().collect();
        if target.file_name().is_none() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the path ends in no name");
            return Err(NodeDirError::NotWritable { path: target, source });
        }
        refuse_full(&target)?;
        let path = beside(&target);
        let lock = lock(&path)?;
        clear(&path).map_err(|source| NodeDirError::NotWritable {
            path: path.clone(),
            source,
        })?;
        let dir = NodeDir::open_locked(path.clone(), lock, (cluster, node), random)?;
        let making = Making { path, named: false };
        Ok(Self { making, dir, target })
    }

    /// The directory in the making.
    #[must_use]
    pub const fn dir(&self) -> &NodeDir {
        &self.dir
    }

    /// Where it is until it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.making.path
    }

    /// Gives the directory its name, durably. Every file in it must be closed and synced.
    ///
    /// # Errors
    /// The directory at the target is not empty any more, or cannot be replaced because something is mounted
    /// there: name a directory below it. What was made is removed.
    pub fn finish(self) -> Result<(), NodeDirError> {
        // What comes last is dropped first, see above.
        let Self {
            dir,
            target,
            mut making,
        } = self;
        refuse_full(&target)?;
        // Windows renames no directory in which a file is open; elsewhere the lock keeps others out meanwhile.
        if cfg!(windows) {
            drop(dir);
            drop(fs::remove_dir(&target));
        }
        let renamed = durable::sync_dir(&making.path).and_then(|()| durable::rename(&making.path, &target));
        renamed.map_err(|source| NodeDirError::NotWritable {
            path: target.clone(),
            source,
        })?;
        making.named = true;
        Ok(())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.named {
            // What is left over is removed by the next attempt.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// The name beside `target`, on the same file system unless that is the top of one.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".");
    name.push(PARTIAL);
    PathBuf::from(name)
}

fn refuse_full(target: &Path) -> Result<(), NodeDirError> {
    if holds_files(target) {
        let path = target.to_path_buf();
        return Err(NodeDirError::NotEmpty { path });
    }
    Ok(())
}

/// Removes what an earlier attempt has left, but for the lock that this one holds.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn create(target: &Path) -> Result<PartialDir, NodeDirError> {
        PartialDir::create(target, CLUSTER, 1, [1; 16])
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_finished_directory_has_its_name_and_opens_as_the_node() {
        let root = tempfile::tempdir().unwrap();
        for (target, exists) in [("new", false), ("empty/", true)] {
            let target = root.path().join(target);
            if exists {
                fs::create_dir(&target).unwrap();
            }
            let partial = create(&target).unwrap();
            let instance = partial.dir().instance();
            assert!(!holds_files(&target));
            partial.finish().unwrap();
            let dir = NodeDir::open(&target, CLUSTER, 1, [2; 16]).unwrap();
            assert_eq!(dir.instance(), instance);
        }
        assert_eq!(names(root.path()), ["empty", "new"]);
    }

    #[test]
    fn a_directory_that_was_given_up_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(create(&root.path().join("data")).unwrap());
        assert_eq!(names(root.path()), Vec::<String>::new());
    }

    #[test]
    fn what_a_killed_process_left_is_cleared_by_the_next_attempt() {
        let root = tempfile::tempdir().unwrap();
        let (target, left) = (root.path().join("data"), root.path().join("data.partial"));
        fs::create_dir_all(left.join("snapshots")).unwrap();
        fs::write(left.join("log.redb"), "half").unwrap();
        fs::write(left.join("snapshots/1.tmp"), "half").unwrap();
        create(&target).unwrap().finish().unwrap();
        assert_eq!(names(root.path()), ["data"]);
        assert_eq!(names(&target), ["identity.json", "lock"]);
    }

    #[test]
    fn a_directory_with_files_is_left_alone_and_two_attempts_do_not_meet() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("data");
        let first = create(&target).unwrap();
        let code = |made: Result<PartialDir, NodeDirError>| made.map(drop).unwrap_err().code();
        assert_eq!(code(create(&target)), "data-dir-locked");
        // Somebody else is faster.
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "theirs").unwrap();
        assert_eq!(first.finish().unwrap_err().code(), "data-dir-not-empty");
        assert_eq!(code(create(&target)), "data-dir-not-empty");
        assert_eq!(names(root.path()), ["data"]);
        assert_eq!(code(create(Path::new(".."))), "data-dir-not-writable");
    }

    #[test]
    fn a_directory_is_opened_as_whoever_it_belongs_to() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let code = |opened: Result<NodeDir, NodeDirError>| opened.map(drop).unwrap_err().code();
        assert_eq!(code(NodeDir::open_existing(&path)), "data-dir-empty");
        assert!(!path.exists());
        let running = NodeDir::open(&path, CLUSTER, 3, [3; 16]).unwrap();
        assert_eq!(code(NodeDir::open_existing(&path)), "data-dir-locked");
        let known = (running.node(), running.instance(), running.boot_epoch());
        drop(running);
        let dir = NodeDir::open_existing(&path).unwrap();
        assert_eq!((dir.node(), dir.instance(), dir.boot_epoch()), known);
        drop(dir);
        fs::remove_file(path.join("identity.json")).unwrap();
        assert_eq!(code(NodeDir::open_existing(&path)), "data-dir-empty");
        fs::write(path.join("log.redb"), "").unwrap();
        assert_eq!(code(NodeDir::open_existing(&path)), "data-dir-identity-missing");
    }
}
