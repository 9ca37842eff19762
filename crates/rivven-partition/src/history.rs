//! What changed lately: bounded, shared with snapshots, and clear about what it no longer knows.

use std::{collections::BTreeSet, sync::Arc};

use rivven_types::NodeId;
use thiserror::Error;

use crate::{HISTORY_COMMANDS, HISTORY_KEYS, TopicId, ids::Spot};

/// Something that a command changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Changed {
    Node(NodeId),
    Topic(TopicId),
    Partition(Spot),
    Settings,
    Rebalance,
}

/// The changes of the newest commands, in two pages: when the newer one is full it becomes the older one, and
/// that is forgotten. So at least one full page is known, and a copy costs two counters.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// Changes after this generation are known.
    since: u64,
    older: Arc<Page>,
    newer: Arc<Page>,
}

#[derive(Clone, Debug, Default)]
struct Page {
    commands: Vec<(u64, Arc<[Changed]>)>,
    keys: usize,
}

/// The changes after the generation asked for are no longer known.
///
/// Read everything from the map at hand, then follow its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("changes are known only after generation {known_after}; read the whole map and go on from there")]
pub struct Compacted {
    /// The oldest generation whose changes since are known.
    pub known_after: u64,
}

impl Compacted {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        "assignments-compacted"
    }
}

/// What has changed between two generations; how it is at the later one, the map of that generation says.
///
/// What was changed several times is named once. A topic or partition that the map no longer has was
/// deleted; a new topic is named itself, not partition by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The earlier generation.
    pub from: u64,
    /// The later generation, that of the map.
    pub to: u64,
    /// Nodes registered or decided about, ascending.
    pub nodes: Vec<NodeId>,
    /// Topics created, deleted, grown or set up otherwise, ascending.
    pub topics: Vec<TopicId>,
    /// Partitions of other topics or replicas or leaders, ascending.
    pub partitions: Vec<(TopicId, u32)>,
    /// Whether settings of the cluster have changed.
    pub settings: bool,
    /// Whether the rebalance has begun, ended or got on.
    pub rebalance: bool,
}

impl History {
    /// Nothing known of what was before `generation`.
    pub(crate) fn new(generation: u64) -> Self {
        Self {
            since: generation,
            older: Arc::default(),
            newer: Arc::default(),
        }
    }

    /// Notes what the command of `generation` has changed.
    pub(crate) fn note(&mut self, generation: u64, changed: Vec<Changed>) {
        let full = self.newer.commands.len() >= HISTORY_COMMANDS
            || self.newer.keys + changed.len() > HISTORY_KEYS && !self.newer.commands.is_empty();
        if full {
            // What is asked for must be known whole: from after the last command that is forgotten.
            let forgotten = self.older.commands.last().map(|(generation, _)| *generation);
            self.since = forgotten.unwrap_or(self.since);
            self.older = std::mem::take(&mut self.newer);
        }
        let page = Arc::make_mut(&mut self.newer);
        page.keys += changed.len();
        page.commands.push((generation, changed.into()));
    }

    /// What the commands after `generation` have changed, in any order and perhaps more than once.
    pub(crate) fn after(&self, generation: u64) -> Result<impl Iterator<Item = Changed>, Compacted> {
        if generation < self.since {
            return Err(Compacted {
                known_after: self.since,
            });
        }
        let pages = [&self.older, &self.newer].into_iter();
        let commands = pages.flat_map(move |page| {
            let from = page.commands.partition_point(|(of, _)| *of <= generation);
            page.commands.get(from..).unwrap_or_default()
        });
        Ok(commands.flat_map(|(_, changed)| changed.iter().copied()))
    }

    /// The same, in order and once each.
    pub(crate) fn changes(&self, from: u64, to: u64) -> Result<Changes, Compacted> {
        let mut changes = Changes {
            from,
            to,
            ..Changes::default()
        };
        let sorted: BTreeSet<Changed> = self.after(from)?.collect();
        for changed in sorted {
            match changed {
                Changed::Node(node) => changes.nodes.push(node),
                Changed::Topic(topic) => changes.topics.push(topic),
                Changed::Partition(spot) => changes.partitions.push((spot.topic(), spot.partition())),
                Changed::Settings => changes.settings = true,
                Changed::Rebalance => changes.rebalance = true,
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_known_for_at_least_a_page_and_then_plainly_forgotten() {
        let mut history = History::new(7);
        assert_eq!(history.changes(6, 7).unwrap_err(), Compacted { known_after: 7 });
        assert_eq!(history.changes(7, 7).unwrap().nodes, []);
        let last = 7 + 3 * HISTORY_COMMANDS as u64;
        for generation in 8..=last {
            history.note(generation, vec![Changed::Node(generation)]);
        }
        for from in 7..=last {
            match history.changes(from, last) {
                Ok(changes) => assert!(changes.nodes.iter().copied().eq(from + 1..=last), "{from}"),
                Err(Compacted { known_after }) => {
                    assert!(from < known_after && from + (HISTORY_COMMANDS as u64) < last);
                }
            }
        }
    }

    #[test]
    fn a_page_ends_by_keys_too_and_a_huge_command_is_still_known() {
        let mut history = History::new(0);
        for generation in 1..10 {
            let nodes = (0..HISTORY_KEYS as u64).map(Changed::Node);
            history.note(generation, nodes.collect());
        }
        assert_eq!(history.changes(8, 9).unwrap().nodes.len(), HISTORY_KEYS);
        assert!(history.changes(6, 9).is_err());
    }
}
