//! The death of the leader's process, noticed before its election timeout.
//!
//! Whoever kills a process leaves its host alive, and the host refuses what is sent to the port where nobody listens
//! any more. A voter that is told so, and hears from another voter that it is told the same, stands for election at
//! once, as if the leader had handed over (Raft dissertation, section 3.10): that ends the leases that the other
//! voters still hold. It is a hint and no proof, so it may be wrong at the price of one needless election: a term
//! still has at most one leader, and who leads still has everything that was acknowledged. What it would break are
//! lease reads, and while those are on it is off.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use openraft::{async_runtime::watch::WatchReceiver, raft::TransferLeaderRequest};
use rivven_transport::{CallCtx, Class, Method, Rejection, Router};
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{StateMachine, node::Inner, service::running};

/// How long a host may take to refuse. On one network it takes less than a millisecond; later is as good as never,
/// since the election timeout is not far.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long another voter may take to say whether it is refused too.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(50);

/// Pause between two elections that this node stands for by a hint. A host that refuses by mistake must not keep a
/// group electing.
const REST: Duration = Duration::from_secs(5);

/// The leader whose process may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    node: NodeId,
    term: u64,
}

/// Asks another voter whether the leader's host refuses it too.
#[derive(Debug)]
struct ConfirmDeath;

impl Method for ConfirmDeath {
    const ID: u16 = 0x0108;
    const NAME: &'static str = "raft.confirm-death";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 16;
    type Request = Suspect;
    /// The last index in the log of a voter that is refused too.
    type Response = Option<u64>;
}

/// Registers what a voter answers to another in doubt.
pub(crate) fn register<S: StateMachine>(router: &Router, node: &Arc<Inner<S>>) {
    let node = Arc::downgrade(node);
    router.register::<ConfirmDeath, _, _>(move |_caller, suspect| {
        let node = running(&node);
        async move { Ok::<_, Rejection>(confirm(&*node?, suspect).await) }
    });
}

/// How long the log of this node is, if it follows the suspect too and is refused by its host.
async fn confirm<S: StateMachine>(node: &Inner<S>, suspect: Suspect) -> Option<u64> {
    leader(node).filter(|leader| *leader == suspect)?;
    let refused = node.transport.refused(suspect.node, PATIENCE).await;
    refused.then(|| last_index(node))
}

fn last_index<S: StateMachine>(node: &Inner<S>) -> u64 {
    node.source.metrics().borrow_watched().last_log_index.unwrap_or(0)
}

/// The leader that this node follows as a voter.
fn leader<S: StateMachine>(node: &Inner<S>) -> Option<Suspect> {
    let metrics = node.source.metrics();
    let metrics = metrics.borrow_watched();
    let voter = metrics
        .membership_config
        .voter_ids()
        .any(|voter| voter == node.node_id);
    let leader = metrics
        .current_leader
        .filter(|leader| *leader != node.node_id && voter)?;
    Some(Suspect {
        node: leader,
        term: metrics.current_term,
    })
}

/// Knocks at the leader's host as long as the node runs, and acts on a refusal that another voter confirms.
pub(crate) async fn watch_leader<S: StateMachine>(node: Weak<Inner<S>>, interval: Duration) {
    let mut rested = Instant::now();
    loop {
        sleep(interval).await;
        // Not held across the pause: the last handle ends the node.
        let Some(node) = node.upgrade() else { return };
        let Some(suspect) = leader(&node).filter(|_| Instant::now() >= rested) else {
            continue;
        };
        if !node.transport.refused(suspect.node, PATIENCE).await {
            continue;
        }
        let others = others_that_are_refused(&node, suspect).await;
        if others.is_empty() {
            continue;
        }
        rested = Instant::now() + REST;
        if !is_first((last_index(&node), node.node_id), &others) || leader(&node) != Some(suspect) {
            continue;
        }
        tracing::info!(
            node_id = node.node_id,
            leader = suspect.node,
            term = suspect.term,
            "the leader's process has ended; standing for election"
        );
        stand(&node).await;
    }
}

/// Whether this voter stands: another one confirms, and none of them has a longer log or, with the same, a lower id.
/// They all come to the same answer, so their votes are not split.
fn is_first((index, id): (u64, NodeId), others: &[(u64, NodeId)]) -> bool {
    let before = |(other, other_id): &(u64, NodeId)| *other > index || (*other == index && *other_id < id);
    !others.is_empty() && !others.iter().any(before)
}

/// The other voters whom the leader's host refuses too, with the ends of their logs.
async fn others_that_are_refused<S: StateMachine>(node: &Inner<S>, suspect: Suspect) -> Vec<(u64, NodeId)> {
    let voters = node.status().voters;
    let others = voters
        .into_iter()
        .filter(|voter| ![node.node_id, suspect.node].contains(voter));
    let ask = |other| async move {
        let ctx = CallCtx::timeout(CONFIRM_TIMEOUT);
        let answer = node.transport.call::<ConfirmDeath>(other, &suspect, ctx).await;
        Some((answer.ok()??, other))
    };
    join_all(others.map(ask)).await.into_iter().flatten().collect()
}

/// Stands for election in a way that ends the leases of the others.
async fn stand<S: StateMachine>(node: &Inner<S>) {
    let vote = node.current_vote();
    // What this node has is enough: whoever has more does not vote for it.
    let request = TransferLeaderRequest::new(vote, node.node_id, None);
    let Ok(raft) = node.raft() else { return };
    let stood = raft.call(|raft| async move { raft.handle_transfer_leader(request).await });
    match stood.await {
        Ok(Ok(())) => {}
        Ok(Err(refused)) => tracing::debug!(%refused, "could not stand for election"),
        Err(fatal) => tracing::debug!(%fatal, "could not stand for election"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_voter_stands_the_one_with_the_longest_log_and_never_without_another() {
        let check = |own, others: &[(u64, NodeId)], expected| {
            assert_eq!(is_first(own, others), expected, "{own:?} among {others:?}");
        };
        check((9, 1), &[], false);
        check((9, 1), &[(9, 2)], true);
        check((9, 2), &[(9, 1)], false);
        check((9, 2), &[(8, 1), (9, 3)], true);
        check((9, 1), &[(8, 2), (10, 3)], false);
    }
}
