//! Joining, leaving, crashing, restarting, splitting and merging.

use std::println;

use super::*;
use crate::MemberEvent;

fn doubts(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Doubted | Verdict::Dead)
}

#[test]
fn a_cluster_forms_from_one_seed_and_stays_quiet() {
    for (count, limit) in [(2, 2), (3, 2), (50, 5)] {
        let mut cluster = Cluster::new(count, 1);
        let took = cluster.until(limit, Cluster::all_agree);
        assert!(took.is_some(), "{count} members did not form in {limit} s");
        cluster.run(secs(10));
        cluster.news.clear();
        cluster.load = super::super::Load::default();
        cluster.run(secs(60));
        let load = cluster.load.bytes / 60 / u64::from(count);
        println!("{count} members idle: {load} B/s each, {:?}", cluster.load);
        assert!(load <= 400, "{load} B/s sent by each of {count} idle members");
        assert!(cluster.news.is_empty(), "{:?}", cluster.news);
        assert_eq!(cluster.swim(1).member(2).unwrap().meta, b"node 2");
    }
}

#[test]
fn a_crash_is_known_to_all_soon() {
    for (count, median, most) in [
        (2, 7_000, 8_000),
        (3, 4_000, 6_000),
        (5, 4_000, 8_000),
        (50, 4_500, 9_000),
    ] {
        let mut times = Vec::new();
        for seed in 0..7 {
            let mut cluster = Cluster::converged(count, 100 + seed);
            cluster.crash(count);
            let took = cluster.until(40, |c| c.all_see(count, MemberState::Dead));
            times.push(took.expect("the crash is noticed").as_millis());
            assert_eq!(cluster.evictions(), 0);
        }
        times.sort_unstable();
        println!("{count} members: all know within {times:?} ms");
        assert!(times[3] <= median && times[6] <= most);
    }
}

#[test]
fn a_hint_makes_a_crash_known_sooner_and_hurts_no_one() {
    let mut cluster = Cluster::converged(3, 7);
    cluster.command(1, Command::Hint(2));
    cluster.run(secs(1));
    assert!(cluster.news.is_empty(), "{:?}", cluster.news);
    cluster.crash(3);
    cluster.command(1, Command::Hint(3));
    cluster.command(1, Command::Hint(99));
    let took = cluster.until(10, |c| c.all_see(3, MemberState::Dead)).unwrap();
    assert!(took < secs(3), "{took:?}");
    let mut events = Vec::new();
    cluster.tell(1, |member, _| events = member.take_events());
    let confirmed = |event: &MemberEvent| matches!(event, MemberEvent::Confirmed(view) if view.node == 3);
    assert!(events.iter().any(confirmed), "{events:?}");
}

#[test]
fn all_others_crashing_at_once_is_noticed() {
    let mut cluster = Cluster::converged(5, 3);
    for host in 2..=5 {
        cluster.crash(host);
    }
    let all_dead = |c: &Cluster| (2..=5).all(|node| c.state(1, node) == Some(MemberState::Dead));
    assert!(cluster.until(90, all_dead).is_some());
}

#[test]
fn a_restart_supersedes_at_once() {
    let mut cluster = Cluster::converged(3, 11);
    cluster.crash(3);
    cluster.run(secs(1));
    cluster.launch(3, identity(3, 2));
    let knows = |c: &Cluster, observer| {
        let view = c.swim(observer).member(3).unwrap();
        view.state == MemberState::Alive && view.boot_epoch.0 == 2 && view.meta == b"node 3"
    };
    let took = cluster.until(5, |c| knows(c, 1) && knows(c, 2)).unwrap();
    assert!(took <= secs(1), "{took:?}");
    cluster.run(secs(30));
    assert!(cluster.all_agree());
    assert_eq!(cluster.evictions(), 0, "the earlier start is not buried any more");
}

#[test]
fn a_restart_after_death_is_welcome() {
    let mut cluster = Cluster::converged(5, 12);
    cluster.crash(2);
    assert!(cluster.until(10, |c| c.all_see(2, MemberState::Dead)).is_some());
    cluster.run(secs(60));
    cluster.launch(2, identity(2, 2));
    assert!(cluster.until(2, Cluster::all_agree).is_some());
}

#[test]
fn a_whole_cluster_restarts() {
    let mut cluster = Cluster::converged(10, 13);
    for host in 1..=10 {
        cluster.crash(host);
    }
    for host in 1..=10 {
        cluster.launch(host, identity(host.into(), 2));
        cluster.run(secs(1));
    }
    assert!(cluster.until(10, Cluster::all_agree).is_some());
}

#[test]
fn halves_merge_without_new_identities() {
    for (count, seed) in [(2, 21), (3, 22), (20, 23)] {
        let mut cluster = Cluster::converged(count, seed);
        cluster.split(|host| host % 2);
        cluster.run(secs(120));
        assert_eq!(cluster.state(1, 2), Some(MemberState::Dead));
        cluster.merge();
        let deaths = cluster.evictions();
        let took = cluster.until(60, Cluster::all_agree).expect("the halves merge");
        println!("{count} members merged in {took:?}");
        assert!(took <= secs(30));
        assert_eq!(cluster.evictions(), deaths, "nobody dies of a merge");
        assert!((1..=count).all(|host| cluster.swim(host).incarnation().boot_epoch().0 == 1));
    }
}

#[test]
fn who_leaves_is_not_suspected() {
    for count in [2, 3, 20] {
        let mut cluster = Cluster::converged(count, 31);
        cluster.command(count, Command::Leave);
        let took = cluster
            .until(5, |c| c.machine(count).unwrap().has_left())
            .unwrap();
        assert!(took <= secs(3));
        cluster.crash(count);
        assert!(
            cluster
                .until(5, |c| c.all_see(count, MemberState::Left))
                .is_some()
        );
        cluster.run(secs(30));
        assert!(cluster.all_see(count, MemberState::Left));
        assert_eq!(
            cluster.count(|verdict, _| doubts(verdict)),
            0,
            "{:?}",
            cluster.news
        );
    }
}

#[test]
fn a_lonely_member_may_leave() {
    let mut cluster = Cluster::new(1, 32);
    cluster.run(secs(5));
    cluster.command(1, Command::Leave);
    assert!(cluster.until(1, |c| c.machine(1).unwrap().has_left()).is_some());
}

#[test]
fn the_dead_are_forgotten_everywhere_after_a_day() {
    let mut cluster = Cluster::with_period(3, 33, 20_000);
    assert!(cluster.until(600, Cluster::all_agree).is_some());
    cluster.crash(3);
    cluster.run(secs(23 * 3600));
    assert!(cluster.all_see(3, MemberState::Dead));
    // A newcomer late in the day does not prolong the memory.
    cluster.launch(4, identity(4, 1));
    cluster.run(secs(600));
    assert!(cluster.all_see(3, MemberState::Dead));
    cluster.run(secs(3600));
    assert!(
        [1, 2, 4]
            .iter()
            .all(|host| cluster.swim(*host).member(3).is_none())
    );
    assert!(cluster.all_agree());
}
