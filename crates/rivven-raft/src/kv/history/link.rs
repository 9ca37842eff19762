//! The history of a snapshot, which says what each change replaced but not what it made of its key.

use std::{io, ops::Range, sync::Arc};

use super::{Change, History, KvEntry};
use crate::{records::invalid, shared_map::SharedMap};

impl History {
    /// Adds a change of a snapshot, under the conditions of [`Self::record`], unless its revision is forgotten
    /// already. What it made of its key is found by [`Self::link`]; until then nothing else may be asked.
    pub(in crate::kv) fn restore(&mut self, at: u64, key: Arc<str>, previous: Option<KvEntry>) {
        if at <= self.oldest {
            return;
        }
        self.push(Change {
            at,
            key,
            previous: previous.map(Arc::new),
            entry: None,
        });
    }

    /// Finds what each change made of its key: what the next one replaced or, after the last, what the key is
    /// in `map`. Refuses a history in which they do not follow from one another, and which therefore cannot be
    /// searched.
    pub(in crate::kv) fn link(&mut self, map: &SharedMap<Arc<str>, Arc<KvEntry>>) -> io::Result<()> {
        let key = |place: &u32| self.changes.get(*place as usize).map(|change| &*change.key);
        let all: Range<u32> = 0..u32::try_from(self.changes.len()).map_err(io::Error::other)?;
        let mut places: Vec<u32> = all.collect();
        // Stable, so the changes of a key stay in their order.
        places.sort_by(|a, b| key(a).cmp(&key(b)));
        let ends = places.chunk_by(|a, b| key(a) == key(b)).map(<[u32]>::len);
        let ends: Vec<usize> = ends.collect();
        let (mut rest, mut existing) = (&places[..], 0);
        for len in ends {
            let Some((of_key, others)) = rest.split_at_checked(len) else {
                break;
            };
            rest = others;
            existing += usize::from(self.link_key(of_key, map)?);
        }
        let changed = map.iter().filter(|(_, entry)| entry.mod_revision > self.oldest);
        if changed.count() != existing {
            return Err(invalid("a key of the map changed without a trace in its history"));
        }
        Ok(())
    }

    /// Links the changes of one key, at these places. Returns whether the key exists.
    fn link_key(&mut self, places: &[u32], map: &SharedMap<Arc<str>, Arc<KvEntry>>) -> io::Result<bool> {
        let place = |place: &u32| *place as usize;
        let Some(first) = places.first().and_then(|at| self.changes.get(place(at))) else {
            return Ok(false);
        };
        let current = map.get_entry(&*first.key);
        // One key in memory for all that name it.
        let key = Arc::clone(current.map_or(&first.key, |(key, _)| key));
        let mut entry = current.map(|(_, entry)| Arc::clone(entry));
        for at in places.iter().rev() {
            let Some(change) = self.changes.get_mut(place(at)) else {
                break;
            };
            let fits = match &entry {
                Some(entry) => entry.mod_revision == change.at,
                None => change.previous.is_some(),
            };
            if !fits {
                return Err(invalid(
                    "changes of a key of the map do not follow from one another",
                ));
            }
            let (removed, at) = (entry.is_none(), change.at);
            change.key = Arc::clone(&key);
            change.entry = entry;
            entry = change.previous.clone();
            if removed {
                self.index_removal(&key, at);
            }
        }
        if entry.is_some_and(|entry| entry.mod_revision > self.oldest) {
            return Err(invalid("a key of the map changed without a trace in its history"));
        }
        Ok(current.is_some())
    }
}
