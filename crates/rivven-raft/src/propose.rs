//! Proposals: from any node, by way of the leader, to one of three outcomes.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use openraft::errors::{ClientWriteError, RaftError};
use rivven_transport::{CallCtx, Outcome};
use rivven_types::NodeId;
use serde::de::DeserializeOwned;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    MAX_COMMAND_BYTES, ProposeError, RaftNode, Refusal, SessionId, StateMachine,
    node::{Inner, RETRY_INTERVAL},
    system::{Reply, SessionTag, SystemCommand, SystemResponse},
    types::{LogCommand, NAMESPACE_APPLICATION, NAMESPACE_SESSION, NAMESPACE_SYSTEM},
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
    /// Which proposal of which session this is. Default: none.
    ///
    /// A proposal with an id is applied once, however often and through whichever node it is made with the
    /// same id and command, and every repetition gets the first response. It is repeated here too, until the
    /// outcome is known or the deadline passes.
    pub id: Option<ProposalId>,
}

/// Names a proposal of a session: [`Session`](crate::Session) counts them; so can a client of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProposalId {
    /// The session, open.
    pub session: SessionId,
    /// From 1, a new one for each command, within [`SESSION_WINDOW`](crate::SESSION_WINDOW) of the highest
    /// used so far.
    pub seq: u64,
}

/// An encoded command on its way to the leader.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) namespace: u16,
    pub(crate) body: Bytes,
    /// The feature level that must be finalised.
    pub(crate) required: Option<(&'static str, u32)>,
}

impl Proposal {
    /// Whether it can be made again although it may have been done.
    const fn can_repeat(&self) -> bool {
        self.namespace == NAMESPACE_SESSION
    }
}

impl Default for ProposeOptions {
    fn default() -> Self {
        Self {
            deadline: DEFAULT_DEADLINE,
            id: None,
        }
    }
}

/// Why this node, as the leader, did not carry a proposal to its end.
pub(crate) enum LocalFailure {
    /// It does not lead. Nothing was written.
    NotLeader(Option<NodeId>),
    /// It needs a feature level that is not finalised. Nothing was written.
    Refused(Refusal),
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
        let required = S::requires(&command);
        let (namespace, tag) = match options.id {
            Some(ProposalId { session, seq }) => {
                (NAMESPACE_SESSION, SessionTag { session, seq }.encode().to_vec())
            }
            None => (NAMESPACE_APPLICATION, Vec::new()),
        };
        let body = postcard::to_extend(&command, tag).map_err(|error| not_encodable(&error))?;
        if body.len() > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge {
                size: body.len(),
                limit: MAX_COMMAND_BYTES,
            });
        }
        drop(command);
        let proposal = Proposal {
            namespace,
            body: body.into(),
            required,
        };
        let reply = self.inner().submit(proposal, options.deadline).await?;
        response(&reply, options.id)
    }
}

fn not_encodable(error: &postcard::Error) -> ProposeError {
    ProposeError::Refused(Refusal::new("command-not-encodable", error.to_string()))
}

/// What the log answered, as the proposer sees it.
fn response<R: DeserializeOwned>(reply: &Bytes, id: Option<ProposalId>) -> Result<R, ProposeError> {
    let unknown = |cause: String| ProposeError::Unknown { cause };
    let lost = |what: &str| ProposeError::SessionLost {
        session: id.map_or(SessionId(0), |id| id.session),
        cause: what.to_owned(),
    };
    match Reply::decode(reply) {
        Some(Reply::Response(response)) => postcard::from_bytes(&response)
            // The command is applied; it is only the response that this node cannot read.
            .map_err(|error| {
                unknown(format!(
                    "the command was applied, but its response cannot be decoded: {error}"
                ))
            }),
        Some(Reply::Refused(refusal)) => Err(ProposeError::Refused(refusal)),
        Some(Reply::NoSession) => Err(lost("it has ended")),
        Some(Reply::Passed) => Err(lost("it is past this number")),
        Some(Reply::NotKept) => Err(unknown(
            "the command was applied once, and its response is no longer kept".into(),
        )),
        None => Err(unknown("the reply cannot be decoded".into())),
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
    async fn submit(self: &Arc<Self>, proposal: Proposal, within: Duration) -> Result<Bytes, ProposeError> {
        let Some(_admission) = self.admit(proposal.body.len()) else {
            return Err(ProposeError::Overloaded);
        };
        let deadline = Instant::now() + within;
        let mut cause = String::from("no leader is known");
        // Whether an attempt may have been done, so that it counts as not done no more.
        let mut tried = false;
        loop {
            let leader = match self.leader() {
                Ok(leader) => leader,
                Err(cause) if tried => return Err(ProposeError::Unknown { cause }),
                Err(cause) => return Err(ProposeError::Stopped { cause }),
            };
            if let Some(leader) = leader {
                let attempt = if leader == self.node_id {
                    self.attempt_here(&proposal, deadline).await
                } else {
                    self.attempt_at(leader, &proposal, deadline).await
                };
                match attempt {
                    Attempt::Ended(Err(ProposeError::Unknown { cause: reason })) if proposal.can_repeat() => {
                        tried = true;
                        cause = reason;
                    }
                    // These say that this attempt did nothing; an earlier one may have.
                    Attempt::Ended(Err(error @ (ProposeError::Overloaded | ProposeError::Refused(_))))
                        if tried =>
                    {
                        cause = error.to_string();
                    }
                    Attempt::Ended(Err(ProposeError::Stopped { cause })) if tried => {
                        return Err(ProposeError::Unknown { cause });
                    }
                    Attempt::Ended(outcome) => return outcome,
                    Attempt::Again(reason) => cause = reason,
                }
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                if tried {
                    return Err(ProposeError::Unknown { cause });
                }
                return Err(ProposeError::NoLeader {
                    waited: within,
                    cause,
                });
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Has a command of the system state carried out.
    pub(crate) async fn submit_system(
        self: &Arc<Self>,
        command: &SystemCommand,
        within: Duration,
    ) -> Result<SystemResponse, ProposeError> {
        command.check().map_err(ProposeError::Refused)?;
        let body = postcard::to_allocvec(command).map_err(|error| not_encodable(&error))?;
        let proposal = Proposal {
            namespace: NAMESPACE_SYSTEM,
            body: body.into(),
            required: None,
        };
        let reply = self.submit(proposal, within).await?;
        match postcard::from_bytes(&reply) {
            Ok(SystemResponse::Refused(refusal)) => Err(ProposeError::Refused(refusal)),
            Ok(response) => Ok(response),
            Err(error) => Err(ProposeError::Unknown {
                cause: format!("the command was applied, but its response cannot be decoded: {error}"),
            }),
        }
    }

    async fn attempt_here(&self, proposal: &Proposal, deadline: Instant) -> Attempt {
        match self.propose_here(proposal, deadline).await {
            Ok((_, reply)) => Attempt::Ended(Ok(reply)),
            Err(LocalFailure::NotLeader(_)) => Attempt::Again("this node lost leadership".into()),
            Err(LocalFailure::Refused(refusal)) => Attempt::Ended(Err(ProposeError::Refused(refusal))),
            Err(LocalFailure::Unknown(cause)) => Attempt::Ended(Err(ProposeError::Unknown { cause })),
            Err(LocalFailure::Stopped(cause)) => Attempt::Ended(Err(ProposeError::Stopped { cause })),
        }
    }

    async fn attempt_at(&self, leader: NodeId, proposal: &Proposal, deadline: Instant) -> Attempt {
        let proposal = WireProposal {
            namespace: proposal.namespace,
            body: proposal.body.clone(),
        };
        if let Err(cause) = self.reach(leader).await {
            return Attempt::Again(cause);
        }
        let call = self
            .transport
            .call::<Propose>(leader, &proposal, CallCtx::until(deadline));
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
        proposal: &Proposal,
        deadline: Instant,
    ) -> Result<(u64, Bytes), LocalFailure> {
        if let Some(cause) = self.stop_reason() {
            return Err(LocalFailure::Stopped(cause));
        }
        if proposal.required.is_some() {
            // Levels only rise: what is finalised here stays so until the entry is applied.
            let checked = self
                .shared
                .read_system(|system| system.features.check(proposal.required));
            checked.await.map_err(LocalFailure::Refused)?;
        }
        let command = LogCommand {
            namespace: proposal.namespace,
            body: proposal.body.clone(),
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
