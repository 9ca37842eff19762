//! What a node answers to programs that read its state or look for the leader.

use std::sync::Arc;

use rivven_transport::{Caller, Rejection};
use tokio::time::Instant;

use super::propose::not_allowed;
use crate::{
    Consistency, ReadError, StateMachine,
    node::Inner,
    wire::client::{WireMembers, WireQuery, WireQueryResponse},
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
