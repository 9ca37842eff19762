//! Who is let in.

use rivven_types::PeerAddr;

use super::*;
use crate::{identity::Validity, warnings::Warnings};

/// `stranger` calls node 1, and both sides say in their logs why that came to nothing.
async fn check_refused(host: NodeIdentity, stranger: NodeIdentity, code: &str, reasons: &[&str]) {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let (host, stranger) = (start(host), start(stranger));
    introduce(&stranger, &host);
    let error = echo(&stranger, 1, ctx(1_500)).await.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert_eq!(error.outcome(), crate::Outcome::NotDone);
    let text = warnings.text();
    for reason in reasons {
        assert!(text.contains(reason), "no {reason:?} in\n{text}");
    }
    let refusals = lock(&warnings.0)
        .iter()
        .filter(|line| line.contains("refused"))
        .count();
    assert!(refusals >= 2, "both sides say so:\n{text}");
    assert!(error.to_string().contains(reasons[0]), "{error}");
    assert_eq!(host.peer(2), None);
}

pub(super) fn forged(
    ca: &CertificateAuthority,
    cluster: u8,
    node: NodeId,
    validity: Validity,
) -> NodeIdentity {
    let name = NodeName {
        cluster: ClusterId::from_bytes([cluster; 16]),
        node,
    };
    NodeIdentity::unchecked(name, ca.cert_pem(), &ca.issue_as(name, validity).unwrap())
}

pub(super) fn valid() -> Validity {
    Validity::from_now(Duration::from_secs(3600))
}

#[tokio::test]
async fn a_node_of_a_foreign_authority_is_refused() {
    let ca = authority();
    let foreign = CertificateAuthority::generate(ClusterId::from_bytes([9; 16])).unwrap();
    let reasons = ["UnknownIssuer", "different clusters"];
    check_refused(identity(&ca, 1), identity(&foreign, 2), "unreachable", &reasons).await;
}

#[tokio::test]
async fn a_foreign_authority_that_claims_this_cluster_is_refused() {
    let (ca, impostor) = (authority(), authority());
    let reasons = ["BadSignature", "different clusters"];
    check_refused(identity(&ca, 1), identity(&impostor, 2), "unreachable", &reasons).await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_even_under_the_same_authority() {
    let ca = authority();
    let stranger = forged(&ca, 9, 2, valid());
    let reasons = ["another cluster (01010101-", "refused"];
    check_refused(identity(&ca, 1), stranger, "incompatible", &reasons).await;
}

#[tokio::test]
async fn nodes_without_a_common_version_refuse_each_other_and_name_both_ranges() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let later = identity(&ca, 2);
    let later_local = local(&later, 1);
    let mut later = QuicTransport::builder(later, later_local).router(router(&Slept::default()));
    later.versions = (3, 7);
    let later = later.start().unwrap();
    introduce(&one, &later);
    introduce(&later, &one);
    let (ours, theirs) = (hello::VERSIONS, (3, 7));
    // Whoever dials, the one who answers refuses; its words travel in the close frame.
    for (from, to, ours, theirs) in [(&one, 2, theirs, ours), (&later, 1, ours, theirs)] {
        let error = echo(from, to, ctx(1_500)).await.unwrap_err();
        assert_eq!(
            (error.code(), error.outcome()),
            ("incompatible", crate::Outcome::NotDone)
        );
        let ranges = format!(
            "this node speaks {} to {}, the peer {} to {}",
            ours.0, ours.1, theirs.0, theirs.1
        );
        assert!(error.to_string().contains(&ranges), "{error}");
    }
    assert_eq!((one.peer(2), later.peer(1)), (None, None));
}

#[tokio::test]
async fn a_stranger_that_dials_in_a_loop_fills_no_log() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let warnings = Warnings::default();
    let (host, addr) = {
        let _guard = tracing::subscriber::set_default(warnings.clone());
        let host = start(identity(&ca, 2));
        let addr: PeerAddr = host.local_addr().unwrap().into();
        (host, addr)
    };
    let stranger = start(forged(&ca, 9, 3, valid()));
    for _ in 0..30 {
        let refused = stranger.discover(addr.clone(), ctx(5_000)).await.unwrap_err();
        assert_eq!(refused.code(), "incompatible");
    }
    let text = warnings.text();
    assert_eq!(text.matches("refused").count(), 1, "{text}");
    // Another cause is said, and who belongs here is let in.
    introduce(&host, &one);
    echo(&host, 1, ctx(5_000)).await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_its_reason() {
    let ca = authority();
    let expired = Validity {
        not_before: Duration::from_secs(978_307_200),
        not_after: Duration::from_secs(978_307_300),
    };
    let stranger = forged(&ca, 1, 2, expired);
    let reasons = ["certificate has expired", "refused"];
    check_refused(identity(&ca, 1), stranger, "unreachable", &reasons).await;
}

#[tokio::test]
async fn a_certificate_of_the_future_is_refused_with_its_reason() {
    let ca = authority();
    let future = Validity {
        not_before: Duration::from_secs(4_102_444_800),
        not_after: Duration::from_secs(4_102_448_400),
    };
    let stranger = forged(&ca, 1, 2, future);
    let reasons = ["not yet valid", "refused"];
    check_refused(identity(&ca, 1), stranger, "unreachable", &reasons).await;
}

#[tokio::test]
async fn a_certificate_without_a_name_or_of_another_node_is_refused() {
    let ca = authority();
    // The dialled node is not the one expected.
    let (one, three) = (start(identity(&ca, 1)), start(identity(&ca, 3)));
    one.set_address(2, three.local_addr().unwrap().into());
    let error = echo(&one, 2, ctx(1_500)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("node 3 answered where node 2 was expected"),
        "{error}"
    );
    // The hello claims another node than the certificate.
    let name = NodeName {
        cluster: ca.cluster(),
        node: 2,
    };
    let liar = NodeIdentity::unchecked(name, ca.cert_pem(), &ca.issue(4).unwrap());
    let reasons = [
        "the peer's hello claims node 2, its certificate names node 4",
        "refused",
    ];
    check_refused(identity(&ca, 1), liar, "unreachable", &reasons).await;
}

#[tokio::test]
async fn a_second_process_of_the_same_node_is_refused() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let two = start(identity(&ca, 2));
    introduce(&two, &one);
    echo(&two, 1, ctx(5000)).await.unwrap();
    let double = identity(&ca, 2);
    let double_local = LocalIdentity {
        instance: InstanceId::from_bytes([99; 16]),
        ..local(&double, 1)
    };
    let double = start_with(double, double_local, &Slept::default());
    introduce(&double, &one);
    let error = echo(&double, 1, ctx(1_500)).await.unwrap_err();
    assert!(error.to_string().contains("duplicate node id"), "{error}");
    echo(&two, 1, ctx(5000)).await.unwrap();
    // It may not talk to its double either.
    let found = double
        .discover(two.local_addr().unwrap().into(), ctx(1_500))
        .await;
    assert!(found.unwrap_err().to_string().contains("duplicate node id"));
}

#[tokio::test]
async fn discovery_says_who_answers() {
    let ca = authority();
    let (one, two) = (start(identity(&ca, 1)), start(identity(&ca, 2)));
    let of = |transport: &Transport| {
        let LocalIdentity {
            node,
            instance,
            boot_epoch,
            ..
        } = transport.local().clone();
        PeerIdentity {
            node,
            instance,
            boot_epoch,
        }
    };
    let addr = |transport: &Transport| transport.local_addr().unwrap().into();
    assert_eq!(one.discover(addr(&two), ctx(5000)).await.unwrap(), of(&two));
    assert_eq!(one.discover(addr(&one), ctx(5000)).await.unwrap(), of(&one));
    echo(&one, 2, ctx(5000)).await.unwrap();
    // The address of whoever connected is known too.
    echo(&two, 1, ctx(5000)).await.unwrap();
    let foreign = start(forged(&ca, 9, 3, valid()));
    let error = one.discover(addr(&foreign), ctx(5000)).await.unwrap_err();
    assert_eq!(error.code(), "incompatible");
    let nobody = one
        .discover("no-such-host.invalid:1".parse().unwrap(), ctx(5000))
        .await;
    assert_eq!(nobody.unwrap_err().code(), "unreachable");
}

#[tokio::test]
async fn a_transport_starts_only_with_its_own_certificate_on_a_free_port() {
    let ca = authority();
    let other = local(&identity(&ca, 2), 1);
    let error = QuicTransport::builder(identity(&ca, 1), other)
        .start()
        .unwrap_err();
    assert_eq!(error.code(), "identity-mismatch");
    let one = start(identity(&ca, 1));
    let two = identity(&ca, 2);
    let two_local = local(&two, 1);
    let taken = one.local_addr().unwrap();
    let error = QuicTransport::builder(two.clone(), two_local.clone())
        .bind(taken)
        .start();
    let error = error.unwrap_err();
    assert_eq!(error.code(), "port-in-use");
    assert!(error.to_string().contains(&taken.port().to_string()));
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = QuicTransport::builder(two, two_local).bind(elsewhere).start();
    assert_eq!(error.unwrap_err().code(), "bind-failed");
}
