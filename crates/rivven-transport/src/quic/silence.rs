//! When a peer that is called has been silent for too long: pings counted, nothing sent.

use super::limits::{MAX_MISSED_PINGS, QUIET_AFTER};

/// Counts pings without any sign of life.
///
/// Any packet is one: while a peer is slow to read, its pong may have to wait, its acknowledgements do not.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Packets received until the last tick.
    heard: u64,
    /// Pings sent since the last sign of life.
    asked: u32,
    /// Calls begun until the last tick.
    begun: u64,
    /// Ticks since a call was begun or waited for.
    unused: u32,
}

/// What to do at a tick.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: nobody calls, and QUIC's own keep-alive watches the connection.
    Quiet,
    /// Send a ping.
    Ask,
    /// Give the connection up.
    Dead,
}

impl Silence {
    /// `heard` is the number of packets received so far, `begun` that of calls, of which some `wait` or not.
    pub(super) fn tick(&mut self, heard: u64, begun: u64, wait: bool) -> Verdict {
        let alive = heard != self.heard;
        let used = wait || begun != self.begun;
        (self.heard, self.begun) = (heard, begun);
        self.unused = if used { 0 } else { self.unused.saturating_add(1) };
        if alive {
            self.asked = 0;
        } else if self.asked >= MAX_MISSED_PINGS {
            return Verdict::Dead;
        }
        if self.unused > QUIET_AFTER && self.asked == 0 {
            return Verdict::Quiet;
        }
        self.asked += 1;
        Verdict::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_pings_without_any_packet_end_a_connection_and_one_packet_saves_it() {
        let mut silence = Silence::default();
        let mut heard = 5;
        for _ in 0..10 {
            assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
            heard += 1;
        }
        heard -= 1;
        assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
        assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
        heard += 1;
        for _ in 0..MAX_MISSED_PINGS {
            assert_eq!(silence.tick(heard, 1, true), Verdict::Ask);
        }
        assert_eq!(silence.tick(heard, 1, true), Verdict::Dead);
    }

    #[test]
    fn a_connection_that_nobody_uses_is_not_pinged_but_a_question_asked_is_waited_for() {
        let mut silence = Silence::default();
        assert_eq!(silence.tick(1, 1, false), Verdict::Ask);
        let mut heard = 2;
        for _ in 0..QUIET_AFTER {
            assert_eq!(silence.tick(heard, 1, false), Verdict::Ask);
            heard += 1;
        }
        for _ in 0..10 {
            assert_eq!(silence.tick(heard, 1, false), Verdict::Quiet);
            heard += 1;
        }
        // A call wakes the pings, and even when it is given up they are seen through.
        assert_eq!(silence.tick(heard, 2, true), Verdict::Ask);
        for _ in 1..MAX_MISSED_PINGS {
            assert_eq!(silence.tick(heard, 2, false), Verdict::Ask);
        }
        assert_eq!(silence.tick(heard, 2, false), Verdict::Dead);
    }
}
