//! Checks a node's own certificate before anybody else does, to say clearly what is wrong with it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rivven_crypto::{Provider, SigningKey};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::{IdentityError, Validity};
use crate::clock::WallClock;

/// Most certificates in one file.
pub(super) const MAX_CERTIFICATES: usize = 8;

/// The certificates of a PEM text; at least one.
pub(super) fn certificates(text: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let malformed = |cause| IdentityError::Malformed {
        path: path.to_path_buf(),
        cause,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes())
        .take(MAX_CERTIFICATES + 1)
        .collect();
    let found = found.map_err(|_| malformed("it is not PEM text"))?;
    match found.len() {
        0 => Err(malformed("it holds no certificate")),
        1..=MAX_CERTIFICATES => Ok(found),
        _ => Err(malformed("it holds more than 8 certificates")),
    }
}

/// What a certificate must be good for.
#[derive(Clone, Copy)]
pub(super) struct Demands<'a> {
    /// Which signatures are believed.
    pub(super) provider: &'a Provider,
    /// Its holder is dialled, and does not only dial.
    pub(super) answers: bool,
    /// It may have expired.
    pub(super) expired: bool,
}

/// From when to when a certificate is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let at = |time: ASN1Time| u64::try_from(time.timestamp()).map(Duration::from_secs).ok();
    Some(Validity {
        not_before: at(certificate.validity().not_before)?,
        not_after: at(certificate.validity().not_after)?,
    })
}

/// Files of an identity, for messages.
pub(super) struct Paths {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Checks that the first of `chain` is valid at this moment, signed by one of `anchors`, and of `key`.
///
/// Who `answers` connections needs a certificate for servers as well as for clients. Where `expired` ones are
/// accepted too, all else must have been right in the last second.
pub(super) fn check(
    anchors: &[CertificateDer<'_>],
    chain: &[CertificateDer<'_>],
    key: &SigningKey,
    demands: Demands<'_>,
    paths: &Paths,
) -> Result<(), IdentityError> {
    let malformed = |path: &Path, cause| IdentityError::Malformed {
        path: path.to_path_buf(),
        cause,
    };
    let no_certificate = || malformed(&paths.certificate, "it holds no valid certificate");
    let (leaf, intermediates) = chain.split_first().ok_or_else(no_certificate)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| no_certificate())?;
    if *parsed.public_key().subject_public_key.data != *key.public_key() {
        return Err(IdentityError::KeyMismatch {
            path: paths.certificate.clone(),
            key: paths.key.clone(),
        });
    }
    let roots: Result<Vec<_>, _> = anchors.iter().map(webpki::anchor_from_trusted_cert).collect();
    let roots = roots.map_err(|_| malformed(&paths.ca, "it holds no valid certificate"))?;
    let algorithms = demands.provider.tls().signature_verification_algorithms.all;
    let last = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let now = match WallClock::now() {
        now if demands.expired && now.as_secs() > last => {
            UnixTime::since_unix_epoch(Duration::from_secs(last))
        }
        now => now,
    };
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| no_certificate())?;
    let verify = |usage| leaf.verify_for_usage(algorithms, &roots, intermediates, now, usage, None, None);
    verify(KeyUsage::client_auth())
        .and_then(|path| {
            if demands.answers {
                verify(KeyUsage::server_auth())
            } else {
                Ok(path)
            }
        })
        .map(|_| ())
        .map_err(|error| explain(&error, &parsed, paths))
}

fn explain(error: &webpki::Error, certificate: &X509Certificate<'_>, paths: &Paths) -> IdentityError {
    let path = paths.certificate.clone();
    match error {
        webpki::Error::CertExpired { .. } => IdentityError::Expired {
            path,
            not_after: certificate.validity().not_after.to_string(),
        },
        webpki::Error::CertNotValidYet { .. } => IdentityError::NotYetValid {
            path,
            not_before: certificate.validity().not_before.to_string(),
        },
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            IdentityError::NotSignedByCa {
                path,
                ca: paths.ca.clone(),
            }
        }
        webpki::Error::UnsupportedSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => IdentityError::Malformed {
            path,
            cause: "its authority signs in a way that the cryptography in use does not know; another provider may",
        },
        webpki::Error::CaUsedAsEndEntity => IdentityError::Malformed {
            path,
            cause: "it is the certificate of an authority, not of a node",
        },
        webpki::Error::RequiredEkuNotFoundContext(_) => IdentityError::Malformed {
            path,
            cause: "it must be usable for clients, and that of a node for servers too",
        },
        _ => IdentityError::Malformed {
            path,
            cause: "the certificate does not verify",
        },
    }
}
