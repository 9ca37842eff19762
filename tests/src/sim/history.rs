//! What clients asked and were told, as it goes to the checkers.

mod answers;
mod lasting;

use std::collections::BTreeMap;

use bytes::Bytes;
use rivven_raft::{Consistency, KvResponse};

use self::answers::{brief, understand};
pub use self::lasting::{Fate, Lasting};
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
    /// Reads that were answered and did not insist on a round to a quorum.
    pub lease_reads: u64,
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
            lease_reads: 0,
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

    /// Notes a read that has to be linearizable, however the node made sure of it.
    pub fn read(&mut self, client: u64, invoked: u64, (key, how): (Key, Consistency), seen: Version) {
        let returned = self.moment();
        self.answered += 1;
        self.lease_reads += u64::from(how == Consistency::Lease);
        self.trace
            .event(format_args!("client {client} reads key {key}, {how:?}: {seen:?}"));
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
