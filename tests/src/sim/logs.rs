//! The properties of the Raft paper, figure 3, as far as they are about what logs hold: every log that a power cut
//! leaves behind is read, entry by entry.

use std::{collections::BTreeMap, path::Path};

use rivven_raft::{LogPlace, NodeId, OfflineError, verify_log};

/// What any log held, and what was committed.
#[derive(Debug, Default)]
pub struct Logs {
    /// What each entry says, and the term of the one before it.
    entries: BTreeMap<LogPlace, Entry>,
    /// The term of each entry that some node knew to be committed.
    committed: BTreeMap<u64, u64>,
    /// How many entries were compared with what another log held.
    pub compared: u64,
    /// How many logs of nodes that had led were looked at for what was committed before.
    pub leaders: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    hash: u128,
    /// None where the log begins.
    before: Option<u64>,
    first: NodeId,
}

/// A log that was read.
#[derive(Clone, Debug)]
pub struct Log {
    /// Whose it is.
    pub node: NodeId,
    /// The term its node was in.
    pub term: u64,
    /// The last entry that a snapshot took the place of.
    pub purged: Option<LogPlace>,
    /// The last entry that its node knew to be committed.
    pub committed: Option<LogPlace>,
    /// Its places, with a hash of each entry.
    pub entries: Vec<(LogPlace, u128)>,
}

impl Log {
    /// Reads the log of `node` in a file.
    ///
    /// # Errors
    /// It is damaged.
    pub fn read(node: NodeId, path: &Path) -> Result<Self, OfflineError> {
        let mut entries = Vec::new();
        let check = verify_log(path, |place, hash| entries.push((place, hash)))?;
        Ok(Self {
            node,
            term: check.term,
            purged: check.purged,
            committed: check.committed,
            entries,
        })
    }
}

impl Logs {
    /// Takes a log, of a node that was the leader of its term if `led`; `before` is how far entries were committed
    /// in the terms before that. Gives what is wrong.
    pub fn take(&mut self, log: &Log, led: bool, before: Option<u64>) -> Vec<String> {
        let mut wrong = self.matching(log);
        wrong.extend(self.committed_stay(log));
        if led {
            self.leaders += 1;
            wrong.extend(self.complete(log, before));
        }
        wrong
    }

    /// Log matching: if two logs contain an entry with the same index and term, then the logs are identical in all
    /// entries up through the given index. It holds if equal places have equal entries and equal terms before them.
    fn matching(&mut self, log: &Log) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut before = log.purged.map(|place| place.term);
        for (place, hash) in &log.entries {
            let entry = Entry {
                hash: *hash,
                before,
                first: log.node,
            };
            before = Some(place.term);
            let known = self.entries.entry(*place).or_insert(entry);
            if known.first != log.node {
                self.compared += 1;
            }
            let same_before =
                known.before.is_none() || entry.before.is_none() || known.before == entry.before;
            if known.hash != entry.hash || !same_before {
                wrong.push(format!(
                    "log matching: {place} of node {} is {entry:?}, and was {known:?}",
                    log.node
                ));
                break;
            }
            known.before = known.before.or(entry.before);
        }
        wrong
    }

    /// What is committed at an index never changes.
    fn committed_stay(&mut self, log: &Log) -> Option<String> {
        let upto = log.committed?.index;
        let committed = log.entries.iter().take_while(|(place, _)| place.index <= upto);
        for (place, _) in committed {
            let known = *self.committed.entry(place.index).or_insert(place.term);
            if known != place.term {
                let (node, index, term) = (log.node, place.index, place.term);
                return Some(format!(
                    "state machine safety: node {node} has entry {index} of term {term} committed, another one that of term \
                     {known}"
                ));
            }
        }
        None
    }

    /// Leader completeness: an entry committed in a term is in the logs of the leaders of all later terms.
    fn complete(&self, log: &Log, before: Option<u64>) -> Option<String> {
        let before = before?;
        let first = log.entries.first()?.0.index.min(before);
        let own: BTreeMap<u64, u64> = log
            .entries
            .iter()
            .map(|(place, _)| (place.index, place.term))
            .collect();
        let (missing, term) = self
            .committed
            .range(first..=before)
            .filter(|(index, _)| log.purged.is_none_or(|purged| **index > purged.index))
            .find(|(index, term)| own.get(index) != Some(term))?;
        Some(format!(
            "leader completeness: node {} led term {} without entry {missing} of term {term}, which was committed before",
            log.node, log.term
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log of a node in term 9 whose entries have these terms and hashes, from index 1 on.
    fn log(node: NodeId, entries: &[(u64, u128)], committed: usize) -> Log {
        let entries: Vec<_> = (1..)
            .zip(entries)
            .map(|(index, (term, hash))| (LogPlace { term: *term, index }, *hash))
            .collect();
        let last = committed.checked_sub(1).and_then(|at| entries.get(at));
        Log {
            node,
            term: 9,
            purged: None,
            committed: last.map(|(place, _)| *place),
            entries,
        }
    }

    fn check(logs: &[(&Log, Option<u64>)], rule: Option<&str>) {
        let mut known = Logs::default();
        let wrong: Vec<String> = logs
            .iter()
            .flat_map(|(log, led)| known.take(log, led.is_some(), *led))
            .collect();
        match rule {
            None => assert!(wrong.is_empty(), "{wrong:?}"),
            Some(rule) => assert!(wrong.len() == 1 && wrong[0].starts_with(rule), "{wrong:?}"),
        }
    }

    #[test]
    fn equal_places_with_other_entries_are_wrong() {
        let one = log(1, &[(1, 10), (1, 11), (2, 12)], 0);
        // What was not committed may have been replaced, and what follows differs then.
        check(&[(&one, None), (&log(2, &[(1, 10), (3, 13)], 0), None)], None);
        let other = log(2, &[(1, 10), (1, 99)], 0);
        check(&[(&one, None), (&other, None)], Some("log matching"));
    }

    #[test]
    fn equal_places_after_other_terms_are_wrong() {
        let one = log(1, &[(1, 10), (1, 11), (4, 12)], 0);
        let other = log(2, &[(1, 10), (2, 11), (4, 12)], 0);
        check(&[(&one, None), (&other, None)], Some("log matching"));
        // A log that was cut says of what was before only the term, and one without anything before nothing.
        let mut cut = log(2, &[(1, 10), (1, 11), (4, 12)], 0);
        cut.entries.drain(..2);
        check(&[(&one, None), (&cut, None)], None);
        cut.purged = Some(LogPlace { term: 3, index: 2 });
        check(&[(&one, None), (&cut, None)], Some("log matching"));
    }

    #[test]
    fn two_entries_committed_at_one_index_are_wrong() {
        let one = log(1, &[(1, 10), (1, 11)], 2);
        check(&[(&one, None), (&log(2, &[(1, 10), (2, 12)], 1), None)], None);
        let other = log(2, &[(1, 10), (2, 12)], 2);
        check(&[(&one, None), (&other, None)], Some("state machine safety"));
    }

    #[test]
    fn a_leader_without_what_was_committed_before_is_wrong() {
        let one = log(1, &[(1, 10), (1, 11), (1, 12)], 3);
        let short = log(2, &[(1, 10), (1, 11)], 2);
        let replaced = log(2, &[(1, 10), (1, 11), (8, 12)], 2);
        check(&[(&one, None), (&short, None), (&replaced, None)], None);
        check(&[(&one, None), (&short, Some(2))], None);
        check(&[(&one, None), (&short, Some(3))], Some("leader completeness"));
        check(&[(&one, None), (&replaced, Some(3))], Some("leader completeness"));
        // What a snapshot took the place of need not be in the log.
        let mut cut = log(2, &[(1, 10), (1, 11), (1, 12), (8, 13)], 2);
        cut.entries.drain(..3);
        cut.purged = Some(LogPlace { term: 1, index: 3 });
        check(&[(&one, None), (&cut, Some(3))], None);
    }
}
