//! Tests of the machine by hand-made datagrams.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    BootEpoch, Health, MAX_DATAGRAM_LEN, MemberState, PeerAddr, SwimConfig,
    wire::{Ack, Claim, Compare, MetaClaim, PADDED_REQUEST_LEN, Payload, Ping, PingReq, Sync, WireAddr},
};

const ME: NodeId = 1;

fn addr(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node.to_le_bytes()[0]], 7946))
}

fn identity(node: NodeId, epoch: u64) -> Identity {
    Identity {
        node,
        instance: InstanceId::from_bytes([node.to_le_bytes()[0]; 16]),
        boot_epoch: BootEpoch(epoch),
    }
}

fn incarnation(epoch: u64, refutations: u64) -> Incarnation {
    (0..refutations).fold(Incarnation::first(BootEpoch(epoch)), |i, _| i.refuted())
}

fn config() -> SwimConfig {
    SwimConfig {
        bind_addr: PeerAddr::from(addr(ME)),
        known_peers: Vec::new(),
        protocol_period_ms: 1_000,
        suspect_timeout_ms: 5_000,
    }
}

fn machine(bound: SocketAddr) -> Swim {
    let settings = Settings::new(&config(), bound).unwrap();
    Swim::new(settings, identity(ME, 1), b"me", Time::ZERO, 1).unwrap()
}

fn claim(node: NodeId, incarnation: Incarnation, state: MemberState) -> Claim<'static> {
    Claim {
        node,
        instance: identity(node, 0).instance,
        incarnation,
        state,
        health: Health::Good,
        addr: WireAddr::new(addr(node)),
        gone_secs: 0,
        accusers: Vec::new(),
        meta: if state.is_live() {
            MetaClaim::Inline(b"meta")
        } else {
            MetaClaim::Unknown
        },
    }
}

fn payload(items: &[Item<'_>]) -> Vec<u8> {
    let mut payload = Payload::new(1_400);
    for item in items {
        payload.push(item);
    }
    payload.into_bytes()
}

/// `swim` gets `items` from member 9.
fn tell(swim: &mut Swim, items: &[Item<'_>]) {
    swim.handle_datagram(Time::ZERO, addr(9), identity(9, 1), &payload(items));
}

fn tell_claims(swim: &mut Swim, claims: &[(NodeId, Incarnation, MemberState)]) {
    for (node, incarnation, state) in claims {
        tell(swim, &[Item::Claim(claim(*node, *incarnation, *state))]);
    }
}

fn events(swim: &mut Swim) -> Vec<Event> {
    core::iter::from_fn(|| swim.poll_event()).collect()
}

/// Every datagram that waits, with its length, as `(to, length, has an item that matches)`.
fn sent(swim: &mut Swim, matches: impl Fn(&Item<'_>) -> bool) -> Vec<(SocketAddr, usize, bool)> {
    let mut bytes = Vec::new();
    let mut all = Vec::new();
    while let Some(transmit) = swim.poll_transmit(&mut bytes) {
        let items = wire::decode(&bytes, MAX_DATAGRAM_LEN).unwrap();
        let (Transmit::Datagram { to } | Transmit::Knock { to, .. }) = transmit else {
            continue;
        };
        all.push((to, bytes.len(), items.iter().any(&matches)));
    }
    all
}

/// Lets time pass, in which nothing is heard.
fn pass(swim: &mut Swim, seconds: u64) {
    let end = Time::from_micros(seconds * 1_000_000);
    while let Some(at) = swim.poll_timeout().filter(|at| *at < end) {
        swim.handle_timeout(at);
        while swim.transmits.pop_front().is_some() {}
    }
}

fn standing(swim: &Swim, node: NodeId) -> Option<(u64, MemberState)> {
    let view = swim.member(node)?;
    Some((view.incarnation.refutations(), view.state))
}

use MemberState::{Alive, Dead, Left, Suspect};

#[test]
fn nothing_old_comes_back() {
    let mut swim = machine(addr(ME));
    let steps = [
        ((2, incarnation(1, 1), Alive), (1, Alive)),
        ((2, incarnation(1, 1), Dead), (1, Suspect)),
        ((2, incarnation(1, 10), Dead), (10, Suspect)),
        ((2, incarnation(1, 2), Alive), (10, Suspect)),
        ((2, incarnation(1, 10), Alive), (10, Suspect)),
        ((2, incarnation(1, 10), Left), (10, Left)),
        ((2, incarnation(1, 10), Dead), (10, Left)),
        ((2, incarnation(1, 11), Alive), (11, Alive)),
        ((2, incarnation(0, 99), Dead), (11, Alive)),
    ];
    for (told, expected) in steps {
        tell_claims(&mut swim, &[told]);
        assert_eq!(standing(&swim, 2), Some(expected), "after {told:?}");
    }
    tell_claims(&mut swim, &[(2, incarnation(2, 0), Alive)]);
    assert_eq!(standing(&swim, 2), Some((0, Alive)), "a restart supersedes");
}

/// The way a dead member came back in another implementation: death at a later incarnation was taken for
/// the death of the one known, and an earlier life then looked like news.
#[test]
fn a_later_death_is_not_undone_by_an_earlier_life() {
    let mut swim = machine(addr(ME));
    let known = [
        (2, incarnation(1, 1), Alive),
        (2, incarnation(1, 1), Dead),
        (2, incarnation(1, 10), Dead),
    ];
    tell_claims(&mut swim, &known);
    pass(&mut swim, 30);
    assert_eq!(standing(&swim, 2), Some((10, Dead)));
    tell_claims(&mut swim, &[(2, incarnation(1, 2), Alive)]);
    assert_eq!(standing(&swim, 2), Some((10, Dead)));
    tell_claims(&mut swim, &[(2, incarnation(1, 11), Alive)]);
    assert_eq!(standing(&swim, 2), Some((11, Alive)));
}

#[test]
fn only_this_node_raises_its_incarnation_and_only_to_contradict() {
    let mut swim = machine(addr(ME));
    tell_claims(&mut swim, &[(ME, incarnation(1, 0), Alive)]);
    assert_eq!(swim.incarnation(), incarnation(1, 0));
    tell_claims(&mut swim, &[(ME, incarnation(1, 0), Suspect)]);
    assert_eq!(swim.incarnation(), incarnation(1, 1));
    tell_claims(&mut swim, &[(ME, incarnation(1, 0), Dead)]);
    assert_eq!(swim.incarnation(), incarnation(1, 1), "contradicted already");
    tell_claims(&mut swim, &[(ME, incarnation(1, 7), Dead)]);
    assert_eq!(swim.incarnation(), incarnation(1, 8));
    assert!(events(&mut swim).is_empty());
}

#[test]
fn lies_from_far_ahead_are_not_believed() {
    let mut swim = machine(addr(ME));
    let far = Incarnation::first(BootEpoch(u64::MAX));
    tell_claims(
        &mut swim,
        &[(2, incarnation(1, 0), Alive), (2, far, Dead), (3, far, Alive)],
    );
    assert_eq!(standing(&swim, 2), Some((0, Alive)));
    assert_eq!(standing(&swim, 3), None);
}

#[test]
fn a_suspect_is_told_and_its_answer_contradicts() {
    let mut swim = machine(addr(ME));
    let ping = Item::Ping(Ping {
        seq: 5,
        target: ME,
        digest: [0; 8],
    });
    tell(
        &mut swim,
        &[ping, Item::Claim(claim(ME, incarnation(1, 0), Suspect))],
    );
    let refutes = |item: &Item<'_>| matches!(item, Item::Claim(c) if c.node == ME && c.incarnation == incarnation(1, 1));
    assert!(
        sent(&mut swim, refutes)
            .iter()
            .any(|(to, _, found)| *to == addr(9) && *found)
    );
}

#[test]
fn another_data_directory_under_a_known_id_is_ignored_and_reported_once() {
    let mut swim = machine(addr(ME));
    tell_claims(&mut swim, &[(2, incarnation(1, 0), Alive)]);
    events(&mut swim);
    let impostor = Identity {
        instance: InstanceId::from_bytes([99; 16]),
        ..identity(2, 50)
    };
    let own = Claim {
        instance: impostor.instance,
        ..claim(2, incarnation(50, 0), Alive)
    };
    for _ in 0..3 {
        let bytes = payload(&[Item::Sync(Sync { seq: 1, after: None }), Item::Claim(own.clone())]);
        swim.handle_datagram(Time::ZERO, addr(8), impostor, &bytes);
    }
    let conflict = MemberEvent::Conflict {
        node: 2,
        known: identity(2, 0).instance,
        other: impostor.instance,
        addr: addr(8),
    };
    assert_eq!(events(&mut swim), [Event::Member(conflict)]);
    assert_eq!(swim.member(2).unwrap().boot_epoch, BootEpoch(1));
    // It gets its answer, and learns from it who has its id.
    assert_eq!(
        sent(&mut swim, |item| matches!(item, Item::Page(_)))
            .iter()
            .filter(|s| s.2)
            .count(),
        3
    );
}

#[test]
fn a_number_whose_disk_was_given_up_is_free_for_another_one() {
    let mut swim = machine(addr(ME));
    tell_claims(&mut swim, &[(2, incarnation(50, 3), Suspect)]);
    let (lost, newcomer) = (
        identity(2, 0).instance,
        Identity {
            instance: InstanceId::from_bytes([99; 16]),
            ..identity(2, 1)
        },
    );
    events(&mut swim);
    swim.command(Time::ZERO, Command::Forget(2, newcomer.instance));
    assert!(swim.member(2).is_some(), "another disk was meant");
    swim.command(Time::ZERO, Command::Forget(2, lost));
    assert_eq!(events(&mut swim), [Event::Member(MemberEvent::Forgotten(2))]);
    let own = Claim {
        instance: newcomer.instance,
        ..claim(2, incarnation(1, 0), Alive)
    };
    swim.handle_datagram(Time::ZERO, addr(8), newcomer, &payload(&[Item::Claim(own)]));
    let known = swim.member(2).unwrap();
    assert_eq!(
        (known.instance, known.boot_epoch, known.state),
        (newcomer.instance, BootEpoch(1), Alive)
    );
    // Neither the suspicion nor the memory of the old one ends the new one.
    for timer in [Timer::Suspicion(2), Timer::Forget(2)] {
        assert!(!swim.timers.is_set(timer), "{timer:?}");
    }
}

#[test]
fn a_second_node_of_this_id_and_a_later_start_are_reported() {
    let mut swim = machine(addr(ME));
    let twin = Identity {
        instance: InstanceId::from_bytes([99; 16]),
        ..identity(ME, 1)
    };
    swim.handle_datagram(Time::ZERO, addr(8), twin, &payload(&[]));
    tell_claims(&mut swim, &[(ME, incarnation(4, 0), Alive)]);
    let events = events(&mut swim);
    assert!(
        matches!(events[0], Event::Member(MemberEvent::Conflict { node: ME, .. })),
        "{events:?}"
    );
    assert_eq!(
        events[1..],
        [Event::Member(MemberEvent::Superseded { known: BootEpoch(4) })]
    );
    assert_eq!(swim.incarnation(), incarnation(1, 0));
}

#[test]
fn a_death_that_is_heard_of_is_a_suspicion_first_and_a_short_one_only_if_it_is_news() {
    for (gone_secs, dead_after, alive_after) in [(0, 5, 1), (100, 12, 4)] {
        let mut swim = machine(addr(ME));
        for node in 2..9 {
            tell_claims(&mut swim, &[(node, incarnation(1, 0), Alive)]);
        }
        let death = Claim {
            gone_secs,
            ..claim(2, incarnation(1, 0), Dead)
        };
        tell(&mut swim, &[Item::Claim(death.clone())]);
        assert_eq!(standing(&swim, 2), Some((0, Suspect)));
        // This node does well, although here nobody answers it.
        let pass_well = |swim: &mut Swim, until| {
            for second in 0..=until {
                pass(swim, second);
                swim.health = 0;
            }
        };
        pass_well(&mut swim, alive_after);
        assert_eq!(standing(&swim, 2), Some((0, Suspect)), "gone for {gone_secs} s");
        pass_well(&mut swim, dead_after);
        assert_eq!(standing(&swim, 2), Some((0, Dead)), "gone for {gone_secs} s");
    }
}

#[test]
fn a_comparison_brings_what_differs_and_nothing_else() {
    let mut one = machine(addr(ME));
    let mut other = machine(addr(ME));
    for node in 2..200 {
        tell_claims(&mut one, &[(node, incarnation(1, 0), Alive)]);
        tell_claims(
            &mut other,
            &[(node, incarnation(1, u64::from(node == 77)), Alive)],
        );
    }
    let _ = sent(&mut other, |_| false);
    let sums: Vec<u8> = one.members.sums().flatten().collect();
    let compare = Compare {
        seq: 4,
        after: None,
        sums: &sums,
    };
    tell(&mut other, &[Item::Compare(compare)]);
    let mut bytes = Vec::new();
    assert_eq!(
        other.poll_transmit(&mut bytes),
        Some(Transmit::Datagram { to: addr(9) })
    );
    let items = wire::decode(&bytes, MAX_DATAGRAM_LEN).unwrap();
    let claimed = items.iter().filter_map(|item| match item {
        Item::Claim(claim) => Some(claim.node),
        _ => None,
    });
    let same_bucket = |node: &NodeId| crate::table::bucket_of(*node) == crate::table::bucket_of(77);
    assert_eq!(
        claimed.collect::<Vec<_>>(),
        (2..200).filter(same_bucket).collect::<Vec<_>>()
    );
    assert!(
        items
            .iter()
            .any(|item| matches!(item, Item::Page(page) if page.next.is_none()))
    );
}

#[test]
fn strangers_get_at_most_three_times_what_they_sent() {
    let mut swim = machine(addr(ME));
    for node in 2..100 {
        tell_claims(&mut swim, &[(node, incarnation(1, 0), Alive)]);
    }
    let _ = sent(&mut swim, |_| false);
    let requests = [
        payload(&[Item::Ping(Ping {
            seq: 1,
            target: ME,
            digest: [0; 8],
        })]),
        payload(&[Item::Sync(Sync { seq: 1, after: None })]),
        payload(&[Item::Ack(Ack {
            seq: 1,
            digest: [0; 8],
            observed: WireAddr::Observe(1),
            stranger: true,
        })]),
        payload(&[Item::PingReq(PingReq {
            seq: 1,
            target: 2,
            addr: WireAddr::new(addr(2)),
            wait_ms: 1_000,
        })]),
    ];
    for request in requests {
        swim.handle_datagram(Time::ZERO, addr(200), identity(200, 1), &request);
        let answer: usize = sent(&mut swim, |_| false).iter().map(|(_, len, _)| len).sum();
        assert!(
            answer <= 3 * request.len(),
            "{answer} bytes for {}",
            request.len()
        );
    }
    assert!(swim.member(200).is_none());
    let mut padded = Payload::new(1_400);
    padded.push(&Item::Sync(Sync { seq: 1, after: None }));
    padded.pad_to(PADDED_REQUEST_LEN);
    swim.handle_datagram(Time::ZERO, addr(200), identity(200, 1), &padded.into_bytes());
    assert!(
        sent(&mut swim, |_| false)[0].1 > 1_000,
        "a padded request gets a full page"
    );
}

#[test]
fn an_unspecified_address_is_not_told_and_the_observed_one_is() {
    let mut swim = machine("0.0.0.0:7946".parse().unwrap());
    swim.command(Time::ZERO, Command::Seeds(vec![addr(9)]));
    swim.handle_timeout(Time::ZERO);
    let unknown =
        |item: &Item<'_>| matches!(item, Item::Claim(c) if c.node == ME && c.addr == WireAddr::Observe(7946));
    assert!(sent(&mut swim, unknown)[0].2);
    let seq = *swim.pulls.first_key_value().unwrap().0;
    let observed: SocketAddr = "10.1.2.3:555".parse().unwrap();
    let page = wire::Page {
        seq,
        next: None,
        observed: WireAddr::new(observed),
    };
    let host = claim(9, incarnation(1, 0), Alive);
    tell(&mut swim, &[Item::Page(page), Item::Claim(host)]);
    assert_eq!(swim.member(ME).unwrap().addr, "10.1.2.3:7946".parse().unwrap());
    assert_eq!(
        swim.incarnation(),
        incarnation(1, 0),
        "nobody knew another address"
    );
    swim.command(Time::ZERO, Command::Advertise("10.9.9.9:1".parse().unwrap()));
    assert_eq!(
        swim.incarnation(),
        incarnation(1, 1),
        "others must take the new one"
    );
}

#[test]
fn this_node_among_the_seeds_is_asked_once() {
    let mut swim = machine(addr(ME));
    let seed: SocketAddr = "127.0.0.1:7946".parse().unwrap();
    swim.command(Time::ZERO, Command::Seeds(vec![seed]));
    swim.handle_timeout(Time::ZERO);
    let mut bytes = Vec::new();
    assert_eq!(
        swim.poll_transmit(&mut bytes),
        Some(Transmit::Datagram { to: seed })
    );
    swim.handle_datagram(Time::ZERO, seed, identity(ME, 1), &bytes);
    let mut now = Time::ZERO;
    for _ in 0..100 {
        now = swim.poll_timeout().unwrap().max(now);
        swim.handle_timeout(now);
    }
    assert_eq!(sent(&mut swim, |_| true), []);
    assert_eq!(events(&mut swim), []);
    assert_eq!(swim.live_count(), 1);
}

#[test]
fn a_pause_of_this_node_extends_suspicions_and_voids_probes() {
    let mut swim = machine(addr(ME));
    tell_claims(
        &mut swim,
        &[
            (2, incarnation(1, 0), Alive),
            (3, incarnation(1, 0), Alive),
            (2, incarnation(1, 0), Suspect),
        ],
    );
    swim.command(Time::ZERO, Command::Hint(3));
    assert!(!swim.probes.is_empty());
    let late = Time::from_micros(60_000_000);
    swim.handle_timeout(late);
    assert!(
        swim.probes.values().all(|probe| probe.began(late)),
        "only what began after the pause"
    );
    assert_eq!(
        [standing(&swim, 2), standing(&swim, 3)],
        [Some((0, Suspect)), Some((0, Alive))]
    );
}

#[test]
fn meta_too_long_is_refused_at_the_start() {
    let settings = Settings::new(&config(), addr(ME)).unwrap();
    let long = [0; MAX_META_LEN + 1];
    let error = Swim::new(settings, identity(ME, 1), &long, Time::ZERO, 1).unwrap_err();
    assert_eq!(
        (error, error.code()),
        (ConfigError::MetaTooLong(4_097), "gossip-meta-too-long")
    );
}

#[test]
fn settings_that_cannot_work_are_named() {
    let check = |period, suspect, expected: Option<ConfigError>| {
        let config = SwimConfig {
            protocol_period_ms: period,
            suspect_timeout_ms: suspect,
            ..config()
        };
        assert_eq!(Settings::new(&config, addr(ME)).err(), expected);
    };
    check(1_000, 5_000, None);
    check(0, 5_000, Some(ConfigError::ProtocolPeriod(0)));
    check(1_000, 1_999, Some(ConfigError::SuspectTimeout(1_999)));
    check(1_000, u64::MAX, Some(ConfigError::SuspectTimeout(u64::MAX)));
}

fn any_state() -> impl Strategy<Value = MemberState> {
    prop_oneof![Just(Alive), Just(Suspect), Just(Dead), Just(Left)]
}

proptest! {
    #[test]
    fn views_agree_in_whatever_order_claims_arrive(
        claims in proptest::collection::vec((2_u64..5, 1_u64..3, 0_u64..3, any_state()), 1..20),
        turn in 0_usize..20,
    ) {
        let claims: Vec<_> = claims.into_iter().map(|(n, e, r, s)| (n, incarnation(e, r), s)).collect();
        let mut one = machine(addr(ME));
        tell_claims(&mut one, &claims);
        let mut turned = claims.clone();
        turned.rotate_left(turn % claims.len());
        turned.reverse();
        let mut other = machine(addr(ME));
        tell_claims(&mut other, &turned);
        tell_claims(&mut other, &claims);
        for node in 2..5 {
            let about = claims.iter().filter(|(about, _, _)| *about == node);
            let greatest = about.map(|(_, incarnation, state)| (*incarnation, *state)).max();
            for swim in [&one, &other] {
                let view = swim.member(node).map(|view| (view.incarnation, view.state));
                // A death that was heard of may still be waiting for its own end here.
                let cautious = greatest.filter(|(_, state)| *state == Dead).map(|(i, _)| (i, Suspect));
                prop_assert!(view == greatest || view.is_some() && view == cautious, "{:?} {:?}", view, greatest);
            }
        }
        prop_assert!(one.is_bounded() && other.is_bounded());
    }

    #[test]
    fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), node in 0_u64..4) {
        let mut swim = machine(addr(ME));
        tell_claims(&mut swim, &[(2, incarnation(1, 0), Alive)]);
        let mut framed = vec![0];
        framed.extend(&bytes);
        for payload in [&bytes, &framed] {
            swim.handle_datagram(Time::ZERO, addr(3), identity(node, 1), payload);
        }
        while let Some(at) = swim.poll_timeout().filter(|at| *at < Time::from_micros(20_000_000)) {
            swim.handle_timeout(at);
        }
    }
}
