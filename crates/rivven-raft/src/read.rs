//! Reads: of this node's copy as it is, or after the leader confirmed how far it must be.

use std::{pin::pin, time::Duration};

use futures_util::future::{Either, select};
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use rivven_transport::CallCtx;
use rivven_types::NodeId;
use tokio::time::{Instant, timeout_at};

use crate::{
    RaftNode, ReadError, StateMachine,
    core::Down,
    node::Inner,
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

/// Why the leader gave no read index.
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
            Consistency::Linearizable => self.await_linearizable(within).await?,
            Consistency::Stale => {}
        }
        let (value, applied_index) = self.shared.read(read).await;
        Ok(Read { value, applied_index })
    }

    /// Waits until this node's copy has everything that was acknowledged before the call.
    async fn await_linearizable(&self, within: Duration) -> Result<(), ReadError> {
        let deadline = Instant::now() + within;
        let mut cause = String::from("no leader is known");
        let index = loop {
            let leader = self.leader()?;
            if let Some(leader) = leader {
                let attempt = if leader == self.node_id {
                    self.read_index_here(deadline).await
                } else {
                    self.read_index_at(leader, deadline).await
                };
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

    /// The read index, by the leader's own quorum round (Raft dissertation, section 6.4).
    pub(crate) async fn read_index_here(&self, deadline: Instant) -> Result<u64, ReadIndexFailure> {
        let raft = self.raft();
        let raft = raft.map_err(|down| ReadIndexFailure::Stopped(down.to_string()))?;
        let asked = timeout_at(deadline, raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
        let asked = asked.map_err(|_| ReadIndexFailure::Unconfirmed("the deadline passed".into()))?;
        asked
            .map(|linearizer| linearizer.read_log_id().index())
            .map_err(|error| match error {
                RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                    ReadIndexFailure::NotLeader(forward.leader_id)
                }
                RaftError::APIError(error) => ReadIndexFailure::Unconfirmed(error.to_string()),
                RaftError::Fatal(fatal) => ReadIndexFailure::Stopped(fatal.to_string()),
            })
    }

    async fn read_index_at(&self, leader: NodeId, deadline: Instant) -> Result<u64, ReadIndexFailure> {
        self.reach(leader).await.map_err(ReadIndexFailure::Unconfirmed)?;
        let call = self
            .transport
            .call::<ReadIndex>(leader, &(), CallCtx::until(deadline));
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
