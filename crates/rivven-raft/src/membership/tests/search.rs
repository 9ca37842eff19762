//! What holds for every group: small ones exhaustively, larger ones by chance.

use proptest::prelude::*;

use super::*;

/// Every majority of one meets every majority of the other.
fn majorities_meet(one: &BTreeSet<NodeId>, other: &BTreeSet<NodeId>) -> bool {
    // Two majorities miss each other if each can be filled from outside of the other.
    let common: Vec<NodeId> = one.intersection(other).copied().collect();
    let needed = |set: &BTreeSet<NodeId>| set.len() / 2 + 1;
    let outside = |set: &BTreeSet<NodeId>| set.len() - common.len();
    (0..=common.len()).all(|taken| {
        let here = outside(one) + taken >= needed(one);
        let there = outside(other) + (common.len() - taken) >= needed(other);
        !(here && there)
    })
}

/// Checks one step, and gives the view after it.
fn checked(view: &View, step: MemberStep) -> View {
    let after = view.clone().after(step);
    let (before_voters, after_voters) = (view.voters(), after.voters());
    let before = view.quorum(&before_voters, &POLICY);
    let survives = after.quorum(&after_voters, &POLICY);
    assert!(before.is_live(), "{step:?} without a quorum: {view:?}");
    assert!(survives.is_live(), "{step:?} loses the quorum: {view:?}");
    let forced = view.records.iter().any(|(_, record)| record.forced);
    assert!(
        forced || survives.spare() > Some(0) || before.spare() == Some(0) || before_voters == after_voters,
        "{step:?} loses the last failure to survive: {view:?}"
    );
    let gained = after_voters.difference(&before_voters).count();
    let lost = before_voters.difference(&after_voters).count();
    match step {
        MemberStep::Promote { .. } => assert_eq!((gained, lost), (1, 0)),
        MemberStep::Demote { .. } => assert_eq!((gained, lost), (0, 1)),
        MemberStep::Exchange { .. } => assert_eq!((gained, lost), (1, 1)),
        MemberStep::FinishChange => assert_eq!(after.configs.len(), 1),
        _ => assert_eq!((gained, lost), (0, 0), "{step:?}"),
    }
    // Without a joint configuration between them, one node more or less is safe and an exchange may not be;
    // with it, what counts is that each half meets itself.
    if gained + lost <= 1 {
        assert!(majorities_meet(&before_voters, &after_voters), "{step:?}");
    }
    assert!(!after_voters.is_empty());
    assert!(
        after_voters.iter().all(|node| after.seated.contains_key(node)),
        "{step:?}: a voter that is no member: {view:?}"
    );
    for node in after_voters.difference(&before_voters) {
        assert!(view.is_ready(*node, &POLICY), "{step:?}: {view:?}");
    }
    assert!(
        after.seated.contains_key(&after.leader),
        "{step:?} loses the leader"
    );
    assert!(after.lives(after.leader, &POLICY), "{step:?}");
    after
}

/// Follows the plan to its end. At every step any leader that lives may go on in place of the last one.
fn follow(mut view: View, choose: &mut dyn FnMut(usize) -> usize) -> View {
    let mut steps = Vec::new();
    while let Some(step) = next(&view, &POLICY).step {
        steps.push(step);
        assert!(steps.len() < 200, "no end: {steps:?}");
        view = checked(&view, step);
        let heirs: Vec<NodeId> = view
            .voters()
            .into_iter()
            .filter(|node| view.lives(*node, &POLICY) && view.may_vote(*node))
            .collect();
        if let Some(heir) = heirs.get(choose(heirs.len().max(1) * 2)) {
            view.leader = *heir;
        }
    }
    assert_eq!(next(&view, &POLICY).step, None, "a fixpoint");
    view
}

fn build(lives: &Lives, voters: &BTreeSet<NodeId>, leader: NodeId) -> View {
    View {
        leader,
        configs: vec![voters.clone()],
        seated: lives
            .iter()
            .map(|(node, life)| (*node, seated(*node, *life)))
            .collect(),
        records: Records::default(),
    }
}

/// Every group of up to four nodes, in every state of each, led by every voter that lives, with every change.
#[test]
fn small_groups_come_to_rest_with_their_quorum_whatever_is_asked() {
    let lives = [Life::Well, Life::Behind, Life::Silent, Life::Dead];
    let (mut groups, mut asked, mut refused) = (0, 0, 0);
    for size in 1..=4_u32 {
        for states in 0..4_usize.pow(size) {
            let nodes: Lives = (1..=size)
                .map(|node| (node.into(), lives[states / 4_usize.pow(node - 1) % 4]))
                .collect();
            for mask in 1..1_u32 << size {
                let voters: BTreeSet<NodeId> = (1..=size)
                    .filter(|node| mask >> (node - 1) & 1 == 1)
                    .map(u64::from)
                    .collect();
                for leader in &voters {
                    if nodes[leader] != Life::Well {
                        continue;
                    }
                    groups += 1;
                    let view = build(&nodes, &voters, *leader);
                    follow(view.clone(), &mut |_| usize::MAX);
                    for change in changes(u64::from(size)) {
                        asked += 1;
                        let Ok((plan, Some(command))) = plan(&view, &POLICY, Some(change), None) else {
                            refused += 1;
                            continue;
                        };
                        let mut end = follow(view.clone().told(command), &mut |_| usize::MAX);
                        catch_up(&mut end);
                        let end = follow(end, &mut |_| usize::MAX);
                        fulfilled(change, &plan, &end);
                    }
                }
            }
        }
    }
    assert!(
        groups > 2_000 && asked > 20_000,
        "{groups} groups, {asked} changes"
    );
    assert!(
        refused > asked / 10 && refused < asked * 9 / 10,
        "{refused} of {asked} refused"
    );
}

fn changes(size: u64) -> Vec<MemberChange> {
    (1..=size)
        .flat_map(|node| {
            [
                MemberChange::Promote { node },
                MemberChange::Demote { node },
                MemberChange::Remove { node },
                MemberChange::Replace { node },
            ]
        })
        .collect()
}

/// What was not refused comes about, unless it has to wait for a node.
fn fulfilled(change: MemberChange, plan: &MembershipPlan, end: &View) {
    let node = change.node();
    match change {
        MemberChange::Remove { .. } => {
            assert!(!end.seated.contains_key(&node), "{plan:?}: {end:?}");
            assert!(end.records.is_removed(node));
        }
        MemberChange::Replace { .. } => assert!(!end.seated.contains_key(&node), "{plan:?}: {end:?}"),
        MemberChange::Demote { .. } => assert!(!end.voters().contains(&node), "{plan:?}: {end:?}"),
        MemberChange::Promote { .. } | MemberChange::Add { .. } => {}
    }
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        6 => Just(Life::Well),
        1 => Just(Life::Behind),
        1 => Just(Life::Silent),
        1 => Just(Life::Dead),
    ]
}

fn role() -> impl Strategy<Value = MemberRole> {
    prop_oneof![
        5 => Just(MemberRole::Auto),
        1 => Just(MemberRole::Voter),
        1 => Just(MemberRole::Observer),
    ]
}

/// State, role, zone, whether it votes, and whether it is to leave.
type Node = (Life, MemberRole, u8, bool, bool);

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let node = (life(), role(), 0..4_u8, any::<bool>(), prop::bool::weighted(0.15));
    prop::collection::vec(node, 1..10)
}

fn arrange(nodes: &[Node], joint: bool) -> Option<View> {
    let ids = 1..=nodes.len() as u64;
    let lives: Lives = ids.clone().zip(nodes).map(|(id, node)| (id, node.0)).collect();
    let voters: BTreeSet<NodeId> = ids
        .clone()
        .zip(nodes)
        .filter(|(_, node)| node.3)
        .map(|(id, _)| id)
        .collect();
    let leader = *voters.iter().find(|node| lives[node] == Life::Well)?;
    let mut view = build(&lives, &voters, leader);
    for (id, (_, role, zone, _, leaving)) in ids.zip(nodes) {
        let zone = ["", "a", "b", "c"][usize::from(*zone)];
        view = view.joined(id, zone, *role);
        if *leaving {
            view = view.told(MemberCommand::Leave {
                node: id,
                instance: None,
                forced: (id % 2 == 0).then(|| "test".to_owned()),
            });
        }
    }
    let other = view.learners().next();
    if joint && let Some(other) = other {
        let mut next = voters;
        next.insert(other);
        view.configs.push(next);
    }
    Some(view)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_group_comes_to_rest_with_its_quorum_whoever_leads(
        nodes in nodes(),
        joint in any::<bool>(),
        choices in prop::collection::vec(any::<usize>(), 1..50),
    ) {
        if let Some(view) = arrange(&nodes, joint) {
            let mut at = 0;
            let end = follow(view, &mut |below| {
                at += 1;
                choices[at % choices.len()] % below
            });
            // At rest nobody votes who must not, unless that would cost the quorum.
            for node in end.voters() {
                let held = next(&end, &POLICY).holds.iter().any(|hold| {
                    hold.node() == Some(node) || matches!(hold, MemberHold::NoQuorum { .. })
                });
                prop_assert!(end.may_vote(node) || held, "{node}: {end:?}");
            }
        }
    }

    #[test]
    fn the_plan_is_what_is_then_done(nodes in nodes(), node in 1..10_u64, kind in 0..4_usize) {
        if let Some(view) = arrange(&nodes, false) {
            let change = changes(node)[usize::try_from(node - 1).unwrap() * 4 + kind];
            if let Ok((plan, Some(command))) = plan(&view, &POLICY, Some(change), None) {
                let mut view = view.told(command);
                catch_up(&mut view);
                let (steps, end) = settle(view);
                prop_assert_eq!(&plan.steps, &steps);
                prop_assert_eq!(plan.voters_after, end.voters());
            }
        }
    }
}

/// Every learner that lives has caught up.
fn catch_up(view: &mut View) {
    let learners: Vec<NodeId> = view.learners().collect();
    for node in learners {
        let seated = view.seated.get_mut(&node).unwrap();
        if seated.health.silent <= POLICY.silence {
            seated.health.lag = Some(0);
        }
    }
}
