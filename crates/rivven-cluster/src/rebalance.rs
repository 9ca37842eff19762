//! Topics changed and partitions moved by an operator.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rivven_partition::{
    Applied, Goal, PartitionCommand, PartitionError, PartitionState, Plan, Rebalance, RebalanceCommand,
    UncleanElection, grow, plan,
};
use rivven_raft::Consistency;
use rivven_types::NodeId;

use crate::{PartitionManager, WriteError, clock, inner::Inner, kv::dropped_write};

/// What to change of a topic. From the default, name what shall be otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// Partitions in all; more than there are. Keys of records then belong to other partitions, mostly.
    pub partitions: Option<u32>,
    /// Replicas that each partition shall have; the controller adds or takes away.
    pub replication_factor: Option<u16>,
    /// Settings by key, `None` to unset one.
    pub settings: BTreeMap<String, Option<String>>,
}

/// What an operator decides about a rebalance that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceAction {
    /// No further move begins; those under way end.
    Pause,
    /// Moves begin again.
    Resume,
    /// Every partition goes back to the replicas that it had.
    Cancel,
}

impl PartitionManager {
    /// Changes a topic. Returns the generation of the assignments that show it; with several changes, those
    /// before the one that failed have been made.
    ///
    /// Cancel safety: a change whose future is dropped may still happen.
    ///
    /// # Errors
    /// [`WriteError`]: there is no such topic, it does not allow it, or no quorum answered.
    pub async fn change_topic(&self, name: &str, change: TopicChange) -> Result<u64, WriteError> {
        let inner = self.running()?;
        let state = self.newest(&inner).await?;
        let topic = state.map().topic(name).map(|topic| topic.id);
        let topic = topic.ok_or(WriteError::Partition(PartitionError::UnknownTopic))?;
        let mut commands = Vec::new();
        if let Some(partitions) = change.partitions {
            let grown = grow(&state, &inner.liveness_hint(&state), name, partitions);
            commands.push(grown.map_err(WriteError::Partition)?);
        }
        if let Some(replication_factor) = change.replication_factor {
            commands.push(PartitionCommand::SetReplicationFactor {
                topic,
                replication_factor,
            });
        }
        if !change.settings.is_empty() {
            commands.push(PartitionCommand::Configure {
                topic: Some(topic),
                changes: change.settings,
            });
        }
        let mut generation = state.generation();
        for command in commands {
            generation = self.propose(&inner, command).await?.generation();
        }
        Ok(generation)
    }

    /// Sets and unsets settings of the cluster, which topics may override.
    ///
    /// # Errors
    /// [`WriteError`]: a setting does not exist or take its value, or no quorum answered.
    pub async fn configure(&self, settings: BTreeMap<String, Option<String>>) -> Result<u64, WriteError> {
        let command = PartitionCommand::Configure {
            topic: None,
            changes: settings,
        };
        Ok(self.propose(&*self.running()?, command).await?.generation())
    }

    /// Gives a node another weight in percent of a normal one, or with `None` the one it registered with.
    ///
    /// A node of weight 0 is emptied, by and by, and can then be removed; other weights take effect with the
    /// next rebalance.
    ///
    /// # Errors
    /// [`WriteError`]: there is no such node, the weight is too large, or no quorum answered.
    pub async fn set_weight(&self, node: NodeId, weight: Option<u16>) -> Result<u64, WriteError> {
        let command = PartitionCommand::SetNodeWeight { node, weight };
        Ok(self.propose(&*self.running()?, command).await?.generation())
    }

    /// Plans how to spread replicas and leaders evenly. Changes nothing.
    ///
    /// Computes on the caller's task: a tenth of a second for a million partitions.
    ///
    /// # Errors
    /// [`WriteError`]: no node can take anything, or no quorum answered.
    pub async fn plan(&self, goal: &Goal) -> Result<Plan, WriteError> {
        let inner = self.running()?;
        let state = self.newest(&inner).await?;
        plan(&state, &inner.liveness_hint(&state), goal).map_err(WriteError::Partition)
    }

    /// Begins to carry out a plan; the controller goes on with it by itself. Returns the rebalance's number, or
    /// `None` if the plan is empty.
    ///
    /// Cancel safety: a rebalance whose future is dropped before all moves are handed in is cancelled by the
    /// controller after a minute.
    ///
    /// # Errors
    /// [`WriteError`]: something has changed since the plan was made, a rebalance is under way, or no quorum
    /// answered.
    pub async fn start_rebalance(&self, plan: &Plan) -> Result<Option<u64>, WriteError> {
        let inner = self.running()?;
        let mut batches = plan.batches().into_iter().peekable();
        let Some(moves) = batches.next() else {
            return Ok(None);
        };
        let begin = RebalanceCommand::Begin {
            against: plan.against(),
            at_ms: clock::unix_ms(),
            moves,
            more: batches.peek().is_some(),
        };
        let begun = self.propose(&inner, PartitionCommand::Rebalance(begin)).await?;
        let id = begun.generation();
        while let Some(moves) = batches.next() {
            let more = batches.peek().is_some();
            let fill = RebalanceCommand::Fill { id, moves, more };
            self.propose(&inner, PartitionCommand::Rebalance(fill)).await?;
        }
        Ok(Some(id))
    }

    /// The rebalance under way, as far as this node knows.
    #[must_use]
    pub fn rebalance(&self) -> Option<Rebalance> {
        self.read(|map| map.rebalance().cloned())
    }

    /// Pauses, resumes or cancels a rebalance.
    ///
    /// # Errors
    /// [`WriteError`]: there is no such rebalance, or no quorum answered.
    pub async fn control_rebalance(&self, id: u64, action: RebalanceAction) -> Result<u64, WriteError> {
        let command = match action {
            RebalanceAction::Pause => RebalanceCommand::Pause { id },
            RebalanceAction::Resume => RebalanceCommand::Resume { id },
            RebalanceAction::Cancel => RebalanceCommand::Cancel { id },
        };
        let command = PartitionCommand::Rebalance(command);
        Ok(self.propose(&*self.running()?, command).await?.generation())
    }

    /// Makes a replica the leader that is not in sync, and so gives up what it has not.
    ///
    /// For a partition whose in-sync replicas are lost for good. Who did what and why stays on record
    /// ([`PartitionMap::unclean_elections`](crate::PartitionMap::unclean_elections)).
    ///
    /// # Errors
    /// [`WriteError`]: there is no such partition or replica, or no quorum answered.
    pub async fn elect_unclean(
        &self,
        topic: &str,
        partition: u32,
        node: NodeId,
        reason: &str,
    ) -> Result<u64, WriteError> {
        let inner = self.running()?;
        let state = self.newest(&inner).await?;
        let map = state.map();
        let known = map.topic(topic).ok_or(PartitionError::UnknownTopic);
        let known = known.map_err(WriteError::Partition)?;
        let found = known
            .partition(partition)
            .ok_or(PartitionError::UnknownPartition {
                topic: known.id,
                partition,
            });
        let leader = map.node(node).ok_or(PartitionError::UnknownNode { node });
        let election = UncleanElection {
            topic: known.id,
            partition,
            partition_epoch: found.map_err(WriteError::Partition)?.partition_epoch(),
            leader: leader.map_err(WriteError::Partition)?.registration.start(),
            at_ms: clock::unix_ms(),
            reason: reason.to_owned(),
        };
        let elected = self
            .propose(&inner, PartitionCommand::ElectUnclean(election))
            .await?;
        Ok(elected.generation())
    }

    pub(crate) fn running(&self) -> Result<Arc<Inner>, WriteError> {
        self.inner.upgrade().ok_or_else(dropped_write)
    }

    /// What a quorum has committed, so that a change made a moment ago elsewhere counts.
    pub(crate) async fn newest(&self, inner: &Inner) -> Result<PartitionState, WriteError> {
        let read = inner.read(Consistency::Linearizable, self.timeout(), |state| {
            state.partitions.clone()
        });
        let read = read.await.map_err(|error| WriteError::NoLeader {
            cause: error.to_string(),
        })?;
        Ok(read.value)
    }

    async fn propose(&self, inner: &Inner, command: PartitionCommand) -> Result<Applied, WriteError> {
        inner.propose_partitions(command, self.timeout()).await
    }

    const fn timeout(&self) -> Duration {
        self.timeout
    }
}
