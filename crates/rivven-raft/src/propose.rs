//! Proposals: from any node, by way of the leader, to one of three outcomes.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use openraft::errors::{ClientWriteError, RaftError};
use rivven_transport::{CallCtx, Outcome};
use rivven_types::NodeId;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    MAX_COMMAND_BYTES, ProposeError, RaftNode, StateMachine,
    node::{Inner, RETRY_INTERVAL},
    types::{LogCommand, NAMESPACE_APPLICATION},
    wire::{Propose, WireProposal, WireProposeResponse},
};

/// How long a proposal may take when nothing else is said.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// How long an answer is awaited from a leader that was replaced meanwhile.
///
/// A leader that lives learns of its successor at the same time and answers within a round trip; one that is
/// dead must not hold up its callers. Longer turns fewer outcomes unknown on slow networks, and delays every
/// caller of a dead leader by as much.
const SUPERSEDED_GRACE: Duration = Duration::from_millis(50);

/// How a proposal is made.
#[derive(Clone, Copy, Debug)]
pub struct ProposeOptions {
    /// How long to look for a leader and wait for the outcome. Default 5 s.
    ///
    /// When it passes after the command was handed to a leader, the outcome is unknown.
    pub deadline: Duration,
}

impl Default for ProposeOptions {
    fn default() -> Self {
        Self {
            deadline: DEFAULT_DEADLINE,
        }
    }
}

/// Why this node, as the leader, did not carry a proposal to its end.
pub(crate) enum LocalFailure {
    /// It does not lead. Nothing was written.
    NotLeader(Option<NodeId>),
    /// It was written, and then contact with the outcome was lost.
    Unknown(String),
    /// It had stopped before. Nothing was written.
    Stopped(String),
}

/// Counts against the limits while a proposal waits.
pub(crate) type Admission<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>);

impl<S: StateMachine> RaftNode<S> {
    /// Has `command` applied on every node, and returns the response.
    ///
    /// On return the command is durable on a quorum and applied on the leader. Any node takes proposals; it
    /// forwards them to the leader.
    ///
    /// # Errors
    /// [`ProposeError::outcome`] says whether the command may have been applied.
    pub async fn propose(&self, command: S::Command) -> Result<S::Response, ProposeError> {
        self.propose_with(command, ProposeOptions::default()).await
    }

    /// As [`Self::propose`], with a deadline.
    ///
    /// Cancel safety: after dropping the future the outcome is unknown.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_with(
        &self,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<S::Response, ProposeError> {
        S::check(&command).map_err(ProposeError::Refused)?;
        let body = postcard::to_allocvec(&command).map_err(|error| {
            ProposeError::Refused(crate::Refusal::new("command-not-encodable", error.to_string()))
        })?;
        if body.len() > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge {
                size: body.len(),
                limit: MAX_COMMAND_BYTES,
            });
        }
        drop(command);
        let reply = self.inner().submit(body.into(), options.deadline).await?;
        // The command is applied; it is only the response that this node cannot read.
        postcard::from_bytes(&reply).map_err(|error| ProposeError::Unknown {
            cause: format!("the command was applied, but its response cannot be decoded: {error}"),
        })
    }
}

impl<S: StateMachine> Inner<S> {
    /// A place among the proposals in flight, if there is one.
    pub(crate) fn admit(&self, bytes: usize) -> Option<Admission<'_>> {
        let bytes = u32::try_from(bytes.max(1)).ok()?;
        let one = self.proposals.try_acquire().ok()?;
        Some((one, self.proposal_bytes.try_acquire_many(bytes).ok()?))
    }

    /// Finds the leader, here or elsewhere, until one gives an outcome or the deadline passes.
    async fn submit(self: &Arc<Self>, body: Bytes, within: Duration) -> Result<Bytes, ProposeError> {
        let Some(_admission) = self.admit(body.len()) else {
            return Err(ProposeError::Overloaded);
        };
        let deadline = Instant::now() + within;
        let mut cause = String::from("no leader is known");
        loop {
            let leader = self.leader().map_err(|cause| ProposeError::Stopped { cause })?;
            if let Some(leader) = leader {
                let attempt = if leader == self.node_id {
                    self.attempt_here(body.clone(), deadline).await
                } else {
                    self.attempt_at(leader, body.clone(), deadline).await
                };
                match attempt {
                    Attempt::Ended(outcome) => return outcome,
                    Attempt::Again(reason) => cause = reason,
                }
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(ProposeError::NoLeader {
                    waited: within,
                    cause,
                });
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    async fn attempt_here(&self, body: Bytes, deadline: Instant) -> Attempt {
        match self.propose_here(body, deadline).await {
            Ok((_, reply)) => Attempt::Ended(Ok(reply)),
            Err(LocalFailure::NotLeader(_)) => Attempt::Again("this node lost leadership".into()),
            Err(LocalFailure::Unknown(cause)) => Attempt::Ended(Err(ProposeError::Unknown { cause })),
            Err(LocalFailure::Stopped(cause)) => Attempt::Ended(Err(ProposeError::Stopped { cause })),
        }
    }

    async fn attempt_at(&self, leader: NodeId, body: Bytes, deadline: Instant) -> Attempt {
        let proposal = WireProposal {
            namespace: NAMESPACE_APPLICATION,
            body,
        };
        if let Err(cause) = self.reach(leader).await {
            return Attempt::Again(cause);
        }
        let call = self
            .transport
            .call::<Propose>(leader, &proposal, CallCtx { deadline });
        // A leader that was replaced may still answer: it lost leadership, not necessarily its connection.
        let replaced = async {
            self.source.superseded(leader).await;
            tokio::time::sleep(SUPERSEDED_GRACE).await;
        };
        let response = match select(pin!(call), pin!(replaced)).await {
            Either::Left((response, _)) => response,
            Either::Right(_) => {
                let cause = format!("node {leader} was replaced as leader before it answered");
                return Attempt::Ended(Err(ProposeError::Unknown { cause }));
            }
        };
        match response {
            Ok(WireProposeResponse::Done { reply, .. }) => Attempt::Ended(Ok(reply)),
            Ok(WireProposeResponse::NotLeader { leader: hint }) => {
                Attempt::Again(format!("node {leader} does not lead; it names {hint:?}"))
            }
            Ok(WireProposeResponse::Overloaded) => Attempt::Ended(Err(ProposeError::Overloaded)),
            Ok(WireProposeResponse::Refused(refusal)) => Attempt::Ended(Err(ProposeError::Refused(refusal))),
            Ok(WireProposeResponse::Unknown { cause }) => {
                Attempt::Ended(Err(ProposeError::Unknown { cause }))
            }
            Ok(WireProposeResponse::Stopped { cause }) => Attempt::Again(cause),
            Err(error) if error.outcome() == Outcome::NotDone => Attempt::Again(error.to_string()),
            Err(error) => Attempt::Ended(Err(ProposeError::Unknown {
                cause: error.to_string(),
            })),
        }
    }

    /// Proposes as the leader.
    pub(crate) async fn propose_here(
        &self,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(u64, Bytes), LocalFailure> {
        if let Some(cause) = self.stop_reason() {
            return Err(LocalFailure::Stopped(cause));
        }
        let command = LogCommand {
            namespace: NAMESPACE_APPLICATION,
            body,
        };
        let written = timeout_at(deadline, self.raft.client_write(command))
            .await
            .map_err(|_| LocalFailure::Unknown("the deadline passed before a quorum had it".into()))?;
        written
            .map(|done| (done.log_id.index, done.data.0))
            .map_err(|error| match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                    LocalFailure::NotLeader(forward.leader_id)
                }
                RaftError::APIError(error) => LocalFailure::Unknown(error.to_string()),
                // The core may have ended before or after it wrote the entry.
                RaftError::Fatal(fatal) => LocalFailure::Unknown(format!("the node stopped: {fatal}")),
            })
    }
}

enum Attempt {
    Ended(Result<Bytes, ProposeError>),
    /// Nothing was done; the reason, should the deadline pass.
    Again(String),
}
