//! Identities, endpoints of any provider, and one exchange between two of them.

use std::{net::Ipv4Addr, sync::Arc};

use quinn::{Connection, Endpoint};
use rivven_crypto::{Negotiated, Provider, SigningKey};
use rustls::{RootCertStore, crypto::CryptoProvider, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// The host name of every server here.
pub(crate) const NAME: &str = "node.rivven.internal";

/// Every provider of this build.
pub(crate) fn providers() -> Vec<Provider> {
    vec![
        Provider::rust_crypto(),
        #[cfg(feature = "crypto-ring")]
        Provider::ring(),
        #[cfg(feature = "crypto-aws-lc-rs")]
        Provider::aws_lc_rs(),
    ]
}

/// An authority, and a certificate of it with its key.
pub(crate) struct Identity {
    pub(crate) root: CertificateDer<'static>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

fn parameters(serial: u64, key: &SigningKey) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.serial_number = Some(serial.into());
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(key.public_key().to_vec());
    params
}

/// A self-signed Ed25519 authority and an Ed25519 certificate, new for each test.
pub(crate) fn ed25519() -> Identity {
    let ca_key = SigningKey::generate().unwrap();
    let mut ca = parameters(1, &ca_key);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let root = ca.self_signed(&ca_key).unwrap().der().clone();
    let key = SigningKey::generate().unwrap();
    let mut node = parameters(2, &key);
    node.subject_alt_names = vec![rcgen::SanType::DnsName(NAME.try_into().unwrap())];
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let certificate = node.signed_by(&key, &issuer).unwrap();
    Identity {
        root,
        chain: vec![certificate.der().clone()],
        key: key.to_der(),
    }
}

/// The chain in `tests/chain`: RSA with both paddings, above an Ed25519 certificate.
pub(crate) fn corporate() -> Identity {
    let certificate = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    Identity {
        root: certificate(include_str!("../chain/root.pem")),
        chain: vec![
            certificate(include_str!("../chain/node.pem")),
            certificate(include_str!("../chain/intermediate.pem")),
        ],
        key: node_key(),
    }
}

/// The key that every certificate in `tests/chain` and `tests/authorities` is of.
pub(crate) fn node_key() -> PrivateKeyDer<'static> {
    SigningKey::from_pem(include_str!("../chain/node.key"))
        .unwrap()
        .to_der()
}

/// The authority of `identity`, and no other.
pub(crate) fn roots(identity: &Identity) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.root.clone()).unwrap();
    Arc::new(roots)
}

/// A server with the certificate `own`, for clients of the authority of `believed`.
pub(crate) fn server(provider: &Provider, own: &Identity, believed: &Identity) -> Endpoint {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(believed), Arc::clone(provider.tls()))
        .build()
        .unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(provider.tls()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.chain.clone(), own.key.clone_key())
        .unwrap();
    tls.alpn_protocols = vec![b"echo".to_vec()];
    let config = provider.quic_server(tls, &[7; 32]).unwrap();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    Endpoint::new(
        provider.quic_endpoint(&[8; 32]),
        Some(config),
        socket,
        Arc::new(quinn::TokioRuntime),
    )
    .unwrap()
}

/// A client with the certificate `own`, of servers of the authority of `believed`.
pub(crate) fn client(tls: Arc<CryptoProvider>, own: &Identity, believed: &Identity) -> Endpoint {
    let mut config = rustls::ClientConfig::builder_with_provider(tls)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(believed))
        .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"echo".to_vec()];
    // The glue is one and the same for all; what differs is inside the TLS configuration.
    let config = Provider::rust_crypto().quic_client(config).unwrap();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = Provider::rust_crypto().quic_endpoint(&[9; 32]);
    let mut endpoint = Endpoint::new(endpoint, None, socket, Arc::new(quinn::TokioRuntime)).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

/// Answers the first connection's first stream, after having sent the client a Retry.
async fn echo_once(endpoint: Endpoint) -> Option<Connection> {
    let first = endpoint.accept().await?;
    first.retry().unwrap();
    let second = endpoint.accept().await?;
    assert!(second.remote_address_validated());
    let connection = second.await.ok()?;
    let (mut send, mut receive) = connection.accept_bi().await.ok()?;
    let bytes = receive.read_to_end(2 << 20).await.ok()?;
    connection.force_key_update();
    send.write_all(&bytes).await.ok()?;
    send.finish().ok()?;
    send.stopped().await.ok()?;
    Some(connection)
}

/// Handshake, Retry, an echo across a key update of either side; what was settled on.
pub(crate) async fn exchange(
    server_of: &Provider,
    client_of: Arc<CryptoProvider>,
    identity: &Identity,
) -> Negotiated {
    let server = server(server_of, identity, identity);
    let addr = server.local_addr().unwrap();
    let answering = tokio::spawn(echo_once(server));
    let client = client(client_of, identity, identity);
    let connection = client.connect(addr, NAME).unwrap().await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let message: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    assert_eq!(message.len(), 1 << 20);
    let (half, rest) = message.split_at(message.len() / 2);
    send.write_all(half).await.unwrap();
    connection.force_key_update();
    send.write_all(rest).await.unwrap();
    send.finish().unwrap();
    assert_eq!(receive.read_to_end(2 << 20).await.unwrap(), message);
    let served = answering.await.unwrap().unwrap();
    let mut ours = [0; 32];
    let mut theirs = [0; 32];
    connection
        .export_keying_material(&mut ours, b"label", b"context")
        .unwrap();
    served
        .export_keying_material(&mut theirs, b"label", b"context")
        .unwrap();
    assert_eq!(ours, theirs);
    let negotiated = connection
        .handshake_data()
        .unwrap()
        .downcast::<Negotiated>()
        .unwrap();
    assert_eq!(negotiated.protocol.as_deref(), Some(&b"echo"[..]));
    *negotiated
}
