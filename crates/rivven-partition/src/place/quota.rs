//! How many replicas each zone and node takes, and which nodes a partition must therefore use.
//!
//! A schedule in which `m` partitions take `r` distinct nodes each, node `i` exactly `q(i)` times and a
//! zone at most `cap` times per partition, exists if and only if `q(i) <= m`, the quotas of each zone sum to
//! at most `m * cap(zone)`, and all of them to `m * r` (lay the quotas out in a row by zone and give position
//! `k` to partition `k mod m`: McNaughton's wrap-around rule, 1959). Choosing so that this holds for
//! the `m - 1` partitions left keeps every quota exact, whatever else decides the choice.

use std::collections::BTreeMap;

use rivven_types::NodeId;

use super::Candidate;
use crate::{
    ZoneRule,
    fill::{Part, fill},
};

/// What is left to take of each node and zone.
pub(super) struct Quotas {
    zones: Vec<Zone>,
    /// Zone of each node, as an index of `zones`.
    zone_of: BTreeMap<NodeId, usize>,
    /// Partitions left to place.
    left: usize,
    /// Replicas of each.
    replicas: usize,
}

struct Zone {
    /// Replicas left to take of each node.
    nodes: BTreeMap<NodeId, usize>,
    /// Replicas left to take of the zone: the sum of its nodes.
    left: usize,
    /// Most replicas of one partition.
    cap: usize,
}

impl Quotas {
    /// Quotas for `partitions` of `replicas` each; `rank` says which nodes take the remainders, least first.
    pub(super) fn new<R: Ord>(
        nodes: &[Candidate<'_>],
        (partitions, replicas): (usize, usize),
        rule: ZoneRule,
        rank: impl Fn(NodeId) -> R,
    ) -> Self {
        let mut by_zone: BTreeMap<Option<&str>, Vec<NodeId>> = BTreeMap::new();
        let mut weights = BTreeMap::new();
        for candidate in nodes {
            by_zone.entry(candidate.zone).or_default().push(candidate.node);
            weights.insert(candidate.node, u64::from(candidate.weight));
        }
        let mut by_zone: Vec<Vec<NodeId>> = by_zone.into_values().collect();
        for nodes in &mut by_zone {
            nodes.sort_by_key(|node| rank(*node));
        }
        // Zones in the order of their first nodes, so that the remainders of zones go by rank too.
        by_zone.sort_by_key(|nodes| nodes.first().map(|node| rank(*node)));

        let sizes: Vec<usize> = by_zone.iter().map(Vec::len).collect();
        let level = match rule {
            ZoneRule::Preferred => spread_level(&sizes, replicas),
            ZoneRule::Hard => 1,
        };
        let weight = |node: &NodeId| weights.get(node).copied().unwrap_or(1);
        let parts = by_zone.iter().map(|nodes| Part {
            weight: nodes.iter().map(weight).sum(),
            cap: (partitions * level.min(nodes.len())) as u64,
        });
        let parts: Vec<Part> = parts.collect();
        let shares = fill(&parts, (partitions * replicas) as u64, |_, _| ());
        let zones = by_zone.iter().zip(shares).map(|(nodes, share)| {
            let cap = partitions as u64;
            let parts = nodes.iter().map(|node| Part {
                weight: weight(node),
                cap,
            });
            let parts: Vec<Part> = parts.collect();
            let quotas = fill(&parts, share, |_, _| ()).into_iter().map(to_usize);
            Zone {
                nodes: nodes.iter().copied().zip(quotas).collect(),
                left: to_usize(share),
                cap: level.min(nodes.len()),
            }
        });
        let zone_of = by_zone.iter().enumerate();
        let zone_of = zone_of.flat_map(|(at, nodes)| nodes.iter().map(move |node| (*node, at)));
        Self {
            zones: zones.collect(),
            zone_of: zone_of.collect(),
            left: partitions,
            replicas,
        }
    }

    /// The nodes of the next partition, of those with a choice the first along `walk`.
    pub(super) fn choose<W: Iterator<Item = NodeId>>(&mut self, walk: impl Fn() -> W) -> Vec<NodeId> {
        let mut chosen = Vec::with_capacity(self.replicas);
        let mut taken = vec![0; self.zones.len()];
        let mut missing = 0;
        for (zone, taken) in self.zones.iter().zip(&mut taken) {
            // A node whose quota equals the partitions left must be in each of them.
            let forced = zone.nodes.iter().filter(|(_, quota)| **quota == self.left);
            chosen.extend(forced.map(|(node, _)| *node));
            *taken = zone.nodes.values().filter(|quota| **quota == self.left).count();
            missing += zone.must_take(self.left).saturating_sub(*taken);
        }
        // First what zones must take, then whatever the ring offers.
        for only_due in [true, false] {
            let wanted = if only_due {
                chosen.len() + missing
            } else {
                self.replicas
            };
            let mut walk = walk();
            while chosen.len() < wanted {
                let Some(node) = walk.next() else { break };
                let Some(at) = self.zone_of.get(&node).copied() else {
                    continue;
                };
                let (Some(zone), Some(taken)) = (self.zones.get(at), taken.get_mut(at)) else {
                    continue;
                };
                let limit = if only_due {
                    zone.must_take(self.left)
                } else {
                    zone.cap
                };
                let open = zone.nodes.get(&node).is_some_and(|quota| *quota > 0);
                if open && *taken < limit && !chosen.contains(&node) {
                    chosen.push(node);
                    *taken += 1;
                }
            }
        }
        for node in &chosen {
            self.take(*node);
        }
        self.left -= 1;
        chosen
    }

    fn take(&mut self, node: NodeId) {
        let zone = self.zone_of.get(&node).and_then(|at| self.zones.get_mut(*at));
        if let Some(zone) = zone {
            zone.left -= 1;
            if let Some(quota) = zone.nodes.get_mut(&node) {
                *quota -= 1;
            }
        }
    }
}

impl Zone {
    /// Replicas that the zone must take of the next of `left` partitions to use up its quota in the rest.
    const fn must_take(&self, left: usize) -> usize {
        self.left.saturating_sub((left - 1) * self.cap)
    }
}

/// The least number of replicas of a partition that zones of these sizes must accept to hold them all.
pub(crate) fn spread_level(sizes: &[usize], replicas: usize) -> usize {
    let holds = |level: &usize| sizes.iter().map(|size| size.min(level)).sum::<usize>() >= replicas;
    (1..=replicas).find(holds).unwrap_or(replicas)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
