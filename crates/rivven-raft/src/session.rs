//! Sessions from the proposer's side, digests: what `RaftNode` does with the system state.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    Client, Digest, Outcome, ProposalId, ProposeError, ProposeOptions, RaftNode, SESSION_WINDOW, SessionId,
    StateMachine,
    system::{SystemCommand, SystemResponse},
};

/// How long opening, renewing and closing a session, or finalising a level, may take.
pub(crate) const SYSTEM_DEADLINE: Duration = Duration::from_secs(5);

/// How often a session is tried to be opened while it is unknown whether it was.
const OPEN_ATTEMPTS: u32 = 4;

/// A session: its proposals are applied exactly once, whatever is repeated on the way.
///
/// It ends when it was not used for its time to live in log time. Share it by reference; proposals may be
/// made at the same time, at most [`SESSION_WINDOW`] of them. It keeps its node or client alive.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use rivven_raft::{Fabric, KvCommand, KvStore, RaftConfig, RaftNode};
///
/// let config = RaftConfig {
///     node_id: 1,
///     peers: vec![],
///     election_timeout_ms: 150..300,
///     heartbeat_interval_ms: 50,
/// };
/// let builder = RaftNode::builder(config).fabric(&Fabric::new());
/// let node = builder.state_machine(KvStore::new()).start().await?;
/// let session = node.open_session(Duration::from_secs(60)).await?;
/// session.propose(KvCommand::put("jobs/1", "mine"), Duration::from_secs(5)).await?;
/// session.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct Session<S: StateMachine> {
    via: Via<S>,
    id: SessionId,
    numbers: Mutex<Numbers>,
    freed: Notify,
}

/// Through whom a session proposes.
enum Via<S: StateMachine> {
    Node(RaftNode<S>),
    Client(Client<S>),
}

impl<S: StateMachine> Via<S> {
    async fn propose(
        &self,
        command: S::Command,
        options: ProposeOptions,
    ) -> Result<S::Response, ProposeError> {
        match self {
            Self::Node(node) => node.propose_with(command, options).await,
            Self::Client(client) => client.propose_with(command, options).await,
        }
    }

    async fn system(
        &self,
        command: &SystemCommand,
        within: Duration,
    ) -> Result<SystemResponse, ProposeError> {
        match self {
            Self::Node(node) => node.inner().submit_system(command, within).await,
            Self::Client(client) => client.system(command, within).await,
        }
    }
}

/// The numbers of a session's proposals.
#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    /// Those whose outcome is awaited.
    outstanding: BTreeSet<u64>,
}

impl Numbers {
    /// The next number, unless the lowest one outstanding would fall out of the window.
    fn take(&mut self) -> Option<u64> {
        let next = self.last + 1;
        let lowest = self.outstanding.first().copied().unwrap_or(next);
        if next - lowest >= SESSION_WINDOW {
            return None;
        }
        self.last = next;
        self.outstanding.insert(next);
        Some(next)
    }
}

/// Gives a number back when its proposal has an outcome or is given up.
struct Outstanding<'a, S: StateMachine> {
    session: &'a Session<S>,
    seq: u64,
}

impl<S: StateMachine> Drop for Outstanding<'_, S> {
    fn drop(&mut self) {
        self.session.numbers().outstanding.remove(&self.seq);
        self.session.freed.notify_waiters();
    }
}

impl<S: StateMachine> fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.id).finish()
    }
}

impl<S: StateMachine> Session<S> {
    /// Its id, by which any node knows it.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Has `command` applied exactly once, and returns the response. Repeats it through whoever leads until
    /// the outcome is known or `within` has passed.
    ///
    /// Cancel safety: after dropping the future the outcome is unknown; it is applied at most once.
    ///
    /// # Errors
    /// As [`RaftNode::propose`]. The outcome is unknown when the deadline passed after an attempt, and when
    /// the session has ended.
    pub async fn propose(&self, command: S::Command, within: Duration) -> Result<S::Response, ProposeError> {
        let started = Instant::now();
        let numbered = tokio::time::timeout(within, self.number()).await;
        let numbered = numbered.map_err(|_| ProposeError::Overloaded)?;
        let options = ProposeOptions {
            deadline: within.saturating_sub(started.elapsed()),
            id: Some(ProposalId {
                session: self.id,
                seq: numbered.seq,
            }),
        };
        self.via.propose(command, options).await
    }

    /// Keeps the session for its whole time again, as every proposal does.
    ///
    /// # Errors
    /// [`ProposeError::SessionLost`] when it has ended.
    pub async fn renew(&self) -> Result<(), ProposeError> {
        renew(&self.via, self.id).await
    }

    /// Ends the session, so that what is kept for it is freed at once.
    ///
    /// # Errors
    /// [`ProposeError::SessionLost`] when it had ended before.
    pub async fn close(self) -> Result<(), ProposeError> {
        close(&self.via, self.id).await
    }

    async fn number(&self) -> Outstanding<'_, S> {
        loop {
            let freed = self.freed.notified();
            if let Some(seq) = self.numbers().take() {
                return Outstanding { session: self, seq };
            }
            freed.await;
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // Each critical section leaves the numbers whole.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: StateMachine> Client<S> {
    /// Opens a session that ends when it is not used for `ttl` of log time, from
    /// [`MIN_SESSION_TTL_MS`](crate::MIN_SESSION_TTL_MS) to [`MAX_SESSION_TTL_MS`](crate::MAX_SESSION_TTL_MS).
    ///
    /// # Errors
    /// As [`Self::propose`]. Opening is repeated while its outcome is unknown; a session that nobody knows of ends
    /// by itself.
    pub async fn open_session(&self, ttl: Duration) -> Result<Session<S>, ProposeError> {
        open(Via::Client(self.clone()), ttl).await
    }

    /// Keeps a session for its whole time again.
    ///
    /// # Errors
    /// [`ProposeError::SessionLost`] when it has ended.
    pub async fn renew_session(&self, session: SessionId) -> Result<(), ProposeError> {
        renew(&Via::Client(self.clone()), session).await
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`ProposeError::SessionLost`] when it had ended before.
    pub async fn close_session(&self, session: SessionId) -> Result<(), ProposeError> {
        close(&Via::Client(self.clone()), session).await
    }
}

async fn open<S: StateMachine>(via: Via<S>, ttl: Duration) -> Result<Session<S>, ProposeError> {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let deadline = Instant::now() + SYSTEM_DEADLINE;
    let mut attempts = 0;
    let opened = loop {
        attempts += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        match via.system(&SystemCommand::OpenSession { ttl_ms }, left).await {
            // One that may be open and is known to nobody ends by itself.
            Err(error)
                if error.outcome() == Outcome::Unknown
                    && attempts < OPEN_ATTEMPTS
                    && Instant::now() < deadline => {}
            outcome => break outcome?,
        }
    };
    match opened {
        SystemResponse::SessionOpened { session } => Ok(Session {
            via,
            id: session,
            numbers: Mutex::default(),
            freed: Notify::new(),
        }),
        other => Err(unexpected(&other)),
    }
}

async fn renew<S: StateMachine>(via: &Via<S>, session: SessionId) -> Result<(), ProposeError> {
    let command = SystemCommand::RenewSession { session };
    let response = via.system(&command, SYSTEM_DEADLINE).await?;
    found(session, &response)
}

async fn close<S: StateMachine>(via: &Via<S>, session: SessionId) -> Result<(), ProposeError> {
    let command = SystemCommand::CloseSession { session };
    let response = via.system(&command, SYSTEM_DEADLINE).await?;
    found(session, &response)
}

impl<S: StateMachine> RaftNode<S> {
    /// Opens a session that ends when it is not used for `ttl` of log time, from
    /// [`MIN_SESSION_TTL_MS`](crate::MIN_SESSION_TTL_MS) to [`MAX_SESSION_TTL_MS`](crate::MAX_SESSION_TTL_MS).
    ///
    /// # Errors
    /// As [`Self::propose`]. Opening is repeated while its outcome is unknown; a session that nobody knows of ends
    /// by itself.
    pub async fn open_session(&self, ttl: Duration) -> Result<Session<S>, ProposeError> {
        open(Via::Node(self.clone()), ttl).await
    }

    /// Keeps a session for its whole time again.
    ///
    /// # Errors
    /// [`ProposeError::SessionLost`] when it has ended.
    pub async fn renew_session(&self, session: SessionId) -> Result<(), ProposeError> {
        renew(&Via::Node(self.clone()), session).await
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`ProposeError::SessionLost`] when it had ended before.
    pub async fn close_session(&self, session: SessionId) -> Result<(), ProposeError> {
        close(&Via::Node(self.clone()), session).await
    }

    /// The digest of everything this node has applied; `None` before the first entry.
    ///
    /// Comparable with another replica's at the same index.
    pub async fn digest(&self) -> Option<Digest> {
        self.inner()
            .shared
            .read_system(|system| system.chain.last())
            .await
    }

    /// The digest at `index`, which is kept for the last entry and for the last 64 multiples of 1,024.
    pub async fn digest_at(&self, index: u64) -> Option<Digest> {
        self.inner()
            .shared
            .read_system(|system| system.chain.at(index))
            .await
    }

    /// Milliseconds of log time that have passed, as far as this node has applied the log.
    pub async fn log_time_ms(&self) -> u64 {
        self.inner().shared.read_system(|system| system.log_time_ms).await
    }
}

fn found(session: SessionId, response: &SystemResponse) -> Result<(), ProposeError> {
    match response {
        SystemResponse::Done => Ok(()),
        SystemResponse::NoSession => Err(ProposeError::SessionLost {
            session,
            cause: "it has ended".into(),
        }),
        other => Err(unexpected(other)),
    }
}

/// A command was answered with something another command would get. It was applied.
pub(crate) fn unexpected(response: &SystemResponse) -> ProposeError {
    ProposeError::Unknown {
        cause: format!("the leader answered with {response:?}, which this release does not understand"),
    }
}
