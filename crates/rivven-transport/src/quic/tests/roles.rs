//! What the role in a certificate lets its holder call.

use super::{identity::valid, *};
use crate::{
    Transfer, TransferCtx, TransferError,
    identity::{CertificateName, Label, Role, Roles, SanTemplate, Subject},
};

/// For operators and clients alone.
struct Report;

impl Method for Report {
    const ID: u16 = 0x8010;
    const NAME: &'static str = "report";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    const ROLES: Roles = Roles::of(&[Role::Operator, Role::Client]);
    type Request = ();
    type Response = NodeId;
}

/// A transfer for operators alone.
struct Import;

impl Transfer for Import {
    const ID: u16 = 0x8010;
    const NAME: &'static str = "import";
    const MAX_HEADER: usize = 16;
    const MAX_RECEIPT: usize = 16;
    const ROLES: Roles = Roles::of(&[Role::Operator]);
    type Header = ();
    type Receipt = NodeId;
}

async fn import(from: &Transport) -> Result<NodeId, TransferError> {
    let source = |_| async { Ok(bytes::Bytes::new()) };
    from.send_stream::<Import, _, _>(1, &(), source, TransferCtx::new())
        .await
}

fn holder(ca: &CertificateAuthority, subject: Subject, template: &SanTemplate) -> NodeIdentity {
    let name = CertificateName {
        cluster: ca.cluster(),
        subject,
    };
    let issued = ca.issue_as(name, valid()).unwrap();
    NodeIdentity::from_pem_with(ca.cert_pem(), issued.cert_pem(), issued.key_pem(), template).unwrap()
}

fn serving(identity: NodeIdentity) -> Transport {
    let router = router(&Slept::default());
    router.register::<Report, _, _>(|caller, ()| async move { Ok(caller.peer.node) });
    router.register_transfer::<Import, _, _>(|caller, (), _| async move { Ok(caller.peer.node) });
    let local = local(&identity, 1);
    QuicTransport::builder(identity, local)
        .router(router)
        .start()
        .unwrap()
}

#[tokio::test]
async fn a_guest_does_not_say_where_a_node_is_reached() {
    let (ca, template) = (authority(), SanTemplate::default());
    let one = serving(holder(&ca, Subject::Node(1), &template));
    let client = serving(holder(
        &ca,
        Subject::Client(Label::new("back-up").unwrap()),
        &template,
    ));
    introduce(&client, &one);
    client.call::<Report>(1, &(), ctx(5_000)).await.unwrap();
    assert_eq!(one.observed_ip(), None);
    let two = serving(holder(&ca, Subject::Node(2), &template));
    introduce(&two, &one);
    echo(&two, 1, ctx(5_000)).await.unwrap();
    assert_eq!(one.observed_ip(), Some(Ipv4Addr::LOCALHOST.into()));
}

async fn check_roles(template: &SanTemplate) {
    let ca = authority().with_template(template.clone());
    let one = serving(holder(&ca, Subject::Node(1), template));
    let label = || Label::new("back-up").unwrap();
    for (subject, echoes, reports, imports) in [
        (Subject::Node(2), true, false, false),
        (Subject::Observer(3), false, false, false),
        (Subject::Operator(label()), false, true, true),
        (Subject::Client(label()), false, true, false),
    ] {
        let node = subject.node();
        let peer = serving(holder(&ca, subject.clone(), template));
        introduce(&peer, &one);
        let echoed = echo(&peer, 1, ctx(5_000)).await.map(|(caller, _)| caller);
        let reported = peer.call::<Report>(1, &(), ctx(5_000)).await;
        for (allowed, answer) in [(echoes, echoed), (reports, reported)] {
            match answer {
                Ok(caller) => assert!(allowed && caller == node, "{subject}"),
                Err(error) => assert!(!allowed && error.code() == "role-not-allowed", "{error}"),
            }
        }
        match import(&peer).await {
            Ok(sender) => assert!(imports && sender == node, "{subject}"),
            Err(error) => assert!(!imports && error.code() == "role-not-allowed", "{error}"),
        }
        // Members can be found and called back; operators and clients are no peers.
        let found = one.discover(peer.local_addr().unwrap().into(), ctx(1_500)).await;
        assert_eq!(found.is_ok(), subject.is_member(), "{subject}: {found:?}");
        assert_eq!(one.peer(node).is_some(), subject.is_member(), "{subject}");
    }
}

#[tokio::test]
async fn one_client_does_not_take_the_places_of_another() {
    let ca = authority();
    let one = serving(identity(&ca, 1));
    let client = |label: &str| {
        let subject = Subject::Client(Label::new(label).unwrap());
        let identity = holder(&ca, subject, &SanTemplate::default());
        let local = local(&identity, 1);
        let client = QuicTransport::builder(identity, local)
            .runtime(Handle::current())
            .start()
            .unwrap();
        introduce(&client, &one);
        client
    };
    let mut greedy = Vec::new();
    // On a slow machine one of them may be lost, and its place be free again.
    let (late, error) = loop {
        assert!(greedy.len() < 2 * limits::MAX_GUESTS_OF_ONE, "nothing is refused");
        let client = client("greedy");
        match client.call::<Report>(1, &(), ctx(3_000)).await {
            Ok(_) => greedy.push(client),
            Err(error) => break (client, error),
        }
    };
    assert!(greedy.len() >= limits::MAX_GUESTS_OF_ONE, "{error}");
    assert_eq!(error.code(), "unreachable");
    assert!(error.to_string().contains("too many connections"), "{error}");
    client("modest")
        .call::<Report>(1, &(), ctx(10_000))
        .await
        .unwrap();
    // A place is free again with its connection.
    drop(greedy);
    late.call::<Report>(1, &(), ctx(30_000)).await.unwrap();
}

#[tokio::test]
async fn a_method_is_open_to_the_roles_it_names() {
    check_roles(&SanTemplate::default()).await;
}

#[tokio::test]
async fn names_may_follow_spiffe() {
    check_roles(
        &"spiffe://example.org/rivven/{cluster}/{role}/{id}"
            .parse()
            .unwrap(),
    )
    .await;
}

#[tokio::test]
async fn two_templates_in_one_cluster_do_not_meet() {
    let spiffe: SanTemplate = "spiffe://example.org/{cluster}/{role}/{id}".parse().unwrap();
    let ca = authority();
    let one = serving(identity(&ca, 1));
    let ca = ca.with_template(spiffe.clone());
    let two = serving(holder(&ca, Subject::Node(2), &spiffe));
    introduce(&two, &one);
    let error = echo(&two, 1, ctx(1_500)).await.unwrap_err();
    assert!(error.to_string().contains("names nobody"), "{error}");
}
