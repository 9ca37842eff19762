//! A group in memory: election, replication, forwarding, reads, fail-over.

mod common;

use std::{collections::BTreeMap, io, sync::atomic::AtomicUsize, time::Duration};

use common::*;
use rivven_raft::{
    ApplyCtx, Consistency, Fabric, KvCommand, KvResponse, KvStore, MAX_KEY_BYTES, MAX_VALUE_BYTES,
    MemoryNetwork, Outcome, ProposeError, ProposeOptions, RaftConfig, RaftNode, ReadError, Role,
    StateMachine, TransferError,
};
use rivven_transport::{BootEpoch, ClusterId, InstanceId, LocalIdentity, Router};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn three_calls_with_rotated_ids_are_a_cluster_within_the_configured_time() {
    let mut nodes = Vec::new();
    for (node_id, peers) in [(1, vec![2, 3]), (2, vec![3, 1]), (3, vec![1, 2])] {
        let config = RaftConfig {
            node_id,
            peers,
            election_timeout_ms: 150..300,
            heartbeat_interval_ms: 50,
        };
        nodes.push(RaftNode::new(config).await.unwrap());
    }
    let started = Instant::now();
    agreed_leader(&nodes).await;
    assert!(
        started.elapsed() <= Duration::from_millis(300),
        "{:?}",
        started.elapsed()
    );
    put(&nodes[0], "a", "1").await;
    for node in &nodes {
        assert_eq!(get(node, "a").await.as_deref(), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn new_returns_without_waiting_for_a_quorum() {
    let node = RaftNode::new(config(1, 3)).await.unwrap();
    let error = node.wait_for_leader(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.code(), "no-leader");
    assert!(node.status().initialized);
    assert_eq!(node.status().voters, [1, 2, 3].into());
}

#[tokio::test(start_paused = true)]
async fn a_single_node_leads_itself() {
    let node = start(&Fabric::new(), 1, 1).await;
    assert_eq!(node.wait_for_leader(WAIT).await.unwrap(), 1);
    let response = node.propose(KvCommand::put("a", "1")).await.unwrap();
    assert_eq!(
        response,
        KvResponse::Written {
            revision: 1,
            previous: None,
            lease: None,
        }
    );
    assert_eq!(node.status().role, Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_free_again_once_its_node_was_dropped() {
    let fabric = Fabric::new();
    let one = start(&fabric, 1, 1).await;
    let again = RaftNode::builder(config(1, 1))
        .fabric(&fabric)
        .state_machine(KvStore::new());
    assert_eq!(again.start().await.unwrap_err().code(), "duplicate-node");
    let clone = one.clone();
    drop(one);
    assert!(
        clone.wait_for_leader(WAIT).await.is_ok(),
        "a clone keeps the node alive"
    );
    drop(clone);
    start(&fabric, 1, 1).await;
}

#[tokio::test(start_paused = true)]
async fn different_founders_and_foreign_settings_are_refused() {
    let fabric = Fabric::new();
    let _one = start(&fabric, 1, 3).await;
    let two = |voters| RaftNode::builder(config(2, voters)).fabric(&fabric);
    let refused = two(2).state_machine(KvStore::new()).start().await.unwrap_err();
    assert_eq!(refused.code(), "different-voters");
    let refused = two(3).start().await.map(|node: Node| node).unwrap_err();
    assert_eq!(refused.code(), "no-state-machine");
    two(3).state_machine(KvStore::new()).start().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_node_takes_proposals_and_linearizable_reads_see_them() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    agreed_leader(&nodes).await;
    for round in 0..20_u64 {
        let (writer, reader) = (&nodes[(round % 3) as usize], &nodes[((round + 1) % 3) as usize]);
        put(writer, "a", &round.to_string()).await;
        assert_eq!(get(reader, "a").await, Some(round.to_string()));
    }
    let read = nodes[0]
        .read(Consistency::Stale, KvStore::revision)
        .await
        .unwrap();
    assert!(read.value <= 20 && read.applied_index.is_some());
}

#[tokio::test(start_paused = true)]
async fn many_proposals_at_once_are_all_answered_in_their_own_order() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    agreed_leader(&nodes).await;
    let proposals = (0..300).map(|i| {
        let node = nodes[i % 3].clone();
        async move {
            node.propose(KvCommand::put(format!("{i:03}"), "v"))
                .await
                .unwrap()
        }
    });
    let responses = futures_util::future::join_all(proposals).await;
    let mut revisions: Vec<u64> = responses
        .into_iter()
        .map(|response| match response {
            KvResponse::Written {
                revision,
                previous: None,
                ..
            } => revision,
            other => panic!("{other:?}"),
        })
        .collect();
    revisions.sort_unstable();
    assert!(revisions.into_iter().eq(1..=300));
}

#[tokio::test(start_paused = true)]
async fn the_group_survives_the_loss_of_one_node() {
    let fabric = Fabric::new();
    let mut nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    nodes.retain(|node| node.status().node_id != leader);
    let lost = Instant::now();
    put(&nodes[0], "a", "2").await;
    assert!(
        lost.elapsed() < Duration::from_millis(600),
        "{:?}",
        lost.elapsed()
    );
    assert_eq!(get(&nodes[1], "a").await.as_deref(), Some("2"));
    assert_ne!(agreed_leader(&nodes).await, leader);
    // An empty node with the same id catches up: there is no disk that could have held its vote.
    nodes.push(start(&fabric, leader, 3).await);
    put(&nodes[2], "a", "3").await;
    assert_eq!(get(&nodes[2], "a").await.as_deref(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_is_replaced_and_answers_nothing_linearizable() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let old = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "before").await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    isolate(&fabric, old, &others);
    // The old leader still believes in itself at this moment.
    let old = node(&nodes, old);
    let within = Duration::from_secs(1);
    let read = old
        .read_within(Consistency::Linearizable, within, |kv| value(kv, "a"))
        .await;
    assert!(matches!(read, Err(ReadError::NoLeader { .. })), "{read:?}");
    let options = ProposeOptions {
        deadline: within,
        ..ProposeOptions::default()
    };
    let lost = old
        .propose_with(KvCommand::put("a", "lost"), options)
        .await
        .unwrap_err();
    assert!(
        lost.outcome() == Outcome::Unknown || matches!(lost, ProposeError::NoLeader { .. }),
        "{lost}"
    );
    let new = node(&nodes, others[0]);
    put(new, "a", "after").await;
    assert_eq!(
        old.read(Consistency::Stale, |kv| value(kv, "a"))
            .await
            .unwrap()
            .value
            .as_deref(),
        Some("before")
    );
    fabric.network().heal();
    assert_eq!(get(old, "a").await.as_deref(), Some("after"));
    agreed_leader(&nodes).await;
}

#[tokio::test(start_paused = true)]
async fn a_proposal_that_no_quorum_takes_has_an_unknown_outcome_at_its_deadline() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    isolate(&fabric, leader, &others);
    let options = ProposeOptions {
        deadline: Duration::from_millis(100),
        ..ProposeOptions::default()
    };
    let error = node(&nodes, leader)
        .propose_with(KvCommand::put("a", "1"), options)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.outcome()),
        ("unknown-outcome", Outcome::Unknown)
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_without_a_leader_reports_that_nothing_was_done() {
    let fabric = Fabric::new();
    let node = start(&fabric, 1, 3).await;
    let options = ProposeOptions {
        deadline: Duration::from_millis(500),
        ..ProposeOptions::default()
    };
    let error = node
        .propose_with(KvCommand::put("a", "1"), options)
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("no-leader", Outcome::NotDone));
    let read = node
        .read_within(Consistency::Linearizable, options.deadline, KvStore::len)
        .await;
    assert_eq!(read.unwrap_err().code(), "no-leader");
    assert_eq!(
        node.read(Consistency::Stale, KvStore::len).await.unwrap().value,
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_cut_off_does_not_unseat_the_leader() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let term = nodes[0].status().term;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != follower).collect();
    isolate(&fabric, follower, &others);
    tokio::time::sleep(Duration::from_secs(10)).await;
    fabric.network().heal();
    put(node(&nodes, follower), "a", "1").await;
    assert_eq!(agreed_leader(&nodes).await, leader);
    assert_eq!(nodes[0].status().term, term, "pre-vote kept the term");
}

#[tokio::test(start_paused = true)]
async fn leadership_moves_to_the_node_asked_for_under_load_without_a_failed_write() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    agreed_leader(&nodes).await;
    let written = std::sync::Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (node, written) = (node.clone(), written.clone());
            async move {
                for i in 0..100 {
                    put(&node, "k", &i.to_string()).await;
                    written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
        .collect();
    let transfers = async {
        for to in [2, 3, 1, 1, 2] {
            nodes[0].transfer_leader(to).await.unwrap();
            assert_eq!(nodes[0].status().leader, Some(to));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(futures_util::future::join_all(writers), transfers);
    assert_eq!(written.load(std::sync::atomic::Ordering::Relaxed), 300);
    let error = nodes[0].transfer_leader(9).await.unwrap_err();
    assert!(matches!(error, TransferError::NotAVoter { to: 9, .. }));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_before_it_is_proposed() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let before = node(&nodes, leader).status().last_log_index;
    for command in [
        KvCommand::put("k".repeat(MAX_KEY_BYTES + 1), "v"),
        KvCommand::put("k", vec![0; MAX_VALUE_BYTES + 1]),
    ] {
        let error = nodes[1].propose(command).await.unwrap_err();
        assert_eq!(
            (error.code(), error.outcome()),
            ("command-refused", Outcome::NotDone)
        );
    }
    assert_eq!(node(&nodes, leader).status().last_log_index, before);
    let largest = KvCommand::put("k".repeat(MAX_KEY_BYTES), vec![7; MAX_VALUE_BYTES]);
    nodes[0].propose(largest).await.unwrap();
    assert_eq!(
        nodes[1]
            .read(Consistency::Linearizable, KvStore::len)
            .await
            .unwrap()
            .value,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn large_values_reach_a_follower_that_was_away() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
    isolate(&fabric, away, &others);
    for i in 0..40 {
        let command = KvCommand::put(format!("{i}"), vec![7; MAX_VALUE_BYTES]);
        node(&nodes, leader).propose(command).await.unwrap();
    }
    fabric.network().heal();
    let read = node(&nodes, away)
        .read(Consistency::Linearizable, KvStore::len)
        .await;
    assert_eq!(read.unwrap().value, 40);
}

#[tokio::test(start_paused = true)]
async fn a_watch_shows_the_leader_come_and_the_node_end() {
    let fabric = Fabric::new();
    let node = start(&fabric, 1, 1).await;
    let mut watch = node.watch();
    while watch.changed().await.leader != Some(1) {}
    node.shutdown().await;
    let last = tokio::time::timeout(WAIT, async {
        loop {
            let status = watch.changed().await;
            if status.role == Role::Stopped {
                return status;
            }
        }
    });
    assert_eq!(last.await.unwrap().stopped.as_deref(), Some("it was shut down"));
    let more = tokio::time::timeout(WAIT, watch.changed()).await;
    assert!(more.is_err(), "nothing follows the end: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_idempotent_and_leaves_no_task_behind() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    for node in &nodes {
        tokio::join!(node.shutdown(), node.shutdown());
        node.shutdown().await;
        assert_eq!(
            node.propose(KvCommand::put("a", "2")).await.unwrap_err().code(),
            "stopped"
        );
        assert_eq!(
            node.read(Consistency::Stale, KvStore::len)
                .await
                .unwrap_err()
                .code(),
            "stopped"
        );
    }
    assert_eq!(
        tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        before
    );
    // The ids are free, and a dropped group leaves nothing behind either.
    let again = group(&fabric, 3).await;
    agreed_leader(&again).await;
    drop(again);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        before
    );
}

/// Applies what it is told, unless told to panic.
#[derive(Default)]
struct Fragile(u64);

impl StateMachine for Fragile {
    type Command = bool;
    type Response = u64;
    type Snapshot = u64;
    fn apply(&mut self, ctx: &ApplyCtx, healthy: bool) -> u64 {
        assert!(healthy, "told to panic");
        self.0 = ctx.log_index;
        self.0
    }
    fn snapshot(&self) -> u64 {
        self.0
    }
    fn encode_snapshot(snapshot: &u64, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&snapshot.to_le_bytes())
    }
    fn restore(&mut self, input: &mut dyn io::Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_that_panics_stops_its_node_which_says_why() {
    let fabric = Fabric::new();
    let builder = RaftNode::<Fragile>::builder(config(1, 1)).fabric(&fabric);
    let node = builder.state_machine(Fragile::default()).start().await.unwrap();
    assert!(node.propose(true).await.unwrap() > 0);
    let error = node.propose(false).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    let status = node.status();
    assert_eq!(status.role, Role::Stopped);
    let reason = status.stopped.unwrap();
    assert!(
        reason.contains("told to panic") && reason.contains("at log entry"),
        "{reason}"
    );
    let error = node.propose(true).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("stopped", Outcome::NotDone));
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_proposals_in_flight_are_refused_and_not_done() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    isolate(&fabric, leader, &others);
    let options = ProposeOptions {
        deadline: Duration::from_millis(50),
        ..ProposeOptions::default()
    };
    let proposals = (0..70).map(|i| {
        let command = KvCommand::put(i.to_string(), vec![7; MAX_VALUE_BYTES]);
        node(&nodes, leader).propose_with(command, options)
    });
    let errors: Vec<_> = futures_util::future::join_all(proposals)
        .await
        .into_iter()
        .map(|outcome| outcome.unwrap_err().code())
        .collect();
    let refused = errors.iter().filter(|code| **code == "overloaded").count();
    assert_eq!(refused, 70 - 63, "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn over_a_given_transport_the_caller_says_who_votes() {
    let network = MemoryNetwork::new();
    let mut nodes = Vec::new();
    for node_id in 1..=3 {
        let identity = LocalIdentity {
            cluster: ClusterId::from_bytes([7; 16]),
            node: node_id,
            instance: InstanceId::from_bytes([1; 16]),
            boot_epoch: BootEpoch(1),
        };
        let router = Router::new();
        let transport = network.join(identity, router.clone()).unwrap();
        let wrong = RaftNode::<KvStore>::builder(config(9, 3)).transport(transport.clone(), router.clone());
        let wrong = wrong.state_machine(KvStore::new()).start().await.unwrap_err();
        assert_eq!(wrong.code(), "identity-mismatch");
        let builder = RaftNode::builder(config(node_id, 1)).transport(transport, router);
        nodes.push(builder.state_machine(KvStore::new()).start().await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        nodes
            .iter()
            .all(|node| !node.status().initialized && node.status().leader.is_none())
    );
    let voters: BTreeMap<_, _> = (1..=3)
        .map(|id| (id, format!("node{id}:9093").parse().unwrap()))
        .collect();
    let others = voters.clone().into_iter().filter(|(id, _)| *id != 1).collect();
    let error = nodes[0].initialize(others).await.unwrap_err();
    assert_eq!(error.code(), "not-a-founder");
    nodes[0].initialize(voters.clone()).await.unwrap();
    let error = nodes[0].initialize(voters).await.unwrap_err();
    assert_eq!(error.code(), "already-initialized");
    agreed_leader(&nodes).await;
    put(&nodes[2], "a", "1").await;
    assert_eq!(get(&nodes[1], "a").await.as_deref(), Some("1"));
}
