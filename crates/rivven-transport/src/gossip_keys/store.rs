//! The ring in the data directory, so that a cluster which starts as a whole can gossip at once.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    datagram::KeyRing,
    secret_file::{self, ReadError},
};

/// Why the ring in the data directory cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read or written. Check owner, mode and free space of the directory.
    #[error("cannot read or write the gossip keys {}: {source}; check its owner and mode", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others than the owner can read the file. Restrict it, and rotate the keys.
    #[error("the gossip keys {0} can be read by others; run `chmod 600 {0}`", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The file holds something else, or was made by a later release. Remove it: a peer has the keys.
    #[error("{} holds no gossip keys of this release; remove it, and the node gets them from a peer", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl KeyFileError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "gossip-keys-io",
            Self::Exposed { .. } => "gossip-keys-exposed",
            Self::Malformed { .. } => "gossip-keys-malformed",
        }
    }
}

/// The ring in `path`; `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<KeyRing>, KeyFileError> {
    let path_buf = || path.to_path_buf();
    match secret_file::read_secret(path) {
        Ok(text) => match KeyRing::from_text(&text) {
            Ok(ring) => Ok(Some(ring)),
            Err(_) => Err(KeyFileError::Malformed { path: path_buf() }),
        },
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(ReadError::Io(source)) => Err(KeyFileError::Io {
            path: path_buf(),
            source,
        }),
        Err(ReadError::Exposed) => Err(KeyFileError::Exposed { path: path_buf() }),
        Err(ReadError::TooLong | ReadError::NotText) => Err(KeyFileError::Malformed { path: path_buf() }),
    }
}

/// Replaces the file atomically and durably.
pub(super) fn write(path: &Path, ring: &KeyRing) -> Result<(), KeyFileError> {
    secret_file::replace_secret(path, &ring.to_text()).map_err(|source| KeyFileError::Io {
        path: path.to_path_buf(),
        source,
    })
}
