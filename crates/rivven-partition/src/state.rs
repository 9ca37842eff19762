//! The state that the replicated log builds: every command checked completely, then applied.

mod change;
mod check;
mod nodes;
mod rebalance;
mod reports;
mod repr;
#[cfg(test)]
mod tests;
mod topics;

use std::sync::Arc;

pub(crate) use self::topics::check_counts;
use crate::{
    Applied, PartitionCommand, PartitionError, PartitionMap, PartitionResponse, TopicId,
    cell::{Cell, MovePhase},
    history::{Changed, History},
    ids::{MAX_TOPIC_ID, Spot},
};

/// Nodes, topics and partitions, alike on every member at the same log index.
///
/// A clone is a snapshot: it shares what does not change and costs a few counters. In serde the state
/// carries a format version, and one that commands could not have led to is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    map: PartitionMap,
    next_topic: u64,
    /// What is added to a log index for a generation, see [`Self::refounded`].
    offset: u64,
}

/// By how much topic numbers jump when a cluster begins anew: no lost end of a history has created more. Few enough
/// that thousands of refoundings stay below the highest number.
const TOPIC_GAP: u64 = 1 << 32;

/// What a command that was not refused has done.
#[derive(Debug, Default)]
struct Effect {
    /// What it changed; nothing if the state was so already.
    changed: Vec<Changed>,
    /// Whether plans made before are void.
    placed: bool,
    /// The topic that it created.
    created: Option<TopicId>,
}

impl Effect {
    const fn none() -> Self {
        Self {
            changed: Vec::new(),
            placed: false,
            created: None,
        }
    }

    /// What voids plans.
    fn placed(changed: Changed) -> Self {
        Self {
            changed: vec![changed],
            placed: true,
            created: None,
        }
    }
}

impl PartitionState {
    /// Applies one command of the log entry at `log_index`.
    ///
    /// Deterministic: equal states and commands give equal states and responses everywhere.
    ///
    /// # Errors
    /// Why the command was refused. The state is then unchanged.
    pub fn apply(&mut self, log_index: u64, command: PartitionCommand) -> PartitionResponse {
        let generation = self.generation_at(log_index);
        let effect = self.run(generation, command)?;
        if effect.changed.is_empty() {
            let generation = self.map.generation;
            return Ok(Applied::Unchanged { generation });
        }
        self.map.generation = generation;
        if effect.placed {
            self.map.placed = generation;
        }
        self.map.history.note(generation, effect.changed);
        Ok(match effect.created {
            Some(topic) => Applied::TopicCreated { generation, topic },
            None => Applied::Changed { generation },
        })
    }

    /// The cluster begins anew with this entry of its log, as from a backup: what came after in the history that is
    /// given up is lost, and has handed out numbers that nobody here remembers.
    ///
    /// None of them is handed out again. Leader epochs, partition epochs and generations jump by `gap`, which is more
    /// than any lost end of a history can have counted, and topic numbers by 2^32. And nobody leads: whoever led last
    /// there is not known here, so the next leaders wait out a lease that may still run.
    pub fn refounded(&mut self, log_index: u64, gap: u64) {
        self.offset = self.offset.saturating_add(gap);
        let generation = self.generation_at(log_index);
        self.next_topic = self.next_topic.saturating_add(TOPIC_GAP).min(MAX_TOPIC_ID);
        let unled = |(spot, cell): (Spot, &Cell)| (spot, cell.refounded(gap));
        let cells = self.map.topics.cells().map(unled).collect();
        self.replace(cells);
        self.map.generation = generation;
        self.map.placed = generation;
        // Everything has changed: whoever follows the map reads all of it.
        self.map.history = History::new(generation);
    }

    /// The generation of an entry of the log. It never goes back.
    fn generation_at(&self, log_index: u64) -> u64 {
        self.map.generation.max(log_index.saturating_add(self.offset))
    }

    fn run(&mut self, generation: u64, command: PartitionCommand) -> Result<Effect, PartitionError> {
        match command {
            PartitionCommand::RegisterNode(registration) => self.register(registration),
            PartitionCommand::SetNodeStatus {
                node,
                boot_epoch,
                status,
                at_ms,
            } => self.set_status(node, boot_epoch, (status, at_ms)),
            PartitionCommand::SetNodeWeight { node, weight } => self.set_weight(node, weight),
            PartitionCommand::CreateTopic {
                name,
                replication_factor,
                allow_fewer_replicas,
                settings,
                assignment,
            } => {
                let fewer = allow_fewer_replicas;
                self.create_topic(
                    generation,
                    &name,
                    (replication_factor, fewer),
                    settings,
                    &assignment,
                )
            }
            PartitionCommand::DeleteTopic { name } => self.delete_topic(&name),
            PartitionCommand::AddPartitions {
                topic,
                first,
                assignment,
            } => self.add_partitions(topic, first, &assignment),
            PartitionCommand::SetReplicationFactor {
                topic,
                replication_factor,
            } => self.set_replication_factor(topic, replication_factor),
            PartitionCommand::Configure { topic, changes } => self.configure(topic, &changes),
            PartitionCommand::ChangePartitions { starts, changes } => {
                self.change_partitions(&starts, &changes)
            }
            PartitionCommand::ReportInSync {
                leader,
                starts,
                reports,
            } => self.report_in_sync(leader, &starts, reports),
            PartitionCommand::Release { leader, released } => self.release(leader, &released),
            PartitionCommand::ElectUnclean(election) => self.elect_unclean(election),
            PartitionCommand::Rebalance(command) => self.rebalance(generation, command),
        }
    }

    /// The reader's view. Clone it to keep it.
    #[must_use]
    pub const fn map(&self) -> &PartitionMap {
        &self.map
    }

    /// Log index of the last change; 0 before the first. Higher since a [refounding](Self::refounded).
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.map.generation
    }

    /// Replaces partitions by what was made of them, all checked before, and keeps all counts in step.
    fn replace(&mut self, cells: Vec<(Spot, Cell)>) -> Vec<Changed> {
        let mut changed = Vec::with_capacity(cells.len());
        let loads = Arc::make_mut(&mut self.map.loads);
        let topics = Arc::make_mut(&mut self.map.topics);
        let mut phases = Vec::new();
        for (spot, next) in cells {
            let Some(cell) = topics.cell_mut(spot) else {
                continue;
            };
            loads.remove(cell);
            loads.add(&next);
            let (was, is) = (planned(cell), planned(&next));
            if was != is {
                phases.push((was, is));
            }
            *cell = next;
            changed.push(Changed::Partition(spot));
        }
        if !phases.is_empty() {
            self.count_phases(&phases);
            changed.push(Changed::Rebalance);
        }
        changed
    }
}

/// How far the partition is in the rebalance, if it is part of it.
fn planned(cell: &Cell) -> Option<MovePhase> {
    let moving = cell.moving().filter(|moving| moving.planned)?;
    Some(moving.phase)
}
