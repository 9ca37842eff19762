//! Deadlines in log time: what ends unless it is renewed.

use crate::shared_map::SharedMap;

/// Things that end when their time to live has passed in log time.
///
/// The time to live of what is new or renewed begins with the next tick, not with the last one, which may
/// be long ago. So nothing ends early, and everything at most two ticks late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expiry {
    things: SharedMap<u64, Deadline>,
    /// By deadline, then by id.
    due: SharedMap<(u64, u64), ()>,
    /// What waits for the next tick.
    fresh: SharedMap<u64, ()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) ttl_ms: u64,
    /// In log time; `None` until the next tick.
    pub(crate) at_ms: Option<u64>,
}

impl Expiry {
    pub(crate) const fn len(&self) -> usize {
        self.things.len()
    }

    pub(crate) fn get(&self, id: u64) -> Option<Deadline> {
        self.things.get(&id).copied()
    }

    /// Every deadline, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Deadline)> {
        self.things.iter().map(|(id, deadline)| (*id, *deadline))
    }

    /// Adds `id`, or gives it its whole time again.
    pub(crate) fn renew(&mut self, id: u64, ttl_ms: u64) {
        self.insert(id, Deadline { ttl_ms, at_ms: None });
    }

    /// Sets the deadline of `id` as it stands in a snapshot.
    pub(crate) fn insert(&mut self, id: u64, deadline: Deadline) {
        let previous = self.things.insert(id, deadline);
        if previous == Some(deadline) {
            return;
        }
        if let Some(at) = previous.and_then(|previous| previous.at_ms) {
            self.due.remove(&(at, id));
        }
        match deadline.at_ms {
            Some(at) => {
                self.due.insert((at, id), ());
                self.fresh.remove(&id);
            }
            None => drop(self.fresh.insert(id, ())),
        }
    }

    pub(crate) fn remove(&mut self, id: u64) {
        if let Some(deadline) = self.things.remove(&id) {
            self.fresh.remove(&id);
            if let Some(at) = deadline.at_ms {
                self.due.remove(&(at, id));
            }
        }
    }

    /// Takes out what has ended by `now_ms`, earliest first.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<u64> {
        let (&(at, id), ()) = self.due.first()?;
        if at > now_ms {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    /// Begins the time of what was added or renewed since the last tick.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        while let Some((&id, ())) = self.fresh.first() {
            match self.get(id) {
                Some(Deadline { ttl_ms, .. }) => {
                    let at_ms = Some(now_ms.saturating_add(ttl_ms));
                    self.insert(id, Deadline { ttl_ms, at_ms });
                }
                None => drop(self.fresh.remove(&id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop_all(expiry: &mut Expiry, now_ms: u64) -> Vec<u64> {
        std::iter::from_fn(|| expiry.pop(now_ms)).collect()
    }

    #[test]
    fn time_begins_with_the_next_tick_and_ends_no_sooner_than_promised() {
        let mut expiry = Expiry::default();
        expiry.renew(1, 100);
        assert_eq!(pop_all(&mut expiry, u64::MAX), [0; 0], "its time has not begun");
        expiry.begin(1_000);
        expiry.renew(2, 50);
        expiry.begin(1_020);
        assert_eq!(pop_all(&mut expiry, 1_069), [0; 0]);
        assert_eq!(pop_all(&mut expiry, 1_070), [2]);
        assert_eq!(pop_all(&mut expiry, 1_100), [1]);
        assert!(expiry.len() == 0 && expiry.due.is_empty() && expiry.fresh.is_empty());
    }

    #[test]
    fn what_is_renewed_or_removed_does_not_end() {
        let mut expiry = Expiry::default();
        for id in 1..=3 {
            expiry.renew(id, 100);
        }
        expiry.begin(0);
        expiry.renew(1, 100);
        expiry.remove(2);
        assert_eq!(pop_all(&mut expiry, 100), [3]);
        expiry.begin(100);
        assert_eq!(
            expiry.get(1),
            Some(Deadline {
                ttl_ms: 100,
                at_ms: Some(200)
            })
        );
        assert_eq!(pop_all(&mut expiry, 200), [1]);
        assert!(expiry.len() == 0 && expiry.due.is_empty() && expiry.fresh.is_empty());
    }
}
