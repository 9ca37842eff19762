//! The controller: the Raft leader, bringing the partitions in line with who is alive.
//!
//! It remembers nothing but where to look. Whatever it decides follows from the replicated state and from
//! what gossip and its own probes say at this moment (`rivven_partition::Reconciler`), so a new controller
//! takes up where the old one died.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rivven_partition::{Liveness, NodeStatus, PartitionCommand, PartitionState, Policy, Reconciler};
use rivven_raft::{Consistency, RaftNode, RaftWatch, Role};
use rivven_swim::{MemberState, MemberView};
use rivven_types::NodeId;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{clock, inner::Inner, probe, state::ClusterState};

/// How often the controller looks even though nothing has changed: balancing waits for time to pass, and
/// a refused command is to be decided again.
const TICK: Duration = Duration::from_secs(1);

/// How long one decision may take to be committed.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a leader that holds data may take to let go of a partition before another one is elected all the same.
const RELEASE_MS: u64 = 10_000;

/// Rounds in a row before other work gets its turn; each round moves tens of thousands of leaders.
const MAX_ROUNDS: usize = 16;

/// Stands for this process where the map has another data directory under its id. No node has this id.
const WHOEVER_ASKS: NodeId = 0;

/// What gossip and the node's own start say about a member before anybody is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// Nothing to check.
    Settled(Liveness),
    /// Believed gone: this, unless it answers the controller's own probe.
    Doubted(Liveness),
}

/// Acts whenever this node leads the Raft group. Never returns.
pub(crate) async fn run(inner: Arc<Inner>, raft: RaftNode<ClusterState>) {
    let mut status = raft.watch();
    let mut changes = inner.published.subscribe();
    let mut events = inner.swim.events();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reign: Option<(u64, Instant)> = None;
    let mut reconciler = Reconciler::default();
    loop {
        let now = raft.status();
        if now.role == Role::Leader {
            let since = match reign {
                Some((term, since)) if term == now.term => since,
                _ => {
                    tracing::info!(node_id = now.node_id, term = now.term, "became controller");
                    let since = Instant::now();
                    reign = Some((now.term, since));
                    since
                }
            };
            for _ in 0..MAX_ROUNDS {
                if !round(&inner, &mut reconciler, since).await {
                    break;
                }
            }
        } else {
            reign = None;
            // What it has indexed is of use to a controller alone, and takes memory.
            reconciler = Reconciler::default();
        }
        tokio::select! {
            biased;
            () = reign_changed(&mut status, (now.role, now.term)) => {}
            _ = changes.changed() => {}
            Some(_) = events.next() => {}
            _ = tick.tick() => {}
        }
    }
}

/// Waits until who leads has changed. The status changes with every write, which is none of the controller's
/// business.
async fn reign_changed(status: &mut RaftWatch, seen: (Role, u64)) {
    loop {
        let now = status.changed().await;
        if (now.role, now.term) != seen {
            return;
        }
    }
}

/// One decision on the newest state. `true` if something was changed, so that there may be more to do.
async fn round(inner: &Inner, reconciler: &mut Reconciler, since: Instant) -> bool {
    // A quorum confirms that this node still leads, and the state has all that was committed before.
    let state = inner.read(Consistency::Linearizable, PROPOSE_TIMEOUT, |state| {
        state.partitions.clone()
    });
    let state = match state.await {
        Ok(read) => read.value,
        Err(error) => {
            tracing::debug!(node_id = inner.local.node, %error, "the controller cannot read its state");
            return false;
        }
    };
    let policy = Policy {
        in_sync: state.map().effective().in_sync(),
        // Whoever is elected waits out the lease of its predecessor, by its own clock (`duty::machine`).
        lease_ms: 0,
        release_ms: RELEASE_MS,
    };
    if reconciler.policy() != policy {
        *reconciler = Reconciler::new(policy);
    }
    let liveness = liveness(inner, &state, since).await;
    let mut changed = false;
    let decided = reconciler.reconcile(&state, &liveness, clock::unix_ms());
    for command in decided.into_iter().chain(exile(inner, &state)) {
        let what = describe(&command);
        match inner.propose_partitions(command, PROPOSE_TIMEOUT).await {
            Ok(_) => {
                tracing::info!(
                    node_id = inner.local.node,
                    decision = what,
                    "the controller decided"
                );
                changed = true;
            }
            Err(error) => {
                tracing::warn!(node_id = inner.local.node, decision = what, %error, "a decision failed");
                return false;
            }
        }
    }
    changed
}

/// Takes nodes that are no members any more out of the assignments, once they lead nothing.
fn exile(inner: &Inner, state: &PartitionState) -> Vec<PartitionCommand> {
    let shut_out = state.map().nodes().filter(|node| {
        let registration = &node.registration;
        node.status != NodeStatus::Removed
            && inner.is_shut_out(registration.node, registration.instance)
            && state.map().leaders_of(registration.node) == 0
    });
    let exiled = shut_out.map(|node| PartitionCommand::SetNodeStatus {
        node: node.registration.node,
        boot_epoch: node.registration.boot_epoch,
        status: NodeStatus::Removed,
        at_ms: clock::unix_ms(),
    });
    exiled.collect()
}

/// Who lives: gossip's word, except that nobody is dead who answers a probe.
async fn liveness(inner: &Inner, state: &PartitionState, since: Instant) -> BTreeMap<NodeId, Liveness> {
    // After this long a member that gossip has never mentioned is no longer merely late.
    let unheard_of = since.elapsed() >= 2 * inner.config.suspect_timeout;
    let founding = inner.founders.accepted().map(|founding| founding.id);
    let nodes = state
        .map()
        .nodes()
        .filter(|node| node.status != NodeStatus::Removed);
    let judged = nodes.map(|node| {
        let id = node.registration.node;
        let (instance, epoch) = (node.registration.instance, node.registration.boot_epoch);
        async move {
            // Whoever is no member any more leads nothing, alive or not.
            if inner.is_shut_out(id, instance) {
                return (id, Liveness::Dead);
            }
            if id == inner.local.node {
                return (id, Liveness::Alive);
            }
            let view = inner.swim.member(id);
            let view = view.filter(|view| view.instance == instance && view.boot_epoch >= epoch);
            match evidence(view.as_ref(), unheard_of) {
                Evidence::Settled(life) => (id, life),
                Evidence::Doubted(_) if probe::answers(&inner.transport, id, founding).await => {
                    (id, Liveness::Suspect)
                }
                Evidence::Doubted(life) => (id, life),
            }
        }
    });
    let mut judged: BTreeMap<NodeId, Liveness> = join_all(judged).await.into_iter().collect();
    // In a cluster that began anew the map knows of nobody else but disks that were given up.
    if judged.get(&inner.local.node) != Some(&Liveness::Alive) {
        judged.insert(WHOEVER_ASKS, Liveness::Alive);
    }
    judged
}

/// What gossip says of a member, whose news of earlier starts were left out.
fn evidence(view: Option<&MemberView>, unheard_of: bool) -> Evidence {
    let Some(view) = view else {
        return if unheard_of {
            Evidence::Doubted(Liveness::Dead)
        } else {
            Evidence::Settled(Liveness::Unknown)
        };
    };
    match view.state {
        MemberState::Alive => Evidence::Settled(Liveness::Alive),
        MemberState::Suspect if view.confirmed => Evidence::Doubted(Liveness::Dead),
        MemberState::Suspect => Evidence::Settled(Liveness::Suspect),
        MemberState::Dead => Evidence::Doubted(Liveness::Dead),
        MemberState::Left => Evidence::Doubted(Liveness::Left),
    }
}

fn describe(command: &PartitionCommand) -> String {
    match command {
        PartitionCommand::ChangePartitions { changes, .. } => format!("change {} partitions", changes.len()),
        PartitionCommand::SetNodeStatus { node, status, .. } => format!("node {node} is {status:?}"),
        PartitionCommand::RegisterNode(registration) => format!("register node {}", registration.node),
        PartitionCommand::CreateTopic { name, .. } => format!("create topic {name}"),
        PartitionCommand::DeleteTopic { name } => format!("delete topic {name}"),
        PartitionCommand::Rebalance(command) => format!("rebalance: {command:?}"),
        PartitionCommand::SetNodeWeight { .. }
        | PartitionCommand::AddPartitions { .. }
        | PartitionCommand::SetReplicationFactor { .. }
        | PartitionCommand::Configure { .. }
        | PartitionCommand::ReportInSync { .. }
        | PartitionCommand::Release { .. }
        | PartitionCommand::ElectUnclean(_) => "not the controller's to decide".into(),
    }
}
