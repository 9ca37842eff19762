//! Keys of an endpoint: stateless reset tokens (RFC 9000, section 10.3) and address validation tokens
//! (section 8.1), whose form is the implementation's own affair.

use aes_gcm::Aes256Gcm;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::cipher::{Cipher, NONCE_LEN};

/// HMAC-SHA256 over connection ids: only the endpoint that had a connection can reset it.
pub(crate) struct ResetKey(Hmac<Sha256>);

impl ResetKey {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104)")]
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("every length is right"))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let tag = self.0.clone().chain_update(data).finalize().into_bytes();
        for (to, from) in signature.iter_mut().zip(tag) {
            *to = from;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Compares in constant time.
        self.0
            .clone()
            .chain_update(data)
            .verify_slice(signature)
            .map_err(|_| CryptoError)
    }
}

/// A key per token, derived from the endpoint's secret and the random bytes that the token carries.
pub(crate) struct TokenKey(Hkdf<Sha256>);

impl TokenKey {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self(Hkdf::new(Some(b"rivven quic token"), secret))
    }
}

impl HandshakeTokenKey for TokenKey {
    #[expect(clippy::expect_used, reason = "HKDF-SHA256 yields 32 bytes (RFC 5869)")]
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        let mut key = Zeroizing::new([0; 32]);
        self.0
            .expand(random_bytes, &mut *key)
            .expect("the length is within bounds");
        Box::new(Token(Cipher::with_key(&*key)))
    }
}

/// Each key seals one token, so the nonce may be constant.
struct Token(Aes256Gcm);

impl AeadKey for Token {
    fn seal(&self, data: &mut Vec<u8>, associated: &[u8]) -> Result<(), CryptoError> {
        let tag = Cipher::seal(&self.0, &[0; NONCE_LEN], associated, data).ok_or(CryptoError)?;
        data.extend_from_slice(&tag);
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], associated: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        Cipher::open(&self.0, &[0; NONCE_LEN], associated, data).ok_or(CryptoError)
    }
}
