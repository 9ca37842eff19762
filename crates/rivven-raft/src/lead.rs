//! Proposing as the leader: handing commands to the core, one or several at a time.
//!
//! The core itself groups what waits: while it is at work, messages gather, and it takes all of them as one append
//! to the log. So a proposal goes to it without a detour, and several of one caller go in one message.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::{
    errors::{ClientWriteError, Fatal, ForwardToLeader, RaftError},
    raft::WriteResult,
};
use rivven_types::NodeId;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    ProposeError, Refusal, StateMachine,
    core::Down,
    node::Inner,
    propose::Proposal,
    submit::{Attempt, GroupAttempt},
    types::{LogCommand, TypeConfig},
};

/// How long a proposal that is lost with the core waits for the node to say why. It takes a turn of a task.
const CORE_END_GRACE: Duration = Duration::from_secs(1);

/// Why this node, as the leader, did not carry a proposal to its end.
#[derive(Clone, Debug)]
pub(crate) enum LocalFailure {
    /// It does not lead. Nothing was written.
    NotLeader(Option<NodeId>),
    /// It needs a feature level that is not finalised. Nothing was written.
    Refused(Refusal),
    /// It was written, and then contact with the outcome was lost.
    Unknown(String),
    /// It had no core before. Nothing was written.
    Down(Down),
}

type Outcome = Result<Bytes, LocalFailure>;

impl<S: StateMachine> Inner<S> {
    /// Proposes as the leader.
    pub(crate) async fn propose_here(&self, proposal: &Proposal, deadline: Instant) -> Outcome {
        let raft = self.raft().map_err(LocalFailure::Down)?;
        self.check_level(proposal).await?;
        let proposed = Instant::now();
        let command = command(proposal);
        let written = raft.call(|raft| async move { raft.client_write(command).await });
        match timeout_at(deadline, written).await.map_err(|_| too_late())? {
            Ok(done) => {
                self.stages.answered(done.log_id.index, proposed);
                Ok(done.data.0)
            }
            Err(RaftError::APIError(error)) => Err(refused(error)),
            Err(RaftError::Fatal(fatal)) => {
                Box::pin(self.until_down()).await;
                Err(ended(&fatal))
            }
        }
    }

    /// Proposes several as the leader. Those that reach the log stand there next to one another, in this order.
    pub(crate) async fn propose_group(&self, proposals: &[Proposal], deadline: Instant) -> Vec<Outcome> {
        let raft = match self.raft() {
            Ok(raft) => raft,
            Err(down) => return vec![Err(LocalFailure::Down(down)); proposals.len()],
        };
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(proposals.len());
        let mut commands = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            match self.check_level(proposal).await {
                Ok(()) => {
                    commands.push(command(proposal));
                    outcomes.push(None);
                }
                Err(refused) => outcomes.push(Some(Err(refused))),
            }
        }
        let proposed = Instant::now();
        let mut last = None;
        let written = raft.call(|raft| async move { raft.client_write_many(commands).await });
        let mut written = match written.await {
            // A core that ends answers the rest of them all at once.
            Ok(written) => written.fuse(),
            Err(fatal) => {
                Box::pin(self.until_down()).await;
                let ended = || Err(ended(&fatal));
                let all = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(ended));
                return all.collect();
            }
        };
        // They come in the order of the proposals, and all at about the same time.
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            *outcome = Some(match timeout_at(deadline, written.next()).await {
                Ok(Some(result)) => of_result(result).map(|(index, reply)| {
                    last = Some(index);
                    reply
                }),
                Ok(None) => Err(ended(&Fatal::Stopped)),
                Err(_) => Err(too_late()),
            });
        }
        // They are written together, so one tells for all.
        if let Some(last) = last {
            self.stages.answered(last, proposed);
        }
        outcomes.into_iter().flatten().collect()
    }

    /// One attempt of this node's own callers.
    pub(crate) async fn attempt_here(&self, proposal: &Proposal, deadline: Instant) -> Attempt {
        match self.propose_here(proposal, deadline).await {
            Ok(reply) => Attempt::Ended(Ok(reply)),
            Err(LocalFailure::NotLeader(_)) => Attempt::Again(LOST.into()),
            Err(failure) => Attempt::Ended(Err(failure.into())),
        }
    }

    /// The same with several.
    pub(crate) async fn attempt_group_here(&self, group: &[Proposal], deadline: Instant) -> GroupAttempt {
        let outcomes = self.propose_group(group, deadline).await;
        let not_led = |outcome: &Outcome| matches!(outcome, Err(LocalFailure::NotLeader(_)));
        if outcomes.iter().all(not_led) {
            return GroupAttempt::Again(LOST.into());
        }
        let ended = outcomes.into_iter().map(|outcome| outcome.map_err(Into::into));
        GroupAttempt::Ended(ended.collect())
    }

    /// Waits, but not for long, until the status says what becomes of a core that has ended. Rare enough to be
    /// kept out of the future of every proposal.
    async fn until_down(&self) {
        let _ = timeout(CORE_END_GRACE, self.source.until_down()).await;
    }

    async fn check_level(&self, proposal: &Proposal) -> Result<(), LocalFailure> {
        if proposal.required.is_none() {
            return Ok(());
        }
        // Levels only rise: what is finalised here stays so until the entry is applied.
        let checked = self
            .shared
            .read_system(|system| system.features.check(proposal.required));
        checked.await.map_err(LocalFailure::Refused)
    }
}

/// Why a proposal of this node's own goes on looking for a leader.
const LOST: &str = "this node lost leadership";

impl From<Down> for ProposeError {
    fn from(down: Down) -> Self {
        match down {
            Down::Suspended(cause) => Self::DiskFull { cause },
            Down::Stopped(cause) => Self::Stopped { cause },
        }
    }
}

impl From<LocalFailure> for ProposeError {
    fn from(failure: LocalFailure) -> Self {
        match failure {
            LocalFailure::NotLeader(_) => Self::NoLeader {
                waited: Duration::ZERO,
                cause: LOST.into(),
            },
            LocalFailure::Refused(refusal) => Self::Refused(refusal),
            LocalFailure::Unknown(cause) => Self::Unknown { cause },
            LocalFailure::Down(down) => down.into(),
        }
    }
}

fn command(proposal: &Proposal) -> LogCommand {
    LogCommand {
        namespace: proposal.namespace,
        body: proposal.body.clone(),
    }
}

fn too_late() -> LocalFailure {
    LocalFailure::Unknown("the deadline passed before a quorum had it".into())
}

/// The core may have ended before or after it wrote the entry.
fn ended(fatal: &Fatal<TypeConfig>) -> LocalFailure {
    LocalFailure::Unknown(format!("the node stopped: {fatal}"))
}

fn refused(error: ClientWriteError<TypeConfig>) -> LocalFailure {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, .. }) => {
            LocalFailure::NotLeader(leader_id)
        }
        error => LocalFailure::Unknown(error.to_string()),
    }
}

/// Index and reply.
fn of_result(
    result: Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>,
) -> Result<(u64, Bytes), LocalFailure> {
    match result {
        Ok(Ok(done)) => Ok((done.log_id.index, done.response.0)),
        Ok(Err(error)) => Err(refused(error)),
        Err(fatal) => Err(ended(&fatal)),
    }
}
