//! Trouble of every kind, drawn from the seed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rivven_raft::{DiskPace, NodeId};
use rivven_transport::LinkProfile;
use tokio::time::{Instant, sleep, timeout};

use super::{chance::Chance, cluster::Cluster, host::Host, members::Members};

/// How many faults of each kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Power cuts of single machines.
    pub kills: u64,
    /// Power cuts of all machines at once.
    pub blackouts: u64,
    /// Processes suspended.
    pub pauses: u64,
    /// Partitions in two.
    pub partitions: u64,
    /// Links cut one way.
    pub one_way: u64,
    /// Times at which every link lost, delayed or reordered frames.
    pub weather: u64,
    /// Disks slowed down.
    pub slow_disks: u64,
    /// Transfers of leadership asked for.
    pub transfers: u64,
    /// Members removed.
    pub removals: u64,
    /// Disks replaced by empty ones.
    pub replacements: u64,
}

impl FaultCounts {
    /// Each of them by name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("kills", self.kills),
            ("blackouts", self.blackouts),
            ("pauses", self.pauses),
            ("partitions", self.partitions),
            ("one-way-cuts", self.one_way),
            ("bad-weather", self.weather),
            ("slow-disks", self.slow_disks),
            ("transfers", self.transfers),
            ("removals", self.removals),
            ("replacements", self.replacements),
        ]
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }
}

/// Makes trouble.
#[derive(Clone, Debug)]
pub struct Faults {
    cluster: Cluster,
    /// Machines that something is being done to.
    busy: Arc<Mutex<BTreeSet<NodeId>>>,
    counts: Arc<Mutex<FaultCounts>>,
    /// Held while a member goes and comes back: one at a time.
    coming_back: Arc<tokio::sync::Mutex<()>>,
    calm: LinkProfile,
}

/// How long a node that was removed tries to come back before other trouble may befall its machine.
const TAKE_BACK_TIME: Duration = Duration::from_secs(10);

/// How a disk is when nothing is wrong with it.
pub const PACE: DiskPace = DiskPace {
    sync: Duration::from_millis(1),
    jitter: Duration::from_millis(2),
};

impl Faults {
    /// Trouble for `cluster`, whose links are `calm` between the worst.
    #[must_use]
    pub fn new(cluster: &Cluster, calm: LinkProfile) -> Self {
        Self {
            cluster: cluster.clone(),
            busy: Arc::default(),
            counts: Arc::default(),
            coming_back: Arc::default(),
            calm,
        }
    }

    /// How much trouble there was.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts trouble that somebody else makes.
    pub fn count(&self, kind: impl FnOnce(&mut FaultCounts)) {
        kind(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes trouble until `until`; each piece of it ends by itself soon after.
    pub async fn run(self, mut chance: Chance, until: Instant) {
        let mut under_way = Vec::new();
        loop {
            sleep(chance.millis(300, 2_500)).await;
            if Instant::now() >= until {
                break;
            }
            let (faults, chance) = (self.clone(), Chance::new(chance.bits(), 0));
            under_way.push(
                self.cluster
                    .tasks()
                    .spawn(async move { faults.one(chance).await }),
            );
        }
        for task in under_way {
            // One that panicked is reported by the run.
            let _ = task.await;
        }
    }

    async fn one(self, mut chance: Chance) {
        match chance.below(100) {
            0..28 => self.kill_one(&mut chance).await,
            28..32 => self.blackout(&mut chance).await,
            32..45 => self.pause_one(&mut chance).await,
            45..58 => self.part(&mut chance).await,
            58..69 => self.cut_one_way(&mut chance).await,
            69..79 => self.weather(&mut chance).await,
            79..89 => self.slow_disk(&mut chance).await,
            89..95 => self.transfer(&mut chance).await,
            _ => self.remove(&mut chance).await,
        }
    }

    /// A machine that nothing is being done to; the leader in every second case.
    fn claim(&self, chance: &mut Chance) -> Option<Host> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let idle: Vec<&Host> = self
            .cluster
            .hosts()
            .iter()
            .filter(|host| !busy.contains(&host.id()) && host.is_on())
            .collect();
        let leader = self.cluster.leader().filter(|_| chance.percent(50));
        let leader = leader.filter(|leader| !busy.contains(&leader.id()));
        let host = leader.or_else(|| chance.pick(&idle).map(|host| (*host).clone()))?;
        busy.insert(host.id());
        Some(host)
    }

    fn release(&self, host: &Host) {
        self.busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&host.id());
    }

    async fn kill_one(&self, chance: &mut Chance) {
        let Some(host) = self.claim(chance) else { return };
        self.count(|counts| counts.kills += 1);
        if chance.percent(40) {
            // In the middle of a commit, whenever the next one comes.
            host.disk().cut_power_after(1 + chance.below(12));
            let _ = timeout(Duration::from_secs(1), host.disk().power_lost()).await;
        }
        host.kill().await;
        // Many come back before anybody has noticed.
        let off = if chance.percent(40) {
            chance.millis(0, 60)
        } else {
            chance.millis(60, 4_000)
        };
        sleep(off).await;
        self.cluster.boot(&host).await;
        self.release(&host);
    }

    async fn blackout(&self, chance: &mut Chance) {
        self.count(|counts| counts.blackouts += 1);
        let mut hosts = self.cluster.hosts().to_vec();
        chance.shuffle(&mut hosts);
        for host in &hosts {
            host.kill().await;
        }
        sleep(chance.millis(0, 500)).await;
        self.cluster.boot_all(chance).await;
    }

    async fn pause_one(&self, chance: &mut Chance) {
        let Some(host) = self.claim(chance) else { return };
        self.count(|counts| counts.pauses += 1);
        host.pause();
        sleep(chance.millis(50, 2_500)).await;
        host.resume();
        self.release(&host);
    }

    async fn part(&self, chance: &mut Chance) {
        self.count(|counts| counts.partitions += 1);
        let mut ids: Vec<NodeId> = self.cluster.hosts().iter().map(Host::id).collect();
        chance.shuffle(&mut ids);
        let at = 1 + chance.below(ids.len().saturating_sub(1) as u64);
        let (left, right) = ids.split_at(usize::try_from(at).unwrap_or(1).min(ids.len()));
        self.cluster.partition(left, right);
        sleep(chance.millis(100, 4_000)).await;
        self.cluster.heal();
    }

    async fn cut_one_way(&self, chance: &mut Chance) {
        self.count(|counts| counts.one_way += 1);
        let mut ids: Vec<NodeId> = self.cluster.hosts().iter().map(Host::id).collect();
        chance.shuffle(&mut ids);
        let Some((from, to)) = ids.split_first() else {
            return;
        };
        // From one to some, or from some to one.
        let some = 1 + usize::try_from(chance.below(to.len() as u64)).unwrap_or_default();
        let out = chance.percent(50);
        for to in to.iter().take(some) {
            let (from, to) = if out { (*from, *to) } else { (*to, *from) };
            self.cluster.cut(from, to);
        }
        sleep(chance.millis(100, 4_000)).await;
        self.cluster.heal();
    }

    async fn weather(&self, chance: &mut Chance) {
        self.count(|counts| counts.weather += 1);
        self.cluster.links(LinkProfile {
            delay: chance.millis(0, 25),
            jitter: chance.millis(0, 40),
            loss: f64::from(u32::try_from(chance.below(15)).unwrap_or_default()) / 100.0,
            reorder: f64::from(u32::try_from(chance.below(30)).unwrap_or_default()) / 100.0,
            ..self.calm
        });
        sleep(chance.millis(500, 3_000)).await;
        self.cluster.links(self.calm);
    }

    async fn slow_disk(&self, chance: &mut Chance) {
        let Some(host) = self.claim(chance) else { return };
        self.count(|counts| counts.slow_disks += 1);
        let pace = DiskPace {
            sync: chance.millis(10, 150),
            jitter: chance.millis(0, 200),
        };
        self.cluster.pace(&host, pace);
        sleep(chance.millis(500, 3_000)).await;
        self.cluster.pace(&host, PACE);
        self.release(&host);
    }

    async fn transfer(&self, chance: &mut Chance) {
        let (Some(at), Some(to)) = (self.cluster.any_host(chance), self.cluster.any_host(chance)) else {
            return;
        };
        let Some((node, tasks)) = at.node() else { return };
        self.count(|counts| counts.transfers += 1);
        let to = to.id();
        self.cluster
            .world()
            .trace
            .event(format_args!("node {} asks {to} to lead", at.id()));
        let asked = tasks.spawn(async move { node.transfer_leader(to).await });
        // It may fail for any of the trouble made here.
        let _ = asked.await;
    }

    /// Has a member go, and come back with an empty disk if it did; whoever else fails meanwhile.
    async fn remove(&self, chance: &mut Chance) {
        let Ok(_alone) = self.coming_back.try_lock() else {
            return;
        };
        if self.cluster.hosts().iter().any(Host::is_retired) {
            return;
        }
        let (Some(asked), Some(gone)) = (self.cluster.leader(), self.claim(chance)) else {
            return;
        };
        let members = Members::new(&self.cluster, self);
        // Of three voters nobody is let go unless somebody insists.
        let force = chance.percent(80).then_some("trouble is asked for");
        members.remove(&asked, &gone, force).await;
        sleep(chance.millis(0, 3_000)).await;
        // What trouble keeps from coming true until then is made up for in the end.
        let _ = members.restore_within(TAKE_BACK_TIME).await;
        self.release(&gone);
    }
}
