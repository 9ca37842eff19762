//! What a script plays with.

use std::time::Duration;

use rivven_raft::NodeId;

use crate::sim::{chance::Chance, cluster::Cluster, faults::Faults, host::Host, members::Members};

/// How long a script waits for a leader before it goes on without.
pub(super) const LED: Duration = Duration::from_secs(5);

/// What a script plays with.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The machines.
    pub cluster: Cluster,
    /// Counts what is done to them.
    pub faults: Faults,
}

impl Stage {
    pub(super) fn members(&self) -> Members {
        Members::new(&self.cluster, &self.faults)
    }

    pub(super) async fn leader(&self) -> Option<Host> {
        self.cluster.until_led(LED).await
    }

    pub(super) fn others(&self, host: &Host) -> Vec<NodeId> {
        let hosts = self.cluster.hosts().iter();
        hosts.map(Host::id).filter(|id| *id != host.id()).collect()
    }

    /// A machine that is not the leader.
    pub(super) fn follower(&self, leader: &Host, chance: &mut Chance) -> Option<Host> {
        let others = self.others(leader);
        self.cluster.host(*chance.pick(&others)?).cloned()
    }

    pub(super) async fn kill(&self, host: &Host) {
        self.faults.count(|counts| counts.kills += 1);
        host.kill().await;
    }

    /// Parts a machine from all others, both ways.
    pub(super) fn isolate(&self, host: &Host) {
        self.faults.count(|counts| counts.partitions += 1);
        self.cluster.partition(&[host.id()], &self.others(host));
    }

    /// Asks a node to hand leadership over. It may fail for any of the trouble made here.
    pub(super) async fn hand_over(&self, at: &Host, to: &Host) {
        let Some((node, tasks)) = at.node() else { return };
        self.faults.count(|counts| counts.transfers += 1);
        let to = to.id();
        let trace = &self.cluster.world().trace;
        trace.event(format_args!("node {} is asked to have {to} lead", at.id()));
        let _ = tasks.spawn(async move { node.transfer_leader(to).await }).await;
    }
}
