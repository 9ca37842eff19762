//! `Client`: proposals and reads by a program that is no member.

mod kv;
mod kv_watch;
mod leader;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use rivven_transport::{CallCtx, TaskGroup, Transport};
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Instant, sleep};

pub use self::kv_watch::KvClientWatch;
use self::leader::Leaders;
use crate::{
    Consistency, ProposeError, ProposeOptions, Read, ReadError, StateMachine,
    core::Down,
    courier::Courier,
    forward::{answered, call_group, replaced, unless_replaced},
    propose::{Proposal, response, system_response},
    submit::{Attempt, Door, GroupAttempt, RETRY_INTERVAL, Room, submit, submit_many},
    system::{SystemCommand, SystemResponse},
    wire::{
        WireProposeResponse,
        client::{Query, WireQuery, WireQueryResponse, WireWait},
    },
};

/// How long one node may take to say who it is.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a proposal or a read of a key may take when nothing else is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Proposes to a group and reads from it, from a process that is no member of it.
///
/// It needs a transport of its own, with a certificate whose role is `client` or `operator`. It finds the leader,
/// follows it when it changes, and sends what its callers propose at the same time in few messages. Outcomes are
/// those of [`RaftNode::propose`](crate::RaftNode::propose); a [session](Self::open_session) repeats what may
/// have been done without doing it twice.
///
/// Clones share everything. When the last one is dropped, what is still on its way has an unknown outcome.
///
/// ```no_run
/// # async fn run(transport: rivven_transport::Transport) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use rivven_raft::{Client, Consistency, KvCommand, KvStore};
///
/// let seeds = ["node1:9093".parse()?, "node2:9093".parse()?];
/// let client = Client::<KvStore>::connect(transport, &seeds, Duration::from_secs(5)).await?;
/// client.propose(KvCommand::put("greeting", "hello")).await?;
/// let read = client.get("greeting", Consistency::Linearizable).await?;
/// assert_eq!(read.value.map(|entry| entry.value), Some("hello".into()));
/// # Ok(())
/// # }
/// ```
pub struct Client<S: StateMachine> {
    inner: Arc<Inner>,
    timeout: Duration,
    machine: PhantomData<fn() -> S>,
}

struct Inner {
    transport: Transport,
    group: TaskGroup,
    courier: Arc<Courier>,
    leaders: Leaders,
    room: Room,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.group.abort();
    }
}

/// No node of the group answered. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "no node of the cluster answered within {waited:?}: {cause}; check the addresses and the certificate"
)]
#[non_exhaustive]
pub struct ConnectError {
    /// How long was tried.
    pub waited: Duration,
    /// What the last attempt ran into.
    pub cause: String,
}

impl ConnectError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "no-node-answered"
    }
}

impl<S: StateMachine> Clone for Client<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            timeout: self.timeout,
            machine: PhantomData,
        }
    }
}

impl<S: StateMachine> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("leader", &self.inner.leaders.current())
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> Client<S> {
    /// Dials `seeds` until one answers, and learns the other members from it.
    ///
    /// The transport stays the caller's to shut down.
    ///
    /// # Errors
    /// None of them answered within `within`.
    pub async fn connect(
        transport: Transport,
        seeds: &[PeerAddr],
        within: Duration,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + within;
        let mut cause = String::from("no address is given");
        loop {
            for seed in seeds {
                let until = deadline.min(Instant::now() + DISCOVER_TIMEOUT);
                match transport.discover(seed.clone(), CallCtx::until(until)).await {
                    Ok(peer) => {
                        let client = Self::over(transport, BTreeMap::from([(peer.node, seed.clone())]));
                        client.inner.ask_around().await;
                        return Ok(client);
                    }
                    Err(error) => cause = error.to_string(),
                }
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                let waited = within;
                return Err(ConnectError { waited, cause });
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// A client of the group whose members, or some of them, are `nodes`. Dials nobody yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn over(transport: Transport, nodes: BTreeMap<NodeId, PeerAddr>) -> Self {
        let group = TaskGroup::current();
        let inner = Inner {
            courier: Arc::new(Courier::new(transport.clone(), group.clone())),
            leaders: Leaders::default(),
            room: Room::default(),
            transport,
            group,
        };
        inner.learn(nodes);
        Self {
            inner: Arc::new(inner),
            timeout: DEFAULT_TIMEOUT,
            machine: PhantomData,
        }
    }

    /// The same client, whose proposals and reads of keys may take `timeout` where nothing else is said. The default
    /// is five seconds.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has `command` applied on every node, and returns the response.
    ///
    /// # Errors
    /// As of [`RaftNode::propose`](crate::RaftNode::propose).
    pub async fn propose(&self, command: S::Command) -> Result<S::Response, ProposeError> {
        let options = ProposeOptions {
            deadline: self.timeout,
            ..ProposeOptions::default()
        };
        self.propose_with(command, options).await
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
        let reply = submit(&*self.inner, proposal, options.deadline).await?;
        response(&reply, options.id)
    }

    /// Has `commands` applied in their order, and returns an outcome for each: as
    /// [`RaftNode::propose_many`](crate::RaftNode::propose_many).
    ///
    /// # Errors
    /// Each as of [`Self::propose`].
    pub async fn propose_many(
        &self,
        commands: impl IntoIterator<Item = S::Command>,
        within: Duration,
    ) -> Vec<Result<S::Response, ProposeError>> {
        let proposals = commands.into_iter();
        let proposals = proposals
            .map(|command| Proposal::of::<S>(&command, None))
            .collect();
        let outcomes = submit_many(&*self.inner, proposals, within).await;
        outcomes
            .into_iter()
            .map(|outcome| response(&outcome?, None))
            .collect()
    }

    /// Has the state machine answer `query`; see [`StateMachine::query`].
    ///
    /// The leader answers linearizable and lease reads, any node that can be reached answers stale ones.
    ///
    /// # Errors
    /// Nothing was changed, so every failed read can be repeated, except one that is refused.
    pub async fn query(
        &self,
        consistency: Consistency,
        query: impl Into<Bytes>,
        within: Duration,
    ) -> Result<Read<Bytes>, ReadError> {
        let query = WireQuery {
            consistency,
            wait: None,
            body: query.into(),
        };
        self.ask(query, within).await
    }

    /// Has a node answer `query` once it has applied more than `beyond`, or after `wait`.
    async fn query_beyond(
        &self,
        beyond: Option<u64>,
        query: impl Into<Bytes>,
        wait: Duration,
    ) -> Result<Read<Bytes>, ReadError> {
        let at_most_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let query = WireQuery {
            consistency: Consistency::Stale,
            wait: Some(WireWait { beyond, at_most_ms }),
            body: query.into(),
        };
        self.ask(query, wait + self.timeout).await
    }

    async fn ask(&self, query: WireQuery, within: Duration) -> Result<Read<Bytes>, ReadError> {
        let deadline = Instant::now() + within;
        let mut cause = String::from("no member is known");
        loop {
            if let Some(node) = self.inner.leaders.pick() {
                let call = self
                    .inner
                    .transport
                    .call::<Query>(node, &query, CallCtx::until(deadline));
                let answer = match query.wait {
                    Some(_) => unless_replaced(call, self.inner.lost(node)).await,
                    None => unless_replaced(call, self.inner.replaced(node)).await,
                };
                match answer {
                    Some(Ok(WireQueryResponse::Answer { applied_index, body })) => {
                        return Ok(Read::new(body, applied_index));
                    }
                    Some(Ok(WireQueryResponse::Refused(refusal))) => return Err(ReadError::Refused(refusal)),
                    Some(Ok(WireQueryResponse::NotLeader { leader })) => {
                        cause = format!("node {node} does not lead; it names {leader:?}");
                        self.inner.hinted(node, leader).await;
                    }
                    Some(Ok(WireQueryResponse::Failed { cause: reason })) => {
                        cause = reason;
                        self.inner.leaders.failed(node);
                    }
                    Some(Err(error)) => {
                        cause = error.to_string();
                        self.inner.leaders.failed(node);
                    }
                    None if query.wait.is_some() => {
                        cause = format!("node {node} was lost before it answered");
                        self.inner.leaders.failed(node);
                    }
                    None => cause = format!("node {node} was replaced as leader before it answered"),
                }
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(ReadError::NoLeader {
                    waited: within,
                    cause,
                });
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// The leader as last heard of.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leaders.current()
    }

    pub(crate) async fn system(
        &self,
        command: &SystemCommand,
        within: Duration,
    ) -> Result<SystemResponse, ProposeError> {
        let proposal = Proposal::of_system(command)?;
        let reply = submit(&*self.inner, proposal, within).await?;
        system_response(&reply)
    }
}

impl Door for Inner {
    fn room(&self) -> &Room {
        &self.room
    }

    async fn attempt(&self, proposal: &Proposal, deadline: Instant) -> Result<Option<Attempt>, Down> {
        let Some(node) = self.leaders.pick() else {
            return Ok(None);
        };
        let call = self.courier.carry(node, proposal.into(), deadline);
        let Some(response) = unless_replaced(call, self.replaced(node)).await else {
            return Ok(Some(Attempt::Ended(Err(replaced(node)))));
        };
        match &response {
            Ok(WireProposeResponse::Done { .. }) => self.leaders.confirmed(node),
            Ok(WireProposeResponse::NotLeader { leader }) => self.hinted(node, *leader).await,
            Ok(WireProposeResponse::Stopped { .. }) | Err(_) => self.leaders.failed(node),
            Ok(_) => {}
        }
        Ok(Some(answered(node, response)))
    }

    async fn attempt_group(
        &self,
        group: &[Proposal],
        deadline: Instant,
    ) -> Result<Option<GroupAttempt>, Down> {
        let Some(node) = self.leaders.pick() else {
            return Ok(None);
        };
        let call = call_group(&self.transport, node, group, deadline);
        let Some(attempt) = unless_replaced(call, self.replaced(node)).await else {
            return Ok(Some(GroupAttempt::Ended(vec![Err(replaced(node)); group.len()])));
        };
        if let GroupAttempt::Again(_) = &attempt {
            // Whoever leads by now is found by asking: groups are rare enough.
            self.leaders.failed(node);
            self.ask_around().await;
        }
        Ok(Some(attempt))
    }
}
