//! Scripts in which members come and go.

use std::time::Duration;

use rivven_raft::{MemberChange, MemberOptions, MembershipView, NodeId};
use rivven_transport::LinkProfile;
use tokio::time::{Instant, sleep};

use super::{CALM, Stage};
use crate::sim::{chance::Chance, cluster::Cluster, host::Host};

/// How long a change is waited for.
const CHANGE_TIME: Duration = Duration::from_secs(10);

/// How long the group may take, with nothing wrong any more, until everybody is a member again.
const RESTORE_TIME: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(200);

/// Why a script goes on where it costs what it should not.
const FORCE: &str = "the script says so";

pub(super) async fn remove_leader(stage: &Stage, chance: &mut Chance) -> Option<()> {
    restore(stage).await;
    let leader = stage.leader().await?;
    let asked = if chance.percent(50) {
        leader.clone()
    } else {
        stage.follower(&leader, chance)?
    };
    let removing = remove(stage, &asked, &leader, None);
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
    restore(stage).await;
    Some(())
}

pub(super) async fn wiped_disk_same_id(stage: &Stage, chance: &mut Chance) -> Option<()> {
    restore(stage).await;
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
    restore(stage).await;
    Some(())
}

/// A node comes back with an empty disk, and the leader gives it its place again; but not while another voter is
/// missing, too.
pub(super) async fn wiped_disk_by_itself(stage: &Stage, chance: &mut Chance) -> Option<()> {
    restore(stage).await;
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
    restore(stage).await;
    stage.faults.count(|counts| counts.replacements += 1);
    Some(())
}

/// A follower loses its disk while what it has acknowledged is still on the way, and is given its place again at once;
/// then another one fails, so that what the leader takes for a quorum had better be one.
pub(super) async fn wipe_follower_inflight(stage: &Stage, chance: &mut Chance) -> Option<()> {
    restore(stage).await;
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
    restore(stage).await;
    Some(())
}

/// With snapshots every few entries the logs hold next to nothing; then somebody joins who has nothing at all, perhaps
/// of a leader that has just started and knows of its log only that it is purged.
pub(super) async fn purge_all_then_join(stage: &Stage, chance: &mut Chance) -> Option<()> {
    restore(stage).await;
    sleep(chance.millis(500, 2_000)).await;
    let leader = stage.leader().await?;
    let gone = stage.follower(&leader, chance)?;
    remove(stage, &leader, &gone, Some(FORCE)).await;
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
    restore(stage).await;
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
    restore(stage).await;
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
    victim.retire(true);
    let node = victim.id();
    let gone = change(&leader, MemberChange::Remove { node }, Some(FORCE));
    let led = |cluster: &Cluster| leads_of(cluster, &majority).is_some();
    let (gone, elected) = tokio::join!(gone, stage.cluster.until(CHANGE_TIME, led));
    if gone {
        violation(stage, "a minority has removed a member");
    }
    if let Some(elected) = leads_of(&stage.cluster, &majority).filter(|_| elected) {
        remove(stage, &elected, with, Some(FORCE)).await;
    }
    stage.cluster.heal();
    restore(stage).await;
    Some(())
}

pub(super) async fn snapshot_vs_membership(stage: &Stage, chance: &mut Chance) -> Option<()> {
    restore(stage).await;
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
    remove(stage, &leader, gone, Some(FORCE)).await;
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
    restore(stage).await;
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

/// Asks `asked` to remove `node`, whose process goes on.
async fn remove(stage: &Stage, asked: &Host, gone: &Host, force: Option<&str>) {
    let node = gone.id();
    gone.retire(true);
    stage
        .cluster
        .world()
        .trace
        .event(format_args!("node {} is asked to remove {node}", asked.id()));
    change(asked, MemberChange::Remove { node }, force).await;
}

/// Asks a node for a change. Says whether it was carried out.
async fn change(asked: &Host, change: MemberChange, force: Option<&str>) -> bool {
    let Some((node, tasks)) = asked.node() else {
        return false;
    };
    let options = MemberOptions {
        force: force.map(str::to_owned),
        wait: CHANGE_TIME,
    };
    // It may fail for any of the trouble made here, and ends with the process that was asked.
    let changing = tasks.spawn(async move { node.change_membership(change, options).await });
    matches!(changing.await, Ok(Some(Ok(changed))) if changed.finished)
}

async fn view(cluster: &Cluster) -> Option<MembershipView> {
    let (node, tasks) = cluster.leader()?.node()?;
    let asking = tasks.spawn(async move { node.membership().await });
    asking.await.ok()??.ok()
}

/// Lets everybody in again who was removed, with an empty disk, and waits until all are members.
async fn restore(stage: &Stage) {
    let deadline = Instant::now() + RESTORE_TIME;
    let mut last = None;
    while Instant::now() < deadline {
        if let Some(view) = view(&stage.cluster).await {
            for host in stage.cluster.hosts() {
                if host.is_retired() {
                    take_back(stage, host, &view).await;
                }
            }
            let whole = view.next.is_none()
                && view.holds.is_empty()
                && stage.cluster.hosts().iter().all(|host| {
                    let member = view.member(host.id());
                    !host.is_retired() && member.is_some_and(|member| member.lives && !member.leaving)
                });
            if whole {
                return;
            }
            last = Some(view);
        }
        sleep(LOOK).await;
    }
    let text = format!("liveness: not everybody is a member {RESTORE_TIME:?} after all is well: {last:?}");
    stage.cluster.world().trace.violation(text);
}

/// What is to be done about a node that may have been removed, as the leader sees it.
async fn take_back(stage: &Stage, host: &Host, view: &MembershipView) {
    let node = host.id();
    if !view.removed.contains(&node) {
        // The removal was never written down, or is under way.
        if view.member(node).is_some_and(|member| !member.leaving) && view.next.is_none() {
            host.retire(false);
        }
        return;
    }
    stage.faults.count(|counts| counts.removals += 1);
    host.kill().await;
    host.wipe();
    let Some(leader) = stage.cluster.leader() else {
        return;
    };
    change(&leader, MemberChange::Add { node, role: None }, None).await;
    host.retire(false);
    stage.cluster.boot(host).await;
}
