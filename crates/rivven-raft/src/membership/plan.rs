//! The next step, and all steps of a change that somebody asks for.

use std::{collections::BTreeSet, time::Duration};

use rivven_types::{InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use super::{
    Health, MemberCommand, MemberRefusal, MemberRole, Policy, QuorumState, Seated, View, goal,
    record::MAX_MEMBERS,
};

/// Most steps of one plan. Even a group of the largest size is rebuilt in fewer.
const MAX_STEPS: usize = 8 * MAX_MEMBERS;

/// One change of the membership. Each is finished before the next one is decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemberStep {
    /// Ends a change of voters that an earlier leader began.
    FinishChange,
    /// Binds a member to the data directory that it has proven to come with.
    Bind {
        /// The member.
        node: NodeId,
    },
    /// Begins to send the log to a node.
    AddLearner {
        /// The node.
        node: NodeId,
    },
    /// Lets a learner vote.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// Takes the vote from a voter, which learns on.
    Demote {
        /// The voter.
        node: NodeId,
    },
    /// Lets a learner vote in place of a voter.
    Exchange {
        /// The learner.
        promote: NodeId,
        /// The voter.
        demote: NodeId,
    },
    /// Hands leadership over.
    HandOver {
        /// The voter that is to lead.
        to: NodeId,
    },
    /// Ends sending the log to a learner.
    RemoveLearner {
        /// The learner.
        node: NodeId,
    },
    /// Shuts a node that is no member any more out for good.
    Forget {
        /// The node.
        node: NodeId,
    },
}

/// What has to happen before something that is wanted can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemberHold {
    /// Too few voters live for anything to be agreed on.
    NoQuorum {
        /// The voters.
        quorum: QuorumState,
    },
    /// A node may join and has not yet.
    Awaited {
        /// The node.
        node: NodeId,
    },
    /// A learner lacks too much of the log to vote.
    CatchingUp {
        /// The learner.
        node: NodeId,
        /// Entries that it lacks; `None` if it has said nothing yet.
        lag: Option<u64>,
    },
    /// A member comes with another data directory than it is bound to: its disk is lost, or two processes
    /// use its id. It needs `member replace`.
    Differs {
        /// The member.
        node: NodeId,
        /// The directory it is bound to.
        bound: InstanceId,
        /// The directory it comes with.
        found: InstanceId,
    },
    /// A voter has been dead for long, and nobody is ready to take its place.
    NoReplacement {
        /// The voter.
        node: NodeId,
    },
    /// A voter cannot go: the voters that live would be too few.
    LosesQuorum {
        /// The voter.
        node: NodeId,
        /// The voters with it.
        before: QuorumState,
        /// The voters without it.
        after: QuorumState,
    },
    /// A voter cannot go: the voters that live would be too few after one more failure.
    LosesSpare {
        /// The voter.
        node: NodeId,
        /// The voters with it.
        before: QuorumState,
        /// The voters without it.
        after: QuorumState,
    },
    /// The only voter cannot go.
    LastVoter {
        /// The voter.
        node: NodeId,
    },
    /// The leader cannot go: there is nobody to hand over to.
    NoSuccessor {
        /// The leader.
        node: NodeId,
    },
}

impl MemberHold {
    /// The same, whatever lag: to tell news from what was said before.
    pub(super) const fn without_numbers(self) -> Self {
        match self {
            Self::CatchingUp { node, .. } => Self::CatchingUp { node, lag: None },
            other => other,
        }
    }

    /// The member it is about, if it is about one.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::NoQuorum { .. } => None,
            Self::Awaited { node }
            | Self::CatchingUp { node, .. }
            | Self::Differs { node, .. }
            | Self::NoReplacement { node }
            | Self::LosesQuorum { node, .. }
            | Self::LosesSpare { node, .. }
            | Self::LastVoter { node }
            | Self::NoSuccessor { node } => Some(*node),
        }
    }
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberChange {
    /// Lets a node id join that was removed or never seen, with this role if one is given.
    Add {
        /// The node.
        node: NodeId,
        /// Its role, in place of the one in its own configuration.
        role: Option<MemberRole>,
    },
    /// Has a member vote.
    Promote {
        /// The member.
        node: NodeId,
    },
    /// Has a member observe.
    Demote {
        /// The member.
        node: NodeId,
    },
    /// Has a member leave for good.
    Remove {
        /// The member.
        node: NodeId,
    },
    /// Gives up the lost data directory of a member, so that it may join again with an empty one.
    Replace {
        /// The member.
        node: NodeId,
    },
}

impl MemberChange {
    /// The node it is about.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Add { node, .. }
            | Self::Promote { node }
            | Self::Demote { node }
            | Self::Remove { node }
            | Self::Replace { node } => *node,
        }
    }
}

/// All that a change brings with it, if nothing fails meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MembershipPlan {
    /// The steps, in order. Empty if all is as it should be.
    pub steps: Vec<MemberStep>,
    /// What has to happen before what is wanted beyond the steps.
    pub holds: Vec<MemberHold>,
    /// Who votes before.
    pub voters_before: BTreeSet<NodeId>,
    /// Who votes after.
    pub voters_after: BTreeSet<NodeId>,
    /// What the voters before survive.
    pub before: QuorumState,
    /// What the voters after survive.
    pub after: QuorumState,
}

/// The next thing to do, and what has to be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) step: Option<MemberStep>,
    pub(crate) holds: Vec<MemberHold>,
}

/// Decides on the next step.
pub(crate) fn next(view: &View, policy: &Policy) -> Next {
    let mut holds = Vec::new();
    let step = step(view, policy, &mut holds);
    Next { step, holds }
}

fn step(view: &View, policy: &Policy, holds: &mut Vec<MemberHold>) -> Option<MemberStep> {
    let quorums = view.configs.iter().map(|voters| view.quorum(voters, policy));
    if let Some(quorum) = quorums.into_iter().find(|quorum| !quorum.is_live()) {
        holds.push(MemberHold::NoQuorum { quorum });
        return None;
    }
    if view.is_joint() {
        return Some(MemberStep::FinishChange);
    }
    note_waits(view, policy, holds);
    bind(view, policy)
        .or_else(|| add_learner(view))
        .or_else(|| goal::next(view, policy, holds))
        .or_else(|| remove(view))
}

/// Notes whom to wait for.
fn note_waits(view: &View, policy: &Policy, holds: &mut Vec<MemberHold>) {
    for (node, seated) in &view.seated {
        if let (Some(bound), Some(found)) = (seated.instance, seated.health.proven)
            && bound != found
        {
            let node = *node;
            holds.push(MemberHold::Differs { node, bound, found });
        }
    }
    let awaited = view.records.iter().filter(|(node, record)| {
        record.instance.is_none()
            && !record.leaving
            && (view.is_stale(*node) || !view.seated.contains_key(node))
    });
    holds.extend(awaited.map(|(node, _)| MemberHold::Awaited { node }));
    for node in view.learners() {
        let waits = view.may_vote(node) && view.lives(node, policy) && !view.is_ready(node, policy);
        if let Some(seated) = view.seated.get(&node).filter(|_| waits) {
            let lag = seated.health.lag;
            holds.push(MemberHold::CatchingUp { node, lag });
        }
    }
}

/// Binds a member that never said which data directory it has to the one it comes with.
fn bind(view: &View, policy: &Policy) -> Option<MemberStep> {
    let free = |seated: &Seated| seated.instance.is_none() && seated.health.proven.is_some();
    let (node, _) = view.seated.iter().find(|(_, seated)| free(seated))?;
    policy.bound.then_some(MemberStep::Bind { node: *node })
}

fn add_learner(view: &View) -> Option<MemberStep> {
    if view.seated.len() >= MAX_MEMBERS {
        return None;
    }
    let joins = |(node, record): (NodeId, &super::MemberRecord)| {
        let joins = record.instance.is_some() && record.addr.is_some() && !record.leaving;
        (joins && !view.seated.contains_key(&node)).then_some(MemberStep::AddLearner { node })
    };
    view.records.iter().find_map(joins)
}

/// Lets those go who have no vote any more and are to leave, or whose disk is lost.
fn remove(view: &View) -> Option<MemberStep> {
    let gone = |node: &NodeId| view.records.is_leaving(*node) || view.is_stale(*node);
    if let Some(node) = view.learners().find(gone) {
        return Some(MemberStep::RemoveLearner { node });
    }
    let left = |node: &NodeId| view.records.is_leaving(*node) && !view.seated.contains_key(node);
    let forget = view.records.iter().map(|(node, _)| node).find(left);
    forget.map(|node| MemberStep::Forget { node })
}

impl View {
    /// The view after a step, if it succeeds and whoever is added catches up.
    pub(super) fn after(mut self, step: MemberStep) -> Self {
        match step {
            MemberStep::FinishChange => self.configs = vec![self.voters()],
            MemberStep::Bind { node } => {
                if let Some(seated) = self.seated.get_mut(&node) {
                    seated.instance = seated.health.proven;
                }
            }
            MemberStep::AddLearner { node } => self.seat(node),
            MemberStep::Promote { node } => self.vote(Some(node), None),
            MemberStep::Demote { node } => self.vote(None, Some(node)),
            MemberStep::Exchange { promote, demote } => self.vote(Some(promote), Some(demote)),
            MemberStep::HandOver { to } => self.leader = to,
            MemberStep::RemoveLearner { node } => {
                self.seated.remove(&node);
            }
            MemberStep::Forget { node } => {
                // Forgetting is never refused.
                let _ = self.records.apply(MemberCommand::Forget { node });
            }
        }
        self
    }

    fn vote(&mut self, promote: Option<NodeId>, demote: Option<NodeId>) {
        let mut voters = self.voters();
        voters.extend(promote);
        if let Some(node) = demote {
            voters.remove(&node);
        }
        self.configs = vec![voters];
    }

    fn seat(&mut self, node: NodeId) {
        let record = self.records.get(node);
        let Some((instance, addr)) = record.and_then(|record| Some((record.instance, record.addr.clone()?)))
        else {
            return;
        };
        let health = Health {
            silent: Duration::ZERO,
            lag: Some(0),
            proven: instance,
        };
        let seated = Seated {
            instance,
            addr,
            health,
        };
        self.seated.insert(node, seated);
    }
}

/// The command that writes a change down.
pub(crate) fn command(
    view: &View,
    policy: &Policy,
    change: MemberChange,
    forced: Option<&str>,
) -> Result<MemberCommand, MemberRefusal> {
    let node = change.node();
    let member = view.seated.get(&node);
    let known = member.is_some() || view.records.get(node).is_some();
    match change {
        MemberChange::Add { .. } => {}
        MemberChange::Promote { .. } | MemberChange::Demote { .. } if view.records.is_leaving(node) => {
            return Err(MemberRefusal::Leaving { node });
        }
        _ if !known => return Err(MemberRefusal::UnknownMember { node }),
        _ => {}
    }
    Ok(match change {
        MemberChange::Add { .. } if member.is_some() => return Err(MemberRefusal::AlreadyMember { node }),
        MemberChange::Add { role, .. } => MemberCommand::Welcome { node, role },
        MemberChange::Promote { .. } => MemberCommand::Order {
            node,
            role: MemberRole::Voter,
        },
        MemberChange::Demote { .. } => MemberCommand::Order {
            node,
            role: MemberRole::Observer,
        },
        MemberChange::Remove { .. } => MemberCommand::Leave {
            node,
            instance: member.and_then(|seated| seated.instance),
            forced: forced.map(str::to_owned),
        },
        MemberChange::Replace { .. } if !policy.bound => return Err(MemberRefusal::NotBound { node }),
        MemberChange::Replace { .. } if node == view.leader => return Err(MemberRefusal::Leads { node }),
        MemberChange::Replace { .. } if forced.is_none() && view.lives(node, policy) => {
            return Err(MemberRefusal::Lives { node });
        }
        MemberChange::Replace { .. } => MemberCommand::Replace {
            node,
            lost: member.and_then(|seated| seated.instance),
            forced: forced.map(str::to_owned),
        },
    })
}

/// All steps of a change, or of none: then what would be done anyway.
///
/// `forced` is the reason to go on where a failure more would not be survived.
pub(crate) fn plan(
    view: &View,
    policy: &Policy,
    change: Option<MemberChange>,
    forced: Option<&str>,
) -> Result<(MembershipPlan, Option<MemberCommand>), MemberRefusal> {
    let mut model = view.clone();
    let mut command = None;
    if let Some(change) = change {
        let written = self::command(view, policy, change, forced)?;
        model
            .records
            .apply(written.clone())
            .map_err(MemberRefusal::Refused)?;
        command = Some(written);
    }
    let waits = next(&model, policy).holds;
    assume_caught_up(&mut model, policy);
    let mut steps = Vec::new();
    let last = loop {
        let next = next(&model, policy);
        let Some(step) = next.step.filter(|_| steps.len() < MAX_STEPS) else {
            break next;
        };
        steps.push(step);
        model = model.after(step);
    };
    if let Some(change) = change {
        refuse(&last.holds, change)?;
    }
    // Who catches up before the first step is a wait of the plan all the same.
    let mut holds = last.holds;
    holds.extend(
        waits
            .into_iter()
            .filter(|hold| matches!(hold, MemberHold::CatchingUp { .. })),
    );
    let plan = MembershipPlan {
        steps,
        holds,
        voters_before: view.voters(),
        voters_after: model.voters(),
        before: view.quorum(&view.voters(), policy),
        after: model.quorum(&model.voters(), policy),
    };
    Ok((plan, command))
}

/// A plan counts on it that living learners catch up.
fn assume_caught_up(model: &mut View, policy: &Policy) {
    let living: Vec<NodeId> = model
        .learners()
        .filter(|node| model.lives(*node, policy))
        .collect();
    for node in living {
        if let Some(seated) = model.seated.get_mut(&node) {
            seated.health.lag = Some(0);
        }
    }
}

/// Refuses a change that would be stuck for good.
fn refuse(holds: &[MemberHold], change: MemberChange) -> Result<(), MemberRefusal> {
    let about = |hold: &&MemberHold| hold.node().is_none_or(|node| node == change.node());
    for hold in holds.iter().filter(about) {
        return Err(match *hold {
            MemberHold::NoQuorum { quorum } => MemberRefusal::NoQuorum { quorum },
            MemberHold::LosesQuorum { node, before, after } => {
                MemberRefusal::LosesQuorum { node, before, after }
            }
            MemberHold::LosesSpare { node, before, after } => {
                MemberRefusal::LosesSpare { node, before, after }
            }
            MemberHold::LastVoter { node } => MemberRefusal::LastVoter { node },
            MemberHold::NoSuccessor { node } => MemberRefusal::NoSuccessor { node },
            MemberHold::Awaited { .. }
            | MemberHold::CatchingUp { .. }
            | MemberHold::Differs { .. }
            | MemberHold::NoReplacement { .. } => continue,
        });
    }
    Ok(())
}
