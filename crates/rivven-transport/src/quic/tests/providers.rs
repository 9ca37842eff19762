//! The choice of cryptography, from the files of an identity to a call.

use std::path::Path;

use super::*;
use crate::{KeyKind, secret_file};

/// Writes what node `node` of the authority on P-384 has.
fn write_p384(dir: &Path, node: NodeId) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/identity/tests/p384");
    std::fs::copy(folder.join("ca.pem"), dir.join("ca.pem")).unwrap();
    std::fs::copy(folder.join(format!("node-{node}.pem")), dir.join("node.pem")).unwrap();
    let key = std::fs::read_to_string(folder.join(format!("node-{node}.key"))).unwrap();
    secret_file::create_secret(&dir.join("node.key"), &key).unwrap();
}

/// The providers of this build.
fn providers() -> Vec<Provider> {
    let names = Provider::NAMES.into_iter();
    names.filter_map(|name| Provider::by_name(name).ok()).collect()
}

/// Needs the features `crypto-ring` and `crypto-aws-lc-rs` for more than refusals.
#[tokio::test]
async fn the_provider_of_an_identity_decides_which_authorities_are_believed() {
    let (one_dir, two_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_p384(one_dir.path(), 1);
    write_p384(two_dir.path(), 2);
    for one_by in providers() {
        let one = NodeIdentity::load_by(one_dir.path(), &one_by);
        if one_by.name() == "rust-crypto" {
            let error = one.unwrap_err();
            assert_eq!(error.code(), "identity-malformed");
            assert!(error.to_string().contains("another provider"), "{error}");
            continue;
        }
        let one = IdentityWatch::from(one.unwrap());
        assert!(!one.reload().unwrap(), "read again in the same way");
        let one = start(one.current());
        for two_by in providers().into_iter().skip(1) {
            let two = start(NodeIdentity::load_by(two_dir.path(), &two_by).unwrap());
            introduce(&one, &two);
            introduce(&two, &one);
            assert_eq!(echo(&one, 2, ctx(5_000)).await.unwrap().0, 1);
            assert_eq!(echo(&two, 1, ctx(5_000)).await.unwrap().0, 2);
            two.shutdown(Duration::ZERO).await;
        }
    }
}

#[tokio::test]
async fn nodes_with_keys_of_either_kind_call_each_other() {
    let cluster = ClusterId::from_bytes([1; 16]);
    let ca = CertificateAuthority::generate_of(cluster, KeyKind::P256).unwrap();
    let (one, two) = (start(identity(&ca, 1)), start(identity(&ca, 2)));
    introduce(&one, &two);
    assert_eq!(echo(&one, 2, ctx(10_000)).await.unwrap(), (1, "hi".into()));
}
