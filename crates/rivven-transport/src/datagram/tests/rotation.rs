//! Keys that change: what opens at every step, what a leaked key is good for, and what nobody may print.

use super::*;

fn made(byte: u8) -> GossipKey {
    GossipKey::from_bytes([byte; 32])
}

/// One node's sealer and opener on a ring of its own.
struct Member {
    keys: GossipKeys,
    sealer: DatagramSealer,
    opener: DatagramOpener,
}

impl Member {
    fn new(node: u64, ring: &KeyRing) -> Self {
        let keys = GossipKeys::empty();
        keys.set(Arc::new(ring.clone()));
        Self {
            sealer: DatagramSealer::new(&keys, &local(node, 1)),
            opener: DatagramOpener::new(&keys, CLUSTER),
            keys,
        }
    }

    fn follow(&self, ring: &KeyRing) {
        self.keys.set(Arc::new(ring.clone()));
    }
}

/// Both hear each other.
#[track_caller]
fn talk(one: &mut Member, other: &mut Member) {
    let there = seal(&mut one.sealer, "there");
    check(&mut other.opener, &there, Ok("there"));
    let back = seal(&mut other.sealer, "back");
    check(&mut one.opener, &back, Ok("back"));
}

#[test]
fn two_members_one_step_apart_always_understand_each_other() {
    let mut ring = KeyRing::bootstrap(made(1));
    let (mut one, mut two) = (Member::new(1, &ring), Member::new(2, &ring));
    talk(&mut one, &mut two);
    for round in 0..3 {
        let staged = ring.stage(made(round + 2), 1, 0, 0, false);
        let activated = staged.activate(1, 0);
        let retired = activated.retire(1, 0);
        for step in [staged, activated, retired] {
            one.follow(&step);
            talk(&mut one, &mut two);
            two.follow(&step);
            talk(&mut one, &mut two);
            ring = step;
        }
    }
    assert_eq!(ring.current().epoch(), 3);
}

#[test]
fn a_member_that_missed_a_change_of_keys_is_told_apart_from_a_stranger() {
    let old = KeyRing::bootstrap(made(1));
    let new = old.stage(made(2), 1, 0, 0, false).activate(1, 0).retire(1, 0);
    let (mut behind, mut ahead) = (Member::new(1, &old), Member::new(2, &new));
    let from_ahead = seal(&mut ahead.sealer, "x");
    check(&mut behind.opener, &from_ahead, Err(OpenError::UnknownKey(1)));
    let from_behind = seal(&mut behind.sealer, "x");
    check(&mut ahead.opener, &from_behind, Err(OpenError::UnknownKey(0)));
    behind.follow(&new);
    check(&mut behind.opener, &from_ahead, Ok("x"));
    talk(&mut behind, &mut ahead);
}

#[test]
fn retired_keys_open_nothing_and_take_no_memory() {
    let ring = KeyRing::bootstrap(made(1));
    let (mut one, mut two) = (Member::new(1, &ring), Member::new(2, &ring));
    let early = seal(&mut one.sealer, "early");
    let late = seal(&mut one.sealer, "late");
    check(&mut two.opener, &early, Ok("early"));
    let activated = ring.stage(made(2), 1, 0, 0, false).activate(1, 0);
    one.follow(&activated);
    two.follow(&activated);
    talk(&mut one, &mut two);
    check(&mut two.opener, &early, Err(OpenError::Replayed));
    check(&mut two.opener, &late, Ok("late"));
    assert_eq!(two.opener.sender_count(), 2, "one sender under two keys");
    two.follow(&activated.retire(1, 0));
    check(&mut two.opener, &early, Err(OpenError::UnknownKey(0)));
    assert_eq!(two.opener.sender_count(), 1);
}

/// Two nodes made a key of the same number apart from each other, and one of them gave in.
#[test]
fn another_key_under_the_same_number_replaces_what_was_derived_from_the_first() {
    let (mut one, mut two) = (
        Member::new(1, &KeyRing::bootstrap(made(1))),
        Member::new(2, &KeyRing::bootstrap(made(1))),
    );
    talk(&mut one, &mut two);
    two.follow(&KeyRing::bootstrap(made(2)));
    let from_one = seal(&mut one.sealer, "x");
    check(&mut two.opener, &from_one, Err(OpenError::NotAuthentic));
    let from_two = seal(&mut two.sealer, "x");
    check(&mut one.opener, &from_two, Err(OpenError::NotAuthentic));
    one.follow(&KeyRing::bootstrap(made(2)));
    talk(&mut one, &mut two);
}

#[test]
fn a_leaked_key_cannot_use_up_the_counters_of_a_member_under_the_next_key() {
    let ring = KeyRing::bootstrap(made(1));
    let (mut member, mut other) = (Member::new(1, &ring), Member::new(2, &ring));
    let thief = GossipKeys::fixed(made(1));
    let mut thief = DatagramSealer::starting_at(&thief, &local(1, 1), u64::MAX - 1);
    check(&mut other.opener, &seal(&mut thief, "forged"), Ok("forged"));
    let honest = seal(&mut member.sealer, "honest");
    check(&mut other.opener, &honest, Err(OpenError::Replayed));
    let activated = ring.stage(made(2), 1, 0, 0, true).activate(1, 0);
    member.follow(&activated);
    other.follow(&activated);
    talk(&mut member, &mut other);
}

#[test]
fn a_later_start_under_one_key_supersedes_earlier_ones_under_every_key() {
    let activated = KeyRing::bootstrap(made(1))
        .stage(made(2), 1, 0, 0, false)
        .activate(1, 0);
    let keys = GossipKeys::empty();
    keys.set(Arc::new(activated));
    let mut opener = DatagramOpener::new(&keys, CLUSTER);
    let mut old = DatagramSealer::new(made(1), &local(3, 5));
    let mut new = DatagramSealer::new(&keys, &local(3, 6));
    check(&mut opener, &seal(&mut old, "old"), Ok("old"));
    check(&mut opener, &seal(&mut new, "new"), Ok("new"));
    check(&mut opener, &seal(&mut old, "old"), Err(OpenError::StaleEpoch));
    let mut unheard = DatagramSealer::new(&keys, &local(3, 4));
    check(&mut opener, &seal(&mut unheard, "x"), Err(OpenError::StaleEpoch));
}

#[test]
fn without_keys_nothing_is_sealed_and_nothing_opens() {
    let keys = GossipKeys::empty();
    let mut sealer = DatagramSealer::new(&keys, &local(1, 1));
    let mut out = vec![9];
    assert_eq!(sealer.seal(b"x", &mut out), Err(SealError::NoKeys));
    assert!(out.is_empty());
    let datagram = seal(&mut DatagramSealer::new(made(1), &local(2, 1)), "x");
    let mut opener = DatagramOpener::new(&keys, CLUSTER);
    check(&mut opener, &datagram, Err(OpenError::UnknownKey(0)));
    keys.set(Arc::new(KeyRing::bootstrap(made(1))));
    check(&mut opener, &datagram, Ok("x"));
    assert!(sealer.seal(b"x", &mut out).is_ok());
}

/// Without a durable boot epoch two starts have everything in common but their salt.
#[test]
fn starts_that_nobody_counts_share_neither_keys_nor_counters() {
    let starts = [1, 2].map(|salt| {
        let sealer = DatagramSealer::starting_at(key(), &local(3, 0), 0);
        sealer.with_salt([salt; 16])
    });
    let [mut one, mut two] = starts;
    let mut opener = DatagramOpener::new(key(), CLUSTER);
    let (first, second) = (seal(&mut one, "same"), seal(&mut two, "same"));
    let body = |datagram: &[u8]| datagram[SEAL_OVERHEAD - 16..].to_vec();
    assert_ne!(body(&first), body(&second), "the same counter and plaintext");
    check(&mut opener, &first, Ok("same"));
    check(&mut opener, &second, Ok("same"));
    check(&mut opener, &first, Err(OpenError::Replayed));
    let random = [0, 1].map(|_| {
        let mut sealer = DatagramSealer::salted(key(), &local(3, 0)).unwrap();
        seal(&mut sealer, "same")
    });
    assert_ne!(random[0], random[1]);
}

/// The limit on datagrams under one key is kept by a new key, not by falling silent.
#[test]
fn a_sender_takes_a_new_key_with_every_block_of_counters() {
    let last = (7 << BLOCK_BITS) - 1;
    let mut sealer = DatagramSealer::starting_at(key(), &local(3, 5), last);
    let mut opener = DatagramOpener::new(key(), CLUSTER);
    let (before, after) = (seal(&mut sealer, "before"), seal(&mut sealer, "after"));
    check(&mut opener, &after, Ok("after"));
    check(&mut opener, &before, Ok("before"));
    check(&mut opener, &before, Err(OpenError::Replayed));
    check(&mut opener, &seal(&mut sealer, "more"), Ok("more"));
    assert_eq!(opener.sender_count(), 1);
}

#[test]
fn keys_stay_out_of_everything_that_can_be_printed() {
    let byte = 0xab;
    let ring = KeyRing::bootstrap(made(byte))
        .stage(made(byte), 1, 0, 0, false)
        .activate(1, 0)
        .stage(made(byte), 1, 0, 0, false);
    assert_eq!(ring.to_text().matches(&"ab".repeat(32)).count(), 3);
    let keys = GossipKeys::empty();
    keys.set(Arc::new(ring.clone()));
    let mut sealer = DatagramSealer::new(&keys, &local(1, 1));
    let mut opener = DatagramOpener::new(&keys, CLUSTER);
    check(&mut opener, &seal(&mut sealer, "x"), Ok("x"));
    let printed = [
        format!("{:?}", made(byte)),
        format!("{ring:?} {ring:#?} {:?}", ring.current()),
        format!("{keys:?}"),
        format!("{sealer:?} {opener:?}"),
        ring.version().to_string(),
        format!("{:?}", KeyRing::from_text("rivven-gossip-keys 0 abab")),
    ];
    for text in printed {
        let lower = text.to_lowercase();
        assert!(
            !lower.contains("abab") && !lower.contains("171, 171"),
            "a key in {text}"
        );
    }
}
