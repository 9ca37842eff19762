//! The bucket by itself, and several who draw from it.

use proptest::{collection::vec, prelude::*};

use super::*;

fn rate(bytes: u64) -> NonZeroU64 {
    NonZeroU64::new(bytes).unwrap()
}

fn allowed(rate: NonZeroU64, time: Duration) -> u128 {
    u128::from(rate.get()) * time.as_nanos() / 1_000_000_000
}

#[test]
fn whoever_sends_without_a_break_keeps_the_rate_exactly() {
    let check = |bytes: u64, piece: u64, expected: Duration| {
        let begun = Instant::now();
        let (mut bucket, mut now) = (Bucket::new(begun, rate(bytes)), begun);
        for _ in 0..1_000 {
            now = bucket.due(now, piece);
            bucket.take(now);
        }
        assert_eq!(now - begun, expected, "{piece} at {bytes}");
    };
    check(64 << 10, 1 << 10, Duration::from_micros(15_625_000));
    check(1 << 20, 1 << 18, Duration::from_secs(250));
    check(1, 1, Duration::from_secs(1_000));
    // A piece never takes less than it must, however fast.
    check(u64::MAX, 1, Duration::from_micros(1));
}

#[test]
fn a_pause_is_credited_for_a_tenth_of_a_second_at_most() {
    let begun = Instant::now();
    let mut bucket = Bucket::new(begun, rate(1_000));
    let after = |ms| begun + Duration::from_millis(ms);
    assert_eq!(bucket.due(begun, 100), after(100), "it is empty at first");
    assert_eq!(bucket.due(after(50), 100), after(100));
    // Long after it was full, it holds no more than that.
    assert_eq!(bucket.due(after(5_000), 100), after(5_000));
    bucket.take(after(5_000));
    assert_eq!(bucket.due(after(5_000), 100), after(5_100));
    assert_eq!(
        bucket.due(after(5_000), 0),
        after(5_000),
        "nothing is always there"
    );
}

proptest! {
    /// Proptest prints what fails and keeps its seed in `proptest-regressions`.
    #[test]
    fn no_span_of_time_sees_more_than_the_rate_allows(
        bytes in 1_u64..1 << 40,
        draws in vec((0_u64..400_000, 1_u64..=100), 1..60),
    ) {
        let begun = Instant::now();
        let (rate, mut now) = (rate(bytes), begun);
        let mut bucket = Bucket::new(now, rate);
        let mut taken = Vec::new();
        for (pause_us, percent) in draws {
            let piece = (bytes / PIECES_PER_SECOND * percent).div_ceil(100);
            now += Duration::from_micros(pause_us);
            let due = bucket.due(now, piece);
            bucket.take(due);
            now = now.max(due);
            taken.push((now, u128::from(piece)));
        }
        for (at, (from, _)) in taken.iter().enumerate() {
            let mut sum = 0;
            for (until, piece) in &taken[at..] {
                sum += piece;
                let most = allowed(rate, *until - *from + CREDIT) + 1;
                prop_assert!(sum <= most, "{sum} in {:?}, {most} allowed", *until - *from);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_send_share_the_rate_in_turns_and_one_who_leaves_takes_nothing() {
    let shared = SnapshotRate::new(Some(rate(1 << 20)));
    let piece = shared.piece_bytes(1 << 20);
    assert_eq!(piece, 1 << 14);
    let begun = Instant::now();
    let senders = (0..4).map(|_| async {
        for _ in 0..64 {
            shared.admit(piece).await;
        }
        begun.elapsed()
    });
    let gives_up = async {
        for _ in 0..1_000 {
            // In the queue, or at its turn.
            let left = tokio::time::timeout(Duration::from_millis(3), shared.admit(piece));
            drop(left.await);
        }
    };
    let (took, ()) = tokio::join!(futures_util::future::join_all(senders), gives_up);
    for took in took {
        // Four times a second's worth, and none is far behind the others.
        let took = took.as_secs_f64();
        assert!((3.8..4.2).contains(&took), "{took} s");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_nobody_waits_and_one_that_is_too_low_is_raised() {
    let begun = Instant::now();
    let unlimited = SnapshotRate::new(None);
    assert_eq!(unlimited.piece_bytes(1 << 20), 1 << 20);
    unlimited.admit(1 << 40).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let lowest = SnapshotRate::new(Some(rate(1)));
    assert_eq!(lowest.piece_bytes(1 << 20), 1 << 10);
    lowest.admit(1 << 16).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
}
