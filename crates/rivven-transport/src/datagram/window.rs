//! Which counters of a sender were seen (the sliding window of RFC 4303, section 3.4.3).

/// Words of the window.
const WORDS: usize = 16;

/// Counters this far below the highest one are still told apart; older ones count as seen.
///
/// A sender uses one counter for all its receivers, so gaps are normal; what matters is how many
/// datagrams it sends while one of them is delayed.
pub(super) const WINDOW: u64 = WORDS as u64 * 64;

/// A ring of bits, one per counter of the last [`WINDOW`].
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    /// Highest counter seen; `None` before the first.
    highest: Option<u64>,
    bits: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether `counter` was seen, or is too old to tell.
    pub(super) fn is_seen(&self, counter: u64) -> bool {
        let Some(highest) = self.highest else { return false };
        let (word, bit) = position(counter);
        counter <= highest
            && (highest - counter >= WINDOW || self.bits.get(word).is_none_or(|bits| bits & bit != 0))
    }

    /// Marks `counter` as seen. Call it only for an authentic datagram.
    pub(super) fn mark(&mut self, counter: u64) {
        match self.highest {
            Some(highest) if counter <= highest => {}
            Some(highest) if counter - highest < WINDOW => {
                for skipped in highest + 1..=counter {
                    self.set(skipped, false);
                }
                self.highest = Some(counter);
            }
            Some(_) | None => {
                self.bits = [0; WORDS];
                self.highest = Some(counter);
            }
        }
        self.set(counter, true);
    }

    fn set(&mut self, counter: u64, seen: bool) {
        let (word, bit) = position(counter);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits = if seen { *bits | bit } else { *bits & !bit };
        }
    }
}

/// Word and bit of `counter` in the ring.
fn position(counter: u64) -> (usize, u64) {
    let slot = counter % WINDOW;
    (usize::try_from(slot / 64).unwrap_or(WORDS), 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the plain definition: seen, or at least WINDOW below the highest.
        #[test]
        fn the_window_agrees_with_a_set(
            start in prop_oneof![Just(0), Just(u64::MAX - 4000)],
            steps in prop::collection::vec(0..4000_u64, 0..200),
        ) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            for counter in steps.into_iter().map(|step| start + step) {
                let highest = seen.last().copied().unwrap_or(0);
                let expected = seen.contains(&counter)
                    || counter < highest && highest - counter >= WINDOW;
                prop_assert_eq!(window.is_seen(counter), expected);
                if !expected {
                    window.mark(counter);
                    seen.insert(counter);
                }
            }
        }
    }
}
