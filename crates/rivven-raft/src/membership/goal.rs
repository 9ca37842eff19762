//! Who should vote: the next change of voters, if there is one to make.
//!
//! In this order: who must not vote any more gives up the vote, the dead are replaced, free places are
//! filled, zones are evened out. Wherever somebody is ready to take over, one change does both.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use rivven_types::NodeId;

use super::{
    MemberHold, MemberRole, MemberStep, Policy, View,
    quorum::{Loss, QuorumState},
};

/// Most voters, whatever the target: each one more makes every write wait for more disks.
pub(crate) const MAX_VOTERS: usize = 9;

type Voters = BTreeSet<NodeId>;

/// The next change of voters. What cannot be done for the time being is added to `holds`.
pub(super) fn next(view: &View, policy: &Policy, holds: &mut Vec<MemberHold>) -> Option<MemberStep> {
    let goal = Goal {
        view,
        policy,
        voters: view.voters(),
        spares: view
            .learners()
            .filter(|node| view.is_ready(*node, policy))
            .collect(),
    };
    goal.lead_as_voter(holds)
        .or_else(|| goal.retire(holds))
        .or_else(|| goal.replace_dead(holds))
        .or_else(|| goal.fill())
        .or_else(|| goal.spread())
}

struct Goal<'a> {
    view: &'a View,
    policy: &'a Policy,
    voters: Voters,
    /// Learners that could vote at once.
    spares: BTreeSet<NodeId>,
}

impl Goal<'_> {
    /// A leader that lost its vote, in a change that its predecessor began, hands over: one that does not
    /// vote stops leading nobody knows when.
    fn lead_as_voter(&self, holds: &mut Vec<MemberHold>) -> Option<MemberStep> {
        let leader = self.view.leader;
        if self.voters.contains(&leader) {
            return None;
        }
        let heir = self.heir();
        if heir.is_none() {
            holds.push(MemberHold::NoSuccessor { node: leader });
        }
        heir.map(|to| MemberStep::HandOver { to })
    }

    /// Takes the vote from whoever must not have it: those who leave, lost their disk, or observe.
    fn retire(&self, holds: &mut Vec<MemberHold>) -> Option<MemberStep> {
        let mut going: Vec<NodeId> = self.voters.iter().copied().collect();
        going.retain(|node| !self.view.may_vote(*node));
        // Every hand-over interrupts writes: the leader goes last.
        going.sort_by_key(|node| (*node == self.view.leader, *node));
        for node in going {
            let step = if node == self.view.leader {
                self.retire_leader(node)
            } else {
                self.retire_follower(node)
            };
            match step {
                Ok(step) => return Some(step),
                Err(hold) => holds.push(hold),
            }
        }
        None
    }

    /// A leader hands over first: one that is no member leads nobody well.
    fn retire_leader(&self, node: NodeId) -> Result<MemberStep, MemberHold> {
        if let Some(to) = self.heir() {
            return Ok(MemberStep::HandOver { to });
        }
        match self.best_spare(&self.voters) {
            Some(node) => Ok(MemberStep::Promote { node }),
            None => Err(MemberHold::NoSuccessor { node }),
        }
    }

    /// Who can lead next: whoever is nearest takes over soonest.
    fn heir(&self) -> Option<NodeId> {
        let lag = |node: &NodeId| self.view.seated.get(node).and_then(|seated| seated.health.lag);
        let able = self.voters.iter().copied().filter(|node| {
            *node != self.view.leader && self.view.may_vote(*node) && self.view.lives(*node, self.policy)
        });
        able.min_by_key(|node| (lag(node).unwrap_or(u64::MAX), *node))
    }

    fn retire_follower(&self, node: NodeId) -> Result<MemberStep, MemberHold> {
        let remaining = without(&self.voters, node);
        if let Some(promote) = self.best_spare(&remaining) {
            return Ok(MemberStep::Exchange {
                promote,
                demote: node,
            });
        }
        if remaining.is_empty() {
            return Err(MemberHold::LastVoter { node });
        }
        let (before, after) = (self.quorum(&self.voters), self.quorum(&remaining));
        match before.check(&after) {
            Ok(()) => Ok(MemberStep::Demote { node }),
            Err(Loss::Spare) if self.view.records.is_forced(node) => Ok(MemberStep::Demote { node }),
            Err(Loss::Spare) => Err(MemberHold::LosesSpare { node, before, after }),
            // The change itself could not be agreed on.
            Err(Loss::Quorum) => Err(MemberHold::LosesQuorum { node, before, after }),
        }
    }

    /// Gives the places of the dead to those who stand by; without any, the dead only give up their votes
    /// where the rest survives more failures without them.
    fn replace_dead(&self, holds: &mut Vec<MemberHold>) -> Option<MemberStep> {
        let (dead, living): (Voters, Voters) = self
            .voters
            .iter()
            .partition(|node| self.view.is_dead(**node, self.policy));
        let gains = self.quorum(&living).spare() > self.quorum(&self.voters).spare();
        for node in dead {
            let remaining = without(&self.voters, node);
            if let Some(promote) = self.best_spare(&remaining) {
                return Some(MemberStep::Exchange {
                    promote,
                    demote: node,
                });
            }
            if gains && self.quorum(&remaining).spare() >= self.quorum(&self.voters).spare() {
                return Some(MemberStep::Demote { node });
            }
            holds.push(MemberHold::NoReplacement { node });
        }
        None
    }

    /// Fills free places.
    fn fill(&self) -> Option<MemberStep> {
        if self.voters.len() >= self.wanted() {
            return None;
        }
        let node = self.best_spare(&self.voters)?;
        Some(MemberStep::Promote { node })
    }

    /// How many voters there should be: as many as the target allows, an odd number, but two rather than one.
    ///
    /// A fourth voter survives no more failures than three do, and every write waits for one more disk; it
    /// is more use standing by. A second one at least holds another copy of every write.
    fn wanted(&self) -> usize {
        let now = self.voters.len();
        let ordered = self
            .spares
            .iter()
            .filter(|node| self.view.records.role(**node) == MemberRole::Voter);
        let at_least = (now + ordered.count()).min(MAX_VOTERS.max(now));
        let most = self.policy.voter_target.min(now + self.spares.len());
        let even = |count: usize| count.is_multiple_of(2) && count != 2;
        let counts = (now + 1..=most).rev().filter(|count| !even(*count));
        let found = counts.into_iter().find(|count| self.spreads(*count));
        found.unwrap_or(now).max(at_least)
    }

    /// Whether so many voters survive the loss of a zone, or fewer would not either.
    fn spreads(&self, count: usize) -> bool {
        let mut grown = self.voters.clone();
        let mut smaller_survives = self.survives_zones(&grown);
        while grown.len() < count {
            let Some(node) = self.best_spare(&grown) else {
                break;
            };
            grown.insert(node);
            if grown.len() < count {
                smaller_survives |= self.survives_zones(&grown);
            }
        }
        self.survives_zones(&grown) || !smaller_survives
    }

    /// Whether a majority is left when any one zone is lost.
    fn survives_zones(&self, voters: &Voters) -> bool {
        let spare = voters.len().saturating_sub(1) / 2;
        let most = self.by_zone(voters).into_values().max().unwrap_or(1);
        most <= spare
    }

    /// Moves a vote to a zone that has at least two fewer, so that the loss of one zone costs fewer votes.
    fn spread(&self) -> Option<MemberStep> {
        if !self.voters.iter().all(|node| self.view.lives(*node, self.policy)) {
            return None;
        }
        let counts = self.by_zone(&self.voters);
        let count = |node: &NodeId| {
            let zone = self.view.records.zone(*node)?;
            Some(counts.get(zone).copied().unwrap_or(0))
        };
        let named = |node: &&NodeId| self.view.records.zone(**node).is_some();
        let promote = *self
            .spares
            .iter()
            .filter(named)
            .min_by_key(|node| (count(node), **node))?;
        // Whoever was asked to vote by name keeps the vote, and the leader its lead.
        let movable =
            |node: &&NodeId| **node != self.view.leader && self.view.records.role(**node) == MemberRole::Auto;
        let demote = *self
            .voters
            .iter()
            .filter(named)
            .filter(movable)
            .max_by_key(|node| (count(node), Reverse(**node)))?;
        let gains = count(&demote)? >= count(&promote)? + 2;
        gains.then_some(MemberStep::Exchange { promote, demote })
    }

    /// Who should be the next to vote beside `voters`: whoever was asked to by name, then whoever is in the
    /// zone with the fewest of them, then the lowest id.
    fn best_spare(&self, voters: &Voters) -> Option<NodeId> {
        let counts = self.by_zone(voters);
        let rank = |node: &NodeId| {
            let ordered = self.view.records.role(*node) == MemberRole::Voter;
            let zone = self.view.records.zone(*node);
            let neighbours = zone.and_then(|zone| counts.get(zone)).copied().unwrap_or(0);
            (!ordered, neighbours, *node)
        };
        let free = self.spares.iter().copied().filter(|node| !voters.contains(node));
        free.min_by_key(rank)
    }

    /// Voters in each zone that has a name.
    fn by_zone(&self, voters: &Voters) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for zone in voters.iter().filter_map(|node| self.view.records.zone(*node)) {
            *counts.entry(zone).or_insert(0) += 1;
        }
        counts
    }

    fn quorum(&self, voters: &Voters) -> QuorumState {
        self.view.quorum(voters, self.policy)
    }
}

fn without(voters: &Voters, node: NodeId) -> Voters {
    let mut voters = voters.clone();
    voters.remove(&node);
    voters
}
