//! Certificate signing requests (PKCS #10, RFC 2986): proof that whoever asks holds the key.

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm};
use rivven_crypto::{KeyKind, Provider, SigningKey, sha256};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{IdentityError, authority::issue_error};

/// Longest request that is read; one of ours has about 160 bytes.
pub const MAX_REQUEST: usize = 4 << 10;

/// A kind of key that is certified.
struct Known {
    kind: KeyKind,
    /// Bytes of a public key: of P-256, the uncompressed point (SEC 1, section 2.3.3).
    len: usize,
    /// What the key is called.
    key: AlgorithmIdentifier,
    /// What its signatures are called, also as text (RFC 8410, section 3; RFC 5758, section 3.2).
    signature: (AlgorithmIdentifier, &'static str),
}

const KINDS: [Known; 2] = [
    Known {
        kind: KeyKind::Ed25519,
        len: 32,
        key: alg_id::ED25519,
        signature: (alg_id::ED25519, "1.3.101.112"),
    },
    Known {
        kind: KeyKind::P256,
        len: 65,
        key: alg_id::ECDSA_P256,
        signature: (alg_id::ECDSA_SHA256, "1.2.840.10045.4.3.2"),
    },
];

/// A request for `key`, DER. It names nobody: the authority knows whom it certifies.
pub(crate) fn make(key: &SigningKey) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(issue_error)?;
    Ok(request.der().to_vec())
}

/// SHA-256 of the public key that a request, DER, proves the possession of.
///
/// # Errors
/// [`IdentityError::BadRequest`].
pub fn request_key(request: &[u8]) -> Result<[u8; 32], IdentityError> {
    ProvenKey::read(request).map(|key| key.hash())
}

/// A public key whose private half the sender of a request has.
#[derive(Debug)]
pub(super) struct ProvenKey {
    kind: KeyKind,
    public: Vec<u8>,
}

impl ProvenKey {
    fn hash(&self) -> [u8; 32] {
        sha256(&self.public)
    }

    /// The key in `request`, if the request is signed by it. Everything else the request says is ignored.
    pub(super) fn read(request: &[u8]) -> Result<Self, IdentityError> {
        let bad = |cause| IdentityError::BadRequest { cause };
        if request.len() > MAX_REQUEST {
            return Err(bad("it is too long"));
        }
        let (rest, parsed) =
            X509CertificationRequest::from_der(request).map_err(|_| bad("it is not PKCS #10"))?;
        if !rest.is_empty() {
            return Err(bad("something follows it"));
        }
        let info = &parsed.certification_request_info;
        let public = &info.subject_pki.subject_public_key.data;
        let provider = Provider::default();
        let algorithms = provider.tls().signature_verification_algorithms.all;
        let called = parsed.signature_algorithm.algorithm.to_id_string();
        let Some(known) = KINDS.into_iter().find(|known| known.signature.1 == called) else {
            return Err(bad("it is not signed with Ed25519, or with ECDSA and SHA-256"));
        };
        let verifier = algorithms.iter().find(|algorithm| {
            algorithm.public_key_alg_id() == known.key && algorithm.signature_alg_id() == known.signature.0
        });
        let signed = verifier.is_some_and(|verifier| {
            let signature = &parsed.signature_value.data;
            verifier.verify_signature(public, info.raw, signature).is_ok()
        });
        // What stands for the algorithm of a key says all of it: for P-256, the curve too. And there is one form
        // for each key, since a hash stands for it where a token is spent.
        if signed && public.len() == known.len && is_of(info.subject_pki.raw, &known.key) {
            return Ok(Self {
                kind: known.kind,
                public: public.to_vec(),
            });
        }
        Err(bad("it is not signed by the Ed25519 or P-256 key it is for"))
    }
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.kind {
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

/// Whether a `SubjectPublicKeyInfo`, DER, begins with the algorithm `of_key`: both sequences have short lengths.
fn is_of(info: &[u8], of_key: &AlgorithmIdentifier) -> bool {
    let inner = of_key.as_ref();
    let algorithm = info.get(2..).and_then(|rest| rest.strip_prefix(&[0x30]));
    let algorithm = algorithm.and_then(|rest| rest.split_first());
    algorithm.is_some_and(|(len, rest)| usize::from(*len) == inner.len() && rest.starts_with(inner))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_proves_its_key_and_nothing_altered_does() {
        for kind in [KeyKind::Ed25519, KeyKind::P256] {
            proves(&SigningKey::generate_of(kind).unwrap());
        }
    }

    fn proves(key: &SigningKey) {
        let request = make(key).unwrap();
        let read = ProvenKey::read(&request).unwrap();
        assert_eq!((read.kind, &read.public[..]), (key.kind(), key.public_key()));
        let (mut refused, len) = (0, request.len());
        for at in 0..len {
            let mut altered = request.clone();
            altered[at] ^= 1;
            match ProvenKey::read(&altered) {
                Ok(read) => assert_eq!(read.public, *key.public_key(), "byte {at}"),
                Err(error) => {
                    assert_eq!(error.code(), "bad-certificate-request");
                    refused += 1;
                }
            }
        }
        // The frame around the signature has a little slack, none of which reaches the key.
        assert!(refused >= len - 4, "{refused} of {len}");
        let longer = [&request[..], &[0]].concat();
        assert!(ProvenKey::read(&longer).is_err());
        assert!(ProvenKey::read(&vec![0x30; MAX_REQUEST + 1]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(ProvenKey::read(&bytes).is_err());
        }
    }
}
