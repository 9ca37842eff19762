//! What the builder sets of the membership.

use std::{sync::Arc, time::Duration};

use rivven_types::NodeId;

use super::RaftBuilder;
use crate::{
    RaftNode, StateMachine,
    config::Timing,
    fabric::fabric_addr,
    membership::{JoinAs, JoinRequest, MAX_VOTER_TARGET, Policy, introduce},
};

/// How many nodes vote when nothing else is said.
const DEFAULT_VOTER_TARGET: usize = 5;

/// How long a voter may be silent when nothing else is said.
const DEFAULT_REPLACE_AFTER: Duration = Duration::from_secs(600);

/// How long a member may be silent and still count as living, at least. Longer with long election timeouts.
const MIN_SILENCE: Duration = Duration::from_secs(1);

/// How many entries a learner may lack and still be let to vote: what a busy group writes within some
/// heartbeats.
const CAUGHT_UP_LAG: u64 = 1_000;

/// What is said of the membership.
pub(super) struct MemberSettings {
    voter_target: usize,
    replace_after: Duration,
    pub(super) joining: Option<JoinAs>,
}

impl Default for MemberSettings {
    fn default() -> Self {
        Self {
            voter_target: DEFAULT_VOTER_TARGET,
            replace_after: DEFAULT_REPLACE_AFTER,
            joining: None,
        }
    }
}

impl MemberSettings {
    pub(super) fn policy(&self, timing: Timing, durable: bool) -> Policy {
        Policy {
            voter_target: self.voter_target.clamp(1, MAX_VOTER_TARGET),
            replace_after: self.replace_after,
            silence: MIN_SILENCE.max(Duration::from_millis(timing.election_max_ms.saturating_mul(4))),
            caught_up_lag: CAUGHT_UP_LAG,
            bound: durable,
        }
    }
}

impl<S: StateMachine> RaftBuilder<S> {
    /// Joins a running group in place of founding one: the configuration's peers are members to ask.
    ///
    /// The node learns, and votes once it has caught up if a place is free. One that is a member already only
    /// says its zone and role. See [`RaftNode::wait_joined`].
    #[must_use]
    pub fn joining(mut self, join: JoinAs) -> Self {
        self.members.joining = Some(join);
        self
    }

    /// How many nodes are to vote, if there are so many. Default 5; 1 to 9.
    ///
    /// Learners that have caught up fill the places that are free, spread over zones, to an odd number; voters
    /// beyond the target keep their vote. Give all nodes of a cluster the same: the leader's counts.
    #[must_use]
    pub const fn voter_target(mut self, voters: usize) -> Self {
        self.members.voter_target = voters;
        self
    }

    /// How long a voter may be silent before a learner that has caught up takes its place. Default 10 min.
    ///
    /// Shorter than a restart of a machine takes, it moves votes about for nothing. Without anybody to take
    /// the place nothing happens. Time under an earlier leader does not count.
    #[must_use]
    pub const fn voter_replace_after(mut self, silence: Duration) -> Self {
        self.members.replace_after = silence;
        self
    }
}

/// Has a node say who it is until it is a member.
pub(super) fn introduce_as<S: StateMachine>(node: &RaftNode<S>, join: JoinAs, contacts: Vec<NodeId>) {
    let inner = node.inner();
    let local = inner.transport.local();
    let request = JoinRequest {
        node: local.node,
        instance: local.instance,
        addr: join.addr.unwrap_or_else(|| fabric_addr(local.node)),
        zone: join.zone,
        role: join.role,
    };
    let introducing = introduce(Arc::downgrade(inner), contacts, request);
    drop(inner.scope.group().spawn(introducing));
}
