//! Which duties follow from the assignments: a pure machine, told the map and the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rivven_partition::{LeaderEpoch, Partition, PartitionMap, Start, TopicId, TopicName};
use rivven_types::NodeId;
use tokio::time::Instant;

use super::lease::LEADER_LEASE;

/// A partition of a topic.
pub(crate) type Spot = (TopicId, u32);

/// How long a new leader waits for one that may still believe to lead, from when it has heard of its own
/// leadership.
///
/// The lease of the earlier leader began before the change was committed, so it ends before this does; a tenth
/// more is for clocks that do not run at the same rate.
pub(crate) const SUCCESSOR_WAIT: Duration = LEADER_LEASE.saturating_add(Duration::from_millis(200));

/// What this process was last told about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Follow {
        leader: Option<NodeId>,
        epoch: LeaderEpoch,
    },
    /// Nothing yet, because an earlier leader may go on until then. It may have been told to follow before.
    Wait {
        epoch: LeaderEpoch,
        until: Instant,
    },
    Lead {
        epoch: LeaderEpoch,
    },
    Release {
        epoch: LeaderEpoch,
    },
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Lead {
        epoch: LeaderEpoch,
    },
    Follow {
        leader: Option<Start>,
        epoch: LeaderEpoch,
    },
    Release {
        epoch: LeaderEpoch,
        to: Option<NodeId>,
    },
    Close,
}

/// The duties of one process.
#[derive(Debug)]
pub(super) struct Machine {
    me: Start,
    /// How long it waits for an earlier leader that may go on.
    patience: Duration,
    /// Up to which generation everything was looked at; nothing was, without one.
    seen: Option<u64>,
    told: BTreeMap<Spot, (TopicName, Told)>,
    /// Partitions to look at.
    dirty: BTreeSet<Spot>,
    /// Ends of waits.
    waits: BTreeSet<(Instant, Spot)>,
}

impl Machine {
    pub(super) const fn new(me: Start) -> Self {
        Self {
            me,
            patience: SUCCESSOR_WAIT,
            seen: None,
            told: BTreeMap::new(),
            dirty: BTreeSet::new(),
            waits: BTreeSet::new(),
        }
    }

    /// Notes what has changed up to `map`.
    pub(super) fn note(&mut self, map: &PartitionMap) {
        let before = self.seen.replace(map.generation());
        if before == Some(map.generation()) {
            return;
        }
        match before.map(|generation| map.changes_since(generation)) {
            Some(Ok(changes)) => {
                self.dirty.extend(changes.partitions);
                for topic in changes.topics {
                    self.note_topic(map, topic);
                }
            }
            // Too much has happened, or nothing was seen so far.
            Some(Err(_)) | None => {
                self.dirty.extend(self.told.keys());
                for topic in map.topics() {
                    let spots = (0..topic.partition_count()).map(|partition| (topic.id, partition));
                    self.dirty.extend(spots);
                }
            }
        }
    }

    fn note_topic(&mut self, map: &PartitionMap, topic: TopicId) {
        let count = map.topic_of(topic).map_or(0, |topic| topic.partition_count());
        self.dirty.extend((0..count).map(|partition| (topic, partition)));
        let told = self.told.range((topic, 0)..=(topic, u32::MAX));
        self.dirty.extend(told.map(|(spot, _)| *spot));
    }

    /// When to look again although nothing has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waits.first().map(|(until, _)| *until)
    }

    /// The next duty, of a partition that is not `busy`.
    pub(super) fn pop(
        &mut self,
        map: &PartitionMap,
        now: Instant,
        busy: &BTreeSet<Spot>,
    ) -> Option<(Spot, TopicName, Step)> {
        while let Some((_, spot)) = self.waits.first().copied().filter(|(until, _)| *until <= now) {
            self.waits.pop_first();
            self.dirty.insert(spot);
        }
        loop {
            let spot = self.dirty.iter().find(|spot| !busy.contains(spot)).copied()?;
            self.dirty.remove(&spot);
            if let Some((name, step)) = self.look(spot, map, now) {
                return Some((spot, name, step));
            }
        }
    }

    /// Looks at one partition, and notes what is told of it.
    fn look(&mut self, spot: Spot, map: &PartitionMap, now: Instant) -> Option<(TopicName, Step)> {
        let held = map.partition_of(spot.0, spot.1).zip(map.topic_of(spot.0));
        let held = held.filter(|(partition, _)| partition.replicas().any(|node| node == self.me.node));
        let before = self.told.get(&spot).map(|(_, told)| *told);
        let Some((partition, topic)) = held else {
            self.forget_wait(before, spot);
            return self.told.remove(&spot).map(|(name, _)| (name, Step::Close));
        };
        let name = topic.name.clone();
        let (told, step) = if partition.leader_start() == Some(self.me) {
            leading(partition, before, (now, self.patience))
        } else {
            following(partition, before)
        };
        self.forget_wait(before, spot);
        if let Told::Wait { until, .. } = told {
            self.waits.insert((until, spot));
        }
        self.told.insert(spot, (name.clone(), told));
        step.map(|step| (name, step))
    }

    fn forget_wait(&mut self, told: Option<Told>, spot: Spot) {
        if let Some(Told::Wait { until, .. }) = told {
            self.waits.remove(&(until, spot));
        }
    }
}

fn following(partition: Partition<'_>, before: Option<Told>) -> (Told, Option<Step>) {
    let epoch = partition.leader_epoch();
    let leader = partition.leader();
    let told = Told::Follow { leader, epoch };
    let step = Step::Follow {
        leader: partition.leader_start(),
        epoch,
    };
    (told, (before != Some(told)).then_some(step))
}

fn leading(
    partition: Partition<'_>,
    before: Option<Told>,
    time: (Instant, Duration),
) -> (Told, Option<Step>) {
    let epoch = partition.leader_epoch();
    if let Some(until) = wait(partition, before, time) {
        return (Told::Wait { epoch, until }, None);
    }
    if let Some(to) = partition.hand_over_to() {
        let told = Told::Release { epoch };
        let asked = before == Some(told) || partition.is_released();
        let to = Some(to);
        return (told, (!asked).then_some(Step::Release { epoch, to }));
    }
    let told = Told::Lead { epoch };
    (told, (before != Some(told)).then_some(Step::Lead { epoch }))
}

/// Until when an earlier leader may go on, if one may.
///
/// The very next epoch under the same leader is that leader's own: it was asked to let go and goes on after all.
fn wait(
    partition: Partition<'_>,
    before: Option<Told>,
    (now, patience): (Instant, Duration),
) -> Option<Instant> {
    let epoch = partition.leader_epoch().0;
    let same = |of: LeaderEpoch| of.0 == epoch || of.0 + 1 == epoch;
    match before {
        Some(Told::Lead { epoch } | Told::Release { epoch }) if same(epoch) => None,
        Some(Told::Wait { epoch, until }) if same(epoch) => (until > now).then_some(until),
        _ => (!partition.is_cleared()).then(|| now + patience),
    }
}

#[cfg(test)]
mod tests;
