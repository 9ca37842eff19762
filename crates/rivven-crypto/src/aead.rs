//! Authenticated encryption of short messages under a counter nonce.

use std::fmt;

use aes_gcm::Aes128Gcm;

use crate::cipher::{Cipher, TAG_LEN};

/// A key of AES-128-GCM (NIST SP 800-38D).
///
/// The nonce is a counter. **Two messages must never be sealed under one key and one counter**: it would
/// reveal both messages and the authentication key. Derive a new key for every sender and every start.
/// The expanded key is wiped from memory on drop.
pub struct AeadKey(Aes128Gcm);

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey(redacted)")
    }
}

/// The message was not sealed under this key, counter and associated data, or was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not authentic")]
pub struct NotAuthentic;

/// The message is longer than AES-GCM can seal (64 GiB). Nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is too long to seal")]
pub struct TooLong;

impl AeadKey {
    /// Bytes of a key.
    pub const KEY_LEN: usize = 16;
    /// Bytes that sealing adds.
    pub const TAG_LEN: usize = TAG_LEN;

    /// The key made of `bytes`, which the caller should zeroize.
    #[must_use]
    pub fn new(bytes: &[u8; Self::KEY_LEN]) -> Self {
        Self(Cipher::with_key(bytes))
    }

    /// Seals `message` in place and returns the tag that must follow it.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn seal(
        &self,
        counter: u64,
        associated: &[u8],
        message: &mut [u8],
    ) -> Result<[u8; Self::TAG_LEN], TooLong> {
        self.0.seal(&nonce(counter), associated, message).ok_or(TooLong)
    }

    /// Opens a sealed message followed by its tag, in place, and returns the message.
    ///
    /// # Errors
    /// [`NotAuthentic`]; `sealed` then holds nothing of use.
    pub fn open<'a>(
        &self,
        counter: u64,
        associated: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], NotAuthentic> {
        self.0
            .open(&nonce(counter), associated, sealed)
            .ok_or(NotAuthentic)
    }
}

/// Four zero bytes and the counter, most significant byte first.
fn nonce(counter: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (to, from) in bytes.iter_mut().skip(4).zip(counter.to_be_bytes()) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38D validation, test case 1 of the GCM specification: empty message, zero key and nonce.
    #[test]
    fn an_empty_message_under_the_zero_key_has_the_specified_tag() {
        let tag = AeadKey::new(&[0; 16]).seal(0, b"", &mut []).unwrap();
        assert_eq!(tag[..8], [0x58, 0xe2, 0xfc, 0xce, 0xfa, 0x7e, 0x30, 0x61]);
    }

    #[test]
    fn a_change_of_any_part_is_noticed() {
        let key = AeadKey::new(&[7; 16]);
        let mut sealed = b"message".to_vec();
        let tag = key.seal(9, b"header", &mut sealed).unwrap();
        sealed.extend(tag);
        assert_eq!(key.open(9, b"header", &mut sealed.clone()).unwrap(), b"message");
        assert_eq!(key.open(8, b"header", &mut sealed.clone()), Err(NotAuthentic));
        assert_eq!(key.open(9, b"hEader", &mut sealed.clone()), Err(NotAuthentic));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(key.open(9, b"header", &mut altered), Err(NotAuthentic));
        }
    }
}
