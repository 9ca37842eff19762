//! An ordered map in parts that are shared with its clones until one side changes them.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
    sync::Arc,
};

use super::KvEntry;

/// A leaf is split in two when it grows beyond this. Copying one of this size takes microseconds.
const MAX_LEAF: usize = 256;

type Leaf = BTreeMap<Arc<str>, KvEntry>;

/// Sorted keys in leaves of at most [`MAX_LEAF`]. A clone copies one pointer per leaf.
///
/// Each leaf is filed under a key no greater than its own first one; the leaf of a key is the last one filed
/// at or before it. The first leaf is filed under the empty text.
#[derive(Clone, Debug, Default)]
pub(super) struct CowMap {
    leaves: BTreeMap<Arc<str>, Arc<Leaf>>,
    len: usize,
}

impl CowMap {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    fn leaf_name(&self, key: &str) -> Option<Arc<str>> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        self.leaves
            .range::<str, _>(upto)
            .next_back()
            .map(|(name, _)| Arc::clone(name))
    }

    pub(super) fn get(&self, key: &str) -> Option<&KvEntry> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (_, leaf) = self.leaves.range::<str, _>(upto).next_back()?;
        leaf.get(key)
    }

    pub(super) fn insert(&mut self, key: Arc<str>, entry: KvEntry) {
        let name = self.leaf_name(&key).unwrap_or_else(|| Arc::from(""));
        let leaf = Arc::make_mut(self.leaves.entry(name).or_default());
        if leaf.insert(key, entry).is_none() {
            self.len += 1;
        }
        if leaf.len() > MAX_LEAF
            && let Some(middle) = leaf.keys().nth(MAX_LEAF / 2).cloned()
        {
            let upper = leaf.split_off(&middle);
            self.leaves.insert(middle, Arc::new(upper));
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<KvEntry> {
        // Looked up first, so that removing what is not there copies no shared leaf.
        self.get(key)?;
        let name = self.leaf_name(key)?;
        let leaf = Arc::make_mut(self.leaves.get_mut(&name)?);
        let removed = leaf.remove(key);
        if leaf.is_empty() && !name.is_empty() {
            self.leaves.remove(&name);
        }
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Keys from `start` on, in order.
    pub(super) fn from<'a>(&'a self, start: &str) -> Iter<'a> {
        let name = self.leaf_name(start).unwrap_or_else(|| Arc::from(""));
        let from = (Bound::Included(&*name), Bound::Unbounded);
        let mut leaves = self.leaves.range::<str, _>(from);
        let from = (Bound::Included(start), Bound::Unbounded);
        let current = leaves.next().map(|(_, leaf)| leaf.range::<str, _>(from));
        Iter { leaves, current }
    }
}

/// Iterator over keys and values, in order.
pub(super) struct Iter<'a> {
    leaves: btree_map::Range<'a, Arc<str>, Arc<Leaf>>,
    current: Option<btree_map::Range<'a, Arc<str>, KvEntry>>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a KvEntry);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, entry)) = self.current.as_mut()?.next() {
                return Some((key, entry));
            }
            self.current = self.leaves.next().map(|(_, leaf)| leaf.range::<str, _>(..));
        }
    }
}
