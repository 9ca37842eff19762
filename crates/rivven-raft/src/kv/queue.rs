//! A queue whose clones share everything until one side changes it.

use std::{collections::VecDeque, ops::Range, sync::Arc};

/// Elements of a chunk. A change of a queue that a clone shares copies the pointers to all chunks and the
/// elements of one: with so many, a queue of 100,000 copies about as many of either.
const CHUNK: usize = 128;

/// A queue in chunks of reference-counted elements: cloning takes constant time and no memory, and the first
/// change of either end afterwards copies that end's chunk and a pointer to each other one.
#[derive(Clone, Debug)]
pub(super) struct SharedQueue<T> {
    /// None is empty; all but the first and the last are full.
    chunks: Arc<VecDeque<Arc<VecDeque<T>>>>,
    len: usize,
}

impl<T> Default for SharedQueue<T> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }
}

impl<T: Clone> SharedQueue<T> {
    pub(super) fn push_back(&mut self, element: T) {
        let chunks = Arc::make_mut(&mut self.chunks);
        if let Some(last) = chunks.back_mut().filter(|last| last.len() < CHUNK) {
            let last = Arc::make_mut(last);
            // A copied chunk has no room left, and by itself would make more than it can use.
            if last.len() == last.capacity() {
                last.reserve_exact(CHUNK - last.len());
            }
            last.push_back(element);
        } else {
            let mut last = VecDeque::with_capacity(CHUNK);
            last.push_back(element);
            chunks.push_back(Arc::new(last));
        }
        self.len += 1;
    }

    /// Takes out the first element. What it refers to is free when it is dropped, unless a clone shares it.
    pub(super) fn pop_front(&mut self) -> Option<T> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let first = Arc::make_mut(chunks.front_mut()?);
        let element = first.pop_front()?;
        if first.is_empty() {
            chunks.pop_front();
        }
        self.len -= 1;
        Some(element)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let (chunk, slot) = self.place(index)?;
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(chunk)?;
        Arc::make_mut(chunk).get_mut(slot)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        let (chunk, slot) = self.place(index)?;
        self.chunks.get(chunk)?.get(slot)
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub(super) fn back(&self) -> Option<&T> {
        self.chunks.back()?.back()
    }

    /// The elements of `range`, as far as there are any.
    pub(super) fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = &T> {
        range.filter_map(|index| self.get(index))
    }

    /// The first place in `range` whose element does not come before what is sought, or its end. `before`
    /// must hold for no element behind one for which it does not.
    pub(super) fn partition_point(&self, range: Range<usize>, before: impl Fn(&T) -> bool) -> usize {
        let Range { mut start, mut end } = range;
        while start < end {
            let middle = start.midpoint(end);
            if self.get(middle).is_some_and(&before) {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        start
    }

    /// The chunk of an element, and where it is there.
    fn place(&self, index: usize) -> Option<(usize, usize)> {
        let first = self.chunks.front()?.len();
        Some(match index.checked_sub(first) {
            None => (0, index),
            Some(behind) => (1 + behind / CHUNK, behind % CHUNK),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(queue: &SharedQueue<u32>, model: &VecDeque<u32>) {
        let chunks = queue.chunks.len();
        for (at, chunk) in queue.chunks.iter().enumerate() {
            let full = at > 0 && at + 1 < chunks;
            assert!(
                !chunk.is_empty() && (chunk.len() == CHUNK || !full),
                "chunk {at} of {chunks}"
            );
            assert!(
                chunk.capacity() <= CHUNK,
                "{} elements have room",
                chunk.capacity()
            );
        }
        assert_eq!(queue.len(), model.len());
        assert!(queue.range(0..queue.len()).eq(model));
        assert!(queue.range(0..queue.len()).rev().eq(model.iter().rev()));
        assert_eq!((queue.front(), queue.back()), (model.front(), model.back()));
        assert_eq!(queue.get(queue.len()), None);
        for sought in [0, 300, 1_000, 5_000] {
            let found = queue.partition_point(0..queue.len(), |at| *at < sought);
            assert_eq!(found, model.partition_point(|at| *at < sought));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_queue_and_its_clones_agree_with_simple_ones(
            steps in proptest::collection::vec((0_u8..6, 1_usize..200), 1..40),
        ) {
            let (mut queue, mut model) = (SharedQueue::default(), VecDeque::new());
            let (mut clones, mut next) = (Vec::new(), 0_u32);
            for (kind, count) in steps {
                match kind {
                    0..=2 => {
                        for _ in 0..count {
                            queue.push_back(next);
                            model.push_back(next);
                            next += 1;
                        }
                    }
                    3 | 4 => {
                        for _ in 0..count {
                            prop_assert_eq!(queue.pop_front(), model.pop_front());
                        }
                    }
                    _ => {
                        clones.push((queue.clone(), model.clone()));
                        if let Some(element) = queue.get_mut(count) {
                            model[count] = *element;
                        }
                    }
                }
                check(&queue, &model);
            }
            for (queue, model) in &clones {
                check(queue, model);
            }
        }
    }

    #[test]
    fn what_is_taken_out_is_free_at_once_unless_a_clone_shares_it() {
        let element = Arc::new(());
        let mut queue = SharedQueue::default();
        for _ in 0..CHUNK + 1 {
            queue.push_back(Arc::clone(&element));
        }
        let clone = queue.clone();
        queue.pop_front();
        drop(clone);
        assert_eq!(
            Arc::strong_count(&element),
            CHUNK + 1,
            "one here, the rest in the queue"
        );
        queue.pop_front();
        assert_eq!(Arc::strong_count(&element), CHUNK);
    }
}
