//! Identities: what is made, what is accepted, and the message for each fault.

use std::{fs, time::Duration};

use rivven_crypto::KeyKind;

use super::*;

fn authority(cluster: u8) -> CertificateAuthority {
    CertificateAuthority::generate(ClusterId::from_bytes([cluster; 16])).unwrap()
}

fn name(cluster: u8, node: NodeId) -> NodeName {
    NodeName {
        cluster: ClusterId::from_bytes([cluster; 16]),
        node,
    }
}

fn assemble(ca: &CertificateAuthority, issued: &IssuedIdentity) -> Result<NodeIdentity, IdentityError> {
    NodeIdentity::from_pem(ca.cert_pem(), issued.cert_pem(), issued.key_pem())
}

#[track_caller]
fn check<T: fmt::Debug>(result: Result<T, IdentityError>, code: &str, mentions: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), code);
    assert!(error.to_string().contains(mentions), "{error}");
}

#[test]
fn an_issued_certificate_names_its_node_and_verifies() {
    let ca = authority(1);
    let identity = assemble(&ca, &ca.issue(7).unwrap()).unwrap();
    assert_eq!((identity.cluster(), identity.node()), (ca.cluster(), 7));
    assert_eq!(
        format!("{identity:?}"),
        format!(
            "NodeIdentity {{ name: {:?}, .. }}",
            CertificateName::from(name(1, 7))
        )
    );
}

#[test]
fn an_authority_read_from_text_issues_certificates_that_the_first_one_signed() {
    let ca = authority(1);
    let again = CertificateAuthority::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap();
    assert_eq!(again.cluster(), ca.cluster());
    assert!(assemble(&ca, &again.issue(7).unwrap()).is_ok());
    check(
        CertificateAuthority::from_pem(ca.cert_pem(), &authority(1).key_pem()),
        "identity-key-mismatch",
        "ca.key",
    );
    let node = ca.issue(7).unwrap();
    check(
        CertificateAuthority::from_pem(node.cert_pem(), node.key_pem()),
        "identity-malformed",
        "authority",
    );
}

#[test]
fn an_authority_is_found_among_several_by_its_key() {
    let (old, new, third) = (authority(1), authority(1), authority(1));
    let bundle = format!("# two of them\n{}\n{}# the end\n", old.cert_pem(), new.cert_pem());
    for known in [&old, &new] {
        let found = CertificateAuthority::from_bundle(&bundle, &known.key_pem()).unwrap();
        assert_eq!(found.fingerprint(), known.fingerprint());
        let issued = found.issue(7).unwrap();
        assert!(assemble(known, &issued).is_ok());
    }
    assert_ne!(old.fingerprint(), new.fingerprint());
    let check_bundle = |bundle: &str, code| {
        let found = CertificateAuthority::from_bundle(bundle, &third.key_pem());
        check(found, code, "ca.pem");
    };
    check_bundle(&bundle, "identity-key-mismatch");
    check_bundle("", "identity-malformed");
    check_bundle("no certificate", "identity-malformed");
}

#[test]
fn dates_are_checked_and_named() {
    let ca = authority(1);
    let validity = |from, to| Validity {
        not_before: Duration::from_secs(from),
        not_after: Duration::from_secs(to),
    };
    let year_2001 = validity(978_307_200, 978_307_300);
    check(
        assemble(&ca, &ca.issue_as(name(1, 7), year_2001).unwrap()),
        "certificate-expired",
        "2001",
    );
    let year_2100 = validity(4_102_444_800, 4_102_444_900);
    check(
        assemble(&ca, &ca.issue_as(name(1, 7), year_2100).unwrap()),
        "certificate-not-yet-valid",
        "2100",
    );
    check(
        ca.issue_as(name(1, 7), validity(0, 300_000_000_000)),
        "identity-issue-failed",
        "9999",
    );
}

#[test]
fn mixed_up_files_are_told_apart() {
    let (ca, other) = (authority(1), authority(1));
    let (one, two) = (ca.issue(1).unwrap(), ca.issue(2).unwrap());
    check(assemble(&other, &one), "certificate-not-signed-by-ca", "ca.pem");
    let mixed = NodeIdentity::from_pem(ca.cert_pem(), one.cert_pem(), two.key_pem());
    check(mixed, "identity-key-mismatch", "node.key");
    let ca_key = ca.key_pem();
    let as_node = NodeIdentity::from_pem(ca.cert_pem(), ca.cert_pem(), &ca_key);
    check(as_node, "identity-malformed", "authority");
    let empty = NodeIdentity::from_pem("", one.cert_pem(), one.key_pem());
    check(empty, "identity-malformed", "no certificate");
    let no_key = NodeIdentity::from_pem(ca.cert_pem(), one.cert_pem(), one.cert_pem());
    check(no_key, "identity-malformed", "private key");
    let crowd = ca.cert_pem().repeat(9);
    check(
        NodeIdentity::from_pem(&crowd, one.cert_pem(), one.key_pem()),
        "identity-malformed",
        "more than 8",
    );
}

#[test]
fn a_written_cluster_loads_on_every_node_and_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pki");
    let cluster = write_cluster(&out, &[1, 2]).unwrap();
    for node in [1, 2] {
        let tls_dir = out.join(node_dir_name(node));
        let identity = NodeIdentity::load(&tls_dir).unwrap();
        assert_eq!((identity.cluster(), identity.node()), (cluster, node));
        same_gossip_key(&tls_dir, &out.join(node_dir_name(1)));
    }
    check(write_cluster(&out, &[3]), "identity-exists", "ca.pem");
    check(write_cluster(&out, &[]), "identity-bad-nodes", "none");
    check(write_cluster(&out, &[1, 1]), "identity-bad-nodes", "twice");
    check(write_cluster(&out, &[0]), "identity-bad-nodes", "no node id");
    assert!(!out.join("node-3").exists());
}

#[test]
fn certificates_are_issued_again_and_for_newcomers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    let cluster = write_cluster(out, &[1, 2]).unwrap();
    let one = out.join(node_dir_name(1));
    let files = || [KEY_FILE, CERT_FILE, GOSSIP_KEY_FILE].map(|file| fs::read(one.join(file)).unwrap());
    let [key, certificate, gossip] = files();
    // An expired certificate is what the command is for.
    let ca = CertificateAuthority::from_pem(
        &fs::read_to_string(out.join(CA_FILE)).unwrap(),
        &fs::read_to_string(out.join(CA_KEY_FILE)).unwrap(),
    );
    let identity = NodeIdentity::load(&one).unwrap();
    let ended = Validity {
        not_before: Duration::from_secs(978_307_200),
        not_after: Duration::from_secs(978_307_300),
    };
    let name = NodeName { cluster, node: 1 };
    let expired = ca
        .unwrap()
        .sign_request(&identity.request().unwrap(), name, ended);
    fs::write(one.join(CERT_FILE), expired.unwrap()).unwrap();
    check(NodeIdentity::load(&one), "certificate-expired", "cert issue");
    assert_eq!(issue_node(out, 1).unwrap(), Issued::Renewed);
    let [key_after, certificate_after, gossip_after] = files();
    assert_eq!((key, gossip), (key_after, gossip_after));
    assert_ne!(certificate, certificate_after);
    assert_eq!(NodeIdentity::load(&one).unwrap().name(), identity.name());
    assert_eq!(issue_node(out, 3).unwrap(), Issued::Added);
    let three = out.join(node_dir_name(3));
    assert_eq!(NodeIdentity::load(&three).unwrap().node(), 3);
    same_gossip_key(&three, &one);
    check(issue_node(out, 0), "identity-bad-nodes", "no node id");
    check(issue_node(&one, 3), "identity-missing", CA_KEY_FILE);
}

#[track_caller]
fn same_gossip_key(a: &Path, b: &Path) {
    let load = |dir: &Path| crate::datagram::GossipKey::load(&dir.join(GOSSIP_KEY_FILE)).unwrap();
    assert_eq!(load(a).to_text(), load(b).to_text());
}

#[test]
fn a_missing_directory_names_the_command_that_makes_it() {
    let dir = tempfile::tempdir().unwrap();
    check(
        NodeIdentity::load(dir.path()),
        "identity-missing",
        "rivven-node cert init --nodes 1,2,3 --out DIR",
    );
}

#[cfg(unix)]
#[test]
fn keys_are_written_for_the_owner_alone_and_refused_otherwise() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write_cluster(dir.path(), &[1]).unwrap();
    let tls_dir = dir.path().join("node-1");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for key in [
        dir.path().join(CA_KEY_FILE),
        tls_dir.join(KEY_FILE),
        tls_dir.join(GOSSIP_KEY_FILE),
    ] {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
    for (file, code) in [
        (GOSSIP_KEY_FILE, "gossip-key-exposed"),
        (KEY_FILE, "identity-key-exposed"),
    ] {
        let path = tls_dir.join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let got = match file {
            KEY_FILE => NodeIdentity::load(&tls_dir).unwrap_err().code(),
            _ => crate::datagram::GossipKey::load(&path).unwrap_err().code(),
        };
        assert_eq!(got, code);
    }
    fs::write(tls_dir.join(CA_FILE), vec![b'x'; 70_000]).unwrap();
    check(NodeIdentity::load(&tls_dir), "identity-malformed", "64 KiB");
}

#[test]
fn a_cluster_is_made_and_added_to_by_its_template_of_names() {
    let out = tempfile::tempdir().unwrap();
    let spiffe: SanTemplate = "spiffe://example.org/{cluster}/{role}/{id}".parse().unwrap();
    let cluster = write_cluster_with(out.path(), &[1], &spiffe, KeyKind::default()).unwrap();
    for (node, expected) in [(1, Issued::Renewed), (2, Issued::Added)] {
        assert_eq!(issue_node_with(out.path(), node, &spiffe).unwrap(), expected);
        let dir = out.path().join(node_dir_name(node));
        let identity = NodeIdentity::load_with(&dir, &spiffe).unwrap();
        assert_eq!((identity.cluster(), identity.node()), (cluster, node));
        check(NodeIdentity::load(&dir), "identity-malformed", "template");
    }
    check(issue_node(out.path(), 1), "identity-malformed", "template");
}

#[test]
fn a_cluster_on_p256_is_made_renewed_and_added_to() {
    let out = tempfile::tempdir().unwrap();
    let template = SanTemplate::default();
    let cluster = write_cluster_with(out.path(), &[1], &template, KeyKind::P256).unwrap();
    for (node, expected) in [(1, Issued::Renewed), (2, Issued::Added)] {
        assert_eq!(issue_node(out.path(), node).unwrap(), expected);
        let identity = NodeIdentity::load(&out.path().join(node_dir_name(node))).unwrap();
        assert_eq!((identity.cluster(), identity.node()), (cluster, node));
        assert_eq!(identity.0.key.kind(), KeyKind::P256);
    }
    // Either kind of authority certifies either kind of key.
    for (of_authority, of_node) in [
        (KeyKind::P256, KeyKind::Ed25519),
        (KeyKind::Ed25519, KeyKind::P256),
    ] {
        let ca = CertificateAuthority::generate_of(cluster, of_authority).unwrap();
        let key = SigningKey::generate_of(of_node).unwrap();
        let request = make_request(&key).unwrap();
        let life = Validity::from_now(Duration::from_secs(3_600));
        let name = NodeName { cluster, node: 3 };
        let certificate = ca.sign_request(&request, name, life).unwrap();
        let identity = NodeIdentity::from_pem(ca.cert_pem(), &certificate, &key.to_pem()).unwrap();
        assert_eq!(identity.0.key.kind(), of_node);
    }
}
