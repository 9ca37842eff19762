//! Sharing a number out by weight, exactly.

use std::cmp::Reverse;

/// One that gets a share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) weight: u64,
    /// The most it can take.
    pub(crate) cap: u64,
}

/// Shares `total` by weight, none above its cap: every share is the exact one rounded down or up.
///
/// Parts that reach their cap are filled; the others share the rest. What rounding down leaves goes, one
/// each, to those that `prefer` puts first (given the index and the share rounded down), then to the largest
/// remainders, then in order. If the caps hold less than `total`, all are filled.
pub(crate) fn fill<K: Ord>(parts: &[Part], total: u64, prefer: impl Fn(usize, u64) -> K) -> Vec<u64> {
    let mut full: Vec<bool> = parts.iter().map(|part| part.weight == 0).collect();
    loop {
        let taken = parts.iter().zip(&full).filter(|(_, full)| **full);
        let taken: u64 = taken.map(|(part, _)| part.filled()).sum();
        let rest = total.saturating_sub(taken);
        let open = || parts.iter().zip(&full).filter(|(_, full)| !**full);
        let weight: u64 = open().map(|(part, _)| part.weight).sum();
        // A part overflows if its exact share of the rest exceeds its cap.
        let over = |part: &Part| product(rest, part.weight) > product(part.cap, weight);
        if !open().any(|(part, _)| over(part)) {
            return share_out(parts, &full, (rest, weight), prefer);
        }
        let next = parts.iter().zip(&full).map(|(part, full)| *full || over(part));
        full = next.collect();
    }
}

impl Part {
    /// What a part has that is full, which one without weight always is.
    const fn filled(&self) -> u64 {
        if self.weight == 0 { 0 } else { self.cap }
    }
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

fn share_out<K: Ord>(
    parts: &[Part],
    full: &[bool],
    (rest, weight): (u64, u64),
    prefer: impl Fn(usize, u64) -> K,
) -> Vec<u64> {
    let mut shares = Vec::with_capacity(parts.len());
    let mut rounded = Vec::new();
    let mut left = rest;
    for (at, (part, full)) in parts.iter().zip(full).enumerate() {
        if *full {
            shares.push(part.filled());
            continue;
        }
        let exact = product(rest, part.weight);
        let (whole, remainder) = (exact / u128::from(weight), exact % u128::from(weight));
        // At most `rest`, because the weight is a part of all.
        let whole = u64::try_from(whole).unwrap_or(rest);
        left = left.saturating_sub(whole);
        shares.push(whole);
        if remainder > 0 {
            rounded.push((prefer(at, whole), Reverse(remainder), at));
        }
    }
    rounded.sort_unstable();
    let up = usize::try_from(left).unwrap_or(usize::MAX);
    for (_, _, at) in rounded.into_iter().take(up) {
        if let Some(share) = shares.get_mut(at) {
            *share += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn remainders_go_to_the_preferred_then_to_the_largest() {
        let part = |weight| Part { weight, cap: 100 };
        let parts = [part(1), part(1), part(2)];
        assert_eq!(fill(&parts, 5, |_, _| ()), [1, 1, 3]);
        assert_eq!(fill(&parts, 5, |at, _| at != 1), [1, 2, 2]);
        let capped = [Part { weight: 1, cap: 1 }, part(1), part(0)];
        assert_eq!(fill(&capped, 9, |_, _| ()), [1, 8, 0]);
        assert_eq!(fill(&capped, 900, |_, _| ()), [1, 100, 0]);
    }

    proptest! {
        #[test]
        fn shares_are_exact_within_one(parts in vec((0..5u64, 0..50u64), 1..8), total in 0..200u64) {
            let parts: Vec<Part> = parts.into_iter().map(|(weight, cap)| Part { weight, cap }).collect();
            let shares = fill(&parts, total, |_, _| ());
            let room: u64 = parts.iter().map(Part::filled).sum();
            prop_assert_eq!(shares.iter().sum::<u64>(), total.min(room));
            // Nobody below its cap has a smaller part of its weight than another, by more than the rounding.
            for (a, x) in parts.iter().zip(&shares) {
                prop_assert!(*x <= a.filled());
                for (b, y) in parts.iter().zip(&shares) {
                    if a.weight > 0 && b.weight > 0 && *x < a.cap {
                        prop_assert!((x + 1) * b.weight >= y.saturating_sub(1) * a.weight);
                    }
                }
            }
        }
    }
}
