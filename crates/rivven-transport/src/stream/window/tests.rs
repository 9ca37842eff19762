//! The window on simulated paths.

use super::*;

/// A path that carries `rate` bytes per second after a queue, and answers `delay` later.
struct Path {
    rate: f64,
    delay: Duration,
}

/// What a transfer has shown in its second half.
#[derive(Debug)]
struct Shown {
    /// Share of the path's rate that was used.
    used: f64,
    /// Longest wait in the queue.
    queued: Duration,
}

impl Path {
    /// Sends for `span` of simulated time, as fast as the window lets it. `share` is what the path gives
    /// this transfer at a moment, between 0 and 1.
    fn run(&self, span: Duration, share: impl Fn(Duration) -> f64) -> Shown {
        let start = Instant::now();
        let mut window = Window::new(0);
        let chunk = MAX_CHUNK_BYTES as u64;
        let mut answers: VecDeque<(Instant, u64)> = VecDeque::new();
        let (mut now, mut free) = (start, start);
        let (mut used, mut queued) = (0.0, Duration::ZERO);
        let half = span / 2;
        while now < start + span {
            while window.room() >= chunk {
                window.on_sent(now, chunk);
                let rate = self.rate * share(now - start);
                let begin = free.max(now);
                free = begin + Duration::from_secs_f64(MAX_CHUNK_BYTES as f64 / rate);
                answers.push_back((free + self.delay, window.sent()));
                if now - start >= half {
                    used += MAX_CHUNK_BYTES as f64;
                    queued = queued.max(begin - now);
                }
            }
            let (at, held) = answers.pop_front().unwrap();
            now = at;
            window.on_held(now, held).unwrap();
        }
        let used = used / (self.rate * half.as_secs_f64());
        Shown { used, queued }
    }
}

#[tokio::test(start_paused = true)]
async fn the_path_is_used_and_the_queue_stays_short() {
    for rate in [20e6, 100e6, 500e6, 2e9] {
        for delay_us in [50, 200, 1_000, 3_000] {
            let delay = Duration::from_micros(delay_us);
            let shown = Path { rate, delay }.run(Duration::from_secs(4), |_| 1.0);
            let smallest = Duration::from_secs_f64(MIN_WINDOW_BYTES as f64 / rate);
            assert!(shown.used > 0.9, "{rate} B/s, {delay:?}: {shown:?}");
            assert!(
                shown.queued <= target(delay + smallest) * 2 + smallest,
                "{rate} B/s, {delay:?}: {shown:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_path_is_used_as_far_as_the_largest_window_goes() {
    let shown = Path {
        rate: 1e9,
        delay: Duration::from_millis(20),
    }
    .run(Duration::from_secs(20), |_| 1.0);
    let most = MAX_WINDOW_BYTES as f64 / (1e9 * 0.02);
    assert!(shown.used > 0.9 * most && shown.used <= 1.01 * most, "{shown:?}");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_others_use_too_is_given_way_to() {
    // From the second second on only a fifth of the path is left.
    let share = |at: Duration| if at < Duration::from_secs(1) { 1.0 } else { 0.2 };
    let path = Path {
        rate: 200e6,
        delay: Duration::from_micros(200),
    };
    let shown = path.run(Duration::from_secs(4), share);
    let smallest = Duration::from_secs_f64(MIN_WINDOW_BYTES as f64 / 40e6);
    assert!(shown.used > 0.18 && shown.used < 0.22, "{shown:?}");
    assert!(
        shown.queued <= target(path.delay + smallest) * 2 + smallest,
        "{shown:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_not_used_does_not_grow() {
    let mut window = Window::new(7);
    for _ in 0..1_000 {
        let now = Instant::now();
        window.on_sent(now, 100);
        window.on_held(now, window.sent()).unwrap();
    }
    assert_eq!(window.room(), MIN_WINDOW_BYTES);
}

#[test]
fn a_receiver_cannot_claim_what_was_not_sent_or_give_back_what_it_holds() {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(async {
            let now = Instant::now();
            let mut window = Window::new(100);
            window.on_sent(now, 50);
            assert!(window.on_held(now, 151).is_err());
            assert!(window.on_held(now, 99).is_err());
            assert_eq!(window.on_held(now, 150), Ok(()));
            assert!(window.on_held(now, 149).is_err());
            assert_eq!((window.held(), window.sent()), (150, 150));
        });
}
