//! Members come and go under load, whoever leads.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod common;
#[path = "membership/metrics.rs"]
mod metrics_told;
#[path = "membership/support.rs"]
mod support;

use std::{collections::BTreeSet, time::Duration};

use common::*;
use rivven_raft::{
    Fabric, JoinAs, KvCommand, MemberChange, MemberHold, MemberOptions, MemberRole, MemberStanding,
    MembershipEvent, MembershipEventKind, MembershipView, Outcome, Role, TaskGroup,
};
use support::*;

#[tokio::test(start_paused = true)]
async fn a_node_joins_learns_and_votes_where_a_place_is_free() {
    let group = Group::start(3).await;
    let load = group.load();
    let four = group.join(4, JoinAs::new().zone("b")).await;
    four.wait_joined(WAIT).await.unwrap();
    let view = group.settled().await;
    let info = view.member(4).unwrap();
    assert_eq!(
        info.standing,
        MemberStanding::Learner,
        "an even number of voters is no use"
    );
    assert_eq!(
        (info.zone.as_str(), info.role, info.lives),
        ("b", MemberRole::Auto, true)
    );
    assert_eq!(info.instance, Some(four.instance_id()));

    let five = group.join(5, JoinAs::new()).await;
    five.wait_joined(WAIT).await.unwrap();
    let voters = group.voters_become(&[1, 2, 3, 4, 5]).await;
    assert_eq!(voters.quorum.spare(), Some(2));
    let observer = group.join(6, JoinAs::new().role(MemberRole::Observer)).await;
    observer.wait_joined(WAIT).await.unwrap();
    let view = group.settled().await;
    assert_eq!(view.member(6).unwrap().standing, MemberStanding::Learner);
    assert!(
        view.events
            .iter()
            .any(|event| event.node == 5 && event.change == MembershipEventKind::Promoted)
    );
    load.stop_and_check(&observer).await;
}

#[tokio::test(start_paused = true)]
async fn votes_of_running_nodes_spread_over_zones() {
    let group = Group::start(3).await;
    let load = group.load();
    let leader = group.leader().await;
    let others = group.others(leader);
    let (beside, apart) = (others[0], others[1]);
    for (id, zone) in [(leader, "a"), (beside, "a"), (apart, "b")] {
        group.node(id).announce(JoinAs::new().zone(zone)).await.unwrap();
    }
    // The loss of zone "a" would take two of three votes along. One of them goes to the newcomer's zone.
    let four = group.join(4, JoinAs::new().zone("c")).await;
    four.wait_joined(WAIT).await.unwrap();
    let voters = BTreeSet::from([leader, apart, 4]);
    let spread = |view: &MembershipView| {
        let vote = |id| {
            view.member(id)
                .is_some_and(|member| member.standing != MemberStanding::Learner)
        };
        view.next.is_none() && voters.iter().all(|id| vote(*id)) && !vote(beside)
    };
    let view = group.until("one vote is in each zone", spread).await;
    let zones: BTreeSet<&str> = voters
        .iter()
        .map(|id| view.member(*id).unwrap().zone.as_str())
        .collect();
    assert_eq!(zones, BTreeSet::from(["a", "b", "c"]));
    // And so a zone may go.
    group.kill(apart).await;
    group
        .node(4)
        .propose(KvCommand::put("a zone less", "v"))
        .await
        .unwrap();
    load.stop_and_check(&four).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_removed_hands_over_leaves_and_rests() {
    let group = Group::start(3).await;
    let load = group.load();
    for id in [4, 5] {
        group.join(id, JoinAs::new()).await;
    }
    group.voters_become(&[1, 2, 3, 4, 5]).await;
    let leader = group.leader().await;
    let gone = group.node(leader);
    let changed = gone.remove_member(leader).await.unwrap();
    assert!(changed.finished, "{changed:?}");
    assert!(!changed.plan.voters_after.contains(&leader));
    let view = group.settled_without(leader).await;
    assert!(
        view.removed.contains(&leader) && view.member(leader).is_none(),
        "{view:?}"
    );
    let rests = async {
        while !gone.status().removed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, rests).await.unwrap();
    let status = gone.status();
    assert_eq!(status.role, Role::Stopped);
    assert!(status.stopped.unwrap().contains("removed"));
    // It disturbs nobody.
    let term = group.node(view.leader).status().term;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(group.node(view.leader).status().term, term);
    load.stop_and_check(&group.node(view.leader)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_removed_while_it_was_away_learns_it_when_it_comes_back() {
    let group = Group::start(3).await;
    for id in [4, 5] {
        group.join(id, JoinAs::new()).await;
    }
    group.voters_become(&[1, 2, 3, 4, 5]).await;
    let leader = group.leader().await;
    let away = if leader == 5 { 4 } else { 5 };
    isolate(&group.fabric, away, &group.others(away));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let changed = group.node(leader).remove_member(away).await.unwrap();
    assert!(changed.finished, "{changed:?}");
    let term = group.node(leader).status().term;
    group.fabric.network().heal();
    let node = group.node(away);
    let learns = async {
        while !node.status().removed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, learns).await.unwrap();
    assert_eq!(
        group.node(leader).status().term,
        term,
        "no election for a node that is gone"
    );
    assert_eq!(group.leader().await, leader);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_costs_the_last_failure_needs_a_reason() {
    let group = Group::start(3).await;
    let leader = group.leader().await;
    let victim = group.others(leader)[0];
    let node = group.node(group.others(leader)[1]);
    let change = MemberChange::Remove { node: victim };
    let refused = node.plan_membership(Some(change), None).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.outcome()),
        ("loses-tolerance", Outcome::NotDone),
        "{refused}"
    );
    let refused = node
        .change_membership(change, MemberOptions::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "loses-tolerance");
    assert_eq!(group.settled().await.members.len(), 3, "nothing was changed");

    let options = MemberOptions {
        force: Some("the host is sold".into()),
        ..MemberOptions::default()
    };
    let changed = node.change_membership(change, options).await.unwrap();
    assert!(changed.finished);
    let view = group.settled_without(victim).await;
    assert_eq!((view.quorum.voters, view.quorum.spare()), (2, Some(0)));
    let why = MembershipEventKind::Leaves(Some("the host is sold".into()));
    assert!(
        view.events
            .iter()
            .any(|event| event.node == victim && event.change == why)
    );
    let unknown = node.promote_member(99).await.unwrap_err();
    assert_eq!(unknown.code(), "unknown-member");
}

#[tokio::test(start_paused = true)]
async fn wiped_disk_same_id_is_refused_until_it_is_replaced() {
    let group = Group::start(3).await;
    let load = group.load();
    let leader = group.leader().await;
    let lost = group.others(leader)[0];
    group.kill(lost).await;
    group.wipe(lost);
    // It never counts, neither as a founder nor as one that joins.
    let wiped = group.join(lost, JoinAs::new()).await;
    let refused = wiped.wait_joined(WAIT).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.outcome()),
        ("instance-differs", Outcome::NotDone)
    );
    assert!(
        refused.to_string().contains(&format!("member replace {lost}")),
        "{refused}"
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!wiped.status().initialized, "it was given nothing");
    let node = group.node(leader);
    let view = node.membership().await.unwrap();
    assert!(
        view.holds
            .iter()
            .any(|hold| matches!(hold, MemberHold::Differs { node, .. } if *node == lost))
    );
    assert!(!view.member(lost).unwrap().lives);

    let changed = node.replace_member(lost).await.unwrap();
    assert_eq!(changed.plan.voters_after.len(), 2);
    // It asks again by itself.
    while wiped.wait_joined(WAIT).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let view = group.voters_become(&[1, 2, 3]).await;
    assert_eq!(view.member(lost).unwrap().instance, Some(wiped.instance_id()));
    load.stop_and_check(&wiped).await;
}

#[tokio::test(start_paused = true)]
async fn a_wiped_disk_comes_back_as_learner_and_voter_by_itself_where_that_is_allowed() {
    let group = Group::replacing(3).await;
    let load = group.load();
    let leader = group.leader().await;
    let lost = group.others(leader)[0];
    let old = group.node(lost).instance_id();
    group.kill(lost).await;
    group.wipe(lost);
    let wiped = group.join(lost, JoinAs::new()).await;
    while wiped.wait_joined(WAIT).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let view = group.voters_become(&[1, 2, 3]).await;
    assert_eq!(view.member(lost).unwrap().instance, Some(wiped.instance_id()));
    use MembershipEventKind::{Added, Demoted, Joins, Promoted, Removed, Replaced};
    let became = |what: &MembershipEventKind| {
        let is = |event: &MembershipEvent| event.node == lost && event.change == *what;
        view.events.iter().rposition(is).unwrap()
    };
    // It says who it is as soon as it may, which the end of the old one does not wait for.
    assert!(became(&Replaced(None)) < became(&Joins));
    let order = [Replaced(None), Demoted, Removed, Added, Promoted].map(|what| became(&what));
    assert!(order.is_sorted(), "{:?}", view.events);
    assert!(wiped.is_shut_out(lost, old), "the old disk stays out");
    load.stop_and_check(&wiped).await;
}

#[tokio::test(start_paused = true)]
async fn a_wiped_disk_waits_for_an_operator_while_another_voter_is_missing() {
    let group = Group::replacing(5).await;
    let leader = group.leader().await;
    let others = group.others(leader);
    let (lost, missing) = (others[0], others[1]);
    group.kill(missing).await;
    group.kill(lost).await;
    group.wipe(lost);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let wiped = group.join(lost, JoinAs::new()).await;
    let refused = wiped.wait_joined(WAIT).await.unwrap_err();
    assert_eq!(refused.code(), "instance-differs");
    let text = refused.to_string();
    assert!(
        text.contains(&format!("member replace {lost}")) && text.contains(&format!("voter {missing}")),
        "{text}"
    );
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!wiped.status().initialized, "it was given nothing");
    // Once the other is back, nobody has to say anything.
    group.start_node(missing).await;
    let votes = |view: &MembershipView| {
        let member = view.member(lost).unwrap();
        member.instance == Some(wiped.instance_id()) && member.standing == MemberStanding::Voter
    };
    group.until("the empty disk votes", votes).await;
    group.voters_become(&[1, 2, 3, 4, 5]).await;
}

#[tokio::test(start_paused = true)]
async fn the_old_disk_of_a_replaced_member_stays_out() {
    let group = Group::start(3).await;
    let leader = group.leader().await;
    let lost = group.others(leader)[0];
    group.kill(lost).await;
    let node = group.node(leader);
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.replace_member(lost).await.unwrap();
    // The disk that was thought lost is found and started again.
    let back = group.start_node(lost).await;
    let learns = async {
        while !back.status().removed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, learns).await.unwrap();
    assert_eq!(group.leader().await, leader);
}

#[tokio::test(start_paused = true)]
async fn a_dead_voter_is_replaced_by_whoever_stands_by() {
    let group = Group::start(3).await;
    group.join(4, JoinAs::new()).await;
    group.settled().await;
    let leader = group.leader().await;
    let dead = group.others(leader)[0];
    let mut expected: BTreeSet<_> = [1, 2, 3, 4].into();
    expected.remove(&dead);
    group.kill(dead).await;
    tokio::time::sleep(REPLACE_AFTER / 2).await;
    assert!(
        group
            .node(leader)
            .membership()
            .await
            .unwrap()
            .member(dead)
            .unwrap()
            .standing
            == MemberStanding::Voter
    );
    let expected: Vec<_> = expected.into_iter().collect();
    group.voters_become(&expected).await;
    // Back again it stands by in turn.
    group.start_node(dead).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let view = group.voters_become(&expected).await;
    assert_eq!(view.member(dead).unwrap().standing, MemberStanding::Learner);
}

/// Kills the leader at every point of a change, and looks whether the change comes to its end all the same.
#[tokio::test(start_paused = true)]
async fn a_change_survives_the_death_of_the_leader_at_each_step() {
    let mut kills = 0;
    let mut delay_ms = 0;
    // Until the change is over before the leader dies.
    for round in 0..40_u64 {
        let group = Group::seeded(5, round).await;
        let load = group.load();
        group.join(6, JoinAs::new()).await;
        group.settled().await;
        let leader = group.leader().await;
        let victim = if round % 2 == 0 {
            leader
        } else {
            group.others(leader)[0]
        };
        let asker = group.node(group.others(leader)[1]);
        let change = MemberChange::Remove { node: victim };
        let asking = TaskGroup::current()
            .spawn(async move { asker.change_membership(change, MemberOptions::default()).await });
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        let done = asking.is_finished();
        let now = group.leader().await;
        group.kill(now).await;
        kills += 1;
        let asked = asking.await.unwrap().unwrap();
        let asker = group.any_but(&[now, victim]);
        let view = match asked {
            // It was written down, and so it comes about.
            Ok(_) => group.settled_without(victim).await,
            Err(error) => {
                assert_ne!(error.code(), "stopped", "{error}");
                group.settles().await
            }
        };
        assert!(view.quorum.is_live(), "{view:?}");
        assert_eq!(
            view.member(victim).is_none(),
            view.removed.contains(&victim),
            "all or nothing: {view:?}"
        );
        load.stop_and_check(&asker).await;
        if done {
            break;
        }
        delay_ms += 7;
    }
    assert!(kills > 8, "only {kills} leaders were killed");
}

/// Has a voter removed for whom another one stands by, kills the leader as soon as `step` has been applied, and looks
/// whether the rest comes about.
async fn leader_dies_after(step: &MembershipEventKind, victim_leads: bool) {
    let group = Group::start(5).await;
    let load = group.load();
    group.join(6, JoinAs::new()).await;
    group.settled().await;
    let leader = group.leader().await;
    let others = group.others(leader);
    let victim = if victim_leads { leader } else { others[0] };
    let asker = group.node(others[1]);
    let asked = asker.clone();
    let change = MemberChange::Remove { node: victim };
    let asking = TaskGroup::current()
        .spawn(async move { asked.change_membership(change, MemberOptions::default()).await });
    let about = if *step == MembershipEventKind::Promoted {
        6
    } else {
        victim
    };
    let is = |event: &MembershipEvent| event.node == about && event.change == *step;
    let applied = async {
        loop {
            // The joining of node 6 is among the events, too; it learns first and votes only now.
            let view = asker.membership().await.unwrap();
            if view.events.iter().any(is) {
                return view.leader;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let now = tokio::time::timeout(WAIT, applied).await.unwrap();
    group.kill(now).await;
    // The answer may have been on its way through the one that was killed; what was written down comes about.
    let _ = asking.await.unwrap().unwrap();
    let view = group.settled_without(victim).await;
    assert!(
        view.quorum.is_live() && view.removed.contains(&victim),
        "{view:?}"
    );
    let six = view.member(6).unwrap().standing;
    assert!(
        matches!(six, MemberStanding::Voter | MemberStanding::Leader),
        "{view:?}"
    );
    let order = [
        MembershipEventKind::Leaves(None),
        MembershipEventKind::Demoted,
        MembershipEventKind::Removed,
    ];
    let at = order.map(|what| {
        let is = |event: &MembershipEvent| event.node == victim && event.change == what;
        view.events.iter().filter(|event| is(event)).count()
    });
    assert_eq!(at, [1, 1, 1], "each step once: {:?}", view.events);
    load.stop_and_check(&group.any_but(&[now, victim])).await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_goes_on_where_it_was_when_its_leader_died_after_each_step() {
    use MembershipEventKind::{Demoted, Forgotten, Leaves, Promoted, Removed};
    for step in [Leaves(None), Promoted, Demoted, Removed, Forgotten] {
        for victim_leads in [false, true] {
            leader_dies_after(&step, victim_leads).await;
        }
    }
}

/// RedisRaft lost updates when a partition fell together with a change of members.
#[tokio::test(start_paused = true)]
async fn membership_in_partition_never_makes_two_leaders_that_both_write() {
    for round in 0..4_u64 {
        let group = Group::seeded(5, 100 + round).await;
        let load = group.load();
        let leader = group.leader().await;
        let others = group.others(leader);
        // The old leader with one other, a minority, is asked to remove the nodes it cannot see.
        let (minority, majority) = ([leader, others[0]], &others[1..]);
        for one in minority {
            for other in majority {
                group.fabric.network().cut(one, *other);
                group.fabric.network().cut(*other, one);
            }
        }
        let options = MemberOptions {
            force: Some("the other side is gone".into()),
            wait: Duration::from_secs(3),
        };
        let asked = group
            .node(leader)
            .change_membership(MemberChange::Remove { node: majority[0] }, options)
            .await;
        assert!(!matches!(&asked, Ok(changed) if changed.finished), "{asked:?}");
        let elected = group.leader_among(majority).await;
        let removed = group.node(elected).remove_member(others[0]).await;
        group.fabric.network().heal();
        let view = group.settles().await;
        assert!(view.quorum.is_live() && view.quorum.voters >= 3, "{view:?}");
        if removed.is_ok_and(|changed| changed.finished) {
            assert!(view.member(others[0]).is_none(), "{view:?}");
        }
        load.stop_and_check(&group.node(view.leader)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn members_in_memory_come_back_empty_as_ever() {
    let fabric = Fabric::new();
    let nodes = group(&fabric, 3).await;
    let leader = agreed_leader(&nodes).await;
    put(&nodes[0], "a", "1").await;
    let away = if leader == 3 { 2 } else { 3 };
    node(&nodes, away).kill().await;
    let mut nodes = nodes;
    nodes.retain(|node| node.status().node_id != away);
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.push(start(&fabric, away, 3).await);
    assert_eq!(get(nodes.last().unwrap(), "a").await.as_deref(), Some("1"));
    let view = nodes[0].membership().await.unwrap();
    assert!(
        view.members.iter().all(|member| member.instance.is_none()),
        "{view:?}"
    );
    let refused = nodes[0].replace_member(away).await.unwrap_err();
    assert_eq!(refused.code(), "member-not-bound");
}
