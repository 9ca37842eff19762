//! Where a new topic goes: exact quotas per node and zone, the ring to break ties.

pub(crate) mod quota;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use rivven_hashring::{DEFAULT_VIRTUAL_NODES, Ring, TopicKey};
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use self::quota::Quotas;
use crate::{
    DEFAULT_REPLICATION_FACTOR, Effective, Liveness, PartitionCommand, PartitionError, PartitionState, Scope,
    Settings, TopicName, ZoneRule, state::check_counts,
};

/// What is asked of a new topic.
///
/// ```
/// use rivven_partition::TopicSpec;
/// let spec = TopicSpec::new(12).replication_factor(3);
/// assert_eq!((spec.partitions, spec.replication_factor), (12, Some(3)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// Number of partitions, from 1 to [`MAX_PARTITIONS_PER_TOPIC`](crate::MAX_PARTITIONS_PER_TOPIC).
    pub partitions: u32,
    /// Replicas per partition, from 1 to [`MAX_REPLICATION_FACTOR`](crate::MAX_REPLICATION_FACTOR);
    /// [`DEFAULT_REPLICATION_FACTOR`] if not given.
    pub replication_factor: Option<u16>,
    /// Whether fewer replicas will do while the cluster has too few nodes. Off by default, because such a
    /// topic survives fewer failures than its factor says.
    pub allow_fewer_replicas: bool,
    /// Settings of the topic, by key; see [`KEYS`](crate::KEYS).
    pub settings: BTreeMap<String, String>,
}

impl TopicSpec {
    /// A topic of so many partitions with the default replication factor.
    #[must_use]
    pub const fn new(partitions: u32) -> Self {
        Self {
            partitions,
            replication_factor: None,
            allow_fewer_replicas: false,
            settings: BTreeMap::new(),
        }
    }

    /// Sets the number of replicas per partition.
    #[must_use]
    pub fn replication_factor(mut self, replicas: u16) -> Self {
        self.replication_factor = Some(replicas);
        self
    }

    /// Sets a setting of the topic, as `min-in-sync-replicas`.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Lets partitions have fewer replicas while the cluster has too few nodes.
    #[must_use]
    pub fn allow_fewer_replicas(mut self) -> Self {
        self.allow_fewer_replicas = true;
        self
    }
}

/// Computes the command that creates a topic.
///
/// Takes the nodes that are neither draining nor down nor emptied, and alive. Within the topic the nodes of a
/// zone get replicas by their weight, exactly but for one; so do zones, as far as none holds more replicas of
/// a partition than it must. Who gets the one more is decided by what nodes hold already, then by the ring.
/// Preferred leaders are spread likewise.
///
/// # Errors
/// [`PartitionError::NotEnoughNodes`], [`PartitionError::NotEnoughZones`], or what is wrong with the name,
/// the numbers or the settings. That a topic of that name exists is found when the command is applied.
pub fn place(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    name: &str,
    spec: &TopicSpec,
) -> Result<PartitionCommand, PartitionError> {
    let name = TopicName::new(name)?;
    let replication_factor = spec.replication_factor.unwrap_or(DEFAULT_REPLICATION_FACTOR);
    let partitions = usize::try_from(spec.partitions).unwrap_or(usize::MAX);
    check_counts(partitions, replication_factor)?;
    let settings = spec
        .settings
        .iter()
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    let settings = Settings::default().with(Scope::Topic, &settings.collect())?;
    let effective = Effective {
        topic: Some(&settings),
        cluster: state.map().settings(),
    };
    let wanted = Wanted {
        replication_factor,
        allow_fewer: spec.allow_fewer_replicas,
        zones: effective.zones(),
    };
    Ok(PartitionCommand::CreateTopic {
        assignment: assignment(state, members, &name, 0..spec.partitions, wanted)?,
        name: name.into(),
        replication_factor,
        allow_fewer_replicas: spec.allow_fewer_replicas,
        settings: spec.settings.clone(),
    })
}

/// Computes the command that gives a topic so many partitions in all, placed as [`place`] places them.
///
/// Keys of records then belong to other partitions, for the most part.
///
/// # Errors
/// [`PartitionError::UnknownTopic`], [`PartitionError::PartitionsOnlyGrow`], or as for [`place`].
pub fn grow(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    name: &str,
    partitions: u32,
) -> Result<PartitionCommand, PartitionError> {
    let topic = state.map().topic(name).ok_or(PartitionError::UnknownTopic)?;
    let first = topic.partition_count();
    if partitions <= first {
        return Err(PartitionError::PartitionsOnlyGrow { partitions: first });
    }
    let count = usize::try_from(partitions).unwrap_or(usize::MAX);
    check_counts(count, topic.replication_factor)?;
    let wanted = Wanted {
        replication_factor: topic.replication_factor,
        allow_fewer: topic.allow_fewer_replicas,
        zones: topic.effective().zones(),
    };
    Ok(PartitionCommand::AddPartitions {
        topic: topic.id,
        first,
        assignment: assignment(state, members, &topic.name, first..partitions, wanted)?,
    })
}

/// A node that can take replicas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    node: NodeId,
    zone: Option<&'a str>,
    weight: u16,
}

/// What is asked of new partitions.
#[derive(Clone, Copy)]
struct Wanted {
    replication_factor: u16,
    allow_fewer: bool,
    zones: ZoneRule,
}

/// Replicas for partitions of a topic, by number.
fn assignment(
    state: &PartitionState,
    members: &BTreeMap<NodeId, Liveness>,
    name: &TopicName,
    numbers: Range<u32>,
    asked: Wanted,
) -> Result<Vec<Vec<NodeId>>, PartitionError> {
    let map = state.map();
    let nodes = map
        .nodes()
        .filter(|node| node.takes_replicas() && members.get(&node.id()) == Some(&Liveness::Alive));
    let nodes = nodes.map(|node| Candidate {
        node: node.id(),
        zone: node.zone(),
        weight: node.weight(),
    });
    let nodes: Vec<Candidate<'_>> = nodes.collect();
    let (available, wanted) = (nodes.len(), asked.replication_factor);
    if available == 0 || available < usize::from(wanted) && !asked.allow_fewer {
        return Err(PartitionError::NotEnoughNodes { wanted, available });
    }
    let zones = nodes.iter().map(|node| node.zone).collect::<BTreeSet<_>>().len();
    let room = match asked.zones {
        ZoneRule::Preferred => available,
        ZoneRule::Hard if zones < usize::from(wanted) && !asked.allow_fewer => {
            return Err(PartitionError::NotEnoughZones { wanted, zones });
        }
        ZoneRule::Hard => zones,
    };
    let replicas = room.min(usize::from(wanted));
    let walks = Walks::new(&nodes, name);
    let turns: BTreeMap<NodeId, usize> = walks.walk(0).zip(0..).collect();
    let quotas = Quotas::new(&nodes, (numbers.len(), replicas), asked.zones, |node| {
        (map.replicas_of(node), turns.get(&node).copied())
    });
    let weights = nodes.iter().map(|node| (node.node, u64::from(node.weight)));
    let sets = assign(quotas, &walks, numbers);
    Ok(lead(sets, &weights.collect(), |node| map.leaders_of(node).into()))
}

/// The ring of the nodes, which gives each partition its own order of them.
struct Walks {
    ring: Ring,
    topic: TopicKey,
}

impl Walks {
    fn new(nodes: &[Candidate<'_>], topic: &TopicName) -> Self {
        let mut ring = Ring::new(DEFAULT_VIRTUAL_NODES);
        // Numbers are valid names, distinct, and no more than a ring takes. Were the ring to refuse them, sets
        // would be too small and the command refused when applied.
        let _ = ring.add_all(nodes.iter().map(|node| node.node.to_string()));
        Self {
            ring,
            topic: TopicKey::new(topic),
        }
    }

    fn walk(&self, partition: u32) -> impl Iterator<Item = NodeId> {
        let walk = self.ring.walk(self.topic.partition(partition));
        walk.filter_map(|node| node.name().parse().ok())
    }
}

/// Gives each partition its replicas: first those whose quota leaves no choice, then along the ring.
fn assign(mut quotas: Quotas, walks: &Walks, numbers: Range<u32>) -> Vec<Vec<NodeId>> {
    let sets = numbers.map(|partition| {
        let chosen = quotas.choose(|| walks.walk(partition));
        let mut left: BTreeSet<_> = chosen.into_iter().collect();
        let mut set: Vec<_> = Vec::with_capacity(left.len());
        let mut walk = walks.walk(partition);
        while !left.is_empty() {
            let Some(node) = walk.next() else { break };
            if left.remove(&node) {
                set.push(node);
            }
        }
        set.extend(left);
        set
    });
    sets.collect()
}

/// Moves the preferred leader of each partition to the front, so that nodes lead by their weight.
///
/// `elsewhere` says how many partitions a node leads already, which breaks ties.
fn lead(
    mut sets: Vec<Vec<NodeId>>,
    weights: &BTreeMap<NodeId, u64>,
    elsewhere: impl Fn(NodeId) -> u64,
) -> Vec<Vec<NodeId>> {
    let mut here: BTreeMap<NodeId, u64> = BTreeMap::new();
    let weight = |node: &NodeId| weights.get(node).copied().unwrap_or(1).max(1);
    let load = |here: &BTreeMap<NodeId, u64>, node: &NodeId| {
        let count = here.get(node).copied().unwrap_or(0);
        let scaled = count * SCALE / weight(node);
        (scaled, (count + elsewhere(*node)) * SCALE / weight(node))
    };
    for set in &mut sets {
        let least = (0..set.len()).min_by_key(|at| set.get(*at).map(|node| load(&here, node)));
        if let Some(front) = set.get_mut(..=least.unwrap_or(0)) {
            front.rotate_right(1);
        }
        if let Some(leader) = set.first() {
            *here.entry(*leader).or_insert(0) += 1;
        }
    }
    // What greed left uneven: hand a partition over wherever that narrows a gap. Every exchange lowers the
    // sum of squares over weights, and the rounds are bounded besides.
    for _ in 0..MAX_EXCHANGE_ROUNDS {
        let mut settled = true;
        for set in &mut sets {
            let Some((leader, others)) = set.split_first_mut() else {
                continue;
            };
            let count = |node: &NodeId| here.get(node).copied().unwrap_or(0);
            let Some(least) = others.iter_mut().min_by_key(|node| load(&here, node).0) else {
                continue;
            };
            let (more, less) = (2 * count(leader), 2 * count(least) + 1);
            if less * weight(leader) < more.saturating_sub(1) * weight(least) {
                *here.entry(*leader).or_insert(0) -= 1;
                *here.entry(*least).or_insert(0) += 1;
                std::mem::swap(leader, least);
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    sets
}

/// Counts are compared as parts of a weight, in units this much finer than one of percent.
const SCALE: u64 = 1 << 20;

/// Most rounds of evening out preferred leaders; two or three settle all but contrived cases.
const MAX_EXCHANGE_ROUNDS: usize = 16;
