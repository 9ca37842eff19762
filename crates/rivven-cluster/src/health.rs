//! Named checks: is this node alive, and is it ready?

use rivven_partition::NodeStatus;
use rivven_types::NodeId;

use crate::{
    inner::{Inner, Stage},
    status::Check,
};

/// Committed entries that a ready node may not have applied yet.
const MAX_LAG: u64 = 10_000;

/// Whether the process should go on living. Never asks for a quorum: restarting a healthy node because
/// others are down makes matters worse.
pub(crate) fn liveness(inner: &Inner) -> Vec<Check> {
    vec![raft_not_failed(inner)]
}

/// Whether the node can serve.
pub(crate) fn readiness(inner: &Inner) -> Vec<Check> {
    vec![
        stage(inner),
        founded(inner),
        raft_running(inner),
        raft_leader(inner),
        raft_lag(inner),
        registered(inner),
        gossip_members(inner),
    ]
}

fn stage(inner: &Inner) -> Check {
    match *inner.stage.borrow() {
        Stage::Up => Check::new("not_stopping", true, "running"),
        Stage::Stopping => Check::new("not_stopping", false, "this node is stopping"),
        Stage::Stopped => Check::new("not_stopping", false, "this node has stopped"),
    }
}

fn founded(inner: &Inner) -> Check {
    match (inner.raft.get(), inner.founders.accepted()) {
        (Some(_), Some(founding)) => Check::new("founded", true, format!("founding {}", founding.id)),
        _ => Check::new("founded", false, inner.waiting_for()),
    }
}

/// A node that waits for room on its disk goes on by itself, and one that was removed stays out: a restart
/// would help nobody.
fn raft_not_failed(inner: &Inner) -> Check {
    let status = inner.raft.get().map(rivven_raft::RaftNode::status);
    match status
        .filter(|status| !status.removed)
        .and_then(|status| status.stopped)
    {
        None => Check::new("raft_running", true, "not failed"),
        Some(cause) => Check::new("raft_running", false, cause),
    }
}

fn raft_running(inner: &Inner) -> Check {
    let status = inner.raft.get().map(rivven_raft::RaftNode::status);
    match status.and_then(|status| status.stopped.or(status.suspended)) {
        None => Check::new("raft_running", true, "running"),
        Some(cause) => Check::new("raft_running", false, cause),
    }
}

fn raft_leader(inner: &Inner) -> Check {
    match inner.raft.get().and_then(|raft| raft.status().leader) {
        Some(leader) => Check::new("raft_leader", true, format!("node {leader}")),
        None => Check::new(
            "raft_leader",
            false,
            "no leader is known; a quorum of voters must run",
        ),
    }
}

fn raft_lag(inner: &Inner) -> Check {
    let Some(raft) = inner.raft.get() else {
        return Check::new("raft_lag", false, "Raft has not started");
    };
    let status = raft.status();
    let lag = status
        .commit_index
        .unwrap_or(0)
        .saturating_sub(status.applied_index.unwrap_or(0));
    Check::new(
        "raft_lag",
        lag <= MAX_LAG,
        format!("{lag} committed entries to apply"),
    )
}

fn registered(inner: &Inner) -> Check {
    let local = &inner.local;
    let registered = inner.published.read(|state| {
        let node = state.map().node(local.node);
        node.is_some_and(|node| {
            (node.registration.instance, node.registration.boot_epoch) == (local.instance, local.boot_epoch)
        })
    });
    let detail = if registered {
        "registered"
    } else {
        "this start is not registered yet"
    };
    Check::new("registered", registered, detail)
}

/// Every node that counts as active is at least known to gossip, dead or alive.
fn gossip_members(inner: &Inner) -> Check {
    let unknown: Vec<NodeId> = inner.published.read(|state| {
        let active = state
            .map()
            .nodes()
            .filter(|node| node.status == NodeStatus::Active);
        let ids = active.map(|node| node.registration.node);
        ids.filter(|node| inner.swim.member(*node).is_none()).collect()
    });
    let known = inner
        .swim
        .members()
        .iter()
        .filter(|view| view.state.is_live())
        .count();
    if unknown.is_empty() {
        Check::new("gossip_members", true, format!("{known} members live"))
    } else {
        Check::new(
            "gossip_members",
            false,
            format!("nothing heard of nodes {unknown:?} yet"),
        )
    }
}
