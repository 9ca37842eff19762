//! How long a member stays suspect before it is declared dead (Lifeguard, section IV-B).

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
    /// Somebody has heard, a moment ago, that the suspicion ended without contradiction.
    pub(crate) hastened: bool,
    /// Sorted; only the first `count`.
    accusers: [NodeId; MAX_ACCUSERS],
    count: usize,
}

impl Suspicion {
    pub(crate) const fn new(started: Time) -> Self {
        Self {
            started,
            hastened: false,
            accusers: [0; MAX_ACCUSERS],
            count: 0,
        }
    }

    /// Adds an accuser; `true` if it was new and there was room.
    pub(crate) fn accuse(&mut self, accuser: NodeId) -> bool {
        let Err(at) = self.accusers().binary_search(&accuser) else {
            return false;
        };
        if self.count == MAX_ACCUSERS {
            return false;
        }
        self.count += 1;
        if let Some(rest) = self.accusers.get_mut(at..self.count) {
            rest.rotate_right(1);
            if let Some(first) = rest.first_mut() {
                *first = accuser;
            }
        }
        true
    }

    pub(crate) fn accusers(&self) -> &[NodeId] {
        self.accusers.get(..self.count).unwrap_or_default()
    }

    /// Whether as many members accuse as it takes to act on it: three, or all others if fewer exist.
    ///
    /// `members` counts the suspect and this node.
    pub(crate) fn is_confirmed(&self, members: usize) -> bool {
        self.count >= members.saturating_sub(1).clamp(1, MAX_CONFIRMATIONS)
    }

    /// When the suspicion ends, given the shortest and the longest it may last.
    ///
    /// Shrinks from `max` towards `min` as independent confirmations arrive, so one slow accuser cannot
    /// evict a healthy member quickly. Where nobody else could confirm, nothing shrinks.
    pub(crate) fn ends(&self, min: Duration, max: Duration, members: usize) -> Time {
        let possible = members.saturating_sub(2).min(MAX_CONFIRMATIONS);
        let confirmed = self.count.saturating_sub(1);
        let range = max.saturating_sub(min);
        let permille = if self.hastened {
            1000
        } else {
            shrink_permille(confirmed, possible)
        };
        self.started + max.saturating_sub(range * permille / 1000)
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
    use alloc::vec::Vec;

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
