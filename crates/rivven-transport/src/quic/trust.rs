//! Certificates and authorities of handshakes, taken anew from the identity in use at each one.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rivven_crypto::Provider;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::verify_tls13_signature,
    server::{
        ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tracing::error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::JOIN_ALPN;
use crate::{
    Router,
    identity::{IdentityWatch, NodeIdentity},
    issuer::RENEWABLE_FOR,
};

/// Which side of a handshake the peer was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The peer dialled this node.
    Dialled,
    /// This node dialled the peer.
    Answered,
}

/// Answers what TLS asks: which certificate to show, and whose to believe.
///
/// A peer is believed when the cluster's authority signed its certificate, whatever host it was reached
/// at. Which node a certificate names is checked once the connection stands, where a refusal can be
/// explained to the peer; nothing is sent or believed before.
pub(super) struct Trust {
    provider: Provider,
    watch: IdentityWatch,
    router: Router,
    prepared: ArcSwap<Prepared>,
}

/// An identity in the form TLS takes it.
struct Prepared {
    identity: NodeIdentity,
    own: Arc<CertifiedKey>,
    /// With the authorities, for those who know them by their hash alone.
    introduced: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Prepared {
    fn new(identity: NodeIdentity, provider: &Provider) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for anchor in identity.anchors() {
            roots.add(anchor.clone())?;
        }
        let roots = Arc::new(roots);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider.tls()))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let own = CertifiedKey::from_der(identity.chain(), identity.key(), provider.tls())?;
        let chain = [identity.chain(), identity.anchors().to_vec()].concat();
        let introduced = CertifiedKey::from_der(chain, identity.key(), provider.tls())?;
        Ok(Self {
            identity,
            own: Arc::new(own),
            introduced: Arc::new(introduced),
            roots,
            clients,
        })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Trust in the authorities of `watch`, whatever they are at each moment.
    ///
    /// While `router` has a method for them, expired certificates of peers that dial are let in too.
    pub(super) fn new(
        watch: IdentityWatch,
        router: Router,
        provider: &Provider,
    ) -> Result<Arc<Self>, rustls::Error> {
        let prepared = Prepared::new(watch.current(), provider)?;
        Ok(Arc::new(Self {
            provider: provider.clone(),
            watch,
            router,
            prepared: ArcSwap::from_pointee(prepared),
        }))
    }

    pub(super) const fn watch(&self) -> &IdentityWatch {
        &self.watch
    }

    fn prepared(&self) -> Arc<Prepared> {
        let prepared = self.prepared.load_full();
        let current = self.watch.current();
        if current.is(&prepared.identity) {
            return prepared;
        }
        match Prepared::new(current, &self.provider) {
            Ok(new) => {
                let new = Arc::new(new);
                self.prepared.store(Arc::clone(&new));
                new
            }
            // The identity was checked when it was read, so only a fault of this program leads here.
            Err(error) => {
                error!(%error, "TLS does not accept the new certificates; the earlier ones stay in use");
                prepared
            }
        }
    }

    /// Whether a peer's certificates are believed at `now`.
    pub(super) fn verify(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let prepared = self.prepared();
        match side {
            Side::Dialled => self.verify_client(leaf, intermediates, now).map(|_| ()),
            Side::Answered => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf)?,
                &prepared.roots,
                intermediates,
                now,
                self.provider.tls().signature_verification_algorithms.all,
            ),
        }
    }

    fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let prepared = self.prepared();
        let verify = |at| prepared.clients.verify_client_cert(leaf, intermediates, at);
        match verify(now) {
            Err(error) if is_expired(&error) && self.router.answers_expired() => {
                let chain = std::iter::once(leaf).chain(intermediates);
                match end_of(chain).and_then(|end| end.checked_sub(1)) {
                    Some(last) if now.as_secs().saturating_sub(last) <= RENEWABLE_FOR.as_secs() => {
                        verify(UnixTime::since_unix_epoch(Duration::from_secs(last)))
                    }
                    Some(_) | None => Err(error),
                }
            }
            other => other,
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.tls().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .tls()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const fn is_expired(error: &rustls::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext};
    matches!(
        error,
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. })
    )
}

/// First second since 1970 at which a certificate of the chain is no longer valid: the last second that it
/// names still is (RFC 5280, section 4.1.2.5).
pub(super) fn end_of<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> Option<u64> {
    let mut first = u64::MAX;
    for certificate in chain {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let last = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        first = first.min(last.saturating_add(1));
    }
    Some(first)
}

pub(super) fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
}

impl ResolvesServerCert for Trust {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let prepared = self.prepared();
        let joins = client_hello
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|protocol| protocol == JOIN_ALPN));
        Some(Arc::clone(if joins {
            &prepared.introduced
        } else {
            &prepared.own
        }))
    }
}

impl ResolvesClientCert for Trust {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.prepared().own))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        self.verify(Side::Answered, &chain, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Trust {
    /// None: nodes have one certificate, and show it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// Required of everyone, except that while nodes may join one can come without. It reaches the door and
    /// nothing else: whatever is not a stranger's connection is certified before anything is read of it.
    fn client_auth_mandatory(&self) -> bool {
        !self.router.answers_strangers()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify_client(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
