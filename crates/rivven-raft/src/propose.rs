//! Proposals: from any node, by way of the leader, to one of three outcomes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{
    MAX_COMMAND_BYTES, ProposeError, RaftNode, Refusal, SessionId, StateMachine,
    node::Inner,
    submit::{submit, submit_many},
    system::{Reply, SessionTag, SystemCommand, SystemResponse},
    types::{NAMESPACE_APPLICATION, NAMESPACE_SESSION, NAMESPACE_SYSTEM},
};

/// How long a proposal may take when nothing else is said.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

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
    /// `command`, encoded and checked: in a session, if it has an id.
    pub(crate) fn of<S: StateMachine>(
        command: &S::Command,
        id: Option<ProposalId>,
    ) -> Result<Self, ProposeError> {
        S::check(command).map_err(ProposeError::Refused)?;
        let (namespace, tag) = match id {
            Some(ProposalId { session, seq }) => {
                (NAMESPACE_SESSION, SessionTag { session, seq }.encode().to_vec())
            }
            None => (NAMESPACE_APPLICATION, Vec::new()),
        };
        let body = postcard::to_extend(command, tag).map_err(|error| not_encodable(&error))?;
        if body.len() > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge {
                size: body.len(),
                limit: MAX_COMMAND_BYTES,
            });
        }
        Ok(Self {
            namespace,
            body: body.into(),
            required: S::requires(command),
        })
    }

    /// A command of the system state, encoded and checked.
    pub(crate) fn of_system(command: &SystemCommand) -> Result<Self, ProposeError> {
        command.check().map_err(ProposeError::Refused)?;
        let body = postcard::to_allocvec(command).map_err(|error| not_encodable(&error))?;
        Ok(Self {
            namespace: NAMESPACE_SYSTEM,
            body: body.into(),
            required: None,
        })
    }

    /// Whether it can be made again although it may have been done.
    pub(crate) const fn can_repeat(&self) -> bool {
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
        let proposal = Proposal::of::<S>(&command, options.id)?;
        drop(command);
        let reply = submit(&**self.inner(), proposal, options.deadline).await?;
        response(&reply, options.id)
    }

    /// Has `commands` applied in their order, and returns an outcome for each, in the same order.
    ///
    /// They travel and are written together, which costs far less than as many single proposals. They are no
    /// transaction: commands of others may come between, and when leadership changes, earlier ones may be done and
    /// later ones not. What is not done ends it: what follows is not done either.
    ///
    /// Cancel safety: after dropping the future the outcomes are unknown.
    ///
    /// # Errors
    /// Each as of [`Self::propose`]. A command that is refused keeps no other from being done.
    pub async fn propose_many(
        &self,
        commands: impl IntoIterator<Item = S::Command>,
        within: Duration,
    ) -> Vec<Result<S::Response, ProposeError>> {
        let proposals = commands.into_iter();
        let proposals = proposals
            .map(|command| Proposal::of::<S>(&command, None))
            .collect();
        let outcomes = submit_many(&**self.inner(), proposals, within).await;
        outcomes
            .into_iter()
            .map(|outcome| response(&outcome?, None))
            .collect()
    }
}

fn not_encodable(error: &postcard::Error) -> ProposeError {
    ProposeError::Refused(Refusal::new("command-not-encodable", error.to_string()))
}

/// What the log answered, as the proposer sees it.
pub(crate) fn response<R: DeserializeOwned>(
    reply: &Bytes,
    id: Option<ProposalId>,
) -> Result<R, ProposeError> {
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

/// What the log answered to a command of the system state.
pub(crate) fn system_response(reply: &Bytes) -> Result<SystemResponse, ProposeError> {
    match postcard::from_bytes(reply) {
        Ok(SystemResponse::Refused(refusal)) => Err(ProposeError::Refused(refusal)),
        Ok(response) => Ok(response),
        Err(error) => Err(ProposeError::Unknown {
            cause: format!("the command was applied, but its response cannot be decoded: {error}"),
        }),
    }
}

impl<S: StateMachine> Inner<S> {
    /// Has a command of the system state carried out.
    pub(crate) async fn submit_system(
        self: &Arc<Self>,
        command: &SystemCommand,
        within: Duration,
    ) -> Result<SystemResponse, ProposeError> {
        let proposal = Proposal::of_system(command)?;
        let reply = submit(&**self, proposal, within).await?;
        system_response(&reply)
    }
}
