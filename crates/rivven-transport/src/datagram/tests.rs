//! Sealed datagrams: what opens, what does not, and the frozen layout.

use proptest::prelude::*;
use rivven_types::{BootEpoch, ClusterId, InstanceId};

use super::{open::MAX_SENDERS, window::WINDOW, *};
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
    let mut opener = DatagramOpener::new(&key(), CLUSTER);
    let mut sealer = DatagramSealer::new(&key(), &local(3, 5));
    let datagram = seal(&mut sealer, "ping");
    assert_eq!(datagram.len(), 4 + SEAL_OVERHEAD);
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
    let mut opener = DatagramOpener::new(&key(), CLUSTER);
    let mut sealer = DatagramSealer::new(&key(), &local(3, 5));
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
    let mut opener = DatagramOpener::new(&key(), CLUSTER);
    let mut old = DatagramSealer::new(&key(), &local(3, 5));
    let mut new = DatagramSealer::new(&key(), &local(3, 6));
    let first = seal(&mut old, "old");
    check(&mut opener, &first, Ok("old"));
    check(&mut opener, &seal(&mut new, "new"), Ok("new"));
    check(&mut opener, &first, Err(OpenError::StaleEpoch));
    check(&mut opener, &seal(&mut old, "old"), Err(OpenError::StaleEpoch));
    check(&mut opener, &seal(&mut new, "new"), Ok("new"));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut opener = DatagramOpener::new(&key(), CLUSTER);
    let datagram = seal(&mut DatagramSealer::new(&key(), &local(3, 5)), "ping");
    for bit in 0..datagram.len() * 8 {
        let mut altered = datagram.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 8 {
            OpenError::Version(altered[0])
        } else {
            OpenError::NotAuthentic
        };
        check(&mut opener, &altered, Err(expected));
    }
    assert_eq!(opener.sender_count(), 0, "strangers create no state");
    check(&mut opener, &datagram, Ok("ping"));
}

#[test]
fn another_key_and_another_cluster_do_not_open() {
    let datagram = seal(&mut DatagramSealer::new(&key(), &local(3, 5)), "ping");
    let other_key = GossipKey::from_bytes([8; 32]);
    check(
        &mut DatagramOpener::new(&other_key, CLUSTER),
        &datagram,
        Err(OpenError::NotAuthentic),
    );
    let other_cluster = ClusterId::from_bytes([2; 16]);
    check(
        &mut DatagramOpener::new(&key(), other_cluster),
        &datagram,
        Err(OpenError::NotAuthentic),
    );
}

#[test]
fn lengths_are_limited_on_both_ends() {
    let mut sealer = DatagramSealer::new(&key(), &local(3, 5));
    let mut opener = DatagramOpener::new(&key(), CLUSTER);
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
    check(&mut opener, &[0; SEAL_OVERHEAD - 1], Err(OpenError::TooShort));
    let mut last = DatagramSealer::starting_at(&key(), &local(3, 5), u64::MAX);
    assert_eq!(last.seal(b"", &mut out), Err(SealError::Exhausted));
}

#[test]
fn the_number_of_remembered_senders_is_capped() {
    let mut opener = DatagramOpener::new(&key(), CLUSTER);
    for node in 0..=MAX_SENDERS as u64 {
        check(
            &mut opener,
            &seal(&mut DatagramSealer::new(&key(), &local(node, 1)), "x"),
            Ok("x"),
        );
    }
    assert_eq!(opener.sender_count(), MAX_SENDERS);
}

/// The layout of version 0, byte by byte; see `docs/formats/wire.md`.
#[test]
fn golden_vector() {
    let mut sealer = DatagramSealer::starting_at(&key(), &local(3, 5), 0x0102);
    let hex: String = seal(&mut sealer, "ping")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let header = "0000000000000000030202020202020202020202020202020200000000000000050000000000000102";
    assert_eq!(hex, format!("{header}8ba4e44f9eaed1e2d190d1b1a19652ac1cde9fed"));
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
        let mut opener = DatagramOpener::new(&key(), CLUSTER);
        prop_assert!(opener.open(&bytes, &mut Vec::new()).is_err());
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        prop_assert!(opener.open(&bytes, &mut Vec::new()).is_err());
        prop_assert_eq!(opener.sender_count(), 0);
    }
}
