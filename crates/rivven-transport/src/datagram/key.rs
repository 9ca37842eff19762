//! The group key of a cluster's gossip.

use std::{fmt, io, path::Path, path::PathBuf};

use rivven_crypto::{EntropyError, random_bytes};
use zeroize::Zeroizing;

use crate::secret_file::{self, ReadError};

/// Secret shared by the members of a cluster, under which their datagrams are sealed.
///
/// Whoever holds it can read gossip and write in any member's name. Made by `cert init`, kept in
/// `gossip.key` with mode 600, wiped from memory on drop.
#[derive(Clone)]
pub struct GossipKey(pub(super) Zeroizing<[u8; 32]>);

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipKey(redacted)")
    }
}

/// Why there is no gossip key. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GossipKeyError {
    /// The file does not exist or cannot be read. Make it with `rivven-node cert init`.
    #[error(
        "cannot read the gossip key {}: {source}; make one with `rivven-node cert init --nodes 1,2,3 --out DIR`",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others than the owner can read the file. Restrict it.
    #[error("the gossip key {0} can be read by others; run `chmod 600 {0}`", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The text is not 64 hexadecimal digits.
    #[error(
        "a gossip key is 64 hexadecimal digits; make one with `rivven-node cert init --nodes 1,2,3 --out DIR`"
    )]
    Malformed,
}

impl GossipKeyError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "gossip-key-unreadable",
            Self::Exposed { .. } => "gossip-key-exposed",
            Self::Malformed => "gossip-key-malformed",
        }
    }
}

impl GossipKey {
    /// A new key.
    ///
    /// # Errors
    /// [`EntropyError`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self, EntropyError> {
        random_bytes().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// A key from bytes that the caller has drawn, for tests and simulation.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a key file as written by `cert init`.
    ///
    /// # Errors
    /// [`GossipKeyError`]: the file is missing, exposed to others, or not a key.
    pub fn load(path: &Path) -> Result<Self, GossipKeyError> {
        let path_buf = || path.to_path_buf();
        match secret_file::read_secret(path) {
            Ok(text) => Self::from_text(&text),
            Err(ReadError::Io(source)) => Err(GossipKeyError::Unreadable {
                path: path_buf(),
                source,
            }),
            Err(ReadError::Exposed) => Err(GossipKeyError::Exposed { path: path_buf() }),
            Err(ReadError::TooLong | ReadError::NotText) => Err(GossipKeyError::Malformed),
        }
    }

    /// The key as text: 64 hexadecimal digits and a line end. A secret.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(65));
        text.push_str(&secret_file::to_hex(&self.0));
        text.push('\n');
        text
    }

    /// The key written by [`Self::to_text`]; white space around it is ignored.
    ///
    /// # Errors
    /// [`GossipKeyError::Malformed`].
    pub fn from_text(text: &str) -> Result<Self, GossipKeyError> {
        secret_file::from_hex(text.trim())
            .map(Self)
            .ok_or(GossipKeyError::Malformed)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0[..]
    }
}
