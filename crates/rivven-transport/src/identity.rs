//! Who this node is: its certificate, its key, and the authority whose certificates it believes.
//!
//! A directory holds `ca.pem`, `node.pem`, `node.key` and `gossip.key`; [`write_cluster`] makes one for
//! each node of a new cluster. The certificate names cluster and node in one URI, [`CertificateName`].

mod authority;
mod check;
mod error;
mod layout;
mod name;
mod request;
mod subject;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rivven_crypto::{Provider, SigningKey};
use rivven_types::{ClusterId, NodeId};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::{
    clock::WallClock,
    secret_file::{self, ReadError},
};
use check::Paths;

pub(crate) use authority::sections;
pub use authority::{CertificateAuthority, IssuedIdentity, Validity};
pub use error::{BadNodes, IdentityError};
pub use layout::{
    CA_FILE, CA_KEY_FILE, CERT_FILE, GOSSIP_KEY_FILE, Issued, KEY_FILE, issue_node, issue_node_with,
    issue_to, node_dir_name, subject_dir_name, write_cluster, write_cluster_with,
};
pub use name::{CertificateName, NodeName, ParseNameError, SanTemplate, SanTemplateError};
pub(crate) use request::make as make_request;
pub use request::{MAX_REQUEST, request_key};
pub use subject::{Label, MAX_LABEL, Role, Roles, Subject};
pub use watch::{IdentityWatch, RELOAD_INTERVAL};

/// A node's certificate and key, checked, with the authority it trusts. Cheap to clone.
#[derive(Clone)]
pub struct NodeIdentity(Arc<Inner>);

struct Inner {
    name: CertificateName,
    template: SanTemplate,
    provider: Provider,
    anchors: Vec<CertificateDer<'static>>,
    /// What the anchors were read from.
    anchors_pem: Arc<str>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<SigningKey>,
    validity: Validity,
    /// Where it was read from, and may be replaced while it is in use.
    dir: Option<PathBuf>,
}

/// By what rules an identity is checked.
#[derive(Clone, Copy)]
struct Terms<'a> {
    template: &'a SanTemplate,
    provider: &'a Provider,
    /// Its certificate may have expired.
    expired: bool,
}

impl<'a> Terms<'a> {
    const fn of(template: &'a SanTemplate, provider: &'a Provider) -> Self {
        Self {
            template,
            provider,
            expired: false,
        }
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Reads and checks the identity in `tls_dir`.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and the remedy: missing, unreadable, a key that others can read,
    /// malformed, expired, not yet valid, signed by another authority, key of another certificate.
    pub fn load(tls_dir: &Path) -> Result<Self, IdentityError> {
        Self::load_with(tls_dir, &SanTemplate::default())
    }

    /// [`Self::load`] with the cryptography of `provider`, which decides which authorities are believed.
    ///
    /// The default knows authorities on Ed25519, P-256 and RSA; `docs/security.md` lists them all. A transport
    /// uses the provider of its identity unless told otherwise.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_by(tls_dir: &Path, provider: &Provider) -> Result<Self, IdentityError> {
        Self::read(tls_dir, Terms::of(&SanTemplate::default(), provider))
    }

    /// [`Self::load`] in a cluster whose names follow `template`.
    ///
    /// # Errors
    /// As [`Self::load`]; `Malformed` when the certificate follows another template.
    pub fn load_with(tls_dir: &Path, template: &SanTemplate) -> Result<Self, IdentityError> {
        Self::read(tls_dir, Terms::of(template, &Provider::default()))
    }

    /// [`Self::load_with`] with the cryptography of `provider`, see [`Self::load_by`].
    ///
    /// # Errors
    /// As [`Self::load_with`].
    pub fn load_as(
        tls_dir: &Path,
        template: &SanTemplate,
        provider: &Provider,
    ) -> Result<Self, IdentityError> {
        Self::read(tls_dir, Terms::of(template, provider))
    }

    /// [`Self::load_with`], with the cryptography of `provider`, for a node that can have its certificate
    /// renewed: it may have expired.
    ///
    /// With an expired certificate a node reaches nothing but the renewal, see [`crate::issuer`].
    ///
    /// # Errors
    /// As [`Self::load_with`], without `Expired`.
    pub fn load_for_renewal(
        tls_dir: &Path,
        template: &SanTemplate,
        provider: &Provider,
    ) -> Result<Self, IdentityError> {
        let terms = Terms {
            expired: true,
            ..Terms::of(template, provider)
        };
        Self::read(tls_dir, terms)
    }

    /// What the files in `tls_dir` hold by this moment, read in the same way as this identity was.
    pub(crate) fn read_again(&self, tls_dir: &Path) -> Result<Self, IdentityError> {
        Self::read(tls_dir, Terms::of(self.template(), self.provider()))
    }

    fn read(tls_dir: &Path, terms: Terms<'_>) -> Result<Self, IdentityError> {
        let paths = Paths {
            ca: tls_dir.join(CA_FILE),
            certificate: tls_dir.join(CERT_FILE),
            key: tls_dir.join(KEY_FILE),
        };
        let ca = read(&paths.ca, secret_file::read_text)?;
        let certificate = read(&paths.certificate, secret_file::read_text)?;
        let key = read(&paths.key, secret_file::read_secret)?;
        let texts = [ca, certificate, key];
        Self::assemble(&texts, &paths, terms, Some(tls_dir.to_path_buf()))
    }

    /// Checks an identity that is not in files.
    ///
    /// # Errors
    /// As [`Self::load`], with the plain file names.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, IdentityError> {
        Self::from_pem_with(ca, certificate, key, &SanTemplate::default())
    }

    /// [`Self::from_pem`] in a cluster whose names follow `template`.
    ///
    /// # Errors
    /// As [`Self::from_pem`]; `Malformed` when the certificate follows another template.
    pub fn from_pem_with(
        ca: &str,
        certificate: &str,
        key: &str,
        template: &SanTemplate,
    ) -> Result<Self, IdentityError> {
        let paths = Paths {
            ca: PathBuf::from(CA_FILE),
            certificate: PathBuf::from(CERT_FILE),
            key: PathBuf::from(KEY_FILE),
        };
        let provider = Provider::default();
        Self::assemble(
            &[ca, certificate, key],
            &paths,
            Terms::of(template, &provider),
            None,
        )
    }

    fn assemble<S: AsRef<str>>(
        [ca, certificate, key]: &[S; 3],
        paths: &Paths,
        terms: Terms<'_>,
        dir: Option<PathBuf>,
    ) -> Result<Self, IdentityError> {
        let [ca, certificate, key] = [ca, certificate, key].map(AsRef::as_ref);
        let anchors = (check::certificates(ca, &paths.ca)?, Arc::from(ca));
        let key = signing_key(key, &paths.key)?;
        let inner = Self::check(anchors, certificate, Arc::new(key), paths, terms)?;
        Ok(Self(Arc::new(Inner { dir, ..inner })))
    }

    fn check(
        (anchors, anchors_pem): (Vec<CertificateDer<'static>>, Arc<str>),
        certificate: &str,
        key: Arc<SigningKey>,
        paths: &Paths,
        terms: Terms<'_>,
    ) -> Result<Inner, IdentityError> {
        let chain = check::certificates(certificate, &paths.certificate)?;
        let name = chain.first().and_then(|leaf| terms.template.name_of(leaf).ok());
        let answers = name.as_ref().is_none_or(|name| name.subject.is_member());
        let demands = check::Demands {
            provider: terms.provider,
            answers,
            expired: terms.expired,
        };
        check::check(&anchors, &chain, &key, demands, paths)?;
        let validity = chain.first().and_then(check::validity);
        let (name, validity) = name.zip(validity).ok_or_else(|| IdentityError::Malformed {
            path: paths.certificate.clone(),
            cause: "it names nobody by the template in use, which is rivven://<cluster id>/<role>/<id> by default",
        })?;
        Ok(Inner {
            name,
            template: terms.template.clone(),
            provider: terms.provider.clone(),
            anchors,
            anchors_pem,
            chain,
            key,
            validity,
            dir: None,
        })
    }

    /// An identity that no check would let pass, for tests of the peer's checks.
    #[cfg(test)]
    pub(crate) fn unchecked(name: impl Into<CertificateName>, ca: &str, issued: &IssuedIdentity) -> Self {
        let path = Path::new("test");
        Self(Arc::new(Inner {
            name: name.into(),
            template: SanTemplate::default(),
            provider: Provider::default(),
            anchors: check::certificates(ca, path).unwrap(),
            anchors_pem: Arc::from(ca),
            validity: check::validity(&check::certificates(issued.cert_pem(), path).unwrap()[0]).unwrap(),
            chain: check::certificates(issued.cert_pem(), path).unwrap(),
            key: Arc::new(SigningKey::from_pem(issued.key_pem()).unwrap()),
            dir: None,
        }))
    }

    /// The cluster that the certificate names.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.0.name.cluster
    }

    /// The node that the certificate names; 0 for an operator or client.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.name.subject.node()
    }

    /// Everything that the certificate's URI says.
    #[must_use]
    pub fn name(&self) -> &CertificateName {
        &self.0.name
    }

    /// How this cluster writes names.
    #[must_use]
    pub fn template(&self) -> &SanTemplate {
        &self.0.template
    }

    /// The cryptography that it was checked with.
    #[must_use]
    pub fn provider(&self) -> &Provider {
        &self.0.provider
    }

    pub(crate) fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.0.anchors
    }

    /// Whether this node believes the authority whose certificate, DER, has this SHA-256.
    #[must_use]
    pub fn believes(&self, authority: &[u8; 32]) -> bool {
        self.0
            .anchors
            .iter()
            .any(|anchor| rivven_crypto::sha256(anchor) == *authority)
    }

    /// The certificates of the authorities that this node believes, PEM: what `ca.pem` holds.
    #[must_use]
    pub fn authorities_pem(&self) -> &str {
        &self.0.anchors_pem
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.chain.clone()
    }

    /// From when to when the certificate is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.0.validity
    }

    /// Whether the certificate's time is over.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        WallClock::now().as_secs() > self.0.validity.not_after.as_secs()
    }

    /// A request, DER, for a new certificate of the same key.
    ///
    /// # Errors
    /// [`IdentityError::Issue`].
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        request::make(&self.0.key)
    }

    /// The same key, name and authorities with a new certificate, PEM.
    ///
    /// # Errors
    /// [`IdentityError`] as of [`Self::load`]; `OtherNode` when it is of another name.
    pub fn with_certificate(&self, certificate: &str) -> Result<Self, IdentityError> {
        let paths = Paths {
            ca: PathBuf::from(CA_FILE),
            certificate: PathBuf::from(CERT_FILE),
            key: PathBuf::from(KEY_FILE),
        };
        let key = Arc::clone(&self.0.key);
        let anchors = (self.0.anchors.clone(), Arc::clone(&self.0.anchors_pem));
        let renewed = Self::check(
            anchors,
            certificate,
            key,
            &paths,
            Terms::of(self.template(), self.provider()),
        )?;
        if renewed.name != self.0.name {
            return Err(IdentityError::OtherNode {
                ours: self.node(),
                found: renewed.name.subject.node(),
            });
        }
        let dir = self.0.dir.clone();
        Ok(Self(Arc::new(Inner { dir, ..renewed })))
    }

    /// Whether `dir` holds the certificates and the key of this identity, and no others.
    ///
    /// # Errors
    /// [`IdentityError`]: one of the two files is missing, unreadable, exposed or malformed.
    pub(crate) fn lies_in(&self, dir: &Path) -> Result<bool, IdentityError> {
        let (certificate, key) = (dir.join(CERT_FILE), dir.join(KEY_FILE));
        let chain = check::certificates(&read(&certificate, secret_file::read_text)?, &certificate)?;
        let found = signing_key(&read(&key, secret_file::read_secret)?, &key)?;
        Ok(chain == self.0.chain && found.public_key() == self.0.key.public_key())
    }

    /// Whether both are one value, rather than equal ones.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether both hold the same certificates; the key follows from its certificate.
    fn same_certificates(&self, other: &Self) -> bool {
        self.0.anchors == other.0.anchors && self.0.chain == other.0.chain
    }

    pub(crate) fn dir(&self) -> Option<&Path> {
        self.0.dir.as_deref()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.0.key.to_der()
    }
}

fn signing_key(text: &str, path: &Path) -> Result<SigningKey, IdentityError> {
    SigningKey::from_pem(text).map_err(|_| IdentityError::Malformed {
        path: path.to_path_buf(),
        cause: "it holds no Ed25519 or P-256 private key",
    })
}

/// The private key of an authority, PEM, in a file that only its owner may read. A secret.
///
/// # Errors
/// [`IdentityError`]: missing, unreadable, readable by others, or too long.
pub fn read_key(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    read_secret(path)
}

/// A file that only its owner may read.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    read(path, secret_file::read_secret)
}

type Reader = fn(&Path) -> Result<Zeroizing<String>, ReadError>;

fn read(path: &Path, reader: Reader) -> Result<Zeroizing<String>, IdentityError> {
    let path_buf = path.to_path_buf();
    reader(path).map_err(|error| match error {
        ReadError::Io(source) if source.kind() == io::ErrorKind::NotFound => {
            IdentityError::Missing { path: path_buf }
        }
        ReadError::Io(source) => IdentityError::Unreadable {
            path: path_buf,
            source,
        },
        ReadError::Exposed => IdentityError::KeyExposed { path: path_buf },
        ReadError::TooLong => IdentityError::Malformed {
            path: path_buf,
            cause: "it is longer than 64 KiB",
        },
        ReadError::NotText => IdentityError::Malformed {
            path: path_buf,
            cause: "it is not text",
        },
    })
}
