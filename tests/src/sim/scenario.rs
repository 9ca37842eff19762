//! Scripts: trouble that once broke somebody's consensus, played over and over from a seed.
//!
//! What each is modelled on stands above it. All share the clients, the peace and the checks of random runs.

mod leases;
mod members;
mod stage;
mod trouble;

use std::{future::Future, pin::Pin, time::Duration};

use rivven_raft::Replace;
use rivven_transport::LinkProfile;
use tokio::time::{Instant, sleep};

pub use self::stage::Stage;
use super::{chance::Chance, faults::FaultCounts, host::Clocks};

/// One round of a script; `None` where it ended early, for lack of a leader or of machines.
type Play = for<'a> fn(&'a Stage, &'a mut Chance) -> Pin<Box<dyn Future<Output = Option<()>> + Send + 'a>>;

/// Names the function that plays a round.
macro_rules! play {
    ($play:path) => {
        |stage, chance| Box::pin($play(stage, chance))
    };
}

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
    /// Whether leaders answer reads by their lease, which clients then ask for.
    pub lease_reads: bool,
    /// Clocks from beginning to end.
    pub clocks: Clocks,
    /// What the leader does about a node with an empty disk.
    pub replace: Replace,
    /// Longest pause of a client between two requests, in milliseconds; `None`: as the seed says.
    pub pause_ms: Option<u64>,
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
    lease_reads: false,
    clocks: Clocks::True,
    replace: Replace::Refuse,
    pause_ms: None,
    play: |_, _| Box::pin(async { None }),
    seconds_per_round: 6,
    done: FaultCounts::sum,
};

/// Every script.
pub const SCRIPTS: [Script; 17] = [
    // A restarted leader that resumes without an election answers from a state behind its own answers
    // (openraft's `enable_leader_restore`).
    Script {
        name: "kill-leader-fast-restart-read",
        play: play!(trouble::kill_leader_fast_restart),
        done: |counts| counts.kills,
        ..PLAIN
    },
    // A candidate with an old log counted a refusal as a vote (databend PR 16175).
    Script {
        name: "election-stale-log",
        play: play!(trouble::election_stale_log),
        done: |counts| counts.kills.min(counts.partitions),
        seconds_per_round: 8,
        ..PLAIN
    },
    // Progress of five voters was counted on a quorum that never was (openraft #1802).
    Script {
        name: "five-node-lag-mix",
        nodes: 5,
        play: play!(trouble::five_node_lag_mix),
        done: |counts| counts.slow_disks.min(counts.one_way),
        seconds_per_round: 10,
        ..PLAIN
    },
    // Completions of log writes that came out of order stalled a fresh cluster (openraft #1960).
    // Here one owner of the log completes writes in their order, so what comes out of order is what nodes say to
    // each other while each of their disks takes its own time.
    Script {
        name: "slow-disk-reorder",
        calm: LinkProfile {
            jitter: Duration::from_millis(20),
            reorder: 0.3,
            ..CALM
        },
        play: play!(trouble::slow_disk_reorder),
        done: |counts| counts.slow_disks,
        ..PLAIN
    },
    // The blank entry of a new leader was not flushed, and committed data became invisible (openraft
    // a9f696a9).
    Script {
        name: "power-cut-all-after-elect",
        play: play!(trouble::power_cut_all_after_elect),
        done: |counts| counts.blackouts,
        ..PLAIN
    },
    // A snapshot met a log that conflicts with it at a committed index (openraft #1892).
    Script {
        name: "snapshot-conflict",
        snapshot_every: 15,
        play: play!(trouble::snapshot_conflict),
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
        play: play!(trouble::kill_leader_fast_restart),
        done: |counts| counts.kills,
        seconds_per_round: 8,
        ..PLAIN
    },
    // A node refused to start after a crash between its snapshot and its log (canonical/raft #199).
    Script {
        name: "kill9-in-snapshot",
        snapshot_every: 12,
        play: play!(trouble::kill_in_snapshot),
        done: |counts| counts.kills,
        seconds_per_round: 8,
        ..PLAIN
    },
    // A leader that stood still answered reads after another one had taken over (etcd #20418).
    Script {
        name: "pause-leader-read",
        play: play!(trouble::pause_leader),
        done: |counts| counts.pauses,
        ..PLAIN
    },
    // The same where the leader may answer by its lease, while no two clocks agree (etcd #20418).
    Script {
        clocks: Clocks::Drifting,
        ..LEASES
    },
    // A controller that removed itself crashed (KAFKA-17608).
    Script {
        name: "remove-leader",
        newcomers: 2,
        play: play!(members::remove_leader),
        done: |counts| counts.removals,
        ..MEMBERS
    },
    // A vote that was lost with its disk was given twice (the review of KCORE-349).
    Script {
        name: "wiped-disk-same-id",
        play: play!(members::wiped_disk_same_id),
        done: |counts| counts.replacements,
        ..MEMBERS
    },
    // The same where nobody is there to say that the disk is lost.
    Script {
        name: "wiped-disk-by-itself",
        nodes: 5,
        replace: Replace::Auto,
        play: play!(members::wiped_disk_by_itself),
        done: |counts| counts.replacements,
        ..MEMBERS
    },
    // Acknowledgements of a follower's former disk were counted for its empty one, and made a quorum that was none
    // (openraft cecb5de8).
    Script {
        name: "wipe-follower-inflight",
        play: play!(members::wipe_follower_inflight),
        done: |counts| counts.replacements,
        ..MEMBERS
    },
    // A leader whose log was purged to the end could not feed a new follower (openraft afd6508b).
    Script {
        name: "purge-all-then-join",
        snapshot_every: 3,
        play: play!(members::purge_all_then_join),
        done: |counts| counts.removals,
        ..MEMBERS
    },
    // A partition together with a change of members lost updates and made two leaders (RedisRaft #17, #43).
    Script {
        name: "membership-in-partition",
        nodes: 5,
        play: play!(members::membership_in_partition),
        done: |counts| counts.partitions.min(counts.removals),
        ..MEMBERS
    },
    // The membership that a node had survived the snapshot that it was sent (openraft #1808).
    Script {
        name: "snapshot-vs-membership",
        newcomers: 2,
        snapshot_every: 12,
        play: play!(members::snapshot_vs_membership),
        done: |counts| counts.partitions.min(counts.removals),
        ..MEMBERS
    },
];

/// Changes of members, which take their time.
const MEMBERS: Script = Script {
    seconds_per_round: 30,
    ..PLAIN
};

/// A leader that stands still or is cut off in the middle of its lease.
const LEASES: Script = Script {
    name: "pause-leader-lease-read",
    lease_reads: true,
    pause_ms: Some(10),
    play: play!(leases::leader_in_its_lease),
    done: |counts| counts.pauses.min(counts.partitions),
    ..PLAIN
};

/// A leader whose clock is so slow that it answers by leases which nobody honours any more: lease reads do not
/// promise to bear it, so a run that finds no old read has looked badly.
pub const BROKEN_CLOCKS: Script = Script {
    name: "broken-clocks",
    clocks: Clocks::Broken,
    ..LEASES
};

/// Disks that say they have synced and have not, under power cuts: no protocol can bear it, so a run that
/// finds nothing wrong has looked badly.
pub const LYING_DISKS: Script = Script {
    name: "lying-disks",
    play: play!(trouble::lying_disks),
    done: |counts| counts.blackouts,
    ..PLAIN
};

/// The script of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Script> {
    SCRIPTS
        .iter()
        .chain([&LYING_DISKS, &BROKEN_CLOCKS])
        .find(|script| script.name == name)
}

impl Script {
    /// Plays rounds until `until`.
    pub async fn run(&self, stage: &Stage, chance: &mut Chance, until: Instant) {
        while Instant::now() < until {
            sleep(chance.millis(200, 1_500)).await;
            let _ended_early = (self.play)(stage, chance).await;
        }
    }
}
