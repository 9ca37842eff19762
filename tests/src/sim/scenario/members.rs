//! Scripts in which members come and go.

use rivven_raft::{MemberChange, NodeId};
use rivven_transport::LinkProfile;
use tokio::time::{Instant, sleep};

use super::{CALM, Stage};
use crate::sim::{
    chance::Chance,
    cluster::Cluster,
    host::Host,
    members::{CHANGE_TIME, LOOK, change},
};

/// Why a script goes on where it costs what it should not.
const FORCE: &str = "the script says so";

pub(super) async fn remove_leader(stage: &Stage, chance: &mut Chance) -> Option<()> {
    stage.members().restore().await;
    let leader = stage.leader().await?;
    let asked = if chance.percent(50) {
        leader.clone()
    } else {
        stage.follower(&leader, chance)?
    };
    let members = stage.members();
    let removing = members.remove(&asked, &leader, None);
    if chance.percent(50) {
        // Somebody else fails while the leader goes.
        let other = stage
            .follower(&leader, chance)
            .filter(|other| other.id() != asked.id());
        let failing = async {
            sleep(chance.millis(0, 1_500)).await;
            let Some(other) = other else { return };
            stage.kill(&other).await;
            sleep(chance.millis(0, 1_000)).await;
            stage.cluster.boot(&other).await;
        };
        tokio::join!(removing, failing);
    } else {
        removing.await;
    }
    stage.members().restore().await;
    Some(())
}

pub(super) async fn wiped_disk_same_id(stage: &Stage, chance: &mut Chance) -> Option<()> {
    stage.members().restore().await;
    let leader = stage.leader().await?;
    let lost = stage.follower(&leader, chance)?;
    let voters = Vec::from_iter(leader.node()?.0.status().voters);
    stage.kill(&lost).await;
    lost.wipe();
    if voters.contains(&lost.id()) && chance.percent(50) {
        majority_with_an_empty_disk(stage, chance, (&leader, &lost), &voters).await;
    } else {
        stage.cluster.boot(&lost).await;
        sleep(chance.millis(500, 2_500)).await;
    }
    if lost.node().is_some_and(|(node, _)| node.status().initialized) {
        violation(stage, "an empty disk under a known id is let in");
    }
    let leader = stage.leader().await?;
    let node = lost.id();
    // Until the leader has noticed that the one it knew is gone.
    let deadline = Instant::now() + CHANGE_TIME;
    while Instant::now() < deadline {
        if change(&leader, MemberChange::Replace { node }, None).await {
            stage.faults.count(|counts| counts.replacements += 1);
            break;
        }
        sleep(LOOK).await;
    }
    stage.members().restore().await;
    Some(())
}

/// A node comes back with an empty disk, and the leader gives it its place again; but not while another voter is
/// missing, too.
pub(super) async fn wiped_disk_by_itself(stage: &Stage, chance: &mut Chance) -> Option<()> {
    stage.members().restore().await;
    let leader = stage.leader().await?;
    let mut voters = Vec::from_iter(leader.node()?.0.status().voters);
    voters.retain(|id| *id != leader.id());
    chance.shuffle(&mut voters);
    let [lost, missing, ..] = voters.as_slice() else {
        return None;
    };
    let (lost, missing) = (stage.cluster.host(*lost)?, stage.cluster.host(*missing)?);
    stage.kill(lost).await;
    lost.wipe();
    if chance.percent(50) {
        stage.kill(missing).await;
        // Long enough for the leader to have noticed.
        sleep(chance.millis(2_000, 3_000)).await;
        stage.cluster.boot(lost).await;
        sleep(chance.millis(1_000, 5_000)).await;
        if lost.node().is_some_and(|(node, _)| node.status().initialized) {
            violation(stage, "an empty disk is let in while another voter is missing");
        }
        stage.cluster.boot(missing).await;
    } else {
        stage.cluster.boot(lost).await;
    }
    stage.members().restore().await;
    stage.faults.count(|counts| counts.replacements += 1);
    Some(())
}

/// A follower loses its disk while what it has acknowledged is still on the way, and is given its place again at once;
/// then another one fails, so that what the leader takes for a quorum had better be one.
pub(super) async fn wipe_follower_inflight(stage: &Stage, chance: &mut Chance) -> Option<()> {
    stage.members().restore().await;
    let leader = stage.leader().await?;
    let lost = stage.follower(&leader, chance)?;
    let node = lost.id();
    let network = &stage.cluster.world().network;
    // Without duplicates: they may carry out a proposal twice, for which every client would need a session.
    let slow = LinkProfile {
        delay: chance.millis(20, 150),
        jitter: chance.millis(0, 100),
        ..CALM
    };
    network.link(node, leader.id(), slow);
    sleep(chance.millis(200, 800)).await;
    stage.kill(&lost).await;
    lost.wipe();
    stage.cluster.boot(&lost).await;
    let deadline = Instant::now() + CHANGE_TIME;
    while Instant::now() < deadline {
        if change(&leader, MemberChange::Replace { node }, Some(FORCE)).await {
            stage.faults.count(|counts| counts.replacements += 1);
            break;
        }
        sleep(LOOK).await;
    }
    if let Some(other) = stage.follower(&leader, chance).filter(|other| other.id() != node) {
        stage.kill(&other).await;
        sleep(chance.millis(200, 2_000)).await;
        stage.kill(&leader).await;
        sleep(chance.millis(0, 1_000)).await;
        stage.cluster.boot(&other).await;
        stage.cluster.boot(&leader).await;
    }
    network.link(node, leader.id(), CALM);
    stage.members().restore().await;
    Some(())
}

/// With snapshots every few entries the logs hold next to nothing; then somebody joins who has nothing at all, perhaps
/// of a leader that has just started and knows of its log only that it is purged.
pub(super) async fn purge_all_then_join(stage: &Stage, chance: &mut Chance) -> Option<()> {
    stage.members().restore().await;
    sleep(chance.millis(500, 2_000)).await;
    let leader = stage.leader().await?;
    let gone = stage.follower(&leader, chance)?;
    stage.members().remove(&leader, &gone, Some(FORCE)).await;
    sleep(chance.millis(500, 2_000)).await;
    if chance.percent(50) {
        for host in stage.cluster.hosts().iter().filter(|host| host.id() != gone.id()) {
            stage.kill(host).await;
        }
        for host in stage.cluster.hosts().iter().filter(|host| host.id() != gone.id()) {
            sleep(chance.millis(0, 300)).await;
            stage.cluster.boot(host).await;
        }
    }
    // It comes back with an empty disk.
    stage.members().restore().await;
    Some(())
}

/// Stops so many voters, the leader first, that the rest would be a majority with the empty disk if that counted.
async fn majority_with_an_empty_disk(
    stage: &Stage,
    chance: &mut Chance,
    (leader, lost): (&Host, &Host),
    voters: &[NodeId],
) {
    let mut others: Vec<NodeId> = voters.iter().copied().filter(|id| *id != leader.id()).collect();
    others.retain(|id| *id != lost.id());
    chance.shuffle(&mut others);
    let keep = voters.len() / 2;
    let others = others.iter().filter_map(|id| stage.cluster.host(*id));
    let with_disks: Vec<&Host> = [leader].into_iter().chain(others).collect();
    let stopped = with_disks
        .get(..with_disks.len().saturating_sub(keep))
        .unwrap_or_default();
    for host in stopped {
        stage.kill(host).await;
    }
    stage.cluster.boot(lost).await;
    let led = |cluster: &Cluster| cluster.leader().is_some();
    if stage.cluster.until(chance.millis(1_000, 4_000), led).await {
        violation(stage, "a leader is elected with the vote of an empty disk");
    }
    for host in stopped {
        stage.cluster.boot(host).await;
    }
}

pub(super) async fn membership_in_partition(stage: &Stage, chance: &mut Chance) -> Option<()> {
    stage.members().restore().await;
    let leader = stage.leader().await?;
    let mut others = stage.others(&leader);
    chance.shuffle(&mut others);
    let [with, victim, ..] = others.as_slice() else {
        return None;
    };
    let (Some(with), Some(victim)) = (stage.cluster.host(*with), stage.cluster.host(*victim)) else {
        return None;
    };
    let minority = [leader.id(), with.id()];
    let majority: Vec<NodeId> = others.iter().copied().filter(|id| *id != with.id()).collect();
    stage.faults.count(|counts| counts.partitions += 1);
    stage.cluster.partition(&minority, &majority);
    sleep(chance.millis(0, 300)).await;
    // The old leader is told to go on without those it cannot see, and they to go on without its follower.
    victim.retire();
    let node = victim.id();
    let gone = change(&leader, MemberChange::Remove { node }, Some(FORCE));
    let led = |cluster: &Cluster| leads_of(cluster, &majority).is_some();
    let (gone, elected) = tokio::join!(gone, stage.cluster.until(CHANGE_TIME, led));
    if gone {
        violation(stage, "a minority has removed a member");
    }
    if let Some(elected) = leads_of(&stage.cluster, &majority).filter(|_| elected) {
        stage.members().remove(&elected, with, Some(FORCE)).await;
    }
    stage.cluster.heal();
    stage.members().restore().await;
    Some(())
}

pub(super) async fn snapshot_vs_membership(stage: &Stage, chance: &mut Chance) -> Option<()> {
    stage.members().restore().await;
    let leader = stage.leader().await?;
    let mut others = stage.others(&leader);
    chance.shuffle(&mut others);
    let [behind, gone, ..] = others.as_slice() else {
        return None;
    };
    let (Some(behind), Some(gone)) = (stage.cluster.host(*behind), stage.cluster.host(*gone)) else {
        return None;
    };
    // While it is away a member goes, and what says so is purged from the logs.
    stage.isolate(behind);
    sleep(chance.millis(300, 1_500)).await;
    stage.members().remove(&leader, gone, Some(FORCE)).await;
    sleep(chance.millis(500, 2_500)).await;
    if chance.percent(40) {
        stage.kill(&leader).await;
    }
    stage.cluster.heal();
    if chance.percent(40) {
        sleep(chance.millis(0, 400)).await;
        stage.kill(behind).await;
        sleep(chance.millis(0, 200)).await;
        stage.cluster.boot(behind).await;
    }
    sleep(chance.millis(0, 1_000)).await;
    if !leader.is_on() {
        stage.cluster.boot(&leader).await;
    }
    stage.members().restore().await;
    Some(())
}

fn violation(stage: &Stage, text: &str) {
    stage.cluster.world().trace.violation(text.to_owned());
}

/// The one of `ids` that leads, as the running node of the highest term among them sees it.
fn leads_of(cluster: &Cluster, ids: &[NodeId]) -> Option<Host> {
    let leads = |host: &&Host| {
        let status = host.node()?.0.status();
        (status.leader == Some(host.id())).then_some(status.term)
    };
    let hosts = cluster.hosts().iter().filter(|host| ids.contains(&host.id()));
    let leading = hosts.filter_map(|host| Some((leads(&host)?, host)));
    leading
        .max_by_key(|(term, _)| *term)
        .map(|(_, host)| host.clone())
}
