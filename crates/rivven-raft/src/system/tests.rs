//! The system state, without a group.

use std::io;

use proptest::prelude::*;

use super::{session::Admission, *};

fn open(system: &mut System, index: u64, ttl_ms: u64) -> SessionId {
    match system
        .apply(index, SystemCommand::OpenSession { ttl_ms })
        .unwrap()
    {
        SystemResponse::SessionOpened { session } => session,
        other => panic!("{other:?}"),
    }
}

fn encoded(system: &System) -> Vec<u8> {
    let mut bytes = Vec::new();
    system.encode(&mut bytes).unwrap();
    bytes
}

fn restored(bytes: &[u8]) -> io::Result<System> {
    System::decode(Features::default(), &mut &*bytes)
}

const TTL: u64 = MIN_SESSION_TTL_MS;

/// Admits and, if new, answers with the index.
fn propose(system: &mut System, index: u64, session: SessionId, seq: u64, command: &[u8]) -> Admission {
    let (tag, crc) = (SessionTag { session, seq }, body_crc(command));
    let admission = system.sessions.admit(tag, crc);
    if admission == Admission::New {
        let reply = Bytes::from(index.to_string());
        system.sessions.keep(tag, index, crc, &reply);
    }
    admission
}

#[test]
fn a_number_is_answered_once_and_repeated_with_the_first_answer() {
    let mut system = System::default();
    let session = open(&mut system, 7, TTL);
    assert_eq!(session, SessionId(7));
    // Out of order, as proposals that overtake each other.
    for (index, seq) in [(8, 3), (9, 1), (10, 2)] {
        assert_eq!(propose(&mut system, index, session, seq, b"c"), Admission::New);
    }
    for (index, seq) in [("8", 3), ("9", 1), ("10", 2)] {
        assert_eq!(
            propose(&mut system, 20, session, seq, b"c"),
            Admission::Repeated(index.into())
        );
    }
    assert!(matches!(
        propose(&mut system, 20, session, 2, b"other"),
        Admission::Reused(_)
    ));
    assert_eq!(propose(&mut system, 20, session, 0, b"c"), Admission::Passed);
    assert_eq!(
        propose(&mut system, 20, SessionId(6), 1, b"c"),
        Admission::NoSession
    );
    let close = SystemCommand::CloseSession { session };
    assert_eq!(system.apply(21, close.clone()).unwrap(), SystemResponse::Done);
    assert_eq!(system.apply(22, close).unwrap(), SystemResponse::NoSession);
    assert_eq!(propose(&mut system, 23, session, 4, b"c"), Admission::NoSession);
    assert_eq!(system.sessions.lens(), (0, 0));
}

#[test]
fn numbers_behind_the_window_are_refused_and_their_answers_dropped() {
    let mut system = System::default();
    let session = open(&mut system, 1, TTL);
    for seq in 1..=SESSION_WINDOW + 1 {
        assert_eq!(propose(&mut system, 1 + seq, session, seq, b"c"), Admission::New);
    }
    assert_eq!(propose(&mut system, 999, session, 1, b"c"), Admission::Passed);
    assert!(matches!(
        propose(&mut system, 999, session, 2, b"c"),
        Admission::Repeated(_)
    ));
    assert_eq!(system.sessions.lens().1, usize::try_from(SESSION_WINDOW).unwrap());
    assert_eq!(propose(&mut system, 999, session, u64::MAX, b"c"), Admission::New);
    assert_eq!(
        propose(&mut system, 1_000, session, SESSION_WINDOW, b"c"),
        Admission::Passed
    );
    assert_eq!(
        propose(&mut system, 1_000, session, u64::MAX - 255, b"c"),
        Admission::New
    );
    assert_eq!(system.sessions.lens().1, 2);
}

#[test]
fn answers_beyond_the_limits_are_dropped_but_never_applied_again() {
    let mut system = System::default();
    let large = Bytes::from(vec![0; MAX_KEPT_REPLY_BYTES]);
    let mut sessions = Vec::new();
    for index in 1..=1_000 {
        let session = open(&mut system, index * 2, TTL);
        let tag = SessionTag { session, seq: 1 };
        assert_eq!(system.sessions.admit(tag, 0), Admission::New);
        system.sessions.keep(tag, index * 2 + 1, 0, &large);
        sessions.push(tag);
    }
    let kept = system.sessions.lens().1;
    assert!(kept * large.len() <= MAX_SESSION_REPLY_BYTES, "{kept} kept");
    assert!(
        kept * large.len() > MAX_SESSION_REPLY_BYTES * 9 / 10,
        "{kept} kept"
    );
    assert_eq!(system.sessions.admit(sessions[0], 0), Admission::NotKept);
    assert_eq!(
        system.sessions.admit(sessions[999], 0),
        Admission::Repeated(large)
    );

    let tag = SessionTag {
        seq: 2,
        ..sessions[0]
    };
    system
        .sessions
        .keep(tag, 5_000, 0, &Bytes::from(vec![0; MAX_KEPT_REPLY_BYTES + 1]));
    assert_eq!(system.sessions.admit(tag, 0), Admission::NotKept);
}

#[test]
fn sessions_end_by_log_time_and_their_number_is_bounded() {
    let mut system = System::default();
    for index in 1..=MAX_SESSIONS as u64 {
        open(&mut system, index, TTL);
    }
    let one_more = system
        .apply(20_000, SystemCommand::OpenSession { ttl_ms: TTL })
        .unwrap();
    assert!(matches!(one_more, SystemResponse::Refused(refusal) if refusal.code == "too-many-sessions"));
    system.tick(100);
    system.tick(100 + TTL - 1);
    propose(&mut system, 30_000, SessionId(1), 1, b"c");
    assert_eq!(system.sessions.lens(), (MAX_SESSIONS, 1));
    for _ in 0..50 {
        system.tick(100 + TTL);
    }
    assert_eq!(system.sessions.lens(), (1, 1), "the one that was used stays");
    system.tick(50);
    assert_eq!(system.log_time_ms, 100 + TTL, "time does not go back");
    assert!(system.needs_ticks());
    system.tick(100 + 2 * TTL);
    assert_eq!(system.sessions.lens(), (0, 0));
    assert!(!system.needs_ticks());
}

#[test]
fn a_level_beyond_this_release_stops_the_node() {
    let mut system = System {
        features: Features::supporting(Levels::from([("app".into(), 3)])),
        ..System::default()
    };
    let finalize = |feature: &str, level| SystemCommand::Finalize {
        feature: feature.into(),
        level,
    };
    assert!(system.features.check(Some(("app", 1))).is_err());
    assert_eq!(
        system.apply(1, finalize("app", 2)).unwrap(),
        SystemResponse::Finalized { level: 2 }
    );
    assert_eq!(
        system.apply(2, finalize("app", 1)).unwrap(),
        SystemResponse::Finalized { level: 2 }
    );
    assert_eq!(system.features.check(Some(("app", 2))), Ok(()));
    assert!(system.features.check(Some(("app", 3))).is_err());
    assert_eq!(
        system.apply(3, finalize(RIVVEN_FEATURE, RIVVEN_LEVEL)).unwrap(),
        SystemResponse::Finalized { level: RIVVEN_LEVEL }
    );
    let error = restored(&encoded(&system)).unwrap_err();
    assert!(error.to_string().contains("upgrade this node"), "{error}");
    let error = system.apply(4, finalize("app", 4)).unwrap_err();
    assert!(error.contains("upgrade this node"), "{error}");
}

#[test]
fn digests_tell_every_part_of_an_entry_apart() {
    let digest = |term, index, kind: [u8; 3], command: &[u8], answer: &[u8]| {
        let mut chain = Chain::default();
        chain.add(1, 1, &[0; 3], b"", b"");
        chain.add(term, index, &kind, command, answer);
        chain.last().unwrap().value
    };
    let all = [
        digest(1, 2, [1, 1, 0], b"ab", b"c"),
        digest(2, 2, [1, 1, 0], b"ab", b"c"),
        digest(1, 3, [1, 1, 0], b"ab", b"c"),
        digest(1, 2, [1, 2, 0], b"ab", b"c"),
        digest(1, 2, [1, 1, 0], b"a", b"bc"),
        digest(1, 2, [1, 1, 0], b"ab", b"d"),
    ];
    let different: std::collections::BTreeSet<u128> = all.into_iter().collect();
    assert_eq!(different.len(), all.len());
    let mut chain = Chain::default();
    for index in 1..=100_000 {
        chain.add(1, index, &[0; 3], b"", b"");
    }
    assert_eq!(chain.at(100_000), chain.last());
    assert_eq!(
        chain.at(99_328).map(|digest| digest.index),
        Some(99_328),
        "97 times 1,024"
    );
    assert_eq!((chain.at(99_329), chain.at(1_024)), (None, None));
    assert_eq!(chain.kept().len(), 64);
}

/// The bytes of version 0, written out: a change of these is a change of the format.
#[test]
fn the_snapshot_is_that_of_version_0() {
    let mut system = System::default();
    let session = open(&mut system, 5, 5_000);
    system.tick(9);
    propose(&mut system, 6, session, 2, b"c");
    system.chain.add(1, 6, &[1, 2, 0], b"c", b"6");
    system
        .apply(
            7,
            SystemCommand::Finalize {
                feature: RIVVEN_FEATURE.into(),
                level: 1,
            },
        )
        .unwrap();
    let bytes = encoded(&system);
    let number = |number: u64| number.to_le_bytes().to_vec();
    let digest = postcard::to_allocvec(&system.chain.last()).unwrap();
    let expected = [
        b"\x00".to_vec(),
        number(9),
        vec![u8::try_from(digest.len()).unwrap(), 0, 0, 0],
        digest,
        // One feature.
        b"\x09\0\0\0\x01\x06rivven\x01".to_vec(),
        // No kept digest; one session: 5, 5,000 ms, renewed since the last tick, highest 2, which is applied.
        number(0),
        number(1),
        b"\x09\0\0\0\x05\x88\x27\x00\x02\x01\0\0\0".to_vec(),
        // One reply: session, number, index, CRC32C, bytes.
        number(1),
        b"\x0a\0\0\0\x05\x02\x06".to_vec(),
        postcard::to_allocvec(&body_crc(b"c")).unwrap(),
        b"\x016".to_vec(),
        // No member; nobody shut out.
        number(0),
        b"\x02\0\0\0\x00\x00".to_vec(),
        // Never begun anew.
        number(0),
        number(0),
    ];
    assert_eq!(bytes, expected.concat());
    let golden = 71_678_744_281_162_415_397_912_345_774_360_073_374;
    assert_eq!(
        system.chain.last().unwrap().value,
        golden,
        "of the bytes that the format page names"
    );
    for len in 0..bytes.len() {
        assert!(restored(&bytes[..len]).is_err(), "cut at {len}");
    }
    assert_eq!(encoded(&restored(&bytes).unwrap()), bytes);
}

#[test]
fn commands_and_replies_are_those_of_version_0() {
    let check = |command: SystemCommand, bytes: &[u8]| {
        assert_eq!(postcard::to_allocvec(&command).unwrap(), bytes, "{command:?}");
    };
    check(SystemCommand::Tick { now_ms: 1 }, b"\x00\x01");
    check(SystemCommand::OpenSession { ttl_ms: 1 }, b"\x01\x01");
    let session = SessionId(1);
    check(SystemCommand::RenewSession { session }, b"\x02\x01");
    check(SystemCommand::CloseSession { session }, b"\x03\x01");
    let feature = "f".to_owned();
    check(SystemCommand::Finalize { feature, level: 2 }, b"\x04\x01f\x02");
    let tag = SessionTag { session, seq: 2 };
    assert_eq!(tag.encode(), *b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    let check = |reply: Reply, bytes: &'static [u8]| {
        let bytes = Bytes::from_static(bytes);
        assert_eq!(reply.encode().unwrap(), bytes, "{reply:?}");
        assert_eq!(Reply::decode(&bytes), Some(reply));
    };
    check(Reply::Response("r".into()), b"\x00r");
    check(Reply::Refused(Refusal::new("c", "m")), b"\x01\x01c\x01m");
    check(Reply::NoSession, b"\x02");
    check(Reply::NotKept, b"\x03");
    check(Reply::Passed, b"\x04");
    assert_eq!(
        encode_response(&1_u8).unwrap(),
        Reply::Response(vec![1].into()).encode().unwrap()
    );
    assert_eq!(Reply::decode(&Bytes::from_static(b"\x05")), None);
    assert_eq!(Reply::decode(&Bytes::new()), None);
}

proptest! {
    #[test]
    fn a_window_remembers_which_numbers_were_applied(seqs in proptest::collection::vec(1_u64..600, 1..400)) {
        let mut system = System::default();
        let session = open(&mut system, 1, TTL);
        let (mut applied, mut highest) = (std::collections::BTreeSet::new(), 0);
        for (index, seq) in (2..).zip(seqs) {
            let admission = propose(&mut system, index, session, seq, b"c");
            if seq + SESSION_WINDOW <= highest {
                prop_assert_eq!(admission, Admission::Passed);
            } else if applied.insert(seq) {
                prop_assert_eq!(admission, Admission::New);
            } else {
                prop_assert!(matches!(admission, Admission::Repeated(_)));
            }
            highest = highest.max(seq);
        }
        let bytes = encoded(&system);
        prop_assert_eq!(encoded(&restored(&bytes).unwrap()), bytes);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_a_state(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = restored(&bytes);
        let _ = Reply::decode(&bytes.clone().into());
        let _ = SessionTag::decode(&bytes.into());
    }
}

#[test]
fn a_snapshot_with_two_replies_of_one_proposal_or_of_one_entry_is_refused() {
    let mut system = System::default();
    let session = open(&mut system, 7, TTL);
    for (index, seq) in [(8, 1), (9, 2)] {
        assert_eq!(propose(&mut system, index, session, seq, b"c"), Admission::New);
    }
    let record = |seq: u64, index: u64| {
        let reply = Bytes::from((seq + 7).to_string());
        let kept = session::Kept {
            index,
            crc: body_crc(b"c"),
            reply,
        };
        let mut bytes = Vec::new();
        crate::records::write_record(&mut bytes, &(session.0, seq, kept)).unwrap();
        bytes
    };
    let whole = encoded(&system);
    let replies = [record(1, 8), record(2, 9)].concat();
    let mut members = Vec::new();
    crate::records::write_u64(&mut members, 0).unwrap();
    crate::records::write_record(&mut members, &Records::default().shut_out()).unwrap();
    for _ in 0..2 {
        crate::records::write_u64(&mut members, 0).unwrap();
    }
    let head = whole.strip_suffix(&members[..]).unwrap();
    let head = head.strip_suffix(&replies[..]).unwrap();
    assert!(restored(&[head, &replies, &members].concat()).is_ok());
    for (other, why) in [(record(1, 9), "proposal"), (record(2, 8), "entry")] {
        let doubled = [head, &record(1, 8), &other, &members].concat();
        let refused = restored(&doubled).unwrap_err();
        assert!(
            refused.to_string().contains("one proposal or of one entry"),
            "{why}: {refused}"
        );
    }
}

#[test]
fn what_an_older_release_would_have_refused_is_applied_as_it_stands_in_the_log() {
    let mut system = System::default();
    let command = SystemCommand::OpenSession {
        ttl_ms: MAX_SESSION_TTL_MS + 1,
    };
    assert!(command.check().is_err(), "it is not proposed by this release");
    let opened = system.apply(3, command).unwrap();
    assert_eq!(
        opened,
        SystemResponse::SessionOpened {
            session: SessionId(3)
        }
    );
    let refused = SystemResponse::Refused(Refusal::new("code", "one wording"));
    let other = SystemResponse::Refused(Refusal::new("code", "another wording"));
    assert_eq!(refused.without_texts(), other.without_texts());
}
