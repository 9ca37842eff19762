//! Reads: of this node's copy as it is, or after the leader confirmed how far it must be.

use std::{pin::pin, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, select},
};
use openraft::{
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::LinearizerOption,
};
use rivven_transport::CallCtx;
use rivven_types::NodeId;
use tokio::time::{Instant, timeout_at};

use crate::{
    RaftNode, ReadError, StateMachine,
    core::Down,
    node::Inner,
    rounds::Rounds,
    submit::RETRY_INTERVAL,
    wire::{ReadIndex, WireReadIndexResponse},
};

/// How long a linearizable read may take when nothing else is said.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// What a read promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Sees every write acknowledged before the read began, wherever. Costs a round to a quorum.
    Linearizable,
    /// The same without the round, as long as the leader's lease runs: a quorum has lately confirmed it, and elects
    /// nobody else meanwhile. As good as linearizable while clocks keep their pace, see
    /// [`RaftBuilder::lease_reads`](crate::RaftBuilder::lease_reads); where those are off, or the lease has run out, it
    /// is linearizable.
    Lease,
    /// Sees this node's copy as it is, which may lag. Costs nothing and works without a leader.
    Stale,
}

/// What was read, and when in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read<T> {
    /// What the closure returned.
    pub value: T,
    /// Index of the last entry the state had applied; `None` before the first.
    pub applied_index: Option<u64>,
}

impl<T> Read<T> {
    pub(crate) const fn new(value: T, applied_index: Option<u64>) -> Self {
        Self { value, applied_index }
    }
}

/// How the leader makes sure that it still leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Freshness {
    /// By a round to a quorum that begins now.
    Round,
    /// By its lease, if it has one that runs.
    Lease,
}

/// Reads that wait, by what they wait for.
#[derive(Debug, Default)]
pub(crate) struct ReadRounds {
    /// For this node as the leader to make sure that it is: its own reads, and those of others.
    here: ByFreshness,
    /// For a leader elsewhere. Kept apart, or two nodes that take each other for the leader would wait for each other.
    elsewhere: ByFreshness,
}

#[derive(Debug, Default)]
struct ByFreshness {
    round: Rounds,
    lease: Rounds,
}

impl ByFreshness {
    const fn of(&self, how: Freshness) -> &Rounds {
        match how {
            Freshness::Round => &self.round,
            Freshness::Lease => &self.lease,
        }
    }
}

/// Why the leader gave no read index.
#[derive(Clone, Debug)]
pub(crate) enum ReadIndexFailure {
    NotLeader(Option<NodeId>),
    /// No quorum confirmed in time that it still leads.
    Unconfirmed(String),
    Stopped(String),
}

impl<S: StateMachine> RaftNode<S> {
    /// Reads the state with `read`, which must be short: commands, and other tasks of its thread, wait
    /// meanwhile.
    ///
    /// # Errors
    /// Nothing was changed, so every failed read can be repeated. A stale read fails only on a node that
    /// has stopped.
    pub async fn read<T>(
        &self,
        consistency: Consistency,
        read: impl FnOnce(&S) -> T,
    ) -> Result<Read<T>, ReadError> {
        self.read_within(consistency, DEFAULT_DEADLINE, read).await
    }

    /// As [`Self::read`], giving up after `within`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_within<T>(
        &self,
        consistency: Consistency,
        within: Duration,
        read: impl FnOnce(&S) -> T,
    ) -> Result<Read<T>, ReadError> {
        self.inner().read_state(consistency, within, read).await
    }
}

impl From<Down> for ReadError {
    fn from(down: Down) -> Self {
        match down {
            Down::Suspended(cause) => Self::DiskFull { cause },
            Down::Stopped(cause) => Self::Stopped { cause },
        }
    }
}

impl<S: StateMachine> Inner<S> {
    pub(crate) async fn read_state<T>(
        &self,
        consistency: Consistency,
        within: Duration,
        read: impl FnOnce(&S) -> T,
    ) -> Result<Read<T>, ReadError> {
        if let Some(cause) = self.stop_reason() {
            return Err(ReadError::Stopped { cause });
        }
        match consistency {
            // Boxed for the sake of callers, whose futures hold these.
            Consistency::Linearizable => self.await_fresh(Freshness::Round, within).boxed().await?,
            Consistency::Lease => self.await_fresh(Freshness::Lease, within).boxed().await?,
            Consistency::Stale => {}
        }
        let (value, applied_index) = self.shared.read(read).await;
        Ok(Read { value, applied_index })
    }

    /// Waits until this node's copy has everything that was acknowledged before the call.
    async fn await_fresh(&self, how: Freshness, within: Duration) -> Result<(), ReadError> {
        let deadline = Instant::now() + within;
        let mut cause = String::from("no leader is known");
        let index = loop {
            let leader = self.leader()?;
            if let Some(leader) = leader {
                let attempt = self.read_index(leader, how, deadline).await;
                match attempt {
                    Ok(index) => break index,
                    Err(ReadIndexFailure::NotLeader(hint)) => {
                        cause = format!("node {leader} does not lead; it names {hint:?}");
                    }
                    Err(ReadIndexFailure::Unconfirmed(reason) | ReadIndexFailure::Stopped(reason)) => {
                        cause = reason;
                    }
                }
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(ReadError::NoLeader {
                    waited: within,
                    cause,
                });
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        };
        self.await_applied(index, deadline).await
    }

    async fn await_applied(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        if self.shared.applied_index() >= Some(index) {
            return Ok(());
        }
        let mut applied = self.shared.watch_applied();
        // `None` sorts before every index.
        let reached = timeout_at(deadline, applied.wait_for(|applied| *applied >= Some(index))).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ReadError::Behind {
                applied: self.shared.applied_index(),
                needed: index,
            }),
        }
    }

    async fn read_index(
        &self,
        leader: NodeId,
        how: Freshness,
        deadline: Instant,
    ) -> Result<u64, ReadIndexFailure> {
        if leader == self.node_id {
            return self.read_index_here(how, deadline).await;
        }
        let rounds = self.rounds.elsewhere.of(how);
        let ask = |deadline| self.read_index_at(leader, how, deadline);
        rounds.join(deadline, ask).await
    }

    /// The read index of this node as the leader.
    pub(crate) async fn read_index_here(
        &self,
        how: Freshness,
        deadline: Instant,
    ) -> Result<u64, ReadIndexFailure> {
        let rounds = self.rounds.here.of(how);
        rounds
            .join(deadline, |deadline| self.confirm(how, deadline))
            .await
    }

    /// The read index, by the leader's own quorum round (Raft dissertation, section 6.4), or without one while its
    /// lease runs (section 6.4.1).
    async fn confirm(&self, how: Freshness, deadline: Instant) -> Result<u64, ReadIndexFailure> {
        let raft = self.raft();
        let raft = raft.map_err(|down| ReadIndexFailure::Stopped(down.to_string()))?;
        let confirmed_within = match (how, &self.promise) {
            (Freshness::Lease, Some(promise)) => promise.usable(),
            (Freshness::Lease, None) | (Freshness::Round, _) => Duration::ZERO,
        };
        let option = LinearizerOption::new(Some(confirmed_within), true);
        let asked = raft.call(move |raft| async move {
            let linearizer = raft.get_read_linearizer(option).await?;
            Ok(linearizer.read_log_id().index())
        });
        let asked = timeout_at(deadline, asked)
            .await
            .map_err(|_| ReadIndexFailure::Unconfirmed("the deadline passed".into()))?;
        asked.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                ReadIndexFailure::NotLeader(forward.leader_id)
            }
            RaftError::APIError(error) => ReadIndexFailure::Unconfirmed(error.to_string()),
            RaftError::Fatal(fatal) => ReadIndexFailure::Stopped(fatal.to_string()),
        })
    }

    async fn read_index_at(
        &self,
        leader: NodeId,
        how: Freshness,
        deadline: Instant,
    ) -> Result<u64, ReadIndexFailure> {
        self.reach(leader).await.map_err(ReadIndexFailure::Unconfirmed)?;
        let call = self
            .transport
            .call::<ReadIndex>(leader, &how, CallCtx::until(deadline));
        let response = match select(pin!(call), pin!(self.source.superseded(leader))).await {
            Either::Left((response, _)) => response,
            Either::Right(_) => return Err(ReadIndexFailure::NotLeader(None)),
        };
        match response {
            Ok(WireReadIndexResponse::Index(index)) => Ok(index),
            Ok(WireReadIndexResponse::NotLeader { leader }) => Err(ReadIndexFailure::NotLeader(leader)),
            Ok(WireReadIndexResponse::Failed { cause }) => Err(ReadIndexFailure::Unconfirmed(cause)),
            Err(error) => Err(ReadIndexFailure::Unconfirmed(error.to_string())),
        }
    }
}
