//! Many at once: restarts, joins, splits, news.

use std::println;

use super::*;

/// Everybody restarts while the old starts are remembered, some as dead.
#[test]
fn a_mass_restart_with_old_incarnations_remembered_ends_in_one_view() {
    for seed in 0..2 {
        let mut cluster = Cluster::converged(40, 110 + seed);
        for host in 30..=40 {
            cluster.crash(host);
        }
        assert!(
            cluster
                .until(30, |c| (30..=40).all(|gone| c.all_see(gone, MemberState::Dead)))
                .is_some()
        );
        // Within two seconds all restart, the first of them into views that are about to be lost.
        for host in 1..=40 {
            cluster.launch(host, identity(host.into(), 2));
            cluster.run(Duration::from_millis(50));
        }
        let took = cluster.until(15, Cluster::all_agree);
        println!("one view after {took:?}");
        assert!(took.is_some());
        cluster.run(secs(30));
        assert!(cluster.all_agree());
        assert_eq!(cluster.swim(1).member(35).unwrap().boot_epoch.0, 2);
    }
}

#[test]
fn a_crash_loop_of_one_member_leaves_its_newest_start() {
    let mut cluster = Cluster::converged(10, 120);
    for epoch in 2..=30 {
        cluster.launch(5, identity(5, epoch));
        cluster.run(Duration::from_millis(700));
        cluster.crash(5);
        cluster.run(Duration::from_millis(300));
    }
    cluster.launch(5, identity(5, 31));
    assert!(cluster.until(10, Cluster::all_agree).is_some());
    assert_eq!(cluster.swim(1).member(5).unwrap().boot_epoch.0, 31);
    assert_eq!(
        cluster.count(|verdict, subject| verdict == Verdict::Dead && subject != 5),
        0
    );
}

#[test]
fn two_nodes_that_are_split_meet_again() {
    for (seed, apart) in [(130, 3), (131, 20), (132, 300)] {
        let mut cluster = Cluster::converged(2, seed);
        cluster.split(|host| host);
        cluster.run(secs(apart));
        cluster.merge();
        let took = cluster.until(31, Cluster::all_agree);
        println!("split for {apart} s, met after {took:?}");
        assert!(took.is_some());
        assert!((1..=2).all(|host| cluster.swim(host).incarnation().boot_epoch().0 == 1));
    }
}

#[test]
fn sixty_members_form_at_once_although_packets_are_lost() {
    for loss in [0, 100] {
        let mut cluster = Cluster::new(60, 140);
        cluster.strict = false;
        cluster.loss = loss;
        let took = cluster.until(20, Cluster::all_agree);
        println!("formed after {took:?}");
        assert!(took.is_some(), "at {loss} permille");
        assert_eq!(cluster.evictions(), 0);
    }
}

#[test]
fn long_metadata_is_fetched_by_all_and_replaced_when_it_changes() {
    let mut cluster = Cluster::converged(10, 150);
    cluster.loss = 100;
    for version in 1..=3_u8 {
        let meta = vec![version; 4_096 - usize::from(version)];
        let owner = Host::from(version);
        cluster.tell(owner, |member, now| {
            member.swim_mut().set_meta(now, &meta).unwrap()
        });
        let known = |c: &Cluster| {
            c.up().all(|host| {
                c.swim(host)
                    .member(owner.into())
                    .is_some_and(|view| view.meta == meta)
            })
        };
        assert!(cluster.until(60, known).is_some(), "version {version}");
    }
    // A newcomer fetches all of them.
    cluster.launch(11, identity(11, 1));
    let lengths = |c: &Cluster| [1, 2, 3].map(|node| c.swim(11).member(node).map(|view| view.meta.len()));
    assert!(
        cluster
            .until(60, |c| lengths(c) == [Some(4_095), Some(4_094), Some(4_093)])
            .is_some()
    );
}

#[test]
fn a_broadcast_reaches_every_member_once() {
    let mut cluster = Cluster::converged(50, 160);
    cluster.loss = 50;
    for count in 0..10_u8 {
        cluster.tell(9, |member, now| {
            member.swim_mut().broadcast(now, &[count; 100]).unwrap()
        });
        cluster.run(Duration::from_millis(100));
    }
    cluster.run(secs(20));
    for host in (1..=50).filter(|host| *host != 9) {
        let mut bodies: Vec<u8> = cluster
            .machine(host)
            .unwrap()
            .messages()
            .iter()
            .map(|m| m.body[0])
            .collect();
        bodies.sort_unstable();
        assert_eq!(bodies, (0..10).collect::<Vec<_>>(), "at {host}");
    }
    assert!(
        cluster.machine(9).unwrap().messages().is_empty(),
        "not to whoever sent it"
    );
}
