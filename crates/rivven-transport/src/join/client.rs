//! The joining node: makes its key, asks an issuer it has verified, and writes what a node's directory holds.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use rivven_crypto::{EntropyError, SigningKey, sha256};
use rivven_types::PeerAddr;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::time::{Instant, sleep};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Join, JoinRequest, JoinResponse, JoinToken, UNAVAILABLE};
use crate::{
    Method, MethodSpec, Rejection,
    clock::after,
    identity::{
        CA_FILE, CERT_FILE, CertificateName, GOSSIP_KEY_FILE, IdentityError, KEY_FILE, NodeIdentity,
        SanTemplate, Subject, make_request, read_secret, sections,
    },
    quic::{KnockError, Lookups, knock},
    secret_file,
};

/// Pause between two rounds over a token's addresses.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Who answers is not certified by the authority that the token names. The secret was not sent: the token
    /// is as good as before. Either the address leads elsewhere, or somebody stands between.
    #[error(
        "who answers at {addr} is no member of the token's cluster ({cause}), and was told nothing; check the \
         address, or have a new token made if the cluster's authority was replaced"
    )]
    OtherAuthority {
        /// The address.
        addr: PeerAddr,
        /// What its certificate lacks.
        cause: String,
    },
    /// No issuer could be reached. The token is as good as before; try again.
    #[error("no issuer could be reached; {addr} said last: {cause}")]
    Unreachable {
        /// The address tried last.
        addr: PeerAddr,
        /// What it ran into.
        cause: String,
    },
    /// The issuer refused. The code says why, and whether another token is needed.
    #[error("{}", .0.message)]
    Refused(Rejection),
    /// No answer came. The token may be spent on the key in the directory: the same command with the same
    /// directory goes on from there.
    #[error("{addr} did not answer ({cause}); repeat the command with the same token and directory")]
    Interrupted {
        /// The address tried last.
        addr: PeerAddr,
        /// How the connection ended.
        cause: String,
    },
    /// The directory cannot be used, or the answer does not fit the token. Nothing in use was overwritten.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operating system gave no randomness. Nothing was written.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl JoinError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::OtherAuthority { .. } => "join-other-authority",
            Self::Unreachable { .. } => "join-unreachable",
            Self::Refused(rejection) => &rejection.code,
            Self::Interrupted { .. } => "join-interrupted",
            Self::Identity(error) => error.code(),
            Self::Entropy(_) => "no-entropy",
        }
    }
}

/// Spends `token`, and writes `ca.pem`, `node.pem`, `node.key` and `gossip.key` to `dir`, which is then the
/// `tls_dir` of its node.
///
/// The key is made here and never leaves `dir`; private files have mode 600. Issuers that cannot answer are
/// asked again until `timeout` is over. A directory in which an earlier attempt stopped half way is completed
/// with the key that lies there; one with a certificate is refused.
///
/// Blocks on the file system for a few small files.
///
/// Cancel safety: a dropped future may have spent the token; calling again with the same `dir` goes on.
///
/// # Errors
/// [`JoinError`].
pub async fn join(token: &JoinToken, dir: &Path, timeout: Duration) -> Result<(), JoinError> {
    let deadline = after(timeout);
    let lookups = Lookups::default();
    let key = Directory(dir).key()?;
    let asked = JoinRequest {
        node: token.node(),
        secret: token.secret().clone(),
        request: make_request(&key)?,
    };
    // As long as it may be from the beginning: a buffer that grows leaves the secret behind where it was.
    let mut body = Zeroizing::new(vec![0; <Join as Method>::MAX_REQUEST]);
    // The request is ours and fits, so encoding cannot fail.
    let len = postcard::to_slice(&asked, &mut body).map_or(0, |encoded| encoded.len());
    body.truncate(len);
    loop {
        let (mut last, mut stranger) = (None, None);
        for addr in token.addresses() {
            match ask(token, (addr, &lookups), &body, deadline).await {
                Ok(answer) => return Directory(dir).complete(token, &key, &answer),
                // Whoever has an old address of the issuer must not keep the node from the right one.
                Err(error @ JoinError::OtherAuthority { .. }) => stranger = Some(error),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        if let Some(stranger) = stranger.take_if(|_| last.is_none()) {
            return Err(stranger);
        }
        if let Some(error) = last.take_if(|_| Instant::now() + PAUSE >= deadline) {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

impl JoinError {
    /// Whether asking again, or elsewhere, cannot help.
    fn is_final(&self) -> bool {
        match self {
            Self::Refused(rejection) => {
                !["shutting-down", "unknown-method", UNAVAILABLE].contains(&rejection.code.as_str())
            }
            Self::Unreachable { .. } | Self::Interrupted { .. } => false,
            Self::OtherAuthority { .. } | Self::Identity(_) | Self::Entropy(_) => true,
        }
    }
}

async fn ask(
    token: &JoinToken,
    (addr, lookups): (&PeerAddr, &Lookups),
    body: &[u8],
    deadline: Instant,
) -> Result<JoinResponse, JoinError> {
    let interrupted = |cause| JoinError::Interrupted {
        addr: addr.clone(),
        cause,
    };
    let spec = MethodSpec::of::<Join>();
    match knock((addr, lookups), token.authority(), spec, body, deadline).await {
        Ok(answer) => {
            let response = postcard::from_bytes(&answer);
            wipe(answer);
            response.map_err(|error| interrupted(format!("its answer is not understood: {error}")))
        }
        Err(KnockError::Stranger(cause)) => Err(JoinError::OtherAuthority {
            addr: addr.clone(),
            cause,
        }),
        Err(KnockError::Unreachable(cause)) => Err(JoinError::Unreachable {
            addr: addr.clone(),
            cause,
        }),
        Err(KnockError::Rejected(rejection)) => Err(JoinError::Refused(rejection)),
        Err(KnockError::Interrupted(cause)) => Err(interrupted(cause)),
    }
}

/// Wipes a message that held secrets, unless it is part of a packet's memory, which QUIC holds.
fn wipe(message: Bytes) {
    if let Ok(mut message) = message.try_into_mut() {
        message.as_mut().zeroize();
    }
}

/// The directory of the node to be.
struct Directory<'a>(&'a Path);

impl Directory<'_> {
    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// The key of an interrupted attempt, or a new one, which is on disk before anything is asked.
    fn key(&self) -> Result<SigningKey, JoinError> {
        let path = self.path(KEY_FILE);
        let begun = path.exists() && !self.path(CERT_FILE).exists();
        if begun {
            let text = read_secret(&path)?;
            return SigningKey::from_pem(&text).map_err(|_| {
                JoinError::Identity(IdentityError::Malformed {
                    path,
                    cause: "it holds no Ed25519 or P-256 private key",
                })
            });
        }
        let files = [CERT_FILE, KEY_FILE, CA_FILE, GOSSIP_KEY_FILE];
        if let Some(path) = files
            .map(|file| self.path(file))
            .into_iter()
            .find(|path| path.exists())
        {
            return Err(IdentityError::Exists { path }.into());
        }
        let key = SigningKey::generate()?;
        let written = secret_file::create_secret_dir(self.0)
            .and_then(|()| secret_file::create_secret(&path, &key.to_pem()));
        written.map_err(unwritable(&path))?;
        Ok(key)
    }

    /// Checks the answer and writes it. The certificate comes last: where it lies, all lies.
    fn complete(&self, token: &JoinToken, key: &SigningKey, answer: &JoinResponse) -> Result<(), JoinError> {
        let template: SanTemplate = answer.template.parse().map_err(|_| IdentityError::Malformed {
            path: self.path(CERT_FILE),
            cause: "the cluster's template of names is none",
        })?;
        let Some(authority) = pinned(token, &answer.authorities) else {
            let (path, ca) = (self.path(CERT_FILE), self.path(CA_FILE));
            return Err(IdentityError::NotSignedByCa { path, ca }.into());
        };
        let key_pem = key.to_pem();
        let identity = NodeIdentity::from_pem_with(authority, &answer.certificate, &key_pem, &template)?;
        let expected = CertificateName {
            cluster: token.cluster(),
            subject: Subject::Node(token.node()),
        };
        if *identity.name() != expected {
            let (ours, found) = (token.node(), identity.node());
            return Err(IdentityError::OtherNode { ours, found }.into());
        }
        if let Some(gossip_key) = &answer.gossip_key {
            let path = self.path(GOSSIP_KEY_FILE);
            secret_file::replace_secret(&path, gossip_key).map_err(unwritable(&path))?;
        }
        for (file, text) in [(CA_FILE, authority), (CERT_FILE, answer.certificate.as_str())] {
            let path = self.path(file);
            secret_file::replace_text(&path, text).map_err(unwritable(&path))?;
        }
        Ok(())
    }
}

/// The authority of `token` among those of an answer, PEM.
///
/// The others are left out: whoever answers has proven to be a member under this one, which gives it no say
/// in whom the joining node believes beside it.
fn pinned<'a>(token: &JoinToken, authorities: &'a str) -> Option<&'a str> {
    let is_pinned = |section: &&str| {
        CertificateDer::from_pem_slice(section.as_bytes())
            .is_ok_and(|certificate| sha256(&certificate) == *token.authority())
    };
    sections(authorities).find(is_pinned)
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> JoinError {
    let path = path.to_path_buf();
    move |source| IdentityError::Unwritable { path, source }.into()
}
