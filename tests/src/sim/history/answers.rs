//! What an answer tells of the state at the moment the change took effect.

use rivven_raft::{KvOpResult, KvResponse};

use super::{Request, Seen};
use crate::sim::{
    clients::read_in,
    linear::{Content, Key},
    oracle::Version,
};

/// Revision, what was seen, and whether it was done.
pub(super) type Understood = (Option<u64>, Vec<(Key, Seen)>, bool);

/// What an answer says about the state at the moment the change took effect.
pub(super) fn understand(request: &Request, response: &KvResponse) -> Result<Understood, String> {
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
pub(super) fn brief(response: &KvResponse) -> String {
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
