//! What the membership tells the `metrics` facade.

use std::collections::BTreeSet;

use metrics::{counter, gauge};
use rivven_types::NodeId;

use super::{MemberRefusal, MembershipEventKind};

/// How many vote and how many learn, as a node has applied it.
pub(super) fn members(nodes: &BTreeSet<NodeId>, voters: &BTreeSet<NodeId>) {
    gauge!("raft_members_voters").set(voters.len() as f64);
    gauge!("raft_members_learners").set(nodes.difference(voters).count() as f64);
}

/// A change that a node has applied.
pub(super) fn changed(change: &MembershipEventKind) {
    counter!("raft_members_changes_total", "change" => name(change)).increment(1);
}

const fn name(change: &MembershipEventKind) -> &'static str {
    match change {
        MembershipEventKind::Joins => "joins",
        MembershipEventKind::Welcome => "welcome",
        MembershipEventKind::Leaves(_) => "leaves",
        MembershipEventKind::Replaced(_) => "replaced",
        MembershipEventKind::Added => "added",
        MembershipEventKind::Promoted => "promoted",
        MembershipEventKind::Demoted => "demoted",
        MembershipEventKind::Removed => "removed",
        MembershipEventKind::Forgotten => "forgotten",
    }
}

/// A request that a leader refused.
pub(super) fn refused(refusal: &MemberRefusal) {
    counter!("raft_members_refused_total", "reason" => refusal.code().to_owned()).increment(1);
}
