//! Nodes that join, leave and come back with another disk: real certificates, disks and sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod common;

use std::time::Duration;

use common::{Nodes, PATIENCE, eventually, ready};
use rivven_cluster::{
    Cluster, Consistency, MemberChange, MemberHold, MemberOptions, MemberRole, MemberStanding,
    MembershipEventKind, MembershipView, NodeId, NodeStatus, Phase, Replace, TopicSpec,
};

/// Waits until the leader's view is as it should be.
async fn until(node: &Cluster, what: &str, is: impl Fn(&MembershipView) -> bool) -> MembershipView {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seen = node.membership().await;
        match seen {
            Ok(view) if is(&view) => return view,
            seen if tokio::time::Instant::now() >= deadline => panic!("not in time: {what}; {seen:#?}"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn voters(view: &MembershipView) -> Vec<NodeId> {
    let votes = |standing| matches!(standing, MemberStanding::Leader | MemberStanding::Voter);
    let members = view.members.iter().filter(|member| votes(member.standing));
    members.map(|member| member.node).collect()
}

fn settled(view: &MembershipView) -> bool {
    view.next.is_none() && view.holds.is_empty()
}

fn problem(node: &Cluster, code: &str) -> Option<String> {
    let problems = node.status().problems;
    let found = problems.into_iter().find(|problem| problem.code == code);
    found.map(|problem| problem.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_vote_by_the_target_and_leave_for_good() {
    let hosts = Nodes::with_newcomers(3, 3);
    let mut nodes = hosts.start_all().await;
    nodes[0].kv().put("k", "v").await.unwrap();
    let founded = until(&nodes[1], "three founders", |view| voters(view) == [1, 2, 3]).await;
    assert!(
        founded.members.iter().all(|member| member.instance.is_some()),
        "founders are bound to their disks from the first entry on: {founded:#?}"
    );

    let mut config = hosts.config(4);
    config.zone = Some("b".into());
    nodes.push(Cluster::start(config).await.unwrap());
    ready(&nodes[3..]).await;
    let four = |view: &MembershipView| view.member(4).is_some_and(|member| member.zone == "b");
    let view = until(&nodes[0], "node 4 stands by", |view| settled(view) && four(view)).await;
    assert_eq!(
        view.member(4).unwrap().standing,
        MemberStanding::Learner,
        "a fourth voter survives no more failures than three"
    );
    let found = nodes[3].kv().get("k", Consistency::Linearizable).await.unwrap();
    assert_eq!(found.unwrap().value, "v", "a learner serves reads and writes too");

    let mut config = hosts.config(5);
    config.role = MemberRole::Observer;
    nodes.push(Cluster::start(config).await.unwrap());
    nodes.push(hosts.start(6).await);
    ready(&nodes).await;
    let view = until(&nodes[4], "five vote", |view| voters(view) == [1, 2, 3, 4, 6]).await;
    assert_eq!(view.quorum.spare(), Some(2));
    assert_eq!(view.member(5).unwrap().standing, MemberStanding::Learner);
    nodes[5].kv().put("k", "w").await.unwrap();

    leave_for_good(&hosts, nodes).await;
}

/// Removes node 6, the last of `nodes`.
async fn leave_for_good(hosts: &Nodes, mut nodes: Vec<Cluster>) {
    let spec = TopicSpec::new(6).replication_factor(3);
    nodes[0].partitions().create_topic("orders", spec).await.unwrap();
    let change = MemberChange::Remove { node: 6 };
    let plan = nodes[0].plan_membership(Some(change), None).await.unwrap();
    assert_eq!((plan.before.voters, plan.after.voters), (5, 4));
    let done = nodes[0]
        .change_membership(change, MemberOptions::default())
        .await
        .unwrap();
    assert!(done.finished, "{done:#?}");
    let view = until(&nodes[1], "node 6 is gone", |view| view.member(6).is_none()).await;
    assert!(
        view.removed.contains(&6) && !voters(&view).contains(&6),
        "{view:#?}"
    );

    eventually(&nodes[5..], "it learns that it was removed", || {
        problem(&nodes[5], "member-removed").is_some()
    })
    .await;
    assert!(
        nodes[5].liveness().iter().all(|check| check.ok),
        "a restart would help nobody"
    );
    eventually(&nodes[..5], "it has no part in assignments and gossip", || {
        let map = nodes[0].partitions().assignments();
        let status = map.node(6).map(|node| node.status);
        let heard = nodes[..5]
            .iter()
            .any(|node| node.members().list().iter().any(|member| member.node_id == 6));
        status == Some(NodeStatus::Removed) && !heard
    })
    .await;

    // The same disk stays out; what the transport says reaches the operator.
    let gone = nodes.pop().unwrap();
    gone.kill().await;
    drop(gone);
    let back = [hosts.start(6).await];
    eventually(&back, "it is told again", || {
        problem(&back[0], "member-removed").is_some()
    })
    .await;
    assert!(
        until(&nodes[0], "it stays out", settled)
            .await
            .member(6)
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_is_refused_until_it_is_replaced_and_then_votes_again() {
    let hosts = Nodes::new(3);
    let mut nodes = hosts.start_all().await;
    nodes[0].kv().put("k", "v").await.unwrap();
    // A restart first, so that the number of starts of the new disk is below that of the old one.
    nodes.remove(2).shutdown().await;
    nodes.push(hosts.start(3).await);
    ready(&nodes).await;
    nodes.remove(2).kill().await;
    std::fs::remove_dir_all(hosts.path().join("data-3")).unwrap();
    let empty = hosts.start(3).await;
    eventually(&[], "the loss is noticed", || {
        problem(&empty, "instance-differs").is_some()
    })
    .await;
    assert_eq!(empty.status().phase, Phase::Joining);
    let waits = |view: &MembershipView| {
        let differs = |hold: &MemberHold| matches!(hold, MemberHold::Differs { node: 3, .. });
        view.holds.iter().any(differs)
    };
    until(&nodes[0], "the leader knows", waits).await;

    let change = MemberChange::Replace { node: 3 };
    nodes[0]
        .change_membership(change, MemberOptions::default())
        .await
        .unwrap();
    nodes.push(empty);
    ready(&nodes).await;
    until(&nodes[2], "three vote again", |view| voters(view) == [1, 2, 3]).await;
    let found = nodes[2].kv().get("k", Consistency::Linearizable).await.unwrap();
    assert_eq!(found.unwrap().value, "v");
    eventually(
        &nodes,
        "gossip and the assignments have the new disk, and nothing is wrong",
        || {
            let instance = nodes[2].status().instance_id;
            let heard = nodes.iter().all(|node| {
                let members = node.members().list();
                members.iter().any(|member| {
                    member.node_id == 3 && member.instance_id == instance && member.state == "alive"
                })
            });
            let map = nodes[0].partitions().assignments();
            let active = map.node(3).map(|node| node.status) == Some(NodeStatus::Active);
            heard && active && nodes.iter().all(|node| node.status().problems.is_empty())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_is_replaced_without_an_operator_where_the_configuration_allows_it() {
    let hosts = Nodes::new(3);
    let config = |node| {
        let mut config = hosts.config(node);
        config.raft.replace = Replace::Auto;
        config
    };
    let mut nodes = Vec::new();
    for node in 1..=3 {
        nodes.push(Cluster::start(config(node)).await.unwrap());
    }
    ready(&nodes).await;
    nodes[0].kv().put("k", "v").await.unwrap();
    let old = nodes[2].status().instance_id;
    nodes.remove(2).kill().await;
    std::fs::remove_dir_all(hosts.path().join("data-3")).unwrap();
    nodes.push(Cluster::start(config(3)).await.unwrap());
    let new = nodes[2].status().instance_id;
    assert_ne!(new, old);
    ready(&nodes).await;
    let votes = |view: &MembershipView| {
        let member = view.member(3);
        settled(view)
            && voters(view) == [1, 2, 3]
            && member
                .and_then(|it| it.instance)
                .is_some_and(|it| it.to_string() == new)
    };
    let view = until(&nodes[0], "the new disk votes", votes).await;
    let replaced = view
        .events
        .iter()
        .filter(|event| event.change == MembershipEventKind::Replaced(None));
    assert_eq!(replaced.map(|event| event.node).collect::<Vec<_>>(), [3]);
    let found = nodes[2].kv().get("k", Consistency::Linearizable).await.unwrap();
    assert_eq!(found.unwrap().value, "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_beyond_the_voter_target_stand_by_and_take_the_place_of_the_dead() {
    let hosts = Nodes::new(4);
    let mut nodes = Vec::new();
    for node in 1..=4 {
        let mut config = hosts.config(node);
        config.raft.voter_target = Some(3);
        config.raft.voter_replace_after_ms = Some(2_000);
        nodes.push(Cluster::start(config).await.unwrap());
    }
    ready(&nodes).await;
    let view = until(&nodes[0], "three vote", |view| {
        voters(view) == [1, 2, 3] && view.next.is_none()
    })
    .await;
    assert_eq!(view.member(4).unwrap().standing, MemberStanding::Learner);
    let dead = if view.leader == 2 { 3 } else { 2 };
    let lost = nodes.remove(usize::try_from(dead).unwrap() - 1);
    lost.kill().await;
    drop(lost);
    let expected: Vec<NodeId> = [1, 2, 3, 4].into_iter().filter(|node| *node != dead).collect();
    until(&nodes[0], "node 4 votes in its place", |view| {
        voters(view) == expected
    })
    .await;
    // A node that comes back finds its place taken, and stands by.
    nodes.push(hosts.start(dead).await);
    ready(&nodes).await;
    let stands_by = |view: &MembershipView| {
        let member = view.member(dead);
        member.is_some_and(|member| member.lives && member.standing == MemberStanding::Learner)
    };
    until(&nodes[0], "it stands by", stands_by).await;
}
