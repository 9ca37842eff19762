//! Who belongs to the cluster, shown and changed over HTTP.

use hyper::{Response, StatusCode};
use rivven_cluster::{
    Cluster, MemberHold, MemberInfo, MemberOptions, MemberStep, MembershipPlan, QuorumState,
};

use super::refuse;
use crate::{
    api::{
        MemberChangedBody, MemberPlanBody, MemberStepBody, MemberWaitBody, MembershipBody,
        MembershipMemberBody, QuorumBody,
    },
    error::{ApiError, Body, json},
    route::MemberRoute,
};

pub(super) async fn view(cluster: &Cluster) -> Result<Response<Body>, ApiError> {
    let view = cluster.membership().await;
    let view = view.map_err(|error| refuse::membership(&error))?;
    let body = MembershipBody {
        leader: view.leader,
        term: view.term,
        index: view.index,
        quorum: quorum(&view.quorum),
        members: view.members.into_iter().map(member).collect(),
        removed: view.removed.into_iter().collect(),
        next: view.next.as_ref().map(step),
        waits: waits(&view.holds),
    };
    Ok(json(StatusCode::OK, &body))
}

pub(super) async fn change(cluster: &Cluster, asked: MemberRoute) -> Result<Response<Body>, ApiError> {
    let MemberRoute {
        change,
        plan,
        force,
        wait,
    } = asked;
    if plan {
        let planned = cluster.plan_membership(Some(change), force).await;
        let planned = planned.map_err(|error| refuse::membership(&error))?;
        return Ok(json(StatusCode::OK, &describe(&planned)));
    }
    let options = MemberOptions { force, wait };
    let changed = cluster.change_membership(change, options).await;
    let changed = changed.map_err(|error| refuse::membership(&error))?;
    let body = MemberChangedBody {
        plan: describe(&changed.plan),
        finished: changed.finished,
        waits: waits(&changed.holds),
    };
    Ok(json(StatusCode::OK, &body))
}

fn member(member: MemberInfo) -> MembershipMemberBody {
    MembershipMemberBody {
        node_id: member.node,
        standing: member.standing.as_str().to_owned(),
        role: member.role.as_str().to_owned(),
        zone: Some(member.zone).filter(|zone| !zone.is_empty()),
        address: member.addr.map(|addr| addr.to_string()),
        instance_id: member.instance.map(|instance| instance.to_string()),
        lives: member.lives,
        silent_ms: member.silent_ms,
        lag: member.lag,
        leaving: member.leaving,
        priority: member.priority,
    }
}

fn describe(plan: &MembershipPlan) -> MemberPlanBody {
    MemberPlanBody {
        steps: plan.steps.iter().map(step).collect(),
        waits: waits(&plan.holds),
        voters_before: plan.voters_before.iter().copied().collect(),
        voters_after: plan.voters_after.iter().copied().collect(),
        before: quorum(&plan.before),
        after: quorum(&plan.after),
    }
}

fn quorum(quorum: &QuorumState) -> QuorumBody {
    QuorumBody {
        voters: quorum.voters,
        live: quorum.live,
        needed: quorum.needed,
        spare: quorum.spare(),
    }
}

fn step(step: &MemberStep) -> MemberStepBody {
    MemberStepBody {
        step: step.name().to_owned(),
        nodes: step.nodes(),
        text: step.to_string(),
    }
}

fn waits(holds: &[MemberHold]) -> Vec<MemberWaitBody> {
    let wait = |hold: &MemberHold| MemberWaitBody {
        code: hold.name().to_owned(),
        node_id: hold.node(),
        text: hold.to_string(),
    };
    holds.iter().map(wait).collect()
}
