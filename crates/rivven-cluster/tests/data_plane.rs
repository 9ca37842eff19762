//! Nodes that hold data: one leader at a time, nothing acknowledged is lost, and only leaders say who is in sync.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Nodes, eventually, ready};
use rivven_cluster::{
    Cluster, DataPlane, Fence, Follow, Lead, LeaderEpoch, NodeId, Release, Replica, ReportError, Start,
    TopicSpec,
};
use tokio::time::{Instant, sleep};

/// Partitions of the topic.
const PARTITIONS: u32 = 6;

/// One replica: what it has, and the highest epoch that it has heard of.
#[derive(Clone, Debug, Default)]
struct Log {
    epoch: u64,
    records: Vec<u64>,
    /// Which start of its node has them.
    start: Option<Start>,
}

/// What has happened to one partition on one node.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Led(NodeId, LeaderEpoch, Instant),
    Released(NodeId, Instant),
}

/// All disks of the cluster, and the program's own replication between them.
#[derive(Debug, Default)]
struct Disks {
    logs: Mutex<BTreeMap<(NodeId, u32), Log>>,
    leads: Mutex<BTreeMap<(NodeId, u32), Lead>>,
    events: Mutex<BTreeMap<u32, Vec<Event>>>,
    closed: Mutex<Vec<(NodeId, u32)>>,
}

impl Disks {
    /// Writes through the leader on `node`, acknowledged once every in-sync replica has it.
    fn append(&self, node: NodeId, partition: u32, record: u64) -> Result<Fence, String> {
        let lead = self.leads.lock().unwrap().get(&(node, partition)).cloned();
        let lead = lead.ok_or("not the leader")?;
        lead.check().map_err(|lapsed| lapsed.to_string())?;
        let mut logs = self.logs.lock().unwrap();
        for start in lead.in_sync() {
            let log = logs.entry((start.node, partition)).or_default();
            if log.epoch > lead.epoch().0 {
                return Err(format!("node {} has heard of a later leader", start.node));
            }
            log.epoch = lead.epoch().0;
            log.records.push(record);
        }
        // Nobody else can have acknowledged anything meanwhile.
        lead.check().map_err(|lapsed| lapsed.to_string())
    }

    /// Has `node` copy what the leader has, and gives the start that has it.
    fn catch_up(&self, node: NodeId, leader: NodeId, partition: u32) -> Start {
        let mut logs = self.logs.lock().unwrap();
        let (epoch, records) = {
            let log = &logs[&(leader, partition)];
            (log.epoch, log.records.clone())
        };
        let log = logs.get_mut(&(node, partition)).unwrap();
        (log.epoch, log.records) = (epoch, records);
        log.start.unwrap()
    }

    fn records(&self, node: NodeId, partition: u32) -> Vec<u64> {
        self.logs.lock().unwrap()[&(node, partition)].records.clone()
    }

    fn lead(&self, node: NodeId, partition: u32) -> Lead {
        self.leads.lock().unwrap()[&(node, partition)].clone()
    }

    fn note(&self, partition: u32, event: Event) {
        self.events
            .lock()
            .unwrap()
            .entry(partition)
            .or_default()
            .push(event);
    }
}

/// The program on one node.
struct Plane {
    node: NodeId,
    disks: Arc<Disks>,
}

impl DataPlane for Plane {
    async fn lead(&self, lead: &Lead) {
        let partition = lead.replica().partition;
        assert_eq!(lead.check().unwrap_err().code(), "not-open");
        let mut logs = self.disks.logs.lock().unwrap();
        let log = logs.entry((self.node, partition)).or_default();
        assert!(log.epoch <= lead.epoch().0, "epochs only grow");
        log.epoch = lead.epoch().0;
        drop(logs);
        let mut leads = self.disks.leads.lock().unwrap();
        leads.insert((self.node, partition), lead.clone());
        let event = Event::Led(self.node, lead.epoch(), Instant::now());
        self.disks.note(partition, event);
    }

    async fn follow(&self, follow: &Follow) {
        let partition = follow.replica.partition;
        let mut logs = self.disks.logs.lock().unwrap();
        let log = logs.entry((self.node, partition)).or_default();
        log.start = Some(follow.me);
        log.epoch = log.epoch.max(follow.epoch.0);
        if let Some(leader) = follow.leader {
            let endpoint = follow.leader_endpoint("replication").unwrap();
            assert_eq!(endpoint.port(), 7_000 + u16::try_from(leader.node).unwrap());
        }
        // The leader of this process, if it was one, is not forgotten: its check has to stop it.
    }

    async fn release(&self, release: &Release) {
        // What is slow to flush holds the successor back.
        sleep(Duration::from_millis(50)).await;
        let partition = release.replica().partition;
        self.disks
            .note(partition, Event::Released(self.node, Instant::now()));
    }

    async fn close(&self, replica: &Replica) {
        let key = (self.node, replica.partition);
        self.disks.logs.lock().unwrap().remove(&key);
        self.disks.closed.lock().unwrap().push(key);
    }
}

async fn start(hosts: &Nodes, disks: &Arc<Disks>, node: NodeId) -> Cluster {
    let mut config = hosts.config(node);
    let endpoint = format!("127.0.0.1:{}", 7_000 + node).parse().unwrap();
    config.endpoints = [("replication".to_owned(), endpoint)].into();
    let disks = Arc::clone(disks);
    Cluster::start_with(config, Plane { node, disks }).await.unwrap()
}

/// Who leads each partition, as `node` sees it.
fn leader_of(node: &Cluster, partition: u32) -> Option<NodeId> {
    let leader = node.partitions().leader("orders", partition);
    leader.ok().map(|leader| leader.node)
}

/// Waits until every partition is led by a process that may write, and writes `record` to each.
async fn append_everywhere(nodes: &[Cluster], disks: &Disks, record: u64) {
    for partition in 0..PARTITIONS {
        eventually(nodes, "a leader that may write", || {
            let leader = leader_of(&nodes[0], partition);
            leader.is_some_and(|leader| disks.append(leader, partition, record).is_ok())
        })
        .await;
    }
}

/// Every leader has every acknowledged record, in order. Attempts that were not acknowledged may be there too.
fn nothing_is_lost(node: &Cluster, disks: &Disks, acknowledged: &[u64]) {
    for partition in 0..PARTITIONS {
        let mut records = disks.records(leader_of(node, partition).unwrap(), partition);
        records.dedup();
        assert_eq!(records, acknowledged, "partition {partition}");
    }
}

fn in_sync(node: &Cluster, partition: u32) -> Vec<NodeId> {
    let map = node.partitions().assignments();
    let mut nodes: Vec<NodeId> = map.partition("orders", partition).unwrap().in_sync().collect();
    nodes.sort_unstable();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_has_one_leader_at_a_time_and_loses_nothing() {
    let hosts = Nodes::new(3);
    let disks = Arc::new(Disks::default());
    let mut nodes = Vec::new();
    for node in 1..=3 {
        nodes.push(start(&hosts, &disks, node).await);
    }
    ready(&nodes).await;
    let spec = TopicSpec::new(PARTITIONS).replication_factor(3);
    nodes[0].partitions().create_topic("orders", spec).await.unwrap();
    append_everywhere(&nodes, &disks, 1).await;

    only_leaders_say_who_is_in_sync(&nodes, &disks).await;
    append_everywhere(&nodes, &disks, 2).await;
    let left = a_leader_that_leaves_lets_go_first(&mut nodes, &disks).await;
    append_everywhere(&nodes, &disks, 3).await;
    it_is_in_sync_once_its_leaders_say_so(&hosts, &mut nodes, &disks, left).await;
    append_everywhere(&nodes, &disks, 4).await;
    a_leader_that_crashes_stops_before_its_successor_begins(&mut nodes, &disks).await;
    append_everywhere(&nodes, &disks, 5).await;
    nothing_is_lost(&nodes[0], &disks, &[1, 2, 3, 4, 5]);

    nodes[0].partitions().delete_topic("orders").await.unwrap();
    eventually(&nodes, "the partitions are closed", || {
        let closed = disks.closed.lock().unwrap();
        nodes.iter().all(|node| {
            let of = closed.iter().filter(|(of, _)| *of == node.node_id());
            of.count() == PARTITIONS as usize
        })
    })
    .await;
}

async fn only_leaders_say_who_is_in_sync(nodes: &[Cluster], disks: &Disks) {
    let leader = leader_of(&nodes[0], 0).unwrap();
    let lead = disks.lead(leader, 0);
    assert_eq!(in_sync(&nodes[0], 0), [1, 2, 3]);
    let others: Vec<Start> = lead
        .replicas()
        .into_iter()
        .filter(|start| start.node != leader)
        .collect();
    let (kept, lagging) = (others[0], others[1]);
    lead.report(&[kept]).await.unwrap();
    lead.report(&[kept]).await.unwrap();
    let mut expected = vec![leader, kept.node];
    expected.sort_unstable();
    eventually(nodes, "the lagging replica is out of sync", || {
        nodes.iter().all(|node| in_sync(node, 0) == expected)
    })
    .await;
    // It lives, and the controller has looked at it more than once since.
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(in_sync(&nodes[0], 0), expected);
    let mut earlier = lagging;
    earlier.boot_epoch.0 += 1;
    let refused = lead.report(&[kept, earlier]).await.unwrap_err();
    assert_eq!(refused, ReportError::StaleStart { node: lagging.node });
    let mut stranger = kept;
    stranger.node = 9;
    let refused = lead.report(&[stranger]).await.unwrap_err();
    assert_eq!(refused.code(), "not-a-replica");
    assert_eq!(disks.catch_up(lagging.node, leader, 0), lagging);
    lead.report(&[kept, lagging]).await.unwrap();
    assert_eq!(lead.in_sync().len(), 3);
}

/// Returns who left.
async fn a_leader_that_leaves_lets_go_first(nodes: &mut Vec<Cluster>, disks: &Disks) -> NodeId {
    let leaving = nodes.remove(0);
    let left = leaving.node_id();
    let led: Vec<u32> = (0..PARTITIONS)
        .filter(|partition| leader_of(&leaving, *partition) == Some(left))
        .collect();
    assert!(!led.is_empty());
    let report = leaving.shutdown().await;
    assert_eq!((report.still_led, report.warnings.len()), (0, 0), "{report:?}");
    eventually(nodes, "it is in sync no more", || {
        (0..PARTITIONS).all(|partition| !in_sync(&nodes[0], partition).contains(&left))
    })
    .await;
    append_everywhere(nodes, disks, 2).await;
    let events = disks.events.lock().unwrap();
    for partition in led {
        let events = &events[&partition];
        let released = events.iter().find_map(|event| match event {
            Event::Released(node, at) if *node == left => Some(*at),
            _ => None,
        });
        let successor = events.iter().rev().find_map(|event| match event {
            Event::Led(node, _, at) if *node != left => Some(*at),
            _ => None,
        });
        let (released, successor) = (released.unwrap(), successor.unwrap());
        assert!(released < successor, "{events:?}");
        assert!(
            successor - released < Duration::from_secs(2),
            "a lease is not waited for: {events:?}"
        );
        assert_eq!(
            disks.lead(left, partition).check().unwrap_err().code(),
            "leadership-released"
        );
    }
    left
}

async fn it_is_in_sync_once_its_leaders_say_so(
    hosts: &Nodes,
    nodes: &mut Vec<Cluster>,
    disks: &Arc<Disks>,
    node: NodeId,
) {
    nodes.insert(0, start(hosts, disks, node).await);
    ready(nodes).await;
    let returned = Start {
        boot_epoch: rivven_cluster::BootEpoch(2),
        ..disks.logs.lock().unwrap()[&(node, 0)].start.unwrap_or_else(|| {
            disks
                .lead(node, 0)
                .replicas()
                .into_iter()
                .find(|start| start.node == node)
                .unwrap()
        })
    };
    eventually(nodes, "it follows under its new start", || {
        let logs = disks.logs.lock().unwrap();
        (0..PARTITIONS).all(|partition| logs[&(node, partition)].start == Some(returned))
    })
    .await;
    for partition in 0..PARTITIONS {
        assert!(
            !in_sync(&nodes[0], partition).contains(&node),
            "it lacks what was written since"
        );
        let leader = leader_of(&nodes[0], partition).unwrap();
        let start = disks.catch_up(node, leader, partition);
        let lead = disks.lead(leader, partition);
        let mut synced = lead.in_sync();
        synced.push(start);
        lead.report(&synced).await.unwrap();
    }
    eventually(nodes, "it is in sync, and leads again", || {
        (0..PARTITIONS).all(|partition| in_sync(&nodes[0], partition) == [1, 2, 3])
            && (0..PARTITIONS).any(|partition| leader_of(&nodes[0], partition) == Some(node))
    })
    .await;
}

async fn a_leader_that_crashes_stops_before_its_successor_begins(
    nodes: &mut Vec<Cluster>,
    disks: &Arc<Disks>,
) {
    let status = nodes[0].status();
    let victim = status.controller.unwrap();
    let led: Vec<u32> = (0..PARTITIONS)
        .filter(|partition| leader_of(&nodes[0], *partition) == Some(victim))
        .collect();
    assert!(!led.is_empty());
    let leads: Vec<Lead> = led
        .iter()
        .map(|partition| disks.lead(victim, *partition))
        .collect();
    let epochs: Vec<LeaderEpoch> = leads.iter().map(Lead::epoch).collect();
    // The program of the dead node goes on, as it does when its node is cut off, and notes when it could last act.
    let mut last = vec![None; leads.len()];
    let zombie = async {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            for (lead, last) in leads.iter().zip(&mut last) {
                if lead.check().is_ok() {
                    *last = Some(Instant::now());
                }
            }
            sleep(Duration::from_millis(1)).await;
            if leads.iter().all(|lead| lead.check().is_err()) {
                return;
            }
        }
        panic!("the lease of a dead node does not end");
    };
    let at = nodes.iter().position(|node| node.node_id() == victim).unwrap();
    let killed = nodes.remove(at);
    let crashed = Instant::now();
    let others = async {
        killed.kill().await;
        // Until its lease ends it may acknowledge what its in-sync replicas have.
        append_everywhere(nodes, disks, 4).await;
        eventually(nodes, "others lead", || {
            (0..PARTITIONS)
                .all(|partition| leader_of(&nodes[0], partition).is_some_and(|leader| leader != victim))
        })
        .await;
        append_everywhere(nodes, disks, 4).await;
    };
    tokio::join!(zombie, others);
    let events = disks.events.lock().unwrap();
    let mut judged = 0;
    for ((partition, epoch), last) in led.iter().zip(epochs).zip(last.iter()) {
        let mut after = events[partition].iter().skip_while(|event| match event {
            Event::Led(_, of, _) => *of != epoch,
            Event::Released(..) => true,
        });
        // One that was about to be handed over in order says nothing about crashes.
        let Some(Event::Led(_, _, begun)) = after.nth(1) else {
            continue;
        };
        let last = last.unwrap();
        assert!(
            last < *begun,
            "partition {partition}: {:?} too early",
            last - *begun
        );
        let took = *begun - crashed;
        assert!(took < Duration::from_secs(30), "{took:?}");
        judged += 1;
    }
    assert!(judged > 0, "{led:?}: {events:?}");
}
