//! Every provider meets every other.

use std::sync::Arc;

use rustls::{CipherSuite, NamedGroup, crypto::CryptoProvider, server::ParsedCertificate};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};

use rivven_crypto::Provider;

use crate::support::{NAME, client, corporate, ed25519, exchange, providers, roots, server};

/// What TLS 1.3 has for QUIC; TLS_AES_128_CCM_SHA256 is spoken by nobody here.
const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

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
async fn every_suite_is_understood_by_every_other_provider() {
    let identity = ed25519();
    for server in providers() {
        for client in providers() {
            for wanted in client.tls().cipher_suites.iter().copied() {
                // A client must offer AES-128-GCM, which QUIC starts with (RFC 9001, section 5.2). A server of
                // rustls takes what its client names first.
                let others = client.tls().cipher_suites.iter().copied();
                let others = others.filter(|other| *other != wanted);
                let tls = CryptoProvider {
                    cipher_suites: std::iter::once(wanted).chain(others).collect(),
                    ..CryptoProvider::clone(client.tls())
                };
                let negotiated = exchange(&server, Arc::new(tls), &identity).await;
                assert_eq!(negotiated.suite, Some(wanted.suite()), "{client:?} to {server:?}");
            }
            let suites = &client.tls().cipher_suites;
            assert_eq!(suites.len(), SUITES.len());
            assert!(suites.iter().all(|suite| SUITES.contains(&suite.suite())));
        }
    }
}

#[tokio::test]
async fn every_key_exchange_that_two_providers_share_works_alone() {
    let identity = ed25519();
    let mut shared = Vec::new();
    for server in providers() {
        for client in providers() {
            for wanted in client.tls().kx_groups.iter().copied() {
                let known = server.tls().kx_groups.iter();
                if !known
                    .map(|known| known.name())
                    .any(|known| known == wanted.name())
                {
                    continue;
                }
                let tls = CryptoProvider {
                    kx_groups: vec![wanted],
                    ..CryptoProvider::clone(client.tls())
                };
                let negotiated = exchange(&server, Arc::new(tls), &identity).await;
                assert_eq!(
                    negotiated.key_exchange,
                    Some(wanted.name()),
                    "{client:?} to {server:?}"
                );
                shared.push(wanted.name());
            }
        }
    }
    for name in [NamedGroup::X25519, NamedGroup::X25519MLKEM768] {
        assert!(shared.contains(&name));
    }
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
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../chain/p256.key")).unwrap();
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
