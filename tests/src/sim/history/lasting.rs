//! What must be in a store when everything has ended.

use std::collections::BTreeMap;

use rivven_raft::{KvReadError, KvStore};

use super::{once_of, text_of, value_of};
use crate::sim::linear::{Content, Key};

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

/// What must be in a store when everything has ended.
#[derive(Clone, Debug)]
pub struct Lasting {
    /// Every acknowledged change: revision, key, content.
    pub(super) changes: Vec<(u64, Key, Content)>,
    /// Keys that are written once.
    pub(super) once: BTreeMap<u64, Fate>,
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

#[cfg(test)]
mod tests {
    use rivven_raft::{ApplyCtx, KvCommand, StateMachine};

    use super::*;
    use crate::sim::history::bytes_of;

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
