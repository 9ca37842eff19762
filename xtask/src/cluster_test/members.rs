//! Nodes come, go, and come back with another disk, while writers write.

use std::time::Duration;

use rivven_admin::{MembershipBody, MembershipMemberBody};
use rivven_cluster::NodeId;
use rivven_node::{
    client::{MemberAction, MemberAsk},
    harness::{Load, until},
};
use tokio::time::Instant;

use super::context::{Context, STEP_LIMIT};

/// Nodes that join.
const NEWCOMERS: u64 = 2;
/// Acknowledged writes that must follow each change.
const WRITES_AFTER: u64 = 100;
/// Entries that a member which takes part may lack under load.
const CLOSE: u64 = 256;
/// How long the answer to a change may take; the node that is asked waits for less.
const ANSWER_LIMIT: Duration = Duration::from_secs(45);

pub(super) async fn run(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.formed().await?;
    context.create_topic().await?;
    let load = context.load("members")?;
    context.traffic(&load).await?;
    let joined = join(context, &load).await?;
    context.floor("members joined", joined, usize::try_from(NEWCOMERS)?)?;
    remove_leader(context, &load).await?;
    replace_disk(context, &load).await?;
    let history = load.stop().await?;
    context.verify(&history).await?;
    context.harness.stop_all().await
}

/// New nodes are started, and the group takes them in by itself. How many it has taken in.
async fn join(context: &mut Context<'_>, load: &Load) -> anyhow::Result<usize> {
    let founders = context.harness.ids();
    let first = founders.last().copied().unwrap_or(0) + 1;
    let newcomers: Vec<NodeId> = (first..first + NEWCOMERS).collect();
    let began = Instant::now();
    for node in &newcomers {
        context.harness.add(*node)?.start()?;
    }
    context.harness.wait_ready(&newcomers, STEP_LIMIT).await?;
    let all = founders.len() + newcomers.len();
    let settled = |view: &MembershipBody| {
        let living = view.members.iter().filter(|member| member.lives).count();
        living == all && view.next.is_none() && view.waits.is_empty()
    };
    let view = membership(context, "the newcomers are members", settled).await?;
    context.facts.time("joined", began.elapsed());
    context.facts.count("voters", view.quorum.voters);
    load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await?;
    let members = view.members.iter();
    Ok(members
        .filter(|member| newcomers.contains(&member.node_id))
        .count())
}

/// The leader is removed by way of another node, and says so itself.
async fn remove_leader(context: &mut Context<'_>, load: &Load) -> anyhow::Result<()> {
    let leader = context.harness.wait_leader(STEP_LIMIT).await?;
    let began = Instant::now();
    change(context, leader, MemberAction::Remove).await?;
    let gone = |view: &MembershipBody| {
        let member = view.members.iter().any(|member| member.node_id == leader);
        !member && view.removed.contains(&leader)
    };
    membership(context, "the leader is no member any more", gone).await?;
    context.facts.time("leader removed", began.elapsed());
    problem(context, leader, "member-removed").await?;
    let mut removed = context.harness.remove(leader)?;
    removed.kill()?;
    load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await
}

/// A voter loses its disk. Empty it is refused; once the loss is admitted to, it votes again.
async fn replace_disk(context: &mut Context<'_>, load: &Load) -> anyhow::Result<()> {
    let leader = context.harness.wait_leader(STEP_LIMIT).await?;
    let others: Vec<NodeId> = context.harness.ids();
    let others: Vec<NodeId> = others.into_iter().filter(|node| *node != leader).collect();
    let at = usize::try_from(context.choose(others.len() as u64))?;
    let lost = others.get(at).copied().unwrap_or(leader);
    context.harness.node_mut(lost)?.kill()?;
    context.harness.wipe(lost)?;
    context.harness.node_mut(lost)?.start()?;
    problem(context, lost, "instance-differs").await?;
    load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await?;
    let began = Instant::now();
    change(context, lost, MemberAction::Replace).await?;
    context.harness.wait_ready(&[lost], STEP_LIMIT).await?;
    // It votes, or stands by where its vote would be an even one.
    let takes_part = |view: &MembershipBody| {
        let member = view.members.iter().find(|member| member.node_id == lost);
        let caught_up =
            |member: &MembershipMemberBody| member.lives && member.lag.is_some_and(|lag| lag < CLOSE);
        view.next.is_none() && member.is_some_and(caught_up)
    };
    membership(context, "the node with the new disk takes part", takes_part).await?;
    context.facts.time("disk replaced", began.elapsed());
    load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await
}

/// Asks some other node for a change.
async fn change(context: &Context<'_>, node: NodeId, action: MemberAction) -> anyhow::Result<()> {
    let others = context.harness.running();
    let asked = others.into_iter().find(|other| *other != node).unwrap_or(node);
    let ask = MemberAsk {
        node,
        action,
        force: None,
        wait: STEP_LIMIT,
    };
    let client = context.harness.node(asked)?.client();
    client.with_timeout(ANSWER_LIMIT).change_member(&ask).await?;
    Ok(())
}

/// Waits until the membership is as it should be.
async fn membership(
    context: &Context<'_>,
    what: &str,
    is: impl Fn(&MembershipBody) -> bool,
) -> anyhow::Result<MembershipBody> {
    let (harness, is) = (&context.harness, &is);
    until(what, STEP_LIMIT, || async move {
        let mut last = String::from("nobody answered");
        for id in harness.running() {
            let client = harness.client(id);
            match client.map_err(|e| e.to_string())?.membership().await {
                Ok(view) if is(&view) => return Ok(view),
                Ok(view) => last = format!("{view:?}"),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    })
    .await
}

/// Waits until a node names what an operator must mend.
async fn problem(context: &Context<'_>, node: NodeId, code: &str) -> anyhow::Result<()> {
    let harness = &context.harness;
    let what = format!("node {node} says {code}");
    until(&what, STEP_LIMIT, || async move {
        let status = harness.status(node).await.map_err(|e| e.to_string())?;
        let named = status.problems.iter().any(|problem| problem.code == code);
        named
            .then_some(())
            .ok_or_else(|| format!("{:?}", status.problems))
    })
    .await
}
