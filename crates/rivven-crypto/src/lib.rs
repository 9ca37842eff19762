//! The one place that chooses cryptography: TLS provider, QUIC glue, keys and sealing.
//!
//! No other crate of the workspace names a cryptographic library or enables such a feature of quinn,
//! rustls or rcgen. This crate opens no socket and no file.

mod aead;
mod cipher;
mod digest;
mod pem;
mod provider;
mod quic;
mod random;
mod signing;
#[cfg(test)]
mod testing;
mod tls;

pub use aead::{AeadKey, NotAuthentic, TooLong};
pub use digest::{TooMuchOutput, hkdf_sha256, sha256};
pub use provider::{NotForQuic, Provider, ProviderError};
pub use quic::Negotiated;
pub use random::{EntropyError, random_bytes};
pub use signing::{KeyFormatError, KeyKind, SigningKey};
