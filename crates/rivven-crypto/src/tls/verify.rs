//! Signatures that are believed, in certificates and handshakes.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rustls::{SignatureScheme, crypto::WebPkiSupportedAlgorithms};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::rsa;

/// Ed25519 and ECDSA over P-256; RSA of 2,048 to 8,192 bits, for the chains of corporate authorities.
pub(super) const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        &ED25519,
        &ECDSA_P256_SHA256,
        &ECDSA_P256_SHA384,
        &RSA_PSS_SHA256,
        &RSA_PSS_SHA384,
        &RSA_PSS_SHA512,
        &RSA_PKCS1_SHA256,
        &RSA_PKCS1_SHA384,
        &RSA_PKCS1_SHA512,
    ],
    mapping: &[
        (SignatureScheme::ED25519, &[&ED25519]),
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[&ECDSA_P256_SHA256]),
        (SignatureScheme::RSA_PSS_SHA256, &[&RSA_PSS_SHA256]),
        (SignatureScheme::RSA_PSS_SHA384, &[&RSA_PSS_SHA384]),
        (SignatureScheme::RSA_PSS_SHA512, &[&RSA_PSS_SHA512]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[&RSA_PKCS1_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[&RSA_PKCS1_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[&RSA_PKCS1_SHA512]),
    ],
};

/// Whether, of a key, a message and a signature, the last is believed.
type Check = fn(&[u8], &[u8], &[u8]) -> Option<()>;

/// A kind of signature: how certificates name it, and how it is checked.
pub(super) struct Algorithm {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    check: Check,
}

impl std::fmt::Debug for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Algorithm({:?})", self.signature)
    }
}

impl SignatureVerificationAlgorithm for Algorithm {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        (self.check)(public_key, message, signature).ok_or(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

static ED25519: Algorithm = Algorithm {
    key: alg_id::ED25519,
    signature: alg_id::ED25519,
    check: |key, message, signature| {
        let key = ed25519_dalek::VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
        let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
        // Strict: no keys or commitments of small order, for which one signature fits many messages.
        key.verify_strict(message, &signature).ok()
    },
};

static ECDSA_P256_SHA256: Algorithm = Algorithm {
    key: alg_id::ECDSA_P256,
    signature: alg_id::ECDSA_SHA256,
    check: |key, message, signature| ecdsa_p256(key, &Sha256::digest(message), signature),
};

static ECDSA_P256_SHA384: Algorithm = Algorithm {
    key: alg_id::ECDSA_P256,
    signature: alg_id::ECDSA_SHA384,
    check: |key, message, signature| ecdsa_p256(key, &Sha384::digest(message), signature),
};

fn ecdsa_p256(key: &[u8], digest: &[u8], signature: &[u8]) -> Option<()> {
    // Certificates and TLS carry uncompressed points only (RFC 8446, section 4.2.8.2).
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key)
        .ok()
        .filter(|_| key.first() == Some(&4))?;
    let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
    key.verify_prehash(digest, &signature).ok()
}

macro_rules! rsa {
    ($($pss:ident, $pss_id:ident, $pkcs1:ident, $pkcs1_id:ident: $digest:ty;)*) => {$(
        static $pss: Algorithm = Algorithm {
            key: alg_id::RSA_ENCRYPTION,
            signature: alg_id::$pss_id,
            check: rsa::verify_pss::<$digest>,
        };

        static $pkcs1: Algorithm = Algorithm {
            key: alg_id::RSA_ENCRYPTION,
            signature: alg_id::$pkcs1_id,
            check: rsa::verify_pkcs1::<$digest>,
        };
    )*};
}

rsa! {
    RSA_PSS_SHA256, RSA_PSS_SHA256, RSA_PKCS1_SHA256, RSA_PKCS1_SHA256: Sha256;
    RSA_PSS_SHA384, RSA_PSS_SHA384, RSA_PKCS1_SHA384, RSA_PKCS1_SHA384: Sha384;
    RSA_PSS_SHA512, RSA_PSS_SHA512, RSA_PKCS1_SHA512, RSA_PKCS1_SHA512: Sha512;
}
