//! Certificate signing requests (PKCS #10, RFC 2986): proof that whoever asks holds the key.

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm};
use rivven_crypto::{Provider, SigningKey, sha256};
use rustls_pki_types::alg_id;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{IdentityError, authority::issue_error};

/// Longest request that is read; one of ours has about 160 bytes.
pub const MAX_REQUEST: usize = 4 << 10;

/// Bytes of an Ed25519 public key.
const PUBLIC_KEY_LEN: usize = 32;

/// Identifier of Ed25519 (RFC 8410, section 3).
const ED25519: &str = "1.3.101.112";

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
pub(super) struct ProvenKey([u8; PUBLIC_KEY_LEN]);

impl ProvenKey {
    fn hash(&self) -> [u8; 32] {
        sha256(&self.0)
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
        if parsed.signature_algorithm.algorithm.to_id_string() != ED25519 {
            return Err(bad("it is not signed with Ed25519"));
        }
        let key = &parsed
            .certification_request_info
            .subject_pki
            .subject_public_key
            .data;
        let provider = Provider::default();
        let algorithms = provider.tls().signature_verification_algorithms.all;
        let ed25519 = algorithms.iter().find(|algorithm| {
            algorithm.public_key_alg_id() == alg_id::ED25519
                && algorithm.signature_alg_id() == alg_id::ED25519
        });
        let verified = ed25519.map(|algorithm| {
            let message = parsed.certification_request_info.raw;
            algorithm.verify_signature(key, message, &parsed.signature_value.data)
        });
        match (verified, <[u8; PUBLIC_KEY_LEN]>::try_from(&key[..])) {
            (Some(Ok(())), Ok(key)) => Ok(Self(key)),
            _ => Err(bad("it is not signed by the Ed25519 key it is for")),
        }
    }
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_proves_its_key_and_nothing_altered_does() {
        let key = SigningKey::generate().unwrap();
        let request = make(&key).unwrap();
        assert_eq!(ProvenKey::read(&request).unwrap().0, *key.public_key());
        let (mut refused, len) = (0, request.len());
        for at in 0..len {
            let mut altered = request.clone();
            altered[at] ^= 1;
            match ProvenKey::read(&altered) {
                Ok(read) => assert_eq!(read.0, *key.public_key(), "byte {at}"),
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
