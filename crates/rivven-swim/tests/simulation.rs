//! The protocol in a simulated network: what members know, and when.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail loudly, and their numbers are small"
)]

mod sim;

use rivven_swim::{Command, MemberEvent, MemberState, NodeId};
use sim::{SECOND, Sim, identity};

fn seconds(micros: u64) -> f64 {
    micros as f64 / SECOND as f64
}

#[test]
fn a_cluster_forms_from_one_seed_and_stays_quiet() {
    for (count, limit) in [(2, 2), (3, 2), (50, 5)] {
        let mut sim = Sim::new(count, 1);
        let took = sim.run_until(limit, Sim::all_agree);
        assert!(took.is_some(), "{count} members did not form in {limit} s");
        sim.run(10);
        (sim.events, sim.bytes, sim.datagrams) = (Vec::new(), 0, 0);
        sim.run(60);
        let load = sim.bytes / 60 / count;
        println!(
            "{count} members idle: {load} B/s each, {} datagrams/s",
            sim.datagrams / 60 / count
        );
        assert!(load <= 400, "{load} B/s sent by each of {count} idle members");
        assert!(sim.events.is_empty(), "{:?}", sim.events);
        let meta = sim.swim(1).member(2).unwrap().meta;
        assert_eq!(meta, b"node 2");
    }
}

#[test]
fn a_crash_is_known_to_all_soon() {
    for (count, limit) in [(2, 8_000), (3, 4_500), (5, 4_500), (20, 6_000), (50, 6_500)] {
        let mut worst = 0;
        for seed in 0..5 {
            let mut sim = Sim::converged(count, 100 + seed);
            sim.crash(count);
            let took = sim.run_until(40, |sim| sim.all_see(count, MemberState::Dead));
            worst = worst.max(took.expect("the crash is noticed") / 1000);
            assert_eq!(sim.evictions(), 0);
        }
        println!("{count} members: all know within {worst} ms");
        assert!(worst <= limit, "{count} members took {worst} ms");
    }
}

#[test]
fn a_hint_makes_a_crash_known_sooner_and_hurts_no_one() {
    let mut sim = Sim::converged(3, 7);
    sim.command(1, Command::Hint(2));
    sim.run(1);
    assert!(sim.events.is_empty(), "{:?}", sim.events);
    sim.crash(3);
    sim.command(1, Command::Hint(3));
    sim.command(1, Command::Hint(99));
    let took = sim
        .run_until(10, |sim| sim.all_see(3, MemberState::Dead))
        .unwrap();
    assert!(took < 3 * SECOND, "{}", seconds(took));
    let confirmed = |event: &MemberEvent| matches!(event, MemberEvent::Confirmed(view) if view.node == 3);
    assert!(
        sim.events
            .iter()
            .any(|(_, observer, event)| *observer == 1 && confirmed(event))
    );
}

#[test]
fn all_others_crashing_at_once_is_noticed() {
    let mut sim = Sim::converged(5, 3);
    for node in 2..=5 {
        sim.crash(node);
    }
    let all_dead = |sim: &Sim| (2..=5).all(|node| sim.state(1, node) == Some(MemberState::Dead));
    assert!(sim.run_until(60, all_dead).is_some());
}

#[test]
fn loss_of_a_tenth_evicts_nobody() {
    for seed in 0..2 {
        let mut sim = Sim::converged(20, 40 + seed);
        sim.loss = 100;
        sim.run(600);
        let suspicions = sim
            .events
            .iter()
            .filter(|(_, _, event)| matches!(event, MemberEvent::Suspect(_)))
            .count();
        println!("20 members, 600 s, 10 % loss: {suspicions} suspicions seen");
        assert_eq!(sim.evictions(), 0);
        sim.loss = 0;
        assert!(
            sim.run_until(20, Sim::all_agree).is_some(),
            "views stay different"
        );
    }
}

#[test]
fn a_restart_supersedes_at_once() {
    let mut sim = Sim::converged(3, 11);
    sim.crash(3);
    sim.run(1);
    sim.start(identity(3, 2));
    let knows = |sim: &Sim, observer: NodeId| {
        let view = sim.swim(observer).member(3).unwrap();
        view.state == MemberState::Alive && view.boot_epoch.0 == 2 && view.meta == b"node 3"
    };
    let took = sim.run_until(5, |sim| knows(sim, 1) && knows(sim, 2)).unwrap();
    assert!(took <= SECOND, "{}", seconds(took));
    sim.run(30);
    assert!(sim.all_agree());
    assert_eq!(sim.evictions(), 0, "the earlier start is not buried any more");
}

#[test]
fn a_restart_after_death_is_welcome() {
    let mut sim = Sim::converged(5, 12);
    sim.crash(2);
    assert!(
        sim.run_until(10, |sim| sim.all_see(2, MemberState::Dead))
            .is_some()
    );
    sim.run(60);
    sim.start(identity(2, 2));
    assert!(sim.run_until(2, Sim::all_agree).is_some());
}

#[test]
fn a_whole_cluster_restarts() {
    let mut sim = Sim::converged(10, 13);
    for node in 1..=10 {
        sim.crash(node);
    }
    for node in 1..=10 {
        sim.start(identity(node, 2));
        sim.run(1);
    }
    assert!(sim.run_until(10, Sim::all_agree).is_some());
}

#[test]
fn frozen_members_come_back_and_accuse_nobody() {
    for frozen_for in [1, 3, 30] {
        let mut sim = Sim::converged(12, 14);
        for node in 1..=4 {
            sim.freeze(node);
        }
        sim.run(frozen_for);
        for node in 1..=4 {
            sim.thaw(node);
        }
        let thawed = sim.now;
        assert!(
            sim.run_until(40, Sim::all_agree).is_some(),
            "frozen for {frozen_for} s"
        );
        let accuses_running = |(at, observer, event): &(u64, NodeId, MemberEvent)| {
            let own = *observer <= 4 && *at >= thawed;
            own && matches!(event, MemberEvent::Dead(view) if view.node > 4)
        };
        assert!(!sim.events.iter().any(accuses_running));
        let epochs = |node| sim.swim(12).member(node).unwrap().boot_epoch.0;
        assert!((1..=12).all(|node| epochs(node) == 1), "no new identities");
        let unaffected = |event: &MemberEvent| matches!(event, MemberEvent::Dead(view) if view.node > 4);
        assert!(!sim.events.iter().any(|(_, _, event)| unaffected(event)));
    }
}

#[test]
fn halves_merge_without_new_identities() {
    for (count, seed) in [(2, 21), (3, 22), (20, 23)] {
        let mut sim = Sim::converged(count, seed);
        sim.split(|node| (node % 2) as u32);
        sim.run(120);
        let apart = |sim: &Sim| sim.state(1, 2) == Some(MemberState::Dead);
        assert!(apart(&sim));
        sim.merge();
        let deaths = sim.evictions();
        let took = sim.run_until(60, Sim::all_agree).expect("the halves merge");
        println!("{count} members merged in {} s", seconds(took));
        assert!(took <= 30 * SECOND);
        assert_eq!(sim.evictions(), deaths, "nobody dies of a merge");
        assert!((1..=count).all(|node| sim.swim(node).incarnation().boot_epoch().0 == 1));
    }
}

#[test]
fn who_leaves_is_not_suspected() {
    for count in [2, 3, 20] {
        let mut sim = Sim::converged(count, 31);
        sim.command(count, Command::Leave);
        let took = sim.run_until(5, |sim| sim.left(count)).unwrap();
        assert!(took <= 3 * SECOND);
        sim.crash(count);
        assert!(
            sim.run_until(5, |sim| sim.all_see(count, MemberState::Left))
                .is_some()
        );
        sim.run(30);
        assert!(sim.all_see(count, MemberState::Left));
        let doubt = |event: &MemberEvent| matches!(event, MemberEvent::Suspect(_) | MemberEvent::Dead(_));
        assert!(
            !sim.events.iter().any(|(_, _, event)| doubt(event)),
            "{:?}",
            sim.events
        );
    }
}

#[test]
fn a_lonely_member_may_leave() {
    let mut sim = Sim::new(1, 32);
    sim.run(5);
    sim.command(1, Command::Leave);
    assert!(sim.run_until(1, |sim| sim.left(1)).is_some());
}

#[test]
fn the_dead_are_forgotten_everywhere_after_a_day() {
    let mut sim = Sim::with_period(3, 33, 20_000);
    assert!(sim.run_until(600, Sim::all_agree).is_some());
    sim.crash(3);
    sim.run(23 * 3600);
    assert!(sim.all_see(3, MemberState::Dead));
    // A newcomer late in the day does not prolong the memory.
    sim.start(identity(4, 1));
    sim.run(600);
    assert!(sim.all_see(3, MemberState::Dead));
    sim.run(3600);
    assert!(
        [1, 2, 4]
            .iter()
            .all(|observer| sim.swim(*observer).member(3).is_none())
    );
    assert!(sim.all_agree());
}

/// Crashes, restarts, freezes, splits and loss in any order; then quiet, and one view of it all.
fn chaos(seed: u64) {
    let mut sim = Sim::converged(10, seed);
    sim.loss = 50;
    let mut epochs = [1; 11];
    let mut dice = seed;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 33) % sides
    };
    for _ in 0..40 {
        let node = 1 + roll(10);
        match roll(7) {
            0 => sim.crash(node),
            1 => sim.freeze(node),
            2 => sim.thaw_if_frozen(node),
            3 => sim.split(|other| u32::from(other <= node)),
            4 => sim.merge(),
            _ => {
                epochs[node as usize] += 1;
                sim.start(identity(node, epochs[node as usize]));
            }
        }
        sim.run(1 + roll(8));
    }
    sim.merge();
    sim.loss = 0;
    for node in 1..=10 {
        sim.thaw_if_frozen(node);
        if !sim.up().contains(&node) {
            sim.start(identity(node, epochs[node as usize] + 1));
        }
    }
    let took = sim.run_until(180, Sim::all_agree);
    assert!(took.is_some(), "views stay different");
    sim.run(60);
    assert!(sim.all_agree(), "and do not stay equal");
}

#[test]
fn after_any_trouble_views_become_one() {
    for seed in 0..6 {
        chaos(seed);
    }
}

#[test]
fn same_seed_same_story() {
    let story = |seed| {
        let mut sim = Sim::new(8, seed);
        sim.loss = 200;
        sim.run(60);
        (sim.events, sim.datagrams, sim.bytes)
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6));
}
