//! Private keys that sign handshakes: Ed25519 (RFC 8032) and ECDSA over P-256 (FIPS 186-5).

use std::sync::Arc;

use p256::pkcs8::DecodePrivateKey;
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    crypto::KeyProvider,
    sign::{Signer, SigningKey, public_key_to_spki},
};
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id};
use zeroize::Zeroize;

/// Reads private keys of the kinds this provider signs with.
#[derive(Debug)]
pub(super) struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, mut der: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let key = match &der {
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                ed25519_dalek::SigningKey::from_pkcs8_der(der)
                    .map(Pair::Ed25519)
                    .or_else(|_| p256::ecdsa::SigningKey::from_pkcs8_der(der).map(Pair::P256))
                    .ok()
            }
            PrivateKeyDer::Sec1(der) => p256::SecretKey::from_sec1_der(der.secret_sec1_der())
                .map(|key| Pair::P256(key.into()))
                .ok(),
            _ => None,
        };
        der.zeroize();
        let key = key.ok_or_else(|| {
            Error::General("the private key must be Ed25519 or ECDSA P-256, in PKCS #8 or SEC 1".into())
        })?;
        Ok(Arc::new(Key(Arc::new(key))))
    }
}

/// Wiped from memory on drop, by the libraries that define them.
enum Pair {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair(redacted)")
    }
}

impl Pair {
    const fn scheme(&self) -> SignatureScheme {
        match self {
            Self::Ed25519(_) => SignatureScheme::ED25519,
            Self::P256(_) => SignatureScheme::ECDSA_NISTP256_SHA256,
        }
    }
}

#[derive(Clone, Debug)]
struct Key(Arc<Pair>);

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&self.0.scheme())
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(match &*self.0 {
            Pair::Ed25519(key) => public_key_to_spki(&alg_id::ED25519, key.verifying_key().as_bytes()),
            Pair::P256(key) => {
                let point = key.verifying_key().to_sec1_point(false);
                public_key_to_spki(&alg_id::ECDSA_P256, point.as_bytes())
            }
        })
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match &*self.0 {
            Pair::Ed25519(_) => SignatureAlgorithm::ED25519,
            Pair::P256(_) => SignatureAlgorithm::ECDSA,
        }
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match &*self.0 {
            Pair::Ed25519(key) => Ok(ed25519_dalek::Signer::sign(key, message).to_bytes().to_vec()),
            // The per-signature secret is derived from key and message (RFC 6979), so that a weak random
            // generator cannot reveal the key.
            Pair::P256(key) => {
                let signature: p256::ecdsa::Signature = p256::ecdsa::signature::Signer::sign(key, message);
                Ok(signature.to_der().as_bytes().to_vec())
            }
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
