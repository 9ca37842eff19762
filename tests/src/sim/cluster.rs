//! The machines of a run, and what can be done to them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rivven_raft::{DiskPace, NodeId, Role, TaskGroup};
use rivven_transport::LinkProfile;
use tokio::time::{Instant, sleep};

use super::{
    chance::Chance,
    host::{Host, Node, World},
    invariants::{Invariants, Said},
    logs::Logs,
};

/// How often somebody looks whether what is waited for has come.
const LOOK: Duration = Duration::from_millis(10);

/// All machines of a run. Clones are the same machines.
#[derive(Clone, Debug)]
pub struct Cluster {
    world: World,
    hosts: Arc<Vec<Host>>,
    invariants: Arc<Mutex<Invariants>>,
    logs: Arc<Mutex<Logs>>,
    tasks: TaskGroup,
}

impl Cluster {
    /// `count` machines that are switched off; ids count from 1.
    #[must_use]
    pub fn new(world: World, count: u64, root: &Path) -> Self {
        let hosts = (1..=count).map(|id| Host::new(id, root, world.clone())).collect();
        Self {
            world,
            hosts: Arc::new(hosts),
            invariants: Arc::default(),
            logs: Arc::default(),
            tasks: TaskGroup::current(),
        }
    }

    /// What all machines share.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// Every machine, in order of ids.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The machine of a node.
    #[must_use]
    pub fn host(&self, id: NodeId) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id() == id)
    }

    /// Tasks of the simulation itself.
    #[must_use]
    pub const fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// A running machine.
    #[must_use]
    pub fn any_host(&self, chance: &mut Chance) -> Option<Host> {
        let running: Vec<&Host> = self.hosts.iter().filter(|host| host.node().is_some()).collect();
        chance.pick(&running).map(|host| (*host).clone())
    }

    /// The leader, as the running node of the highest term sees it that leads.
    #[must_use]
    pub fn leader(&self) -> Option<Host> {
        let leading = |host: &&Host| {
            let status = host.node()?.0.status();
            (status.role == Role::Leader).then_some(status.term)
        };
        let leaders = self.hosts.iter().filter_map(|host| Some((leading(&host)?, host)));
        leaders
            .max_by_key(|(term, _)| *term)
            .map(|(_, host)| host.clone())
    }

    /// Starts a machine and watches it, after a look at what its disk holds.
    pub async fn boot(&self, host: &Host) {
        if !host.is_on() {
            self.read_log(host);
        }
        let Some(node) = host.boot().await else { return };
        let boot = host.boots();
        drop(self.tasks.spawn(watch(self.clone(), node, boot)));
    }

    /// Starts every machine that is off, in an order of chance.
    pub async fn boot_all(&self, chance: &mut Chance) {
        let mut hosts: Vec<Host> = self.hosts.iter().filter(|host| !host.is_on()).cloned().collect();
        chance.shuffle(&mut hosts);
        for host in hosts {
            self.boot(&host).await;
        }
    }

    /// Ends every process, and reads the logs that are left.
    pub async fn end(&self) {
        self.kill_all().await;
        self.hosts.iter().for_each(|host| self.read_log(host));
    }

    /// Cuts the power of every machine, in order of ids.
    pub async fn kill_all(&self) {
        for host in self.hosts.iter() {
            host.kill().await;
        }
    }

    /// Gives every link this character.
    pub fn links(&self, profile: LinkProfile) {
        self.world.trace.event(format_args!("every link is {profile:?}"));
        self.world.network.default_link(profile);
    }

    /// Cuts every link between the two sides, in both directions.
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        self.world
            .trace
            .event(format_args!("{left:?} and {right:?} are parted"));
        self.world.network.partition(left, right);
    }

    /// Cuts one direction.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.world
            .trace
            .event(format_args!("nothing goes from {from} to {to}"));
        self.world.network.cut(from, to);
    }

    /// Ends every cut.
    pub fn heal(&self) {
        self.world.trace.event(format_args!("every link is whole"));
        self.world.network.heal();
    }

    /// Makes a disk slow or fast.
    pub fn pace(&self, host: &Host, pace: DiskPace) {
        self.world
            .trace
            .event(format_args!("the disk of node {} takes {pace:?}", host.id()));
        host.disk().set_pace(pace);
    }

    /// Waits until `done` says so, at most for `within`. Says whether it did.
    pub async fn until(&self, within: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + within;
        while !done(self) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Waits until some node leads.
    pub async fn until_led(&self, within: Duration) -> Option<Host> {
        self.until(within, |cluster| cluster.leader().is_some()).await;
        self.leader()
    }

    /// Whether every node that is there has applied as much as the others, follows the same leader, and knows
    /// the same members.
    fn agrees(&self) -> bool {
        let members = self.hosts.iter().filter(|host| !host.is_retired());
        let mut statuses = members.map(|host| Some(host.node()?.0.status()));
        let Some(Some(first)) = statuses.next() else {
            return false;
        };
        let same = statuses.all(|status| {
            status.is_some_and(|status| {
                status.leader == first.leader
                    && status.applied_index == first.applied_index
                    && status.last_log_index == first.last_log_index
                    && (&status.voters, &status.learners) == (&first.voters, &first.learners)
            })
        });
        same && first.leader.is_some() && first.applied_index == first.last_log_index
    }

    /// Waits until all nodes agree, and compares their states.
    pub async fn converge(&self, within: Duration) {
        if !self.until(within, Self::agrees).await {
            let statuses: Vec<_> = self
                .hosts
                .iter()
                .map(|host| host.node().map(|(node, _)| node.status()))
                .collect();
            let text = format!("liveness: the nodes do not agree {within:?} after all is well: {statuses:?}");
            self.world.trace.violation(text);
        }
        for host in self.hosts.iter() {
            if let Some((node, _)) = host.node() {
                self.look(&node, host.boots()).await;
            }
        }
    }

    /// Looks at what a node says of itself.
    async fn look(&self, node: &Node, boot: u64) {
        let status = node.status();
        let digest = node.digest().await;
        let wrong = {
            let mut invariants = self.invariants.lock().unwrap_or_else(PoisonError::into_inner);
            let mut wrong = invariants.said(Said::of(boot, &status));
            wrong.extend(
                digest.and_then(|digest| invariants.state(status.node_id, digest.index, digest.value)),
            );
            wrong
        };
        wrong
            .into_iter()
            .for_each(|wrong| self.world.trace.violation(wrong));
    }

    /// Compares the log on the disk of a machine that is off with every other one there was.
    fn read_log(&self, host: &Host) {
        let Some(log) = host.log_left() else { return };
        let led = {
            let invariants = self.invariants.lock().unwrap_or_else(PoisonError::into_inner);
            invariants.committed_before_led(log.node, log.term)
        };
        let wrong = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.take(&log, led.is_some(), led.flatten())
        };
        wrong
            .into_iter()
            .for_each(|wrong| self.world.trace.violation(wrong));
    }

    /// How many entries of logs were compared with another's, and how many logs of leaders were looked at.
    #[must_use]
    pub fn logs_read(&self) -> (u64, u64) {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        (logs.compared, logs.leaders)
    }

    /// How often nodes were looked at, and how many terms had a leader.
    #[must_use]
    pub fn looks(&self) -> (u64, usize) {
        let invariants = self.invariants.lock().unwrap_or_else(PoisonError::into_inner);
        (invariants.looks, invariants.terms())
    }
}

/// Looks at a node whenever it says something new, until it stops.
async fn watch(cluster: Cluster, node: Node, boot: u64) {
    let mut watch = node.watch();
    let trace = &cluster.world.trace;
    let mut seen = (0, Role::Stopped, None);
    loop {
        let status = watch.changed().await;
        let now = (status.term, status.role, status.leader);
        if now != seen {
            seen = now;
            let (term, role, leader) = (now.0, now.1.as_str(), now.2);
            let id = status.node_id;
            trace.event(format_args!(
                "node {id} is {role} of term {term} under {leader:?}"
            ));
        }
        if status.role == Role::Stopped {
            let stopped = status.stopped.unwrap_or_default();
            let expected = ["it was killed", "it was shut down", "the last handle was dropped"];
            let host = cluster.host(status.node_id);
            let on_dead_disk = host.is_none_or(|host| host.disk().is_off() || host.boots() != boot);
            let removed = status.removed && host.is_some_and(Host::is_retired);
            if !expected.contains(&stopped.as_str()) && !on_dead_disk && !removed {
                trace.violation(format!("node {} stopped by itself: {stopped}", status.node_id));
            }
            return;
        }
        cluster.look(&node, boot).await;
    }
}
