//! The members: found by id through a hash index, listed by liveness, summed by bucket.
//!
//! The index has a fixed number of buckets by the hash of the node id, each sorted by node id. The same
//! buckets are what two members compare to find where their views differ, and their order is the order
//! in which views travel page by page.

use alloc::{boxed::Box, vec, vec::Vec};

use rivven_types::NodeId;

use crate::{
    member::Member,
    rng::{Rng, mix},
};

/// Buckets of the index and of the comparison of views. Part of the wire format.
pub(crate) const BUCKETS: usize = 256;

/// The bucket of a node id: the top byte of its hash.
pub(crate) fn bucket_of(node: NodeId) -> usize {
    usize::from(mix(node).to_be_bytes()[0])
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    /// Sum of the fingerprints of its members, and of this node itself if it belongs here.
    sum: u64,
    /// Sorted by node id.
    slots: Vec<(NodeId, u32)>,
}

/// All members but this node itself. Every operation on one member takes constant or logarithmic time.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    slab: Vec<Member>,
    buckets: Box<[Bucket]>,
    digest: u64,
    /// Slots of live members, in the order in which they are probed; those before `cursor` have been.
    live: Vec<u32>,
    cursor: usize,
    /// Slots of members that are gone.
    gone: Vec<u32>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            slab: Vec::new(),
            buckets: vec![Bucket::default(); BUCKETS].into_boxed_slice(),
            digest: 0,
            live: Vec::new(),
            cursor: 0,
            gone: Vec::new(),
        }
    }
}

impl Members {
    /// Takes in a member whose id is not here yet.
    pub(crate) fn insert(&mut self, member: Member, rng: &mut Rng) {
        let slot = self.slab.len();
        let Some((node, slot)) = u32::try_from(slot).ok().map(|slot| (member.node, slot)) else {
            return;
        };
        let Some(bucket) = self.buckets.get_mut(bucket_of(node)) else {
            return;
        };
        let Err(at) = bucket.slots.binary_search_by_key(&node, |(node, _)| *node) else {
            return;
        };
        bucket.slots.insert(at, (node, slot));
        // Doubling would leave half of the largest table empty.
        if self.slab.len() == self.slab.capacity() {
            self.slab.reserve_exact(self.slab.len() / 8 + 4);
        }
        self.add_sum(node, member.fingerprint());
        let live = member.is_live();
        self.slab.push(member);
        self.enter(slot, live, rng);
    }

    /// Changes a member through `change`, and everything that hangs on it.
    pub(crate) fn update<R>(
        &mut self,
        node: NodeId,
        rng: &mut Rng,
        change: impl FnOnce(&mut Member) -> R,
    ) -> Option<R> {
        let slot = self.slot(node)?;
        let member = self.slab.get_mut(slot as usize)?;
        let (before, was_live) = (member.fingerprint(), member.is_live());
        let result = change(member);
        let (after, is_live) = (member.fingerprint(), member.is_live());
        self.add_sum(node, after.wrapping_sub(before));
        if was_live != is_live {
            self.leave(slot, was_live);
            self.enter(slot, is_live, rng);
        }
        Some(result)
    }

    /// Changes what does not count in the view: round-trip times, fetched metadata, observed health.
    pub(crate) fn touch(&mut self, node: NodeId) -> Option<&mut Member> {
        let slot = self.slot(node)?;
        self.slab.get_mut(slot as usize)
    }

    /// Forgets a member.
    pub(crate) fn remove(&mut self, node: NodeId) -> bool {
        let Some(slot) = self.slot(node) else { return false };
        let Some((print, live)) = self
            .slab
            .get(slot as usize)
            .map(|m| (m.fingerprint(), m.is_live()))
        else {
            return false;
        };
        self.add_sum(node, 0_u64.wrapping_sub(print));
        self.leave(slot, live);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(node)) {
            bucket.slots.retain(|(other, _)| *other != node);
        }
        self.slab.swap_remove(slot as usize);
        self.reseat(slot);
        true
    }

    /// The member to probe next. When all have had their turn, they are shuffled (SWIM, section 4.3).
    pub(crate) fn next_to_probe(&mut self, rng: &mut Rng) -> Option<NodeId> {
        if self.cursor >= self.live.len() {
            rng.shuffle(&mut self.live);
            for (place, slot) in (0..).zip(&self.live) {
                if let Some(member) = self.slab.get_mut(*slot as usize) {
                    member.place = place;
                }
            }
            self.cursor = 0;
        }
        let slot = *self.live.get(self.cursor)?;
        self.cursor += 1;
        Some(self.slab.get(slot as usize)?.node)
    }

    /// Adds to the sum of the bucket of `node`: how this node itself enters the digest.
    pub(crate) fn add_sum(&mut self, node: NodeId, term: u64) {
        self.digest = self.digest.wrapping_add(term);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(node)) {
            bucket.sum = bucket.sum.wrapping_add(term);
        }
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Member> {
        self.slab.get(self.slot(node)? as usize)
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.slot(node).is_some()
    }

    pub(crate) const fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) const fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    /// The low half of each bucket's sum, in order.
    pub(crate) fn sums(&self) -> impl Iterator<Item = [u8; 4]> + '_ {
        self.buckets.iter().map(|bucket| {
            let [a, b, c, d, ..] = bucket.sum.to_le_bytes();
            [a, b, c, d]
        })
    }

    /// All members, in no useful order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> + Clone {
        self.slab.iter()
    }

    /// The node ids of one bucket, ascending.
    pub(crate) fn bucket(&self, bucket: usize) -> impl Iterator<Item = NodeId> + '_ {
        let slots = self.buckets.get(bucket).map_or(&[][..], |bucket| &bucket.slots);
        slots.iter().map(|(node, _)| *node)
    }

    /// One of the live members, each with the same chance.
    pub(crate) fn any_live(&self, rng: &mut Rng) -> Option<&Member> {
        let slot = *self.live.get(rng.below(self.live.len()))?;
        self.slab.get(slot as usize)
    }

    /// One of the members that are gone, each with the same chance.
    pub(crate) fn any_gone(&self, rng: &mut Rng) -> Option<&Member> {
        let slot = *self.gone.get(rng.below(self.gone.len()))?;
        self.slab.get(slot as usize)
    }

    fn slot(&self, node: NodeId) -> Option<u32> {
        let slots = &self.buckets.get(bucket_of(node))?.slots;
        let at = slots.binary_search_by_key(&node, |(node, _)| *node).ok()?;
        slots.get(at).map(|(_, slot)| *slot)
    }

    fn enter(&mut self, slot: u32, live: bool, rng: &mut Rng) {
        let list = if live { &mut self.live } else { &mut self.gone };
        list.push(slot);
        let last = list.len() - 1;
        // At a random place, so that those who join together are not probed in step by everyone.
        let at = if live { rng.below(list.len()) } else { last };
        list.swap(last, at);
        self.replace(live, at);
        self.replace(live, last);
    }

    fn leave(&mut self, slot: u32, live: bool) {
        let Some(mut at) = self.slab.get(slot as usize).map(|member| member.place as usize) else {
            return;
        };
        if live && at < self.cursor {
            // Whoever fills the gap must not lose or repeat a turn.
            self.cursor -= 1;
            let cursor = self.cursor;
            self.live.swap(at, cursor);
            self.replace(live, at);
            at = cursor;
        }
        let list = if live { &mut self.live } else { &mut self.gone };
        if at < list.len() {
            list.swap_remove(at);
        }
        self.replace(live, at);
    }

    /// Tells the member at a place of a list where it is.
    fn replace(&mut self, live: bool, at: usize) {
        let list = if live { &self.live } else { &self.gone };
        let slot = list.get(at).map(|slot| *slot as usize);
        if let Some(member) = slot.and_then(|slot| self.slab.get_mut(slot))
            && let Ok(place) = u32::try_from(at)
        {
            member.place = place;
        }
    }

    /// A member was moved to `slot`: everything that named its old slot names this one.
    fn reseat(&mut self, slot: u32) {
        let Some(member) = self.slab.get(slot as usize) else {
            return;
        };
        let (node, place, live) = (member.node, member.place as usize, member.is_live());
        let entry = self.buckets.get_mut(bucket_of(node)).and_then(|bucket| {
            let at = bucket.slots.binary_search_by_key(&node, |(node, _)| *node).ok()?;
            bucket.slots.get_mut(at)
        });
        if let Some((_, at)) = entry {
            *at = slot;
        }
        let list = if live { &mut self.live } else { &mut self.gone };
        if let Some(at) = list.get_mut(place) {
            *at = slot;
        }
    }

    /// Whether lists, index and sums agree; `own` is the term of this node itself.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_consistent(&self, own: u64) -> bool {
        let sum = self
            .slab
            .iter()
            .fold(own, |sum, m| sum.wrapping_add(m.fingerprint()));
        let listed = |live: bool, list: &[u32]| {
            (0..).zip(list).all(|(place, slot)| {
                let member = self.slab.get(*slot as usize);
                member.is_some_and(|m| m.place == place && m.is_live() == live)
            })
        };
        let indexed = self
            .slab
            .iter()
            .zip(0_u32..)
            .all(|(m, slot)| self.slot(m.node) == Some(slot));
        sum == self.digest
            && indexed
            && self.live.len() + self.gone.len() == self.slab.len()
            && self.cursor <= self.live.len()
            && listed(true, &self.live)
            && listed(false, &self.gone)
    }
}

/// The order in which views travel.
pub(crate) fn travel_order(node: NodeId) -> (usize, NodeId) {
    (bucket_of(node), node)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use rivven_types::{BootEpoch, InstanceId};

    use super::*;
    use crate::{Health, Incarnation, MemberState, member::Rtt, meta::Meta};

    fn member(node: NodeId, state: MemberState) -> Member {
        Member {
            node,
            instance: InstanceId::from_bytes([1; 16]),
            incarnation: Incarnation::first(BootEpoch(1)),
            meta: Meta::Empty,
            addr: core::net::SocketAddr::from(([10, 0, 0, 1], 1)).into(),
            rtt: Rtt::default(),
            place: 0,
            state,
            claimed_health: Health::Good,
            observed_health: Health::Good,
        }
    }

    #[test]
    fn index_lists_and_sums_agree_whatever_happens() {
        let mut rng = Rng::new(3);
        let mut members = Members::default();
        let mut known = BTreeSet::new();
        for _ in 0..20_000 {
            let node = rng.below(300) as NodeId;
            match rng.below(8) {
                0 => assert_eq!(members.remove(node), known.remove(&node)),
                1 if members.live_count() > 0 => {
                    assert!(members.next_to_probe(&mut rng).is_some());
                }
                2..=4 if !known.contains(&node) => {
                    members.insert(member(node, MemberState::Alive), &mut rng);
                    known.insert(node);
                }
                _ => {
                    let state = if rng.below(2) == 0 {
                        MemberState::Alive
                    } else {
                        MemberState::Dead
                    };
                    let updated = members.update(node, &mut rng, |member| member.state = state);
                    assert_eq!(updated.is_some(), known.contains(&node));
                }
            }
            assert!(members.is_consistent(0));
        }
        let dead = members.iter().filter(|member| member.state == MemberState::Dead);
        assert!(dead.count() > 10);
    }

    #[test]
    fn every_live_member_has_one_turn_a_round_although_others_come_and_go() {
        let mut rng = Rng::new(4);
        let mut members = Members::default();
        for node in 0..100 {
            members.insert(member(node, MemberState::Alive), &mut rng);
        }
        for _ in 0..5 {
            let mut probed = BTreeSet::new();
            for turn in 0..90 {
                let node = members.next_to_probe(&mut rng).unwrap();
                assert!(probed.insert(node), "{node} had its turn");
                // The ten that nobody has asked for yet, or has, leave in the middle of the round.
                if turn < 10 {
                    let leaving = 90 + turn;
                    members.update(leaving, &mut rng, |member| member.state = MemberState::Dead);
                    probed.insert(leaving);
                }
            }
            for node in 90..100 {
                members.update(node, &mut rng, |member| member.state = MemberState::Alive);
            }
            // The next round begins afresh.
            while members.cursor < members.live_count() {
                members.next_to_probe(&mut rng);
            }
        }
    }
}
