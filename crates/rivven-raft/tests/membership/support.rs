//! A group of durable nodes on a fabric of its own, with clients that count what was acknowledged.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rivven_raft::{
    Consistency, Fabric, JoinAs, KvCommand, KvStore, MembershipView, NodeDir, NodeId, ProposeOptions,
    RaftBuilder, RaftNode, Replace, SimulatedDisk, TaskGroup,
};
use rivven_types::ClusterId;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::common::{Node, WAIT, config};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

pub(crate) const REPLACE_AFTER: Duration = Duration::from_secs(60);

/// Pause between two writes of the load. Almost all that a test costs is what the writes cost, so there are as many
/// as it takes to have something to lose at any moment of a change.
const LOAD_INTERVAL: Duration = Duration::from_millis(30);

pub(crate) struct Group {
    pub(crate) fabric: Fabric,
    root: TempDir,
    founders: u64,
    seed: u64,
    replace: Replace,
    nodes: Arc<Mutex<BTreeMap<NodeId, Node>>>,
    /// How often each node's disk was lost.
    wiped: Mutex<BTreeMap<NodeId, u8>>,
    /// Where each node keeps its log.
    disks: Mutex<BTreeMap<NodeId, SimulatedDisk>>,
}

/// A place for small files: in memory, where there is one.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

fn random(node: NodeId, wiped: u8) -> [u8; 16] {
    let mut bytes = [u8::try_from(node).unwrap(); 16];
    bytes[0] = wiped;
    bytes
}

fn open(path: &Path, node: NodeId, wiped: u8) -> NodeDir {
    NodeDir::open(path.join(node.to_string()), CLUSTER, node, random(node, wiped)).unwrap()
}

impl Group {
    pub(crate) async fn start(founders: u64) -> Self {
        Self::seeded(founders, 0).await
    }

    /// A group whose leader replaces lost disks by itself.
    pub(crate) async fn replacing(founders: u64) -> Self {
        Self::with(founders, 0, Replace::Auto).await
    }

    pub(crate) async fn seeded(founders: u64, seed: u64) -> Self {
        Self::with(founders, seed, Replace::Refuse).await
    }

    async fn with(founders: u64, seed: u64, replace: Replace) -> Self {
        eprintln!("group of {founders}, seed {seed}");
        let group = Self {
            fabric: Fabric::new(),
            root: scratch(),
            founders,
            seed,
            replace,
            nodes: Arc::default(),
            wiped: Mutex::default(),
            disks: Mutex::default(),
        };
        for id in 1..=founders {
            group.start_node(id).await;
        }
        // Until every founder is bound to its disk.
        let bound = |view: &MembershipView| view.members.iter().all(|member| member.instance.is_some());
        group.until("all founders are bound", bound).await;
        group
    }

    fn builder(&self, id: NodeId) -> RaftBuilder<KvStore> {
        let wiped = self.wiped.lock().unwrap().get(&id).copied().unwrap_or(0);
        RaftNode::builder(config(id, self.founders))
            .fabric(&self.fabric)
            .seed(id + 1_000 * self.seed)
            .data_dir(open(self.root.path(), id, wiped))
            .voter_replace_after(REPLACE_AFTER)
            .replace(self.replace)
            .simulated_disk(&self.disk(id))
            .tasks(TaskGroup::simulated())
            .state_machine(KvStore::new())
    }

    fn disk(&self, id: NodeId) -> SimulatedDisk {
        let mut disks = self.disks.lock().unwrap();
        disks.entry(id).or_insert_with(|| SimulatedDisk::new(id)).clone()
    }

    /// Starts a founder.
    pub(crate) async fn start_node(&self, id: NodeId) -> Node {
        let node = self.builder(id).start().await.unwrap();
        self.nodes.lock().unwrap().insert(id, node.clone());
        node
    }

    /// Starts a node that joins.
    pub(crate) async fn join(&self, id: NodeId, join: JoinAs) -> Node {
        let node = self.builder(id).joining(join).start().await.unwrap();
        self.nodes.lock().unwrap().insert(id, node.clone());
        node
    }

    pub(crate) async fn kill(&self, id: NodeId) {
        let node = self.nodes.lock().unwrap().remove(&id).unwrap();
        node.kill().await;
    }

    /// Loses the disk of a node that does not run.
    pub(crate) fn wipe(&self, id: NodeId) {
        std::fs::remove_dir_all(self.root.path().join(id.to_string())).unwrap();
        self.disks.lock().unwrap().remove(&id);
        *self.wiped.lock().unwrap().entry(id).or_insert(0) += 1;
    }

    pub(crate) fn node(&self, id: NodeId) -> Node {
        self.nodes.lock().unwrap().get(&id).unwrap().clone()
    }

    /// Every node but one, by id.
    pub(crate) fn others(&self, id: NodeId) -> Vec<NodeId> {
        let nodes = self.nodes.lock().unwrap();
        nodes.keys().copied().filter(|other| *other != id).collect()
    }

    pub(crate) fn any_but(&self, not: &[NodeId]) -> Node {
        let nodes = self.nodes.lock().unwrap();
        let mut nodes = nodes.iter();
        nodes.find(|(id, _)| !not.contains(id)).unwrap().1.clone()
    }

    /// A leader that answers.
    pub(crate) async fn leader(&self) -> NodeId {
        let any = |_: &MembershipView| true;
        self.until("there is a leader", any).await.leader
    }

    pub(crate) async fn leader_among(&self, ids: &[NodeId]) -> NodeId {
        let found = async {
            loop {
                for id in ids {
                    let leader = self.node(*id).status().leader;
                    if let Some(leader) = leader.filter(|leader| ids.contains(leader)) {
                        return leader;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, found).await.unwrap()
    }

    /// Waits until the leader's view is as it should be.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&MembershipView) -> bool) -> MembershipView {
        let mut last = None;
        let found = async {
            loop {
                let nodes: Vec<Node> = self.nodes.lock().unwrap().values().cloned().collect();
                for node in nodes {
                    let status = node.status();
                    if status.stopped.is_none()
                        && status.leader == Some(status.node_id)
                        && let Ok(view) = node.membership().await
                    {
                        if is(&view) {
                            return view;
                        }
                        last = Some(view);
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(180), found).await;
        assert!(found.is_ok(), "not in three minutes: {what}; last seen {last:#?}");
        found.unwrap()
    }

    /// Waits until nothing is left to do and everybody has caught up.
    pub(crate) async fn settled(&self) -> MembershipView {
        let expected = self.nodes.lock().unwrap().len();
        let settled = |view: &MembershipView| {
            view.next.is_none() && view.holds.is_empty() && view.members.len() == expected
        };
        self.until("all is settled", settled).await
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn settles(&self) -> MembershipView {
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.until("nothing is left to do", |view| view.next.is_none())
            .await
    }

    pub(crate) async fn settled_without(&self, gone: NodeId) -> MembershipView {
        let settled =
            |view: &MembershipView| view.next.is_none() && view.member(gone).is_none() && view.leader != gone;
        self.until("one is gone", settled).await
    }

    pub(crate) async fn voters_become(&self, voters: &[NodeId]) -> MembershipView {
        let voters: Vec<NodeId> = voters.to_vec();
        let are = |view: &MembershipView| {
            let leader = self.nodes.lock().unwrap().get(&view.leader).cloned();
            leader.is_some_and(|leader| leader.status().voters.iter().eq(&voters)) && view.next.is_none()
        };
        self.until(&format!("{voters:?} vote"), are).await
    }

    /// Begins to write through every node in turn.
    pub(crate) fn load(&self) -> Load {
        let (nodes, stop) = (Arc::clone(&self.nodes), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let writer = TaskGroup::current().spawn(async move {
            let mut acknowledged = Vec::new();
            let mut turn = 0_usize;
            while !stopped.load(Ordering::Relaxed) {
                turn += 1;
                let node = {
                    let nodes = nodes.lock().unwrap();
                    nodes.values().nth(turn % nodes.len().max(1)).cloned()
                };
                let Some(node) = node else { continue };
                let key = format!("load-{turn}");
                let options = ProposeOptions {
                    deadline: Duration::from_secs(1),
                    ..ProposeOptions::default()
                };
                let put = KvCommand::put(key.as_str(), turn.to_string());
                if node.propose_with(put, options).await.is_ok() {
                    acknowledged.push(key);
                }
                tokio::time::sleep(LOAD_INTERVAL).await;
            }
            acknowledged
        });
        Load { stop, writer }
    }
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<Option<Vec<String>>>,
}

impl Load {
    /// Ends the load and finds everything that was acknowledged.
    pub(crate) async fn stop_and_check(self, reader: &Node) {
        // Enough to have something to lose.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.writer.await.unwrap().unwrap();
        assert!(acknowledged.len() > 50, "only {} writes", acknowledged.len());
        let read = reader
            .read(Consistency::Linearizable, |kv| {
                let lost = acknowledged.iter().filter(|key| kv.get(key.as_str()).is_none());
                lost.cloned().collect::<Vec<_>>()
            })
            .await
            .unwrap();
        assert!(read.value.is_empty(), "acknowledged and lost: {:?}", read.value);
    }
}
