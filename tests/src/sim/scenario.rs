//! Scripts: trouble that once broke somebody's consensus, played over and over from a seed.
//!
//! What each is modelled on stands above it. All share the clients, the peace and the checks of random runs.

mod members;

use std::{future::Future, pin::Pin, time::Duration};

use rivven_raft::{DiskPace, NodeId};
use rivven_transport::LinkProfile;
use tokio::time::{Instant, sleep};

use super::{
    chance::Chance,
    cluster::Cluster,
    faults::{FaultCounts, Faults, PACE},
    host::Host,
};

/// How long a script waits for a leader before it goes on without.
const LED: Duration = Duration::from_secs(5);

type Play = for<'a> fn(&'a Stage, &'a mut Chance) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A named script.
#[derive(Clone, Copy)]
pub struct Script {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// Nodes it needs at the least.
    pub nodes: u64,
    /// Nodes beside the founders, which join.
    pub newcomers: u64,
    /// Entries between snapshots.
    pub snapshot_every: u64,
    /// Links from beginning to end.
    pub calm: LinkProfile,
    /// One round of it; rounds follow each other until the time is over.
    play: Play,
    /// Seconds that a round may take on average; a run with fewer rounds proves too little.
    pub seconds_per_round: u64,
    /// Whether what a round claims to do was done.
    pub done: fn(&FaultCounts) -> u64,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Script").field(&self.name).finish()
    }
}

/// What a script plays with.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The machines.
    pub cluster: Cluster,
    /// Counts what is done to them.
    pub faults: Faults,
}

const CALM: LinkProfile = LinkProfile {
    delay: Duration::from_millis(1),
    jitter: Duration::from_millis(1),
    loss: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    bandwidth: None,
};

const PLAIN: Script = Script {
    name: "",
    nodes: 3,
    newcomers: 0,
    snapshot_every: 200,
    calm: CALM,
    play: |_, _| Box::pin(async {}),
    seconds_per_round: 6,
    done: FaultCounts::sum,
};

/// Every script.
pub const SCRIPTS: [Script; 13] = [
    // A restarted leader that resumes without an election answers from a state behind its own answers
    // (openraft's `enable_leader_restore`).
    Script {
        name: "kill-leader-fast-restart-read",
        play: |stage, chance| Box::pin(kill_leader_fast_restart(stage, chance)),
        done: |counts| counts.kills,
        ..PLAIN
    },
    // A candidate with an old log counted a refusal as a vote (databend PR 16175).
    Script {
        name: "election-stale-log",
        play: |stage, chance| Box::pin(election_stale_log(stage, chance)),
        done: |counts| counts.kills.min(counts.partitions),
        seconds_per_round: 8,
        ..PLAIN
    },
    // Progress of five voters was counted on a quorum that never was (openraft #1802).
    Script {
        name: "five-node-lag-mix",
        nodes: 5,
        play: |stage, chance| Box::pin(five_node_lag_mix(stage, chance)),
        done: |counts| counts.slow_disks.min(counts.one_way),
        seconds_per_round: 10,
        ..PLAIN
    },
    // Completions of log writes that came out of order stalled a fresh cluster (openraft #1960).
    Script {
        name: "slow-disk-reorder",
        calm: LinkProfile {
            jitter: Duration::from_millis(20),
            reorder: 0.3,
            ..CALM
        },
        play: |stage, chance| Box::pin(slow_disk_reorder(stage, chance)),
        done: |counts| counts.slow_disks,
        ..PLAIN
    },
    // The blank entry of a new leader was not flushed, and committed data became invisible (openraft
    // a9f696a9).
    Script {
        name: "power-cut-all-after-elect",
        play: |stage, chance| Box::pin(power_cut_all_after_elect(stage, chance)),
        done: |counts| counts.blackouts,
        ..PLAIN
    },
    // A snapshot met a log that conflicts with it at a committed index (openraft #1892).
    Script {
        name: "snapshot-conflict",
        snapshot_every: 15,
        play: |stage, chance| Box::pin(snapshot_conflict(stage, chance)),
        done: |counts| counts.partitions,
        seconds_per_round: 8,
        ..PLAIN
    },
    // A late heartbeat looked like a log that went back, and panicked (openraft 2bdfae5d).
    Script {
        name: "delayed-duplicates",
        calm: LinkProfile {
            delay: Duration::from_millis(4),
            jitter: Duration::from_millis(15),
            duplicate: 0.2,
            reorder: 0.5,
            ..CALM
        },
        play: |stage, chance| Box::pin(kill_leader_fast_restart(stage, chance)),
        done: |counts| counts.kills,
        seconds_per_round: 8,
        ..PLAIN
    },
    // A node refused to start after a crash between its snapshot and its log (canonical/raft #199).
    Script {
        name: "kill9-in-snapshot",
        snapshot_every: 12,
        play: |stage, chance| Box::pin(kill_in_snapshot(stage, chance)),
        done: |counts| counts.kills,
        seconds_per_round: 8,
        ..PLAIN
    },
    // A leader that stood still answered reads after another one had taken over (etcd #20418).
    Script {
        name: "pause-leader-read",
        play: |stage, chance| Box::pin(pause_leader(stage, chance)),
        done: |counts| counts.pauses,
        ..PLAIN
    },
    // A controller that removed itself crashed (KAFKA-17608).
    Script {
        name: "remove-leader",
        newcomers: 2,
        play: |stage, chance| Box::pin(members::remove_leader(stage, chance)),
        done: |counts| counts.removals,
        seconds_per_round: 30,
        ..PLAIN
    },
    // A vote that was lost with its disk was given twice (the review of KCORE-349).
    Script {
        name: "wiped-disk-same-id",
        play: |stage, chance| Box::pin(members::wiped_disk_same_id(stage, chance)),
        done: |counts| counts.replacements,
        seconds_per_round: 30,
        ..PLAIN
    },
    // A partition together with a change of members lost updates and made two leaders (RedisRaft #17, #43).
    Script {
        name: "membership-in-partition",
        nodes: 5,
        play: |stage, chance| Box::pin(members::membership_in_partition(stage, chance)),
        done: |counts| counts.partitions.min(counts.removals),
        seconds_per_round: 30,
        ..PLAIN
    },
    // The membership that a node had survived the snapshot that it was sent (openraft #1808).
    Script {
        name: "snapshot-vs-membership",
        newcomers: 2,
        snapshot_every: 12,
        play: |stage, chance| Box::pin(members::snapshot_vs_membership(stage, chance)),
        done: |counts| counts.partitions.min(counts.removals),
        seconds_per_round: 30,
        ..PLAIN
    },
];

/// Disks that say they have synced and have not, under power cuts: no protocol can bear it, so a run that
/// finds nothing wrong has looked badly.
pub const LYING_DISKS: Script = Script {
    name: "lying-disks",
    play: |stage, chance| Box::pin(lying_disks(stage, chance)),
    done: |counts| counts.blackouts,
    ..PLAIN
};

/// The script of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Script> {
    SCRIPTS
        .iter()
        .chain([&LYING_DISKS])
        .find(|script| script.name == name)
}

impl Script {
    /// Plays rounds until `until`.
    pub async fn run(&self, stage: &Stage, chance: &mut Chance, until: Instant) {
        while Instant::now() < until {
            sleep(chance.millis(200, 1_500)).await;
            (self.play)(stage, chance).await;
        }
    }
}

impl Stage {
    async fn leader(&self) -> Option<Host> {
        self.cluster.until_led(LED).await
    }

    fn others(&self, host: &Host) -> Vec<NodeId> {
        let hosts = self.cluster.hosts().iter();
        hosts.map(Host::id).filter(|id| *id != host.id()).collect()
    }

    /// A machine that is not the leader.
    fn follower(&self, leader: &Host, chance: &mut Chance) -> Option<Host> {
        let others = self.others(leader);
        self.cluster.host(*chance.pick(&others)?).cloned()
    }

    async fn kill(&self, host: &Host) {
        self.faults.count(|counts| counts.kills += 1);
        host.kill().await;
    }

    /// Parts a machine from all others, both ways.
    fn isolate(&self, host: &Host) {
        self.faults.count(|counts| counts.partitions += 1);
        self.cluster.partition(&[host.id()], &self.others(host));
    }
}

async fn kill_leader_fast_restart(stage: &Stage, chance: &mut Chance) {
    let Some(leader) = stage.leader().await else {
        return;
    };
    stage.kill(&leader).await;
    sleep(chance.millis(0, 80)).await;
    stage.cluster.boot(&leader).await;
}

async fn election_stale_log(stage: &Stage, chance: &mut Chance) {
    let Some(leader) = stage.leader().await else {
        return;
    };
    let Some(stale) = stage.follower(&leader, chance) else {
        return;
    };
    stage.isolate(&stale);
    sleep(chance.millis(500, 2_000)).await;
    // Now the stale one is needed for a quorum, and must not lead.
    let Some(leader) = stage.cluster.leader() else {
        stage.cluster.heal();
        return;
    };
    stage.kill(&leader).await;
    stage.cluster.heal();
    sleep(chance.millis(500, 2_500)).await;
    stage.cluster.boot(&leader).await;
}

async fn five_node_lag_mix(stage: &Stage, chance: &mut Chance) {
    let mut hosts = stage.cluster.hosts().to_vec();
    chance.shuffle(&mut hosts);
    let [far, slow, deaf, dying, ..] = hosts.as_slice() else {
        return;
    };
    let network = &stage.cluster.world().network;
    let lag = LinkProfile {
        delay: chance.millis(50, 200),
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
}

async fn slow_disk_reorder(stage: &Stage, chance: &mut Chance) {
    for host in stage.cluster.hosts() {
        let pace = DiskPace {
            sync: chance.millis(5, 80),
            jitter: chance.millis(0, 200),
        };
        stage.faults.count(|counts| counts.slow_disks += 1);
        stage.cluster.pace(host, pace);
    }
    sleep(chance.millis(1_000, 4_000)).await;
    let Some(leader) = stage.cluster.leader() else {
        return;
    };
    if chance.percent(50) {
        stage.kill(&leader).await;
        sleep(chance.millis(0, 1_000)).await;
        stage.cluster.boot(&leader).await;
    }
}

async fn power_cut_all_after_elect(stage: &Stage, chance: &mut Chance) {
    let Some(old) = stage.leader().await else { return };
    stage.kill(&old).await;
    let led = |cluster: &Cluster| cluster.leader().is_some();
    if stage.cluster.until(LED, led).await {
        sleep(chance.millis(0, 8)).await;
    }
    stage.faults.count(|counts| counts.blackouts += 1);
    for host in stage.cluster.hosts() {
        host.kill().await;
    }
    stage.cluster.boot_all(chance).await;
}

async fn lying_disks(stage: &Stage, chance: &mut Chance) {
    for host in stage.cluster.hosts() {
        host.disk().lie();
    }
    sleep(chance.millis(500, 2_000)).await;
    stage.faults.count(|counts| counts.blackouts += 1);
    for host in stage.cluster.hosts() {
        host.kill().await;
    }
    stage.cluster.boot_all(chance).await;
}

async fn snapshot_conflict(stage: &Stage, chance: &mut Chance) {
    let Some(leader) = stage.leader().await else {
        return;
    };
    // It goes on taking proposals that it cannot commit, while the others purge what follows.
    stage.isolate(&leader);
    sleep(chance.millis(2_000, 4_000)).await;
    stage.cluster.heal();
    sleep(chance.millis(0, 1_000)).await;
}

async fn kill_in_snapshot(stage: &Stage, chance: &mut Chance) {
    let Some(leader) = stage.leader().await else {
        return;
    };
    let Some(behind) = stage.follower(&leader, chance) else {
        return;
    };
    if chance.percent(50) {
        // Killed while it writes one of its own.
        stage.kill(&behind).await;
        if behind.leave_snapshot_half_written() {
            stage.cluster.boot(&behind).await;
            return;
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
}

async fn pause_leader(stage: &Stage, chance: &mut Chance) {
    let Some(leader) = stage.leader().await else {
        return;
    };
    stage.faults.count(|counts| counts.pauses += 1);
    leader.pause();
    sleep(chance.millis(100, 2_000)).await;
    leader.resume();
}
