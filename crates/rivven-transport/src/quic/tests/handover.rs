//! What goes on while a certificate is replaced: transfers, and the calls of guests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::*;
use crate::{
    Transfer, TransferCtx,
    identity::{CertificateName, Label, Role, Roles, Subject},
    quic::hello::Purpose,
    stream::MAX_CHUNK_BYTES,
};

/// Bytes that are counted; the receipt is how many there were.
struct Count;

impl Transfer for Count {
    const ID: u16 = 0x8030;
    const NAME: &'static str = "count";
    const MAX_HEADER: usize = 16;
    const MAX_RECEIPT: usize = 16;
    type Header = ();
    type Receipt = u64;
}

/// Open to guests too. Answered after so many milliseconds.
struct Ask;

impl Method for Ask {
    const ID: u16 = 0x8031;
    const NAME: &'static str = "ask";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    const ROLES: Roles = Roles::of(&[Role::Client]);
    type Request = u64;
    type Response = ();
}

/// One whose certificate can be replaced and whose connections can be looked at.
struct Rotating {
    watch: IdentityWatch,
    shared: Arc<Shared>,
    router: Router,
    transport: Transport,
}

impl Rotating {
    fn start(identity: NodeIdentity) -> Self {
        let router = router(&Slept::default());
        router.register_transfer::<Count, _, _>(|_, (), offered| async move {
            let mut incoming = offered.accept_from(0).await;
            while incoming.chunk().await?.is_some() {}
            Ok(incoming.offset())
        });
        router.register::<Ask, _, _>(|_, ms| async move {
            sleep(Duration::from_millis(ms)).await;
            Ok(())
        });
        let (local, watch) = (local(&identity, 1), IdentityWatch::from(identity));
        let network = QuicTransport::builder(watch.clone(), local)
            .router(router.clone())
            .start_network()
            .unwrap();
        Self {
            watch,
            shared: Arc::clone(&network.shared),
            router,
            transport: Transport::new(network),
        }
    }

    /// Takes another certificate into use, and waits until the connection with `peer` is one made with it.
    async fn rotate(&self, identity: NodeIdentity, peer: NodeId, purpose: Purpose) {
        assert!(self.watch.replace(identity).unwrap());
        let end = Instant::now() + Duration::from_secs(10);
        let peer = self.shared.peer(peer).unwrap();
        while !peer.way(purpose).is_up() || peer.way(purpose).is_needed(&self.watch.current()) {
            assert!(Instant::now() < end, "the connection is not replaced");
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn connections(&self, peer: NodeId) -> usize {
        self.shared.peer(peer).unwrap().open_connections()
    }
}

#[tokio::test]
async fn a_transfer_goes_on_while_the_certificates_of_both_ends_are_replaced() {
    const CHUNKS: u64 = 300;
    let ca = authority();
    let one = Rotating::start(identity(&ca, 1));
    let two = Rotating::start(identity(&ca, 2));
    introduce(&one.transport, &two.transport);
    introduce(&two.transport, &one.transport);
    let chunk = MAX_CHUNK_BYTES as u64;
    let source = async |offset: u64| {
        match offset / chunk {
            100 => one.rotate(identity(&ca, 1), 2, Purpose::Bulk).await,
            200 => two.rotate(identity(&ca, 2), 1, Purpose::Bulk).await,
            CHUNKS.. => return Ok(Bytes::new()),
            _ => return Ok(Bytes::from(vec![7; MAX_CHUNK_BYTES])),
        }
        // Long enough for a connection that nobody wants to be closed by both ends.
        for _ in 0..20 {
            let echoed = one.transport.call::<BulkEcho>(2, &vec![1], ctx(5_000)).await;
            assert_eq!(echoed.unwrap(), [1]);
        }
        assert!(one.connections(2) >= 2, "the transfer has no connection");
        Ok(Bytes::from(vec![7; MAX_CHUNK_BYTES]))
    };
    let sent = one
        .transport
        .send_stream::<Count, _, _>(2, &(), source, TransferCtx::new())
        .await;
    assert_eq!(sent.unwrap(), CHUNKS * chunk);
    let end = Instant::now() + Duration::from_secs(10);
    while one.connections(2) > 1 {
        assert!(Instant::now() < end, "a connection that was left is not closed");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that are kept, so that a transfer can go on; the receipt is how many there are.
struct Keep;

impl Transfer for Keep {
    const ID: u16 = 0x8032;
    const NAME: &'static str = "keep";
    const MAX_HEADER: usize = 16;
    const MAX_RECEIPT: usize = 16;
    type Header = ();
    type Receipt = u64;
}

#[tokio::test]
async fn a_transfer_whose_connection_is_closed_behind_it_goes_on_over_the_next_one() {
    const CHUNKS: u64 = 40;
    let ca = authority();
    let one = Rotating::start(identity(&ca, 1));
    let two = Rotating::start(identity(&ca, 2));
    introduce(&one.transport, &two.transport);
    introduce(&two.transport, &one.transport);
    let (kept, begun) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicU64>::default());
    let (keeping, beginning) = (Arc::clone(&kept), Arc::clone(&begun));
    two.router.register_transfer::<Keep, _, _>(move |_, (), offered| {
        let kept = Arc::clone(&keeping);
        beginning.fetch_add(1, Ordering::SeqCst);
        async move {
            let held = lock(&kept).len() as u64;
            let mut incoming = offered.accept_from(held).await;
            while let Some(chunk) = incoming.chunk().await? {
                lock(&kept).extend_from_slice(&chunk);
            }
            Ok(incoming.offset())
        }
    });
    let rotated = AtomicBool::new(false);
    let source = async |offset: u64| {
        let at = offset / 1_000;
        if at == CHUNKS / 2 && !rotated.swap(true, Ordering::SeqCst) {
            // The receiver has to be heard of before, or there is nothing to go on from.
            let end = Instant::now() + Duration::from_secs(10);
            while lock(&kept).len() < usize::try_from(offset).unwrap() {
                assert!(Instant::now() < end);
                sleep(Duration::from_millis(1)).await;
            }
            one.rotate(identity(&ca, 1), 2, Purpose::Bulk).await;
            // As when its time to be left is over.
            one.shared.peer(2).unwrap().close_left();
        }
        let byte = u8::try_from(at).unwrap();
        Ok(Bytes::from(vec![byte; usize::from(at < CHUNKS) * 1_000]))
    };
    let sent = one
        .transport
        .send_stream::<Keep, _, _>(2, &(), source, TransferCtx::new())
        .await;
    assert_eq!(sent.unwrap(), CHUNKS * 1_000);
    assert!(begun.load(Ordering::SeqCst) > 1, "its connection was not closed");
    let expected: Vec<u8> = (0..CHUNKS * 1_000)
        .map(|at| u8::try_from(at / 1_000).unwrap())
        .collect();
    assert_eq!(*lock(&kept), expected);
}

fn client(ca: &CertificateAuthority) -> NodeIdentity {
    let name = CertificateName {
        cluster: ca.cluster(),
        subject: Subject::Client(Label::new("reader").unwrap()),
    };
    let issued = ca.issue_as(name, identity::valid()).unwrap();
    NodeIdentity::from_pem(ca.cert_pem(), issued.cert_pem(), issued.key_pem()).unwrap()
}

#[tokio::test]
async fn no_call_of_a_guest_fails_while_certificates_are_replaced() {
    const ROTATIONS: u64 = 6;
    let ca = authority();
    let node = Rotating::start(identity(&ca, 1));
    let guest = Rotating::start(client(&ca));
    introduce(&guest.transport, &node.transport);
    let ask = async |ms: u64| guest.transport.call::<Ask>(1, &ms, ctx(10_000)).await.unwrap();
    let dialled = || guest.shared.peer(1).unwrap().dialled();
    ask(0).await;
    let done = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    let load = async {
        while !done.load(Ordering::SeqCst) {
            ask(0).await;
            calls.fetch_add(1, Ordering::SeqCst);
        }
    };
    let slow = async {
        while !done.load(Ordering::SeqCst) {
            // In flight on the connection that is left.
            ask(50).await;
        }
    };
    let rotate = async {
        for rotation in 1..=ROTATIONS {
            let before = dialled();
            if rotation % 2 == 0 {
                guest.rotate(client(&ca), 1, Purpose::Main).await;
            } else {
                assert!(node.watch.replace(identity(&ca, 1)).unwrap());
            }
            let end = Instant::now() + Duration::from_secs(10);
            while dialled() == before {
                assert!(
                    Instant::now() < end,
                    "rotation {rotation}: the guest has kept its connection"
                );
                sleep(Duration::from_millis(1)).await;
            }
            let goal = calls.load(Ordering::SeqCst) + 50;
            while calls.load(Ordering::SeqCst) < goal {
                sleep(Duration::from_millis(1)).await;
            }
        }
        done.store(true, Ordering::SeqCst);
    };
    tokio::join!(load, slow, rotate);
    assert_eq!(dialled(), 1 + ROTATIONS);
}
