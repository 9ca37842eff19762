//! The cluster's certificate authority.

use std::{fmt, path::Path, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rivven_crypto::{KeyKind, SigningKey, random_bytes, sha256};
use rivven_types::{ClusterId, NodeId};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};
use zeroize::Zeroizing;

use super::{
    CertificateName, IdentityError, NodeIdentity, SanTemplate, Subject, check::MAX_CERTIFICATES, name,
    request::ProvenKey,
};
use crate::clock::WallClock;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Life of an authority's certificate.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3652 * DAY.as_secs());

/// Life of a node's certificate.
const NODE_LIFE: Duration = Duration::from_secs(365 * DAY.as_secs());

/// Certificates begin this long before they are made, because the clocks of nodes differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Latest date a certificate may carry: the end of year 9999 (RFC 5280, section 4.1.2.5).
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// What ends a certificate in PEM (RFC 7468).
const END_OF_CERTIFICATE: &str = "-----END CERTIFICATE-----";

/// The certificates of a bundle, PEM, each with the text before it; and what follows the last one.
pub(crate) fn sections(bundle: &str) -> impl Iterator<Item = &str> {
    bundle
        .split_inclusive(END_OF_CERTIFICATE)
        .take(MAX_CERTIFICATES + 1)
}

/// Bytes of a key identifier (RFC 7093, section 2, method 1).
const KEY_ID_LEN: usize = 20;

/// From when to when a certificate is valid, as time since the beginning of 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: Duration,
    /// Last second.
    pub not_after: Duration,
}

impl Validity {
    /// Valid from an hour ago until `life` from this moment.
    #[must_use]
    pub fn from_now(life: Duration) -> Self {
        let now = Duration::from_secs(WallClock::now().as_secs());
        Self {
            not_before: now.saturating_sub(BACKDATED),
            not_after: now.saturating_add(life).min(LATEST),
        }
    }
}

/// Signs the certificates of one cluster's nodes. The cluster is born with it.
///
/// Ed25519, or P-256 where it must be, valid for ten years, for node certificates only (path length 0). Whoever
/// holds its key can become any node: keep `ca.key` away from the nodes.
pub struct CertificateAuthority {
    cluster: ClusterId,
    certificate_pem: String,
    fingerprint: [u8; 32],
    common_name: String,
    key_id: Vec<u8>,
    key: SigningKey,
    template: SanTemplate,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// A certificate made by a [`CertificateAuthority`], and its private key.
pub struct IssuedIdentity {
    certificate_pem: String,
    key_pem: Zeroizing<String>,
}

impl fmt::Debug for IssuedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedIdentity(redacted)")
    }
}

impl IssuedIdentity {
    /// The certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, PEM. A secret.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

impl CertificateAuthority {
    /// A new authority for a new cluster.
    ///
    /// # Errors
    /// [`IdentityError::Entropy`], or [`IdentityError::Issue`].
    pub fn generate(cluster: ClusterId) -> Result<Self, IdentityError> {
        Self::generate_of(cluster, KeyKind::default())
    }

    /// [`Self::generate`] with a key of a kind, which is also that of the keys it makes for others.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_of(cluster: ClusterId, kind: KeyKind) -> Result<Self, IdentityError> {
        let key = SigningKey::generate_of(kind)?;
        let common_name = format!("rivven cluster {cluster}");
        let key_id = key_id(&key);
        let mut params = params(
            &common_name,
            &name::authority_uri(cluster),
            Validity::from_now(AUTHORITY_LIFE),
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.clone());
        let certificate = params.self_signed(&key).map_err(issue_error)?;
        Ok(Self {
            cluster,
            certificate_pem: certificate.pem(),
            fingerprint: sha256(certificate.der()),
            common_name,
            key_id,
            key,
            template: SanTemplate::default(),
        })
    }

    /// The authority whose certificate and key were written by [`Self::cert_pem`] and [`Self::key_pem`].
    ///
    /// # Errors
    /// [`IdentityError::Malformed`] or [`IdentityError::KeyMismatch`], naming `ca.pem` or `ca.key`.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let malformed = |file: &str, cause| IdentityError::Malformed {
            path: Path::new(file).to_path_buf(),
            cause,
        };
        let key = SigningKey::from_pem(key_pem)
            .map_err(|_| malformed("ca.key", "it holds no Ed25519 or P-256 private key"))?;
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|_| malformed("ca.pem", "it holds no certificate"))?;
        let read = Signer::read(&der)
            .ok_or_else(|| malformed("ca.pem", "it is not the authority of a rivven cluster"))?;
        if read.public_key != key.public_key() {
            return Err(IdentityError::KeyMismatch {
                path: Path::new("ca.pem").to_path_buf(),
                key: Path::new("ca.key").to_path_buf(),
            });
        }
        Ok(Self {
            cluster: read.cluster,
            certificate_pem: cert_pem.to_owned(),
            fingerprint: sha256(&der),
            common_name: read.common_name,
            key_id: read.key_id,
            key,
            template: SanTemplate::default(),
        })
    }

    /// The authority in `bundle`, such as a `ca.pem` of two authorities, whose key was written by
    /// [`Self::key_pem`].
    ///
    /// # Errors
    /// As [`Self::from_pem`]; `KeyMismatch` when the key belongs to none of them.
    pub fn from_bundle(bundle: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let mut outcome = Err(IdentityError::Malformed {
            path: Path::new("ca.pem").to_path_buf(),
            cause: "it holds no certificate",
        });
        for section in sections(bundle) {
            match Self::from_pem(section, key_pem) {
                Ok(found) => return Ok(found),
                Err(error @ IdentityError::KeyMismatch { .. }) => outcome = Err(error),
                // What follows the last certificate says less than a certificate of another key.
                Err(_) if matches!(outcome, Err(IdentityError::KeyMismatch { .. })) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Writes names by `template` from this moment on.
    #[must_use]
    pub fn with_template(mut self, template: SanTemplate) -> Self {
        self.template = template;
        self
    }

    /// A certificate for `node` of this cluster, valid for one year, with a new key.
    ///
    /// # Errors
    /// [`IdentityError::Entropy`], or [`IdentityError::Issue`].
    pub fn issue(&self, node: NodeId) -> Result<IssuedIdentity, IdentityError> {
        self.issue_to(&Subject::Node(node))
    }

    /// A certificate for anybody in this cluster, valid for one year, with a new key.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_to(&self, subject: &Subject) -> Result<IssuedIdentity, IdentityError> {
        let name = CertificateName {
            cluster: self.cluster,
            subject: subject.clone(),
        };
        self.issue_as(name, Validity::from_now(NODE_LIFE))
    }

    /// A certificate for any name and time, with a new key.
    ///
    /// Nodes refuse the names of other clusters; being able to make them is what lets a test show it.
    ///
    /// # Errors
    /// [`IdentityError::Entropy`], or [`IdentityError::Issue`] when a date lies after the year 9999.
    pub fn issue_as(
        &self,
        name: impl Into<CertificateName>,
        validity: Validity,
    ) -> Result<IssuedIdentity, IdentityError> {
        let key = SigningKey::generate_of(self.key.kind())?;
        Ok(IssuedIdentity {
            certificate_pem: self.sign(&key, &name.into(), validity)?,
            key_pem: key.to_pem(),
        })
    }

    /// A certificate, PEM, for the holder of the key behind `request`.
    ///
    /// The request (RFC 2986, DER) proves the possession of a key; the name comes from the caller alone.
    ///
    /// # Errors
    /// [`IdentityError::BadRequest`], [`IdentityError::Entropy`], or [`IdentityError::Issue`].
    pub fn sign_request(
        &self,
        request: &[u8],
        name: impl Into<CertificateName>,
        validity: Validity,
    ) -> Result<String, IdentityError> {
        self.sign(&ProvenKey::read(request)?, &name.into(), validity)
    }

    /// A certificate, PEM, for the key and name of `identity`, valid for one year.
    ///
    /// # Errors
    /// As [`Self::sign_request`].
    pub fn renew(&self, identity: &NodeIdentity) -> Result<String, IdentityError> {
        let name = identity.name().clone();
        self.sign_request(&identity.request()?, name, Validity::from_now(NODE_LIFE))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        name: &CertificateName,
        validity: Validity,
    ) -> Result<String, IdentityError> {
        let common = format!("rivven {}", name.subject);
        let mut params = params(&common, &self.template.render(name), validity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if name.subject.is_member() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(key));
        let mut own = CertificateParams::default();
        own.distinguished_name = common_name(&self.common_name);
        own.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        own.key_identifier_method = KeyIdMethod::PreSpecified(self.key_id.clone());
        let issuer = Issuer::from_params(&own, &self.key);
        let certificate = params.signed_by(key, &issuer).map_err(issue_error)?;
        Ok(certificate.pem())
    }

    /// The cluster that was born with this authority.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of the authority's certificate, DER: what a join token names it by.
    #[must_use]
    pub const fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The authority's private key, PEM. A secret.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }
}

/// What an authority's certificate says of it.
struct Signer {
    cluster: ClusterId,
    common_name: String,
    key_id: Vec<u8>,
    public_key: Vec<u8>,
}

impl Signer {
    /// `None` if the certificate is not one that [`CertificateAuthority::generate`] makes: the issuer's
    /// name must be repeated in what it signs, and only this form of it is known to survive that.
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = certificate
            .subject()
            .iter_rdn()
            .flat_map(x509_parser::x509::RelativeDistinguishedName::iter);
        let only = names.next().filter(|_| names.next().is_none())?;
        let common = certificate.subject().iter_common_name().next()?;
        if only.as_slice() != common.as_slice() {
            return None;
        }
        let uris = webpki::EndEntityCert::try_from(der).ok()?;
        let cluster = uris.valid_uri_names().find_map(name::authority_cluster)?;
        let key_id =
            certificate
                .extensions()
                .iter()
                .find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                    _ => None,
                })?;
        Some(Self {
            cluster,
            common_name: common.as_str().ok()?.to_owned(),
            key_id,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }
}

pub(super) fn issue_error(error: rcgen::Error) -> IdentityError {
    IdentityError::Issue {
        cause: error.to_string(),
    }
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Names, dates and a serial number; key identifiers are set by the caller, since rcgen computes them
/// only with a crypto feature of its own.
fn params(subject: &str, uri: &str, validity: Validity) -> Result<CertificateParams, IdentityError> {
    if validity.not_before > LATEST || validity.not_after > LATEST {
        return Err(IdentityError::Issue {
            cause: "a date lies after the year 9999".into(),
        });
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let uri = uri.try_into().map_err(issue_error)?;
    let mut params = CertificateParams::default();
    params.not_before = epoch + validity.not_before;
    params.not_after = epoch + validity.not_after;
    params.serial_number = Some(serial_number()?);
    params.distinguished_name = common_name(subject);
    params.subject_alt_names = vec![SanType::URI(uri)];
    Ok(params)
}

/// 127 random bits: positive and unique (RFC 5280, section 4.1.2.2).
fn serial_number() -> Result<SerialNumber, IdentityError> {
    let number = u128::from_be_bytes(random_bytes()?) >> 1 | 1;
    Ok(SerialNumber::from_slice(&number.to_be_bytes()))
}

/// SHA-256 of the public key, cut short (RFC 7093, section 2, method 1).
fn key_id(key: &impl PublicKeyData) -> Vec<u8> {
    let mut digest = sha256(key.der_bytes()).to_vec();
    digest.truncate(KEY_ID_LEN);
    digest
}
