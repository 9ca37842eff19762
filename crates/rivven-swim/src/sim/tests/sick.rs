//! Members that are blocked, deaf, lossy, mad or lying, and what the others make of them.

use std::println;

use super::*;
use crate::{Health, Identity, InstanceId, MemberEvent};

/// `hosts` cannot send or receive for `stop`, then can for `go`, and so on for two minutes.
fn block_in_turns(cluster: &mut Cluster, hosts: &[Host], stop: Duration, go: Duration) {
    let end = cluster.now() + secs(120);
    while cluster.now() < end {
        for host in hosts {
            cluster.block(*host);
        }
        cluster.run(stop);
        for host in hosts {
            cluster.resume(*host);
        }
        cluster.run(go);
    }
}

fn healthy_deaths(cluster: &Cluster, sick: &[Host]) -> usize {
    cluster.count(|verdict, subject| {
        verdict == Verdict::Dead && !sick.iter().any(|host| NodeId::from(*host) == subject)
    })
}

/// Lifeguard's evaluation (section V), smaller: blocked members must not have healthy ones declared dead.
#[test]
fn blocked_members_have_no_healthy_one_declared_dead() {
    for (stop_ms, go_ms) in [(2_000, 64), (8_000, 1_000), (16_000, 64), (32_000, 1_000)] {
        for count in [1, 6] {
            let mut cluster = Cluster::converged(24, 60 + u64::from(count));
            cluster.strict = false;
            let sick: Vec<Host> = (1..=count).collect();
            let (stop, go) = (Duration::from_millis(stop_ms), Duration::from_millis(go_ms));
            block_in_turns(&mut cluster, &sick, stop, go);
            assert_eq!(
                healthy_deaths(&cluster, &sick),
                0,
                "{count} of 24, {stop_ms}/{go_ms} ms"
            );
            assert!(cluster.until(60, Cluster::all_agree).is_some());
            assert!((1..=24).all(|host| cluster.swim(host).incarnation().boot_epoch().0 == 1));
        }
    }
}

/// How long until every healthy member has flagged `sick`: taken for degraded, or given up.
fn flagged_after(cluster: &mut Cluster, sick: Host) -> Option<Duration> {
    let node = NodeId::from(sick);
    let mut others: BTreeSet<Host> = cluster.up().filter(|host| *host != sick).collect();
    let begun = cluster.now();
    while !others.is_empty() && cluster.now().since(begun) < secs(60) {
        cluster.run(Duration::from_millis(100));
        let sim = &cluster.sim;
        others.retain(|host| {
            let member = sim.machine(*host).unwrap();
            !member.is_degraded(node) && member.state_of(node).is_some_and(MemberState::is_live)
        });
    }
    others.is_empty().then(|| cluster.now().since(begun))
}

/// Rapid's evaluation (section 7): 80 % loss on one member of many.
#[test]
fn a_member_that_loses_most_packets_is_flagged_and_takes_nobody_with_it() {
    for seed in 0..4 {
        let mut cluster = Cluster::converged(40, 70 + seed);
        cluster.strict = false;
        cluster.set_loss(30, 800, 800);
        let took = flagged_after(&mut cluster, 30);
        println!("flagged after {took:?}");
        assert!(took.is_some_and(|took| took <= secs(30)));
        cluster.run(secs(60));
        assert_eq!(healthy_deaths(&cluster, &[30]), 0);
        cluster.set_loss(30, 0, 0);
        assert!(cluster.until(60, Cluster::all_agree).is_some(), "it comes back");
        let good = |c: &Cluster| !(1..=40).any(|host| c.machine(host).unwrap().is_degraded(30));
        assert!(cluster.until(180, good).is_some(), "and is trusted again");
    }
}

/// Rapid's evaluation: one member of many hears nothing for 20 s out of 40.
#[test]
fn a_member_that_is_deaf_in_turns_is_flagged_and_takes_nobody_with_it() {
    let mut cluster = Cluster::converged(40, 80);
    cluster.strict = false;
    cluster.set_loss(30, 1_000, 0);
    let took = flagged_after(&mut cluster, 30);
    println!("flagged after {took:?}");
    assert!(took.is_some_and(|took| took <= secs(30)));
    for deaf in [false, true, false, true] {
        cluster.set_loss(30, if deaf { 1_000 } else { 0 }, 0);
        cluster.run(secs(20));
    }
    assert_eq!(healthy_deaths(&cluster, &[30]), 0);
    // It contradicts its death each time it hears again, and so it keeps its mark.
    cluster.set_loss(30, 0, 0);
    assert!(cluster.until(30, |c| c.all_see(30, MemberState::Alive)).is_some());
    let degraded = |c: &Cluster| {
        (1..=40)
            .filter(|host| c.machine(*host).unwrap().is_degraded(30))
            .count()
    };
    assert!(degraded(&cluster) > 20);
}

/// A member that loses so much that it doubts all, and all doubt it.
#[test]
fn one_sick_member_does_not_make_the_others_flap() {
    let mut cluster = Cluster::converged(30, 90);
    cluster.set_loss(7, 600, 600);
    cluster.run(secs(180));
    assert_eq!(healthy_deaths(&cluster, &[7]), 0);
    let by_anyone = |host: Host| (1..=30).any(|by| cluster.machine(by).unwrap().is_degraded(host.into()));
    let marked = (1..=30_u32).filter(|host| *host != 7 && by_anyone(*host));
    assert_eq!(marked.count(), 0, "only the sick member is marked");
    assert!(cluster.machine(1).unwrap().is_degraded(7));
}

/// `liar` tells all others, all the time, that everybody is dead.
#[test]
fn a_lying_member_can_have_nobody_declared_dead() {
    use crate::wire::{Claim, Item, MetaClaim, Payload, WireAddr};
    let mut cluster = Cluster::converged(12, 91);
    for _ in 0..200 {
        let liar = identity(12, 1);
        for victim in 1..12 {
            let known = cluster.swim(victim).incarnation();
            let claim = Claim {
                node: victim.into(),
                instance: identity(victim.into(), 1).instance,
                incarnation: known,
                state: MemberState::Dead,
                health: Health::Good,
                addr: WireAddr::new(socket_addr(victim)),
                gone_secs: 0,
                accusers: vec![1, 2, 3, 4],
                meta: MetaClaim::Unknown,
            };
            let mut payload = Payload::new(1_000);
            payload.push(&Item::Claim(claim));
            let bytes = payload.into_bytes();
            for told in (1..12).filter(|told| *told != victim) {
                cluster.tell(told, |member, now| {
                    member
                        .swim_mut()
                        .handle_datagram(now, socket_addr(12), liar, &bytes);
                });
            }
        }
        cluster.run(Duration::from_millis(500));
    }
    assert_eq!(cluster.evictions(), 0);
    assert!(cluster.until(30, Cluster::all_agree).is_some());
}

/// A member that says something else of its view each time costs the others little.
#[test]
fn a_digest_that_never_agrees_is_asked_about_less_and_less() {
    use crate::wire::{Item, Payload, Ping};
    let mut cluster = Cluster::converged(30, 92);
    let mad = identity(30, 1);
    cluster.crash(30);
    cluster.load = super::super::Load::default();
    for second in 0..300_u64 {
        // It goes on to ping host 1 with a digest that nobody has.
        let mut payload = Payload::new(1_000);
        payload.push(&Item::Ping(Ping {
            seq: 1,
            target: 1,
            digest: second.to_le_bytes(),
        }));
        let bytes = payload.into_bytes();
        cluster.tell(1, |member, now| {
            member
                .swim_mut()
                .handle_datagram(now, socket_addr(30), mad, &bytes)
        });
        cluster.run(secs(1));
    }
    let asked = cluster.swim(1).pulls_begun();
    println!("{asked} comparisons in 300 s");
    assert!((1..=20).contains(&asked), "{asked} comparisons");
}

#[test]
fn an_address_that_another_member_takes_over_does_not_keep_the_old_one_alive() {
    let mut cluster = Cluster::converged(5, 93);
    cluster.crash(5);
    // Another node, on the host and so at the address of the one that died.
    cluster.launch(5, identity(55, 1));
    assert!(
        cluster
            .until(20, |c| (1..=4).all(|o| c.state(o, 5) == Some(MemberState::Dead)))
            .is_some()
    );
    assert!((1..=4).all(|observer| cluster.state(observer, 55) == Some(MemberState::Alive)));
    assert_eq!(cluster.state(5, 5), Some(MemberState::Dead));
}

#[test]
fn an_id_that_is_used_twice_is_an_event_for_both_and_the_first_one_stays() {
    let mut cluster = Cluster::converged(5, 94);
    let twin = Identity {
        instance: InstanceId::from_bytes([99; 16]),
        ..identity(3, 7)
    };
    cluster.strict = false;
    cluster.launch(6, twin);
    cluster.run(secs(20));
    let conflict = |cluster: &mut Cluster, host| {
        let mut events = Vec::new();
        cluster.tell(host, |member, _| events = member.take_events());
        let about = |event: &MemberEvent| matches!(event, MemberEvent::Conflict { node: 3, .. });
        events.iter().any(about)
    };
    assert!(conflict(&mut cluster, 6), "the second one learns of it");
    assert!(
        (1..=2).any(|host| conflict(&mut cluster, host)),
        "and so do members"
    );
    for observer in [1, 2, 4, 5] {
        let view = cluster.swim(observer).member(3).unwrap();
        assert_eq!((view.state, view.boot_epoch.0), (MemberState::Alive, 1));
        assert_eq!(view.addr, socket_addr(3));
    }
}
