//! Clusters to plan for, exactly balanced to begin with.

use std::collections::BTreeMap;

use anyhow::Result;
use rivven_partition::{
    Goal, Liveness, NORMAL_WEIGHT, NodeAddrs, NodeStatus, PartitionCommand, PartitionState, Registration,
    plan,
};
use rivven_types::{BootEpoch, InstanceId, NodeId};

/// Partitions of each topic.
pub(super) const PARTITIONS: usize = 1_000;

/// Replicas of each partition.
pub(super) const REPLICAS: usize = 3;

/// A cluster and who lives in it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) state: PartitionState,
    pub(super) members: BTreeMap<NodeId, Liveness>,
}

impl World {
    /// `nodes` nodes in `zones` zones (0: none), with so many topics.
    pub(super) fn new(nodes: usize, zones: usize, topics: usize) -> Result<Self> {
        let mut world = Self {
            state: PartitionState::default(),
            members: BTreeMap::new(),
        };
        for node in 1..=nodes {
            world.join(node as NodeId, zones)?;
        }
        let mut deal = Deal::new(nodes, zones);
        let mut assignment: Vec<Vec<NodeId>> = (0..topics * PARTITIONS).map(|_| deal.set()).collect();
        let empty = world.clone();
        world.create(&assignment)?;
        // Chance is not even: the planner's own answer is, and the world begins with that.
        for planned in plan(&world.state, &world.members, &Goal::default())?.moves() {
            let at = usize::try_from(planned.topic.0)? * PARTITIONS + planned.partition as usize;
            if let Some(set) = assignment.get_mut(at) {
                *set = planned.target;
            }
        }
        world = empty;
        world.create(&assignment)?;
        Ok(world)
    }

    fn create(&mut self, assignment: &[Vec<NodeId>]) -> Result<()> {
        for (topic, assignment) in assignment.chunks(PARTITIONS).enumerate() {
            self.apply(PartitionCommand::CreateTopic {
                name: format!("team{}.orders.region-{topic}", topic % 37),
                replication_factor: u16::try_from(REPLICAS)?,
                allow_fewer_replicas: false,
                settings: BTreeMap::new(),
                assignment: assignment.to_vec(),
            })?;
        }
        Ok(())
    }

    /// A live node joins; its zone follows from its number.
    pub(super) fn join(&mut self, node: NodeId, zones: usize) -> Result<()> {
        let zone = (zones > 0).then(|| format!("zone{}", (node - 1) % zones as u64));
        let registration = Registration {
            node,
            instance: InstanceId::from_random([u8::try_from(node % 251)?; 16]),
            boot_epoch: BootEpoch(1),
            addrs: NodeAddrs {
                quic: format!("node{node}:9093").parse()?,
                gossip: format!("node{node}:7946").parse()?,
                admin: None,
            },
            zone,
            weight: NORMAL_WEIGHT,
            endpoints: BTreeMap::new(),
        };
        self.apply(PartitionCommand::RegisterNode(registration))?;
        self.apply(PartitionCommand::SetNodeStatus {
            node,
            boot_epoch: BootEpoch(1),
            status: NodeStatus::Active,
            at_ms: 0,
        })?;
        self.members.insert(node, Liveness::Alive);
        Ok(())
    }

    pub(super) fn weigh(&mut self, node: NodeId, weight: u16) -> Result<()> {
        let weight = Some(weight);
        self.apply(PartitionCommand::SetNodeWeight { node, weight })
    }

    pub(super) fn apply(&mut self, command: PartitionCommand) -> Result<()> {
        self.state.apply(self.state.generation() + 1, command)?;
        Ok(())
    }
}

/// Deals replicas out by chance, each of a partition to another zone, or node where there are no zones.
struct Deal {
    zones: Vec<Vec<NodeId>>,
    random: u64,
}

impl Deal {
    fn new(nodes: usize, zones: usize) -> Self {
        let groups = if zones == 0 { nodes } else { zones };
        let mut lists = vec![Vec::new(); groups];
        for node in 0..nodes {
            if let Some(list) = lists.get_mut(node % groups) {
                list.push(node as NodeId + 1);
            }
        }
        Self {
            zones: lists,
            random: 0x2545_f491_4f6c_dd1d,
        }
    }

    fn below(&mut self, count: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.random >> 33).unwrap_or(0) % count.max(1)
    }

    fn set(&mut self) -> Vec<NodeId> {
        let mut zones: Vec<usize> = Vec::with_capacity(REPLICAS);
        while zones.len() < REPLICAS.min(self.zones.len()) {
            let zone = self.below(self.zones.len());
            if !zones.contains(&zone) {
                zones.push(zone);
            }
        }
        let mut set = Vec::with_capacity(REPLICAS);
        for zone in zones {
            let size = self.zones.get(zone).map_or(0, Vec::len);
            let at = self.below(size);
            set.extend(self.zones.get(zone).and_then(|nodes| nodes.get(at)));
        }
        set
    }
}
