//! How long a member stays suspect before it is declared dead (Lifeguard, section IV-B).

use alloc::vec::Vec;
use core::time::Duration;

use rivven_types::NodeId;

use crate::Time;

/// Confirmations, beyond the first accusation, after which waiting longer teaches nothing (Lifeguard's K).
pub(crate) const MAX_CONFIRMATIONS: usize = 3;

/// Accusers kept and sent per suspicion: the first and its confirmations.
pub(crate) const MAX_ACCUSERS: usize = MAX_CONFIRMATIONS + 1;

/// One suspicion: since when, and who failed to reach the member on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspicion {
    pub(crate) started: Time,
    accusers: Vec<NodeId>,
}

impl Suspicion {
    pub(crate) const fn new(started: Time) -> Self {
        Self {
            started,
            accusers: Vec::new(),
        }
    }

    /// Adds an accuser; `true` if it was new and there was room.
    pub(crate) fn accuse(&mut self, accuser: NodeId) -> bool {
        let room = self.accusers.len() < MAX_ACCUSERS;
        match self.accusers.binary_search(&accuser) {
            Err(at) if room => {
                self.accusers.insert(at, accuser);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    pub(crate) fn accusers(&self) -> &[NodeId] {
        &self.accusers
    }

    /// Whether as many members accuse as it takes to act on it: three, or all others if fewer exist.
    ///
    /// `members` counts the suspect and this node.
    pub(crate) fn is_confirmed(&self, members: usize) -> bool {
        self.accusers.len() >= members.saturating_sub(1).clamp(1, MAX_CONFIRMATIONS)
    }

    /// When the suspicion ends, given the shortest and the longest it may last.
    ///
    /// Shrinks from `max` towards `min` as independent confirmations arrive, so one slow accuser cannot
    /// evict a healthy member quickly. Where nobody else could confirm, nothing shrinks.
    pub(crate) fn ends(&self, min: Duration, max: Duration, members: usize) -> Time {
        let possible = members.saturating_sub(2).min(MAX_CONFIRMATIONS);
        let confirmed = self.accusers.len().saturating_sub(1);
        let range = max.saturating_sub(min);
        let cut = range * shrink_permille(confirmed, possible) / 1000;
        self.started + max.saturating_sub(cut)
    }
}

/// `1000 * log(confirmed + 1) / log(possible + 1)`, as a table because the core has no logarithm.
const fn shrink_permille(confirmed: usize, possible: usize) -> u32 {
    match (confirmed, possible) {
        (0, _) | (_, 0) => 0,
        (1, 2) => 631,
        (1, 3) => 500,
        (2, 3) => 792,
        (_, _) => 1000,
    }
}

/// `1000 * log10(n)`, rounded down; 0 for `n` below 2.
///
/// Bit by bit as in Knuth, TAOCP 1.2.2, exercise 25: squaring a mantissa between 1 and 2 doubles its
/// binary logarithm.
pub(crate) fn log10_permille(n: usize) -> u32 {
    const FRACTION_BITS: u32 = 16;
    let n = n.max(1) as u64;
    let whole = n.ilog2();
    let mut mantissa = (n << 31) >> whole; // below 2^32 as long as n is below 2^33
    let mut log2 = u64::from(whole);
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 31;
        let bit = mantissa >> 32;
        mantissa >>= bit;
        log2 = log2 << 1 | bit;
    }
    // log10(2) = 0.30103
    u32::try_from((log2 * 30_103 / 100) >> FRACTION_BITS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_close() {
        for n in [1_usize, 2, 3, 9, 10, 20, 99, 100, 1_000, 1_234, 10_000] {
            let exact = 1000.0 * (n as f64).log10();
            let got = f64::from(log10_permille(n));
            assert!((exact - got).abs() <= 1.5, "log10({n}): {exact} but got {got}");
        }
    }

    #[test]
    fn suspicion_shrinks_with_each_confirmation() {
        let (min, max) = (Duration::from_secs(2), Duration::from_secs(10));
        let mut suspicion = Suspicion::new(Time::ZERO);
        let mut ends = Vec::new();
        for accuser in [7, 7, 3, 5, 9, 11] {
            suspicion.accuse(accuser);
            ends.push(suspicion.ends(min, max, 20).as_micros() / 1000);
        }
        assert_eq!(ends, [10_000, 10_000, 6_000, 3_664, 2_000, 2_000]);
        assert_eq!(suspicion.accusers(), [3, 5, 7, 9]);
    }

    #[test]
    fn small_clusters_confirm_with_all_others() {
        let (min, max) = (Duration::from_secs(2), Duration::from_secs(5));
        let mut suspicion = Suspicion::new(Time::ZERO);
        suspicion.accuse(1);
        assert!(suspicion.is_confirmed(2) && !suspicion.is_confirmed(3));
        assert_eq!(
            suspicion.ends(min, max, 2),
            Time::ZERO + max,
            "nobody could confirm"
        );
        suspicion.accuse(2);
        assert!(suspicion.is_confirmed(3) && !suspicion.is_confirmed(4));
        assert_eq!(suspicion.ends(min, max, 3), Time::ZERO + min);
    }
}
