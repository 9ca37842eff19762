//! Five simulated nodes: real keepers, rotations, sealers and openers over a network in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rivven_types::NodeId;
use tokio::time::{Instant, sleep};

use super::{
    super::local,
    Fault,
    judge::Judge,
    world::{EVERYBODY, World, pair},
};
use crate::{
    LinkProfile, MemoryNetwork, Router, TaskGroup, Transport,
    datagram::{DatagramOpener, DatagramSealer, KeyRing, OpenError},
    gossip_keys::{KeyDemand, KeyKeeper, KeyRotation, RotationInput, RotationPolicy, Standing},
    seeded::Seeded,
};

/// How often a controller looks. Longer than any node may take to catch up by itself, so that no controller
/// covers for one that does not.
const ROUND_EVERY: Duration = Duration::from_secs(10);

/// What was confirmed may have become wrong by the time it is acted on.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);

const HASTY: RotationPolicy = RotationPolicy {
    interval: Duration::from_secs(8),
    grace: Duration::from_secs(2),
    urgent_wait: Duration::from_secs(5),
};

struct Node {
    keeper: Arc<KeyKeeper>,
    transport: Transport,
    tasks: TaskGroup,
    sealer: DatagramSealer,
    opener: DatagramOpener,
}

pub(super) struct Cluster {
    network: MemoryNetwork,
    world: Arc<Mutex<World>>,
    nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, KeyRing>,
    boots: u64,
    start: Instant,
    fault: Fault,
    pub(super) judge: Judge,
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    pub(super) fn new(seed: u64, first: Option<&KeyRing>, fault: Fault) -> Self {
        let disks = first.map(|ring| EVERYBODY.map(|node| (node, ring.clone())).collect());
        let network = MemoryNetwork::seeded(seed);
        network.default_link(LinkProfile {
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(80),
            ..LinkProfile::default()
        });
        let mut cluster = Self {
            network,
            world: Arc::new(Mutex::new(World::new())),
            nodes: BTreeMap::new(),
            disks: disks.unwrap_or_default(),
            boots: 0,
            start: Instant::now(),
            fault,
            judge: Judge::new(),
        };
        cluster.start_all();
        cluster
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// The number of the key that `node` seals under, or would after a restart.
    pub(super) fn epoch(&self, node: NodeId) -> u64 {
        let held = self.nodes.get(&node).and_then(|node| node.keeper.held());
        let kept = self.disks.get(&node);
        held.as_deref().or(kept).map_or(0, |ring| ring.current().epoch())
    }

    pub(super) fn boot(&mut self, node: NodeId) {
        if self.is_up(node) {
            return;
        }
        self.boots += 1;
        let tasks = TaskGroup::current();
        let keeper = KeyKeeper::holding(self.disks.get(&node).cloned(), None, tasks.clone());
        let router = Router::new();
        keeper.serve(&router, |_| Standing {
            belongs: true,
            removals: u64::MAX,
        });
        let identity = local(node, self.boots);
        let transport = self.network.join(identity.clone(), router).unwrap();
        let peers = || EVERYBODY.collect();
        tasks.spawn(Arc::clone(&keeper).follow(transport.clone(), peers, false));
        let booted = Node {
            sealer: DatagramSealer::new(keeper.keys(), &identity),
            opener: DatagramOpener::new(keeper.keys(), identity.cluster),
            keeper,
            transport,
            tasks,
        };
        self.nodes.insert(node, booted);
        let mut world = self.world();
        world.up.insert(node);
        world.settle();
    }

    pub(super) fn start_all(&mut self) {
        for node in EVERYBODY {
            self.boot(node);
        }
    }

    pub(super) async fn crash(&mut self, node: NodeId) {
        let Some(crashed) = self.nodes.remove(&node) else {
            return;
        };
        crashed.tasks.abort();
        crashed.transport.shutdown(Duration::ZERO).await;
        let held = crashed.keeper.held().filter(|_| self.fault != Fault::KeepNothing);
        if let Some(held) = held {
            self.disks.insert(node, (*held).clone());
        }
        self.judge.forget(node);
        let mut world = self.world();
        world.up.remove(&node);
        world.settle();
    }

    pub(super) fn cut(&self, one: NodeId, other: NodeId) {
        if one != other {
            self.network.partition(&[one], &[other]);
            let mut world = self.world();
            world.cuts.insert(pair(one, other));
            world.settle();
        }
    }

    pub(super) fn split(&self, side: &[NodeId]) {
        let rest: Vec<NodeId> = EVERYBODY.filter(|node| !side.contains(node)).collect();
        for (one, other) in side.iter().flat_map(|one| rest.iter().map(move |it| (*one, *it))) {
            self.cut(one, other);
        }
    }

    /// Ends every cut of one node, or of all.
    pub(super) fn heal(&self, node: Option<NodeId>) {
        let mut world = self.world();
        let healed = |(one, other): &(NodeId, NodeId)| node.is_none_or(|node| *one == node || *other == node);
        for (one, other) in world.cuts.iter().filter(|cut| healed(cut)) {
            self.network.heal_link(*one, *other);
            self.network.heal_link(*other, *one);
        }
        world.cuts.retain(|cut| !healed(cut));
        world.settle();
    }

    /// Lets `node` act as the controller of `term` until nobody lets it any more. It does not hear of others.
    pub(super) fn reign(&self, node: NodeId, term: u64, seed: u64) {
        let Some(at) = self.nodes.get(&node) else { return };
        let (keeper, transport) = (Arc::clone(&at.keeper), at.transport.clone());
        let (world, start, fault) = (Arc::clone(&self.world), self.start, self.fault);
        at.tasks.spawn(async move {
            let mut rotation = KeyRotation::new();
            let luck = Mutex::new(Seeded::new(seed, term));
            while lock(&world).governed {
                let heard = lock(&world).heard_by(node);
                let input = RotationInput {
                    term,
                    now_ms: u64::try_from(start.elapsed().as_millis()).unwrap(),
                    members: EVERYBODY.map(|node| (node, heard.contains(&node))).collect(),
                    demand: KeyDemand::default(),
                    policy: HASTY,
                };
                let confirm = || async {
                    let leads = lock(&world).leads(node, term);
                    let pause = luck.lock().unwrap().up_to(LONGEST_PAUSE);
                    sleep(pause).await;
                    leads
                };
                rotation.round(&keeper, &transport, &input, confirm).await;
                if fault == Fault::ActivateByMajority {
                    // To `plan`, whoever did not acknowledge is dead.
                    let mut majority = input.clone();
                    for silent in rotation.waiting_for(&keeper, &input) {
                        majority.members.insert(silent, false);
                    }
                    rotation.round(&keeper, &transport, &majority, confirm).await;
                }
                sleep(ROUND_EVERY).await;
            }
        });
    }

    /// Everybody seals for everybody in reach.
    pub(super) fn gossip(&mut self) -> Result<(), String> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for from in &ids {
            let mut sealed = Vec::new();
            let sender = self.nodes.get_mut(from).unwrap();
            if sender.sealer.seal(b"news", &mut sealed).is_err() {
                continue;
            }
            let theirs = sender.keeper.keys().ring().unwrap();
            self.judge.sees_ring(*from, &theirs)?;
            for to in ids.iter().filter(|to| *to != from) {
                let world = lock(&self.world);
                if !world.linked(*from, *to) {
                    continue;
                }
                let receiver = self.nodes.get_mut(to).unwrap();
                let opened = receiver.opener.open(&sealed, &mut Vec::new());
                let ours = receiver.keeper.keys().ring();
                match opened {
                    Ok(_) => {}
                    Err(OpenError::UnknownKey(_) | OpenError::NotAuthentic) => {
                        if self.fault != Fault::NeverFetch {
                            receiver.keeper.keys().report_missing();
                        }
                    }
                    Err(error) => return Err(format!("{from} to {to}: {error}")),
                }
                let mixed = ours.as_ref().map(|ring| ring.version()) != Some(theirs.version());
                let heard = self.judge.hears(&world, (*from, *to), opened.is_ok(), mixed);
                heard.map_err(|broken| format!("{broken}: {theirs:?} against {ours:?}"))?;
            }
        }
        Ok(())
    }

    pub(super) fn stop(&self) {
        for node in self.nodes.values() {
            node.tasks.abort();
        }
    }
}
