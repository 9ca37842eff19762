//! The directory of a snapshot store: names of files, and what becomes of those that are no use.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use openraft::{RaftTypeConfig, type_config::alias::SnapshotMetaOf};
use rivven_types::ClusterId;

use super::{error::SnapshotError, file::SnapshotFile};
use crate::codec::EntryCodec;

/// Damaged files kept for whoever wants to know what happened.
const DAMAGED_KEPT: usize = 2;

/// Ends of file names.
pub(super) const WHOLE: &str = "snapshot";
pub(super) const DAMAGED: &str = "damaged";
const UNFINISHED: &str = "tmp";

/// Name of a snapshot file. Ordered by what it covers, then by when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) index: u64,
    pub(super) number: u64,
}

impl Name {
    pub(super) fn file(self, end: &str) -> String {
        format!("{:020}-{:010}.{end}", self.index, self.number)
    }

    /// The name of a file that ends in `end`.
    fn parse(file: &str, end: &str) -> Option<Self> {
        let stem = file.strip_suffix(end)?.strip_suffix('.')?;
        let (index, number) = stem.split_once('-')?;
        Some(Self {
            index: index.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

/// A file that goes away with this value, unless it was kept.
pub(super) struct Unfinished {
    pub(super) path: PathBuf,
    kept: bool,
}

impl Unfinished {
    /// Creates `name` in `dir`.
    pub(super) fn create(dir: &Path, name: Name) -> Result<(Self, File), SnapshotError> {
        let path = dir.join(name.file(UNFINISHED));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&path) {
            Ok(file) => Ok((Self { path, kept: false }, file)),
            Err(source) => Err(SnapshotError::Io { path, source }),
        }
    }

    /// The file has another name and owner.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    pub(super) fn io(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // What is left over is removed when the store is opened next.
            drop(fs::remove_file(&self.path));
        }
    }
}

pub(super) fn index_of<C: RaftTypeConfig>(meta: &SnapshotMetaOf<C>) -> u64 {
    meta.last_log_id.as_ref().map_or(0, |id| id.index)
}

/// Verifies a file, and that it is of this cluster.
pub(super) fn open_file<C: RaftTypeConfig, K: EntryCodec<C>>(
    path: &Path,
    expected: ClusterId,
) -> Result<SnapshotFile<C>, SnapshotError> {
    let snapshot = SnapshotFile::<C>::open::<K>(path)?;
    if snapshot.cluster() == expected {
        return Ok(snapshot);
    }
    Err(SnapshotError::Foreign {
        path: path.to_path_buf(),
        expected,
        found: snapshot.cluster(),
    })
}

/// Why a snapshot must be set aside; an error that an operator has to cure instead is handed back.
///
/// A file that opens but cannot be read lies on bad sectors, which no retry heals: the older snapshot takes
/// its place. One that does not even open has wrong permissions, or the process has too many files.
pub(super) fn unusable(path: &Path, error: SnapshotError) -> Result<String, SnapshotError> {
    match error {
        SnapshotError::Damaged { detail, .. } => Ok(detail),
        SnapshotError::Io { source, .. } if File::open(path).is_ok() => {
            Ok(format!("it cannot be read: {source}"))
        }
        SnapshotError::Io { .. }
        | SnapshotError::NewerFormat { .. }
        | SnapshotError::Foreign { .. }
        | SnapshotError::TooOld { .. }
        | SnapshotError::Busy
        | SnapshotError::Encode(_) => Err(error),
    }
}

pub(super) struct Found {
    /// From the oldest to the newest.
    pub(super) whole: Vec<Name>,
    /// A number that no file has.
    pub(super) next: u64,
}

/// Lists the snapshots; removes what was never finished, and damaged files beyond the newest few.
pub(super) fn scan(dir: &Path) -> Result<Found, SnapshotError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        |source| SnapshotError::Io { path, source }
    };
    let (mut whole, mut damaged, mut next) = (Vec::new(), Vec::new(), 0);
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if Name::parse(name, UNFINISHED).is_some() {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(at(&path))?;
        } else if let Some(found) = Name::parse(name, WHOLE) {
            whole.push(found);
            next = found.number.saturating_add(1).max(next);
        } else if let Some(found) = Name::parse(name, DAMAGED) {
            damaged.push(found);
            next = found.number.saturating_add(1).max(next);
        }
    }
    damaged.sort_unstable();
    let surplus = damaged.len().saturating_sub(DAMAGED_KEPT);
    for name in damaged.into_iter().take(surplus) {
        let path = dir.join(name.file(DAMAGED));
        fs::remove_file(&path).map_err(at(&path))?;
    }
    whole.sort_unstable();
    Ok(Found { whole, next })
}

/// Lists the snapshots, from the oldest to the newest, and leaves all as it is. None where there is no directory.
pub(super) fn whole(dir: &Path) -> Result<Vec<Name>, SnapshotError> {
    let at = |source| SnapshotError::Io {
        path: dir.to_path_buf(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(at)?.file_name();
        names.extend(name.to_str().and_then(|name| Name::parse(name, WHOLE)));
    }
    names.sort_unstable();
    Ok(names)
}
