//! Transfers on every network: in memory, on loopback, and under faults.

mod network;
mod resume;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use super::*;
use crate::{
    LinkProfile, LocalIdentity, MemoryNetwork, Outcome, QuicTransport, Rejection, Router, TaskGroup,
    identity::{CertificateAuthority, NodeIdentity},
};

/// Content whose bytes tell their place.
pub(super) fn content(len: usize) -> Bytes {
    (0..len).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

/// Puts what arrives behind what it holds; the header says what to do beside that.
struct Copy;

impl Transfer for Copy {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "copy";
    const MAX_HEADER: usize = 64;
    const MAX_RECEIPT: usize = 64;
    type Header = Behaviour;
    type Receipt = u64;
}

/// What the handler of [`Copy`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Behaviour {
    Take,
    /// Takes so many chunks and then nothing more.
    Hang(usize),
    /// Takes everything and never answers.
    Brood,
    Refuse,
    /// Takes so many chunks and then refuses.
    RefuseAfter(usize),
    /// Takes so many chunks and answers.
    EnoughAfter(usize),
    Panic,
    /// Waits so many milliseconds before each chunk.
    Slow(u64),
    /// Has the tests' own trap sprung after so many chunks.
    TrapAfter(usize),
}

/// What the receiver holds, and what became of its handlers.
#[derive(Clone, Default)]
struct Shelf {
    held: Arc<Mutex<Vec<u8>>>,
    ended: Arc<Mutex<Vec<&'static str>>>,
    trap: Arc<Notify>,
}

struct Witness(Shelf, &'static str);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.ended.lock().unwrap().push(self.1);
    }
}

impl Shelf {
    fn held(&self) -> Vec<u8> {
        self.held.lock().unwrap().clone()
    }

    fn ended(&self) -> Vec<&'static str> {
        self.ended.lock().unwrap().clone()
    }

    async fn wait_for(&self, ended: &[&'static str]) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.ended() != ended {
            assert!(Instant::now() < end, "{:?}, not {ended:?}", self.ended());
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn router(&self) -> Router {
        let (router, shelf) = (Router::new(), self.clone());
        router.register_transfer::<Copy, _, _>(move |_, behaviour, offered| {
            let shelf = shelf.clone();
            async move { shelf.take(behaviour, offered).await }
        });
        router
    }

    async fn take(self, behaviour: Behaviour, offered: Offered) -> Result<u64, Rejection> {
        let mut witness = Witness(self.clone(), "dropped");
        let refused = Err(Rejection::new("no-room", "the shelf is full"));
        match behaviour {
            Behaviour::Refuse => {
                witness.1 = "refused";
                return refused;
            }
            Behaviour::Panic => panic!("as asked"),
            _ => {}
        }
        let held = self.held.lock().unwrap().len() as u64;
        let mut incoming = offered.accept_from(held).await;
        let mut chunks = 0;
        loop {
            match behaviour {
                Behaviour::Hang(after) if chunks == after => std::future::pending().await,
                Behaviour::RefuseAfter(after) if chunks == after => {
                    witness.1 = "refused";
                    return refused;
                }
                Behaviour::EnoughAfter(after) if chunks == after => break,
                Behaviour::TrapAfter(after) if chunks == after => {
                    self.trap.notify_one();
                    std::future::pending().await
                }
                Behaviour::Slow(ms) => sleep(Duration::from_millis(ms)).await,
                _ => {}
            }
            let Some(chunk) = incoming.chunk().await? else {
                break;
            };
            assert!(!chunk.is_empty() && chunk.len() <= MAX_CHUNK_BYTES);
            self.held.lock().unwrap().extend_from_slice(&chunk);
            assert_eq!(incoming.offset(), self.held.lock().unwrap().len() as u64);
            chunks += 1;
        }
        if behaviour == Behaviour::Brood {
            std::future::pending().await
        }
        witness.1 = "ended";
        Ok(incoming.offset())
    }
}

fn local(node: NodeId) -> LocalIdentity {
    LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        instance: InstanceId::from_bytes([2; 16]),
        boot_epoch: BootEpoch(1),
    }
}

/// Two nodes, of which the second has a shelf.
struct Pair {
    one: Transport,
    two: Transport,
    shelf: Shelf,
}

fn in_memory(network: &MemoryNetwork) -> Pair {
    let shelf = Shelf::default();
    Pair {
        one: network.join(local(1), Router::new()).unwrap(),
        two: network.join(local(2), shelf.router()).unwrap(),
        shelf,
    }
}

fn on_quic(ca: &CertificateAuthority, node: NodeId, router: Router) -> Transport {
    let issued = ca.issue(node).unwrap();
    let identity = NodeIdentity::from_pem(ca.cert_pem(), issued.cert_pem(), issued.key_pem()).unwrap();
    let builder = QuicTransport::builder(identity, local(node)).router(router);
    builder.start().unwrap()
}

fn on_loopback() -> Pair {
    let ca = CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap();
    let shelf = Shelf::default();
    let (one, two) = (on_quic(&ca, 1, Router::new()), on_quic(&ca, 2, shelf.router()));
    one.set_address(2, two.local_addr().unwrap().into());
    Pair { one, two, shelf }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Sends `bytes` in pieces of `piece` bytes.
async fn send(
    from: &Transport,
    behaviour: Behaviour,
    bytes: &Bytes,
    piece: usize,
    ctx: TransferCtx,
) -> Result<u64, TransferError> {
    let source = |offset| {
        let start = usize::try_from(offset).unwrap();
        let end = (start + piece).min(bytes.len());
        let piece = bytes.slice(start..end);
        async move { io::Result::Ok(piece) }
    };
    from.send_stream::<Copy, _, _>(2, &behaviour, source, ctx).await
}

/// What holds on every network. A transfer must make progress well within `idle`.
async fn check(pair: &Pair, idle: Duration) {
    let Pair { one, shelf, .. } = pair;
    let ctx = || TransferCtx::new().idle_timeout(idle).finish_timeout(idle);
    let whole = content(3 * MAX_CHUNK_BYTES + 7);
    let (progress, seen) = watch::channel(0);

    // Pieces larger than a chunk are cut; the last word comes after the last byte.
    let sent = send(
        one,
        Behaviour::Take,
        &whole,
        whole.len(),
        ctx().progress(progress),
    )
    .await;
    assert_eq!(sent.unwrap(), whole.len() as u64);
    assert!(shelf.held() == whole);
    assert_eq!(*seen.borrow(), whole.len() as u64);

    // The receiver has it all already: nothing is sent again.
    assert_eq!(
        send(one, Behaviour::Take, &whole, 1000, ctx()).await.unwrap(),
        whole.len() as u64
    );

    let empty = content(0);
    shelf.held.lock().unwrap().clear();
    assert_eq!(send(one, Behaviour::Take, &empty, 1, ctx()).await.unwrap(), 0);

    let check = async |behaviour, code: &str, outcome| {
        shelf.held.lock().unwrap().clear();
        shelf.ended.lock().unwrap().clear();
        let error = send(one, behaviour, &whole, MAX_CHUNK_BYTES, ctx())
            .await
            .unwrap_err();
        assert_eq!((error.code(), error.outcome()), (code, outcome), "{error}");
    };
    check(Behaviour::Refuse, "no-room", Outcome::NotDone).await;
    check(Behaviour::RefuseAfter(2), "no-room", Outcome::NotDone).await;
    shelf.wait_for(&["refused"]).await;
    check(Behaviour::Panic, "maybe-executed", Outcome::Unknown).await;
    check(Behaviour::Hang(0), "transfer-stalled", Outcome::NotDone).await;
    check(Behaviour::Brood, "maybe-executed", Outcome::Unknown).await;
    shelf.wait_for(&["dropped"]).await;

    shelf.held.lock().unwrap().clear();
    let enough = send(one, Behaviour::EnoughAfter(2), &whole, 100, ctx())
        .await
        .unwrap();
    assert_eq!((enough, shelf.held().len()), (200, 200));

    shelf.ended.lock().unwrap().clear();
    let source = |offset| async move {
        if offset < 1_000 {
            Ok(content(300))
        } else {
            Err(io::Error::other("bad disk"))
        }
    };
    let failed = one
        .send_stream::<Copy, _, _>(2, &Behaviour::Take, source, ctx())
        .await
        .unwrap_err();
    assert_eq!(
        (failed.code(), failed.outcome()),
        ("transfer-source-failed", Outcome::NotDone)
    );
    shelf.wait_for(&["dropped"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_ends_as_promised_on_the_network_in_memory() {
    let network = MemoryNetwork::new();
    check(&in_memory(&network), ms(500)).await;
    let profile = LinkProfile {
        delay: ms(5),
        jitter: ms(5),
        loss: 0.05,
        reorder: 0.1,
        ..LinkProfile::default()
    };
    let network = MemoryNetwork::seeded(7);
    network.default_link(profile);
    check(&in_memory(&network), ms(5_000)).await;
    assert!(network.stats().lost > 0);
}

#[tokio::test]
async fn a_transfer_ends_as_promised_on_loopback() {
    check(&on_loopback(), ms(1_000)).await;
}

/// How far a sender gets ahead of a receiver that takes nothing after its first chunk.
async fn lead(pair: &Pair, ctx: TransferCtx) -> u64 {
    let asked = Mutex::new(0);
    let piece = content(MAX_CHUNK_BYTES);
    let source = |offset| {
        *asked.lock().unwrap() = offset;
        let piece = piece.clone();
        async move { io::Result::Ok(piece) }
    };
    let sent = pair
        .one
        .send_stream::<Copy, _, _>(2, &Behaviour::Hang(1), source, ctx)
        .await;
    let held = match sent.unwrap_err() {
        TransferError::Interrupted { held, .. } => held,
        other => panic!("{other}"),
    };
    let asked = *asked.lock().unwrap();
    asked - held
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_holds_the_sender_back_in_memory() {
    let pair = in_memory(&MemoryNetwork::new());
    let lead = lead(&pair, TransferCtx::new().idle_timeout(ms(2_000))).await;
    assert!(lead > 0 && lead <= MAX_WINDOW_BYTES, "{lead}");
}

#[tokio::test]
async fn a_slow_receiver_holds_the_sender_back_on_loopback() {
    let lead = lead(&on_loopback(), TransferCtx::new().idle_timeout(ms(500))).await;
    assert!(lead > 0 && lead <= MAX_WINDOW_BYTES, "{lead}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_is_waited_for_as_long_as_it_takes_something() {
    let pair = in_memory(&MemoryNetwork::new());
    let whole = content(40 * MAX_CHUNK_BYTES);
    let began = Instant::now();
    let ctx = TransferCtx::new().idle_timeout(ms(2_500));
    let sent = send(&pair.one, Behaviour::Slow(1_000), &whole, MAX_CHUNK_BYTES, ctx).await;
    assert_eq!(sent.unwrap(), whole.len() as u64);
    assert_eq!(began.elapsed(), ms(41_000));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_counts_whatever_the_progress() {
    let pair = in_memory(&MemoryNetwork::new());
    let whole = content(40 * MAX_CHUNK_BYTES);
    let began = Instant::now();
    let ctx = TransferCtx::new().deadline(began + ms(5_500));
    let sent = send(&pair.one, Behaviour::Slow(1_000), &whole, MAX_CHUNK_BYTES, ctx).await;
    let error = sent.unwrap_err();
    assert_eq!((error.code(), began.elapsed()), ("transfer-deadline", ms(5_500)));
    assert!(matches!(error, TransferError::Interrupted { held, .. } if held == 4 * MAX_CHUNK_BYTES as u64));
}

async fn check_given_up(pair: &Pair) {
    let whole = content(MAX_CHUNK_BYTES);
    let sending = send(&pair.one, Behaviour::Hang(1), &whole, 100, TransferCtx::new());
    assert!(tokio::time::timeout(ms(300), sending).await.is_err());
    pair.shelf.wait_for(&["dropped"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_gives_up_ends_the_handler_in_memory() {
    check_given_up(&in_memory(&MemoryNetwork::new())).await;
}

#[tokio::test]
async fn a_sender_that_gives_up_ends_the_handler_on_loopback() {
    check_given_up(&on_loopback()).await;
}

async fn check_bound(pair: &Pair) {
    let tasks = TaskGroup::current();
    let whole = content(10);
    for _ in 0..MAX_TRANSFERS {
        let (transport, whole) = (pair.one.clone(), whole.clone());
        tasks.spawn(async move {
            let ctx = TransferCtx::new().idle_timeout(ms(60_000));
            send(&transport, Behaviour::Hang(0), &whole, 100, ctx).await
        });
    }
    sleep(ms(200)).await;
    let began = Instant::now();
    let ctx = || TransferCtx::new().idle_timeout(ms(700));
    let error = send(&pair.one, Behaviour::Take, &whole, 100, ctx())
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("overloaded", Outcome::NotDone));
    assert!(began.elapsed() >= ms(700));
    // A sender that does not count its transfers is refused by the receiver.
    let uncounted = crate::FaultLayer::seeded(1).wrap(pair.one.clone());
    let error = send(&uncounted, Behaviour::Take, &whole, 100, ctx())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "too-many-transfers");
    tasks.abort();
    sleep(ms(200)).await;
    assert!(send(&pair.one, Behaviour::Take, &whole, 100, ctx()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_number_of_transfers_to_a_peer_is_bounded_at_both_ends_in_memory() {
    check_bound(&in_memory(&MemoryNetwork::new())).await;
}

#[tokio::test]
async fn the_number_of_transfers_to_a_peer_is_bounded_at_both_ends_on_loopback() {
    check_bound(&on_loopback()).await;
}
