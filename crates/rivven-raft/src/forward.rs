//! Proposing by way of a leader elsewhere.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use rivven_transport::{CallCtx, CallError, Outcome, Transport};
use rivven_types::NodeId;
use tokio::time::Instant;

use crate::{
    ProposeError, StateMachine,
    core::Down,
    courier::fetch_held,
    node::Inner,
    propose::Proposal,
    submit::{Attempt, Door, GroupAttempt, Room},
    wire::{WireProposal, WireProposeResponse, client::ProposeMany},
};

/// How long an answer is awaited from a leader that was replaced meanwhile.
///
/// A leader that lives learns of its successor at the same time and answers within a round trip; one that is
/// dead must not hold up its callers. Longer turns fewer outcomes unknown on slow networks, and delays every
/// caller of a dead leader by as much.
pub(crate) const SUPERSEDED_GRACE: Duration = Duration::from_millis(50);

impl<S: StateMachine> Door for Inner<S> {
    fn room(&self) -> &Room {
        &self.room
    }

    async fn attempt(&self, proposal: &Proposal, deadline: Instant) -> Result<Option<Attempt>, Down> {
        let Some(leader) = self.leader()? else {
            return Ok(None);
        };
        if leader == self.node_id {
            return Ok(Some(self.attempt_here(proposal, deadline).await));
        }
        if let Err(cause) = self.reach(leader).await {
            return Ok(Some(Attempt::Again(cause)));
        }
        let call = self.courier.carry(leader, proposal.into(), deadline);
        Ok(Some(match unless_replaced(call, self.replaced(leader)).await {
            Some(response) => answered(leader, response),
            None => Attempt::Ended(Err(replaced(leader))),
        }))
    }

    async fn attempt_group(
        &self,
        group: &[Proposal],
        deadline: Instant,
    ) -> Result<Option<GroupAttempt>, Down> {
        let Some(leader) = self.leader()? else {
            return Ok(None);
        };
        if leader == self.node_id {
            return Ok(Some(self.attempt_group_here(group, deadline).await));
        }
        if let Err(cause) = self.reach(leader).await {
            return Ok(Some(GroupAttempt::Again(cause)));
        }
        let call = call_group(&self.transport, leader, group, deadline);
        Ok(Some(match unless_replaced(call, self.replaced(leader)).await {
            Some(attempt) => attempt,
            None => GroupAttempt::Ended(vec![Err(replaced(leader)); group.len()]),
        }))
    }
}

impl<S: StateMachine> Inner<S> {
    /// Waits until an answer of `leader` is no longer worth waiting for: it may still come from one that was
    /// replaced, which has lost leadership, not necessarily its connection.
    async fn replaced(&self, leader: NodeId) {
        self.source.superseded(leader).await;
        tokio::time::sleep(SUPERSEDED_GRACE).await;
    }
}

impl From<&Proposal> for WireProposal {
    fn from(proposal: &Proposal) -> Self {
        Self {
            namespace: proposal.namespace,
            body: proposal.body.clone(),
        }
    }
}

/// What `call` gives, unless `replaced` comes first.
pub(crate) async fn unless_replaced<T>(
    call: impl Future<Output = T>,
    replaced: impl Future<Output = ()>,
) -> Option<T> {
    match select(pin!(call), pin!(replaced)).await {
        Either::Left((response, _)) => Some(response),
        Either::Right(_) => None,
    }
}

/// The outcome when a leader was replaced before it answered.
pub(crate) fn replaced(leader: NodeId) -> ProposeError {
    ProposeError::Unknown {
        cause: format!("node {leader} was replaced as leader before it answered"),
    }
}

/// What an attempt at node `leader` has come to.
pub(crate) fn answered(leader: NodeId, response: Result<WireProposeResponse, CallError>) -> Attempt {
    match response {
        Ok(WireProposeResponse::NotLeader { leader: hint }) => {
            Attempt::Again(format!("node {leader} does not lead; it names {hint:?}"))
        }
        Ok(WireProposeResponse::Stopped { cause }) => Attempt::Again(cause),
        Ok(response) => Attempt::Ended(outcome(leader, response)),
        Err(error) if error.outcome() == Outcome::NotDone => Attempt::Again(error.to_string()),
        Err(error) => Attempt::Ended(Err(ProposeError::Unknown {
            cause: error.to_string(),
        })),
    }
}

fn outcome(leader: NodeId, response: WireProposeResponse) -> Result<Bytes, ProposeError> {
    match response {
        WireProposeResponse::Done { reply } => Ok(reply),
        WireProposeResponse::NotLeader { .. } => Err(ProposeError::NoLeader {
            waited: Duration::ZERO,
            cause: format!("node {leader} lost leadership"),
        }),
        WireProposeResponse::Overloaded => Err(ProposeError::Overloaded),
        WireProposeResponse::Refused(refusal) => Err(ProposeError::Refused(refusal)),
        WireProposeResponse::Held { ticket } => Err(ProposeError::Unknown {
            cause: format!("the command was applied, and its reply was not fetched (ticket {ticket})"),
        }),
        WireProposeResponse::Unknown { cause } => Err(ProposeError::Unknown { cause }),
        WireProposeResponse::Stopped { cause } => Err(ProposeError::Stopped { cause }),
    }
}

/// Has node `leader` propose a group that fits one message.
pub(crate) async fn call_group(
    transport: &Transport,
    leader: NodeId,
    group: &[Proposal],
    deadline: Instant,
) -> GroupAttempt {
    let proposals: Vec<WireProposal> = group.iter().map(Into::into).collect();
    let called = transport.call::<ProposeMany>(leader, &proposals, CallCtx::until(deadline));
    let responses = match called.await {
        Ok(responses) if responses.len() == group.len() => responses,
        Ok(_) => {
            let cause = format!("node {leader} did not answer for every proposal");
            return GroupAttempt::Ended(vec![Err(ProposeError::Unknown { cause }); group.len()]);
        }
        Err(error) if error.outcome() == Outcome::NotDone => return GroupAttempt::Again(error.to_string()),
        Err(error) => {
            let cause = error.to_string();
            return GroupAttempt::Ended(vec![Err(ProposeError::Unknown { cause }); group.len()]);
        }
    };
    let not_done = |response: &WireProposeResponse| {
        matches!(
            response,
            WireProposeResponse::NotLeader { .. } | WireProposeResponse::Stopped { .. }
        )
    };
    if responses.iter().all(not_done) {
        return GroupAttempt::Again(format!("node {leader} does not lead"));
    }
    let mut outcomes = Vec::with_capacity(responses.len());
    for response in responses {
        let response = match response {
            WireProposeResponse::Held { ticket } => fetch_held(transport, leader, ticket, deadline).await,
            response => response,
        };
        outcomes.push(outcome(leader, response));
    }
    GroupAttempt::Ended(outcomes)
}
