//! The bytes of messages, and what does not pass.

use super::{
    client::{WireQuery, WireQueryResponse, WireWait},
    *,
};
use crate::Consistency;

/// The bytes of version 0, written out: a change of these is a change of the protocol.
#[test]
fn the_messages_are_those_of_version_0() {
    let check = |bytes: Result<Vec<u8>, postcard::Error>, expected: &[u8]| {
        assert_eq!(bytes.unwrap(), expected);
    };
    let request = VoteRequest::new(vote(3, 2, false), Some(log_id(2, 7)));
    check(
        postcard::to_allocvec(&WireVoteRequest::from(request)),
        &[3, 2, 0, 1, 2, 7, 0],
    );
    let append = AppendEntriesRequest {
        vote: vote(3, 2, true),
        prev_log_id: None,
        entries: vec![LogEntry {
            log_id: log_id(3, 0),
            payload: EntryPayload::Normal(LogCommand {
                namespace: 1,
                body: Bytes::from_static(b"ab"),
            }),
        }],
        leader_commit: None,
    };
    let wire = WireAppend::from(append);
    check(
        postcard::to_allocvec(&wire),
        &[3, 2, 1, 0, 0, 1, 3, 0, 1, 1, 2, b'a', b'b'],
    );
    check(postcard::to_allocvec(&WireAppendResponse::Conflict), &[1]);
    let done = WireProposeResponse::Done {
        reply: Bytes::from_static(b"r"),
    };
    check(postcard::to_allocvec(&done), &[0, 1, b'r']);
    check(
        postcard::to_allocvec(&WireProposeResponse::Held { ticket: 300 }),
        &[4, 0xac, 2],
    );
    let query = WireQuery {
        consistency: Consistency::Stale,
        wait: None,
        body: Bytes::from_static(b"q"),
    };
    check(postcard::to_allocvec(&query), &[2, 0, 1, b'q']);
    let wait = WireWait {
        beyond: Some(5),
        at_most_ms: 300,
    };
    let query = WireQuery {
        wait: Some(wait),
        ..query
    };
    check(postcard::to_allocvec(&query), &[2, 1, 1, 5, 0xac, 2, 1, b'q']);
    let answer = WireQueryResponse::Answer {
        applied_index: Some(5),
        body: Bytes::from_static(b"a"),
    };
    check(postcard::to_allocvec(&answer), &[0, 1, 5, 1, b'a']);
    check(
        postcard::to_allocvec(&WireReadIndexResponse::Index(300)),
        &[0, 0xac, 2],
    );
}

/// What decides elections must not wait behind entries, snapshots and callers.
#[test]
fn elections_and_heartbeats_have_a_class_of_their_own() {
    fn check<M: Method>(id: u16, class: Class) {
        assert_eq!((M::ID, M::CLASS), (id, class), "{}", M::NAME);
    }
    check::<RequestVote>(0x0100, Class::Control);
    check::<RequestPreVote>(0x0101, Class::Control);
    check::<AppendEntries>(0x0102, Class::Raft);
    check::<Heartbeat>(0x0103, Class::Control);
    check::<TransferLeader>(0x0107, Class::Control);
    check::<ReadIndex>(0x0111, Class::Client);
}

#[test]
fn requests_come_back_as_they_were() {
    let entries = |indexes: std::ops::Range<u64>| {
        let entry = |index| LogEntry {
            log_id: log_id(3, index),
            payload: EntryPayload::Blank,
        };
        indexes.map(entry).collect::<Vec<_>>()
    };
    let request = AppendEntriesRequest {
        vote: vote(3, 2, true),
        prev_log_id: Some(log_id(2, 4)),
        entries: entries(5..8),
        leader_commit: Some(log_id(2, 3)),
    };
    let bytes = postcard::to_allocvec(&WireAppend::from(request.clone())).unwrap();
    let wire: WireAppend = postcard::from_bytes(&bytes).unwrap();
    let back = AppendEntriesRequest::try_from(wire).unwrap();
    assert_eq!(format!("{back:?}"), format!("{request:?}"));
    let gap = AppendEntriesRequest {
        entries: entries(6..8),
        ..request
    };
    assert!(AppendEntriesRequest::try_from(WireAppend::from(gap)).is_err());
}
