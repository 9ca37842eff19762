//! Leaving in order: nothing is handed out any more, then leaderships move, then the node goes.

use std::{collections::BTreeSet, time::Duration};

use rivven_partition::{NodeStatus, PartitionCommand};
use rivven_raft::{RaftNode, Role};
use rivven_swim::MemberState;
use rivven_types::NodeId;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    clock,
    inner::{Inner, Stage},
    state::ClusterState,
};

/// How long partition leaderships may take to move.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look whether enough voters are left.
const QUORUM_INTERVAL: Duration = Duration::from_millis(100);

/// How long the goodbye may take to spread.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long calls in flight may take to end.
const TRANSPORT_GRACE: Duration = Duration::from_secs(1);

/// How long tasks may take to end.
const TASK_GRACE: Duration = Duration::from_secs(5);

/// What a shutdown achieved. Whatever it did not, the others make up for, as after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Partitions this node led when the shutdown began.
    pub led: u64,
    /// Partitions it still led at its end, because nobody else could or in time.
    pub still_led: u64,
    /// Who leads the Raft group in its place, if it led.
    pub leadership_to: Option<NodeId>,
    /// What did not work, for people.
    pub warnings: Vec<String>,
}

impl Inner {
    /// Leaves in order. The second caller gets the report of the first.
    pub(crate) async fn shutdown(&self) -> ShutdownReport {
        let mut done = self.report.lock().await;
        if let Some(report) = &*done {
            return report.clone();
        }
        self.stage.send_replace(Stage::Stopping);
        tracing::info!(node_id = self.local.node, "shutting down");
        let mut report = ShutdownReport::default();
        if let Some(raft) = self.raft.get() {
            self.drain(raft, &mut report).await;
            self.hand_over(raft, &mut report).await;
        }
        // Failing to be heard is like crashing, which the others cope with.
        if timeout(LEAVE_TIMEOUT, self.swim.leave()).await.is_err() {
            report.warnings.push("the goodbye was not heard in time".into());
        }
        self.stop(&mut report).await;
        tracing::info!(node_id = self.local.node, ?report, "shut down");
        *done = Some(report.clone());
        report
    }

    /// Ends everything at once, as a crash would: no goodbye, no hand-over.
    pub(crate) async fn kill(&self) {
        let mut done = self.report.lock().await;
        let mut report = ShutdownReport::default();
        self.stop(&mut report).await;
        done.get_or_insert(report);
    }

    fn led(&self) -> u64 {
        let led = self
            .published
            .read(|state| state.map().leaders_of(self.local.node));
        led.into()
    }

    /// Partitions this node leads although another node could.
    fn movable(&self) -> usize {
        let local = self.local.node;
        self.published.read(|state| {
            let map = state.map();
            let able = |node: NodeId| {
                let active = map
                    .node(node)
                    .is_some_and(|node| node.status == NodeStatus::Active && node.weight() > 0);
                node != local && active && self.is_alive(node)
            };
            let partitions = map.topics().flat_map(|topic| topic.partitions());
            let led = partitions.filter(|partition| partition.leader() == Some(local));
            led.filter(|partition| partition.in_sync().any(able)).count()
        })
    }

    fn is_alive(&self, node: NodeId) -> bool {
        let view = self.swim.member(node);
        view.is_some_and(|view| view.state == MemberState::Alive)
    }

    /// Other voters that are alive, as far as gossip knows.
    fn live_voters(&self, voters: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let others = voters.iter().copied().filter(|voter| *voter != self.local.node);
        others.filter(|voter| self.is_alive(*voter)).collect()
    }

    /// Waits until too few voters are left to decide anything.
    async fn quorum_lost(&self, raft: &RaftNode<ClusterState>) {
        loop {
            let voters = raft.status().voters;
            if self.live_voters(&voters).len() < voters.len() / 2 {
                return;
            }
            tokio::time::sleep(QUORUM_INTERVAL).await;
        }
    }

    /// Marks this node as leaving and waits until it leads no partition that another could lead.
    ///
    /// The mark is bound to the boot epoch, so it ends with this process whatever happens.
    async fn drain(&self, raft: &RaftNode<ClusterState>, report: &mut ShutdownReport) {
        report.led = self.led();
        if raft.status().voters.len() > 1 {
            let drained = tokio::select! {
                biased;
                drained = timeout(DRAIN_TIMEOUT, self.drained()) => {
                    drained.unwrap_or_else(|_| Err("not everything was handed over in time".into()))
                }
                () = self.quorum_lost(raft) => Err("too few voters are left to hand anything over".into()),
            };
            report.warnings.extend(drained.err());
        }
        report.still_led = self.led();
    }

    async fn drained(&self) -> Result<(), String> {
        let mut changes = self.published.subscribe();
        let mark = PartitionCommand::SetNodeStatus {
            node: self.local.node,
            boot_epoch: self.local.boot_epoch,
            status: NodeStatus::Draining,
            at_ms: clock::unix_ms(),
        };
        let marked = self.propose_partitions(mark, DRAIN_TIMEOUT).await;
        marked.map_err(|error| format!("not marked as leaving: {error}"))?;
        while self.movable() > 0 {
            // The sender lives as long as this node.
            changes.changed().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Hands the Raft leadership to the first live voter that takes it.
    async fn hand_over(&self, raft: &RaftNode<ClusterState>, report: &mut ShutdownReport) {
        let status = raft.status();
        if status.role != Role::Leader {
            return;
        }
        for voter in self.live_voters(&status.voters) {
            match raft.transfer_leader(voter).await {
                Ok(()) => {
                    report.leadership_to = Some(voter);
                    return;
                }
                Err(error) => report
                    .warnings
                    .push(format!("node {voter} did not take over: {error}")),
            }
        }
    }

    /// Ends Raft, gossip, tasks and transport, in this order, and gives the directory back.
    async fn stop(&self, report: &mut ShutdownReport) {
        self.tasks.abort();
        if let Some(raft) = self.raft.get() {
            raft.shutdown().await;
        }
        self.swim.shutdown().await;
        self.transport.shutdown(TRANSPORT_GRACE).await;
        self.router.clear();
        if !self.tasks.join(TASK_GRACE).await {
            report.warnings.push("some tasks did not end in time".into());
        }
        self.dir
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        self.stage.send_replace(Stage::Stopped);
    }
}
