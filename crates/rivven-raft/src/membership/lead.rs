//! What the leader answers to questions about the membership, and to requests to change it.

use std::time::Duration;

use rivven_types::NodeId;

use super::{
    JoinRequest, MemberChange, MemberCommand, MemberInfo, MemberRefusal, MemberStanding, MembershipView,
    View,
    driver::{Basis, Driver},
    next, plan,
    record::other_instance,
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
            WireAsk::Change { change, force } => self.change(&view, *change, force.as_deref()).await,
            WireAsk::Join(request) | WireAsk::ForwardedJoin(request) => self.join(&view, request).await,
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
        if let Some(bound) = bound.filter(|bound| *bound != request.instance && !view.is_stale(node)) {
            let refusal = other_instance(node, bound, request.instance);
            return WireAnswer::Refused(MemberRefusal::Refused(refusal));
        }
        let known = view.records.get(node).is_some_and(|record| {
            record.instance == Some(request.instance)
                && record.addr.as_ref() == Some(&request.addr)
                && (record.zone.as_str(), record.configured) == (request.zone.as_str(), request.role)
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
        } = request.clone();
        let command = MemberCommand::Join {
            node,
            instance,
            addr,
            zone,
            role,
        };
        self.written(command, WireAnswer::Joined).await
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
        }
    }
}
