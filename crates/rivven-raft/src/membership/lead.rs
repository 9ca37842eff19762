//! What the leader answers to questions about the membership, and to requests to change it.

use std::time::Duration;

use rivven_types::{InstanceId, NodeId};

use super::{
    JoinRequest, MAX_PRIORITY, MemberChange, MemberCommand, MemberInfo, MemberRefusal, MemberStanding,
    MembershipView, View,
    driver::{Basis, Driver},
    meter, next, plan,
    replace::{self, may_replace},
    wire::{WireAnswer, WireAsk},
};
use crate::{StateMachine, system::SystemResponse};

impl<S: StateMachine> Driver<S> {
    /// Answers as the leader.
    pub(super) async fn answer(&self, ask: &WireAsk) -> WireAnswer {
        // Others wait until what was checked is also written down.
        let _one_at_a_time = match ask {
            WireAsk::Change { .. } | WireAsk::Join(_) | WireAsk::ForwardedJoin(_) => {
                Some(self.changing.lock().await)
            }
            WireAsk::View | WireAsk::Plan { .. } => None,
        };
        let Some((view, basis)) = self.observe().await else {
            let leader = self.source.leader().ok().flatten();
            return if leader == Some(self.node_id) {
                WireAnswer::NotSettled
            } else {
                WireAnswer::NotLeader { leader }
            };
        };
        match ask {
            WireAsk::View => WireAnswer::View(Box::new(self.view(&view, &basis))),
            WireAsk::Plan { change, force } => match plan(&view, &self.policy, *change, force.as_deref()) {
                Ok((plan, _)) => WireAnswer::Plan(Box::new(plan)),
                Err(refusal) => WireAnswer::Refused(refusal),
            },
            WireAsk::Change { change, force } => counted(self.change(&view, *change, force.as_deref()).await),
            WireAsk::Join(request) | WireAsk::ForwardedJoin(request) => {
                counted(self.join(&view, request).await)
            }
        }
    }

    async fn change(&self, view: &View, change: MemberChange, force: Option<&str>) -> WireAnswer {
        let (plan, command) = match plan(view, &self.policy, Some(change), force) {
            Ok(planned) => planned,
            Err(refusal) => return WireAnswer::Refused(refusal),
        };
        tracing::info!(
            node_id = self.node_id,
            ?change,
            forced = force,
            steps = ?plan.steps,
            "a change of the membership was asked for"
        );
        match command {
            Some(command) => self.written(command, WireAnswer::Plan(Box::new(plan))).await,
            None => WireAnswer::Plan(Box::new(plan)),
        }
    }

    async fn join(&self, view: &View, request: &JoinRequest) -> WireAnswer {
        let node = request.node;
        let bound = view.seated.get(&node).and_then(|seated| seated.instance);
        let lost = bound.filter(|bound| *bound != request.instance && !view.is_stale(node));
        let replaced = match lost {
            None => None,
            Some(lost) => match self.replace(view, request, lost).await {
                Ok(view) => Some(view),
                Err(answer) => return answer,
            },
        };
        let view = replaced.as_ref().unwrap_or(view);
        let known = view.records.get(node).is_some_and(|record| {
            record.instance == Some(request.instance)
                && record.addr.as_ref() == Some(&request.addr)
                && (record.zone.as_str(), record.configured) == (request.zone.as_str(), request.role)
                && record.priority == request.priority.min(MAX_PRIORITY)
        });
        if known {
            return WireAnswer::Joined;
        }
        let JoinRequest {
            node,
            instance,
            addr,
            zone,
            role,
            priority,
        } = request.clone();
        let command = MemberCommand::Join {
            node,
            instance,
            addr,
            zone,
            role,
            priority,
        };
        self.written(command, WireAnswer::Joined).await
    }

    /// A member comes with another data directory than it is bound to: gives the old one up, if that is allowed, and
    /// gives the view after that.
    async fn replace(
        &self,
        view: &View,
        request: &JoinRequest,
        lost: InstanceId,
    ) -> Result<View, WireAnswer> {
        let (node, found) = (request.node, request.instance);
        may_replace(view, &self.policy, node).map_err(|why| {
            let refusal = replace::refusal(&self.policy, (node, lost, found), &why);
            WireAnswer::Refused(MemberRefusal::Refused(refusal))
        })?;
        tracing::warn!(
            node_id = self.node_id,
            peer = node,
            %lost,
            %found,
            "a member came back with an empty disk; giving up its old data directory"
        );
        let command = MemberCommand::Replace {
            node,
            lost: Some(lost),
            forced: None,
        };
        match self.written(command, WireAnswer::Joined).await {
            WireAnswer::Joined => {}
            answer => return Err(answer),
        }
        let (view, _) = self.observe().await.ok_or(WireAnswer::NotSettled)?;
        Ok(view)
    }

    /// Writes a command down, and answers with `done` if it is carried out.
    async fn written(&self, command: MemberCommand, done: WireAnswer) -> WireAnswer {
        match self.write(command).await {
            Ok(SystemResponse::Refused(refusal)) => WireAnswer::Refused(MemberRefusal::Refused(refusal)),
            Ok(_) => done,
            Err(cause) => WireAnswer::Unknown { cause },
        }
    }

    /// The membership as this leader sees it.
    fn view(&self, view: &View, basis: &Basis) -> MembershipView {
        let next = next(view, &self.policy);
        let seated = view.seated.keys().copied();
        let others = view.records.iter().map(|(node, _)| node);
        let mut members: Vec<NodeId> = seated.chain(others).collect();
        members.sort_unstable();
        members.dedup();
        MembershipView {
            leader: self.node_id,
            term: basis.term,
            index: basis.membership.map_or(0, |id| id.index),
            members: members.into_iter().map(|node| self.info(view, node)).collect(),
            removed: view.records.removed(),
            quorum: view.quorum(&view.voters(), &self.policy),
            next: next.step,
            holds: next.holds,
            events: self.shared.journal().events(),
        }
    }

    fn info(&self, view: &View, node: NodeId) -> MemberInfo {
        let record = view.records.get(node);
        let seated = view.seated.get(&node);
        let votes = view.configs.iter().any(|voters| voters.contains(&node));
        let silent = seated.map_or(Duration::ZERO, |seated| seated.health.silent);
        MemberInfo {
            node,
            standing: match seated {
                _ if node == view.leader => MemberStanding::Leader,
                Some(_) if votes => MemberStanding::Voter,
                Some(_) => MemberStanding::Learner,
                None => MemberStanding::Awaited,
            },
            role: view.records.role(node),
            zone: record.map_or_else(String::new, |record| record.zone.clone()),
            addr: seated
                .map(|seated| seated.addr.clone())
                .or_else(|| record?.addr.clone()),
            instance: seated
                .and_then(|seated| seated.instance)
                .or_else(|| record?.instance),
            lives: seated.is_some() && view.lives(node, &self.policy),
            silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
            lag: seated.and_then(|seated| seated.health.lag),
            leaving: record.is_some_and(|record| record.leaving),
            priority: view.records.priority(node),
        }
    }
}

/// The answer to a request for a change, noted if it refuses.
fn counted(answer: WireAnswer) -> WireAnswer {
    if let WireAnswer::Refused(refusal) = &answer {
        meter::refused(refusal);
    }
    answer
}
