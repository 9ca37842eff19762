//! What a node answers its peers.

pub(crate) mod propose;
mod query;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
};

use futures_util::poll;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, TransferLeaderError, TransferLeaderRequest};
use rivven_transport::{Caller, Method, Rejection, Router};
use rivven_types::NodeId;

use crate::{
    StateMachine, hint,
    membership::{self, AskMembership, RemovedNotice},
    node::Inner,
    read::{Freshness, ReadIndexFailure},
    reception, repair,
    wire::{
        AppendEntries, DigestUpTo, Heartbeat, Ping, ReadIndex, RequestPreVote, RequestVote, SupportedLevels,
        TransferLeader, TransferTo, WireAppend, WireAppendResponse, WireReadIndexResponse, WireTransfer,
        WireTransferResponse, WireTransferToResponse, WireVote, WireVoteRequest, WireVoteResponse,
        client::{HeldReply, Members, ProposeMany, Query},
    },
};

/// Registers every method. The table holds the node weakly: dropping its last handle stops it.
pub(crate) fn register<S: StateMachine>(router: &Router, node: &Arc<Inner<S>>) {
    route::<RequestVote, S, _, _>(router, node, request_vote);
    route::<RequestPreVote, S, _, _>(router, node, request_pre_vote);
    route::<AppendEntries, S, _, _>(router, node, append_entries);
    route::<Heartbeat, S, _, _>(router, node, append_entries);
    route::<TransferLeader, S, _, _>(router, node, transfer_leader);
    route::<ProposeMany, S, _, _>(router, node, propose::propose_many);
    route::<HeldReply, S, _, _>(router, node, propose::held_reply);
    route::<ReadIndex, S, _, _>(router, node, read_index);
    route::<Query, S, _, _>(router, node, query::query);
    route::<Members, S, _, _>(router, node, query::members);
    route::<TransferTo, S, _, _>(router, node, transfer_to);
    route::<SupportedLevels, S, _, _>(
        router,
        node,
        |node, _, ()| async move { Ok(node.supported.clone()) },
    );
    route::<DigestUpTo, S, _, _>(router, node, |node, _, upto| async move {
        let kept = node.shared.read_system(|system| system.chain.kept_upto(upto));
        Ok(kept.await)
    });
    route::<AskMembership, S, _, _>(router, node, membership::answer);
    route::<RemovedNotice, S, _, _>(router, node, removed);
    route::<Ping, S, _, _>(router, node, |_, _, ()| async { Ok(()) });
    reception::register(router, node);
    hint::register(router, node);
    repair::register(router, node);
}

fn route<M, S, F, Fut>(router: &Router, node: &Arc<Inner<S>>, handler: F)
where
    M: Method,
    S: StateMachine,
    F: Fn(Arc<Inner<S>>, Caller, M::Request) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<M::Response, Rejection>> + Send + 'static,
{
    let node: Weak<Inner<S>> = Arc::downgrade(node);
    router.register::<M, _, _>(move |caller, request| {
        let node = running(&node);
        async move {
            let node = node?;
            node.shared.gate().vet(&caller)?;
            handler(node, caller, request).await
        }
    });
}

/// The node, if it has not stopped.
pub(crate) fn running<S: StateMachine>(node: &Weak<Inner<S>>) -> Result<Arc<Inner<S>>, Rejection> {
    let node = node.upgrade().filter(|node| node.stop_reason().is_none());
    node.ok_or_else(|| Rejection::new("not-running", "the Raft node of this process has stopped"))
}

/// A leader or candidate speaks only for itself: the vote must be the caller's own.
pub(crate) fn own_vote(caller: &Caller, vote: WireVote) -> Result<(), Rejection> {
    if caller.peer.node == vote.node {
        return Ok(());
    }
    tracing::warn!(
        caller = caller.peer.node,
        claimed = vote.node,
        "refused a message in another node's name"
    );
    Err(Rejection::new(
        "sender-mismatch",
        "the message names another node than its sender",
    ))
}

/// A node that has just started does not know to whom it has promised not to elect another.
fn may_vote<S: StateMachine>(node: &Inner<S>) -> Result<(), Rejection> {
    if node.promise.as_ref().is_none_or(|promise| !promise.may_bind()) {
        return Ok(());
    }
    let message = "the node has just started and votes once a lease from before has run out";
    Err(Rejection::new("lease-from-before", message))
}

pub(crate) fn stopped(fatal: impl std::fmt::Display) -> Rejection {
    Rejection::new("not-running", format!("the Raft node does not run: {fatal}"))
}

pub(crate) fn malformed(error: impl std::fmt::Display) -> Rejection {
    Rejection::new("malformed-request", error.to_string())
}

async fn request_vote<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    request: WireVoteRequest,
) -> Result<WireVoteResponse, Rejection> {
    own_vote(&caller, request.vote)?;
    may_vote(&node)?;
    let raft = node.raft().map_err(stopped)?;
    let asked = raft.call(|raft| async move { raft.vote(request.into()).await });
    let response = asked.await.map_err(stopped)?;
    Ok(response.into())
}

async fn request_pre_vote<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    request: WireVoteRequest,
) -> Result<WireVoteResponse, Rejection> {
    own_vote(&caller, request.vote)?;
    may_vote(&node)?;
    let raft = node.raft().map_err(stopped)?;
    let asked = raft.call(|raft| async move { raft.pre_vote(request.into()).await });
    let response = asked.await.map_err(stopped)?;
    Ok(response.into())
}

async fn append_entries<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    request: WireAppend,
) -> Result<WireAppendResponse, Rejection> {
    own_vote(&caller, request.vote)?;
    let leader = request.vote;
    let request = AppendEntriesRequest::try_from(request).map_err(malformed)?;
    let raft = node.raft().map_err(stopped)?;
    let end = request.entries.last().map(|entry| entry.log_id.index);
    if end.is_some() {
        let log_end = node.source.metrics().borrow_watched().last_log_index;
        let prev = request.prev_log_id.map(|id| id.index);
        node.arrivals.turn(leader, prev, log_end).await;
    }
    let passing = Arc::clone(&node);
    let asked = raft.call(|raft| async move {
        let mut appending = pin!(raft.append_entries(request));
        // The first poll puts it into the core's queue.
        let first = poll!(appending.as_mut());
        if let Some(end) = end {
            passing.arrivals.pass(leader, end);
        }
        match first {
            Poll::Ready(appended) => appended,
            Poll::Pending => appending.await,
        }
    });
    let response = asked.await.map_err(stopped)?;
    Ok(response.into())
}

async fn transfer_leader<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    request: WireTransfer,
) -> Result<WireTransferResponse, Rejection> {
    own_vote(&caller, request.from)?;
    let last_log_id = request.last_log_id.map(Into::into);
    let request = TransferLeaderRequest::new(request.from.into(), request.to, last_log_id);
    let raft = node.raft().map_err(stopped)?;
    let asked = raft.call(|raft| async move { raft.handle_transfer_leader(request).await });
    let response = asked.await.map_err(stopped)?;
    Ok(match response {
        Ok(()) => WireTransferResponse::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => WireTransferResponse::VoteChanged {
            expected: expected.into(),
            actual: actual.into(),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => WireTransferResponse::LogNotFlushed {
            expected: expected.map(Into::into),
            actual: actual.map(Into::into),
        },
    })
}

/// The leader says that this node is no member any more.
async fn removed<S: StateMachine>(node: Arc<Inner<S>>, caller: Caller, (): ()) -> Result<(), Rejection> {
    if node.leader().ok().flatten() == Some(caller.peer.node) {
        node.source.remove();
    }
    Ok(())
}

async fn read_index<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    how: Freshness,
) -> Result<WireReadIndexResponse, Rejection> {
    Ok(match node.read_index_here(how, caller.deadline).await {
        Ok(index) => WireReadIndexResponse::Index(index),
        Err(ReadIndexFailure::NotLeader(leader)) => WireReadIndexResponse::NotLeader { leader },
        Err(ReadIndexFailure::Unconfirmed(cause) | ReadIndexFailure::Stopped(cause)) => {
            WireReadIndexResponse::Failed { cause }
        }
    })
}

async fn transfer_to<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    to: NodeId,
) -> Result<WireTransferToResponse, Rejection> {
    let leader = node.leader().map_err(stopped)?;
    if leader != Some(node.node_id) {
        return Ok(WireTransferToResponse::NotLeader { leader });
    }
    Ok(match node.hand_over(to, caller.deadline).await {
        // One that has not caught up in time is told apart by the caller, who sees who leads.
        Ok(true | false) => WireTransferToResponse::Started,
        Err(cause) => WireTransferToResponse::Stopped { cause },
    })
}
