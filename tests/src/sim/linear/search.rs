//! The search for one group of keys.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

use super::{Content, Found, Key, MAX_STEPS, Settled, Sight};

/// An operation with its keys numbered within the group.
struct Step {
    place: usize,
    sees: Vec<(usize, Sight)>,
    writes: Vec<(usize, Content)>,
    /// Whether it must take effect.
    required: bool,
}

/// A moment of the history: an operation begins, or is due.
#[derive(Clone, Copy)]
enum Moment {
    Begin(usize),
    Due(usize),
}

/// The moments that are left, as a list that operations are lifted from and put back into.
struct Moments {
    list: Vec<Moment>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where each operation begins and is due in the list.
    of: Vec<(usize, Option<usize>)>,
}

/// Stands before the first moment of the list, and behind the last one.
const END: usize = 0;

/// What was decided: which operations have taken effect, and what the keys hold.
#[derive(PartialEq, Eq, Hash)]
struct Configuration {
    /// Operations that have taken effect, as bits; the words at the front that are all ones are only counted.
    full: usize,
    words: Box<[u64]>,
    optional: Box<[u64]>,
    contents: Box<[Content]>,
}

pub(super) struct Search {
    steps: Vec<Step>,
    moments: Moments,
    contents: Vec<Content>,
    /// Operations that have taken effect: those that must, in order of beginning, and those that need not.
    required: Vec<u64>,
    optional: Vec<u64>,
    /// The bit of each operation in its set.
    bits: Vec<usize>,
    /// How many that must have not yet.
    left: usize,
}

impl Search {
    pub(super) fn new(settled: &[Settled<'_>], keys: &BTreeSet<Key>) -> Self {
        let number: BTreeMap<Key, usize> = keys.iter().enumerate().map(|(at, key)| (*key, at)).collect();
        let numbered = |key: &Key| number.get(key).copied().unwrap_or_default();
        let mut steps = Vec::new();
        let mut moments = BTreeMap::new();
        let mut bits = Vec::new();
        let (mut required, mut optional) = (0_usize, 0_usize);
        let mut in_order: Vec<&Settled<'_>> = settled.iter().collect();
        in_order.sort_by_key(|settled| settled.operation.invoked);
        for (at, settled) in in_order.into_iter().enumerate() {
            let operation = settled.operation;
            steps.push(Step {
                place: settled.place,
                sees: operation
                    .sees
                    .iter()
                    .map(|(key, sight)| (numbered(key), *sight))
                    .collect(),
                writes: operation
                    .writes
                    .iter()
                    .map(|(key, content)| (numbered(key), *content))
                    .collect(),
                required: settled.due.is_some(),
            });
            let count = if settled.due.is_some() {
                &mut required
            } else {
                &mut optional
            };
            bits.push(*count);
            *count += 1;
            moments.insert((operation.invoked, 1, at), Moment::Begin(at));
            if let Some(due) = settled.due {
                // An operation of unknown outcome is due when another one returns: before that one is.
                moments.insert((due, 0, at), Moment::Due(at));
            }
        }
        Self {
            moments: Moments::new(moments.into_values().collect(), steps.len()),
            steps,
            contents: vec![None; keys.len()],
            required: vec![0; required.div_ceil(64)],
            optional: vec![0; optional.div_ceil(64)],
            bits,
            left: required,
        }
    }

    pub(super) fn run(mut self) -> Found {
        let mut seen: HashSet<Configuration, BuildHasherDefault<WordHasher>> = HashSet::default();
        // What took effect, and what it found in the keys it wrote.
        let mut taken: Vec<(usize, Vec<(usize, Content)>)> = Vec::new();
        let mut stuck = (usize::MAX, Vec::new());
        let mut steps = 0;
        let mut at = self.moments.after(END);
        while self.left > 0 {
            steps += 1;
            if steps > MAX_STEPS {
                return Found::TooMuch;
            }
            match self.moments.get(at) {
                Some(Moment::Begin(step)) => {
                    if let Some(found) = self.take(step) {
                        if seen.insert(self.configuration()) {
                            taken.push((step, found));
                            self.moments.lift(step);
                            at = self.moments.after(END);
                            continue;
                        }
                        self.give_back(step, &found);
                    }
                    at = self.moments.after(at);
                }
                // The operation that is due here has not taken effect.
                Some(Moment::Due(_)) | None => {
                    if self.left < stuck.0 {
                        stuck = (self.left, self.moments.begun());
                    }
                    let Some((step, found)) = taken.pop() else {
                        let place = |step: &usize| self.steps.get(*step).map(|step| step.place);
                        return Found::None {
                            stuck: stuck.1.iter().filter_map(place).collect(),
                        };
                    };
                    self.give_back(step, &found);
                    self.moments.put_back(step);
                    at = self.moments.after(self.moments.begin(step));
                }
            }
        }
        Found::Order
    }

    /// Lets an operation take effect, if what it saw is so. Returns what it found where it wrote.
    fn take(&mut self, at: usize) -> Option<Vec<(usize, Content)>> {
        let step = self.steps.get(at)?;
        let allowed = |(key, sight): &(usize, Sight)| {
            let content = self.contents.get(*key).copied().flatten();
            sight.allows(content)
        };
        if !step.sees.iter().all(allowed) {
            return None;
        }
        let mut found = Vec::new();
        for (key, content) in &step.writes {
            if let Some(place) = self.contents.get_mut(*key) {
                found.push((*key, std::mem::replace(place, *content)));
            }
        }
        self.left -= usize::from(step.required);
        self.flip(at);
        Some(found)
    }

    fn give_back(&mut self, at: usize, found: &[(usize, Content)]) {
        for (key, content) in found.iter().rev() {
            if let Some(place) = self.contents.get_mut(*key) {
                *place = *content;
            }
        }
        self.left += usize::from(self.steps.get(at).is_some_and(|step| step.required));
        self.flip(at);
    }

    fn flip(&mut self, at: usize) {
        let required = self.steps.get(at).is_some_and(|step| step.required);
        let set = if required {
            &mut self.required
        } else {
            &mut self.optional
        };
        let bit = self.bits.get(at).copied().unwrap_or_default();
        if let Some(word) = set.get_mut(bit / 64) {
            *word ^= 1 << (bit % 64);
        }
    }

    fn configuration(&self) -> Configuration {
        let full = self.required.iter().take_while(|word| **word == u64::MAX).count();
        let behind = self
            .required
            .iter()
            .rposition(|word| *word != 0)
            .map_or(0, |last| last + 1);
        let words = self.required.get(full..behind.max(full)).unwrap_or_default();
        Configuration {
            full,
            words: words.into(),
            optional: self.optional.as_slice().into(),
            contents: self.contents.as_slice().into(),
        }
    }
}

impl Moments {
    /// The list of `moments` in their order, behind a place that stands for both ends.
    fn new(moments: Vec<Moment>, steps: usize) -> Self {
        let mut of = vec![(END, None); steps];
        for (place, moment) in moments.iter().enumerate() {
            match moment {
                Moment::Begin(step) => {
                    if let Some(of) = of.get_mut(*step) {
                        of.0 = place + 1;
                    }
                }
                Moment::Due(step) => {
                    if let Some(of) = of.get_mut(*step) {
                        of.1 = Some(place + 1);
                    }
                }
            }
        }
        let len = moments.len() + 1;
        Self {
            list: moments,
            next: (1..len).chain([END]).collect(),
            previous: [len - 1].into_iter().chain(0..len - 1).collect(),
            of,
        }
    }

    fn get(&self, at: usize) -> Option<Moment> {
        self.list.get(at.checked_sub(1)?).copied()
    }

    fn after(&self, at: usize) -> usize {
        self.next.get(at).copied().unwrap_or(END)
    }

    fn begin(&self, step: usize) -> usize {
        self.of.get(step).map_or(END, |of| of.0)
    }

    fn lift(&mut self, step: usize) {
        let Some((begin, due)) = self.of.get(step).copied() else {
            return;
        };
        for at in [Some(begin), due].into_iter().flatten() {
            let (Some(previous), Some(next)) = (self.previous.get(at).copied(), self.next.get(at).copied())
            else {
                continue;
            };
            self.join(previous, next);
        }
    }

    /// Undoes the last [`Self::lift`].
    fn put_back(&mut self, step: usize) {
        let Some((begin, due)) = self.of.get(step).copied() else {
            return;
        };
        for at in [due, Some(begin)].into_iter().flatten() {
            let (Some(previous), Some(next)) = (self.previous.get(at).copied(), self.next.get(at).copied())
            else {
                continue;
            };
            if let Some(place) = self.next.get_mut(previous) {
                *place = at;
            }
            if let Some(place) = self.previous.get_mut(next) {
                *place = at;
            }
        }
    }

    fn join(&mut self, previous: usize, next: usize) {
        if let Some(place) = self.next.get_mut(previous) {
            *place = next;
        }
        if let Some(place) = self.previous.get_mut(next) {
            *place = previous;
        }
    }

    /// The operations that could take effect next: those that begin before the first is due.
    fn begun(&self) -> Vec<usize> {
        let mut begun = Vec::new();
        let mut at = self.after(END);
        while let Some(Moment::Begin(step)) = self.get(at) {
            begun.push(step);
            at = self.after(at);
        }
        begun
    }
}

/// FNV-1a over whole words: the memory of the search is as fast as its hash.
#[derive(Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut()
                .zip(chunk)
                .for_each(|(place, byte)| *place = *byte);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(23);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
