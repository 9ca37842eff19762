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

/// What precedes the 32 bytes of a P-256 key in PKCS #8 (RFC 5915, section 3; RFC 5480, section 2.1.1).
const P256_PREFIX: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
    0x04, 0x20,
];

/// What stands between them and the 65 bytes of the public key.
const P256_MIDDLE: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];

/// Longest PKCS #8 text that is read; the longer kind of key needs about 250 bytes.
const MAX_PEM_LEN: usize = 8 << 10;

/// A kind of private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519 (RFC 8032): nothing to choose, nothing random in a signature.
    #[default]
    Ed25519,
    /// ECDSA over P-256 with SHA-256 (FIPS 186-5), for programs that know no Ed25519, such as browsers.
    P256,
}

/// A private key: Ed25519 (RFC 8032), or ECDSA over P-256 (FIPS 186-5, nonces as in RFC 6979).
///
/// Both forms held of it, encoded and expanded, are wiped from memory on drop.
pub struct SigningKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Pair,
    public: Vec<u8>,
}

/// Wiped from memory on drop, by the libraries that define them.
enum Pair {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// The text holds no usable private key. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 or P-256 private key in PKCS #8 PEM")]
pub struct KeyFormatError;

impl KeyFormatError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "bad-private-key"
    }
}

impl SigningKey {
    /// A new Ed25519 key.
    ///
    /// # Errors
    /// [`EntropyError`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self, EntropyError> {
        let seed = Zeroizing::new(random_bytes::<32>()?);
        let pkcs8 = Zeroizing::new([&PKCS8_PREFIX[..], &seed[..]].concat());
        let pair = ed25519_dalek::SigningKey::from_bytes(&seed);
        Ok(Self::new(pkcs8, Pair::Ed25519(pair)))
    }

    /// A new key of a kind.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_of(kind: KeyKind) -> Result<Self, EntropyError> {
        match kind {
            KeyKind::Ed25519 => Self::generate(),
            KeyKind::P256 => loop {
                // FIPS 186-5, appendix A.2.2: a number out of range, one in 2^32, is drawn anew.
                let scalar = Zeroizing::new(random_bytes::<32>()?);
                if let Ok(pair) = p256::ecdsa::SigningKey::from_slice(&scalar[..]) {
                    let public = pair.verifying_key().to_sec1_point(false);
                    let parts = [&P256_PREFIX[..], &scalar[..], &P256_MIDDLE, public.as_bytes()];
                    return Ok(Self::new(Zeroizing::new(parts.concat()), Pair::P256(pair)));
                }
            },
        }
    }

    fn new(pkcs8: Zeroizing<Vec<u8>>, pair: Pair) -> Self {
        let public = match &pair {
            Pair::Ed25519(pair) => pair.verifying_key().to_bytes().to_vec(),
            Pair::P256(pair) => pair.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
        };
        Self { pkcs8, pair, public }
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        match &self.pair {
            Pair::Ed25519(_) => KeyKind::Ed25519,
            Pair::P256(_) => KeyKind::P256,
        }
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
        // Where the text repeats the public key (RFC 8410, section 7; RFC 5915, section 3), it is compared.
        let pair = ed25519_dalek::SigningKey::from_pkcs8_der(&pkcs8)
            .map(Pair::Ed25519)
            .or_else(|_| p256::ecdsa::SigningKey::from_pkcs8_der(&pkcs8).map(Pair::P256))
            .map_err(|_| KeyFormatError)?;
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

    /// The public key as it stands in a certificate: 32 bytes of Ed25519, or a point of P-256, uncompressed.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }
}

impl rcgen::PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.kind() {
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message).to_bytes().to_vec(),
            Pair::P256(pair) => {
                let signature: p256::ecdsa::Signature = pair.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        })
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
        for (kind, len) in [(KeyKind::Ed25519, 32), (KeyKind::P256, 65)] {
            let key = SigningKey::generate_of(kind).unwrap();
            let again = SigningKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!((again.kind(), again.public_key().len()), (kind, len));
            assert_eq!(key.public_key(), again.public_key());
            assert_eq!(key.to_pem(), again.to_pem());
            assert_eq!(format!("{key:?}"), "SigningKey(redacted)");
        }
    }

    /// RFC 6979, appendix A.2.5: the key, and its signature of "sample" with SHA-256.
    #[test]
    fn the_p256_key_of_rfc_6979_reads_and_signs_as_it_says() {
        let bytes = |text: &str| -> Vec<u8> {
            (0..text.len() / 2)
                .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
                .collect()
        };
        let scalar = bytes("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721");
        let x = "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6";
        let y = "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
        let public = bytes(&["04", x, y].concat());
        let pkcs8 = [&P256_PREFIX[..], &scalar, &P256_MIDDLE, &public].concat();
        let key = SigningKey::from_pem(&pem::encode("PRIVATE KEY", &pkcs8)).unwrap();
        assert_eq!((key.kind(), key.public_key()), (KeyKind::P256, &public[..]));
        let signature = rcgen::SigningKey::sign(&key, b"sample").unwrap();
        let signature = p256::ecdsa::Signature::from_der(&signature).unwrap();
        let r = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716";
        let s = "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";
        assert_eq!(signature.to_bytes()[..], bytes(&[r, s].concat()));
        // A text whose public key is that of another one is refused.
        let mut other = pkcs8;
        *other.last_mut().unwrap() ^= 1;
        assert!(SigningKey::from_pem(&pem::encode("PRIVATE KEY", &other)).is_err());
    }

    #[test]
    fn the_key_of_rfc_8410_reads_and_writes_unchanged() {
        let key = SigningKey::from_pem(RFC_KEY).unwrap();
        assert_eq!(key.public_key()[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(*key.to_pem(), RFC_KEY);
    }

    #[test]
    fn text_without_a_key_is_refused() {
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
