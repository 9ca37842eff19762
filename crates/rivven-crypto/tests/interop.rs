//! Every provider understands every other: handshake, Retry, key update, a mebibyte echoed, refusals.
//!
//! The pure Rust provider meets those of `--features crypto-ring,crypto-aws-lc-rs` where these are enabled.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test ends with its runtime, and so do its tasks"
)]

use std::{net::Ipv4Addr, sync::Arc};

use quinn::{Connection, Endpoint};
use rivven_crypto::{Negotiated, Provider, SigningKey};
use rustls::{
    CipherSuite, NamedGroup, RootCertStore,
    crypto::CryptoProvider,
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};

const NAME: &str = "node.rivven.internal";

fn providers() -> Vec<Provider> {
    vec![
        Provider::rust_crypto(),
        #[cfg(feature = "crypto-ring")]
        Provider::ring(),
        #[cfg(feature = "crypto-aws-lc-rs")]
        Provider::aws_lc_rs(),
    ]
}

/// An authority, and a certificate of it with its key.
struct Identity {
    root: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn parameters(serial: u64, key: &SigningKey) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.serial_number = Some(serial.into());
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(key.public_key().to_vec());
    params
}

/// A self-signed Ed25519 authority and an Ed25519 certificate, new for each test.
fn ed25519() -> Identity {
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
fn corporate() -> Identity {
    let certificate = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    Identity {
        root: certificate(include_str!("chain/root.pem")),
        chain: vec![
            certificate(include_str!("chain/node.pem")),
            certificate(include_str!("chain/intermediate.pem")),
        ],
        key: SigningKey::from_pem(include_str!("chain/node.key"))
            .unwrap()
            .to_der(),
    }
}

fn roots(identity: &Identity) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.root.clone()).unwrap();
    Arc::new(roots)
}

fn server(provider: &Provider, own: &Identity, believed: &Identity) -> Endpoint {
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

fn client(tls: Arc<CryptoProvider>, own: &Identity, believed: &Identity) -> Endpoint {
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
async fn exchange(server_of: &Provider, client_of: Arc<CryptoProvider>, identity: &Identity) -> Negotiated {
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

#[tokio::test]
async fn every_provider_understands_every_other() {
    let identity = ed25519();
    for server in providers() {
        for client in providers() {
            let negotiated = exchange(&server, Arc::clone(client.tls()), &identity).await;
            let hybrid = |provider: &Provider| provider.name() != "ring";
            let expected = if hybrid(&server) && hybrid(&client) {
                NamedGroup::X25519MLKEM768
            } else {
                NamedGroup::X25519
            };
            assert_eq!(
                negotiated.key_exchange,
                Some(expected),
                "{client:?} to {server:?}"
            );
        }
    }
}

#[tokio::test]
async fn every_suite_and_key_exchange_works_alone() {
    let identity = ed25519();
    let pure = Provider::rust_crypto();
    for peer in providers() {
        for suite in pure.tls().cipher_suites.iter().copied() {
            // QUIC starts with AES-128-GCM, so only a server's order of preference can choose the others.
            let mut suites = vec![suite];
            suites.extend(
                pure.tls()
                    .cipher_suites
                    .iter()
                    .copied()
                    .filter(|other| *other != suite),
            );
            let tls = CryptoProvider {
                cipher_suites: suites,
                ..CryptoProvider::clone(pure.tls())
            };
            let negotiated = exchange(&peer, Arc::new(tls), &identity).await;
            assert_eq!(negotiated.suite, Some(suite.suite()));
        }
        for group in pure.tls().kx_groups.iter().copied() {
            let tls = CryptoProvider {
                kx_groups: vec![group],
                ..CryptoProvider::clone(pure.tls())
            };
            if peer
                .tls()
                .kx_groups
                .iter()
                .any(|known| known.name() == group.name())
            {
                let negotiated = exchange(&peer, Arc::new(tls), &identity).await;
                assert_eq!(negotiated.key_exchange, Some(group.name()));
            }
        }
    }
    assert_eq!(pure.tls().cipher_suites.len(), 3);
    let mandatory =
        |suite: &rustls::SupportedCipherSuite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256;
    assert!(pure.tls().cipher_suites.iter().any(mandatory));
}

#[tokio::test]
async fn a_corporate_chain_signed_with_rsa_is_believed_by_every_provider() {
    for server in providers() {
        for client in providers() {
            exchange(&server, Arc::clone(client.tls()), &corporate()).await;
        }
    }
}

#[test]
fn an_altered_corporate_chain_is_refused() {
    let identity = corporate();
    for provider in providers() {
        let algorithms = provider.tls().signature_verification_algorithms.all;
        let verify = |leaf: &CertificateDer<'_>, intermediate: &CertificateDer<'_>| {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf)?,
                &roots(&identity),
                std::slice::from_ref(intermediate),
                // The year 2030, well within the validity.
                UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_900_000_000)),
                algorithms,
            )
        };
        let altered = |certificate: &CertificateDer<'_>| {
            let mut bytes = certificate.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            CertificateDer::from(bytes)
        };
        let (leaf, intermediate) = (&identity.chain[0], &identity.chain[1]);
        assert!(verify(leaf, intermediate).is_ok());
        assert!(verify(&altered(leaf), intermediate).is_err());
        assert!(verify(leaf, &altered(intermediate)).is_err());
    }
}

#[tokio::test]
async fn a_foreign_server_and_a_foreign_client_are_refused() {
    let (one, other) = (ed25519(), ed25519());
    for provider in providers() {
        let tls = || Arc::clone(provider.tls());
        // The client believes another authority than the server's.
        let endpoint = server(&provider, &one, &one);
        let addr = endpoint.local_addr().unwrap();
        let accepting = tokio::spawn(async move { endpoint.accept().await.unwrap().await.is_err() });
        let dialled = client(tls(), &one, &other).connect(addr, NAME).unwrap().await;
        assert!(dialled.is_err());
        assert!(accepting.await.unwrap());
        // The server believes another authority than the client's. The client learns of it after its own
        // handshake is complete.
        let endpoint = server(&provider, &one, &other);
        let addr = endpoint.local_addr().unwrap();
        let accepting = tokio::spawn(async move { endpoint.accept().await.unwrap().await.is_err() });
        let endpoint = client(tls(), &one, &one);
        if let Ok(connection) = endpoint.connect(addr, NAME).unwrap().await {
            connection.closed().await;
        }
        assert!(accepting.await.unwrap());
    }
}

/// Each provider signs with P-256, and the others believe it.
#[test]
fn a_p256_key_signs_for_every_provider() {
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("chain/p256.key")).unwrap();
    for signer in providers() {
        let key = signer
            .tls()
            .key_provider
            .load_private_key(key.clone_key())
            .unwrap();
        let scheme = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
        assert!(key.choose_scheme(&[rustls::SignatureScheme::ED25519]).is_none());
        let signature = key.choose_scheme(&[scheme]).unwrap().sign(b"message").unwrap();
        let public = key.public_key().unwrap();
        // An uncompressed point takes the last 65 bytes.
        let point = &public[public.len() - 65..];
        for verifier in providers() {
            let mapping = verifier.tls().signature_verification_algorithms.mapping;
            let (_, algorithms) = mapping.iter().find(|(known, _)| *known == scheme).unwrap();
            let believed = |message: &[u8]| {
                algorithms
                    .iter()
                    .any(|known| known.verify_signature(point, message, &signature).is_ok())
            };
            assert!(believed(b"message"));
            assert!(!believed(b"massage"));
        }
    }
}
