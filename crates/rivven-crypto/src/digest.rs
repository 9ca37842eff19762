//! SHA-256, and keys derived with it.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};

/// SHA-256 of `data` (FIPS 180-4).
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

/// HKDF-SHA256 (RFC 5869): a key from `secret` that is bound to `salt` and to every part of `info`.
///
/// The parts of `info` are concatenated: give them fixed lengths, or a separator no part contains.
///
/// # Errors
/// [`TooMuchOutput`] when `out` is longer than 255 × 32 bytes; `out` is untouched.
pub fn hkdf_sha256(salt: &[u8], secret: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), TooMuchOutput> {
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand_multi_info(info, out)
        .map_err(|_| TooMuchOutput)
}

/// More output was asked of HKDF than RFC 5869 defines. Ask for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HKDF-SHA256 yields at most 8160 bytes")]
pub struct TooMuchOutput;

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 example: one block.
    #[test]
    fn sha256_of_abc() {
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    /// RFC 5869, appendix A.1.
    #[test]
    fn hkdf_matches_the_first_test_case_of_the_rfc() {
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let mut okm = [0; 42];
        hkdf_sha256(&salt, &[0x0b; 22], &[&info[..4], &info[4..]], &mut okm).unwrap();
        assert_eq!(okm[..8], [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]);
        assert_eq!(okm[38..], [0x87, 0x18, 0x58, 0x65]);
        assert_eq!(
            hkdf_sha256(&salt, &[1], &[], &mut vec![0; 8161]),
            Err(TooMuchOutput)
        );
    }
}
