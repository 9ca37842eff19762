//! Keys that sign certificates and handshakes.

use std::fmt;

use ed25519_dalek::{Signer, pkcs8::DecodePrivateKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use crate::{EntropyError, pem, random_bytes};

/// What precedes the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Longest PKCS #8 text that is read; an Ed25519 key needs about 120 bytes.
const MAX_PEM_LEN: usize = 8 << 10;

/// An Ed25519 private key (RFC 8032).
///
/// Both forms held of it, encoded and expanded, are wiped from memory on drop.
pub struct SigningKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: ed25519_dalek::SigningKey,
    public: [u8; 32],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// The text holds no usable Ed25519 private key. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key in PKCS #8 PEM")]
pub struct KeyFormatError;

impl KeyFormatError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "bad-private-key"
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// [`EntropyError`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self, EntropyError> {
        let seed = Zeroizing::new(random_bytes::<32>()?);
        let pkcs8 = Zeroizing::new([&PKCS8_PREFIX[..], &seed[..]].concat());
        Ok(Self::new(pkcs8, ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    fn new(pkcs8: Zeroizing<Vec<u8>>, pair: ed25519_dalek::SigningKey) -> Self {
        let public = pair.verifying_key().to_bytes();
        Self { pkcs8, pair, public }
    }

    /// The key in a `PRIVATE KEY` section of `text`, as [`Self::to_pem`] or OpenSSL writes it.
    ///
    /// # Errors
    /// [`KeyFormatError`] when there is none, or it is of another kind.
    pub fn from_pem(text: &str) -> Result<Self, KeyFormatError> {
        if text.len() > MAX_PEM_LEN {
            return Err(KeyFormatError);
        }
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyFormatError)?;
        let pkcs8 = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        der.zeroize();
        // Where the text repeats the public key (RFC 8410, section 7), it is compared.
        let pair = ed25519_dalek::SigningKey::from_pkcs8_der(&pkcs8).map_err(|_| KeyFormatError)?;
        Ok(Self::new(pkcs8, pair))
    }

    /// The key as PKCS #8 PEM. A secret: write it to files of mode 600 only.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// The key as rustls takes it. A secret, which whoever takes it should zeroize.
    #[must_use]
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8] {
        &self.public
    }
}

impl rcgen::PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.pair.sign(message).to_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.3: the first example private key.
    const RFC_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn a_key_survives_its_text_form() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.public_key(), again.public_key());
        assert_eq!(format!("{key:?}"), "SigningKey(redacted)");
    }

    #[test]
    fn the_key_of_rfc_8410_reads_and_writes_unchanged() {
        let key = SigningKey::from_pem(RFC_KEY).unwrap();
        assert_eq!(key.public_key()[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(*key.to_pem(), RFC_KEY);
    }

    #[test]
    fn text_without_an_ed25519_key_is_refused() {
        for text in [
            "",
            "no key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert_eq!(SigningKey::from_pem(text).unwrap_err(), KeyFormatError);
        }
        assert!(SigningKey::from_pem(&RFC_KEY.repeat(100)).is_err());
    }
}
