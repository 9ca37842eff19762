//! Reads by programs outside: what they ask and what they are answered.

use serde::{Deserialize, Serialize};

use super::{KeyRange, KvEntry, KvEvent, KvLease, KvReadError, KvStore, LeaseId, Place};
use crate::Refusal;
use rivven_transport::identity::Role;

/// Most bytes of keys and values in one answer; a range goes on where it was cut.
const MAX_ANSWER_BYTES: usize = 2 << 20;

/// Counted for each entry beside its key and value.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Most changes looked at for one answer. Commands wait meanwhile.
const CHANGES: usize = 1_024;

/// What a program outside asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KvQuery {
    /// The value of a key, at a revision if one is named.
    Get { key: String, revision: Option<u64> },
    /// Keys in order with their values.
    Range {
        range: KeyRange,
        limit: u64,
        revision: Option<u64>,
    },
    /// A lease as it stands.
    Lease { lease: LeaseId },
    /// What was changed of a range from a place on.
    Changes { range: KeyRange, from: Place },
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KvAnswer {
    Value {
        revision: u64,
        entry: Option<KvEntry>,
    },
    Values(KvPage),
    Lease(Option<KvLease>),
    /// Some changes, where they go on, and whether there are more. Those of one revision may come in several answers.
    Changes {
        events: Vec<KvEvent>,
        next: Place,
        more: bool,
    },
    /// The revision asked for is forgotten or still to come.
    NotAt(KvReadError),
}

/// Keys with their values, as a program outside reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KvPage {
    /// The revision of the store; ask for the rest at this one to see all of the range at one moment.
    pub revision: u64,
    /// In key order.
    pub entries: Vec<(String, KvEntry)>,
    /// Whether there are more behind the last.
    pub more: bool,
}

/// Answers a query of whoever may propose.
pub(super) fn answer(store: &KvStore, role: Role, query: &[u8]) -> Result<Vec<u8>, Refusal> {
    if !matches!(role, Role::Node | Role::Client | Role::Operator) {
        return Err(crate::service::propose::not_allowed(Some(role)));
    }
    let query = postcard::from_bytes(query).map_err(|error| {
        Refusal::new(
            "malformed-request",
            format!("the query is not understood: {error}"),
        )
    })?;
    let answer = look(store, query).unwrap_or_else(KvAnswer::NotAt);
    postcard::to_allocvec(&answer).map_err(|error| Refusal::new("malformed-response", error.to_string()))
}

fn look(store: &KvStore, query: KvQuery) -> Result<KvAnswer, KvReadError> {
    let now = store.revision();
    Ok(match query {
        KvQuery::Get { key, revision } => KvAnswer::Value {
            revision: revision.unwrap_or(now),
            entry: store.get_at(&key, revision.unwrap_or(now))?.cloned(),
        },
        KvQuery::Range {
            range,
            limit,
            revision,
        } => {
            let revision = revision.unwrap_or(now);
            KvAnswer::Values(page(store.range_at(&range, revision)?, revision, limit))
        }
        KvQuery::Lease { lease } => KvAnswer::Lease(store.lease(lease)),
        KvQuery::Changes { range, from } => {
            let mut bytes = 0_usize;
            let (events, next) = store.changes_part(&range, from, CHANGES, |event| {
                let value = |entry: &Option<KvEntry>| entry.as_ref().map_or(0, |entry| entry.value.len());
                let size = event.key.len() + value(&event.entry) + value(&event.previous);
                bytes = bytes.saturating_add(size + ENTRY_OVERHEAD_BYTES);
                bytes <= MAX_ANSWER_BYTES
            })?;
            let more = next.revision <= now;
            KvAnswer::Changes { events, next, more }
        }
    })
}

fn page<'a>(entries: impl Iterator<Item = (&'a str, &'a KvEntry)>, revision: u64, limit: u64) -> KvPage {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut page = KvPage {
        revision,
        entries: Vec::new(),
        more: false,
    };
    let mut bytes = 0_usize;
    for (key, entry) in entries {
        bytes = bytes.saturating_add(key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES);
        if page.entries.len() >= limit || (bytes > MAX_ANSWER_BYTES && !page.entries.is_empty()) {
            page.more = true;
            break;
        }
        page.entries.push((key.to_owned(), entry.clone()));
    }
    page
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{ApplyCtx, KvCommand, KvOp, KvTxn, StateMachine};

    fn ask(store: &KvStore, role: Role, query: &KvQuery) -> Result<KvAnswer, Refusal> {
        let answer = store.query(role, &postcard::to_allocvec(query).unwrap())?;
        Ok(postcard::from_bytes(&answer).unwrap())
    }

    #[test]
    fn a_range_is_cut_at_its_limit_and_at_the_bytes_of_an_answer() {
        let mut store = KvStore::new();
        for index in 1..=4 {
            let command = KvCommand::put(format!("k{index}"), vec![7; 900 << 10]);
            store.apply(&ApplyCtx::new(index, 1), command);
        }
        let check = |limit, expected: usize| {
            let range = KeyRange::all();
            let revision = None;
            let query = KvQuery::Range {
                range,
                limit,
                revision,
            };
            let Ok(KvAnswer::Values(page)) = ask(&store, Role::Client, &query) else {
                panic!("no page");
            };
            assert_eq!((page.entries.len(), page.more), (expected, true), "{limit}");
        };
        check(1, 1);
        check(100, 2);
    }

    proptest! {
        /// However small the parts are, and wherever a revision is cut.
        #[test]
        fn parts_of_changes_are_together_all_changes(
            revisions in vec(vec((0_u8..6, any::<bool>()), 1..12), 1..20),
            range in prop_oneof![Just(KeyRange::all()), Just(KeyRange::from_to("k1", "k4"))],
            from in 1_u64..20,
            limit in 1_usize..9,
            room in 0_usize..5,
        ) {
            let mut store = KvStore::new();
            for (index, ops) in (1..).zip(revisions) {
                let ops = ops.into_iter().map(|(key, put)| match put {
                    true => KvOp::put(format!("k{key}"), "v"),
                    false => KvOp::Delete { key: format!("k{key}") },
                });
                let txn = ops.fold(KvTxn::new(), KvTxn::then);
                store.apply(&ApplyCtx::new(index, 1), KvCommand::Txn(txn));
            }
            let all = store.changes(&range, from, usize::MAX).unwrap();
            let (mut events, mut place) = (Vec::new(), Place::at(from));
            while place.revision <= store.revision() {
                let mut held = 0;
                let (part, next) = store
                    .changes_part(&range, place, limit, |_| {
                        held += 1;
                        held <= room
                    })
                    .unwrap();
                prop_assert!(part.len() <= limit.min(room.max(1)));
                prop_assert!((next.revision, next.skip) > (place.revision, place.skip), "it goes on");
                events.extend(part);
                place = next;
            }
            prop_assert_eq!(events, all.events);
            prop_assert_eq!(place, Place::at(from.max(store.revision() + 1)));
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let store = KvStore::new();
        let query = KvQuery::Get {
            key: "a".into(),
            revision: Some(9),
        };
        let current = 0;
        let to_come = KvReadError::FutureRevision { current };
        assert_eq!(ask(&store, Role::Client, &query), Ok(KvAnswer::NotAt(to_come)));
        let refused = ask(&store, Role::Observer, &query).unwrap_err();
        assert_eq!(refused.code, "role-not-allowed");
        assert_eq!(
            store.query(Role::Client, &[9]).unwrap_err().code,
            "malformed-request"
        );
    }
}
