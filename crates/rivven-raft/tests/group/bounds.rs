//! What is too large and what is too much.

use std::time::Duration;

use rivven_raft::{
    Consistency, Fabric, KvCommand, KvStore, MAX_KEY_BYTES, MAX_VALUE_BYTES, Outcome, ProposeOptions,
};

use crate::common::*;

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
async fn more_than_65_536_proposals_at_a_time_are_refused_and_not_done() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    isolate(&fabric, leader, &others);
    // Until it leads no more, so that none of them gets as far as its log.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let options = ProposeOptions {
        deadline: Duration::from_millis(10),
        ..ProposeOptions::default()
    };
    let proposals = (0..65_536 + 9).map(|i: u32| {
        let command = KvCommand::put(i.to_string(), "v");
        node(&nodes, leader).propose_with(command, options)
    });
    // A task that polls so many at once must not be made to pause after each hundred.
    let outcomes = tokio::task::unconstrained(futures_util::future::join_all(proposals)).await;
    let overloaded = |outcome: &Result<_, rivven_raft::ProposeError>| {
        let error = outcome.as_ref().unwrap_err();
        let refused = error.code() == "overloaded";
        assert!(!refused || error.outcome() == Outcome::NotDone);
        refused
    };
    assert_eq!(outcomes.iter().filter(|outcome| overloaded(outcome)).count(), 9);
    // There is room again for others.
    let again = node(&nodes, leader).propose_with(KvCommand::put("k", "v"), options);
    assert_ne!(again.await.unwrap_err().code(), "overloaded");
}
