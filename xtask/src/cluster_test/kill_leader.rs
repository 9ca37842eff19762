//! The Raft leader dies without a word, again and again, while writers write.

use std::time::Duration;

use rivven_node::harness::{Arrivals, Load, until};

use super::context::{Context, PARTITIONS, STEP_LIMIT};

/// Longest wait, chosen by the seed, before the leader is killed: so that kills meet different moments.
const JITTER_MS: u64 = 300;
/// Acknowledged writes that must follow each kill.
const WRITES_AFTER: u64 = 100;

pub(super) async fn run(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.formed().await?;
    context.create_topic().await?;
    let load = context.load("kill-leader")?;
    let arrivals = Arrivals::start(&context.harness, "kill-leader-paced")?;
    let mut kills = 0;
    for _ in 0..context.rounds {
        context.traffic(&load).await?;
        round(context, &load, &arrivals).await?;
        kills += 1;
    }
    let mut history = load.stop().await?;
    history.extend(arrivals.stop().await?.acknowledged_only());
    context.floor("kills", kills, usize::try_from(context.rounds)?)?;
    context.verify(&history).await?;
    context.harness.stop_all().await
}

async fn round(context: &mut Context<'_>, load: &Load, arrivals: &Arrivals) -> anyhow::Result<()> {
    let jitter = Duration::from_millis(context.choose(JITTER_MS));
    tokio::time::sleep(jitter).await;
    let leader = context.harness.wait_leader(STEP_LIMIT).await?;
    let killed = context.harness.node_mut(leader)?.kill()?;
    let next = until("a write is acknowledged after the kill", STEP_LIMIT, || async {
        let next = arrivals.history().first_acknowledged_after(killed);
        next.ok_or_else(|| "none yet".to_owned())
    });
    let next = next.await?;
    context.facts.time("next write", next);
    let survivor = context.harness.running().first().copied().unwrap_or(leader);
    let partitions = usize::try_from(PARTITIONS)?;
    let gone = [leader];
    context
        .harness
        .wait_partition_leaders(survivor, partitions, &gone, STEP_LIMIT)
        .await?;
    context.facts.time("partitions led", killed.elapsed());
    load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await?;
    let index = context.harness.status(survivor).await?.commit_index;
    context.harness.node_mut(leader)?.start()?;
    context.harness.wait_applied(leader, index, STEP_LIMIT).await?;
    let ids = context.harness.ids();
    context.harness.wait_ready(&ids, STEP_LIMIT).await
}
