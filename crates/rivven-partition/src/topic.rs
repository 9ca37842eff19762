//! Topics as they are kept, and the table of them: shared between the state, its snapshots and its readers.

use std::{collections::BTreeMap, sync::Arc};

use rivven_hashring::TopicKey;
use serde::{Deserialize, Serialize};

use crate::{Settings, TopicId, TopicName, cell::Cell, ids::Spot};

/// Partitions that are copied together when one of them changes while somebody reads.
const CHUNK: usize = 256;

/// Topics that are copied together, as pointers, when one of them changes while somebody reads.
const PAGE: u64 = 128;

/// A topic, its partitions apart; those are in [`TopicRef`](crate::TopicRef).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Number of the topic.
    pub id: TopicId,
    /// Name of the topic.
    pub name: TopicName,
    /// Replicas that a partition shall have.
    pub replication_factor: u16,
    /// Whether partitions may have fewer while the cluster has too few nodes.
    pub allow_fewer_replicas: bool,
    /// Log index of the entry that created it.
    pub created: u64,
    /// What is set for this topic alone.
    pub settings: Settings,
    pub(crate) cells: Cells,
}

impl Topic {
    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.cells.len()).unwrap_or(u32::MAX)
    }
}

/// The partitions of a topic; the index is the number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cells {
    /// All full but the last.
    chunks: Vec<Arc<Vec<Cell>>>,
}

impl Cells {
    pub(crate) fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, |chunk| chunk.len());
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    /// Whether all chunks but the last are full and none is empty, as commands leave them.
    pub(crate) fn is_sound(&self) -> bool {
        let full = self.chunks.iter().rev().skip(1).all(|chunk| chunk.len() == CHUNK);
        full && self
            .chunks
            .last()
            .is_none_or(|chunk| (1..=CHUNK).contains(&chunk.len()))
    }

    pub(crate) fn get(&self, partition: u32) -> Option<&Cell> {
        let at = usize::try_from(partition).ok()?;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    pub(crate) fn get_mut(&mut self, partition: u32) -> Option<&mut Cell> {
        let at = usize::try_from(partition).ok()?;
        Arc::make_mut(self.chunks.get_mut(at / CHUNK)?).get_mut(at % CHUNK)
    }

    pub(crate) fn push(&mut self, cell: Cell) {
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => Arc::make_mut(chunk).push(cell),
            None => self.chunks.push(Arc::new(vec![cell])),
        }
    }

    pub(crate) fn shrink(&mut self) {
        self.chunks.shrink_to_fit();
        if let Some(chunk) = self.chunks.last_mut() {
            Arc::make_mut(chunk).shrink_to_fit();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Cell> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    pub(crate) fn heap_size(&self) -> usize {
        let cells = self.iter().map(Cell::heap_size).sum::<usize>();
        let chunks = self.chunks.iter().map(|chunk| {
            // The two counters of the shared pointer and the header of the list.
            chunk.capacity() * size_of::<Cell>() + size_of::<Vec<Cell>>() + 16
        });
        cells + chunks.sum::<usize>() + self.chunks.capacity() * size_of::<Arc<Vec<Cell>>>()
    }
}

/// Topics by number and by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics {
    pages: BTreeMap<u64, Arc<Page>>,
    names: Directory,
    len: usize,
}

type Page = BTreeMap<TopicId, Arc<Topic>>;

impl Topics {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, id: TopicId) -> Option<&Topic> {
        self.pages.get(&(id.0 / PAGE))?.get(&id).map(|topic| &**topic)
    }

    pub(crate) fn get_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        let page = self.pages.get_mut(&(id.0 / PAGE))?;
        Arc::make_mut(page).get_mut(&id).map(Arc::make_mut)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Topic> {
        self.names
            .candidates(hash(name))
            .filter_map(|id| self.get(id))
            .find(|topic| *topic.name == *name)
    }

    pub(crate) fn cell(&self, spot: Spot) -> Option<&Cell> {
        self.get(spot.topic())?.cells.get(spot.partition())
    }

    pub(crate) fn cell_mut(&mut self, spot: Spot) -> Option<&mut Cell> {
        self.get_mut(spot.topic())?.cells.get_mut(spot.partition())
    }

    /// A way to look at many partitions in order, which finds those of one topic at once.
    pub(crate) const fn cursor(&self) -> Cursor<'_> {
        Cursor {
            topics: self,
            last: None,
        }
    }

    /// Adds a topic whose number and name are new.
    pub(crate) fn insert(&mut self, topic: Topic) {
        self.names.insert(hash(&topic.name), topic.id);
        let page = self.pages.entry(topic.id.0 / PAGE).or_default();
        Arc::make_mut(page).insert(topic.id, Arc::new(topic));
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, id: TopicId) -> Option<Arc<Topic>> {
        let page = self.pages.get_mut(&(id.0 / PAGE))?;
        let topic = Arc::make_mut(page).remove(&id)?;
        if page.is_empty() {
            self.pages.remove(&(id.0 / PAGE));
        }
        self.names.remove(hash(&topic.name), id);
        self.len -= 1;
        Some(topic)
    }

    /// In the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.pages
            .values()
            .flat_map(|page| page.values().map(|topic| &**topic))
    }

    /// All partitions in the order of batches.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (Spot, &Cell)> {
        self.iter().flat_map(|topic| {
            let cells = (0..).zip(topic.cells.iter());
            cells.filter_map(|(at, cell)| Some((Spot::new(topic.id, at)?, cell)))
        })
    }

    pub(crate) fn heap_size(&self) -> usize {
        // A map's entry costs about one and a half of itself.
        let topics = self.iter().map(|topic| {
            let entry = (size_of::<TopicId>() + size_of::<Arc<Topic>>()) * 3 / 2;
            size_of::<Topic>() + 16 + entry + topic.name.len() + 16 + topic.cells.heap_size()
        });
        topics.sum::<usize>() + self.names.heap_size()
    }
}

/// Finds partitions, and remembers the topic of the last.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    topics: &'a Topics,
    last: Option<&'a Topic>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn cell(&mut self, spot: Spot) -> Option<&'a Cell> {
        let topic = match self.last.filter(|topic| topic.id == spot.topic()) {
            Some(topic) => topic,
            None => self.topics.get(spot.topic())?,
        };
        self.last = Some(topic);
        topic.cells.get(spot.partition())
    }
}

impl PartialEq for Topics {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.pages == other.pages
    }
}

impl Eq for Topics {}

fn hash(name: &str) -> u64 {
    TopicKey::new(name).partition(0).0
}

/// Numbers of topics by the hash of their names: open addressing, in shards that are copied one by one.
#[derive(Clone, Debug)]
struct Directory {
    shards: Vec<Arc<Shard>>,
}

/// Shards of the directory; a power of two.
const SHARDS: usize = 64;

impl Default for Directory {
    fn default() -> Self {
        Self {
            shards: vec![Arc::default(); SHARDS],
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Shard {
    /// Hash and number; a power of two of places, at most half of them taken.
    places: Vec<Option<(u64, TopicId)>>,
    len: usize,
}

impl Directory {
    const fn shard(hash: u64) -> usize {
        (hash >> 58) as usize
    }

    /// The topics whose names have this hash: nearly always one at most.
    fn candidates(&self, hash: u64) -> impl Iterator<Item = TopicId> {
        let shard = self.shards.get(Self::shard(hash));
        shard.into_iter().flat_map(move |shard| shard.candidates(hash))
    }

    fn insert(&mut self, hash: u64, id: TopicId) {
        if let Some(shard) = self.shards.get_mut(Self::shard(hash)) {
            Arc::make_mut(shard).insert(hash, id);
        }
    }

    fn remove(&mut self, hash: u64, id: TopicId) {
        if let Some(shard) = self.shards.get_mut(Self::shard(hash)) {
            Arc::make_mut(shard).remove((hash, id));
        }
    }

    fn heap_size(&self) -> usize {
        let places = self.shards.iter().map(|shard| shard.places.capacity());
        places.sum::<usize>() * size_of::<Option<(u64, TopicId)>>() + SHARDS * (size_of::<Shard>() + 24)
    }
}

impl Shard {
    fn home(&self, hash: u64) -> usize {
        let mask = self.places.len().saturating_sub(1) as u64;
        usize::try_from(hash & mask).unwrap_or(0)
    }

    fn candidates(&self, hash: u64) -> impl Iterator<Item = TopicId> {
        let (tail, head) = self.places.split_at(self.home(hash).min(self.places.len()));
        let run = head.iter().chain(tail).map_while(|place| *place);
        run.filter(move |(other, _)| *other == hash).map(|(_, id)| id)
    }

    fn insert(&mut self, hash: u64, id: TopicId) {
        if self.len * 2 >= self.places.len() {
            self.rebuild((self.places.len() * 2).max(4), None);
        }
        let home = self.home(hash);
        let (head, tail) = self.places.split_at_mut(home);
        if let Some(free) = tail.iter_mut().chain(head).find(|place| place.is_none()) {
            *free = Some((hash, id));
            self.len += 1;
        }
    }

    /// Runs stay whole only if what follows is moved up; removals are rare, so the shard is built anew.
    fn remove(&mut self, entry: (u64, TopicId)) {
        self.rebuild(self.places.len(), Some(entry));
    }

    fn rebuild(&mut self, places: usize, without: Option<(u64, TopicId)>) {
        let old = std::mem::replace(&mut self.places, vec![None; places]);
        self.len = 0;
        for entry in old.into_iter().flatten() {
            if Some(entry) != without {
                let home = self.home(entry.0);
                let (head, tail) = self.places.split_at_mut(home);
                if let Some(free) = tail.iter_mut().chain(head).find(|place| place.is_none()) {
                    *free = Some(entry);
                    self.len += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_equal_hashes_are_told_apart_and_runs_survive_removals() {
        let mut shard = Shard::default();
        for id in 0..40 {
            // Ten topics to each hash, and all hashes with the same home.
            shard.insert((id % 4) << 32, TopicId(id));
        }
        shard.remove((1 << 32, TopicId(5)));
        for hash in 0..4 {
            let found: Vec<u64> = shard.candidates(hash << 32).map(|id| id.0).collect();
            let expected: Vec<u64> = (0..40).filter(|id| id % 4 == hash && *id != 5).collect();
            let mut sorted = found;
            sorted.sort_unstable();
            assert_eq!(sorted, expected);
        }
        assert_eq!(shard.candidates(9).count(), 0);
        assert_eq!(Shard::default().candidates(9).count(), 0);
    }
}
