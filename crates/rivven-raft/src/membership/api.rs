//! What applications and peers ask about the membership, and for changes of it.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::{Either, select};
use rivven_transport::{CallCtx, Caller, Outcome, Rejection, Transport};
use rivven_types::{InstanceId, NodeId};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    JoinAs, JoinRequest, MAX_REASON_BYTES, MemberChange, MemberHold, MemberInfo, MemberRefusal, MemberRole,
    MembershipPlan, MembershipView,
    wire::{AskMembership, WireAnswer, WireAsk},
};
use crate::{RaftNode, Refusal, StateMachine, core::Down, node::Inner, submit::RETRY_INTERVAL};

/// How long a leader may take to answer; a change waits for a quorum.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a change that goes on is looked after.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// How a change of the membership is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberOptions {
    /// Why to go on where one failure more would not be survived. Default: not to.
    ///
    /// At most 256 bytes; it is kept in the log and shown among the events.
    pub force: Option<String>,
    /// How long to wait for the end of the change once it is written down. Default 30 s.
    ///
    /// It goes on without the caller, under whichever leader, until it is done.
    pub wait: Duration,
}

impl Default for MemberOptions {
    fn default() -> Self {
        Self {
            force: None,
            wait: Duration::from_secs(30),
        }
    }
}

/// A change that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberChanged {
    /// What was planned when it was accepted.
    pub plan: MembershipPlan,
    /// Whether everything that can be done is done. Otherwise it goes on.
    pub finished: bool,
    /// What it waits for, as last seen.
    pub holds: Vec<MemberHold>,
}

/// Why there is no answer about the membership. [`MemberError::outcome`] says whether anything was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The change is refused. Not done; the message names the remedy.
    #[error(transparent)]
    Refused(#[from] MemberRefusal),
    /// No leader answered before the deadline. Not done; repeat when there is one.
    #[error("no leader answered within {waited:?}: {cause}")]
    NoLeader {
        /// How long was waited.
        waited: Duration,
        /// What the last attempt ran into.
        cause: String,
    },
    /// The node has stopped. Not done.
    #[error("the node has stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
    /// The change may or may not be written down. Look at the membership before asking again.
    #[error("the outcome is unknown: {cause}; look at the membership before asking again")]
    Unknown {
        /// What interrupted the wait.
        cause: String,
    },
}

impl MemberError {
    /// Whether the change may be written down.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) | Self::NoLeader { .. } | Self::Stopped { .. } => Outcome::NotDone,
            Self::Unknown { .. } => Outcome::Unknown,
        }
    }

    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::NoLeader { .. } => "no-leader",
            Self::Stopped { .. } => "stopped",
            Self::Unknown { .. } => "unknown-outcome",
        }
    }
}

impl<S: StateMachine> RaftNode<S> {
    /// The membership as the leader sees it. Any node can be asked.
    ///
    /// # Errors
    /// No leader answered within 5 s, or the node stopped.
    pub async fn membership(&self) -> Result<MembershipView, MemberError> {
        match self.inner().ask(&WireAsk::View, ASK_TIMEOUT).await? {
            WireAnswer::View(view) => Ok(*view),
            other => Err(unexpected(&other)),
        }
    }

    /// What a change would bring with it, or without a change what will be done anyway. Changes nothing.
    ///
    /// # Errors
    /// The change would be refused, or nobody answered.
    pub async fn plan_membership(
        &self,
        change: Option<MemberChange>,
        force: Option<String>,
    ) -> Result<MembershipPlan, MemberError> {
        check_reason(force.as_ref())?;
        let ask = WireAsk::Plan { change, force };
        match self.inner().ask(&ask, ASK_TIMEOUT).await? {
            WireAnswer::Plan(plan) => Ok(*plan),
            other => Err(unexpected(&other)),
        }
    }

    /// Changes the membership: the change is written down, then carried out step by step by whoever leads.
    ///
    /// Cancel safety: after dropping the future the change may be written down, and then goes on.
    ///
    /// # Errors
    /// [`MemberError::outcome`] says whether the change may be written down.
    pub async fn change_membership(
        &self,
        change: MemberChange,
        options: MemberOptions,
    ) -> Result<MemberChanged, MemberError> {
        check_reason(options.force.as_ref())?;
        let force = options.force;
        let deadline = Instant::now() + options.wait;
        let plan = match self
            .inner()
            .ask(&WireAsk::Change { change, force }, ASK_TIMEOUT)
            .await?
        {
            WireAnswer::Plan(plan) => *plan,
            other => return Err(unexpected(&other)),
        };
        let mut holds = plan.holds.clone();
        let mut finished = false;
        while !finished && Instant::now() < deadline {
            sleep(FOLLOW_INTERVAL).await;
            // Who cannot be asked at this moment can be later; the change itself is written down.
            match timeout_at(deadline, self.membership()).await {
                Ok(Ok(view)) => {
                    finished = view.next.is_none() && !view.catches_up(change.node());
                    holds = view.holds;
                }
                // The change was this node's own removal, and it has learned of it.
                _ if self.status().removed => finished = true,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Ok(MemberChanged {
            plan,
            finished,
            holds,
        })
    }

    /// Lets a node join whose id was removed or never seen, with `role` in place of the one in its own
    /// configuration. A node whose id was never seen may join without this.
    ///
    /// # Errors
    /// As [`Self::change_membership`].
    pub async fn add_member(
        &self,
        node: NodeId,
        role: Option<MemberRole>,
    ) -> Result<MemberChanged, MemberError> {
        let change = MemberChange::Add { node, role };
        self.change_membership(change, MemberOptions::default()).await
    }

    /// Has a member vote, once it has caught up.
    ///
    /// # Errors
    /// As [`Self::change_membership`].
    pub async fn promote_member(&self, node: NodeId) -> Result<MemberChanged, MemberError> {
        let change = MemberChange::Promote { node };
        self.change_membership(change, MemberOptions::default()).await
    }

    /// Has a member leave for good. A leader hands over first.
    ///
    /// # Errors
    /// As [`Self::change_membership`].
    pub async fn remove_member(&self, node: NodeId) -> Result<MemberChanged, MemberError> {
        let change = MemberChange::Remove { node };
        self.change_membership(change, MemberOptions::default()).await
    }

    /// Gives up the lost data directory of a member, so that it may join again with an empty one.
    ///
    /// # Errors
    /// As [`Self::change_membership`].
    pub async fn replace_member(&self, node: NodeId) -> Result<MemberChanged, MemberError> {
        let change = MemberChange::Replace { node };
        self.change_membership(change, MemberOptions::default()).await
    }

    /// Whether `node` was removed from the group, or its data directory `instance` given up, as far as this node
    /// has applied. What it has applied is committed, so this is never too early.
    #[must_use]
    pub fn is_shut_out(&self, node: NodeId, instance: InstanceId) -> bool {
        self.inner().shared.gate().is_shut(node, instance)
    }

    /// The data directory of this node, as it tells its peers. Without one it is another at every start.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.inner().transport.local().instance
    }

    /// Tells the leader who this node is: a member's zone, role and priority, or that it wants to become one.
    ///
    /// # Errors
    /// The node is refused: its id is that of another data directory, or was removed. Or nobody answered.
    pub async fn announce(&self, join: JoinAs) -> Result<(), MemberError> {
        let request = join.request(self.inner().transport.local());
        joined(self.inner().ask(&WireAsk::Join(request), ASK_TIMEOUT).await?)
    }
}

/// Asks the member `contact` to let a node join that has no log yet. Repeating it is harmless.
///
/// # Errors
/// The node is refused, or the contact could not be asked.
pub async fn ask_to_join(
    transport: &Transport,
    contact: NodeId,
    request: JoinRequest,
) -> Result<(), MemberError> {
    let ctx = CallCtx::timeout(ASK_TIMEOUT);
    let answer = transport
        .call::<AskMembership>(contact, &WireAsk::Join(request), ctx)
        .await;
    let no_leader = |cause: String| MemberError::NoLeader {
        waited: ASK_TIMEOUT,
        cause,
    };
    match answer.map_err(|error| no_leader(error.to_string()))? {
        WireAnswer::NotLeader { .. } | WireAnswer::NotSettled => {
            Err(no_leader(format!("node {contact} knows no leader")))
        }
        WireAnswer::Unknown { cause } => Err(MemberError::Unknown { cause }),
        WireAnswer::Refused(refusal) => Err(refusal.into()),
        answer => joined(answer),
    }
}

fn joined(answer: WireAnswer) -> Result<(), MemberError> {
    match answer {
        WireAnswer::Joined => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &WireAnswer) -> MemberError {
    MemberError::Unknown {
        cause: format!("the leader answered another question: {answer:?}"),
    }
}

fn check_reason(force: Option<&String>) -> Result<(), MemberRefusal> {
    if force.is_some_and(|reason| reason.is_empty() || reason.len() > MAX_REASON_BYTES) {
        let message = format!("the reason to force a change has 1 to {MAX_REASON_BYTES} bytes");
        return Err(MemberRefusal::Refused(Refusal::new(
            "member-text-too-long",
            message,
        )));
    }
    Ok(())
}

/// What one attempt came to.
enum Attempt {
    Answered(WireAnswer),
    /// Nothing was done; the reason, should the deadline pass.
    Again(String),
    Failed(MemberError),
}

impl<S: StateMachine> Inner<S> {
    /// Finds the leader, here or elsewhere, until it answers or the time is over.
    pub(super) async fn ask(&self, ask: &WireAsk, within: Duration) -> Result<WireAnswer, MemberError> {
        let deadline = Instant::now() + within;
        let mut cause = String::from("no leader is known");
        loop {
            let leader = match self.leader() {
                Ok(leader) => leader,
                Err(Down::Stopped(cause)) => return Err(MemberError::Stopped { cause }),
                Err(Down::Suspended(reason)) => {
                    cause = reason;
                    None
                }
            };
            let attempt = match leader {
                Some(leader) if leader == self.node_id => self.answer_here(ask, deadline).await,
                Some(leader) => self.ask_leader(leader, ask, deadline).await,
                None => Attempt::Again(cause.clone()),
            };
            match attempt {
                Attempt::Answered(WireAnswer::Refused(refusal)) => return Err(refusal.into()),
                Attempt::Answered(answer) => return Ok(answer),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(reason) => cause = reason,
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                let waited = within;
                return Err(MemberError::NoLeader { waited, cause });
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn answer_here(&self, ask: &WireAsk, deadline: Instant) -> Attempt {
        let answer = timeout_at(deadline, self.driver.answer(ask)).await;
        attempt(answer.unwrap_or_else(|_| WireAnswer::Unknown {
            cause: "the deadline passed before a quorum had it".into(),
        }))
    }

    async fn ask_leader(&self, leader: NodeId, ask: &WireAsk, deadline: Instant) -> Attempt {
        if let Err(cause) = self.reach(leader).await {
            return Attempt::Again(cause);
        }
        let ask = match ask {
            WireAsk::Join(request) => &WireAsk::ForwardedJoin(request.clone()),
            ask => ask,
        };
        let call = self
            .transport
            .call::<AskMembership>(leader, ask, CallCtx::until(deadline));
        let replaced = async {
            self.source.superseded(leader).await;
            sleep(RETRY_INTERVAL).await;
        };
        let changes = matches!(ask, WireAsk::Change { .. });
        match select(pin!(call), pin!(replaced)).await {
            Either::Left((Ok(answer), _)) => attempt(answer),
            Either::Left((Err(error), _)) if changes && error.outcome() == Outcome::Unknown => {
                let cause = error.to_string();
                Attempt::Failed(MemberError::Unknown { cause })
            }
            Either::Left((Err(error), _)) => Attempt::Again(error.to_string()),
            Either::Right(_) => {
                let cause = format!("node {leader} was replaced as leader before it answered");
                if changes {
                    Attempt::Failed(MemberError::Unknown { cause })
                } else {
                    Attempt::Again(cause)
                }
            }
        }
    }
}

fn attempt(answer: WireAnswer) -> Attempt {
    match answer {
        WireAnswer::NotLeader { leader } => {
            Attempt::Again(format!("the node asked does not lead; it names {leader:?}"))
        }
        WireAnswer::NotSettled => Attempt::Again("the leader has only begun to lead".into()),
        WireAnswer::Unknown { cause } => Attempt::Failed(MemberError::Unknown { cause }),
        answer => Attempt::Answered(answer),
    }
}

/// Answers a peer. A member passes on a request to join that is not for itself to decide.
pub(crate) async fn answer<S: StateMachine>(
    node: Arc<Inner<S>>,
    caller: Caller,
    ask: WireAsk,
) -> Result<WireAnswer, Rejection> {
    if let WireAsk::Join(request) = &ask {
        if (request.node, request.instance) != (caller.peer.node, caller.peer.instance) {
            let text = "the request names another node or data directory than its sender";
            return Err(Rejection::new("sender-mismatch", text));
        }
        return Ok(match node.ask(&ask, caller.deadline - Instant::now()).await {
            Ok(answer) => answer,
            Err(MemberError::Refused(refusal)) => WireAnswer::Refused(refusal),
            Err(MemberError::Unknown { cause }) => WireAnswer::Unknown { cause },
            Err(MemberError::NoLeader { .. } | MemberError::Stopped { .. }) => {
                WireAnswer::NotLeader { leader: None }
            }
        });
    }
    if !node.source.has_member(caller.peer.node) {
        let text = "the sender is no member; it may ask to join, and nothing else";
        return Err(Rejection::new("not-a-member", text));
    }
    Ok(node.driver.answer(&ask).await)
}

impl MembershipView {
    /// One member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&MemberInfo> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Whether `node` is waited for until it has caught up.
    fn catches_up(&self, node: NodeId) -> bool {
        let catches_up = |hold: &MemberHold| matches!(hold, MemberHold::CatchingUp { .. });
        self.holds
            .iter()
            .any(|hold| catches_up(hold) && hold.node() == Some(node))
    }
}
