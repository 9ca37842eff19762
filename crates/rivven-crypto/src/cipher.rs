//! The three AEADs of TLS 1.3 behind one small trait, with nonces of 96 and tags of 128 bits (RFC 5116).

use aes_gcm::aead::{
    AeadCore, AeadInOut, KeyInit, KeySizeUser,
    consts::{U12, U16},
};

/// Bytes of a nonce.
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;

/// An AEAD with its key.
pub(crate) trait Cipher: Send + Sync + Sized + 'static {
    /// The cipher under `key`, whose length the caller's types fix to [`Self::key_len`].
    fn with_key(key: &[u8]) -> Self;

    /// Bytes of a key.
    fn key_len() -> usize;

    /// Encrypts in place; the tag. Nothing, when the message is longer than the AEAD allows.
    fn seal(&self, nonce: &[u8; NONCE_LEN], associated: &[u8], message: &mut [u8]) -> Option<[u8; TAG_LEN]>;

    /// Decrypts a message followed by its tag in place; the message. Nothing, when it is not authentic;
    /// then nothing was decrypted. Tags are compared in constant time.
    fn open<'a>(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]>;
}

impl<A> Cipher for A
where
    A: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16> + KeyInit + KeySizeUser + Send + Sync + 'static,
{
    #[expect(
        clippy::expect_used,
        reason = "a key is rejected only for its length, which the callers' types fix"
    )]
    fn with_key(key: &[u8]) -> Self {
        Self::new_from_slice(key).expect("the length is right")
    }

    fn key_len() -> usize {
        Self::key_size()
    }

    fn seal(&self, nonce: &[u8; NONCE_LEN], associated: &[u8], message: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        self.encrypt_inout_detached(nonce.into(), associated, message.into())
            .map(Into::into)
            .ok()
    }

    fn open<'a>(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let (message, tag) = sealed.split_last_chunk_mut::<TAG_LEN>()?;
        self.decrypt_inout_detached(nonce.into(), associated, (&mut *message).into(), (&*tag).into())
            .ok()?;
        Some(message)
    }
}
