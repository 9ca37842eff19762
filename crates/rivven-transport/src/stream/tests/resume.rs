//! A transfer that was cut goes on where its receiver stopped.

use super::*;
use crate::{FaultLayer, FaultProfile};

const CHUNKS: usize = 6;

/// What a lost connection is called, before and after all was sent.
const INTERRUPTED: [&str; 2] = ["transfer-interrupted", "maybe-executed"];

/// Sends until it succeeds, and says at which offset each attempt began.
async fn send_again(from: &Transport, whole: &Bytes, ctx: impl Fn() -> TransferCtx) -> Vec<u64> {
    let mut starts = Vec::new();
    for _ in 0..1_000 {
        let mut first = None;
        let source = |offset| {
            first.get_or_insert(offset);
            let start = usize::try_from(offset).unwrap();
            let piece = whole.slice(start..(start + MAX_CHUNK_BYTES).min(whole.len()));
            async move { io::Result::Ok(piece) }
        };
        let sent = from
            .send_stream::<Copy, _, _>(2, &Behaviour::Take, source, ctx())
            .await;
        starts.extend(first);
        match sent {
            Ok(_) => return starts,
            // Once all is sent, a lost connection leaves open whether the receiver has it all.
            Err(error) => assert!(INTERRUPTED.contains(&error.code()), "{error}"),
        }
    }
    panic!("no attempt of 1,000 succeeded");
}

/// Cuts the connection with `cut` after each number of chunks, and repeats once `heal` has been called.
async fn check(pair: &Pair, cut: impl Fn(), heal: impl Fn()) {
    let whole = content(CHUNKS * MAX_CHUNK_BYTES - 1);
    for after in 0..=CHUNKS {
        pair.shelf.held.lock().unwrap().clear();
        let sending = async {
            let ctx = TransferCtx::new().idle_timeout(Duration::from_secs(30));
            send(
                &pair.one,
                Behaviour::TrapAfter(after),
                &whole,
                MAX_CHUNK_BYTES,
                ctx,
            )
            .await
        };
        let cutting = async {
            pair.shelf.trap.notified().await;
            cut();
        };
        let (sent, ()) = tokio::join!(sending, cutting);
        let error = sent.unwrap_err();
        assert!(
            INTERRUPTED.contains(&error.code()),
            "after {after} chunks: {error}"
        );
        assert!(after > 0 || error.outcome() == Outcome::NotDone, "{error}");
        let held = pair.shelf.held().len();
        assert_eq!(held, (after * MAX_CHUNK_BYTES).min(whole.len()));
        heal();
        let starts = send_again(&pair.one, &whole, || {
            TransferCtx::new().idle_timeout(Duration::from_secs(30))
        })
        .await;
        assert_eq!(starts.first(), Some(&(held as u64)), "after {after} chunks");
        assert!(pair.shelf.held() == whole, "after {after} chunks");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_cut_at_every_chunk_in_memory() {
    let network = MemoryNetwork::new();
    check(&in_memory(&network), || network.cut(1, 2), || network.heal()).await;
    check_other_direction().await;
}

async fn check_other_direction() {
    let network = MemoryNetwork::new();
    check(&in_memory(&network), || network.cut(2, 1), || network.heal()).await;
    assert!(network.stats().cut > 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_denial_at_every_chunk_in_memory() {
    let pair = in_memory(&MemoryNetwork::new());
    check(&pair, || pair.two.deny(1), || pair.two.allow(1)).await;
}

#[tokio::test]
async fn after_a_cut_at_every_chunk_on_loopback() {
    let pair = on_loopback();
    check(&pair, || pair.two.deny(1), || pair.two.allow(1)).await;
}

#[tokio::test(start_paused = true)]
async fn through_connections_that_keep_breaking() {
    let whole = content(60 * MAX_CHUNK_BYTES);
    let run = |seed| {
        let whole = whole.clone();
        async move {
            let network = MemoryNetwork::seeded(seed);
            network.default_link(LinkProfile {
                delay: ms(1),
                jitter: ms(2),
                loss: 0.02,
                ..LinkProfile::default()
            });
            let faults = FaultLayer::seeded(seed);
            faults.default_profile(FaultProfile {
                lose_request: 0.05,
                lose_response: 0.05,
                ..FaultProfile::default()
            });
            let Pair {
                one,
                two: _two,
                shelf,
            } = in_memory(&network);
            let began = Instant::now();
            let starts = send_again(&faults.wrap(one), &whole, TransferCtx::new).await;
            assert!(shelf.held() == whole, "seed {seed}");
            assert!(
                faults.stats().broken_transfers >= 2,
                "seed {seed}: {:?}",
                faults.stats()
            );
            assert!(
                starts.is_sorted() && starts.last() > Some(&0),
                "seed {seed}: {starts:?}"
            );
            (starts, began.elapsed(), network.stats())
        }
    };
    for seed in 0..10 {
        assert_eq!(run(seed).await, run(seed).await, "seed {seed}");
    }
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_ends_before_the_connection_does_is_waited_out() {
    for through_layer in [false, true] {
        let network = MemoryNetwork::new();
        let Pair {
            one,
            two: _two,
            shelf,
        } = in_memory(&network);
        let faults = FaultLayer::seeded(1);
        let one = faults.wrap(one);
        let whole = content(20 * MAX_CHUNK_BYTES);
        let sending = send(
            &one,
            Behaviour::Slow(100),
            &whole,
            MAX_CHUNK_BYTES,
            TransferCtx::new(),
        );
        let cutting = async {
            for (from, to) in [(1, 2), (2, 1)] {
                sleep(ms(300)).await;
                if through_layer {
                    faults.cut(from, to)
                } else {
                    network.cut(from, to)
                }
                sleep(ms(2_000)).await;
                faults.heal();
                network.heal();
            }
        };
        let (sent, ()) = tokio::join!(sending, cutting);
        assert_eq!(sent.unwrap(), whole.len() as u64);
        assert!(shelf.held() == whole);
        assert!(network.stats().cut + faults.stats().cut > 0);
    }
}
