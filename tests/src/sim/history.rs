//! What clients asked and were told, as it goes to the checkers.

use std::collections::BTreeMap;

use bytes::Bytes;
use rivven_raft::{KvOpResult, KvReadError, KvResponse, KvStore};

use super::{
    clients::{leaves, read_in},
    linear::{Content, Key, Operation, Sight},
    oracle::{Oracle, Version},
    trace::Trace,
};

/// A change that a client asks for. No two write the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Sets a key.
    Put {
        /// The key.
        key: Key,
        /// Its value.
        value: u64,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Key,
    },
    /// Sets or removes a key if it is as it was seen.
    Cas {
        /// The key.
        key: Key,
        /// What was seen: value and revision.
        expected: Version,
        /// What it becomes.
        content: Content,
    },
    /// Sets two keys if the first is as it was seen, else reads both.
    Txn {
        /// The keys.
        keys: [Key; 2],
        /// What was seen of the first.
        expected: Version,
        /// The value of both.
        value: u64,
    },
    /// Sets a key that nobody else ever touches: it shows how often that happened.
    Once {
        /// Names the key, too.
        value: u64,
    },
}

/// A change under way.
#[derive(Debug)]
pub struct Change {
    client: u64,
    invoked: u64,
    /// What was asked for.
    pub request: Request,
}

/// What was seen of a key, as far as it is known before the run has ended.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Exactly(Content),
    /// The content that this revision wrote, which is not the expected one.
    Revision(u64, Content),
}

#[derive(Debug)]
struct Noted {
    invoked: u64,
    returned: Option<u64>,
    sees: Vec<(Key, Seen)>,
    writes: Vec<(Key, Content)>,
}

/// What is known of a key that is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It must be there.
    Acknowledged,
    /// It may be there.
    Unknown,
    /// It must not be there.
    NotDone,
}

/// Everything that clients asked and were told in one run.
#[derive(Debug)]
pub struct History {
    trace: Trace,
    moment: u64,
    values: u64,
    noted: Vec<Noted>,
    oracle: Oracle,
    once: BTreeMap<u64, Fate>,
    /// Requests that were answered.
    pub answered: u64,
    /// Changes of unknown outcome.
    pub unknown: u64,
}

impl History {
    /// An empty history of the run that `trace` records.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self {
            trace,
            moment: 0,
            values: 0,
            noted: Vec::new(),
            oracle: Oracle::default(),
            once: BTreeMap::new(),
            answered: 0,
            unknown: 0,
        }
    }

    /// The next moment; no two are equal.
    pub const fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A value that nobody else writes.
    pub const fn next_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// Notes a linearizable read.
    pub fn read(&mut self, client: u64, invoked: u64, key: Key, seen: Version) {
        let returned = self.moment();
        self.answered += 1;
        self.trace
            .event(format_args!("client {client} reads key {key}: {seen:?}"));
        let wrong = self.oracle.read(invoked, key, seen);
        self.report(wrong);
        self.noted.push(Noted {
            invoked,
            returned: Some(returned),
            sees: vec![(key, Seen::Exactly(seen.map(|(value, _)| value)))],
            writes: Vec::new(),
        });
    }

    /// Begins a change.
    pub fn invoke(&mut self, client: u64, request: Request) -> Change {
        let invoked = self.moment();
        self.trace
            .event(format_args!("client {client} asks for {request:?}"));
        Change {
            client,
            invoked,
            request,
        }
    }

    /// Ends a change that was not done.
    pub fn forget(&mut self, change: Change) {
        self.trace.event(format_args!(
            "client {} is told that it is not done",
            change.client
        ));
        if let Request::Once { value } = change.request {
            self.once.insert(value, Fate::NotDone);
        }
    }

    /// Ends a change whose outcome stays unknown.
    pub fn lose(&mut self, change: Change) {
        self.unknown += 1;
        self.trace.event(format_args!(
            "client {} does not know what became of it",
            change.client
        ));
        let sees = match change.request {
            Request::Cas { key, expected, .. }
            | Request::Txn {
                keys: [key, _],
                expected,
                ..
            } => {
                vec![(key, Seen::Exactly(expected.map(|(value, _)| value)))]
            }
            Request::Once { value } => {
                self.once.insert(value, Fate::Unknown);
                return;
            }
            Request::Put { .. } | Request::Delete { .. } => Vec::new(),
        };
        self.noted.push(Noted {
            invoked: change.invoked,
            returned: None,
            sees,
            writes: leaves(&change.request),
        });
    }

    /// Ends a change with its answer.
    pub fn finish(&mut self, change: Change, response: KvResponse) {
        let returned = self.moment();
        self.answered += 1;
        let Change {
            client,
            invoked,
            request,
        } = change;
        self.trace
            .event(format_args!("client {client} is told {}", brief(&response)));
        let (revision, sees, done) = match understand(&request, &response) {
            Ok(understood) => understood,
            Err(wrong) => return self.report([wrong]),
        };
        if let Request::Once { value } = request {
            self.once.insert(value, Fate::Acknowledged);
        }
        let writes = if done { leaves(&request) } else { Vec::new() };
        // A change of nothing has no revision of its own.
        let changed = done && !matches!(response, KvResponse::Deleted { previous: None, .. });
        if let Some(revision) = revision.filter(|_| changed) {
            let wrong = self.oracle.changed(invoked, returned, revision, &writes);
            self.report(wrong);
        }
        if let (
            Request::Txn { keys, .. },
            KvResponse::Txn {
                results,
                succeeded: false,
                ..
            },
        ) = (request, &response)
        {
            for (key, result) in keys.into_iter().zip(results) {
                let wrong = self.oracle.read(invoked, key, read_in(result));
                self.report(wrong);
            }
        }
        self.noted.push(Noted {
            invoked,
            returned: Some(returned),
            sees,
            writes,
        });
    }

    fn report(&self, wrong: impl IntoIterator<Item = String>) {
        wrong.into_iter().for_each(|wrong| self.trace.violation(wrong));
    }

    /// Everything, as the checker of linearizability takes it.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        let noted = self
            .noted
            .iter()
            .filter(|noted| !noted.sees.is_empty() || !noted.writes.is_empty());
        let sight = |(key, seen): &(Key, Seen)| {
            let sight = match *seen {
                Seen::Exactly(content) => Sight::Is(content),
                Seen::Revision(revision, but) => match self.oracle.content_of(revision, *key) {
                    Some(content) => Sight::Is(content),
                    None => Sight::Not(but),
                },
            };
            (*key, sight)
        };
        noted
            .map(|noted| Operation {
                invoked: noted.invoked,
                returned: noted.returned,
                sees: noted.sees.iter().map(sight).collect(),
                writes: noted.writes.clone(),
            })
            .collect()
    }

    /// What must be there when everything has ended.
    #[must_use]
    pub fn lasting(&self) -> Lasting {
        Lasting {
            changes: self.oracle.changes().collect(),
            once: self.once.clone(),
        }
    }
}

/// What must be in a store when everything has ended.
#[derive(Clone, Debug)]
pub struct Lasting {
    changes: Vec<(u64, Key, Content)>,
    once: BTreeMap<u64, Fate>,
}

impl Lasting {
    /// What is wrong with `store`: an acknowledged change that is gone, a key written once that was written
    /// more often, or although its client was told that it is not done.
    #[must_use]
    pub fn missing(&self, store: &KvStore) -> Vec<String> {
        let mut missing = Vec::new();
        for (revision, key, content) in &self.changes {
            let found = match store.get_at(&text_of(*key), *revision) {
                Ok(found) => found.map(|entry| value_of(&entry.value)),
                // Only as many revisions are remembered as fit.
                Err(KvReadError::Compacted { .. }) => continue,
                Err(error) => {
                    missing.push(format!(
                        "revision {revision} was acknowledged and cannot be read: {error}"
                    ));
                    continue;
                }
            };
            if found != *content {
                missing.push(format!(
                    "lost: {content:?} was acknowledged at revision {revision} of key {key}, and there is {found:?}"
                ));
            }
        }
        for (value, fate) in &self.once {
            let found = store.get(&once_of(*value)).map(|entry| entry.version);
            let right = match fate {
                Fate::Acknowledged => found == Some(1),
                Fate::Unknown => found.is_none_or(|version| version == 1),
                Fate::NotDone => found.is_none(),
            };
            if !right {
                missing.push(format!(
                    "exactly once: {} is {fate:?} and has version {found:?}",
                    once_of(*value)
                ));
            }
        }
        missing
    }
}

/// Revision, what was seen, and whether it was done.
type Understood = (Option<u64>, Vec<(Key, Seen)>, bool);

/// What an answer says about the state at the moment the change took effect.
fn understand(request: &Request, response: &KvResponse) -> Result<Understood, String> {
    let understood = match (*request, response) {
        (
            Request::Put { key, .. },
            KvResponse::Written {
                revision, previous, ..
            },
        )
        | (Request::Delete { key }, KvResponse::Deleted { revision, previous }) => {
            Some((Some(*revision), vec![before(key, *previous)], true))
        }
        (Request::Cas { key, expected, .. }, _) => understand_cas(key, expected, response),
        (Request::Txn { keys, expected, .. }, KvResponse::Txn { .. }) => {
            understand_txn(keys, expected, response)
        }
        (
            Request::Once { .. },
            KvResponse::Written {
                revision,
                previous: None,
                ..
            },
        ) => Some((Some(*revision), Vec::new(), true)),
        _ => None,
    };
    understood.ok_or_else(|| format!("{request:?} was answered with {}", brief(response)))
}

/// What the revision before a change tells.
const fn before(key: Key, previous: Option<u64>) -> (Key, Seen) {
    match previous {
        None => (key, Seen::Exactly(None)),
        Some(revision) => (key, Seen::Revision(revision, None)),
    }
}

fn content_of(seen: Version) -> Content {
    seen.map(|(value, _)| value)
}

fn revision_of(seen: Version) -> Option<u64> {
    seen.map(|(_, revision)| revision)
}

fn understand_cas(key: Key, expected: Version, response: &KvResponse) -> Option<Understood> {
    match response {
        KvResponse::Written {
            revision, previous, ..
        }
        | KvResponse::Deleted { revision, previous } => {
            let seen = Seen::Exactly(content_of(expected));
            (*previous == revision_of(expected)).then_some((Some(*revision), vec![(key, seen)], true))
        }
        KvResponse::Conflict { current } => {
            let seen = match current {
                None => Seen::Exactly(None),
                Some(revision) => Seen::Revision(*revision, content_of(expected)),
            };
            (*current != revision_of(expected)).then_some((None, vec![(key, seen)], false))
        }
        _ => None,
    }
}

fn understand_txn(keys: [Key; 2], expected: Version, response: &KvResponse) -> Option<Understood> {
    let KvResponse::Txn {
        revision,
        succeeded,
        results,
    } = response
    else {
        return None;
    };
    if !succeeded {
        let seen = |result| Seen::Exactly(content_of(read_in(result)));
        let sees = keys.into_iter().zip(results.iter().map(seen)).collect();
        return Some((None, sees, false));
    }
    let [
        KvOpResult::Written { previous: first, .. },
        KvOpResult::Written { previous: second, .. },
    ] = results.as_slice()
    else {
        return None;
    };
    let seen = Seen::Exactly(content_of(expected));
    let [of_first, of_second] = keys;
    let sees = vec![(of_first, seen), before(of_second, *second)];
    (*first == revision_of(expected)).then_some((Some(*revision), sees, true))
}

/// An answer, without the bytes of values.
fn brief(response: &KvResponse) -> String {
    match response {
        KvResponse::Txn {
            revision,
            succeeded,
            results,
        } => {
            let seen: Vec<_> = results.iter().map(read_in).collect();
            format!("txn at {revision}, succeeded {succeeded}, {seen:?}")
        }
        other => format!("{other:?}"),
    }
}

/// Name of a key that clients share.
#[must_use]
pub fn text_of(key: Key) -> String {
    format!("k/{key}")
}

/// Name of a key that is written once.
#[must_use]
pub fn once_of(value: u64) -> String {
    format!("once/{value}")
}

/// A value as bytes, made longer by `len`.
#[must_use]
pub fn bytes_of(value: u64, len: u64) -> Bytes {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(8 + usize::try_from(len).unwrap_or_default(), b'.');
    bytes.into()
}

/// The value that bytes stand for; 0, which nobody writes, for bytes that nobody wrote.
#[must_use]
pub fn value_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |value| u64::from_le_bytes(*value))
}

#[cfg(test)]
mod tests {
    use rivven_raft::{ApplyCtx, KvCommand, StateMachine};

    use super::*;

    fn store(commands: &[KvCommand]) -> KvStore {
        let mut store = KvStore::new();
        for (index, command) in (1..).zip(commands) {
            drop(store.apply(&ApplyCtx::new(index, 1), command.clone()));
        }
        store
    }

    #[test]
    fn an_acknowledged_change_that_is_gone_is_missed() {
        let put = |value| KvCommand::put(text_of(0), bytes_of(value, 0));
        let lasting = |content| Lasting {
            changes: vec![(1, 0, content)],
            once: BTreeMap::new(),
        };
        assert!(lasting(Some(7)).missing(&store(&[put(7), put(8)])).is_empty());
        assert_eq!(lasting(Some(7)).missing(&store(&[put(8)])).len(), 1);
        assert_eq!(lasting(Some(7)).missing(&store(&[])).len(), 1);
        assert_eq!(lasting(None).missing(&store(&[put(7)])).len(), 1);
    }

    #[test]
    fn a_change_made_twice_or_against_its_answer_is_missed() {
        let put = || KvCommand::put(once_of(7), bytes_of(7, 0));
        let check = |fate, times: usize, right: bool| {
            let lasting = Lasting {
                changes: Vec::new(),
                once: BTreeMap::from([(7, fate)]),
            };
            let missing = lasting.missing(&store(&vec![put(); times]));
            assert_eq!(missing.is_empty(), right, "{fate:?} {times} {missing:?}");
        };
        check(Fate::Acknowledged, 1, true);
        check(Fate::Acknowledged, 0, false);
        check(Fate::Acknowledged, 2, false);
        check(Fate::Unknown, 0, true);
        check(Fate::Unknown, 1, true);
        check(Fate::Unknown, 2, false);
        check(Fate::NotDone, 0, true);
        check(Fate::NotDone, 1, false);
    }
}
