//! What is true of the simulated world, whoever in it knows: who is up, who reaches whom, who may lead.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use rivven_types::NodeId;
use tokio::time::Instant;

pub(super) const EVERYBODY: RangeInclusive<NodeId> = 1..=5;
pub(super) const HOW_MANY: usize = 5;

pub(super) struct World {
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    pub(super) up: BTreeSet<NodeId>,
    /// The highest term each node has voted in.
    terms: BTreeMap<NodeId, u64>,
    /// Whether whoever leads gets to do anything; without, it is as if every leader were paused.
    pub(super) governed: bool,
    /// Everybody in touch with a node, and since when it has not got more company.
    company: BTreeMap<NodeId, (BTreeSet<NodeId>, Instant)>,
}

pub(super) const fn pair(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    if one < other { (one, other) } else { (other, one) }
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            cuts: BTreeSet::new(),
            up: BTreeSet::new(),
            terms: BTreeMap::new(),
            governed: true,
            company: BTreeMap::new(),
        }
    }

    pub(super) fn linked(&self, one: NodeId, other: NodeId) -> bool {
        self.up.contains(&one) && self.up.contains(&other) && !self.cuts.contains(&pair(one, other))
    }

    /// Everybody that gossip can carry news of to `node`, over however many others.
    pub(super) fn heard_by(&self, node: NodeId) -> BTreeSet<NodeId> {
        self.reached_from(node).0
    }

    /// Who is in reach of `node`, and over how many links at most.
    pub(super) fn reached_from(&self, node: NodeId) -> (BTreeSet<NodeId>, u32) {
        let mut reached = BTreeSet::from([node]);
        let mut links = 0;
        loop {
            let more: BTreeSet<NodeId> = EVERYBODY
                .filter(|next| reached.iter().any(|at| *at == *next || self.linked(*at, *next)))
                .collect();
            if more.len() == reached.len() {
                return (reached, links);
            }
            reached = more;
            links += 1;
        }
    }

    /// To be called after every change of links and nodes.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        for node in EVERYBODY {
            let company = if self.up.contains(&node) {
                self.heard_by(node)
            } else {
                BTreeSet::new()
            };
            let before = self.company.get(&node);
            let since = match before {
                Some((before, since)) if company.is_subset(before) => *since,
                Some(_) | None => now,
            };
            self.company.insert(node, (company, since));
        }
    }

    /// Since when nobody has been in touch with `node` who was not before.
    pub(super) fn settled(&self, node: NodeId) -> Instant {
        self.company
            .get(&node)
            .map_or_else(Instant::now, |(_, since)| *since)
    }

    /// Whether a majority that `node` reaches knows of no later term.
    pub(super) fn leads(&self, node: NodeId, term: u64) -> bool {
        let agrees = |other: &NodeId| {
            let reached = *other == node && self.up.contains(&node) || self.linked(node, *other);
            reached && self.terms.get(other).is_none_or(|known| *known <= term)
        };
        EVERYBODY.filter(agrees).count() * 2 > HOW_MANY
    }

    /// Makes `node` the leader of `term` if a majority can vote for it.
    pub(super) fn elect(&mut self, node: NodeId, term: u64) -> bool {
        let voters: Vec<NodeId> = EVERYBODY
            .filter(|other| *other == node || self.linked(node, *other))
            .collect();
        let elected = self.up.contains(&node) && voters.len() * 2 > HOW_MANY;
        if elected {
            self.terms.extend(voters.into_iter().map(|voter| (voter, term)));
        }
        elected
    }
}
