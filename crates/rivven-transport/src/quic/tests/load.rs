//! More than a lane can take: deadlines that all pass at once, answers that nobody reads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::*;
use crate::{Transfer, TransferCtx};

/// As many bytes as asked for.
struct Fill;

impl Method for Fill {
    const ID: u16 = 0x8010;
    const NAME: &'static str = "fill";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 2 << 20;
    type Request = usize;
    type Response = String;
}

fn count(slept: &Slept, what: &str) -> usize {
    lock(&slept.0).iter().filter(|seen| **seen == what).count()
}

#[tokio::test]
async fn thousands_of_calls_that_expire_at_once_leave_nothing_behind() {
    let ca = authority();
    let slept = Slept::default();
    let (one, two) = (identity(&ca, 1), identity(&ca, 2));
    let (one_local, two_local) = (local(&one, 1), local(&two, 1));
    let one = start_with(one, one_local, &Slept::default());
    let two = start_with(two, two_local, &slept);
    introduce(&one, &two);
    one.call::<Sleep>(2, &0, ctx(5000)).await.unwrap();
    for round in 0..3 {
        let ctx = ctx(400);
        let calls = (0..4_000).map(|_| one.call::<Sleep>(2, &60_000, ctx));
        let ended = timeout(Duration::from_secs(20), join_all(calls)).await.unwrap();
        let late = ctx.deadline.elapsed();
        assert!(late < Duration::from_secs(5), "round {round}: {late:?} too late");
        for result in ended {
            let code = result.unwrap_err().code().to_owned();
            // The last ones may have had their turn and no time left.
            assert!(["deadline", "overloaded", "not-sent"].contains(&&*code), "{code}");
        }
        one.call::<Sleep>(2, &0, CallCtx::timeout(Duration::from_secs(5)))
            .await
            .unwrap();
    }
    let end = Instant::now() + Duration::from_secs(10);
    while count(&slept, "began") != count(&slept, "cancelled") + count(&slept, "ended") {
        assert!(Instant::now() < end, "handlers of expired calls still run");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(count(&slept, "ended"), 4);
    assert!(count(&slept, "cancelled") >= 3 * limits::MAX_IN_FLIGHT);
}

/// A peer whose runtime is blocked reads no answers. It still acknowledges packets, so it counts as alive.
#[tokio::test]
async fn a_peer_that_does_not_read_its_answers_is_not_read_from_and_delays_nobody_else() {
    const ANSWER: usize = 1 << 20;
    const CALLS: usize = 200;
    let ca = authority();
    let begun = Arc::new(AtomicUsize::new(0));
    let router = router(&Slept::default());
    let counter = Arc::clone(&begun);
    router.register::<Fill, _, _>(move |_, len| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok("x".repeat(len)) }
    });
    let two = identity(&ca, 2);
    let two_local = local(&two, 1);
    let two = QuicTransport::builder(two, two_local)
        .router(router)
        .start()
        .unwrap();
    let three = start(identity(&ca, 3));
    introduce(&three, &two);
    echo(&three, 2, ctx(5000)).await.unwrap();
    let (one, address) = (identity(&ca, 1), two.local_addr().unwrap());
    let (blocked, unblocked) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let greedy = std::thread::Builder::new().name("greedy".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let one = start(one);
            one.set_address(2, address.into());
            echo(&one, 2, ctx(5000)).await.unwrap();
            let calls = (0..CALLS).map(|_| one.call::<Fill>(2, &ANSWER, ctx(60_000)));
            let asked_and_then_deaf = async {
                // The requests leave.
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                ready.send(()).unwrap();
                unblocked.recv().unwrap();
            };
            let (answers, ()) = tokio::join!(join_all(calls), asked_and_then_deaf);
            answers.into_iter().filter(Result::is_ok).count()
        })
    });
    let greedy = greedy.unwrap();
    is_ready.await.unwrap();
    let mut last = 0;
    let end = Instant::now() + Duration::from_secs(20);
    // Until nothing more begins.
    while last == 0 || begun.load(Ordering::SeqCst) != last {
        assert!(
            Instant::now() < end,
            "handlers go on for a peer that reads nothing"
        );
        last = begun.load(Ordering::SeqCst);
        sleep(Duration::from_millis(700)).await;
    }
    // What the lane holds, what QUIC keeps until it is acknowledged, and what the peer's window lets through.
    let bytes = limits::MAX_IN_FLIGHT_BYTES + (limits::CONNECTION_WINDOW + limits::STREAM_WINDOW) as usize;
    assert!(last <= bytes / ANSWER + 2, "{last} answers of {ANSWER} bytes");
    echo(&three, 2, ctx(5000)).await.unwrap();
    blocked.send(()).unwrap();
    let waiting = TaskGroup::current().blocking(move || greedy.join().unwrap());
    assert_eq!(waiting.await.unwrap(), CALLS);
}

/// Bytes to be thrown away.
struct Snapshot;

impl Transfer for Snapshot {
    const ID: u16 = 0x8011;
    const NAME: &'static str = "snapshot";
    const MAX_HEADER: usize = 8;
    const MAX_RECEIPT: usize = 16;
    type Header = ();
    type Receipt = u64;
}

/// Heartbeats go both ways while every core has more to do than it can: a transfer each way, and calls of clients.
/// What they take is a figure of the bench; here none may fail, and none may wait until the transfers are over.
#[tokio::test]
async fn heartbeats_are_answered_beside_transfers_and_calls() {
    const CHUNK: usize = 256 << 10;
    const CHUNKS: u64 = 32;
    let ca = authority();
    let start = |node| {
        let router = router(&Slept::default());
        router.register_transfer::<Snapshot, _, _>(|_, (), offered| async move {
            let mut incoming = offered.accept_from(0).await;
            while incoming.chunk().await?.is_some() {}
            Ok(incoming.offset())
        });
        let identity = identity(&ca, node);
        let local = local(&identity, 1);
        let node = QuicTransport::builder(identity, local).router(router);
        node.start().unwrap()
    };
    let (one, two) = (start(1), start(2));
    introduce(&one, &two);
    introduce(&two, &one);
    let chunk = bytes::Bytes::from(vec![7; CHUNK]);
    let send = |from: &Transport, to| {
        let (from, chunk) = (from.clone(), chunk.clone());
        async move {
            let source = move |offset: u64| {
                let left = offset < CHUNKS * CHUNK as u64;
                std::future::ready(Ok(if left { chunk.clone() } else { bytes::Bytes::new() }))
            };
            let ctx = TransferCtx::new().idle_timeout(Duration::from_secs(60));
            let received = from.send_stream::<Snapshot, _, _>(to, &(), source, ctx).await;
            assert_eq!(received.unwrap(), CHUNKS * CHUNK as u64);
        }
    };
    let over = AtomicBool::new(false);
    let load = async {
        tokio::join!(send(&one, 2), send(&two, 1));
        over.store(true, Ordering::SeqCst);
    };
    let busy = async {
        while !over.load(Ordering::SeqCst) {
            join_all((0..32).map(|_| echo(&one, 2, ctx(60_000)))).await;
        }
    };
    let beats = |from: Transport, to| {
        let over = &over;
        async move {
            let mut answered = 0;
            while !over.load(Ordering::SeqCst) {
                from.call::<Sleep>(to, &0, ctx(10_000)).await.unwrap();
                answered += 1;
                sleep(Duration::from_millis(10)).await;
            }
            answered
        }
    };
    let ((), (), forth, back) = tokio::join!(load, busy, beats(one.clone(), 2), beats(two.clone(), 1));
    // One at the begin, one that ends after the load, and some in between.
    assert!(forth >= 5 && back >= 5, "{forth} forth, {back} back");
}
