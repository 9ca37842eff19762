//! What the builder sets of the membership.

use std::{sync::Arc, time::Duration};

use rivven_types::NodeId;

use super::RaftBuilder;
use crate::{
    RaftNode, StateMachine,
    config::Timing,
    membership::{JoinAs, MAX_VOTER_TARGET, Policy, Replace, introduce},
};

/// How many nodes vote when nothing else is said.
const DEFAULT_VOTER_TARGET: usize = 5;

/// How long a voter may be silent when nothing else is said.
const DEFAULT_REPLACE_AFTER: Duration = Duration::from_secs(600);

/// How long a member may be silent and still count as living, at least. Longer with long election timeouts.
const MIN_SILENCE: Duration = Duration::from_secs(1);

/// How long a voter of higher priority has to have lived when nothing else is said.
const DEFAULT_PRIORITY_HOLD: Duration = Duration::from_secs(30);

/// The shortest that can be asked for. Without a hold at all, two nodes that disagree for a moment about who is fit
/// could pass leadership to and fro.
const MIN_PRIORITY_HOLD: Duration = Duration::from_secs(1);

/// How many entries a learner may lack and still be let to vote: what a busy group writes within some
/// heartbeats.
const CAUGHT_UP_LAG: u64 = 1_000;

/// What is said of the membership.
pub(super) struct MemberSettings {
    voter_target: usize,
    replace_after: Duration,
    replace: Replace,
    priority_hold: Duration,
    pub(super) joining: Option<JoinAs>,
}

impl Default for MemberSettings {
    fn default() -> Self {
        Self {
            voter_target: DEFAULT_VOTER_TARGET,
            replace_after: DEFAULT_REPLACE_AFTER,
            replace: Replace::Refuse,
            priority_hold: DEFAULT_PRIORITY_HOLD,
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
            replace: self.replace,
            priority_hold: self.priority_hold.max(MIN_PRIORITY_HOLD),
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

    /// How long a voter of a higher [priority](JoinAs::priority) has to have lived without a break before the leader
    /// hands over to it. Default 30 s, at least 1 s.
    ///
    /// Doubled for each break of the last hour, up to an hour, so that a node that comes and goes does not take
    /// leadership with it each time. The leader's setting counts.
    #[must_use]
    pub const fn priority_hold(mut self, hold: Duration) -> Self {
        self.members.priority_hold = hold;
        self
    }

    /// What the leader does about a member that comes back with an empty disk. Default: refuses it until an operator
    /// says that the old disk is lost.
    ///
    /// With [`Replace::Auto`] it gives the old data directory up by itself, and lets the node learn and vote anew, once
    /// that directory has been silent for a while and as long as all other voters answer. Meant for nodes whose disks
    /// come and go with their machines; where a second process might be started under an id by mistake, leave it off.
    /// Give all nodes of a cluster the same: the leader's counts.
    #[must_use]
    pub const fn replace(mut self, replace: Replace) -> Self {
        self.members.replace = replace;
        self
    }
}

/// Has a node say who it is until it is a member.
pub(super) fn introduce_as<S: StateMachine>(node: &RaftNode<S>, join: JoinAs, contacts: Vec<NodeId>) {
    let inner = node.inner();
    let request = join.request(inner.transport.local());
    let introducing = introduce(Arc::downgrade(inner), contacts, request);
    drop(inner.scope.group().spawn(introducing));
}
