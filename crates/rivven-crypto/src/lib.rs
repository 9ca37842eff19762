//! The one place that chooses cryptography: TLS provider, QUIC glue, keys and sealing.
//!
//! No other crate of the workspace names a cryptographic library or enables such a feature of quinn,
//! rustls or rcgen. This crate opens no socket and no file.

mod aead;
mod digest;
mod pem;
mod provider;
mod random;
mod signing;

pub use aead::{AeadKey, NotAuthentic, TooLong};
pub use digest::{TooMuchOutput, hkdf_sha256, sha256};
pub use provider::{NotForQuic, Provider};
pub use random::{EntropyError, random_bytes};
pub use signing::{KeyFormatError, SigningKey};
