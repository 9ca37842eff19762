//! Nodes go and come back: all at once by force, or one by one in good order.

use rivven_node::harness::{Outcome, STOP_GRACE};
use tokio::time::Instant;

use super::context::{Context, PARTITIONS, STEP_LIMIT};

/// Acknowledged writes that must follow a restart.
const WRITES_AFTER: u64 = 100;

/// SIGKILL for every node at once, under load.
pub(super) async fn all(context: &mut Context<'_>) -> anyhow::Result<()> {
    let leader = context.formed().await?;
    context.create_topic().await?;
    let cluster = context.harness.status(leader).await?.cluster_id;
    let load = context.load("restart-all")?;
    context.traffic(&load).await?;
    let ids = context.harness.ids();
    context.harness.kill_all()?;
    anyhow::ensure!(
        context.harness.running().is_empty(),
        "some nodes survived the kill"
    );
    let restarted = Instant::now();
    for id in &ids {
        context.harness.node_mut(*id)?.start()?;
    }
    context.harness.wait_ready(&ids, STEP_LIMIT).await?;
    context.facts.time("ready again", restarted.elapsed());
    load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await?;
    let history = load.stop().await?;
    for id in &ids {
        let found = context.harness.status(*id).await?.cluster_id;
        anyhow::ensure!(
            found == cluster,
            "node {id} came back in cluster {found}, was in {cluster}"
        );
    }
    let partitions = usize::try_from(PARTITIONS)?;
    let asked = ids.first().copied().unwrap_or(leader);
    context
        .harness
        .wait_partition_leaders(asked, partitions, &[], STEP_LIMIT)
        .await?;
    context.floor("kills", ids.len(), ids.len())?;
    context.verify(&history).await?;
    context.harness.stop_all().await
}

/// SIGTERM for one node after the other, under load, in an order chosen by the seed.
pub(super) async fn rolling(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.formed().await?;
    context.create_topic().await?;
    let load = context.load("rolling-restart")?;
    let mut left = context.harness.ids();
    let mut restarts = 0;
    while !left.is_empty() {
        context.traffic(&load).await?;
        let chosen = context.choose(u64::try_from(left.len())?);
        let id = left.swap_remove(usize::try_from(chosen)?);
        let stopping = Instant::now();
        let status = context.harness.node_mut(id)?.terminate(STOP_GRACE).await?;
        anyhow::ensure!(status.success(), "node {id} ended with {status} after SIGTERM");
        context.facts.time("stop", stopping.elapsed());
        let starting = Instant::now();
        context.harness.node_mut(id)?.start()?;
        let ids = context.harness.ids();
        context.harness.wait_ready(&ids, STEP_LIMIT).await?;
        context.facts.time("ready again", starting.elapsed());
        load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await?;
        restarts += 1;
    }
    let history = load.stop().await?;
    let nodes = context.harness.ids().len();
    context.floor("restarts", restarts, nodes)?;
    context.verify(&history).await?;
    let (failed, unknown) = (history.count(Outcome::Failed), history.count(Outcome::Unknown));
    anyhow::ensure!(
        failed + unknown == 0,
        "{failed} writes failed and {unknown} are unknown after retries"
    );
    context.harness.stop_all().await
}
