//! Tests of the payload format.

use proptest::prelude::*;
use rivven_types::BootEpoch;
use std::string::String;

use super::*;

fn claim(meta: &[u8]) -> Claim<'_> {
    Claim {
        node: 300,
        instance: InstanceId::from_bytes([9; 16]),
        incarnation: Incarnation::first(BootEpoch(2)).refuted(),
        state: MemberState::Suspect,
        addr: WireAddr::V4([10, 0, 0, 1], 7946),
        gone_secs: 0,
        accusers: [1, 2].to_vec(),
        meta: Some(meta),
    }
}

fn encode(items: &[Item<'_>]) -> Vec<u8> {
    let mut payload = Payload::new(MAX_DATAGRAM_LEN);
    for item in items {
        assert!(payload.push(item));
    }
    payload.into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| std::format!("{byte:02x}")).collect()
}

/// The bytes are a promise: whoever changes them changes this test, the format's page and the changelog.
#[test]
fn golden_bytes() {
    let addr = WireAddr::V4([10, 0, 0, 1], 7946);
    let ping = Ping {
        seq: 1,
        target: 300,
        digest: 0x0102,
    };
    let ack = Ack {
        seq: 1,
        digest: 0x0102,
        observed: addr,
        stranger: true,
    };
    let request = PingReq {
        seq: 1,
        target: 300,
        addr: WireAddr::Observe(1),
        wait_ms: 200,
    };
    let check = |item: Item<'_>, expected: &str| assert_eq!(hex(&encode(&[item])), expected);
    check(Item::Ping(ping), "00010501ac028202");
    check(Item::Ack(ack), "00020b018202010a0000018a3e01");
    check(Item::PingReq(request), "00030701ac020001c801");
    check(Item::Relayed(Relayed { seq: 5 }), "00040105");
    check(Item::Nack(Nack { seq: 5 }), "00050105");
    check(
        Item::Sync(Sync {
            seq: 5,
            after: Some(3),
        }),
        "000603050103",
    );
    check(
        Item::Page(Page {
            seq: 5,
            next: None,
            observed: addr,
        }),
        "0007090500010a0000018a3e",
    );
    check(
        Item::Claim(claim(b"hi")),
        "001024ac0209090909090909090909090909090909020101010a0000018a3e0002010201026869",
    );
}

#[test]
fn items_travel_whole() {
    let items = [
        Item::Ping(Ping {
            seq: u32::MAX,
            target: u64::MAX,
            digest: u64::MAX,
        }),
        Item::Claim(claim(&[7; MAX_META_LEN])),
        Item::Page(Page {
            seq: 0,
            next: Some(u64::MAX),
            observed: WireAddr::V6([0xff; 16], u16::MAX),
        }),
    ];
    assert_eq!(decode(&encode(&items)).unwrap(), items);
    let longest = encode(&items[2..]).len() - 1;
    assert!(longest <= MAX_PAGE_LEN.unsigned_abs(), "{longest}");
}

#[test]
fn what_is_unknown_is_skipped_by_its_length() {
    let ping = Item::Ping(Ping {
        seq: 1,
        target: 2,
        digest: 3,
    });
    let mut bytes = encode(core::slice::from_ref(&ping));
    // A kind of the future, a claim that does not parse, and a nack with a field of the future.
    bytes.extend([200, 3, 1, 2, 3]);
    bytes.extend([kind::CLAIM, 1, 255]);
    bytes.extend([kind::NACK, 3, 7, 42, 42]);
    assert_eq!(decode(&bytes).unwrap(), [ping, Item::Nack(Nack { seq: 7 })]);
}

#[test]
fn what_is_not_ours_is_refused_whole() {
    let mut bytes = encode(&[Item::Nack(Nack { seq: 7 })]);
    assert_eq!(decode(&[]), Err(DecodeError::Malformed));
    assert_eq!(decode(&[0; MAX_DATAGRAM_LEN + 1]), Err(DecodeError::TooLong));
    bytes.extend([kind::NACK, 9, 7]);
    assert_eq!(
        decode(&bytes),
        Err(DecodeError::Malformed),
        "an item longer than the rest"
    );
    bytes[0] = 1;
    assert_eq!(decode(&bytes), Err(DecodeError::Version(1)));
}

#[test]
fn claims_beyond_the_limits_do_not_parse() {
    let long = [0; MAX_META_LEN + 1];
    let crowd = Claim {
        accusers: [1, 2, 3, 4, 5].to_vec(),
        ..claim(b"")
    };
    for claim in [claim(&long), crowd] {
        assert_eq!(decode(&encode(&[Item::Claim(claim)])).unwrap(), []);
    }
}

#[test]
fn padding_reaches_its_length_and_says_nothing() {
    let mut payload = Payload::new(MAX_DATAGRAM_LEN);
    payload.push(&Item::Nack(Nack { seq: 1 }));
    payload.pad_to(PADDED_REQUEST_LEN);
    let bytes = payload.into_bytes();
    assert_eq!(bytes.len(), PADDED_REQUEST_LEN);
    assert!(bytes.len() * AMPLIFICATION_LIMIT >= MAX_DATAGRAM_LEN);
    assert_eq!(decode(&bytes).unwrap().len(), 1);
}

#[test]
fn the_shortest_limit_holds_any_claim_beside_a_message() {
    let mut payload = Payload::new(MIN_DATAGRAM_LEN);
    payload.reserve(MAX_PAGE_LEN);
    let largest = Claim {
        node: u64::MAX,
        incarnation: Incarnation::first(BootEpoch(u64::MAX)),
        addr: WireAddr::V6([255; 16], u16::MAX),
        gone_secs: u32::MAX,
        accusers: [u64::MAX; MAX_ACCUSERS].to_vec(),
        ..claim(&[0; MAX_META_LEN])
    };
    assert!(payload.push(&Item::Claim(largest)));
}

#[test]
fn addresses_nobody_can_dial_do_not_resolve() {
    let observed = Some(IpAddr::from([10, 0, 0, 9]));
    let check = |addr: WireAddr, expected: Option<&str>| {
        assert_eq!(
            addr.resolve(observed),
            expected.map(|text| text.parse().unwrap()),
            "{addr:?}"
        );
    };
    check(WireAddr::Observe(5), Some("10.0.0.9:5"));
    check(WireAddr::V4([1, 2, 3, 4], 5), Some("1.2.3.4:5"));
    check(WireAddr::V4([1, 2, 3, 4], 0), None);
    check(WireAddr::V4([0; 4], 5), None);
    check(WireAddr::V4([224, 0, 0, 1], 5), None);
    check(WireAddr::V6([0; 16], 5), None);
    assert_eq!(WireAddr::Observe(5).resolve(None), None);
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn decoding_damaged_payloads_never_panics(at in 0_usize..60, to in any::<u8>(), cut in 0_usize..60) {
        let mut bytes = encode(&[Item::Claim(claim(b"meta")), Item::Nack(Nack { seq: 7 })]);
        let len = bytes.len();
        bytes[at % len] = to;
        let _ = decode(&bytes);
        bytes.truncate(cut);
        let _ = decode(&bytes);
    }
}
