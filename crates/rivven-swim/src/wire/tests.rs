//! Tests of the payload format.

use core::net::IpAddr;
use std::string::String;

use proptest::prelude::*;

use super::*;
use crate::{
    BootEpoch, Health, Incarnation, InstanceId, MemberState,
    broadcast::{BroadcastId, MAX_BROADCAST_LEN},
    meta::{MAX_INLINE_META, MAX_META_LEN, MetaDigest},
    suspicion::MAX_ACCUSERS,
    table::BUCKETS,
};

fn decode(payload: &[u8]) -> Result<Vec<Item<'_>>, DecodeError> {
    super::decode(payload, MAX_DATAGRAM_LEN)
}

fn claim(meta: &[u8]) -> Claim<'_> {
    Claim {
        node: 300,
        instance: InstanceId::from_bytes([9; 16]),
        incarnation: Incarnation::first(BootEpoch(2)).refuted(),
        state: MemberState::Suspect,
        health: Health::Degraded,
        addr: ADDR,
        gone_secs: 0,
        accusers: [1, 2].to_vec(),
        meta: MetaClaim::Inline(meta),
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

const ADDR: WireAddr = WireAddr::V4([10, 0, 0, 1], 7946);

const DIGEST: MetaDigest = MetaDigest {
    len: 300,
    hash: [8; 8],
};

/// The bytes are a promise: whoever changes them changes this test, the format's page and the changelog.
fn check_golden(item: Item<'_>, expected: &str) {
    let bytes = hex(&encode(&[item]));
    assert_eq!(bytes.get(..expected.len()), Some(expected), "{bytes}");
    // Only the beginning of what is long.
    assert!(bytes.len() == expected.len() || bytes.len() > 1_000);
}

#[test]
fn golden_bytes_of_messages() {
    let digest = [1, 2, 3, 4, 5, 6, 7, 8];
    let (seq, target, observed, stranger) = (1, 300, ADDR, true);
    let addr = WireAddr::Observe(1);
    let request = PingReq {
        seq,
        target,
        addr,
        wait_ms: 200,
    };
    let ack = Ack {
        seq,
        digest,
        observed,
        stranger,
    };
    check_golden(
        Item::Ping(Ping { seq, target, digest }),
        "00010b0001ac020102030405060708",
    );
    check_golden(Item::Ack(ack), "00021100010102030405060708010a0000018a3e01");
    check_golden(Item::PingReq(request), "0003070001ac020001c801");
    check_golden(Item::Relayed(Relayed { seq: 5 }), "0004010005");
    check_golden(Item::Nack(Nack { seq: 5 }), "0005010005");
    let (seq, after, next) = (5, Some(3), None);
    check_golden(Item::Sync(Sync { seq, after }), "00060300050103");
    check_golden(
        Item::Page(Page { seq, next, observed }),
        "000709000500010a0000018a3e",
    );
    let sums: Vec<u8> = (0..=255).cycle().take(4 * BUCKETS).collect();
    let sums = &sums[..];
    check_golden(
        Item::Compare(Compare { seq, after, sums }),
        "000805040501038008000102030405060708090a",
    );
}

#[test]
fn golden_bytes_of_news() {
    let (digest, offset, bytes) = (DIGEST, 200, &b"hi"[..]);
    let part = MetaPart {
        digest,
        offset,
        bytes,
    };
    check_golden(
        Item::MetaGet(MetaGet { digest, offset }),
        "00090c00ac020808080808080808c801",
    );
    check_golden(Item::MetaPart(part), "000a0f00ac020808080808080808c801026869");
    let long = Claim {
        meta: MetaClaim::Digest(digest),
        ..claim(b"")
    };
    let gone = Claim {
        state: MemberState::Dead,
        health: Health::Good,
        addr: WireAddr::V6([0xfe; 16], 7946),
        gone_secs: 300,
        accusers: Vec::new(),
        meta: MetaClaim::Unknown,
        ..claim(b"")
    };
    check_golden(
        Item::Claim(claim(b"hi")),
        "00102500ac020909090909090909090909090909090902010101010a0000018a3e0002010201026869",
    );
    check_golden(
        Item::Claim(long),
        "00102c00ac020909090909090909090909090909090902010101010a0000018a3e0002010202ac020808080808080808",
    );
    check_golden(
        Item::Claim(gone),
        "00102d00ac02090909090909090909090909090909090201020002fefefefefefefefefefefefefefefefe8a3eac020000",
    );
    let id = BroadcastId {
        origin: 300,
        boot_epoch: BootEpoch(2),
        counter: 7,
    };
    check_golden(
        Item::Broadcast(Broadcast { id, body: b"hi" }),
        "00110700ac020207026869",
    );
}

/// What two members must compute alike.
#[test]
fn golden_digests() {
    let print = |state, described| {
        crate::member::fingerprint(300, Incarnation::first(BootEpoch(2)).refuted(), state, described)
    };
    assert_eq!(print(MemberState::Alive, true), 3025849797180567152);
    assert_eq!(print(MemberState::Dead, false), 9770604845931452797);
    assert_eq!(crate::table::bucket_of(300), 253);
    assert_eq!(
        hex(&MetaDigest::of(b"metadata of a member").hash),
        "7894b114a2109352"
    );
}

#[test]
fn items_travel_whole() {
    let items = [
        Item::Ping(Ping {
            seq: u32::MAX,
            target: u64::MAX,
            digest: [0xff; 8],
        }),
        Item::Claim(claim(&[7; MAX_INLINE_META])),
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
        digest: [3; 8],
    });
    let mut bytes = encode(core::slice::from_ref(&ping));
    // A kind of the future, a claim that does not parse, and a nack with a field of the future.
    bytes.extend([200, 3, 0, 1, 2, 3]);
    bytes.extend([kind::CLAIM, 1, 0, 255]);
    bytes.extend([kind::NACK, 3, 0, 7, 42, 42]);
    assert_eq!(decode(&bytes).unwrap(), [ping, Item::Nack(Nack { seq: 7 })]);
}

#[test]
fn what_is_not_ours_is_refused_whole() {
    let mut bytes = encode(&[Item::Nack(Nack { seq: 7 })]);
    assert_eq!(decode(&[]), Err(DecodeError::Malformed));
    assert_eq!(decode(&[0; MAX_DATAGRAM_LEN + 1]), Err(DecodeError::TooLong));
    bytes.extend([kind::NACK, 9, 0, 7]);
    assert_eq!(
        decode(&bytes),
        Err(DecodeError::Malformed),
        "an item longer than the rest"
    );
    bytes[0] = 1;
    assert_eq!(decode(&bytes), Err(DecodeError::Version(1)));
}

#[test]
fn items_beyond_the_limits_do_not_parse() {
    let digest = |len| MetaDigest { len, hash: [0; 8] };
    let long = [0; MAX_INLINE_META + 1];
    let crowd = Claim {
        accusers: [1, 2, 3, 4, 5].to_vec(),
        ..claim(b"")
    };
    let described = |meta| Item::Claim(Claim { meta, ..claim(b"") });
    let beyond = u16::try_from(MAX_META_LEN).unwrap() + 1;
    let short = u16::try_from(MAX_INLINE_META).unwrap();
    let items = [
        described(MetaClaim::Inline(&long)),
        described(MetaClaim::Digest(digest(beyond))),
        described(MetaClaim::Digest(digest(short))),
        Item::Claim(crowd),
        Item::Compare(Compare {
            seq: 1,
            after: None,
            sums: &[0; 4 * BUCKETS - 1],
        }),
        Item::MetaPart(MetaPart {
            digest: digest(10),
            offset: 8,
            bytes: &[0; 3],
        }),
        Item::Broadcast(Broadcast {
            id: BroadcastId {
                origin: 1,
                boot_epoch: BootEpoch(1),
                counter: 1,
            },
            body: &[0; MAX_BROADCAST_LEN + 1],
        }),
    ];
    for item in items {
        assert_eq!(decode(&encode(&[item])).unwrap(), []);
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
fn the_shortest_limit_holds_any_single_item_beside_a_page() {
    let largest = Claim {
        node: u64::MAX,
        incarnation: Incarnation::first(BootEpoch(u64::MAX)),
        addr: WireAddr::V6([255; 16], u16::MAX),
        gone_secs: u32::MAX,
        accusers: [u64::MAX; MAX_ACCUSERS].to_vec(),
        ..claim(&[0; MAX_INLINE_META])
    };
    // A page is as long as three times the padded request, and no longer than a datagram.
    let mut payload = Payload::new(PADDED_REQUEST_LEN * AMPLIFICATION_LIMIT);
    payload.reserve(MAX_PAGE_LEN);
    assert!(payload.push(&Item::Claim(largest)));
    let compare = Compare {
        seq: u32::MAX,
        after: Some(u64::MAX),
        sums: &[255; 4 * BUCKETS],
    };
    assert!(Payload::new(MIN_DATAGRAM_LEN).push(&Item::Compare(compare)));
    let broadcast = Broadcast {
        id: BroadcastId {
            origin: u64::MAX,
            boot_epoch: BootEpoch(u64::MAX),
            counter: u32::MAX,
        },
        body: &[0; MAX_BROADCAST_LEN],
    };
    assert!(Payload::new(MIN_DATAGRAM_LEN).push(&Item::Broadcast(broadcast)));
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
