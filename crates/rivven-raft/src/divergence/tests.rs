//! Replicas that part ways on purpose.

use std::io;

use tokio::time::Instant;

use super::*;
use crate::{ApplyCtx, Fabric, ProposeError, RaftConfig, RaftNode, Role, StateMachine};

#[test]
fn a_majority_of_all_voters_decides() {
    let check = |others: &[Option<u128>], own_votes, expected| {
        assert_eq!(judge(1, others, own_votes), expected, "{others:?}");
    };
    check(&[Some(1), Some(1)], true, Verdict::Agreed);
    check(&[None, None], true, Verdict::Agreed);
    check(&[Some(2), Some(2)], true, Verdict::Outvoted);
    check(&[Some(2), None], true, Verdict::Unclear);
    check(&[Some(2), Some(1)], true, Verdict::Confirmed);
    check(&[Some(2), Some(1), None], true, Verdict::Unclear);
    check(&[Some(2), Some(3)], true, Verdict::Unclear);
    check(&[Some(2)], true, Verdict::Unclear);
    check(&[Some(2), Some(2), Some(1), Some(1)], true, Verdict::Confirmed);
    check(&[Some(2), Some(2), Some(1), None, None], true, Verdict::Unclear);
    check(&[Some(2), Some(2), Some(2), Some(1)], true, Verdict::Outvoted);
    // A learner has no voice of its own, and may be confirmed by the voters.
    check(&[Some(1), Some(1), Some(2)], false, Verdict::Confirmed);
    check(&[Some(2)], false, Verdict::Outvoted);
    check(&[Some(2), None, None], false, Verdict::Unclear);
}

/// Adds up, and on one node a little more.
struct Salted {
    sum: u64,
    salt: u64,
}

impl StateMachine for Salted {
    type Command = u64;
    type Response = u64;
    type Snapshot = u64;
    fn apply(&mut self, _ctx: &ApplyCtx, add: u64) -> u64 {
        self.sum = self.sum.wrapping_add(add).wrapping_add(self.salt);
        self.sum
    }
    fn snapshot(&self) -> u64 {
        self.sum
    }
    fn encode_snapshot(snapshot: &u64, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&snapshot.to_le_bytes())
    }
    fn decode_snapshot(input: &mut dyn io::Read) -> io::Result<u64> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn restore(&mut self, snapshot: u64) {
        self.sum = snapshot;
    }
}

/// A group whose last node has the salt, after enough entries for comparisons and the time for two; and what
/// alarms its nodes raised.
async fn salted_group(count: u64, salt: u64) -> (Vec<RaftNode<Salted>>, BTreeSet<(NodeId, String)>) {
    let fabric = Fabric::new();
    let mut nodes = Vec::new();
    for node_id in 1..=count {
        let config = RaftConfig {
            node_id,
            peers: (1..=count).filter(|peer| *peer != node_id).collect(),
            election_timeout_ms: 150..300,
            heartbeat_interval_ms: 50,
        };
        let salt = if node_id == count { salt } else { 0 };
        let builder = RaftNode::builder(config).fabric(&fabric).seed(node_id);
        nodes.push(
            builder
                .state_machine(Salted { sum: 0, salt })
                .start()
                .await
                .unwrap(),
        );
    }
    for _ in 0..3 {
        let done = nodes[0].propose_many(vec![1; 400], Duration::from_secs(10)).await;
        let done: Result<Vec<u64>, ProposeError> = done.into_iter().collect();
        done.unwrap();
    }
    let (end, mut alarms) = (
        Instant::now() + COMPARE_INTERVAL * 2 + CALL_TIMEOUT,
        BTreeSet::new(),
    );
    while Instant::now() < end {
        let told = nodes
            .iter()
            .zip(1..)
            .map(|(node, id)| (id, node.status().divergence));
        alarms.extend(told.filter_map(|(id, alarm)| Some((id, alarm?))));
        sleep(Duration::from_millis(100)).await;
    }
    (nodes, alarms)
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_differs_from_a_majority_stops_and_names_the_way_back() {
    let (nodes, alarms) = salted_group(3, 1).await;
    let odd = nodes[2].status();
    assert_eq!(odd.role, Role::Stopped, "{odd:?}");
    let cause = odd.stopped.unwrap();
    assert!(
        cause.contains("member replace") && cause.contains("node 1"),
        "{cause}"
    );
    assert_eq!(nodes[2].propose(1).await.unwrap_err().code(), "stopped");
    // The others go on, and say who was wrong until the odd one is gone from the comparison.
    for node in &nodes[..2] {
        assert!(node.status().stopped.is_none());
    }
    let others: Vec<_> = alarms.iter().filter(|(id, _)| *id != 3).collect();
    assert!(!others.is_empty(), "nobody noticed but the odd one: {alarms:?}");
    for (_, alarm) in others {
        assert!(
            alarm.contains("a majority agree with it") && alarm.contains("(node 3)"),
            "{alarm}"
        );
    }
    nodes[0].wait_for_leader(Duration::from_secs(10)).await.unwrap();
    assert_eq!(
        nodes[0].propose(1).await.unwrap(),
        nodes[1].propose(0).await.unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_there_is_an_alarm_and_nobody_stops() {
    let (nodes, _alarms) = salted_group(2, 1).await;
    for node in &nodes {
        let status = node.status();
        assert!(status.stopped.is_none(), "{status:?}");
        let alarm = status.divergence.unwrap();
        assert!(alarm.contains("no majority"), "{alarm}");
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_that_agree_raise_no_alarm() {
    let (nodes, alarms) = salted_group(3, 0).await;
    assert!(alarms.is_empty(), "{alarms:?}");
    for node in &nodes {
        let status = node.status();
        assert!(
            status.stopped.is_none() && status.divergence.is_none(),
            "{status:?}"
        );
        assert!(node.digest_at(1_024).await.is_some(), "nothing was compared");
    }
}
