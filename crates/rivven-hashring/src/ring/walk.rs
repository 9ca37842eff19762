//! Around the ring from a position: distinct nodes, and replica sets that spread over zones.

use alloc::{vec, vec::Vec};

use super::Ring;
use crate::{Position, RingError, RingNode};

/// Every node of a ring once, in the order in which their tokens come after a position.
///
/// Made by [`Ring::walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    ring: &'a Ring,
    steps: Steps,
    seen: Seen,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ring: &'a Ring, position: Position) -> Self {
        Self {
            ring,
            steps: Steps::new(ring, ring.token_index(position)),
            seen: Seen::new(ring),
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a RingNode;

    fn next(&mut self) -> Option<&'a RingNode> {
        let owner = self.steps.next(self.ring, &mut self.seen)?;
        self.ring.member(owner).map(|member| &member.node)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.steps.unseen, Some(self.steps.unseen))
    }
}

/// A way around the ring.
#[derive(Clone, Debug)]
struct Steps {
    /// Index of the token to look at next.
    at: usize,
    /// Tokens not looked at yet.
    left: usize,
    unseen: usize,
}

impl Steps {
    const fn new(ring: &Ring, at: usize) -> Self {
        Self {
            at,
            left: ring.owners.len(),
            unseen: ring.len(),
        }
    }

    /// The next node that was not met before.
    fn next(&mut self, ring: &Ring, seen: &mut Seen) -> Option<u16> {
        while self.left > 0 && self.unseen > 0 {
            let owner = *ring.owners.get(self.at)?;
            self.left -= 1;
            self.at = if self.at + 1 == ring.owners.len() {
                0
            } else {
                self.at + 1
            };
            if seen.meet(owner) {
                self.unseen -= 1;
                return Some(owner);
            }
        }
        None
    }
}

/// Which nodes a walk has met; fresh for the next walk without touching every node.
#[derive(Clone, Debug)]
struct Seen {
    met_in: Vec<u32>,
    walk: u32,
}

impl Seen {
    fn new(ring: &Ring) -> Self {
        Self {
            met_in: vec![0; ring.len()],
            walk: 1,
        }
    }

    /// Whether `owner` is met for the first time.
    fn meet(&mut self, owner: u16) -> bool {
        let met_in = self.met_in.get_mut(usize::from(owner));
        met_in.is_some_and(|met_in| core::mem::replace(met_in, self.walk) != self.walk)
    }

    /// Begins another walk.
    fn forget(&mut self) {
        match self.walk.checked_add(1) {
            Some(next) => self.walk = next,
            None => {
                self.met_in.fill(0);
                self.walk = 1;
            }
        }
    }
}

/// What the choice of replica sets needs beside the ring, kept from one set to the next.
pub(crate) struct Scratch {
    count: usize,
    seen: Seen,
    /// Per zone: replicas chosen, and nodes not chosen yet.
    used: Vec<usize>,
    left: Vec<usize>,
    /// Nodes passed over because their zone had a replica already, in the order of the walk.
    passed: Vec<u16>,
    chosen: Vec<u16>,
}

impl Scratch {
    /// Room to choose sets of `count` nodes of `ring`.
    pub(crate) fn new(ring: &Ring, count: usize) -> Result<Self, RingError> {
        if ring.is_empty() {
            return Err(RingError::EmptyRing);
        }
        if count > ring.len() {
            let have = ring.len();
            return Err(RingError::NotEnoughNodes { wanted: count, have });
        }
        Ok(Self {
            count,
            seen: Seen::new(ring),
            used: vec![0; ring.zones.len()],
            left: ring.zones.clone(),
            passed: Vec::new(),
            chosen: Vec::with_capacity(count),
        })
    }

    /// Numbers of the first nodes from the token with index `at`, each next one in a zone that has the
    /// fewest so far.
    pub(crate) fn replica_set(&mut self, ring: &Ring, at: usize) -> &[u16] {
        self.seen.forget();
        self.used.fill(0);
        self.left.copy_from_slice(&ring.zones);
        self.passed.clear();
        self.chosen.clear();
        let mut steps = Steps::new(ring, at);
        while self.chosen.len() < self.count {
            let level = self.level();
            // A zone at the lowest level still has nodes, so one is found; stopping short is only a guard.
            let Some(owner) = self.next_at(level, ring, &mut steps) else {
                break;
            };
            let zone = zone(ring, owner);
            if let (Some(used), Some(left)) = (self.used.get_mut(zone), self.left.get_mut(zone)) {
                *used += 1;
                *left -= 1;
            }
            self.chosen.push(owner);
        }
        &self.chosen
    }

    /// Fewest replicas in any zone that has nodes left.
    fn level(&self) -> usize {
        let open = self.used.iter().zip(&self.left).filter(|(_, left)| **left > 0);
        open.map(|(used, _)| *used).min().unwrap_or(0)
    }

    /// The first node, not chosen yet, whose zone has `level` replicas.
    fn next_at(&mut self, level: usize, ring: &Ring, steps: &mut Steps) -> Option<u16> {
        let used = &self.used;
        let fits = |owner: u16| used.get(zone(ring, owner)) == Some(&level);
        if let Some(at) = self.passed.iter().position(|owner| fits(*owner)) {
            return Some(self.passed.remove(at));
        }
        while let Some(owner) = steps.next(ring, &mut self.seen) {
            if fits(owner) {
                return Some(owner);
            }
            self.passed.push(owner);
        }
        None
    }
}

fn zone(ring: &Ring, owner: u16) -> usize {
    ring.member(owner).map_or(0, |member| member.zone)
}
