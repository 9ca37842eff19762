//! What a node answers to programs that read its state or look for the leader.

use std::{sync::Arc, time::Duration};

use rivven_transport::{Caller, Rejection};
use tokio::time::{Instant, timeout};

use super::propose::not_allowed;
use crate::{
    Consistency, ReadError, StateMachine,
    node::Inner,
    wire::client::{MAX_QUERY_WAIT_MS, WireMembers, WireQuery, WireQueryResponse, WireWait},
};

/// Reads for a program outside. The leader answers what must not be stale: one round to it, and none from there.
pub(super) async fn query<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    query: WireQuery,
) -> Result<WireQueryResponse, Rejection> {
    let Some(role) = caller.role else {
        return Ok(WireQueryResponse::Refused(not_allowed(None)));
    };
    let leader = node.leader().ok().flatten();
    if query.consistency != Consistency::Stale && leader != Some(node.node_id) {
        return Ok(WireQueryResponse::NotLeader { leader });
    }
    let node = match query.wait {
        Some(wait) => match applied_beyond(node, wait).await {
            Some(node) => node,
            None => return Err(super::stopped("it has been dropped")),
        },
        None => node,
    };
    let within = caller.deadline.saturating_duration_since(Instant::now());
    let read = node
        .read_state(query.consistency, within, |machine| {
            machine.query(role, &query.body)
        })
        .await;
    Ok(match read {
        Ok(read) => match read.value {
            Ok(body) => WireQueryResponse::Answer {
                applied_index: read.applied_index,
                body: body.into(),
            },
            Err(refusal) => WireQueryResponse::Refused(refusal),
        },
        Err(ReadError::Refused(refusal)) => WireQueryResponse::Refused(refusal),
        Err(error) => WireQueryResponse::Failed {
            cause: error.to_string(),
        },
    })
}

/// Waits until `node` has applied more, stops, or the time is over. It does not keep the node alive meanwhile.
async fn applied_beyond<S: StateMachine>(node: Arc<Inner<S>>, wait: WireWait) -> Option<Arc<Inner<S>>> {
    let at_most = Duration::from_millis(wait.at_most_ms.min(MAX_QUERY_WAIT_MS).into());
    let mut applied = node.shared.watch_applied();
    let source = Arc::clone(&node.source);
    let waiting = Arc::downgrade(&node);
    drop(node);
    let moved = async {
        tokio::select! {
            _ = applied.wait_for(|applied| *applied > wait.beyond) => {}
            () = source.until_stopped() => {}
        }
    };
    // That nothing happened is an answer too.
    let _ = timeout(at_most, moved).await;
    waiting.upgrade()
}

/// Who the members are, as far as this node knows.
pub(super) async fn members<S: StateMachine>(
    node: Arc<Inner<S>>,
    _caller: Caller,
    (): (),
) -> Result<WireMembers, Rejection> {
    Ok(WireMembers {
        leader: node.source.confirmed_leader().ok().flatten(),
        nodes: node.source.addresses(),
    })
}
