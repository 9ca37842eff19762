//! Who should lead: the voter of the highest priority, once it has been fit for a while.
//!
//! The core elects whoever is first, whatever its priority. So the leader itself looks whether somebody else should
//! lead and hands over, by the same transfer that an operator asks for. Every hand-over interrupts writes for a
//! moment; a node that comes and goes must not cause one each time it comes. So it has to have been fit without a
//! break, for twice as long with each break of the last hour.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use rivven_types::NodeId;
use tokio::time::Instant;

use super::{Policy, View, record::MAX_MEMBERS};
use crate::transfer::MAX_LAG;

/// The priority of a node that says nothing of it.
pub const DEFAULT_PRIORITY: u16 = 100;

/// The highest priority. Higher ones count as this one.
pub const MAX_PRIORITY: u16 = 1_000;

/// For how long a break is remembered, and the longest that anybody has to be fit.
const MEMORY: Duration = Duration::from_secs(3_600);

/// Breaks of one node that are remembered. So many double the shortest wait beyond [`MEMORY`].
const MAX_BREAKS: usize = 16;

/// What a node remembers of the others, for as long as it runs: whether it leads in between or not.
#[derive(Debug, Default)]
pub(crate) struct Preference {
    nodes: BTreeMap<NodeId, Seen>,
    /// Who led last, as far as this node knows.
    last: Option<NodeId>,
    /// Whether this node led when it looked last.
    leading: bool,
}

#[derive(Debug, Default)]
struct Seen {
    /// Since when it is fit, as this node has seen in the time that it leads.
    fit: Option<Instant>,
    /// When it ceased to be fit, or to lead. Oldest first.
    breaks: VecDeque<Instant>,
}

impl Seen {
    fn breaks(&mut self, now: Instant) {
        self.fit = None;
        self.breaks.push_back(now);
        if self.breaks.len() > MAX_BREAKS {
            self.breaks.pop_front();
        }
    }

    /// How often it broke off in the time that is remembered.
    fn broke(&mut self, now: Instant) -> u32 {
        while self
            .breaks
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) > MEMORY)
        {
            self.breaks.pop_front();
        }
        u32::try_from(self.breaks.len()).unwrap_or(u32::MAX)
    }
}

impl Preference {
    /// Notes that this node does not lead, and who does.
    pub(super) fn follows(&mut self, leader: Option<NodeId>) {
        self.leading = false;
        self.last = leader.or(self.last);
    }

    /// Notes that `node` did not take over when it was asked to.
    pub(super) fn failed(&mut self, node: NodeId, now: Instant) {
        self.nodes.entry(node).or_default().breaks(now);
    }

    /// Who should lead in place of this node, which does.
    pub(super) fn choose(&mut self, view: &View, policy: &Policy, now: Instant) -> Option<NodeId> {
        self.begin(view, now);
        self.look(view, policy, now);
        let own = view.records.priority(view.leader);
        let better = |node: &NodeId| view.records.priority(*node) > own && is_near(view, policy, *node);
        let mut able = Vec::new();
        for node in view.voters().into_iter().filter(better) {
            let Some(seen) = self.nodes.get_mut(&node) else {
                continue;
            };
            let broke = seen.broke(now);
            let fit_for = seen.fit.map(|since| now.saturating_duration_since(since));
            if fit_for >= Some(wait(own, broke, policy)) {
                able.push((Reverse(view.records.priority(node)), broke, node));
            }
        }
        able.into_iter().min().map(|(_, _, node)| node)
    }

    /// On winning an election: whoever led before ceased to, and nothing is known yet of who is fit.
    fn begin(&mut self, view: &View, now: Instant) {
        if self.leading {
            return;
        }
        self.leading = true;
        self.nodes.values_mut().for_each(|seen| seen.fit = None);
        if let Some(last) = self.last.replace(view.leader).filter(|last| *last != view.leader) {
            self.nodes.entry(last).or_default().breaks(now);
        }
    }

    /// Notes who is fit and who is no more.
    fn look(&mut self, view: &View, policy: &Policy, now: Instant) {
        let voters = view.voters();
        for node in voters.iter().filter(|node| **node != view.leader) {
            let seen = self.nodes.entry(*node).or_default();
            if view.lives(*node, policy) && view.may_vote(*node) {
                seen.fit.get_or_insert(now);
            } else if seen.fit.is_some() {
                seen.breaks(now);
            }
        }
        if self.nodes.len() > MAX_MEMBERS {
            self.nodes.retain(|node, _| view.seated.contains_key(node));
        }
    }
}

/// Whether a voter has nearly everything, so that the group waits for moments.
fn is_near(view: &View, policy: &Policy, node: NodeId) -> bool {
    let lag = view.seated.get(&node).and_then(|seated| seated.health.lag);
    lag.is_some_and(|lag| lag <= MAX_LAG) && view.is_ready(node, policy)
}

/// How long a node has to have been fit before a leader of the priority `own` hands over to it.
///
/// A leader of priority 0 waits for nobody who has not broken off lately.
fn wait(own: u16, broke: u32, policy: &Policy) -> Duration {
    let doublings = match (own, broke) {
        (0, 0) => return Duration::ZERO,
        (0, broke) => broke - 1,
        (_, broke) => broke,
    };
    policy
        .priority_hold
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(MEMORY)
}

#[cfg(test)]
mod tests;
