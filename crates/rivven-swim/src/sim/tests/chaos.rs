//! Loss, pauses, and everything at once.

use std::println;

use super::*;

#[test]
fn loss_of_a_tenth_evicts_nobody() {
    for seed in 0..2 {
        let mut cluster = Cluster::converged(20, 40 + seed);
        cluster.loss = 100;
        cluster.run(secs(600));
        let suspicions = cluster.count(|verdict, _| verdict == Verdict::Doubted);
        println!(
            "20 members, 600 s, 10 % loss: {suspicions} suspicions seen, {:?}",
            cluster.load
        );
        assert_eq!(cluster.evictions(), 0);
        cluster.loss = 0;
        assert!(
            cluster.until(20, Cluster::all_agree).is_some(),
            "views stay different"
        );
    }
}

#[test]
fn frozen_members_come_back_and_accuse_nobody() {
    for frozen_for in [1, 3, 30] {
        let mut cluster = Cluster::converged(12, 14);
        for host in 1..=4 {
            cluster.freeze(host);
        }
        cluster.run(secs(frozen_for));
        for host in 1..=4 {
            cluster.resume(host);
        }
        let agreed = cluster.until(40, Cluster::all_agree);
        assert!(agreed.is_some(), "frozen for {frozen_for} s");
        let wrong = cluster.count(|verdict, subject| verdict == Verdict::Dead && subject > 4);
        assert_eq!(wrong, 0, "a running member was declared dead");
        let accused = cluster.news.iter().filter(|news| news.observer <= 4);
        assert_eq!(accused.filter(|news| news.verdict == Verdict::Dead).count(), 0);
        let epochs = |node| cluster.swim(12).member(node).unwrap().boot_epoch.0;
        assert!((1..=12).all(|node| epochs(node) == 1), "no new identities");
    }
}

/// Crashes, restarts, freezes, splits and loss in any order; then quiet, and one view of it all.
fn chaos(seed: u64) {
    let mut cluster = Cluster::converged(10, seed);
    cluster.loss = 50;
    let mut epochs = [1; 11];
    let mut dice = crate::rng::Rng::new(seed);
    for _ in 0..40 {
        let host = Host::try_from(1 + dice.below(10)).unwrap();
        match dice.below(8) {
            0 => cluster.crash(host),
            1 => cluster.freeze(host),
            2 => cluster.block(host),
            3 => cluster.resume(host),
            4 => cluster.split(|other| u32::from(other <= host)),
            5 => cluster.merge(),
            _ => {
                epochs[host as usize] += 1;
                cluster.launch(host, identity(host.into(), epochs[host as usize]));
            }
        }
        let pause = 1 + dice.below(8) as u64;
        cluster.run(secs(pause));
    }
    cluster.merge();
    cluster.loss = 0;
    for host in 1..=10 {
        cluster.resume(host);
        if !cluster.is_up(host) {
            cluster.launch(host, identity(host.into(), epochs[host as usize] + 1));
        }
    }
    let took = cluster.until(180, Cluster::all_agree);
    assert!(took.is_some(), "views stay different");
    cluster.run(secs(60));
    assert!(cluster.all_agree(), "and do not stay equal");
}

#[test]
fn after_any_trouble_views_become_one() {
    for seed in 0..12 {
        chaos(seed);
    }
}

#[test]
fn same_seed_same_story() {
    let story = |seed| {
        let mut cluster = Cluster::new(8, seed);
        cluster.loss = 200;
        cluster.run(secs(60));
        (cluster.sim.news, cluster.sim.load)
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6));
}
