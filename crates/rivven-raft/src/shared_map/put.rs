//! Entries are added to a shared map, or replaced.

use std::{borrow::Borrow, mem, sync::Arc};

use super::{Child, MAX_NODE, Node, child_of, find};

/// A key to be put: one that is there already, or one that is made if it is not in the map yet.
pub(crate) trait NewKey<K> {
    /// What it is looked up by.
    type Sought: Ord + ?Sized;

    fn sought(&self) -> &Self::Sought;

    fn into_key(self) -> K;
}

/// A key that goes into the map as it is.
pub(super) struct Owned<K>(pub(super) K);

impl<K: Ord> NewKey<K> for Owned<K> {
    type Sought = K;

    fn sought(&self) -> &K {
        &self.0
    }

    fn into_key(self) -> K {
        self.0
    }
}

impl NewKey<Arc<str>> for &str {
    type Sought = str;

    fn sought(&self) -> &str {
        self
    }

    fn into_key(self) -> Arc<str> {
        self.into()
    }
}

/// What came of putting an entry into a node.
pub(super) struct Put<K, V, R> {
    pub(super) previous: Option<V>,
    pub(super) made: R,
    /// The upper half, if the node had to be split.
    pub(super) split: Option<Child<K, V>>,
}

/// Puts an entry into a node: see [`SharedMap::put`](super::SharedMap::put).
pub(super) fn put<K: Ord + Clone + Borrow<N::Sought>, V: Clone, N: NewKey<K>, R>(
    node: &mut Arc<Node<K, V>>,
    key: N,
    make: impl FnOnce(&K, Option<&V>) -> (V, R),
) -> Put<K, V, R> {
    let node = Arc::make_mut(node);
    let children = match node {
        Node::Leaf(entries) => return put_in_leaf(entries, key, make),
        Node::Inner(children) => children,
    };
    let at = child_of(children, key.sought());
    let Some((_, child)) = children.get_mut(at) else {
        // An inner node always has children; without any it would be an empty leaf.
        let mut entries = Vec::new();
        let put = put_in_leaf(&mut entries, key, make);
        *node = Node::Leaf(entries);
        return put;
    };
    let mut put = put(child, key, make);
    if let Some(upper) = put.split.take() {
        let split = add(children, at + 1, upper);
        put.split = split.map(|(key, upper)| (key, Node::Inner(upper).into()));
    }
    put
}

fn put_in_leaf<K: Ord + Clone + Borrow<N::Sought>, V, N: NewKey<K>, R>(
    entries: &mut Vec<(K, V)>,
    key: N,
    make: impl FnOnce(&K, Option<&V>) -> (V, R),
) -> Put<K, V, R> {
    let at = match find(entries, key.sought()) {
        Ok(at) => {
            if let Some((key, slot)) = entries.get_mut(at) {
                let (value, made) = make(key, Some(slot));
                let previous = Some(mem::replace(slot, value));
                let split = None;
                return Put {
                    previous,
                    made,
                    split,
                };
            }
            at
        }
        Err(at) => at,
    };
    let key = key.into_key();
    let (value, made) = make(&key, None);
    let split = add(entries, at, (key, value));
    Put {
        previous: None,
        made,
        split: split.map(|(key, upper)| (key, Node::Leaf(upper).into())),
    }
}

/// Adds an entry to a node. If there is no room, cuts off its upper part and returns it with its first key.
fn add<K: Clone, T>(entries: &mut Vec<(K, T)>, at: usize, new: (K, T)) -> Option<(K, Vec<(K, T)>)> {
    if entries.len() < MAX_NODE {
        // A copied node has no room left, and by itself would make more than it can use.
        if entries.len() == entries.capacity() {
            entries.reserve_exact(MAX_NODE - entries.len());
        }
        entries.insert(at, new);
        return None;
    }
    // What grows at its end stays full behind it.
    let cut = if at == entries.len() { at } else { MAX_NODE / 2 };
    let mut upper = Vec::with_capacity(MAX_NODE);
    upper.extend(entries.drain(cut..));
    match at.checked_sub(cut) {
        Some(at) => upper.insert(at, new),
        None => entries.insert(at, new),
    }
    let key = upper.first()?.0.clone();
    Some((key, upper))
}
