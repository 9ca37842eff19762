//! What the controller does about who is alive: a function of the state, with an index to be quick about it.

mod balance;
mod batch;
mod index;
mod repair;
#[cfg(test)]
mod tests;
mod verdict;
mod view;

use std::collections::BTreeMap;

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use self::{
    index::{Attention, Index, ordered},
    verdict::Verdict,
    view::View,
};
use crate::{
    MAX_CHANGES_PER_RECONCILE, MAX_STATUS_CHANGES_PER_RECONCILE, NodeStatus, PartitionCommand,
    PartitionState, RebalanceCommand, RebalanceStatus, cell::Cell, ids::Spot,
};

/// What is known of a member's life, as the controller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It may be dead. It keeps what it has and is given nothing. Who wants to act on a confirmed suspicion
    /// (and a failed probe of its own) says [`Self::Dead`].
    Suspect,
    /// It is dead: confirmed by others, and out of the controller's own reach.
    Dead,
    /// It said goodbye.
    Left,
    /// Nothing was heard of it yet, as after the controller's own start. Treated like [`Self::Suspect`]; the
    /// caller turns it into [`Self::Dead`] once the node has had time to be heard of.
    Unknown,
}

/// Who says which replicas are in sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InSyncRule {
    /// Replicas hold nothing but their metadata: a live assigned replica counts as in sync.
    #[default]
    LiveReplica,
    /// Leaders report it. The controller takes out who is gone and adds nobody.
    Reported,
}

/// What the controller is told about the data that partitions stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who says which replicas are in sync.
    pub in_sync: InSyncRule,
    /// How long a leader may go on without hearing from anybody, in milliseconds. A successor of one that was
    /// found dead, and is not proven to be, waits so long from then. 0, the default, does not wait.
    pub lease_ms: u64,
    /// How long a leader is given to let go of a partition that moves as planned, in milliseconds. Used with
    /// [`InSyncRule::Reported`]; 0, the default, does not wait.
    pub release_ms: u64,
}

/// How long a rebalance may be in the hands of whoever fills it; the controller cancels it then.
const FILL_LIMIT_MS: u64 = 60_000;

/// The controller's decisions, and an index of what it has seen so that each costs what has changed and not
/// what there is.
///
/// The index is a hint and can be lost: one that starts empty decides the same, after a look at everything.
///
/// Give every answer to the log, then ask again: each command carries the epochs that it is based on, so one
/// that comes too late is refused and harms nothing.
///
/// - Nodes found dead become [`NodeStatus::Down`], nodes found alive [`NodeStatus::Active`].
/// - A partition whose leader is gone, or draining while another can lead, is led by its in-sync live replica
///   that leads the least for its weight. All such changes are one command as long as they fit into one.
/// - A partition with no live in-sync replica has no leader until one returns; its in-sync replicas stay
///   recorded.
/// - Replicas of nodes that were removed, have weight 0 or have been down for longer than a hold (which
///   doubles with each flap) are rebuilt elsewhere, replication factors are kept, and the rebalance under
///   way goes on, within the limits of the settings. A replica leaves only when its successor is in sync.
/// - When nothing else is to do, leaders are balanced over nodes that are alive and have been so for a while.
///
/// If nobody is alive, the view is wrong, since whoever asks is: nothing is done. Where nothing is to do, the
/// answer is empty.
#[derive(Debug, Default)]
pub struct Reconciler {
    policy: Policy,
    index: Index,
    /// What balancing was tried on last, in vain.
    rest: Option<balance::Rest>,
}

impl Reconciler {
    /// One that has seen nothing yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// What it was told about the data. With another policy begin with another one.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// The commands that bring the state in line with who is alive; none if it is already.
    ///
    /// `now_ms` is the caller's wall clock; only differences to times in the state matter, and a clock that
    /// differs from the last controller's only shifts a hold.
    pub fn reconcile(
        &mut self,
        state: &PartitionState,
        members: &BTreeMap<NodeId, Liveness>,
        now_ms: u64,
    ) -> Vec<PartitionCommand> {
        if !members.values().any(|life| *life == Liveness::Alive) {
            return Vec::new();
        }
        let map = state.map();
        let mut view = View::new(map, members, self.policy, now_ms);
        let repairs = self.repairs(&mut view);
        let quiet = repairs.elections.is_empty() && repairs.others.is_empty();
        let steps = if repairs.elections.is_empty() {
            repair::steps(&mut self.index, &mut view)
        } else {
            Vec::new()
        };
        let mut commands: Vec<PartitionCommand> = statuses(&view).collect();
        commands.extend(batch::commands(&view, repairs.elections));
        commands.extend(batch::commands(&view, repairs.others));
        let rebalance = rebalance(&view);
        // Leaderships on their way are counted where they come from, so balancing would ask for too many.
        let calm = quiet && !repairs.waits && steps.is_empty() && rebalance.is_none();
        commands.extend(batch::commands(&view, steps));
        commands.extend(rebalance);
        if calm {
            let moves = balance::moves(&view, &mut self.rest);
            commands.extend(batch::commands(&view, moves));
        }
        commands
    }

    /// Changes that life and death make necessary.
    fn repairs(&mut self, view: &mut View<'_>) -> Repairs {
        let mut found = Found::default();
        match self.index.attention(view) {
            Attention::All => {
                for (spot, cell) in view.map.topics.cells() {
                    found.look(spot, Some(cell), view, &mut self.index);
                }
            }
            Attention::Some { first, rest } => {
                let mut cursor = view.map.topics.cursor();
                for spot in &first {
                    found.look(*spot, cursor.cell(*spot), view, &mut self.index);
                }
                if found.elections.is_empty() {
                    let rest = ordered(rest).into_iter();
                    for spot in rest.filter(|spot| first.binary_search(spot).is_err()) {
                        found.look(spot, cursor.cell(spot), view, &mut self.index);
                    }
                } else {
                    self.index.defer(rest);
                }
            }
        }
        found.decide(view)
    }
}

/// The answer of a [`Reconciler`] that has seen nothing yet, for replicas that hold only metadata.
#[must_use]
pub fn reconcile(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    now_ms: u64,
) -> Vec<PartitionCommand> {
    Reconciler::default().reconcile(state, members, now_ms)
}

/// Changes decided: those of leaders, or those of in-sync replicas alone.
struct Repairs {
    elections: Vec<Change>,
    others: Vec<Change>,
    /// Whether some leadership is to end once time has passed, or its holder lets go.
    waits: bool,
}

/// A partition and what shall become of it.
pub(crate) struct Change {
    spot: Spot,
    /// Places of the in-sync replicas, as bits of the seats that the partition has.
    in_sync: u32,
    /// Place of the leader.
    leader: Option<usize>,
    step: crate::Step,
}

/// What a look at partitions has found.
#[derive(Default)]
struct Found {
    /// Partitions to elect a leader for, with their in-sync replicas.
    elections: Vec<(Spot, u32)>,
    others: Vec<Change>,
    waits: bool,
}

impl Found {
    fn look(&mut self, spot: Spot, cell: Option<&Cell>, view: &mut View<'_>, index: &mut Index) {
        let Some(cell) = cell else {
            index.forget(spot);
            return;
        };
        match view.verdict(cell) {
            Verdict::Settled => index.settle(spot, cell, view),
            Verdict::Wait => {
                index.wait(spot);
                self.waits = true;
            }
            Verdict::Elect { in_sync } => {
                index.wait(spot);
                if self.elections.len() < MAX_CHANGES_PER_RECONCILE {
                    view.unseat(cell);
                    self.elections.push((spot, in_sync));
                }
            }
            Verdict::Change {
                in_sync,
                leader,
                step,
            } => {
                index.wait(spot);
                if self.elections.is_empty() && self.others.len() < MAX_CHANGES_PER_RECONCILE {
                    self.others.push(Change {
                        spot,
                        in_sync,
                        leader,
                        step,
                    });
                }
            }
        }
    }

    /// Elects: only with all kept leaders counted is it known who leads the least.
    fn decide(self, view: &mut View<'_>) -> Repairs {
        let mut elections = Vec::with_capacity(self.elections.len());
        let mut cursor = view.map.topics.cursor();
        for (spot, in_sync) in self.elections {
            if let Some(cell) = cursor.cell(spot) {
                let leader = view.elect(cell, in_sync);
                elections.push(Change {
                    spot,
                    in_sync,
                    leader,
                    step: crate::Step::Stay,
                });
            }
        }
        // Leaders first: what else there is waits for the next call, which follows at once.
        let mut others = self.others;
        if !elections.is_empty() {
            others.clear();
        }
        let waits = self.waits;
        Repairs {
            elections,
            others,
            waits,
        }
    }
}

/// Statuses that differ from what is seen.
fn statuses(view: &View<'_>) -> impl Iterator<Item = PartitionCommand> {
    let now_ms = view.now_ms;
    let changed = view.map.nodes().filter_map(move |node| {
        let status = match (node.status, view.life(node.id())) {
            (NodeStatus::Joining | NodeStatus::Active, Liveness::Dead | Liveness::Left) => NodeStatus::Down,
            (NodeStatus::Joining | NodeStatus::Down, Liveness::Alive) => NodeStatus::Active,
            _ => return None,
        };
        Some(PartitionCommand::SetNodeStatus {
            node: node.id(),
            boot_epoch: node.registration.boot_epoch,
            status,
            at_ms: now_ms,
        })
    });
    changed.take(MAX_STATUS_CHANGES_PER_RECONCILE)
}

/// The end of a rebalance that has nothing left to do, or of one that nobody goes on filling.
fn rebalance(view: &View<'_>) -> Option<PartitionCommand> {
    let running = view.map.rebalance()?;
    let (id, left) = (running.id, running.queued + running.active);
    let command = match running.status {
        RebalanceStatus::Running if left == 0 => RebalanceCommand::End { id },
        RebalanceStatus::Cancelling if left + running.done == 0 => RebalanceCommand::End { id },
        RebalanceStatus::Filling if view.now_ms.saturating_sub(running.since_ms) > FILL_LIMIT_MS => {
            RebalanceCommand::Cancel { id }
        }
        RebalanceStatus::Running
        | RebalanceStatus::Cancelling
        | RebalanceStatus::Filling
        | RebalanceStatus::Paused => return None,
    };
    Some(PartitionCommand::Rebalance(command))
}
