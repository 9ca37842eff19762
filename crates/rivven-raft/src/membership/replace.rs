//! A member that comes back with an empty disk: refused until an operator says that the old one is lost, or given its
//! place again by the leader itself where that is allowed and harmless.

use rivven_types::{InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use super::{MemberChange, MemberRefusal, Policy, View, plan, record::other_instance};
use crate::Refusal;

/// What the leader does about a member that comes with another data directory than it is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replace {
    /// It is refused until an operator replaces it.
    #[default]
    Refuse,
    /// The old directory is given up for good and the member learns anew, without an operator, while every other
    /// voter is well.
    Auto,
}

impl Replace {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Refuse, Self::Auto];

    /// Name as in configurations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Auto => "auto",
        }
    }
}

/// Why a member is not given its place again without an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it is not allowed")]
    NotAllowed,
    #[error("the directory that it is bound to was heard of a moment ago")]
    HeardOf,
    #[error("voter {0} does not answer")]
    VoterSilent(NodeId),
    #[error("{0}")]
    Refused(#[from] MemberRefusal),
}

/// Whether the leader may give up the directory that `node` is bound to because the node came with another one.
///
/// An empty disk never counts before it is a member again by a change that the rest has agreed on, so this is as safe
/// as an operator's command. What an operator knows and this cannot is whether a disk was lost or a second process was
/// started by mistake, and whether more is about to be lost: so the old directory must be silent, and all other
/// voters must answer.
pub(super) fn may_replace(view: &View, policy: &Policy, node: NodeId) -> Result<(), Unfit> {
    if policy.replace != Replace::Auto {
        return Err(Unfit::NotAllowed);
    }
    if view.silence(node) <= policy.silence {
        return Err(Unfit::HeardOf);
    }
    let voters = view.configs.iter().flatten().copied();
    let mut others = voters.filter(|other| *other != node);
    if let Some(silent) = others.find(|other| !view.lives(*other, policy)) {
        return Err(Unfit::VoterSilent(silent));
    }
    plan(view, policy, Some(MemberChange::Replace { node }), None)?;
    Ok(())
}

/// What a member is told that comes with `found` while it is bound to `bound`.
pub(super) fn refusal(
    policy: &Policy,
    (node, bound, found): (NodeId, InstanceId, InstanceId),
    why: &Unfit,
) -> Refusal {
    let refusal = other_instance(node, bound, found);
    match policy.replace {
        Replace::Refuse => refusal,
        Replace::Auto => {
            let message = format!(
                "{}. It is not replaced by itself while this is so: {why}",
                refusal.message
            );
            Refusal::new(refusal.code.as_str(), message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{
        MemberCommand,
        tests::{Life, POLICY, group, instance},
    };

    fn auto() -> Policy {
        Policy {
            replace: Replace::Auto,
            ..POLICY
        }
    }

    fn why(view: &View, policy: &Policy, node: NodeId) -> String {
        may_replace(view, policy, node).unwrap_err().to_string()
    }

    #[test]
    fn a_lost_disk_is_replaced_while_every_other_voter_answers() {
        for lost in [Life::Silent, Life::Dead] {
            assert_eq!(
                may_replace(&group(&[1, 2, 3], &[]).with(3, lost), &auto(), 3),
                Ok(())
            );
        }
        assert_eq!(
            may_replace(&group(&[1, 2], &[3]).with(3, Life::Dead), &auto(), 3),
            Ok(()),
            "a learner has nothing that the group counts on"
        );
    }

    #[test]
    fn nobody_is_replaced_where_it_is_not_allowed() {
        let view = group(&[1, 2, 3], &[]).with(3, Life::Dead);
        assert_eq!(may_replace(&view, &POLICY, 3), Err(Unfit::NotAllowed));
    }

    #[test]
    fn a_directory_that_was_heard_of_a_moment_ago_is_not_given_up() {
        assert_eq!(
            may_replace(&group(&[1, 2, 3], &[]), &auto(), 3),
            Err(Unfit::HeardOf)
        );
    }

    #[test]
    fn nobody_is_replaced_while_another_voter_is_missing() {
        let view = group(&[1, 2, 3, 4, 5], &[])
            .with(3, Life::Dead)
            .with(4, Life::Silent);
        assert_eq!(may_replace(&view, &auto(), 3), Err(Unfit::VoterSilent(4)));
        let refused = refusal(
            &auto(),
            (3, instance(3, 0), instance(3, 1)),
            &Unfit::VoterSilent(4),
        );
        assert_eq!(refused.code.as_str(), "instance-differs");
        assert!(
            refused.message.contains("member replace 3"),
            "{}",
            refused.message
        );
        assert!(refused.message.contains("voter 4"), "{}", refused.message);
        let quorumless = group(&[1, 2, 3], &[]).with(2, Life::Dead).with(3, Life::Dead);
        assert_eq!(may_replace(&quorumless, &auto(), 3), Err(Unfit::VoterSilent(2)));
    }

    #[test]
    fn what_an_operator_would_be_refused_is_refused() {
        let unbound = Policy {
            bound: false,
            ..auto()
        };
        let view = group(&[1, 2, 3], &[]).with(3, Life::Dead);
        assert!(why(&view, &unbound, 3).contains("keeps nothing on a disk"));
        let leaves = MemberCommand::Leave {
            node: 3,
            instance: None,
            forced: None,
        };
        // One that is to leave may be given up all the same; it does not come back.
        assert_eq!(may_replace(&view.told(leaves), &auto(), 3), Ok(()));
        assert!(why(&group(&[1, 2, 3], &[]), &auto(), 9).contains("not a member"));
    }
}
