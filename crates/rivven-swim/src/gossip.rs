//! Which members' news is still being told, newest first, each a bounded number of times.

use alloc::collections::{BTreeMap, BTreeSet};
use core::cmp::Reverse;

use rivven_types::NodeId;

/// Members with untold news. What is told is read from the member at that moment, so news about the same
/// member replaces older news, and the queue is never longer than the member list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gossip {
    told: BTreeMap<NodeId, Rank>,
    order: BTreeSet<(Rank, NodeId)>,
    serial: u32,
}

/// How often it was told, then how old it is: the newest of what was told least often comes first.
type Rank = (u32, Reverse<u32>);

impl Gossip {
    /// There is news about `node`, never told before.
    pub(crate) fn announce(&mut self, node: NodeId) {
        self.serial = self.serial.wrapping_add(1);
        self.set(node, Some((0, Reverse(self.serial))));
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.set(node, None);
    }

    /// The news about `node` was put into a datagram; it ends after `limit` of them.
    pub(crate) fn told(&mut self, node: NodeId, limit: u32) {
        if let Some((times, age)) = self.told.get(&node).copied() {
            let times = times + 1;
            self.set(node, (times < limit).then_some((times, age)));
        }
    }

    /// Members with untold news, least often told first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.order.iter().map(|(_, node)| *node)
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.told.contains_key(&node)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    fn set(&mut self, node: NodeId, rank: Option<Rank>) {
        if let Some(old) = self.told.remove(&node) {
            self.order.remove(&(old, node));
        }
        if let Some(rank) = rank {
            self.told.insert(node, rank);
            self.order.insert((rank, node));
        }
    }
}

/// How often news is told in a cluster of `members`: `4 * ceil(log10(members + 1))`, at least 4.
pub(crate) fn retransmit_limit(members: usize) -> u32 {
    const MULTIPLIER: u32 = 4;
    // ceil(log10(n + 1)) is the number of decimal digits of n.
    MULTIPLIER * (members.max(1).ilog10() + 1)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn newest_news_first_and_no_more_often_than_the_limit() {
        let mut gossip = Gossip::default();
        gossip.announce(1);
        gossip.told(1, 2);
        gossip.announce(2);
        assert_eq!(gossip.iter().collect::<Vec<_>>(), [2, 1]);
        gossip.announce(3);
        assert_eq!(gossip.iter().collect::<Vec<_>>(), [3, 2, 1]);
        gossip.forget(3);
        gossip.told(1, 2);
        assert_eq!(gossip.iter().collect::<Vec<_>>(), [2]);
        gossip.announce(1);
        gossip.forget(2);
        assert_eq!(gossip.iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn retransmits_grow_with_the_logarithm() {
        assert_eq!([3, 9, 20, 100, 1_000].map(retransmit_limit), [4, 4, 8, 12, 16]);
    }
}
