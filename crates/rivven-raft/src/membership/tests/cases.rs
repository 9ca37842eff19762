//! One case for each rule.

use super::*;

fn steps(view: View) -> Vec<MemberStep> {
    settle(view).0
}

fn asked(view: &View, change: MemberChange) -> Result<MembershipPlan, MemberRefusal> {
    plan(view, &POLICY, Some(change), None).map(|(plan, _)| plan)
}

fn code(view: &View, change: MemberChange) -> String {
    asked(view, change).unwrap_err().code().to_owned()
}

#[test]
fn a_group_that_is_as_it_should_be_is_left_alone() {
    for voters in 1..=5_u64 {
        let nodes: Vec<NodeId> = (1..=voters).collect();
        assert_eq!(steps(group(&nodes, &[])), []);
    }
}

#[test]
fn a_pristine_node_learns_and_then_fills_an_odd_number_of_places() {
    let view = group(&[1, 2, 3], &[]).joined(4, "", MemberRole::Auto);
    assert_eq!(steps(view.clone()), [MemberStep::AddLearner { node: 4 }]);
    let view = view.joined(5, "", MemberRole::Auto);
    let (steps, after) = settle(view);
    assert_eq!(
        steps,
        [
            MemberStep::AddLearner { node: 4 },
            MemberStep::AddLearner { node: 5 },
            MemberStep::Promote { node: 4 },
            MemberStep::Promote { node: 5 },
        ]
    );
    assert_eq!(after.voters(), set(&[1, 2, 3, 4, 5]));
    let (steps, after) = settle(
        after
            .joined(6, "", MemberRole::Auto)
            .joined(7, "", MemberRole::Auto),
    );
    assert_eq!(steps.len(), 2, "beyond the target they stand by: {steps:?}");
    assert_eq!(after.voters().len(), 5);
}

#[test]
fn a_second_node_votes_so_that_every_write_has_two_copies() {
    assert_eq!(steps(group(&[1], &[2])), [MemberStep::Promote { node: 2 }]);
    assert_eq!(settle(group(&[1], &[2, 3])).1.voters(), set(&[1, 2, 3]));
}

#[test]
fn who_lacks_much_or_observes_does_not_vote() {
    let view = group(&[1, 2], &[]).with(3, Life::Behind);
    assert_eq!(steps(view.clone()), []);
    assert_eq!(
        next(&view, &POLICY).holds,
        [MemberHold::CatchingUp {
            node: 3,
            lag: Some(1_000)
        }]
    );
    let view = group(&[1, 2], &[3]).joined(3, "", MemberRole::Observer);
    assert_eq!(steps(view), []);
    let view = group(&[1, 2, 3], &[4]).joined(3, "", MemberRole::Observer);
    assert_eq!(
        steps(view),
        [MemberStep::Exchange {
            promote: 4,
            demote: 3
        }]
    );
}

#[test]
fn a_node_asked_to_vote_by_name_does_so_beyond_the_target() {
    let view = group(&[1, 2, 3, 4, 5], &[6]);
    assert_eq!(steps(view.clone()), []);
    let plan = asked(&view, MemberChange::Promote { node: 6 }).unwrap();
    assert_eq!(plan.steps, [MemberStep::Promote { node: 6 }]);
    assert_eq!((plan.before.voters, plan.after.voters), (5, 6));
    let view = group(&[1, 2, 3, 4, 5], &[6]);
    assert_eq!(code(&view, MemberChange::Promote { node: 7 }), "unknown-member");
}

#[test]
fn votes_are_spread_over_zones() {
    let zones = [(1, "a"), (2, "b"), (3, "a"), (4, "a"), (5, "c"), (6, "b")];
    let view = group(&[1, 2], &[3, 4, 5, 6]).in_zones(&zones);
    assert_eq!(settle(view).1.voters(), set(&[1, 2, 3, 5, 6]));
    // Three votes, one per zone, survive the loss of a zone; five with three in one do not.
    let zones = [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "a")];
    assert_eq!(steps(group(&[1, 2, 3], &[4, 5]).in_zones(&zones)), []);
    // With two zones one of them holds the majority in any case.
    let zones = [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "b")];
    let (_, after) = settle(group(&[1, 2, 3], &[4, 5]).in_zones(&zones));
    assert_eq!(after.voters(), set(&[1, 2, 3, 4, 5]));
}

#[test]
fn a_vote_moves_to_a_zone_that_has_none_but_not_the_leaders() {
    let zones = [(1, "a"), (2, "a"), (3, "b"), (4, "c")];
    let view = group(&[1, 2, 3], &[4]).in_zones(&zones);
    assert_eq!(
        steps(view),
        [MemberStep::Exchange {
            promote: 4,
            demote: 2
        }]
    );
    let silent = group(&[1, 2, 3], &[4]).in_zones(&zones).with(3, Life::Silent);
    assert_eq!(steps(silent), [], "while one is missing nothing is moved about");
}

#[test]
fn the_dead_are_replaced_by_who_stands_by_and_not_before_their_time() {
    let view = group(&[1, 2, 3], &[4]).with(3, Life::Silent);
    assert_eq!(steps(view), []);
    let view = group(&[1, 2, 3], &[4]).with(3, Life::Dead);
    assert_eq!(
        steps(view),
        [MemberStep::Exchange {
            promote: 4,
            demote: 3
        }]
    );
    let view = group(&[1, 2, 3], &[]).with(3, Life::Dead);
    assert_eq!(steps(view.clone()), []);
    assert_eq!(
        next(&view, &POLICY).holds,
        [MemberHold::NoReplacement { node: 3 }]
    );
}

#[test]
fn the_dead_lose_their_votes_where_the_rest_survives_more_without_them() {
    let view = group(&[1, 2, 3, 4], &[]).with(4, Life::Dead);
    assert_eq!(steps(view), [MemberStep::Demote { node: 4 }]);
    let view = group(&[1, 2, 3, 4, 5], &[])
        .with(4, Life::Dead)
        .with(5, Life::Dead);
    assert_eq!(settle(view).1.voters(), set(&[1, 2, 3]));
    let view = group(&[1, 2, 3, 4, 5], &[]).with(5, Life::Dead);
    assert_eq!(steps(view), []);
}

#[test]
fn whoever_leaves_gives_up_the_vote_first_and_a_leader_its_lead() {
    let view = group(&[1, 2, 3], &[4]);
    let plan = asked(&view, MemberChange::Remove { node: 1 }).unwrap();
    assert_eq!(
        plan.steps,
        [
            MemberStep::HandOver { to: 2 },
            MemberStep::Exchange {
                promote: 4,
                demote: 1
            },
            MemberStep::RemoveLearner { node: 1 },
            MemberStep::Forget { node: 1 },
        ]
    );
    assert_eq!(plan.voters_after, set(&[2, 3, 4]));
    let alone = asked(&group(&[1], &[2]), MemberChange::Remove { node: 1 }).unwrap();
    assert_eq!(
        alone.steps[..2],
        [MemberStep::Promote { node: 2 }, MemberStep::HandOver { to: 2 }]
    );
    assert_eq!(
        code(&group(&[1], &[]), MemberChange::Remove { node: 1 }),
        "no-successor"
    );
    let view = group(&[1, 2], &[]).with(2, Life::Silent);
    assert_eq!(code(&view, MemberChange::Remove { node: 2 }), "no-quorum");
}

#[test]
fn every_plan_shows_the_voters_before_and_after() {
    let check = |view: &View, change, before, after| {
        let (plan, _) = plan(view, &POLICY, Some(change), Some("by name")).unwrap();
        let shown = |quorum: QuorumState| (quorum.voters, quorum.live, quorum.needed);
        assert_eq!(
            (shown(plan.before), shown(plan.after)),
            (before, after),
            "{change:?}"
        );
    };
    let four = group(&[1, 2, 3, 4], &[5]).with(4, Life::Silent);
    let five = (5, 4, 3);
    check(&four, MemberChange::Promote { node: 5 }, (4, 3, 3), five);
    // Whoever leaves or observes makes room for the learner.
    check(&four, MemberChange::Demote { node: 4 }, (4, 3, 3), (4, 4, 3));
    check(&four, MemberChange::Remove { node: 4 }, (4, 3, 3), (4, 4, 3));
    let three = group(&[1, 2, 3], &[]).with(3, Life::Silent);
    check(&three, MemberChange::Demote { node: 3 }, (3, 2, 2), (2, 2, 2));
    check(&three, MemberChange::Remove { node: 3 }, (3, 2, 2), (2, 2, 2));
    check(&three, MemberChange::Replace { node: 3 }, (3, 2, 2), (2, 2, 2));
    let add = MemberChange::Add { node: 4, role: None };
    check(&three, add, (3, 2, 2), (3, 2, 2));
}

#[test]
fn a_removal_that_no_further_failure_would_survive_needs_a_reason() {
    let view = group(&[1, 2, 3], &[]);
    let remove = MemberChange::Remove { node: 3 };
    let refused = asked(&view, remove).unwrap_err();
    assert_eq!((refused.code(), refused.can_force()), ("loses-tolerance", true));
    assert!(refused.to_string().contains("2 of 2 voters live"), "{refused}");
    let (plan, _) = plan(&view, &POLICY, Some(remove), Some("the host is sold")).unwrap();
    assert_eq!(plan.voters_after, set(&[1, 2]));
    // One that is dead is no loss.
    let view = group(&[1, 2, 3], &[]).with(3, Life::Silent);
    assert!(asked(&view, remove).is_ok());
    // What the change itself could not be agreed on without is never done.
    let view = group(&[1, 2, 3], &[]).with(2, Life::Silent);
    let refused = asked(&view, remove).unwrap_err();
    assert_eq!((refused.code(), refused.can_force()), ("loses-quorum", false));
    let forced = super::plan(&view, &POLICY, Some(remove), Some("by name")).unwrap_err();
    assert_eq!(forced.code(), "loses-quorum");
}

#[test]
fn a_lost_disk_is_shut_out_and_its_successor_starts_as_a_learner() {
    let view = group(&[1, 2, 3], &[]);
    let replace = MemberChange::Replace { node: 3 };
    assert_eq!(code(&view, replace), "member-lives");
    assert_eq!(code(&view, MemberChange::Replace { node: 1 }), "member-leads");
    let mut view = view.with(3, Life::Silent);
    assert_eq!(code(&view, MemberChange::Replace { node: 9 }), "unknown-member");
    // An empty disk under a known id is noticed and changes nothing.
    view.seated.get_mut(&3).unwrap().health = Health {
        silent: Duration::ZERO,
        lag: Some(0),
        proven: Some(instance(3, 1)),
    };
    let differs = next(&view, &POLICY);
    assert_eq!(differs.step, None);
    assert!(matches!(differs.holds[..], [MemberHold::Differs { node: 3, .. }]));
    assert_eq!(
        view.records.clone().apply(join(3, 1, "", MemberRole::Auto)),
        Ok(())
    );
    let view = view.joined(3, "", MemberRole::Auto);
    let refused = view.records.clone().apply(join(3, 1, "", MemberRole::Auto));
    assert!(
        matches!(refused, Err(refusal) if refusal.code == "instance-differs" && refusal.message.contains("member replace 3"))
    );

    let (plan, command) = plan(&view, &POLICY, Some(replace), None).unwrap();
    assert_eq!(
        plan.steps,
        [
            MemberStep::Demote { node: 3 },
            MemberStep::RemoveLearner { node: 3 }
        ]
    );
    assert_eq!(plan.holds, [MemberHold::Awaited { node: 3 }]);
    let (_, view) = settle(view.told(command.unwrap()));
    let back = view.records.clone().apply(join(3, 0, "", MemberRole::Auto));
    assert!(matches!(back, Err(refusal) if refusal.code == "instance-fenced"));
    let (steps, view) = settle(view.told(join(3, 1, "", MemberRole::Auto)));
    assert_eq!(
        steps,
        [
            MemberStep::AddLearner { node: 3 },
            MemberStep::Promote { node: 3 }
        ]
    );
    assert_eq!(view.seated[&3].instance, Some(instance(3, 1)));
}

#[test]
fn a_removed_id_stays_out_until_it_is_let_in_with_another_disk() {
    let view = group(&[1, 2, 3], &[4]).told(MemberCommand::Leave {
        node: 4,
        instance: Some(instance(4, 0)),
        forced: None,
    });
    let (steps, view) = settle(view);
    assert_eq!(
        steps,
        [
            MemberStep::RemoveLearner { node: 4 },
            MemberStep::Forget { node: 4 }
        ]
    );
    assert_eq!(view.records.removed(), set(&[4]));
    let refused = view.records.clone().apply(join(4, 1, "", MemberRole::Auto));
    assert!(matches!(refused, Err(refusal) if refusal.code == "member-removed"));
    let (plan, command) = plan(
        &view,
        &POLICY,
        Some(MemberChange::Add { node: 4, role: None }),
        None,
    )
    .unwrap();
    assert_eq!(
        (plan.steps, plan.holds),
        (vec![], vec![MemberHold::Awaited { node: 4 }])
    );
    let view = view.told(command.unwrap());
    let old_disk = view.records.clone().apply(join(4, 0, "", MemberRole::Auto));
    assert!(matches!(old_disk, Err(refusal) if refusal.code == "instance-fenced"));
    assert_eq!(
        view.records.clone().apply(join(4, 1, "", MemberRole::Auto)),
        Ok(())
    );
    assert_eq!(
        code(&view, MemberChange::Add { node: 1, role: None }),
        "already-member"
    );
}

#[test]
fn a_change_that_a_leader_left_half_done_is_ended_before_anything_else() {
    let mut view = group(&[1, 2, 3], &[4, 5]);
    view.configs = vec![set(&[1, 2, 3]), set(&[2, 3, 4])];
    let (steps, after) = settle(view);
    assert_eq!(steps[0], MemberStep::FinishChange);
    // The leader lost its vote in it, and hands over.
    assert_eq!(steps[1], MemberStep::HandOver { to: 2 });
    assert_eq!(after.voters().len(), 5);
    let mut view = group(&[1, 2, 3], &[]).with(4, Life::Silent);
    view.configs = vec![set(&[1, 2]), set(&[1, 4])];
    assert!(matches!(
        next(&view, &POLICY).holds[..],
        [MemberHold::NoQuorum { .. }]
    ));
}

#[test]
fn members_that_never_said_are_bound_to_the_disk_they_come_with() {
    let mut view = group(&[1, 2, 3], &[]);
    for seated in view.seated.values_mut() {
        seated.instance = None;
    }
    view.seated.get_mut(&3).unwrap().health.proven = None;
    assert_eq!(
        steps(view.clone()),
        [MemberStep::Bind { node: 1 }, MemberStep::Bind { node: 2 }]
    );
    let memory = Policy {
        bound: false,
        ..POLICY
    };
    assert_eq!(next(&view, &memory).step, None);
    let refused = plan(&view, &memory, Some(MemberChange::Replace { node: 3 }), None);
    assert_eq!(refused.unwrap_err().code(), "member-not-bound");
}

#[test]
fn the_records_are_bounded_and_forget_the_oldest() {
    let mut records = Records::default();
    for node in 1..=MAX_MEMBERS as u64 {
        let known = MemberCommand::Order {
            node,
            role: MemberRole::Auto,
        };
        records.apply(known).unwrap();
    }
    let refused = records.apply(join(200, 0, "", MemberRole::Auto)).unwrap_err();
    assert_eq!(refused.code, "too-many-members");
    for node in 1..=2_000_u64 {
        records.apply(MemberCommand::Forget { node }).unwrap();
    }
    assert_eq!(records.removed().len(), 1_024);
    assert!(!records.is_removed(976) && records.is_removed(977));
    let zone = "z".repeat(300);
    let refused = records
        .apply(join(5_000, 0, &zone, MemberRole::Auto))
        .unwrap_err();
    assert_eq!(refused.code, "member-text-too-long");
}
