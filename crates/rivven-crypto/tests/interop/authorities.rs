//! Which authorities are believed: the table in `docs/security.md` against the providers of this build.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use rivven_crypto::Provider;
use rustls::{client::verify_server_cert_signed_by_trust_anchor, server::ParsedCertificate};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};

use crate::support::{Identity, exchange, node_key, providers, roots};

const DOCUMENT: &str = include_str!("../../../../docs/security.md");

/// Which providers the document says believe the authority of a kind.
fn documented() -> BTreeMap<String, BTreeMap<String, bool>> {
    let (_, after) = DOCUMENT.split_once("<!-- test: authorities -->").unwrap();
    let mut rows = after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(str::trim)
                .collect::<Vec<_>>()
        });
    let head = rows.next().unwrap();
    rows.next();
    let answer = |cell: &str| match cell {
        "yes" => true,
        "no" => false,
        other => panic!("{other:?} is neither yes nor no"),
    };
    rows.map(|cells| {
        let providers = head[1..].iter().zip(&cells[1..]);
        let answers = providers.map(|(name, cell)| (name.trim_matches('`').to_owned(), answer(cell)));
        (cells[0].trim_matches('`').to_owned(), answers.collect())
    })
    .collect()
}

/// Authorities of every kind, each with a certificate that it issued.
fn authorities() -> BTreeMap<String, Identity> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authorities");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "pem"))
        .map(|path| {
            let kind = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut found: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&path)
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let root = found.pop().unwrap();
            let identity = Identity {
                root,
                chain: found,
                key: node_key(),
            };
            (kind, identity)
        })
        .collect()
}

fn is_believed(provider: &Provider, identity: &Identity) -> bool {
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(&identity.chain[0]).unwrap(),
        &roots(identity),
        &[],
        // The year 2030, well within the validity.
        UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000)),
        provider.tls().signature_verification_algorithms.all,
    )
    .is_ok()
}

#[test]
fn each_provider_believes_the_authorities_that_the_document_says_it_does() {
    let (documented, authorities) = (documented(), authorities());
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        authorities.keys().collect::<Vec<_>>(),
        "a row for each file of tests/authorities, and a file for each row"
    );
    for provider in providers() {
        for (kind, identity) in &authorities {
            assert_eq!(
                is_believed(&provider, identity),
                documented[kind][provider.name()],
                "{kind} by {}",
                provider.name()
            );
        }
    }
}

#[tokio::test]
async fn a_believed_authority_carries_a_connection() {
    for (kind, identity) in authorities() {
        for server in providers() {
            for client in providers() {
                if is_believed(&server, &identity) && is_believed(&client, &identity) {
                    let negotiated = exchange(&server, Arc::clone(client.tls()), &identity).await;
                    assert!(negotiated.suite.is_some(), "{kind}");
                }
            }
        }
    }
}
