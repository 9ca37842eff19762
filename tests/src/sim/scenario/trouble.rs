//! Scripts of machines, disks and links that fail.

use std::time::Duration;

use rivven_raft::DiskPace;
use rivven_transport::LinkProfile;
use tokio::time::sleep;

use super::{
    CALM,
    stage::{LED, Stage},
};
use crate::sim::{chance::Chance, cluster::Cluster, faults::PACE};

pub(super) async fn kill_leader_fast_restart(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let leader = stage.leader().await?;
    stage.kill(&leader).await;
    sleep(chance.millis(0, 80)).await;
    stage.cluster.boot(&leader).await;
    Some(())
}

pub(super) async fn election_stale_log(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let leader = stage.leader().await?;
    let stale = stage.follower(&leader, chance)?;
    stage.isolate(&stale);
    sleep(chance.millis(500, 2_000)).await;
    // Now the stale one is needed for a quorum, and must not lead.
    let Some(leader) = stage.cluster.leader() else {
        stage.cluster.heal();
        return None;
    };
    stage.kill(&leader).await;
    stage.cluster.heal();
    sleep(chance.millis(500, 2_500)).await;
    stage.cluster.boot(&leader).await;
    Some(())
}

pub(super) async fn five_node_lag_mix(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let mut hosts = stage.cluster.hosts().to_vec();
    chance.shuffle(&mut hosts);
    let [far, slow, deaf, dying, ..] = hosts.as_slice() else {
        return None;
    };
    let network = &stage.cluster.world().network;
    let delay = if chance.percent(50) {
        Duration::from_millis(200)
    } else {
        chance.millis(50, 200)
    };
    let lag = LinkProfile {
        delay,
        jitter: chance.millis(0, 50),
        ..CALM
    };
    stage
        .cluster
        .world()
        .trace
        .event(format_args!("node {} is {lag:?} away", far.id()));
    for other in stage.others(far) {
        network.link(far.id(), other, lag);
        network.link(other, far.id(), lag);
    }
    stage.faults.count(|counts| {
        counts.slow_disks += 1;
        counts.one_way += 1;
    });
    let pace = DiskPace {
        sync: chance.millis(50, 300),
        jitter: chance.millis(0, 100),
    };
    stage.cluster.pace(slow, pace);
    for other in stage.others(deaf) {
        stage.cluster.cut(other, deaf.id());
    }
    sleep(chance.millis(500, 2_000)).await;
    stage.kill(dying).await;
    sleep(chance.millis(500, 2_000)).await;
    stage.cluster.heal();
    stage.cluster.pace(slow, PACE);
    for other in stage.others(far) {
        network.link(far.id(), other, CALM);
        network.link(other, far.id(), CALM);
    }
    stage.cluster.boot(dying).await;
    Some(())
}

pub(super) async fn slow_disk_reorder(stage: &Stage, chance: &mut Chance) -> Option<()> {
    for host in stage.cluster.hosts() {
        let pace = DiskPace {
            sync: chance.millis(5, 80),
            jitter: chance.millis(0, 200),
        };
        stage.faults.count(|counts| counts.slow_disks += 1);
        stage.cluster.pace(host, pace);
    }
    sleep(chance.millis(1_000, 4_000)).await;
    let leader = stage.cluster.leader()?;
    if chance.percent(50) {
        stage.kill(&leader).await;
        sleep(chance.millis(0, 1_000)).await;
        stage.cluster.boot(&leader).await;
    }
    Some(())
}

pub(super) async fn power_cut_all_after_elect(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let old = stage.leader().await?;
    stage.kill(&old).await;
    let led = |cluster: &Cluster| cluster.leader().is_some();
    if stage.cluster.until(LED, led).await {
        sleep(chance.millis(0, 8)).await;
    }
    stage.faults.count(|counts| counts.blackouts += 1);
    stage.cluster.kill_all().await;
    stage.cluster.boot_all(chance).await;
    Some(())
}

pub(super) async fn lying_disks(stage: &Stage, chance: &mut Chance) -> Option<()> {
    for host in stage.cluster.hosts() {
        host.disk().lie();
    }
    sleep(chance.millis(500, 2_000)).await;
    stage.faults.count(|counts| counts.blackouts += 1);
    stage.cluster.kill_all().await;
    stage.cluster.boot_all(chance).await;
    Some(())
}

pub(super) async fn snapshot_conflict(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let leader = stage.leader().await?;
    // It goes on taking proposals that it cannot commit, while the others purge what follows.
    stage.isolate(&leader);
    sleep(chance.millis(2_000, 4_000)).await;
    stage.cluster.heal();
    sleep(chance.millis(0, 1_000)).await;
    Some(())
}

pub(super) async fn kill_in_snapshot(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let leader = stage.leader().await?;
    let behind = stage.follower(&leader, chance)?;
    if chance.percent(50) {
        // Killed while it writes one of its own.
        stage.kill(&behind).await;
        if behind.leave_snapshot_half_written() {
            stage.cluster.boot(&behind).await;
            return None;
        }
    }
    // Killed while it is sent one.
    stage.isolate(&behind);
    sleep(chance.millis(1_000, 2_500)).await;
    stage.cluster.heal();
    sleep(chance.millis(0, 250)).await;
    stage.kill(&behind).await;
    sleep(chance.millis(0, 200)).await;
    stage.cluster.boot(&behind).await;
    Some(())
}

pub(super) async fn pause_leader(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let leader = stage.leader().await?;
    stage.faults.count(|counts| counts.pauses += 1);
    leader.pause();
    sleep(chance.millis(100, 2_000)).await;
    leader.resume();
    Some(())
}
