//! Proposals and reads while all is well, and while leadership moves.

use std::{sync::atomic::AtomicUsize, time::Duration};

use rivven_raft::{Consistency, Fabric, KvCommand, KvResponse, KvStore, TransferError};

use crate::common::*;

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
async fn word_of_a_commit_travels_with_the_next_write() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    let before = fabric.network().stats();
    for i in 0..100 {
        put(node(&nodes, leader), "a", &i.to_string()).await;
    }
    let sent = fabric.network().stats().sent - before.sent;
    // To each of two followers a request and its answer, and little more.
    assert!(sent < 100 * 5, "{sent} frames for 100 writes");
    // When nothing follows, the followers hear of the last one soon all the same.
    tokio::time::sleep(Duration::from_millis(10)).await;
    for node in &nodes {
        let read = node.read(Consistency::Stale, |kv| value(kv, "a")).await.unwrap();
        assert_eq!(read.value.as_deref(), Some("99"));
    }
}
