//! Joining over real connections.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use rivven_crypto::SigningKey;
use rivven_types::{BootEpoch, ClusterId, InstanceId, PeerAddr};
use tokio::time::Instant;

use super::*;
use crate::{
    CallCtx, LocalIdentity, MethodSpec, QuicTransport, Router, Transport,
    clock::WallClock,
    identity::{
        CA_FILE, CERT_FILE, GOSSIP_KEY_FILE, KEY_FILE, Label, NodeIdentity, NodeName, SanTemplate,
        make_request,
    },
    issuer::Issuer,
    quic::{KnockError, Lookups, knock},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Any method but the one for strangers.
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

fn authority(cluster: u8) -> CertificateAuthority {
    CertificateAuthority::generate(ClusterId::from_bytes([cluster; 16])).unwrap()
}

fn hour() -> Validity {
    Validity::from_now(Duration::from_secs(3600))
}

fn now_s() -> u64 {
    WallClock::now().as_secs()
}

fn copy(ca: &CertificateAuthority) -> CertificateAuthority {
    CertificateAuthority::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap()
}

fn member(identity: NodeIdentity, router: &Router) -> Transport {
    let local = LocalIdentity {
        cluster: identity.cluster(),
        node: identity.node(),
        instance: InstanceId::from_bytes([u8::try_from(identity.node()).unwrap(); 16]),
        boot_epoch: BootEpoch(1),
    };
    router.register::<Greet, _, _>(|caller, ()| async move { Ok(caller.peer.node) });
    QuicTransport::builder(identity, local)
        .router(router.clone())
        .start()
        .unwrap()
}

/// Node 1 of a cluster, which issues.
struct Cluster {
    ca: CertificateAuthority,
    ledger: Arc<MemoryLedger>,
    transport: Transport,
    router: Router,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let ca = authority(1);
        let ledger = Arc::new(MemoryLedger::new());
        let this = Self::with_ledger(ca, Arc::clone(&ledger) as _);
        Self { ledger, ..this }
    }

    fn with_ledger(ca: CertificateAuthority, ledger: Arc<dyn TokenLedger>) -> Self {
        let issued = ca.issue(1).unwrap();
        let identity = NodeIdentity::from_pem(ca.cert_pem(), issued.cert_pem(), issued.key_pem()).unwrap();
        let router = Router::new();
        let transport = member(identity.clone(), &router);
        Issuer::new(copy(&ca))
            .admit(ledger, identity.into(), Some(GossipKey::from_bytes([9; 32])))
            .serve(&router);
        Self {
            ca,
            ledger: Arc::default(),
            transport,
            router,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn addr(&self) -> PeerAddr {
        self.transport.local_addr().unwrap().into()
    }

    /// A token that no ledger knows.
    fn unknown(&self, node: NodeId, addresses: Vec<PeerAddr>) -> JoinToken {
        let spec = TokenSpec {
            cluster: self.ca.cluster(),
            authority: self.ca.fingerprint(),
            node,
            expires_s: now_s() + 600,
            addresses,
        };
        JoinToken::generate(spec).unwrap()
    }

    fn token(&self, node: NodeId) -> JoinToken {
        let token = self.unknown(node, vec![self.addr()]);
        self.ledger.issue(token.id(), node, token.expires_s()).unwrap();
        token
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn refused(&self, token: &JoinToken) -> String {
        let error = join(token, &self.dir("refused"), PATIENCE).await.unwrap_err();
        assert!(!self.dir("refused").join(CERT_FILE).exists());
        error.code().to_owned()
    }
}

/// Joins with a request of one's own making.
async fn ask(cluster: &Cluster, token: &JoinToken, request: Vec<u8>) -> Result<(), KnockError> {
    let asked = JoinRequest {
        node: token.node(),
        secret: token.secret().clone(),
        request,
    };
    let body = postcard::to_allocvec(&asked).unwrap();
    let until = Instant::now() + PATIENCE;
    knock(
        (&cluster.addr(), &Lookups::default()),
        token.authority(),
        MethodSpec::of::<Join>(),
        &body,
        until,
    )
    .await
    .map(drop)
}

fn code(error: &KnockError) -> &str {
    match error {
        KnockError::Rejected(rejection) => &rejection.code,
        KnockError::Unreachable(cause) | KnockError::Interrupted(cause) | KnockError::Stranger(cause) => {
            cause
        }
    }
}

#[tokio::test]
async fn a_token_makes_a_whole_directory_and_its_node_is_a_member() {
    let cluster = Cluster::new();
    let dir = cluster.dir("node-4");
    join(&cluster.token(4), &dir, PATIENCE).await.unwrap();
    let identity = NodeIdentity::load(&dir).unwrap();
    assert_eq!((identity.cluster(), identity.node()), (cluster.ca.cluster(), 4));
    let gossip_key = GossipKey::load(&dir.join(GOSSIP_KEY_FILE)).unwrap();
    assert_eq!(gossip_key.to_text(), GossipKey::from_bytes([9; 32]).to_text());
    let four = member(identity, &Router::new());
    four.set_address(1, cluster.addr());
    let ctx = CallCtx::timeout(PATIENCE);
    assert_eq!(four.call::<Greet>(1, &(), ctx).await.unwrap(), 4);
    // What is complete is never written again.
    let error = join(&cluster.token(4), &dir, PATIENCE).await.unwrap_err();
    assert_eq!(error.code(), "identity-exists", "{error}");
}

#[tokio::test]
async fn a_token_is_refused_for_what_is_wrong_with_it_and_a_right_one_still_works() {
    let cluster = Cluster::new();
    let stranger = cluster.unknown(4, vec![cluster.addr()]);
    assert_eq!(cluster.refused(&stranger).await, "join-token-unknown");
    let late = cluster.unknown(4, vec![cluster.addr()]);
    cluster.ledger.issue(late.id(), 4, now_s() + 1).unwrap();
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(cluster.refused(&late).await, "join-token-expired");
    let others = cluster.unknown(4, vec![cluster.addr()]);
    cluster.ledger.issue(others.id(), 5, now_s() + 600).unwrap();
    assert_eq!(cluster.refused(&others).await, "join-token-other-node");
    let token = cluster.token(4);
    join(&token, &cluster.dir("first"), PATIENCE).await.unwrap();
    assert_eq!(cluster.refused(&token).await, "join-token-used");
}

/// Answers in place of an issuer, and remembers who asked.
fn impostor(identity: NodeIdentity) -> (Transport, Arc<Mutex<u32>>) {
    let heard = Arc::new(Mutex::new(0));
    let router = Router::new();
    let counted = Arc::clone(&heard);
    router.register::<Join, _, _>(move |_, _| {
        *counted.lock().unwrap() += 1;
        async move { Err(Rejection::new("caught", "")) }
    });
    (member(identity, &router), heard)
}

#[tokio::test]
async fn who_is_not_certified_by_the_tokens_authority_learns_no_secret() {
    let (cluster, foreign) = (Cluster::new(), authority(1));
    let both = format!("{}{}", foreign.cert_pem(), cluster.ca.cert_pem());
    let of_foreign = foreign.issue(1).unwrap();
    let name = CertificateName {
        cluster: cluster.ca.cluster(),
        subject: Subject::Client(Label::new("app").unwrap()),
    };
    let client = cluster.ca.issue_as(name.clone(), hour()).unwrap();
    let ended = Validity {
        not_before: Duration::from_secs(1_000),
        not_after: Duration::from_secs(2_000),
    };
    let node = NodeName {
        cluster: cluster.ca.cluster(),
        node: 1,
    };
    let expired = cluster.ca.issue_as(node, ended).unwrap();
    for identity in [
        NodeIdentity::from_pem(foreign.cert_pem(), of_foreign.cert_pem(), of_foreign.key_pem()).unwrap(),
        // Shows the right authority, which has not signed its certificate.
        NodeIdentity::from_pem(&both, of_foreign.cert_pem(), of_foreign.key_pem()).unwrap(),
        // Of the right authority, and no member.
        NodeIdentity::unchecked(name, cluster.ca.cert_pem(), &client),
        NodeIdentity::unchecked(node, cluster.ca.cert_pem(), &expired),
    ] {
        let (transport, heard) = impostor(identity);
        let token = cluster.unknown(4, vec![transport.local_addr().unwrap().into()]);
        let error = join(&token, &cluster.dir("node-4"), PATIENCE).await.unwrap_err();
        assert_eq!(error.code(), "join-other-authority", "{error}");
        assert_eq!(*heard.lock().unwrap(), 0);
    }
    // Nor is a token of another cluster any good here.
    let spec = TokenSpec {
        cluster: ClusterId::from_bytes([2; 16]),
        authority: authority(2).fingerprint(),
        node: 4,
        expires_s: now_s() + 600,
        addresses: vec![cluster.addr()],
    };
    let other = JoinToken::generate(spec).unwrap();
    assert_eq!(cluster.refused(&other).await, "join-other-authority");
    // The key that was made for the attempts above serves the one that succeeds.
    join(&cluster.token(4), &cluster.dir("node-4"), PATIENCE)
        .await
        .unwrap();
}

#[tokio::test]
async fn of_two_that_use_one_token_at_once_one_joins() {
    let cluster = Cluster::new();
    for round in 0..2 {
        let token = cluster.token(4);
        let dirs = ["a", "b", "c"].map(|name| cluster.dir(&format!("{name}-{round}")));
        let joins = dirs.iter().map(|dir| join(&token, dir, PATIENCE));
        let outcomes = futures_util::future::join_all(joins).await;
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let codes: Vec<_> = refused.map(|error| error.code().to_owned()).collect();
        assert_eq!(codes, ["join-token-used"; 2], "{outcomes:?}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_granted_costs_the_token_nothing() {
    let cluster = Cluster::new();
    let token = cluster.token(4);
    let error = ask(&cluster, &token, vec![1, 2, 3]).await.unwrap_err();
    assert_eq!(code(&error), "bad-certificate-request");
    let error = ask(&cluster, &token, vec![0; Join::MAX_REQUEST])
        .await
        .unwrap_err();
    assert_eq!(code(&error), "request-too-large");
    join(&token, &cluster.dir("node-4"), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_can_be_asked_for_again_with_the_same_directory() {
    let cluster = Cluster::new();
    let token = cluster.token(4);
    let (dir, absent) = (
        cluster.dir("node-4"),
        cluster.unknown(4, vec!["127.0.0.1:9".parse().unwrap()]),
    );
    let error = join(&absent, &dir, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.code(), "join-unreachable", "{error}");
    // The key lies there; what it is granted is lost on the way.
    let key = SigningKey::from_pem(&std::fs::read_to_string(dir.join(KEY_FILE)).unwrap()).unwrap();
    ask(&cluster, &token, make_request(&key).unwrap()).await.unwrap();
    assert_eq!(cluster.refused(&token).await, "join-token-used");
    join(&token, &dir, PATIENCE).await.unwrap();
    assert_eq!(NodeIdentity::load(&dir).unwrap().node(), 4);
    assert!(dir.join(CA_FILE).exists());
}

/// Cannot be reached at first.
struct Recovering(MemoryLedger, AtomicU32);

impl TokenLedger for Recovering {
    fn consume(&self, token: TokenId, node: NodeId, key: KeyHash) -> BoxFuture<'_, Result<(), TokenRefusal>> {
        if self.1.fetch_add(1, Ordering::Relaxed) < 2 {
            let cause = "no leader".into();
            return async move { Err(TokenRefusal::Unavailable { cause }) }.boxed();
        }
        self.0.consume(token, node, key)
    }
}

#[tokio::test]
async fn an_issuer_that_cannot_tell_yet_is_asked_again() {
    let ledger = Arc::new(Recovering(MemoryLedger::new(), AtomicU32::new(0)));
    let cluster = Cluster::with_ledger(authority(1), Arc::clone(&ledger) as _);
    let token = cluster.unknown(4, vec![cluster.addr()]);
    ledger.0.issue(token.id(), 4, token.expires_s()).unwrap();
    join(&token, &cluster.dir("node-4"), PATIENCE).await.unwrap();
    assert_eq!(ledger.1.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_address_where_nobody_is_leads_to_the_next_one() {
    let ledger = Arc::new(MemoryLedger::new());
    let cluster = Cluster::with_ledger(authority(1), Arc::clone(&ledger) as _);
    let absent = "127.0.0.1:9".parse().unwrap();
    let token = cluster.unknown(4, vec![absent, cluster.addr()]);
    ledger.issue(token.id(), 4, token.expires_s()).unwrap();
    join(&token, &cluster.dir("node-4"), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_wrong_tokens_is_turned_away_unread() {
    let cluster = Cluster::new();
    let key = SigningKey::generate().unwrap();
    let mut codes = Vec::new();
    for _ in 0..8 {
        let wrong = cluster.unknown(4, vec![cluster.addr()]);
        let error = ask(&cluster, &wrong, make_request(&key).unwrap())
            .await
            .unwrap_err();
        codes.push(code(&error).to_owned());
    }
    let (read, unread) = codes.split_at(5);
    assert!(read.iter().all(|code| code == "join-token-unknown"), "{codes:?}");
    assert!(
        unread.iter().all(|code| code.contains("wait a minute")),
        "{codes:?}"
    );
    // Members are not concerned.
    let ctx = CallCtx::timeout(PATIENCE);
    assert_eq!(cluster.transport.call::<Greet>(1, &(), ctx).await.unwrap(), 1);
}

#[tokio::test]
async fn a_stranger_reaches_no_other_method_and_nothing_where_nobody_joins() {
    let cluster = Cluster::new();
    let pin = cluster.ca.fingerprint();
    let until = || Instant::now() + PATIENCE;
    let greeted = knock(
        (&cluster.addr(), &Lookups::default()),
        &pin,
        MethodSpec::of::<Greet>(),
        &[],
        until(),
    )
    .await;
    assert_eq!(code(&greeted.unwrap_err()), "certificate-required");
    let renew = MethodSpec::of::<crate::issuer::Renew>();
    let renewed = knock((&cluster.addr(), &Lookups::default()), &pin, renew, &[], until()).await;
    assert_eq!(code(&renewed.unwrap_err()), "certificate-required");
    // Nor is a stranger a peer.
    assert_eq!(cluster.transport.peer(0), None);
    cluster.router.clear();
    let token = cluster.token(4);
    let error = join(&token, &cluster.dir("node-4"), Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "join-unreachable", "{error}");
    assert!(error.to_string().contains("issues no certificates"), "{error}");
}

#[tokio::test]
async fn members_renew_and_do_not_join() {
    let cluster = Cluster::new();
    let asked = JoinRequest {
        node: 4,
        secret: cluster.token(4).secret().clone(),
        request: make_request(&SigningKey::generate().unwrap()).unwrap(),
    };
    assert!(!format!("{asked:?}").contains("secret: ["), "{asked:?}");
    let issued = cluster.ca.issue(2).unwrap();
    let ca = cluster.ca.cert_pem();
    let two = NodeIdentity::from_pem(ca, issued.cert_pem(), issued.key_pem()).unwrap();
    let two = member(two, &Router::new());
    two.set_address(1, cluster.addr());
    let error = two
        .call::<Join>(1, &asked, CallCtx::timeout(PATIENCE))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "role-not-allowed", "{error}");
}

#[tokio::test]
async fn names_may_follow_another_template() {
    let template: SanTemplate = "spiffe://example.org/{cluster}/{role}/{id}".parse().unwrap();
    let ca = authority(1).with_template(template.clone());
    let issued = ca.issue(1).unwrap();
    let identity =
        NodeIdentity::from_pem_with(ca.cert_pem(), issued.cert_pem(), issued.key_pem(), &template).unwrap();
    let ledger = Arc::new(MemoryLedger::new());
    let router = Router::new();
    let transport = member(identity.clone(), &router);
    Issuer::new(copy(&ca).with_template(template.clone()))
        .admit(Arc::clone(&ledger) as _, identity.into(), None)
        .serve(&router);
    let spec = TokenSpec {
        cluster: ca.cluster(),
        authority: ca.fingerprint(),
        node: 4,
        expires_s: now_s() + 600,
        addresses: vec![transport.local_addr().unwrap().into()],
    };
    let token = JoinToken::generate(spec).unwrap();
    ledger.issue(token.id(), 4, token.expires_s()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    join(&token, dir.path(), PATIENCE).await.unwrap();
    assert_eq!(NodeIdentity::load_with(dir.path(), &template).unwrap().node(), 4);
    assert!(!dir.path().join(GOSSIP_KEY_FILE).exists());
}
