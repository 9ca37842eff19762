//! Five nodes that seal for each other while links break, nodes die and controllers overlap.
//!
//! Replay a seed by calling `survive` with it alone: everything but the keys themselves follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    datagram::{DatagramOpener, DatagramSealer, OpenError},
    seeded::Seeded,
};

const NODES: u64 = 5;
const HOW_MANY: usize = 5;

/// Simulated time of one run, in ticks of [`TICK`].
const TICKS: u64 = 3_000;
const TICK: Duration = Duration::from_millis(100);

/// Longest time in which two nodes that reach each other may fail to understand each other: a fetch is tried
/// every second, and may time out once or twice.
const BOUND: Duration = Duration::from_secs(6);

/// After this long without a fault nobody may fail to understand anybody, rotation or not.
const CALM_AFTER: Duration = Duration::from_secs(12);

const HASTY: RotationPolicy = RotationPolicy {
    interval: Duration::from_secs(15),
    grace: Duration::from_secs(2),
    urgent_wait: Duration::from_secs(5),
};

/// What is true of the world, whoever knows it.
#[derive(Default)]
struct World {
    cuts: BTreeSet<(NodeId, NodeId)>,
    up: BTreeSet<NodeId>,
    /// The highest term each node has voted in.
    terms: BTreeMap<NodeId, u64>,
}

impl World {
    fn linked(&self, one: NodeId, other: NodeId) -> bool {
        let pair = (one.min(other), one.max(other));
        self.up.contains(&one) && self.up.contains(&other) && !self.cuts.contains(&pair)
    }

    /// Everybody that gossip can carry news of to `node`, over however many others.
    fn heard_by(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut heard = BTreeSet::from([node]);
        loop {
            let more: BTreeSet<NodeId> = (1..=NODES)
                .filter(|next| heard.iter().any(|at| *at == *next || self.linked(*at, *next)))
                .collect();
            if more.len() == heard.len() {
                return heard;
            }
            heard = more;
        }
    }

    /// Whether a majority that `node` reaches knows of no later term.
    fn leads(&self, node: NodeId, term: u64) -> bool {
        let agrees = |other: &NodeId| {
            let reached = *other == node && self.up.contains(&node) || self.linked(node, *other);
            reached && self.terms.get(other).is_none_or(|known| *known <= term)
        };
        (1..=NODES).filter(agrees).count() * 2 > HOW_MANY
    }

    fn elect(&mut self, node: NodeId, term: u64) -> bool {
        let voters: Vec<NodeId> = (1..=NODES)
            .filter(|other| *other == node || self.linked(node, *other))
            .collect();
        let elected = self.up.contains(&node) && voters.len() * 2 > HOW_MANY;
        if elected {
            self.terms.extend(voters.into_iter().map(|voter| (voter, term)));
        }
        elected
    }
}

struct Node {
    keeper: Arc<KeyKeeper>,
    transport: Transport,
    tasks: TaskGroup,
    sealer: DatagramSealer,
    opener: DatagramOpener,
}

struct Cluster {
    network: MemoryNetwork,
    world: Arc<Mutex<World>>,
    nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, KeyRing>,
    boots: u64,
    start: Instant,
    faults: u64,
    last_fault: Instant,
    /// Since when two nodes that reach each other have not understood each other.
    deaf: BTreeMap<(NodeId, NodeId), Instant>,
    understood: u64,
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self {
            network: MemoryNetwork::seeded(seed),
            world: Arc::default(),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            boots: 0,
            start: Instant::now(),
            faults: 0,
            last_fault: Instant::now(),
            deaf: BTreeMap::new(),
            understood: 0,
        }
    }

    fn boot(&mut self, node: NodeId) {
        self.boots += 1;
        let tasks = TaskGroup::current();
        let keeper = KeyKeeper::holding(self.disks.get(&node).cloned(), None, tasks.clone());
        let router = Router::new();
        keeper.serve(&router, |_| true);
        let identity = local(node, self.boots);
        let transport = self.network.join(identity.clone(), router).unwrap();
        let peers = || (1..=NODES).collect();
        tasks.spawn(Arc::clone(&keeper).follow(transport.clone(), peers, false));
        lock(&self.world).up.insert(node);
        let booted = Node {
            sealer: DatagramSealer::new(keeper.keys(), &identity),
            opener: DatagramOpener::new(keeper.keys(), identity.cluster),
            keeper,
            transport,
            tasks,
        };
        self.nodes.insert(node, booted);
    }

    async fn crash(&mut self, node: NodeId) {
        if let Some(crashed) = self.nodes.remove(&node) {
            crashed.tasks.abort();
            crashed.transport.shutdown(Duration::ZERO).await;
            if let Some(held) = crashed.keeper.held() {
                self.disks.insert(node, (*held).clone());
            }
            lock(&self.world).up.remove(&node);
        }
    }

    /// Lets `node` act as the controller of `term` until it is no more.
    fn reign(&self, node: NodeId, term: u64, luck: u64) {
        let Some(at) = self.nodes.get(&node) else { return };
        let (keeper, transport) = (Arc::clone(&at.keeper), at.transport.clone());
        let (world, start) = (Arc::clone(&self.world), self.start);
        at.tasks.spawn(async move {
            let mut rotation = KeyRotation::new();
            let luck = Mutex::new(Seeded::new(luck, term));
            for _ in 0..200 {
                let heard = lock(&world).heard_by(node);
                let input = RotationInput {
                    term,
                    now_ms: u64::try_from(start.elapsed().as_millis()).unwrap(),
                    members: (1..=NODES).map(|node| (node, heard.contains(&node))).collect(),
                    demand: KeyDemand::default(),
                    policy: HASTY,
                };
                let confirm = || async {
                    let leads = lock(&world).leads(node, term);
                    // What was confirmed may have become wrong by the time it is acted on.
                    let pause = luck.lock().unwrap().up_to(Duration::from_millis(300));
                    sleep(pause).await;
                    leads
                };
                rotation.round(&keeper, &transport, &input, confirm).await;
                sleep(Duration::from_millis(500)).await;
            }
        });
    }

    async fn fault(&mut self, luck: &mut Seeded) {
        let mut pick = |count: u64| luck.next() % count + 1;
        let (kind, one, other) = (pick(6), pick(NODES), pick(NODES));
        match kind {
            1 | 2 if one != other => self.cut(&[one], &[other]),
            3 => {
                let side: Vec<NodeId> = (1..=NODES).filter(|node| (one + node) % 2 == 0).collect();
                let rest: Vec<NodeId> = (1..=NODES).filter(|node| !side.contains(node)).collect();
                self.cut(&side, &rest);
            }
            4 if lock(&self.world).up.len() > 3 => self.crash(one).await,
            _ => {
                self.mend();
                return;
            }
        }
        self.faults += 1;
        self.last_fault = Instant::now();
    }

    fn cut(&mut self, left: &[NodeId], right: &[NodeId]) {
        self.network.partition(left, right);
        let pairs = left
            .iter()
            .flat_map(|one| right.iter().map(move |other| (*one, *other)));
        let pairs = pairs.map(|(one, other)| (one.min(other), one.max(other)));
        lock(&self.world).cuts.extend(pairs);
    }

    /// Ends every cut and starts whoever is down.
    fn mend(&mut self) {
        self.network.heal();
        lock(&self.world).cuts.clear();
        for node in 1..=NODES {
            if !self.nodes.contains_key(&node) {
                self.boot(node);
            }
        }
        self.last_fault = Instant::now();
    }

    /// Everybody seals for everybody in reach.
    fn gossip(&mut self, seed: u64) {
        let now = Instant::now();
        let calm = now - self.last_fault >= CALM_AFTER;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for from in &ids {
            let mut sealed = Vec::new();
            let sender = self.nodes.get_mut(from).unwrap();
            let sent = sender.sealer.seal(b"news", &mut sealed).is_ok();
            for to in ids.iter().filter(|to| *to != from) {
                let pair = (*from, *to);
                if !sent || !lock(&self.world).linked(*from, *to) {
                    self.deaf.remove(&pair);
                    continue;
                }
                let receiver = self.nodes.get_mut(to).unwrap();
                match receiver.opener.open(&sealed, &mut Vec::new()) {
                    Ok(_) => {
                        self.understood += 1;
                        self.deaf.remove(&pair);
                    }
                    // A node that looks for newer keys before it uses its own does not listen yet.
                    Err(_) if receiver.keeper.keys().ring().is_none() => {
                        self.deaf.remove(&pair);
                    }
                    Err(OpenError::UnknownKey(_) | OpenError::NotAuthentic) => {
                        receiver.keeper.keys().report_missing();
                        let since = *self.deaf.entry(pair).or_insert(now);
                        let rings = (&self.nodes[from].keeper.held(), &self.nodes[to].keeper.held());
                        assert!(
                            now - since <= BOUND && !calm,
                            "seed {seed}: {to} does not understand {from} at {:?}: {rings:?}",
                            now - self.start
                        );
                    }
                    Err(error) => panic!("seed {seed}: {from} to {to}: {error}"),
                }
            }
        }
    }
}

/// One run of a cluster that has its first key from `bootstrap`, or makes it.
async fn survive(seed: u64, bootstrap: Option<GossipKey>) {
    println!("seed {seed}, replay with survive({seed}, ..)");
    let mut luck = Seeded::new(seed, 0);
    let mut cluster = Cluster::new(seed);
    for node in 1..=NODES {
        if let Some(key) = &bootstrap {
            cluster.disks.insert(node, KeyRing::bootstrap(key.clone()));
        }
        cluster.boot(node);
    }
    let mut term = 0;
    for tick in 0..TICKS {
        let ends = tick + 600 >= TICKS;
        if tick + 600 == TICKS {
            cluster.mend();
        }
        if !ends && luck.happens(0.01) {
            cluster.fault(&mut luck).await;
        }
        // Whoever reigned before does not hear of it.
        if tick % 100 == 10 || luck.happens(0.01) {
            let node = luck.next() % NODES + 1;
            let elected = lock(&cluster.world).elect(node, term + 1);
            if elected {
                term += 1;
                cluster.reign(node, term, seed);
            }
        }
        sleep(TICK).await;
        cluster.gossip(seed);
    }
    let versions: BTreeSet<_> = cluster
        .nodes
        .values()
        .map(|node| node.keeper.held().map(|ring| ring.current().epoch()))
        .collect();
    let epochs: Vec<u64> = versions.iter().copied().flatten().collect();
    let spread = epochs.last().unwrap() - epochs.first().unwrap();
    assert!(spread <= 1, "seed {seed}: {versions:?}");
    println!(
        "epoch {epochs:?}, {} faults, {} understood",
        cluster.faults, cluster.understood
    );
    // A run in which nothing happened proves nothing.
    assert!(epochs[0] >= 4, "seed {seed}: only {epochs:?} epochs");
    assert!(cluster.faults >= 5, "seed {seed}: only {} faults", cluster.faults);
    assert!(cluster.understood > 20_000, "seed {seed}: {}", cluster.understood);
    for node in cluster.nodes.values() {
        node.tasks.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_reach_each_other_share_a_key_through_partitions_restarts_and_two_controllers() {
    for seed in 0..8 {
        survive(seed, Some(made(1))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_first_key_makes_one_and_keeps_it_through_the_same() {
    for seed in 100..104 {
        survive(seed, None).await;
    }
}
