//! The digest: a hash over everything applied and answered, by which replicas can be compared.

use std::{collections::VecDeque, fmt};

use xxhash_rust::xxh3::Xxh3;

/// Entries between two digests that are kept for comparison.
const KEEP_EVERY: u64 = 1_024;

/// Digests kept for comparison: those of the last 65,536 entries.
const KEPT: usize = 64;

/// What a replica has applied up to an index, and what it answered, in one number.
///
/// Replicas that have applied the same entries with the same effect have the same digest at the same index.
/// It finds faults of disks, memory and programs, not forgery: the hash (XXH3, 128 bits) is not
/// cryptographic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Digest {
    /// Index of the last entry in it.
    pub index: u64,
    /// The hash.
    pub value: u128,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x} at {}", self.value, self.index)
    }
}

/// The digest as it grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    last: Option<Digest>,
    /// At the multiples of [`KEEP_EVERY`], oldest first.
    kept: VecDeque<Digest>,
}

impl Chain {
    /// Adds an entry: its log id, what it said, what was answered.
    ///
    /// The hash is of the hash before, term, index, kind, length of the command, command and answer, so no
    /// two histories share their bytes.
    pub(crate) fn add(&mut self, term: u64, index: u64, kind: &[u8; 3], command: &[u8], answer: &[u8]) {
        let mut hash = Xxh3::new();
        hash.update(&self.last.map_or(0, |last| last.value).to_le_bytes());
        hash.update(&term.to_le_bytes());
        hash.update(&index.to_le_bytes());
        hash.update(kind);
        hash.update(&(command.len() as u64).to_le_bytes());
        hash.update(command);
        hash.update(answer);
        let value = hash.digest128();
        let digest = Digest { index, value };
        self.last = Some(digest);
        if index.is_multiple_of(KEEP_EVERY) {
            self.keep(digest);
        }
    }

    pub(crate) const fn last(&self) -> Option<Digest> {
        self.last
    }

    /// The digest at `index`, if it is one of those kept or the last.
    pub(crate) fn at(&self, index: u64) -> Option<Digest> {
        let mut known = self.kept.iter().copied().chain(self.last);
        known.find(|digest| digest.index == index)
    }

    /// The newest digest that is kept for comparison, up to an index.
    pub(crate) fn kept_upto(&self, upto: u64) -> Option<Digest> {
        self.kept
            .iter()
            .rev()
            .find(|digest| digest.index <= upto)
            .copied()
    }

    pub(crate) fn kept(&self) -> impl ExactSizeIterator<Item = Digest> {
        self.kept.iter().copied()
    }

    pub(crate) const fn starting_at(last: Option<Digest>) -> Self {
        let kept = VecDeque::new();
        Self { last, kept }
    }

    pub(crate) fn keep(&mut self, digest: Digest) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(digest);
    }
}
