//! What revisions tell: every acknowledged change has one, so much can be checked without any search.

use std::collections::BTreeMap;

use super::linear::{Content, Key};

/// A version of a key, as somebody saw it: what it holds, and the revision that wrote it.
pub type Version = Option<(u64, u64)>;

/// Remembers revisions, and knows which must not be.
#[derive(Debug, Default)]
pub struct Oracle {
    /// What each revision wrote, as far as somebody said so.
    written: BTreeMap<(u64, Key), Content>,
    /// For each moment at which a change was acknowledged, the greatest revision acknowledged by then; and
    /// for each key, the greatest that wrote it.
    acknowledged: BTreeMap<u64, u64>,
    of_key: BTreeMap<Key, BTreeMap<u64, u64>>,
    /// Acknowledged changes, for a look at the end whether they are still there.
    changes: BTreeMap<(u64, Key), Content>,
}

impl Oracle {
    /// Takes a change of `keys` that was asked for at `invoked`, and acknowledged with `revision` at
    /// `returned`.
    pub fn changed(
        &mut self,
        invoked: u64,
        returned: u64,
        revision: u64,
        keys: &[(Key, Content)],
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some((_, before)) = self.acknowledged.range(..invoked).next_back()
            && *before >= revision
        {
            wrong.push(format!(
                "a change got revision {revision} after revision {before} was acknowledged"
            ));
        }
        raise(&mut self.acknowledged, returned, revision);
        for (key, content) in keys {
            raise(self.of_key.entry(*key).or_default(), returned, revision);
            self.changes.insert((revision, *key), *content);
            wrong.extend(self.wrote(revision, *key, *content));
        }
        wrong
    }

    /// Takes what a linearizable read, asked for at `invoked`, saw of `key`.
    pub fn read(&mut self, invoked: u64, key: Key, seen: Version) -> Vec<String> {
        let Some((value, revision)) = seen else {
            return Vec::new();
        };
        let mut wrong = Vec::from_iter(self.wrote(revision, key, Some(value)));
        let before = self.of_key.get(&key);
        let before = before.and_then(|moments| moments.range(..invoked).next_back());
        if let Some((_, before)) = before.filter(|(_, before)| **before > revision) {
            wrong.push(format!(
                "stale read: key {key} at revision {revision}, after revision {before} of it was acknowledged"
            ));
        }
        wrong
    }

    fn wrote(&mut self, revision: u64, key: Key, content: Content) -> Option<String> {
        let known = *self.written.entry((revision, key)).or_insert(content);
        (known != content).then(|| {
            format!("revision {revision} of key {key} is {content:?}, and was {known:?} for somebody else")
        })
    }

    /// What `revision` wrote to `key`, if anybody said so.
    #[must_use]
    pub fn content_of(&self, revision: u64, key: Key) -> Option<Content> {
        self.written.get(&(revision, key)).copied()
    }

    /// Every acknowledged change: revision, key, content.
    pub fn changes(&self) -> impl Iterator<Item = (u64, Key, Content)> {
        self.changes
            .iter()
            .map(|((revision, key), content)| (*revision, *key, *content))
    }
}

/// Notes that by `moment` there was `revision`, among moments in order.
fn raise(moments: &mut BTreeMap<u64, u64>, moment: u64, revision: u64) {
    let before = moments
        .range(..=moment)
        .next_back()
        .map_or(0, |(_, before)| *before);
    moments.insert(moment, before.max(revision));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_below_an_acknowledged_one_is_wrong() {
        let mut oracle = Oracle::default();
        assert!(oracle.changed(1, 2, 5, &[(0, Some(1))]).is_empty());
        // Concurrent changes may get their revisions in any order.
        assert!(oracle.changed(1, 3, 4, &[(0, Some(2))]).is_empty());
        assert_eq!(oracle.changed(4, 5, 5, &[(1, Some(3))]).len(), 1);
    }

    #[test]
    fn a_read_behind_an_acknowledged_change_is_wrong() {
        let mut oracle = Oracle::default();
        drop(oracle.changed(1, 2, 5, &[(0, Some(1))]));
        drop(oracle.changed(3, 4, 6, &[(0, Some(2))]));
        assert!(oracle.read(3, 0, Some((1, 5))).is_empty());
        assert_eq!(oracle.read(5, 0, Some((1, 5))).len(), 1);
        assert!(oracle.read(5, 0, Some((2, 6))).is_empty());
    }

    #[test]
    fn a_revision_with_two_contents_is_wrong() {
        let mut oracle = Oracle::default();
        drop(oracle.changed(1, 2, 5, &[(0, Some(1))]));
        assert_eq!(oracle.read(1, 0, Some((9, 5))).len(), 1);
        assert_eq!(oracle.content_of(5, 0), Some(Some(1)));
    }
}
