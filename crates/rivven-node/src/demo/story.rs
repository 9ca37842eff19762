//! What the demo shows, step by step. Each step waits for the cluster to really get there.

use std::time::Duration;

use rivven_admin::CreateTopicBody;
use rivven_cluster::NodeId;
use tokio::time::Instant;

use super::screen::{Screen, ms};
use crate::{
    client::ReadLevel,
    harness::{Arrivals, Harness, History, Load, LoadOptions, Outcome, PACE},
};

/// Longest wait for any one step.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// Writes before the leader is killed.
const WRITES_BEFORE: u64 = 1_000;
/// Writes after it, on the remaining nodes.
const WRITES_AFTER: u64 = 500;
/// Partitions of the topic, and replicas of each.
const PARTITIONS: u32 = 12;
const REPLICAS: u16 = 3;

/// Tells the whole story.
pub(super) async fn tell(harness: &mut Harness, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let leader = elect(harness, screen).await?;
    create_topic(harness, leader, screen).await?;
    let load = write(harness, screen).await?;
    let arrivals = Arrivals::start(harness, "demo-paced")?;
    let killed = kill(harness, leader, &arrivals, screen).await?;
    load.wait_acknowledged(WRITES_AFTER, STEP_LIMIT).await?;
    revive(harness, leader, screen).await?;
    screen.begin("letting the writers finish");
    let mut history = load.stop().await?;
    account(&history, killed, screen);
    history.extend(arrivals.stop().await?.acknowledged_only());
    verify(harness, &history, screen).await
}

async fn elect(harness: &Harness, screen: &mut Screen<'_>) -> anyhow::Result<NodeId> {
    let began = Instant::now();
    for id in harness.ids() {
        let node = harness.node(id)?;
        let (pid, spec) = (node.pid().unwrap_or(0), node.spec());
        screen.say(format_args!(
            "node {id} started: process {pid}, admin http://{}",
            spec.admin
        ));
    }
    screen.begin("founding the cluster and electing a leader");
    let leader = harness.wait_leader(STEP_LIMIT).await?;
    let took = ms(began.elapsed());
    let status = harness.status(leader).await?;
    screen.say(format_args!("cluster {} founded", status.cluster_id));
    screen.say(format_args!(
        "node {leader} elected in term {}, {took} after the start",
        status.term
    ));
    harness.wait_ready(&harness.ids(), STEP_LIMIT).await?;
    Ok(leader)
}

async fn create_topic(harness: &Harness, asked: NodeId, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let topic = CreateTopicBody {
        name: "orders".into(),
        partitions: PARTITIONS,
        replication_factor: Some(REPLICAS),
    };
    screen.begin("creating topic orders");
    harness.client(asked)?.create_topic(&topic).await?;
    let partitions = usize::try_from(PARTITIONS)?;
    let assignments = harness
        .wait_partition_leaders(asked, partitions, &[], STEP_LIMIT)
        .await?;
    screen.say(format_args!(
        "topic orders: {PARTITIONS} partitions, {REPLICAS} replicas each"
    ));
    screen.leaders(&assignments);
    Ok(())
}

async fn write(harness: &Harness, screen: &mut Screen<'_>) -> anyhow::Result<Load> {
    let options = LoadOptions::new("demo");
    screen.begin(format_args!(
        "writing with {} writers through all nodes",
        options.writers
    ));
    let began = Instant::now();
    let load = Load::start(harness, &options)?;
    while load.acknowledged() < WRITES_BEFORE {
        load.wait_acknowledged(WRITES_BEFORE / 10, STEP_LIMIT).await?;
        screen.update(format_args!("{} writes acknowledged", load.acknowledged()));
    }
    let rate = load.acknowledged() as f64 / began.elapsed().as_secs_f64();
    let median = load.history().median_latency().unwrap_or_default();
    screen.say(format_args!(
        "{} writes acknowledged, each on the disks of a majority: {rate:.0}/s, median {:.1} ms",
        load.acknowledged(),
        median.as_secs_f64() * 1000.0
    ));
    Ok(load)
}

async fn kill(
    harness: &mut Harness,
    leader: NodeId,
    arrivals: &Arrivals,
    screen: &mut Screen<'_>,
) -> anyhow::Result<Instant> {
    let killed = harness.node_mut(leader)?.kill()?;
    screen.say(format_args!(
        "node {leader}, the leader, killed with SIGKILL while writes go on"
    ));
    screen.begin("waiting for the next acknowledged write");
    let next = crate::harness::until("a write is acknowledged", STEP_LIMIT, || async {
        let next = arrivals.history().first_acknowledged_after(killed);
        next.ok_or_else(|| "none since the kill".to_owned())
    });
    let next = next.await?;
    screen.say(format_args!(
        "next write acknowledged {} after the kill, by a client that tries every {}",
        ms(next),
        ms(PACE)
    ));
    screen.begin("waiting for every partition to have a live leader");
    let asked = harness.running().first().copied().unwrap_or(leader);
    let partitions = usize::try_from(PARTITIONS)?;
    let gone = [leader];
    let assignments = harness
        .wait_partition_leaders(asked, partitions, &gone, STEP_LIMIT)
        .await?;
    screen.say(format_args!(
        "every partition has a live leader {} after the kill",
        ms(killed.elapsed())
    ));
    screen.leaders(&assignments);
    Ok(killed)
}

async fn revive(harness: &mut Harness, id: NodeId, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let leader = harness.wait_leader(STEP_LIMIT).await?;
    screen.say(format_args!("node {leader} is the new leader"));
    let behind = harness.status(leader).await?.commit_index;
    let began = Instant::now();
    harness.node_mut(id)?.start()?;
    screen.begin(format_args!(
        "node {id} is restarted and catches up to log index {behind}"
    ));
    harness.wait_applied(id, behind, STEP_LIMIT).await?;
    harness.wait_ready(&[id], STEP_LIMIT).await?;
    let took = ms(began.elapsed());
    screen.say(format_args!(
        "node {id} restarted, caught up past log index {behind} and ready in {took}"
    ));
    Ok(())
}

fn account(history: &History, killed: Instant, screen: &mut Screen<'_>) {
    let before = history
        .writes
        .iter()
        .filter(|write| write.finished < killed)
        .count();
    screen.say(format_args!(
        "{} writes: {} acknowledged ({before} before the kill), {} of unknown outcome, {} failed, {} retried",
        history.writes.len(),
        history.count(Outcome::Acknowledged),
        history.count(Outcome::Unknown),
        history.count(Outcome::Failed),
        history.retried(),
    ));
}

/// Counts on every node, in its own copy of the data, what was promised.
async fn verify(harness: &Harness, history: &History, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let leader = harness.wait_leader(STEP_LIMIT).await?;
    let index = harness.status(leader).await?.commit_index;
    for id in harness.ids() {
        screen.begin(format_args!(
            "reading every acknowledged write back from node {id}"
        ));
        harness.wait_applied(id, index, STEP_LIMIT).await?;
        let verdict = history.verify(harness, id, ReadLevel::Stale).await?;
        screen.say(format_args!(
            "node {id}: {} acknowledged writes, {} found, {} lost",
            verdict.acknowledged,
            verdict.found,
            verdict.lost()
        ));
        anyhow::ensure!(
            verdict.lost() == 0,
            "node {id} lost {} acknowledged writes",
            verdict.lost()
        );
        anyhow::ensure!(
            verdict.acknowledged > 0,
            "nothing was acknowledged, so nothing was shown"
        );
    }
    Ok(())
}
