//! What the leader answers to proposals of others: followers that forward, and programs with a client's
//! certificate.

use std::sync::Arc;

use bytes::Bytes;
use rivven_transport::{Caller, Rejection, identity::Role};
use tokio::time::Instant;

use super::malformed;
use crate::{
    Refusal, StateMachine,
    lead::LocalFailure,
    node::Inner,
    propose::Proposal,
    runtime::entropy,
    system::{SessionTag, SystemCommand},
    types::{NAMESPACE_APPLICATION, NAMESPACE_SESSION, NAMESPACE_SYSTEM},
    wire::{
        WireProposal, WireProposeResponse,
        client::{ANSWER_BYTES, MAX_BATCH},
    },
};

/// Proposes for others, if this node leads, and answers for each proposal. Limits are checked here too: others
/// may run other releases.
pub(super) async fn propose_many<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    proposals: Vec<WireProposal>,
) -> Result<Vec<WireProposeResponse>, Rejection> {
    if proposals.len() > MAX_BATCH {
        return Err(malformed(format!(
            "{} proposals, the limit is {MAX_BATCH}",
            proposals.len()
        )));
    }
    let bytes = proposals.iter().map(|proposal| proposal.body.len()).sum();
    let Some(_admitted) = node.room.admit(proposals.len(), bytes) else {
        return Ok(vec![WireProposeResponse::Overloaded; proposals.len()]);
    };
    let mut accepted = Vec::with_capacity(proposals.len());
    let mut refused = Vec::with_capacity(proposals.len());
    for proposal in proposals {
        match check::<S>(caller.role, &proposal) {
            Ok(required) => {
                refused.push(None);
                accepted.push(Proposal {
                    namespace: proposal.namespace,
                    body: proposal.body,
                    required,
                });
            }
            Err(refusal) => refused.push(Some(refusal)),
        }
    }
    let mut outcomes = node.propose_group(&accepted, caller.deadline).await.into_iter();
    let mut room = ANSWER_BYTES;
    let mut answer = |refused| match refused {
        Some(refusal) => WireProposeResponse::Refused(refusal),
        // There is an outcome for each proposal that was accepted.
        None => answer(&node, &mut room, outcomes.next()),
    };
    Ok(refused.into_iter().map(&mut answer).collect())
}

/// The answer to one proposal. Replies beyond the room in the message are put aside.
fn answer<S: StateMachine>(
    node: &Inner<S>,
    room: &mut usize,
    outcome: Option<Result<Bytes, LocalFailure>>,
) -> WireProposeResponse {
    match outcome {
        Some(Ok(reply)) => match room.checked_sub(reply.len()) {
            Some(left) => {
                *room = left;
                WireProposeResponse::Done { reply }
            }
            None => WireProposeResponse::Held {
                ticket: node.shelf().put(reply, entropy(), Instant::now()),
            },
        },
        Some(Err(LocalFailure::NotLeader(leader))) => WireProposeResponse::NotLeader { leader },
        Some(Err(LocalFailure::Refused(refusal))) => WireProposeResponse::Refused(refusal),
        Some(Err(LocalFailure::Unknown(cause))) => WireProposeResponse::Unknown { cause },
        Some(Err(LocalFailure::Down(down))) => WireProposeResponse::Stopped {
            cause: down.to_string(),
        },
        None => WireProposeResponse::Unknown {
            cause: "the leader lost track of it".into(),
        },
    }
}

/// Hands out a reply that was put aside.
pub(super) async fn held_reply<S: StateMachine>(
    node: Arc<Inner<S>>,
    _caller: Caller,
    ticket: u64,
) -> Result<Option<Bytes>, Rejection> {
    Ok(node.shelf().take(ticket, Instant::now()))
}

/// Checks a proposal as its own node would, and says which feature level it needs.
fn check<S: StateMachine>(
    role: Option<Role>,
    proposal: &WireProposal,
) -> Result<Option<(&'static str, u32)>, Refusal> {
    let malformed = |error: &dyn std::fmt::Display| Refusal::new("malformed-request", error.to_string());
    let body = match proposal.namespace {
        NAMESPACE_SYSTEM => {
            let command: SystemCommand =
                postcard::from_bytes(&proposal.body).map_err(|error| malformed(&error))?;
            command.check_from(role)?;
            return Ok(None);
        }
        NAMESPACE_APPLICATION => proposal.body.clone(),
        NAMESPACE_SESSION => {
            let tagged = SessionTag::decode(&proposal.body);
            let (_, command) = tagged.ok_or_else(|| malformed(&"the proposal is too short for a session"))?;
            command
        }
        namespace => {
            let message = format!("namespace {namespace} is not proposed by peers");
            return Err(Refusal::new("unknown-namespace", message));
        }
    };
    let command: S::Command = postcard::from_bytes(&body).map_err(|error| malformed(&error))?;
    if !role.is_some_and(|role| role == Role::Node || S::open_to(role, &command)) {
        return Err(not_allowed(role));
    }
    S::check(&command)?;
    Ok(S::requires(&command))
}

/// What the holder of a certificate with another role may not do.
pub(crate) fn not_allowed(role: Option<Role>) -> Refusal {
    let who = role.map_or("a stranger", Role::as_str);
    let message = format!("the certificate's role, {who}, does not allow this; use another certificate");
    Refusal::new("role-not-allowed", message)
}
