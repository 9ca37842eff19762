//! The pure Rust provider of TLS 1.3 cryptography: RustCrypto and dalek behind the traits of rustls.

mod exchange;
mod hash;
mod record;
mod rsa;
mod sign;
mod suites;
#[cfg(test)]
mod tests;
mod verify;
#[cfg(test)]
mod wiped;

use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom};

use crate::random::fill_random;

/// Suites, key exchanges and signatures, most preferred first.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: suites::preferred(),
        kx_groups: vec![&exchange::X25519_ML_KEM_768, &exchange::X25519],
        signature_verification_algorithms: verify::ALGORITHMS,
        secure_random: &OsRandom,
        key_provider: &sign::Keys,
    }
}

/// Randomness of the operating system, and of nothing else.
#[derive(Debug)]
struct OsRandom;

impl SecureRandom for OsRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill_random(bytes).map_err(|_| GetRandomFailed)
    }
}
