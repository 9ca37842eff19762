//! What the rules look at: the membership, the records, and what the leader sees of its peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rivven_types::{InstanceId, NodeId, PeerAddr};

use super::{MemberRole, QuorumState, Records, Replace};

/// What the leader sees of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// How long it has not answered.
    pub(crate) silent: Duration,
    /// Entries that it lacks; `None` if it has none yet.
    pub(crate) lag: Option<u64>,
    /// The data directory that it has proven to come with, if it has ever been connected.
    pub(crate) proven: Option<InstanceId>,
}

/// A member of the membership in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seated {
    /// The data directory that the membership binds it to.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) addr: PeerAddr,
    pub(crate) health: Health,
}

/// The numbers that the rules go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// How many voters to have, if there are so many nodes.
    pub(crate) voter_target: usize,
    /// How long a voter may be silent before another one takes its place.
    pub(crate) replace_after: Duration,
    /// How long a voter of higher priority has to have lived before leadership goes to it.
    pub(crate) priority_hold: Duration,
    /// How long a member may be silent and still count as living.
    pub(crate) silence: Duration,
    /// How many entries a learner may lack and still count as caught up.
    pub(crate) caught_up_lag: u64,
    /// Whether members are bound to their data directories. Not so for nodes that keep everything in memory
    /// and come back empty.
    pub(crate) bound: bool,
    /// What is done about a member that comes with another data directory.
    pub(crate) replace: Replace,
}

/// All that a decision depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// The node that decides.
    pub(crate) leader: NodeId,
    /// The sets of voters: two while one follows the other (joint consensus, Raft section 6).
    pub(crate) configs: Vec<BTreeSet<NodeId>>,
    /// Every member, voter or learner.
    pub(crate) seated: BTreeMap<NodeId, Seated>,
    pub(crate) records: Records,
}

impl View {
    /// Who votes, or will when a change that has begun has ended.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.configs.last().cloned().unwrap_or_default()
    }

    pub(crate) const fn is_joint(&self) -> bool {
        self.configs.len() > 1
    }

    /// Members that do not vote.
    pub(crate) fn learners(&self) -> impl Iterator<Item = NodeId> {
        let votes = |node: &NodeId| self.configs.iter().any(|voters| voters.contains(node));
        self.seated.keys().copied().filter(move |node| !votes(node))
    }

    /// Whether the membership names a data directory that does not belong to the member any more.
    pub(crate) fn is_stale(&self, node: NodeId) -> bool {
        self.seated
            .get(&node)
            .and_then(|seated| seated.instance)
            .is_some_and(|instance| self.records.is_fenced(instance))
    }

    /// Whether the member answers, with the data directory that it is bound to.
    pub(crate) fn lives(&self, node: NodeId, policy: &Policy) -> bool {
        self.is_itself(node) && self.silence(node) <= policy.silence
    }

    /// Whether the member has been silent for so long that another one should have its place.
    pub(crate) fn is_dead(&self, node: NodeId, policy: &Policy) -> bool {
        node != self.leader && self.silence(node) > policy.replace_after
    }

    /// How long the member has not answered with the data directory that it is bound to.
    pub(super) fn silence(&self, node: NodeId) -> Duration {
        if node == self.leader {
            return Duration::ZERO;
        }
        self.seated
            .get(&node)
            .map_or(Duration::MAX, |seated| seated.health.silent)
    }

    /// Whether whoever answers under the id is who the membership means.
    fn is_itself(&self, node: NodeId) -> bool {
        let Some(seated) = self.seated.get(&node) else {
            return false;
        };
        let proven = seated.health.proven;
        !self.is_stale(node)
            && seated
                .instance
                .is_none_or(|bound| proven.is_none_or(|proven| proven == bound))
    }

    /// Whether a learner could vote at once.
    pub(crate) fn is_ready(&self, node: NodeId, policy: &Policy) -> bool {
        let seated = self.seated.get(&node);
        let caught_up = seated
            .and_then(|seated| seated.health.lag)
            .is_some_and(|lag| lag <= policy.caught_up_lag);
        let bound = !policy.bound || seated.is_some_and(|seated| seated.instance.is_some());
        caught_up && bound && self.lives(node, policy) && self.may_vote(node)
    }

    /// Whether the member may vote for good.
    pub(crate) fn may_vote(&self, node: NodeId) -> bool {
        self.records.role(node) != MemberRole::Observer
            && !self.records.is_leaving(node)
            && !self.is_stale(node)
    }

    /// What a set of voters survives.
    pub(crate) fn quorum(&self, voters: &BTreeSet<NodeId>, policy: &Policy) -> QuorumState {
        QuorumState::of(voters, |node| self.lives(node, policy))
    }
}
