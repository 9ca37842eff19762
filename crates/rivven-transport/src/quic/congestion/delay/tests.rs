//! The window on simulated paths.

use std::collections::VecDeque;

use super::*;

/// Any moment.
fn start_of_time() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Bytes of a packet.
const PACKET: u64 = 1_452;

/// A path that carries `rate` bytes per second after a queue, and acknowledges `delay` later.
struct Path {
    rate: f64,
    delay: Duration,
}

/// What a connection that always has something to send has shown in the second half of its time.
#[derive(Debug)]
struct Shown {
    /// Share of the path's rate that was used.
    used: f64,
    /// Longest wait in the queue, but for slowdowns.
    queued: Duration,
    /// Largest window.
    window: u64,
}

impl Path {
    /// Sends for `span` of simulated time. `share` is what the path gives this connection at a moment, between
    /// 0 and 1.
    fn run(&self, span: Duration, share: impl Fn(Duration) -> f64) -> Shown {
        let start = start_of_time();
        let mut bound = DelayBound::new(start, 1_452);
        let mut flight: VecDeque<(Instant, Instant)> = VecDeque::new();
        let (mut now, mut free, mut paced) = (start, start, start);
        let mut shown = Shown {
            used: 0.0,
            queued: Duration::ZERO,
            window: 0,
        };
        let half = span / 2;
        while now < start + span {
            while flight.len() as u64 * PACKET + PACKET <= bound.window() {
                // As QUIC does: a window's packets are spread over four fifths of a round trip.
                let sent = paced.max(now);
                paced = sent + self.delay.mul_f64(0.8 * PACKET as f64 / bound.window() as f64);
                let begin = free.max(sent);
                let rate = self.rate * share(now - start);
                free = begin + Duration::from_secs_f64(PACKET as f64 / rate);
                flight.push_back((sent, free + self.delay));
                if now - start >= half {
                    shown.used += PACKET as f64;
                    shown.queued = shown.queued.max(begin - sent);
                    shown.window = shown.window.max(bound.window());
                }
            }
            let (sent, acked) = flight.pop_front().unwrap();
            now = acked;
            bound.on_ack(now - sent, PACKET);
            bound.on_end_acks(now, true);
        }
        shown.used /= self.rate * half.as_secs_f64();
        shown
    }
}

/// Time that a link of `rate` needs for the smallest window.
fn smallest(rate: f64) -> Duration {
    Duration::from_secs_f64(FLOOR_BYTES as f64 / rate)
}

#[test]
fn the_path_is_used_and_the_queue_stays_short() {
    for rate in [20e6, 100e6, 500e6, 1e9] {
        for delay_us in [50_u32, 1_000, 5_000, 50_000] {
            if rate * f64::from(delay_us) > 5e12 {
                // More than 5 MB on their way, which takes longer to find out.
                continue;
            }
            let delay = Duration::from_micros(delay_us.into());
            let shown = Path { rate, delay }.run(Duration::from_secs(1) + 140 * delay, |_| 1.0);
            assert!(shown.used > 0.9, "{rate} B/s, {delay:?}: {shown:?}");
            let most = smallest(rate).max(target(delay) * 3 / 2);
            assert!(shown.queued <= most, "{rate} B/s, {delay:?}: {shown:?}");
        }
    }
}

#[test]
fn a_path_that_others_use_too_is_given_way_to() {
    // From the second second on only a fifth of the path is left.
    let share = |at: Duration| if at < Duration::from_secs(1) { 1.0 } else { 0.2 };
    let path = Path {
        rate: 500e6,
        delay: Duration::from_millis(5),
    };
    let shown = path.run(Duration::from_secs(6), share);
    assert!(shown.used > 0.18 && shown.used < 0.22, "{shown:?}");
    assert!(shown.queued <= target(path.delay) * 3 / 2, "{shown:?}");
}

#[test]
fn looking_for_the_path_now_and_then_costs_little() {
    let path = Path {
        rate: 100e6,
        delay: Duration::from_millis(5),
    };
    let shown = path.run(Duration::from_secs(60), |_| 1.0);
    assert!(shown.used > 0.97, "{shown:?}");
    assert!(shown.queued <= target(path.delay) * 3 / 2, "{shown:?}");
}

#[test]
fn a_path_that_became_longer_is_no_queue_for_ever() {
    let start = start_of_time();
    let mut shortest = Shortest::new(start);
    let at = |s| start + Duration::from_secs(s);
    let ms = Duration::from_millis;
    assert!(!shortest.update(at(1), ms(5)));
    assert!(shortest.update(at(11), ms(20)), "a span has begun");
    assert_eq!(shortest.shortest(), ms(5));
    assert!(shortest.update(at(21), ms(20)));
    assert_eq!(shortest.shortest(), ms(20));
}

#[test]
fn a_window_that_is_not_used_does_not_grow() {
    let start = start_of_time();
    let mut bound = DelayBound::new(start, 1_452);
    for _ in 0..10_000 {
        bound.on_ack(Duration::from_micros(50), PACKET);
        bound.on_end_acks(start, false);
    }
    assert_eq!(bound.window(), FLOOR_BYTES);
}

#[test]
fn a_loss_bounds_the_window_and_ends_its_doubling() {
    let start = start_of_time();
    let mut bound = DelayBound::new(start, 1_452);
    let round = |bound: &mut DelayBound| {
        bound.on_ack(Duration::from_micros(50), bound.window());
        bound.on_end_acks(start, true);
    };
    round(&mut bound);
    round(&mut bound);
    assert_eq!(bound.window(), 4 * FLOOR_BYTES);
    bound.on_loss(2 * FLOOR_BYTES);
    assert_eq!(bound.window(), 2 * FLOOR_BYTES);
    round(&mut bound);
    assert_eq!(bound.window(), 2 * FLOOR_BYTES + 2 * FLOOR_BYTES / GROWTH_PART);
    // What Cubic allows below the floor it bounds by itself.
    bound.on_loss(10);
    assert_eq!(bound.window(), FLOOR_BYTES);
}

#[test]
fn delays_that_are_no_queue_of_ours_leave_the_floor() {
    let start = start_of_time();
    let mut bound = DelayBound::new(start, 1_452);
    for delay_ms in [1, 500, 500, 500] {
        bound.on_ack(Duration::from_millis(delay_ms), bound.window());
        bound.on_end_acks(start, true);
    }
    assert_eq!(bound.window(), FLOOR_BYTES);
}
