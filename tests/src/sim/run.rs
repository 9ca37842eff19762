//! One run: a cluster, clients, trouble; then peace, and a look at everything that was said.

use std::{
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rivven_raft::{Consistency, DiskStats, KvStore, MemoryNetwork, Replace};
use rivven_transport::{LinkProfile, MemoryStats};
use tokio::{runtime::Builder, time::Instant};

use super::{
    chance::Chance,
    clients::{Client, Habits},
    cluster::Cluster,
    faults::{FaultCounts, Faults, PACE},
    history::History,
    host::{Clocks, World},
    linear::{self, Verdict},
    members::Members,
    priority::{self, Priorities},
    scenario::{Script, Stage},
    trace::Trace,
};

/// How long a cluster may take to agree once everything is well again.
pub const CONVERGE_TIME: Duration = Duration::from_secs(10);

/// Answers for each second of trouble below which a run counts as too easy.
const MIN_ANSWERS_PER_SECOND: u64 = 5;

/// Reads by the lease for each second of trouble, where clients ask for them, below which the same is so.
const MIN_LEASE_READS_PER_SECOND: u64 = 1;

/// Seconds of trouble in which there must be a fault on average.
const SECONDS_PER_FAULT: u64 = 3;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides everything that the rest leaves open.
    pub seed: u64,
    /// Simulated seconds of trouble.
    pub seconds: u64,
    /// How many nodes there are, unless the script needs more.
    pub nodes: u64,
    /// What is played; `None`: trouble of every kind.
    pub script: Option<&'static Script>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Hash over everything that happened.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Requests that were answered.
    pub ops: u64,
    /// What happened that never must.
    pub violations: Vec<String>,
    /// Trouble that was made.
    pub faults: FaultCounts,
    /// What the network did.
    pub network: MemoryStats,
    /// What the disks did, all together.
    pub disks: DiskStats,
    /// Terms that had a leader.
    pub terms: u64,
    /// Entries of logs on disk that were compared with those of other nodes.
    pub compared: u64,
    /// Logs on disk of nodes that had led, which were searched for all that was committed before.
    pub leaders: u64,
}

impl Report {
    /// How much of everything there was, by name: what a run is worth.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts = self.faults.named().to_vec();
        counts.extend([
            ("frames-lost", self.network.lost),
            ("frames-reordered", self.network.reordered),
            ("requests-doubled", self.network.duplicated),
            ("torn-writes", self.disks.torn),
            ("forgotten-commits", self.disks.forgotten),
            ("terms", self.terms),
            ("entries-compared", self.compared),
            ("logs-of-leaders", self.leaders),
        ]);
        counts
    }
}

/// Runs `plan` with the small files of its nodes under `root`; a line for each event goes to `out`.
///
/// # Errors
/// The runtime could not be built.
pub fn run(plan: &Plan, root: &Path, out: Option<Box<dyn Write + Send>>) -> std::io::Result<Report> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(random(plan, root, out)))
}

async fn random(plan: &Plan, root: &Path, out: Option<Box<dyn Write + Send>>) -> Report {
    let trace = Trace::new(out);
    trace.event(format_args!("{plan:?}"));
    let mut chance = Chance::new(plan.seed, 1);
    let Setting {
        snapshot_every,
        calm,
        nodes,
        newcomers,
        lease_reads,
        clocks,
        priorities,
        pause_ms,
    } = Setting::of(plan, &mut chance);
    let world = World {
        network: MemoryNetwork::seeded(plan.seed),
        trace: trace.clone(),
        seed: plan.seed,
        snapshot_every,
        founders: (1..=nodes).collect(),
        everybody: (1..=nodes + newcomers).collect(),
        election_ms: 150..300,
        heartbeat_ms: 50,
        lease_reads,
        clocks,
        replace: plan.script.map_or(Replace::Refuse, |script| script.replace),
        priorities,
    };
    let habits = Habits {
        sessions_only: calm.duplicate > 0.0,
        pause_ms: pause_ms.unwrap_or_else(|| 20 + chance.below(120)),
        value_bytes: chance.below(300),
    };
    let clients = 3 + chance.below(6);
    let cluster = Cluster::new(world, nodes + newcomers, root);
    cluster.links(calm);
    for host in cluster.hosts() {
        cluster.pace(host, PACE);
    }
    cluster.boot_all(&mut chance).await;
    let history = Arc::new(Mutex::new(History::new(trace.clone())));
    let until = Instant::now() + Duration::from_secs(plan.seconds);
    let mut running: Vec<_> = (1..=clients)
        .map(|number| {
            let client = Client::new(&cluster, &history, number, habits);
            cluster.tasks().spawn(client.run(until))
        })
        .collect();
    let faults = Faults::new(&cluster, calm);
    let trouble = make_trouble(plan, &cluster, &faults, until);
    running.push(cluster.tasks().spawn(trouble));
    for task in running {
        if let Err(error) = task.await {
            trace.violation(format!("a task of the simulation panicked: {error}"));
        }
    }
    let members = plan.script.is_none().then(|| Members::new(&cluster, &faults));
    make_peace(&cluster, members, &mut chance).await;
    settle(&cluster, &history, habits, &mut chance).await;
    let told = {
        let history = history.lock().unwrap_or_else(PoisonError::into_inner);
        Told {
            answers: history.answered,
            lease_reads: lease_reads.then_some(history.lease_reads),
        }
    };
    let easy = floors(plan, told, faults.counts());
    easy.into_iter().for_each(|easy| trace.violation(easy));
    report(&cluster, &history, faults.counts())
}

/// What a run is made in.
struct Setting {
    snapshot_every: u64,
    calm: LinkProfile,
    nodes: u64,
    /// Nodes beside the founders, which join.
    newcomers: u64,
    lease_reads: bool,
    clocks: Clocks,
    priorities: Priorities,
    pause_ms: Option<u64>,
}

impl Setting {
    fn of(plan: &Plan, chance: &mut Chance) -> Self {
        if let Some(script) = plan.script {
            return Self {
                snapshot_every: script.snapshot_every,
                calm: script.calm,
                nodes: plan.nodes.max(script.nodes),
                newcomers: script.newcomers,
                lease_reads: script.lease_reads,
                clocks: script.clocks,
                priorities: Priorities::new(),
                pause_ms: script.pause_ms,
            };
        }
        let snapshot_every = chance.pick(&[40, 200, 1_000, 100_000]).copied().unwrap_or(200);
        // Requests that arrive twice are for clients who can bear it.
        let duplicate = if chance.percent(30) { 0.02 } else { 0.0 };
        let calm = LinkProfile {
            delay: chance.millis(0, 3),
            jitter: chance.millis(0, 3),
            duplicate,
            ..LinkProfile::default()
        };
        Self {
            snapshot_every,
            calm,
            nodes: plan.nodes,
            newcomers: 0,
            lease_reads: chance.percent(40),
            clocks: if chance.percent(60) {
                Clocks::Drifting
            } else {
                Clocks::True
            },
            priorities: priority::draw(plan.seed, plan.nodes),
            pause_ms: None,
        }
    }
}

/// The trouble of the plan, until `until`.
fn make_trouble(
    plan: &Plan,
    cluster: &Cluster,
    faults: &Faults,
    until: Instant,
) -> impl Future<Output = ()> + Send + use<> {
    let mut chance = Chance::new(plan.seed, 2);
    let (script, faults) = (plan.script, faults.clone());
    let cluster = cluster.clone();
    async move {
        match script {
            None => faults.run(chance, until).await,
            Some(script) => script.run(&Stage { cluster, faults }, &mut chance, until).await,
        }
    }
}

/// Makes everything well, and lets everybody in again who was removed, unless the script has done so.
async fn make_peace(cluster: &Cluster, members: Option<Members>, chance: &mut Chance) {
    cluster.world().trace.event(format_args!("peace"));
    cluster.heal();
    cluster.links(LinkProfile::default());
    for host in cluster.hosts() {
        host.resume();
        cluster.pace(host, PACE);
    }
    cluster.boot_all(chance).await;
    if let Some(members) = members {
        members.restore().await;
    }
}

/// Waits until all agree, checks what is there against what was said, and ends every process.
async fn settle(cluster: &Cluster, history: &Arc<Mutex<History>>, habits: Habits, chance: &mut Chance) {
    let trace = cluster.world().trace.clone();
    cluster.converge(CONVERGE_TIME).await;
    priority::settle(cluster, chance).await;
    if let Some(host) = cluster.leader() {
        Client::new(cluster, history, 0, habits).read_all(&host).await;
        if let Some((node, _)) = host.node() {
            let lasting = history.lock().unwrap_or_else(PoisonError::into_inner).lasting();
            let lost = node
                .read(Consistency::Stale, move |kv: &KvStore| lasting.missing(kv))
                .await;
            match lost {
                Ok(read) => read.value.into_iter().for_each(|lost| trace.violation(lost)),
                Err(error) => trace.violation(format!("the end cannot be read: {error}")),
            }
        }
    }
    let operations = history
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .operations();
    match linear::check(&operations) {
        Verdict::Linearizable => {}
        verdict => trace.violation(format!("linearizability: {}", explain(&verdict, &operations))),
    }
    cluster.end().await;
}

/// How much clients were told.
struct Told {
    answers: u64,
    /// Reads by the lease; `None` where nobody asks for any.
    lease_reads: Option<u64>,
}

/// A run that was too easy has proven nothing.
fn floors(plan: &Plan, told: Told, faults: FaultCounts) -> Vec<String> {
    let (what, made, floor) = match plan.script {
        None => ("faults", faults.sum(), plan.seconds / SECONDS_PER_FAULT),
        Some(script) => (
            "rounds of the script",
            (script.done)(&faults),
            plan.seconds / script.seconds_per_round,
        ),
    };
    let needed = plan.seconds * MIN_ANSWERS_PER_SECOND;
    let by_lease = plan.seconds * MIN_LEASE_READS_PER_SECOND;
    let lease_reads = told.lease_reads.map(|made| ("lease reads", made, by_lease));
    [(what, made, floor), ("answers", told.answers, needed)]
        .into_iter()
        .chain(lease_reads)
        .filter(|(_, found, floor)| found < floor)
        .map(|(what, found, floor)| format!("too easy: {found} {what}, at least {floor} are needed"))
        .collect()
}

/// Sums up the run, once nothing happens any more.
fn report(cluster: &Cluster, history: &Mutex<History>, faults: FaultCounts) -> Report {
    let trace = &cluster.world().trace;
    let network = cluster.world().network.stats();
    let mut disks = DiskStats::default();
    for host in cluster.hosts() {
        let stats = host.disk().stats();
        disks.syncs += stats.syncs;
        disks.cuts += stats.cuts;
        disks.torn += stats.torn;
        disks.forgotten += stats.forgotten;
    }
    let (looks, terms) = cluster.looks();
    let (compared, leaders) = cluster.logs_read();
    if compared == 0 {
        trace.violation("too easy: no two logs were compared".to_owned());
    }
    trace.event(format_args!(
        "{network:?} {disks:?} {faults:?} {looks} looks, {terms} terms, {compared} entries compared, {leaders} leaders"
    ));
    Report {
        hash: trace.hash(),
        events: trace.moment(),
        ops: history.lock().unwrap_or_else(PoisonError::into_inner).answered,
        violations: trace.violations(),
        faults,
        network,
        disks,
        terms: terms as u64,
        compared,
        leaders,
    }
}

fn explain(verdict: &Verdict, operations: &[linear::Operation]) -> String {
    match verdict {
        Verdict::Impossible { keys, stuck } => {
            let stuck: Vec<_> = stuck.iter().filter_map(|place| operations.get(*place)).collect();
            format!("no order explains keys {keys:?}; the longest ends before one of {stuck:?}")
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_enough_answers_or_trouble_fails() {
        let check = |script, answered, kills, wrong: usize| {
            let plan = Plan {
                seed: 1,
                seconds: 60,
                nodes: 3,
                script,
            };
            let faults = FaultCounts {
                kills,
                ..FaultCounts::default()
            };
            let told = |lease_reads| Told {
                answers: answered,
                lease_reads,
            };
            assert_eq!(floors(&plan, told(None), faults).len(), wrong);
            assert_eq!(floors(&plan, told(Some(60)), faults).len(), wrong);
            assert_eq!(floors(&plan, told(Some(59)), faults).len(), wrong + 1);
        };
        check(None, 300, 20, 0);
        check(None, 299, 20, 1);
        check(None, 299, 19, 2);
        let script = crate::sim::scenario::named("kill-leader-fast-restart-read");
        check(script, 300, 10, 0);
        check(script, 300, 9, 1);
    }
}
