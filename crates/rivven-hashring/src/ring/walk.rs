//! Around the ring from a position: distinct nodes, and replica sets that spread over zones.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use super::Ring;
use crate::{NodeName, Position, RingError, RingNode};

/// Every node of a ring once, in the order in which their tokens come after a position.
///
/// Made by [`Ring::walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    ring: &'a Ring,
    at: usize,
    /// Tokens not looked at yet.
    left: usize,
    /// Whether each node has been seen.
    seen: Vec<bool>,
    unseen: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ring: &'a Ring, position: Position) -> Self {
        Self {
            ring,
            at: ring.token_index(position),
            left: ring.owners.len(),
            seen: vec![false; ring.len()],
            unseen: ring.len(),
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a RingNode;

    fn next(&mut self) -> Option<&'a RingNode> {
        while self.left > 0 && self.unseen > 0 {
            let owner = *self.ring.owners.get(self.at)?;
            self.left -= 1;
            self.at = if self.at + 1 == self.ring.owners.len() {
                0
            } else {
                self.at + 1
            };
            let seen = self.seen.get_mut(usize::from(owner))?;
            if !core::mem::replace(seen, true) {
                self.unseen -= 1;
                return self.ring.member(owner);
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.unseen, Some(self.unseen))
    }
}

/// The first `count` nodes from `position`, each next one in a zone that has the fewest so far.
pub(super) fn replica_set(
    ring: &Ring,
    position: Position,
    count: usize,
) -> Result<Vec<&NodeName>, RingError> {
    if ring.is_empty() {
        return Err(RingError::EmptyRing);
    }
    if count > ring.len() {
        let have = ring.len();
        return Err(RingError::NotEnoughNodes { wanted: count, have });
    }
    let mut zones = Zones::of(ring);
    let mut walk = ring.walk(position);
    // Nodes passed over because their zone had a replica already, in the order of the walk.
    let mut passed: Vec<&RingNode> = Vec::new();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let level = zones.level();
        let next = match passed.iter().position(|node| zones.used(node) == level) {
            Some(at) => Some(passed.remove(at)),
            None => walk.by_ref().find(|node| {
                let fits = zones.used(node) == level;
                if !fits {
                    passed.push(node);
                }
                fits
            }),
        };
        // A zone at the lowest level still has nodes, so the walk finds one; stopping short is only a guard.
        let Some(node) = next else { break };
        zones.take(node);
        chosen.push(&node.name);
    }
    Ok(chosen)
}

/// Per zone: replicas chosen and nodes not chosen yet.
struct Zones<'a>(BTreeMap<Option<&'a str>, (usize, usize)>);

impl<'a> Zones<'a> {
    fn of(ring: &'a Ring) -> Self {
        let mut zones = BTreeMap::new();
        for node in ring.nodes() {
            zones.entry(zone(node)).or_insert((0, 0)).1 += 1;
        }
        Self(zones)
    }

    /// Fewest replicas in any zone that has nodes left.
    fn level(&self) -> usize {
        let open = self.0.values().filter(|(_, left)| *left > 0);
        open.map(|(used, _)| *used).min().unwrap_or(0)
    }

    fn used(&self, node: &RingNode) -> usize {
        self.0.get(&zone(node)).map_or(0, |(used, _)| *used)
    }

    fn take(&mut self, node: &'a RingNode) {
        if let Some((used, left)) = self.0.get_mut(&zone(node)) {
            *used += 1;
            *left -= 1;
        }
    }
}

fn zone(node: &RingNode) -> Option<&str> {
    node.zone.as_ref().map(|zone| zone.as_str())
}
