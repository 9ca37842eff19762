//! From a position to its owner in one step: the circle cut into equal buckets.

use alloc::vec::Vec;

/// Buckets for each token at least, as a power of two. With two, at most one bucket in eleven has two tokens
/// or more; with four the index of a large ring no longer fits the second-level cache.
const BUCKETS_PER_TOKEN_LOG2: u32 = 1;

/// Most buckets, as a power of two: 12 MiB of memory. Fuller rings share buckets among more tokens.
const MAX_BUCKETS_LOG2: u32 = 21;

/// Stands in [`Bucket::before`] for "more than one token"; no owner has this number.
const CROWDED: u16 = u16::MAX;

/// Who owns the positions of one bucket: as a rule two nodes at most, divided by one token.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// The 16 bits of the token that follow those of the bucket. In a crowded bucket the upper half of the
    /// index of its first token.
    split: u16,
    /// Owner of the positions before the token.
    before: u16,
    /// Owner of the positions after it. In a crowded bucket the lower half of the index.
    after: u16,
}

impl Bucket {
    /// A bucket without a token, all of it of one owner.
    const fn of(owner: u16) -> Self {
        Self {
            split: 0,
            before: owner,
            after: owner,
        }
    }

    /// A bucket whose first token of several has index `at`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the limit on tokens keeps an index within 32 bits"
    )]
    const fn crowded(at: usize) -> Self {
        Self {
            split: (at >> 16) as u16,
            before: CROWDED,
            after: at as u16,
        }
    }
}

/// What a bucket says of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The owner.
    Owner(u16),
    /// The owner is that of the first token at or after the position, close behind this index.
    From(usize),
    /// The bucket cannot tell; look at all tokens.
    Anywhere,
}

/// An index over the tokens of one ring.
///
/// Exact: where 16 bits cannot tell a position from a token, it sends the reader to the tokens.
#[derive(Clone, Debug)]
pub(super) struct Index {
    buckets: Vec<Bucket>,
    /// Number of leading bits of a position that name its bucket: 1 to [`MAX_BUCKETS_LOG2`].
    bits: u32,
}

impl Index {
    /// The index of a ring without tokens.
    pub(super) const EMPTY: Self = Self {
        buckets: Vec::new(),
        bits: 0,
    };

    /// The index over `tokens`, sorted, and their `owners`.
    pub(super) fn new(tokens: &[u64], owners: &[u16]) -> Self {
        let Some(first) = owners.first().copied() else {
            return Self::EMPTY;
        };
        // Rounded up to the next power of two.
        let bits = (tokens.len().ilog2() + 1 + BUCKETS_PER_TOKEN_LOG2).min(MAX_BUCKETS_LOG2);
        let bucket = |token: &u64| usize::try_from(token >> (u64::BITS - bits)).unwrap_or(usize::MAX);
        let mut buckets = Vec::with_capacity(1 << bits);
        let mut rest = tokens.iter().zip(owners).enumerate().peekable();
        while let Some((at, (token, owner))) = rest.next() {
            let number = bucket(token);
            // The buckets without a token before this one are its owner's, too.
            buckets.resize(number, Bucket::of(*owner));
            let neighbours = core::iter::from_fn(|| rest.next_if(|(_, (next, _))| bucket(next) == number));
            buckets.push(match (neighbours.count(), rest.peek()) {
                (0, next) => Bucket {
                    split: low_bits(*token, bits),
                    before: *owner,
                    // After the last token comes the first, around the ring.
                    after: next.map_or(first, |(_, (_, owner))| **owner),
                },
                _ => Bucket::crowded(at),
            });
        }
        buckets.resize(1 << bits, Bucket::of(first));
        Self { buckets, bits }
    }

    /// Who owns `position`, or where to look. `None` if the ring is empty.
    #[inline]
    pub(super) fn find(&self, position: u64) -> Option<Found> {
        // An empty index has no bits; its shift would overflow, and it has no bucket anyway.
        let number = position.checked_shr(64 - self.bits)?;
        let bucket = self.buckets.get(usize::try_from(number).ok()?)?;
        let place = low_bits(position, self.bits);
        if bucket.before == CROWDED {
            let index = u32::from(bucket.split) << 16 | u32::from(bucket.after);
            return Some(Found::From(index as usize));
        }
        if place == bucket.split && bucket.before != bucket.after {
            return Some(Found::Anywhere);
        }
        // Either is as likely, so this must not become a branch.
        Some(Found::Owner(core::hint::select_unpredictable(
            place < bucket.split,
            bucket.before,
            bucket.after,
        )))
    }

    /// Bytes on the heap.
    pub(super) const fn heap_size(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }
}

/// The 16 bits after the leading `bits`.
const fn low_bits(position: u64, bits: u32) -> u16 {
    (position << bits >> 48) as u16
}
