//! Renewal over real connections.

use std::{fs, path::Path};

use rivven_crypto::Provider;
use rivven_types::{BootEpoch, ClusterId, InstanceId};
use tokio::time::Instant;

use super::*;
use crate::{
    LocalIdentity, Outcome, QuicTransport, TaskGroup,
    identity::{CA_FILE, KEY_FILE, NodeIdentity, NodeName, SanTemplate},
    warnings::Warnings,
};

/// Any method but the renewal.
struct Greet;

impl Method for Greet {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "greet";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    type Request = ();
    type Response = NodeId;
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap()
}

/// Valid for an hour, which ended so many days ago.
fn ended(days: u64) -> Validity {
    let end = now() - Duration::from_secs(days * 24 * 3600);
    Validity {
        not_before: end - Duration::from_secs(3600),
        not_after: end,
    }
}

fn write(dir: &Path, ca: &CertificateAuthority, node: NodeId, validity: Validity) {
    write_as(dir, ca, Subject::Node(node), validity);
}

fn write_as(dir: &Path, ca: &CertificateAuthority, subject: Subject, validity: Validity) {
    let name = CertificateName {
        cluster: ca.cluster(),
        subject,
    };
    let issued = ca.issue_as(name, validity).unwrap();
    fs::write(dir.join(CA_FILE), ca.cert_pem()).unwrap();
    fs::write(dir.join(CERT_FILE), issued.cert_pem()).unwrap();
    let key = dir.join(KEY_FILE);
    fs::write(&key, issued.key_pem()).unwrap();
    #[cfg(unix)]
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

struct Member {
    dir: tempfile::TempDir,
    identity: IdentityWatch,
    router: Router,
    transport: Transport,
}

fn member(ca: &CertificateAuthority, node: NodeId, validity: Validity) -> Member {
    member_as(ca, Subject::Node(node), &SanTemplate::default(), validity)
}

/// `ca` writes names by `template`.
fn member_as(
    ca: &CertificateAuthority,
    subject: Subject,
    template: &SanTemplate,
    validity: Validity,
) -> Member {
    let (dir, node) = (tempfile::tempdir().unwrap(), subject.node());
    write_as(dir.path(), ca, subject, validity);
    let identity = NodeIdentity::load_for_renewal(dir.path(), template, &Provider::default()).unwrap();
    let local = LocalIdentity {
        cluster: identity.cluster(),
        node,
        instance: InstanceId::from_bytes([u8::try_from(node).unwrap(); 16]),
        boot_epoch: BootEpoch(1),
    };
    let identity = IdentityWatch::from(identity);
    let router = Router::new();
    router.register::<Greet, _, _>(|caller, ()| async move { Ok(caller.peer.node) });
    let transport = QuicTransport::builder(identity.clone(), local)
        .router(router.clone())
        .start()
        .unwrap();
    Member {
        dir,
        identity,
        router,
        transport,
    }
}

fn introduce(members: &[&Member]) {
    for from in members {
        for to in members {
            let addr = to.transport.local_addr().unwrap();
            from.transport.set_address(to.transport.local().node, addr.into());
        }
    }
}

async fn greet(from: &Member, to: NodeId, ms: u64) -> Result<NodeId, CallError> {
    let ctx = CallCtx::timeout(Duration::from_millis(ms));
    from.transport.call::<Greet>(to, &(), ctx).await
}

fn renewer(member: &Member, issuers: &[NodeId]) -> Renewer {
    let issuers = issuers.to_vec();
    Renewer::new(member.transport.clone(), member.identity.clone(), move || {
        issuers.clone()
    })
}

fn reissue(ca: &CertificateAuthority) -> Issuer {
    Issuer::new(CertificateAuthority::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap())
}

/// Every member slept for two months; only the authority's key is still good.
#[tokio::test]
async fn all_expired_cold_start() {
    let ca = authority();
    let members = [1, 2, 3].map(|node| member(&ca, node, ended(60)));
    let [one, two, three] = &members;
    introduce(&[one, two, three]);
    let error = NodeIdentity::load(two.dir.path()).unwrap_err();
    assert_eq!(error.code(), "certificate-expired");
    // Without an issuer nobody lets anybody in.
    let error = greet(two, 1, 1_000).await.unwrap_err();
    assert_eq!(
        (error.code(), error.outcome()),
        ("unreachable", Outcome::NotDone),
        "{error}"
    );
    reissue(&ca).serve(&one.router);
    let tasks = TaskGroup::current();
    for member in [one, two, three] {
        tasks.spawn(renewer(member, &[1]).run());
    }
    let end = Instant::now() + Duration::from_secs(30);
    for (from, to) in [(two, 1), (three, 1), (one, 2), (three, 2), (one, 3), (two, 3)] {
        loop {
            match greet(from, to, 2_000).await {
                Ok(caller) => break assert_eq!(caller, from.transport.local().node),
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    for member in [one, two, three] {
        // What is in use is what the next start reads.
        let loaded = NodeIdentity::load(member.dir.path()).unwrap();
        assert_eq!(loaded.validity(), member.identity.current().validity());
        assert!(loaded.validity().not_after > now() + Duration::from_secs(29 * 24 * 3600));
    }
    tasks.abort();
}

#[tokio::test]
async fn an_expired_member_reaches_the_renewal_and_nothing_else() {
    let ca = authority();
    let one = member(&ca, 1, Validity::from_now(Duration::from_secs(3600)));
    let two = member(&ca, 2, ended(60));
    introduce(&[&one, &two]);
    reissue(&ca).serve(&one.router);
    let error = greet(&two, 1, 5_000).await.unwrap_err();
    assert_eq!(error.code(), "certificate-expired", "{error}");
    // It has said a hello and is no peer all the same.
    assert_eq!(one.transport.peer(2), None);
    // Nor does it answer: who dials never believes an expired certificate.
    assert_eq!(greet(&one, 2, 1_000).await.unwrap_err().code(), "unreachable");
    // A removed member may not even renew.
    one.transport.deny(2);
    let error = renewer(&two, &[1]).renew().await.unwrap_err();
    assert_eq!(error.code(), "renewal-failed");
    assert!(error.to_string().contains("removed"), "{error}");
    one.transport.allow(2);
    let end = Instant::now() + Duration::from_secs(20);
    // The refusal of a connection that was begun before may still be on its way.
    while let Err(error) = renewer(&two, &[1]).renew().await {
        assert!(Instant::now() < end, "{error}");
    }
    for (from, to) in [(&two, 1), (&one, 2)] {
        // A call may still meet the end of the connection made with the expired certificate.
        while let Err(error) = greet(from, to, 2_000).await {
            assert!(Instant::now() < end, "{error}");
        }
    }
    assert!(one.transport.peer(2).is_some());
}

#[tokio::test]
async fn a_certificate_that_ended_long_ago_opens_nothing() {
    let ca = authority();
    let one = member(&ca, 1, Validity::from_now(Duration::from_secs(3600)));
    let two = member(&ca, 2, ended(400));
    introduce(&[&one, &two]);
    reissue(&ca).serve(&one.router);
    let error = renewer(&two, &[1]).renew().await.unwrap_err();
    assert_eq!(error.code(), "renewal-failed");
    assert!(error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn only_the_caller_itself_is_certified_and_only_by_an_authority_it_knows() {
    let (ca, other) = (authority(), authority());
    let hour = Validity::from_now(Duration::from_secs(3600));
    let (one, two) = (member(&ca, 1, hour), member(&ca, 2, hour));
    introduce(&[&one, &two]);
    reissue(&other).serve(&one.router);
    let before = two.identity.current();
    let error = renewer(&two, &[1]).renew().await.unwrap_err();
    assert_eq!(error.code(), "certificate-not-signed-by-ca", "{error}");
    assert!(before.is(&two.identity.current()), "what is in use stays");
    reissue(&ca).serve(&one.router);
    let garbage = RenewRequest {
        request: vec![1, 2, 3],
    };
    let ctx = CallCtx::timeout(Duration::from_secs(5));
    let error = two.transport.call::<Renew>(1, &garbage, ctx).await.unwrap_err();
    assert_eq!(error.code(), "bad-certificate-request", "{error}");
    // Who issues nothing is told from who cannot be reached.
    let code = |error: RenewError| error.code();
    assert_eq!(renewer(&one, &[2]).renew().await.map_err(code), Err("no-issuer"));
    assert_eq!(
        renewer(&one, &[2, 7]).renew().await.map_err(code),
        Err("renewal-failed")
    );
    // Several issuers: the first one that answers will do, and one that is gone does no harm.
    renewer(&two, &[7, 1]).renew().await.unwrap();
    assert_eq!(two.identity.current().name(), before.name());
    assert_eq!(
        renewer(&two, &[]).renew().await.unwrap_err().code(),
        "renewal-failed"
    );
}

/// An operator has replaced certificate and key, and the node has not looked at them yet.
#[tokio::test]
async fn a_renewal_never_overwrites_a_certificate_that_an_operator_has_put_there() {
    let ca = authority();
    let hour = Validity::from_now(Duration::from_secs(3600));
    let (one, two) = (member(&ca, 1, hour), member(&ca, 2, hour));
    introduce(&[&one, &two]);
    reissue(&ca).serve(&one.router);
    let year = Validity::from_now(Duration::from_secs(365 * 24 * 3600));
    write(two.dir.path(), &ca, 2, year);
    renewer(&two, &[1]).renew().await.unwrap();
    let loaded = NodeIdentity::load(two.dir.path()).unwrap();
    assert_eq!(loaded.validity(), year);
    assert_eq!(two.identity.current().validity(), year);
    // While the operator is at it, what lies there is left alone.
    let before = two.identity.current();
    let certificate = fs::read_to_string(two.dir.path().join(CERT_FILE)).unwrap();
    let issued = ca.issue(2).unwrap();
    fs::write(two.dir.path().join(KEY_FILE), issued.key_pem()).unwrap();
    let error = renewer(&two, &[1]).renew().await.unwrap_err();
    assert_eq!(error.code(), "identity-key-mismatch", "{error}");
    let left = fs::read_to_string(two.dir.path().join(CERT_FILE)).unwrap();
    assert_eq!(left, certificate);
    assert!(before.is(&two.identity.current()));
    fs::write(two.dir.path().join(CERT_FILE), issued.cert_pem()).unwrap();
    renewer(&two, &[1]).renew().await.unwrap();
    let loaded = NodeIdentity::load(two.dir.path()).unwrap();
    assert_eq!(loaded.validity(), two.identity.current().validity());
    assert!(!before.is(&two.identity.current()));
}

/// Nodes are in the last third of their certificates' lives, which an operator would not hear of yet.
#[tokio::test]
async fn a_certificate_that_is_due_is_renewed_before_anybody_is_reminded() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let ca = authority();
    // Every share of the last twenty-fourth is over, and three quarters of the life are not.
    let due = Validity {
        not_before: now() - Duration::from_secs(72_000),
        not_after: now() + Duration::from_secs(28_000),
    };
    assert!(due::attempt_at(due, u16::MAX) < now() && now() < remind_at(due));
    let (one, two) = (member(&ca, 1, due), member(&ca, 2, due));
    introduce(&[&one, &two]);
    reissue(&ca).serve(&one.router);
    let tasks = TaskGroup::current();
    tasks.spawn(renewer(&two, &[1]).run());
    let end = Instant::now() + Duration::from_secs(20);
    while two.identity.current().validity() == due {
        assert!(Instant::now() < end, "{}", warnings.text());
        sleep(Duration::from_millis(20)).await;
    }
    let left = two.identity.current().validity().not_after - now();
    assert!(left > Duration::from_secs(29 * 24 * 3600), "{left:?}");
    tasks.abort();
    assert_eq!(warnings.text(), "");
}

#[tokio::test(start_paused = true)]
async fn an_operator_is_reminded_once_a_day_of_a_certificate_that_runs_out() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let ca = authority();
    let ending = |hours: u64| {
        let issued = ca.issue_as(
            NodeName {
                cluster: ca.cluster(),
                node: 1,
            },
            Validity {
                not_before: now() - Duration::from_secs(1_000 * 3600),
                not_after: now() + Duration::from_secs(hours * 3600 + 1_800),
            },
        );
        let issued = issued.unwrap();
        NodeIdentity::from_pem(ca.cert_pem(), issued.cert_pem(), issued.key_pem()).unwrap()
    };
    let identity = IdentityWatch::from(ending(500));
    let tasks = TaskGroup::current();
    tasks.spawn(remind(identity.clone()));
    sleep(Duration::from_secs(48 * 3600)).await;
    assert_eq!(
        warnings.text(),
        "",
        "two thirds of its life are not three quarters"
    );
    identity.replace(ending(250)).unwrap();
    let told = || warnings.text().matches("hours_left=250").count();
    sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(told(), 1, "{}", warnings.text());
    sleep(Duration::from_secs(48 * 3600)).await;
    assert_eq!(told(), 3, "{}", warnings.text());
    assert!(warnings.text().contains("cert issue"), "{}", warnings.text());
    // A new certificate ends it.
    identity.replace(ending(4_000)).unwrap();
    sleep(Duration::from_secs(72 * 3600)).await;
    assert_eq!(told(), 3, "{}", warnings.text());
    tasks.abort();
}

#[tokio::test]
async fn a_member_keeps_its_role_and_its_kind_of_name() {
    let template: SanTemplate = "spiffe://example.org/rivven/{cluster}/{role}/{id}"
        .parse()
        .unwrap();
    let ca = authority().with_template(template.clone());
    let hour = Validity::from_now(Duration::from_secs(3600));
    let one = member_as(&ca, Subject::Node(1), &template, hour);
    let two = member_as(&ca, Subject::Observer(2), &template, ended(60));
    introduce(&[&one, &two]);
    reissue(&ca).serve(&one.router);
    // An issuer that writes other names is of no use, which does no harm.
    let error = renewer(&two, &[1]).renew().await.unwrap_err();
    assert_eq!(error.code(), "identity-malformed", "{error}");
    let same = CertificateAuthority::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap();
    Issuer::new(same.with_template(template.clone())).serve(&one.router);
    for member in [&one, &two] {
        let before = member.identity.current();
        renewer(member, &[1]).renew().await.unwrap();
        let loaded = NodeIdentity::load_as(member.dir.path(), &template, &Provider::default()).unwrap();
        assert_eq!(loaded.name(), before.name());
        assert!(loaded.validity().not_after > before.validity().not_after);
    }
    assert_eq!(two.identity.current().name().subject, Subject::Observer(2));
}
