//! Bodies about who belongs to the cluster and who votes.

use rivven_cluster::DEFAULT_PRIORITY;
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/membership`: who belongs to the cluster, as the Raft leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipBody {
    /// The Raft leader.
    pub leader: NodeId,
    /// Its term.
    pub term: u64,
    /// Log index of the newest membership.
    pub index: u64,
    /// What the voters survive.
    pub quorum: QuorumBody,
    /// The members, and nodes that may join, by id.
    pub members: Vec<MembershipMemberBody>,
    /// Node ids that were removed and may not come back.
    pub removed: Vec<NodeId>,
    /// What the leader does next; none if all is as it should be.
    pub next: Option<MemberStepBody>,
    /// What has to happen before the rest of what is wanted.
    pub waits: Vec<MemberWaitBody>,
}

/// A member as the Raft leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipMemberBody {
    /// The node.
    pub node_id: NodeId,
    /// `leader`, `voter`, `learner` or `awaited`.
    pub standing: String,
    /// What it may become: `auto`, `voter` or `observer`.
    pub role: String,
    /// Its zone, if it is in one.
    pub zone: Option<String>,
    /// Where it was when it joined.
    pub address: Option<String>,
    /// The data directory that it is bound to.
    pub instance_id: Option<String>,
    /// Whether it answers the leader, with that directory.
    pub lives: bool,
    /// Milliseconds since its last answer.
    pub silent_ms: u64,
    /// Entries of the log that it lacks, if that is known.
    pub lag: Option<u64>,
    /// Whether it is to leave for good.
    pub leaving: bool,
    /// How much it should lead: [`DEFAULT_PRIORITY`] is normal, also of a member of which an older node does not say.
    #[serde(default = "default_priority")]
    pub priority: u16,
}

const fn default_priority() -> u16 {
    DEFAULT_PRIORITY
}

/// What a set of voters survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumBody {
    /// Voters, living or not.
    pub voters: usize,
    /// Voters that live.
    pub live: usize,
    /// How many must agree.
    pub needed: usize,
    /// How many of the living may fail; none if too few live already.
    pub spare: Option<usize>,
}

/// A step of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStepBody {
    /// `add-learner`, `promote`, `demote`, `exchange`, `hand-over`, `remove-learner`, `forget`, `bind` or
    /// `finish-change`.
    pub step: String,
    /// The nodes it is about: in an exchange first the one that gets the vote.
    pub nodes: Vec<NodeId>,
    /// The same, for people.
    pub text: String,
}

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberWaitBody {
    /// `no-quorum`, `awaited`, `catching-up`, `instance-differs`, `no-replacement`, `loses-quorum`,
    /// `loses-tolerance`, `last-voter` or `no-successor`.
    pub code: String,
    /// The member, if it is about one.
    pub node_id: Option<NodeId>,
    /// The same, for people.
    pub text: String,
}

/// Answer of a request for a change with `?plan=true`: all steps of it. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPlanBody {
    /// The steps, in order.
    pub steps: Vec<MemberStepBody>,
    /// What has to happen before the rest of what is wanted.
    pub waits: Vec<MemberWaitBody>,
    /// Who votes before.
    pub voters_before: Vec<NodeId>,
    /// Who votes after.
    pub voters_after: Vec<NodeId>,
    /// What the voters before survive.
    pub before: QuorumBody,
    /// What the voters after survive.
    pub after: QuorumBody,
}

/// Answer of a request for a change: it is written down, and goes on under whichever leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChangedBody {
    /// What was planned when it was accepted.
    pub plan: MemberPlanBody,
    /// Whether everything that can be done was done in time.
    pub finished: bool,
    /// What it waits for.
    pub waits: Vec<MemberWaitBody>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_whose_priority_is_not_said_leads_as_much_as_any() {
        let said = serde_json::json!({
            "node_id": 1, "standing": "voter", "role": "auto", "lives": true, "silent_ms": 0, "leaving": false,
        });
        let member: MembershipMemberBody = serde_json::from_value(said).unwrap();
        assert_eq!(member.priority, DEFAULT_PRIORITY);
    }
}
