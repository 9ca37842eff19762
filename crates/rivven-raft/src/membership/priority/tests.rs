//! Hand-overs by priority, over hours of time that is made up.

use super::*;
use crate::membership::{
    MemberRole,
    tests::{Life, POLICY, group, prefers},
};

const HOLD: Duration = POLICY.priority_hold;

const SECOND: Duration = Duration::from_secs(1);

/// Looks every 200 ms for so long, as the leader does; gives whom it would hand over to first, and after how long.
fn wanted(
    preference: &mut Preference,
    view: &View,
    now: &mut Instant,
    within: Duration,
) -> Option<(NodeId, Duration)> {
    let began = *now;
    while *now <= began + within {
        if let Some(node) = preference.choose(view, &POLICY, *now) {
            return Some((node, *now - began));
        }
        *now += Duration::from_millis(200);
    }
    None
}

fn check(view: &View, expected: Option<(NodeId, Duration)>) {
    let mut now = Instant::now();
    let found = wanted(&mut Preference::default(), view, &mut now, HOLD * 20);
    assert_eq!(found, expected, "{view:?}");
}

#[test]
fn leadership_goes_to_the_highest_priority_once_it_has_been_fit_for_a_while() {
    let view = group(&[1, 2, 3], &[]);
    check(&view, None);
    let view = prefers(prefers(view, 2, 150), 3, 200);
    check(&view, Some((3, HOLD)));
    check(&view.clone().with(3, Life::Behind), Some((2, HOLD)));
    check(&view.with(3, Life::Dead).with(2, Life::Silent), None);
}

#[test]
fn nobody_hands_over_to_an_equal_a_lower_or_one_that_does_not_vote() {
    check(&prefers(group(&[1, 2, 3], &[]), 1, 200), None);
    check(&prefers(group(&[1, 2, 3], &[]), 2, 99), None);
    check(&prefers(group(&[1, 2, 3], &[4]), 4, 500), None);
    let leaves = group(&[1, 2, 3], &[]).joined(3, "", MemberRole::Observer);
    check(&prefers(leaves, 3, 500), None);
}

#[test]
fn a_leader_of_priority_zero_leads_only_while_nobody_else_can() {
    let view = prefers(group(&[1, 2, 3], &[]), 1, 0);
    check(&view, Some((2, Duration::ZERO)));
    check(&view.clone().with(2, Life::Dead), Some((3, Duration::ZERO)));
    check(&view.clone().with(2, Life::Dead).with(3, Life::Behind), None);
    check(&prefers(prefers(view, 2, 0), 3, 0), None);
}

#[test]
fn whoever_lost_leadership_waits_before_it_leads_again() {
    let mut now = Instant::now();
    let mut preference = Preference::default();
    preference.follows(Some(2));
    preference.follows(None);
    // Node 1 is elected because node 2 died, or because somebody asked for it.
    let view = prefers(prefers(group(&[1, 2, 3], &[]), 2, 200), 3, 200);
    let found = wanted(&mut preference, &view, &mut now, HOLD * 4);
    assert_eq!(
        found,
        Some((3, HOLD)),
        "of two equals the one that did not break off"
    );
    let view = view.with(3, Life::Dead);
    let found = wanted(&mut preference, &view, &mut now, HOLD * 4);
    assert_eq!(
        found,
        Some((2, HOLD)),
        "which has been fit for twice the time by now"
    );
    // Priority 0 does not give leadership back to where it came from at once either.
    let mut preference = Preference::default();
    preference.follows(Some(2));
    let view = prefers(group(&[1, 2], &[]), 1, 0);
    let found = wanted(&mut preference, &view, &mut now, HOLD * 4);
    assert_eq!(found, Some((2, HOLD)));
}

#[test]
fn a_transfer_that_fails_is_not_repeated_at_once() {
    let mut now = Instant::now();
    let mut preference = Preference::default();
    let view = prefers(group(&[1, 2, 3], &[]), 2, 200);
    for doublings in 0..4 {
        let found = wanted(&mut preference, &view, &mut now, HOLD * 20);
        assert_eq!(found, Some((2, HOLD * 2_u32.pow(doublings))));
        preference.failed(2, now);
    }
}

/// A node of high priority that comes for `up`, takes the lead if it is given it, and dies. Counts the hand-overs.
fn flapping(up: Duration, down: Duration, hours: u32) -> u32 {
    let mut now = Instant::now();
    let end = now + MEMORY * hours;
    let mut preference = Preference::default();
    let (there, gone) = (
        prefers(group(&[1, 2, 3], &[]), 3, 200),
        prefers(group(&[1, 2, 3], &[]), 3, 200).with(3, Life::Dead),
    );
    let mut handed = 0;
    while now < end {
        let dies = now + up;
        if wanted(&mut preference, &there, &mut now, up).is_some() {
            handed += 1;
            preference.follows(Some(3));
        }
        now = dies;
        wanted(&mut preference, &gone, &mut now, down);
    }
    handed
}

#[test]
fn a_node_that_comes_and_goes_causes_no_churn() {
    assert_eq!(flapping(HOLD / 2, SECOND, 4), 0, "it never lives for long enough");
    for (up, down) in [(HOLD + SECOND, SECOND), (HOLD * 3, HOLD), (HOLD * 9, SECOND * 9)] {
        let flaps = MEMORY * 4 / u32::try_from((up + down).as_secs()).unwrap();
        let handed = flapping(up, down, 4);
        assert!(
            (1..=4).contains(&handed),
            "{handed} hand-overs in four hours of {} flaps",
            flaps.as_secs()
        );
    }
}
