//! What all ends share: who is there, the links between them, and frames under way.

use std::collections::{BTreeMap, BTreeSet};

use rivven_types::{NodeId, PeerAddr};
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    MemoryNetworkError,
    end::End,
    limits::IDLE_TIMEOUT,
    link::{Fate, Frame, Kind, Link, LinkProfile, MemoryStats},
};

/// The state of a network.
#[derive(Debug, Default)]
pub(super) struct Hub {
    seed: u64,
    pub(super) ends: BTreeMap<NodeId, Arc<End>>,
    pub(super) addrs: BTreeMap<PeerAddr, NodeId>,
    pub(super) default_profile: LinkProfile,
    links: BTreeMap<(NodeId, NodeId), Link>,
    /// Since when two nodes (the lower id first) have not heard each other in both directions.
    silent: BTreeMap<(NodeId, NodeId), Instant>,
    /// Pairs of a node and one that it denies.
    denied: BTreeSet<(NodeId, NodeId)>,
    /// What ends the calls in flight between two nodes (the lower id first) when one denies the other.
    severed: BTreeMap<(NodeId, NodeId), CancellationToken>,
    pub(super) stats: MemoryStats,
    /// The moment of the first frame; the trace counts from here.
    began: Option<Instant>,
}

impl Hub {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    pub(super) fn join(&mut self, end: Arc<End>) -> Result<(), MemoryNetworkError> {
        let identity = &end.identity;
        let mut others = self.ends.values();
        if others.any(|other| other.identity.cluster != identity.cluster) {
            return Err(MemoryNetworkError::OtherCluster);
        }
        if !end.role.is_member() {
            return Ok(());
        }
        if self.ends.contains_key(&identity.node) {
            return Err(MemoryNetworkError::DuplicateNode(identity.node));
        }
        self.ends.insert(identity.node, end);
        Ok(())
    }

    /// Takes `end` away, unless another start of its node is there by now.
    pub(super) fn leave(&mut self, end: &Arc<End>) {
        let node = end.identity.node;
        if self.ends.get(&node).is_some_and(|there| Arc::ptr_eq(there, end)) {
            self.ends.remove(&node);
        }
    }

    pub(super) fn link_mut(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let seed = self.seed;
        self.links
            .entry((from, to))
            .or_insert_with(|| Link::new(seed, from, to))
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cut)
    }

    pub(super) fn is_denied(&self, one: NodeId, other: NodeId) -> bool {
        self.denied.contains(&(one, other)) || self.denied.contains(&(other, one))
    }

    /// Whether `one` denies `other`.
    pub(super) fn denies(&self, one: NodeId, other: NodeId) -> bool {
        self.denied.contains(&(one, other))
    }

    /// Denies `other` to `one`, and ends the calls in flight between them, in both directions.
    pub(super) fn deny(&mut self, one: NodeId, other: NodeId) {
        self.denied.insert((one, other));
        if let Some(severed) = self.severed.remove(&pair(one, other)) {
            severed.cancel();
        }
    }

    pub(super) fn allow(&mut self, one: NodeId, other: NodeId) {
        self.denied.remove(&(one, other));
    }

    /// Cancelled when one of the two denies the other.
    pub(super) fn severed(&mut self, one: NodeId, other: NodeId) -> CancellationToken {
        self.severed.entry(pair(one, other)).or_default().clone()
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.link_mut(from, to).cut = true;
        self.silent.entry(pair(from, to)).or_insert_with(Instant::now);
    }

    pub(super) fn heal_link(&mut self, from: NodeId, to: NodeId) {
        self.link_mut(from, to).cut = false;
        if !self.is_cut(to, from) {
            self.silent.remove(&pair(from, to));
        }
    }

    pub(super) fn heal(&mut self) {
        let cut: BTreeSet<_> = self.silent.keys().copied().collect();
        for (one, other) in cut {
            self.heal_link(one, other);
            self.heal_link(other, one);
        }
    }

    pub(super) fn dies_at(&self, one: NodeId, other: NodeId) -> Option<Instant> {
        self.silent
            .get(&pair(one, other))
            .map(|since| *since + IDLE_TIMEOUT)
    }

    /// Decides what becomes of a frame and writes it into the trace.
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, frame: Frame) -> Fate {
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        let mut stats = self.stats;
        stats.sent += 1;
        let default = self.default_profile;
        let fate = self.link_mut(from, to).send(&default, frame, now, &mut stats);
        let since = |at: Instant| u64::try_from((at - began).as_nanos()).unwrap_or(u64::MAX);
        let kind = match frame.kind {
            Kind::Request => 0,
            Kind::Response => 1,
            Kind::Cancel => 2,
            Kind::Stream => 3,
        };
        let (arrival, again) = match fate {
            Fate::Lost => (u64::MAX, u64::MAX),
            Fate::Arrives { at, again } => (since(at), again.map_or(u64::MAX, since)),
        };
        let len = u64::try_from(frame.len).unwrap_or(u64::MAX);
        for word in [
            since(now),
            from,
            to,
            kind,
            frame.method.into(),
            len,
            arrival,
            again,
        ] {
            stats.trace = fnv1a(stats.trace, word);
        }
        self.stats = stats;
        fate
    }
}

fn pair(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    (one.min(other), one.max(other))
}

/// FNV-1a over the bytes of `word`; a hash of zero stands for the offset basis.
fn fnv1a(hash: u64, word: u64) -> u64 {
    let hash = if hash == 0 { 0xCBF2_9CE4_8422_2325 } else { hash };
    word.to_le_bytes().iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
