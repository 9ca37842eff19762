//! Secrets of a QUIC endpoint that outlive its process.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use rivven_crypto::{EntropyError, hkdf_sha256, random_bytes};
use zeroize::Zeroizing;

use crate::secret_file::{self, ReadError};

/// First words of the file; 0 is the version, unstable.
const HEADER: &str = "rivven-quic-key 0 ";

/// The secret from which an endpoint's reset key, connection-id key and token key are derived.
///
/// Persisted per node, in `quic.key`: when a restarted node receives a packet of a connection it has
/// forgotten, it can prove at once that the connection is gone. With the reset key alone it could not,
/// because it would not even recognise the connection id as its own. Without either, peers notice only
/// when the connection has been idle for too long.
#[derive(Clone)]
pub struct QuicKeys(Zeroizing<[u8; 32]>);

impl fmt::Debug for QuicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKeys(redacted)")
    }
}

/// Why there are no QUIC keys. Removing the file is harmless: peers notice one restart later than usual.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicKeysError {
    /// The file cannot be read or written. Check the directory's owner, mode and free space.
    #[error("cannot read or write the QUIC key file {}: {source}; check its owner and mode", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others than the owner can read the file. Restrict or remove it.
    #[error("the QUIC key file {0} can be read by others; run `chmod 600 {0}` or remove it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The file holds something else, or was made by a later release. Remove it.
    #[error("{} is not a QUIC key file of this release; remove it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gave no randomness. Nothing was written.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl QuicKeysError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "quic-key-io",
            Self::Exposed { .. } => "quic-key-exposed",
            Self::Malformed { .. } => "quic-key-malformed",
            Self::Entropy(_) => "no-entropy",
        }
    }
}

impl QuicKeys {
    /// New keys, for an endpoint that leaves nothing behind.
    ///
    /// # Errors
    /// [`EntropyError`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self, EntropyError> {
        random_bytes().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The keys in `path`, which is created with mode 600 if it does not exist.
    ///
    /// # Errors
    /// [`QuicKeysError`].
    pub fn load_or_create(path: &Path) -> Result<Self, QuicKeysError> {
        let path_buf = || path.to_path_buf();
        match secret_file::read_secret(path) {
            Ok(text) => Self::parse(&text).ok_or_else(|| QuicKeysError::Malformed { path: path_buf() }),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Self::generate()?;
                secret_file::create_secret(path, &keys.to_text()).map_err(|source| QuicKeysError::Io {
                    path: path_buf(),
                    source,
                })?;
                Ok(keys)
            }
            Err(ReadError::Io(source)) => Err(QuicKeysError::Io {
                path: path_buf(),
                source,
            }),
            Err(ReadError::Exposed) => Err(QuicKeysError::Exposed { path: path_buf() }),
            Err(ReadError::TooLong | ReadError::NotText) => {
                Err(QuicKeysError::Malformed { path: path_buf() })
            }
        }
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(HEADER.len() + 65));
        text.push_str(HEADER);
        text.push_str(&secret_file::to_hex(&self.0));
        text.push('\n');
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(HEADER)?.strip_suffix('\n')?;
        secret_file::from_hex(digits).map(Self)
    }

    /// Key of stateless resets.
    pub(super) fn reset(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"reset")
    }

    /// Key of the tokens in Retry packets.
    pub(super) fn token(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"token")
    }

    /// Key by which the endpoint recognises its connection ids.
    pub(super) fn connection_ids(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self.derive(b"connection ids");
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    #[expect(
        clippy::expect_used,
        reason = "HKDF refuses only outputs above 8160 bytes, and this one is 32"
    )]
    fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        hkdf_sha256(b"rivven quic 0", &self.0[..], &[purpose], &mut key[..])
            .expect("32 bytes are few enough");
        key
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn keys_are_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quic.key");
        let made = QuicKeys::load_or_create(&path).unwrap();
        let read = QuicKeys::load_or_create(&path).unwrap();
        assert_eq!(
            (made.reset(), made.connection_ids()),
            (read.reset(), read.connection_ids())
        );
        assert_ne!(made.reset(), made.token());
        assert_eq!(format!("{made:?}"), "QuicKeys(redacted)");
        fs::write(&path, "rivven-quic-key 1 00\n").unwrap();
        assert_eq!(
            QuicKeys::load_or_create(&path).unwrap_err().code(),
            "quic-key-malformed"
        );
        let missing = dir.path().join("no/such/quic.key");
        assert_eq!(
            QuicKeys::load_or_create(&missing).unwrap_err().code(),
            "quic-key-io"
        );
    }
}
