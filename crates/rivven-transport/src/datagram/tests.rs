//! Sealed datagrams: what opens, what does not, and the frozen layout.

mod rotation;

use std::sync::Arc;

use proptest::prelude::*;
use rivven_types::{BootEpoch, ClusterId, InstanceId};

use super::{
    header::{BLOCK_BITS, MIN_DATAGRAM, VERSION, VERSION_SALTED},
    open::MAX_SENDERS,
    window::WINDOW,
    *,
};
use crate::LocalIdentity;

fn key() -> GossipKey {
    GossipKey::from_bytes([7; 32])
}

const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);

fn local(node: u64, boot_epoch: u64) -> LocalIdentity {
    LocalIdentity {
        cluster: CLUSTER,
        node,
        instance: InstanceId::from_bytes([2; 16]),
        boot_epoch: BootEpoch(boot_epoch),
    }
}

fn seal(sealer: &mut DatagramSealer, text: &str) -> Vec<u8> {
    let mut out = vec![9; 5];
    sealer.seal(text.as_bytes(), &mut out).unwrap();
    out
}

#[track_caller]
fn check(opener: &mut DatagramOpener, datagram: &[u8], expected: Result<&str, OpenError>) {
    let mut out = vec![9; 5];
    let got = opener.open(datagram, &mut out);
    assert_eq!(got.as_ref().err(), expected.as_ref().err());
    assert_eq!(String::from_utf8(out).unwrap(), expected.unwrap_or_default());
}

#[test]
fn a_datagram_opens_once_and_names_its_sender() {
    let mut opener = DatagramOpener::new(key(), CLUSTER);
    let mut sealer = DatagramSealer::new(key(), &local(3, 5));
    let datagram = seal(&mut sealer, "ping");
    assert_eq!(datagram.len(), 4 + MIN_DATAGRAM);
    let mut out = Vec::new();
    let sender = opener.open(&datagram, &mut out).unwrap();
    assert_eq!(
        (sender.node, sender.boot_epoch, &out[..]),
        (3, BootEpoch(5), &b"ping"[..])
    );
    check(&mut opener, &datagram, Err(OpenError::Replayed));
    check(&mut opener, &seal(&mut sealer, ""), Ok(""));
}

#[test]
fn reordered_datagrams_open_within_the_window() {
    let mut opener = DatagramOpener::new(key(), CLUSTER);
    let mut sealer = DatagramSealer::new(key(), &local(3, 5));
    let sent: Vec<_> = (0..=WINDOW).map(|_| seal(&mut sealer, "x")).collect();
    let (last, rest) = sent.split_last().unwrap();
    check(&mut opener, last, Ok("x"));
    check(&mut opener, &rest[0], Err(OpenError::Replayed));
    for datagram in rest[1..].iter().rev() {
        check(&mut opener, datagram, Ok("x"));
        check(&mut opener, datagram, Err(OpenError::Replayed));
    }
}

#[test]
fn a_higher_boot_epoch_supersedes_and_a_lower_one_is_dropped() {
    let mut opener = DatagramOpener::new(key(), CLUSTER);
    let mut old = DatagramSealer::new(key(), &local(3, 5));
    let mut new = DatagramSealer::new(key(), &local(3, 6));
    let first = seal(&mut old, "old");
    check(&mut opener, &first, Ok("old"));
    check(&mut opener, &seal(&mut new, "new"), Ok("new"));
    check(&mut opener, &first, Err(OpenError::StaleEpoch));
    check(&mut opener, &seal(&mut old, "old"), Err(OpenError::StaleEpoch));
    check(&mut opener, &seal(&mut new, "new"), Ok("new"));
}

#[test]
fn every_flipped_bit_of_every_byte_is_noticed() {
    let salted = DatagramSealer::starting_at(key(), &local(3, 5), 9).with_salt([4; 16]);
    for mut sealer in [DatagramSealer::new(key(), &local(3, 5)), salted] {
        let mut opener = DatagramOpener::new(key(), CLUSTER);
        let datagram = seal(&mut sealer, "ping");
        for bit in 0..datagram.len() * 8 {
            let mut altered = datagram.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let mut out = Vec::new();
            let refused = opener.open(&altered, &mut out).unwrap_err();
            let expected: &[OpenError] = match bit / 8 {
                // The bit of the salt makes another header of it, which may need more bytes than there are.
                0 if bit == 7 => &[OpenError::NotAuthentic, OpenError::TooShort],
                0 => &[OpenError::Version(altered[0])],
                1..5 => &[OpenError::UnknownKey(1 << (8 * (4 - bit / 8) + bit % 8))],
                _ => &[OpenError::NotAuthentic],
            };
            assert!(expected.contains(&refused), "bit {bit}: {refused:?}");
            assert!(out.is_empty(), "bit {bit}");
        }
        assert_eq!(opener.sender_count(), 0, "strangers create no state");
        check(&mut opener, &datagram, Ok("ping"));
    }
}

#[test]
fn another_key_and_another_cluster_do_not_open() {
    let datagram = seal(&mut DatagramSealer::new(key(), &local(3, 5)), "ping");
    let other_key = GossipKey::from_bytes([8; 32]);
    check(
        &mut DatagramOpener::new(&other_key, CLUSTER),
        &datagram,
        Err(OpenError::NotAuthentic),
    );
    let other_cluster = ClusterId::from_bytes([2; 16]);
    check(
        &mut DatagramOpener::new(key(), other_cluster),
        &datagram,
        Err(OpenError::NotAuthentic),
    );
}

#[test]
fn lengths_are_limited_on_both_ends() {
    let mut sealer = DatagramSealer::salted(key(), &local(3, 5)).unwrap();
    let mut opener = DatagramOpener::new(key(), CLUSTER);
    let mut out = Vec::new();
    sealer.seal(&[b'x'; MAX_PLAINTEXT], &mut out).unwrap();
    assert_eq!(out.len(), MAX_DATAGRAM);
    check(&mut opener, &out, Ok(&"x".repeat(MAX_PLAINTEXT)));
    let too_long = sealer.seal(&[b'x'; MAX_PLAINTEXT + 1], &mut out);
    assert_eq!(
        (too_long, out.len()),
        (Err(SealError::TooLong(MAX_PLAINTEXT + 1)), 0)
    );
    check(&mut opener, &[0; MAX_DATAGRAM + 1], Err(OpenError::TooLong));
    check(&mut opener, &[0; MIN_DATAGRAM - 1], Err(OpenError::TooShort));
    let mut short = [0; SEAL_OVERHEAD - 1];
    short[0] = VERSION_SALTED;
    check(&mut opener, &short, Err(OpenError::NotAuthentic));
    check(&mut opener, &short[..MIN_DATAGRAM - 1], Err(OpenError::TooShort));
    let mut last = DatagramSealer::starting_at(key(), &local(3, 5), u64::MAX);
    assert_eq!(last.seal(b"", &mut out), Err(SealError::Exhausted));
}

#[test]
fn the_number_of_remembered_senders_is_capped() {
    let mut opener = DatagramOpener::new(key(), CLUSTER);
    let sealer = |node| DatagramSealer::starting_at(key(), &local(node, 1), 0);
    let first = |node| seal(&mut sealer(node), "x");
    let last = MAX_SENDERS as u64;
    for node in 0..last {
        check(&mut opener, &first(node), Ok("x"));
    }
    // All but three of the first ten are heard again, the latest ones first.
    for node in (0..10).rev().filter(|node| ![2, 5, 7].contains(node)) {
        let mut sealer = sealer(node);
        let _ = seal(&mut sealer, "x");
        check(&mut opener, &seal(&mut sealer, "y"), Ok("y"));
    }
    for node in last..last + 3 {
        check(&mut opener, &first(node), Ok("x"));
        assert_eq!(opener.sender_count(), MAX_SENDERS);
    }
    // Only those three are forgotten; and each of them that comes back takes the place of the next quietest.
    for node in (0..30).filter(|node| ![2, 5, 7].contains(node)) {
        check(&mut opener, &first(node), Err(OpenError::Replayed));
    }
    for (back, gone) in [(2, 10), (5, 11), (7, 12)] {
        check(&mut opener, &first(back), Ok("x"));
        check(&mut opener, &first(back), Err(OpenError::Replayed));
        check(&mut opener, &first(gone + 10), Err(OpenError::Replayed));
    }
    check(&mut opener, &first(10), Ok("x"));
    // A later start takes the place of the earlier one.
    let mut restarted = DatagramSealer::starting_at(key(), &local(40, 2), 0);
    check(&mut opener, &seal(&mut restarted, "z"), Ok("z"));
    assert_eq!(opener.sender_count(), MAX_SENDERS);
}

/// The layout of version 0, byte by byte; see `docs/formats/wire.md`.
#[test]
fn golden_vector() {
    let hex = |sealer: &mut DatagramSealer| -> String {
        let datagram = seal(sealer, "ping");
        datagram.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let sealer = || DatagramSealer::starting_at(key(), &local(3, 5), 0x0102);
    let fields = "0000000000000000000000030202020202020202020202020202020200000000000000050000000000000102";
    assert_eq!(
        hex(&mut sealer()),
        ["00", fields, "8b46877971bf8b05f9924f5f68d8238ec60da13c"].concat()
    );
    let salt = "04040404040404040404040404040404";
    assert_eq!(
        hex(&mut sealer().with_salt([4; 16])),
        ["80", fields, salt, "1cd3de66ffca26a57fbbd0526e499383931cd51c"].concat()
    );
}

#[test]
fn keys_survive_their_text_form_and_stay_out_of_logs() {
    let key = GossipKey::generate().unwrap();
    assert_eq!(GossipKey::from_text(&key.to_text()).unwrap().bytes(), key.bytes());
    assert_eq!(format!("{key:?}"), "GossipKey(redacted)");
    for text in ["", "00", &"0".repeat(65), &"g".repeat(64)] {
        assert_eq!(
            GossipKey::from_text(text).unwrap_err().code(),
            "gossip-key-malformed"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_open_and_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        let mut opener = DatagramOpener::new(key(), CLUSTER);
        prop_assert!(opener.open(&bytes, &mut Vec::new()).is_err());
        // Deeper: a version that exists, and an epoch whose key is there.
        for version in [VERSION, VERSION_SALTED] {
            for (to, from) in bytes.iter_mut().zip([version, 0, 0, 0, 0]) {
                *to = from;
            }
            prop_assert!(opener.open(&bytes, &mut Vec::new()).is_err());
        }
        prop_assert_eq!(opener.sender_count(), 0);
    }

    #[test]
    fn whatever_is_sealed_opens_exactly_once_in_any_order(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        first in prop_oneof![Just(0), Just((1 << BLOCK_BITS) - 20), 0..1_u64 << 62],
        salt in prop::option::of(any::<[u8; 16]>()),
    ) {
        let mut sealer = DatagramSealer::starting_at(key(), &local(3, 5), first);
        if let Some(salt) = salt {
            sealer = sealer.with_salt(salt);
        }
        let mut opener = DatagramOpener::new(key(), CLUSTER);
        let mut sealed = Vec::new();
        for text in &texts {
            let mut datagram = Vec::new();
            sealer.seal(text, &mut datagram).unwrap();
            sealed.push(datagram);
        }
        let mut opened = std::collections::BTreeSet::new();
        for at in order.iter().map(|index| index.index(texts.len())) {
            let mut out = Vec::new();
            let result = opener.open(&sealed[at], &mut out).map(|sender| sender.node);
            if opened.insert(at) {
                prop_assert_eq!((result, &out), (Ok(3), &texts[at]));
            } else {
                prop_assert_eq!(result, Err(OpenError::Replayed));
            }
        }
        prop_assert_eq!(opener.sender_count(), usize::from(!opened.is_empty()));
    }
}
