//! Is there an order of the operations that explains what every client saw? (Linearizability.)
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of
//! configurations seen ("Testing for linearizability", 2017): walk the invocations in the order of time, let
//! one take effect if the state allows what it saw, and step back where an operation has returned before it
//! could. Keys that no operation touches together are searched apart.

mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use search::Search;

/// A key of the store, by number.
pub type Key = u32;

/// What a key holds: a value that no other write of the history writes, or nothing.
pub type Content = Option<u64>;

/// What an operation tells about the content of a key at the moment it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It was this.
    Is(Content),
    /// It was anything but this.
    Not(Content),
}

impl Sight {
    fn allows(self, content: Content) -> bool {
        match self {
            Self::Is(seen) => content == seen,
            Self::Not(refuted) => content != refuted,
        }
    }
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was asked for. Only the order matters; no two moments of a history are equal.
    pub invoked: u64,
    /// When it was answered. `None`: its outcome is unknown, so it may take effect at any time after it was
    /// asked for, or never.
    pub returned: Option<u64>,
    /// What it saw.
    pub sees: Vec<(Key, Sight)>,
    /// What it left.
    pub writes: Vec<(Key, Content)>,
}

/// What was found out about a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Such an order exists.
    Linearizable,
    /// No such order exists.
    Impossible {
        /// The keys that it fails for.
        keys: Vec<Key>,
        /// Places in the history of the operations that had to take effect next where the longest
        /// explanation ends.
        stuck: Vec<usize>,
    },
    /// The search was given up after [`MAX_STEPS`].
    Undecided {
        /// The keys that it was made for.
        keys: Vec<Key>,
    },
}

/// Most steps of the search of one group of keys. Histories of a simulated minute take some thousand.
pub const MAX_STEPS: u64 = 20_000_000;

/// Checks a whole history, group of keys by group of keys; the first that fails ends it.
#[must_use]
pub fn check(history: &[Operation]) -> Verdict {
    for group in groups(history) {
        let keys = group.keys.iter().copied().collect();
        match Search::new(&settle(history, &group), &group.keys).run() {
            Found::Order => {}
            Found::None { stuck } => return Verdict::Impossible { keys, stuck },
            Found::TooMuch => return Verdict::Undecided { keys },
        }
    }
    Verdict::Linearizable
}

/// What became of the search of one group.
enum Found {
    Order,
    None { stuck: Vec<usize> },
    TooMuch,
}

/// Keys that operations touch together, and those operations, by their place in the history.
struct Group {
    keys: BTreeSet<Key>,
    operations: Vec<usize>,
}

fn touched(operation: &Operation) -> impl Iterator<Item = Key> {
    let sees = operation.sees.iter().map(|(key, _)| *key);
    sees.chain(operation.writes.iter().map(|(key, _)| *key))
}

fn groups(history: &[Operation]) -> Vec<Group> {
    // Each key names the least key it hangs together with, as far as seen.
    let mut least: BTreeMap<Key, Key> = BTreeMap::new();
    for operation in history {
        let joined: BTreeSet<Key> = touched(operation)
            .map(|key| least.get(&key).copied().unwrap_or(key))
            .collect();
        let Some(first) = joined.first().copied() else {
            continue;
        };
        for key in touched(operation) {
            least.entry(key).or_insert(first);
        }
        for of in least.values_mut() {
            if joined.contains(of) {
                *of = first;
            }
        }
    }
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    for (key, first) in &least {
        let group = groups.entry(*first).or_insert_with(|| Group {
            keys: BTreeSet::new(),
            operations: Vec::new(),
        });
        group.keys.insert(*key);
    }
    for (place, operation) in history.iter().enumerate() {
        let first = touched(operation).next().and_then(|key| least.get(&key));
        if let Some(group) = first.and_then(|first| groups.get_mut(first)) {
            group.operations.push(place);
        }
    }
    groups.into_values().collect()
}

/// An operation as the search takes it.
struct Settled<'a> {
    /// Its place in the history.
    place: usize,
    operation: &'a Operation,
    /// By when it must have taken effect; `None`: it need not at all.
    due: Option<u64>,
}

/// Says of each operation of unknown outcome what the others tell about it.
///
/// Since no two writes write the same value, a value that somebody saw was written before that one returned.
/// A value that nobody saw makes no difference to anyone and its write is left out; unless somebody saw of
/// its key only what it was not.
fn settle<'a>(history: &'a [Operation], group: &Group) -> Vec<Settled<'a>> {
    let operations = || {
        let places = group.operations.iter().copied();
        places.filter_map(|place| Some((place, history.get(place)?)))
    };
    // When each value was first answered with, `None` where only unanswered operations rely on it.
    let mut seen: BTreeMap<(Key, u64), Option<u64>> = BTreeMap::new();
    let mut refuted: BTreeSet<Key> = BTreeSet::new();
    for (_, operation) in operations() {
        for (key, sight) in &operation.sees {
            match sight {
                Sight::Is(Some(value)) => {
                    let first = seen.entry((*key, *value)).or_default();
                    *first = match (*first, operation.returned) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                }
                Sight::Is(None) => {}
                Sight::Not(_) => drop(refuted.insert(*key)),
            }
        }
    }
    let settled = operations().filter_map(|(place, operation)| {
        let mut due = operation.returned;
        let mut matters = due.is_some();
        for (key, content) in &operation.writes {
            let sight = content.and_then(|value| seen.get(&(*key, value)));
            matters |= sight.is_some() || content.is_none() || refuted.contains(key);
            if operation.returned.is_none()
                && let Some(Some(answered)) = sight
            {
                due = Some(due.map_or(*answered, |due| due.min(*answered)));
            }
        }
        matters.then_some(Settled {
            place,
            operation,
            due,
        })
    });
    settled.collect()
}
