//! What moves between two rings, exactly, and what each node has.

use alloc::{vec, vec::Vec};
use core::iter::{Peekable, Zip};
use core::slice::Iter;

use super::Ring;
use crate::{NodeName, Position, RingNode};

/// Positions on the whole circle.
const CIRCLE: f64 = 18_446_744_073_709_551_616.0;

/// The difference between two rings: which positions change hands.
///
/// Made by [`Ring::diff`]. Nothing is stored; each question is answered by one pass over the tokens of both.
#[derive(Clone, Copy, Debug)]
pub struct RingDiff<'a> {
    from: &'a Ring,
    to: &'a Ring,
}

/// A range of positions that changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved<'a> {
    /// First position of the range.
    pub first: Position,
    /// Last position of the range, which belongs to it.
    pub last: Position,
    /// Who owned it; nobody in an empty ring.
    pub from: Option<&'a NodeName>,
    /// Who owns it then.
    pub to: Option<&'a NodeName>,
}

impl Moved<'_> {
    /// Number of positions: 1 to 2^64.
    #[must_use]
    pub const fn positions(&self) -> u128 {
        (self.last.0 - self.first.0) as u128 + 1
    }
}

impl Ring {
    /// What moves when this ring is replaced by `next`.
    #[must_use]
    pub const fn diff<'a>(&'a self, next: &'a Self) -> RingDiff<'a> {
        RingDiff { from: self, to: next }
    }

    /// Each node with its share of the circle, in the order of names. The shares add up to 1.
    ///
    /// This is what a node gets of an endless number of keys; its standard deviation is about
    /// `1 / sqrt(virtual nodes)`.
    #[must_use]
    pub fn shares(&self) -> Vec<(&RingNode, f64)> {
        let mut positions = vec![0_u128; self.len()];
        let mut first = 0;
        for (last, owner) in Arcs::new(self) {
            if let Some(sum) = owner.and_then(|owner| positions.get_mut(usize::from(owner))) {
                *sum += u128::from(last - first) + 1;
            }
            first = last.wrapping_add(1);
        }
        self.nodes().zip(positions.into_iter().map(fraction)).collect()
    }
}

impl<'a> RingDiff<'a> {
    /// The ranges that change hands, in the order of their positions; neighbours with the same old and new
    /// owner are one range.
    pub fn ranges(&self) -> impl Iterator<Item = Moved<'a>> + use<'a> {
        let mut pieces = Pieces::new(self.from, self.to).peekable();
        core::iter::from_fn(move || {
            let mut moved = pieces.next()?;
            let follows = |moved: &Moved<'_>, next: &Moved<'_>| {
                next.first.0 == moved.last.0.wrapping_add(1) && (next.from, next.to) == (moved.from, moved.to)
            };
            while let Some(next) = pieces.next_if(|next| follows(&moved, next)) {
                moved.last = next.last;
            }
            Some(moved)
        })
    }

    /// Number of positions that change hands: 0 to 2^64.
    #[must_use]
    pub fn positions(&self) -> u128 {
        Pieces::new(self.from, self.to)
            .map(|piece| piece.positions())
            .sum()
    }

    /// The share of all positions, and so of an endless number of keys, that changes hands: 0 to 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        fraction(self.positions())
    }
}

fn fraction(positions: u128) -> f64 {
    positions as f64 / CIRCLE
}

/// The arcs of a ring from position 0 on: the last position of each, and its owner.
struct Arcs<'a> {
    tokens: Peekable<Zip<Iter<'a, u64>, Iter<'a, u16>>>,
    /// Owner of what lies behind the last token.
    first: Option<u16>,
    over: bool,
}

impl<'a> Arcs<'a> {
    fn new(ring: &'a Ring) -> Self {
        Self {
            tokens: ring.tokens.iter().zip(&ring.owners).peekable(),
            first: ring.owners.first().copied(),
            over: false,
        }
    }
}

impl Iterator for Arcs<'_> {
    type Item = (u64, Option<u16>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let (last, owner) = match self.tokens.next() {
            Some((token, owner)) => {
                // Of equal tokens the first one counts.
                while self.tokens.next_if(|(next, _)| *next == token).is_some() {}
                (*token, Some(*owner))
            }
            None => (u64::MAX, self.first),
        };
        self.over = last == u64::MAX;
        Some((last, owner))
    }
}

/// What changes hands, cut at every token of either ring.
struct Pieces<'a> {
    from: (&'a Ring, Peekable<Arcs<'a>>),
    to: (&'a Ring, Peekable<Arcs<'a>>),
    first: u64,
}

impl<'a> Pieces<'a> {
    fn new(from: &'a Ring, to: &'a Ring) -> Self {
        Self {
            from: (from, Arcs::new(from).peekable()),
            to: (to, Arcs::new(to).peekable()),
            first: 0,
        }
    }

    /// The next piece, moved or not.
    fn cut(&mut self) -> Option<Moved<'a>> {
        let name = |ring: &'a Ring, owner: Option<u16>| Some(&ring.member(owner?)?.node.name);
        let (old_last, old) = *self.from.1.peek()?;
        let (new_last, new) = *self.to.1.peek()?;
        let last = old_last.min(new_last);
        for arcs in [&mut self.from.1, &mut self.to.1] {
            arcs.next_if(|(end, _)| *end == last);
        }
        let piece = Moved {
            first: Position(self.first),
            last: Position(last),
            from: name(self.from.0, old),
            to: name(self.to.0, new),
        };
        self.first = last.wrapping_add(1);
        Some(piece)
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Moved<'a>;

    fn next(&mut self) -> Option<Moved<'a>> {
        loop {
            let piece = self.cut()?;
            if piece.from != piece.to {
                return Some(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests;
