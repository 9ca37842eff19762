//! Which of several connections between two nodes stays: a pure order on which both ends agree.

use rivven_types::BootEpoch;

/// A node's count of the connections that it dials to one peer for one purpose, over all its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// The start of the node that dialled.
    pub(super) epoch: BootEpoch,
    /// Which of that start's connections; from 1.
    pub(super) number: u64,
}

/// What decides the rank of a connection. Both ends know it from the dialler's hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Whether the node with the lower id of the two dialled.
    pub(super) by_lower: bool,
    /// Which of the dialler's connections it is.
    pub(super) turn: Turn,
    /// The newest connection of the other direction that the dialler knew.
    ///
    /// A node dials only when it has no connection or wants another in its place, so it is done with that
    /// one and with all before it.
    pub(super) seen: Turn,
}

impl Claim {
    /// Whether this connection stays and `other` goes.
    ///
    /// Of one direction the newer one stays. Of two that crossed, the one that the lower node dialled stays.
    /// One that the higher node dialled knowing the other has taken its place. As what a node has seen only
    /// grows, this is a total order, so two ends that know the same connections keep the same one, in
    /// whatever order they learnt of them.
    pub(super) fn beats(&self, other: &Self) -> bool {
        match (self.by_lower, other.by_lower) {
            (true, true) | (false, false) => self.turn > other.turn,
            (true, false) => self.turn > other.seen,
            (false, true) => other.turn <= self.seen,
        }
    }
}

/// One end's account of the connections with a peer for one purpose.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Connections this node has begun to dial.
    dialled: u64,
    /// The newest one that the peer dialled and this node took.
    seen: Turn,
}

impl Ledger {
    /// Claims a connection that this node is about to greet the peer on.
    pub(super) fn dial(&mut self, by_lower: bool, epoch: BootEpoch) -> Claim {
        self.dialled = self.dialled.saturating_add(1);
        let number = self.dialled;
        let turn = Turn { epoch, number };
        Claim {
            by_lower,
            turn,
            seen: self.seen,
        }
    }

    #[cfg(test)]
    pub(super) const fn dialled(&self) -> u64 {
        self.dialled
    }

    /// Whether the peer dialled `claim` before another one that this node has already taken.
    pub(super) fn is_late(&self, claim: &Claim) -> bool {
        claim.turn <= self.seen
    }

    /// Takes note of a connection that the peer dialled.
    pub(super) fn take(&mut self, claim: &Claim) {
        self.seen = self.seen.max(claim.turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn turn(number: u64) -> Turn {
        Turn {
            epoch: BootEpoch(1),
            number,
        }
    }

    const fn lower(number: u64) -> Claim {
        Claim {
            by_lower: true,
            turn: turn(number),
            seen: turn(0),
        }
    }

    const fn higher(number: u64, seen: u64) -> Claim {
        Claim {
            by_lower: false,
            turn: turn(number),
            seen: turn(seen),
        }
    }

    #[test]
    fn the_lower_dialler_wins_a_crossing_and_the_newer_one_a_succession() {
        let check = |one: Claim, two: Claim, expected| {
            assert_eq!(one.beats(&two), expected, "{one:?} {two:?}");
            assert_eq!(two.beats(&one), !expected, "{one:?} {two:?}");
        };
        check(lower(1), higher(1, 0), true);
        check(lower(1), higher(9, 0), true);
        check(lower(2), lower(1), true);
        check(higher(2, 0), higher(1, 0), true);
        // Dialled in the knowledge of the other, to replace it.
        check(higher(1, 1), lower(1), true);
        check(higher(1, 1), lower(2), false);
        // What was seen of an earlier start says nothing of this one.
        let later = Turn {
            epoch: BootEpoch(2),
            number: 1,
        };
        let restarted = Claim {
            turn: later,
            ..lower(1)
        };
        check(restarted, higher(3, 7), true);
    }

    /// Every order in which `left` can be learnt, starting from `best`, keeps the same connection.
    fn winners(best: Option<Claim>, left: &[Claim], found: &mut Vec<Claim>) {
        if left.is_empty() {
            found.extend(best);
        }
        for (at, next) in left.iter().enumerate() {
            let mut rest = left.to_vec();
            rest.remove(at);
            let best = match best {
                Some(best) if !next.beats(&best) => best,
                Some(_) | None => *next,
            };
            winners(Some(best), &rest, found);
        }
    }

    /// All of three connections from each side, with every history of what the higher node had seen.
    #[test]
    fn both_ends_keep_the_same_connection_in_whatever_order_they_learn_of_them() {
        let mut orders = 0;
        for seen in (0..4_u64.pow(3)).map(|n| [n % 4, n / 4 % 4, n / 16]) {
            if !seen.is_sorted() {
                continue;
            }
            let all: Vec<_> = (1..4)
                .map(lower)
                .chain((1..4).zip(seen).map(|(number, seen)| higher(number, seen)))
                .collect();
            for subset in 1..1_u32 << all.len() {
                let some: Vec<_> = (0..all.len())
                    .filter(|at| subset >> at & 1 == 1)
                    .map(|at| all[at])
                    .collect();
                let mut found = Vec::new();
                winners(None, &some, &mut found);
                orders += found.len();
                found.dedup();
                assert_eq!(found.len(), 1, "{some:?}: {found:?}");
            }
        }
        assert!(orders > 30_000, "{orders}");
    }

    #[test]
    fn a_connection_overtaken_by_a_later_one_of_its_dialler_is_late() {
        let mut ledger = Ledger::default();
        assert!(!ledger.is_late(&lower(1)));
        ledger.take(&lower(2));
        assert!(ledger.is_late(&lower(1)) && ledger.is_late(&lower(2)) && !ledger.is_late(&lower(3)));
        let first = ledger.dial(false, BootEpoch(1));
        assert_eq!(first, higher(1, 2));
        ledger.take(&lower(1));
        assert_eq!(ledger.dial(false, BootEpoch(1)), higher(2, 2));
    }
}
