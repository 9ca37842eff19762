//! Around the ring from a position: distinct nodes, and replica sets that spread over zones.

use alloc::{vec, vec::Vec};

use super::{Member, Ring};
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

impl<'a> Walk<'a> {
    fn next_member(&mut self) -> Option<&'a Member> {
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
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a RingNode;

    fn next(&mut self) -> Option<&'a RingNode> {
        self.next_member().map(|member| &member.node)
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
    let mut zones = Zones {
        used: vec![0; ring.zones.len()],
        left: ring.zones.clone(),
    };
    let mut walk = ring.walk(position);
    // Nodes passed over because their zone had a replica already, in the order of the walk.
    let mut passed: Vec<&Member> = Vec::new();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let level = zones.level();
        let next = match passed.iter().position(|member| zones.used(member) == level) {
            Some(at) => Some(passed.remove(at)),
            None => core::iter::from_fn(|| walk.next_member()).find(|member| {
                let fits = zones.used(member) == level;
                if !fits {
                    passed.push(member);
                }
                fits
            }),
        };
        // A zone at the lowest level still has nodes, so the walk finds one; stopping short is only a guard.
        let Some(member) = next else { break };
        zones.take(member);
        chosen.push(&member.node.name);
    }
    Ok(chosen)
}

/// Per zone of the ring: replicas chosen and nodes not chosen yet.
struct Zones {
    used: Vec<usize>,
    left: Vec<usize>,
}

impl Zones {
    /// Fewest replicas in any zone that has nodes left.
    fn level(&self) -> usize {
        let open = self.used.iter().zip(&self.left).filter(|(_, left)| **left > 0);
        open.map(|(used, _)| *used).min().unwrap_or(0)
    }

    fn used(&self, member: &Member) -> usize {
        self.used.get(member.zone).copied().unwrap_or(0)
    }

    fn take(&mut self, member: &Member) {
        if let (Some(used), Some(left)) = (self.used.get_mut(member.zone), self.left.get_mut(member.zone)) {
            *used += 1;
            *left -= 1;
        }
    }
}
