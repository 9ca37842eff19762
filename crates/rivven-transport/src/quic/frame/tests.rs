//! Golden vectors, and the decoder against streams cut anywhere.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 16;

fn head(kind: Kind, len: usize) -> Head {
    Head {
        kind,
        method: 0x0102,
        call: 0x0304,
        len,
    }
}

fn trace() -> TraceContext {
    TraceContext::new([0xaa; 16], [0xbb; 8], 1).unwrap()
}

const fn request(trace: Option<TraceContext>) -> Kind {
    Kind::Request {
        deadline_ms: 0x0506,
        trace,
    }
}

fn encoded(head: Head, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    assert!(head.encode(&mut bytes));
    [&bytes[..], body].concat()
}

/// The layout of version 0 for every kind; see `docs/formats/wire.md`.
#[test]
fn golden_vector() {
    let check = |kind, len: usize, expected: &[u8]| {
        let head = head(kind, len);
        let bytes = encoded(head, &[]);
        assert_eq!(bytes, expected, "{kind:?}");
        assert_eq!(Head::decode(&bytes, LIMIT), Ok(Some((head, bytes.len()))));
    };
    let call = [1, 2, 0, 0, 0, 0, 0, 0, 3, 4];
    let plain = [&[0, 0, 0, 21, 0, 0], &call[..], &[0, 0, 5, 6]].concat();
    check(request(None), 5, &plain);
    let traced = [
        &[0, 0, 0, 46, 0, 1],
        &call[..],
        &[0, 0, 5, 6],
        &[0xaa; 16],
        &[0xbb; 8],
        &[1],
    ]
    .concat();
    check(request(Some(trace())), 5, &traced);
    check(Kind::Response, 5, &[&[0, 0, 0, 17, 1, 0], &call[..]].concat());
    check(Kind::Rejection, 5, &[&[0, 0, 0, 17, 2, 0], &call[..]].concat());
    check(Kind::Cancel, 0, &[&[0, 0, 0, 12, 3, 0], &call[..]].concat());
    check(Kind::Lost, 0, &[&[0, 0, 0, 12, 4, 0], &call[..]].concat());
}

#[test]
fn frames_that_nobody_sends_are_refused() {
    let check = |kind, change: fn(&mut Vec<u8>), expected| {
        let mut bytes = encoded(head(kind, 9), &[]);
        change(&mut bytes);
        assert_eq!(Head::decode(&bytes, LIMIT), Err(expected));
    };
    check(Kind::Response, |bytes| bytes[3] = 11, FrameError::TooShort);
    check(request(None), |bytes| bytes[3] = 15, FrameError::TooShort);
    check(
        request(Some(trace())),
        |bytes| bytes[3] = 40,
        FrameError::TooShort,
    );
    check(Kind::Response, |bytes| bytes[4] = 5, FrameError::Kind(5));
    check(request(None), |bytes| bytes[5] = 2, FrameError::Flags(2));
    check(
        Kind::Response,
        |bytes| bytes[5] = TRACED,
        FrameError::Flags(TRACED),
    );
}

#[test]
fn a_frame_over_the_limit_is_refused_with_its_prefix_and_nothing_is_kept_for_it() {
    let len = LIMIT + 1;
    let long = encoded(head(Kind::Response, len - PREFIX_LEN), &[]);
    let mut decoder = Decoder::new(LIMIT);
    decoder.push(long.into());
    let expected = FrameError::TooLong { len, limit: LIMIT };
    assert_eq!(decoder.next(), Err(expected));
    let mut bytes = BytesMut::new();
    assert!(!head(Kind::Response, usize::MAX).encode(&mut bytes));
    assert!(!head(request(None), u32::MAX as usize).encode(&mut bytes));
    assert!(bytes.is_empty());
}

/// A trace context whose ids are zero is none, as W3C Trace Context asks; the call goes on without it.
#[test]
fn a_forbidden_trace_context_is_ignored() {
    let mut bytes = encoded(head(request(Some(trace())), 0), &[]);
    bytes[PREFIX_LEN + DEADLINE_LEN..][..16].fill(0);
    let mut decoder = Decoder::new(LIMIT);
    decoder.push([&bytes[..], &bytes[..]].concat().into());
    for _ in 0..2 {
        let decoded = decoder.next().unwrap().unwrap();
        assert!(matches!(
            decoded,
            Part::Head(Head {
                kind: Kind::Request { trace: None, .. },
                len: 0,
                ..
            })
        ));
        decoder.skip();
    }
}

#[test]
fn a_small_body_is_a_slice_of_what_came_in_and_a_cut_one_is_put_together() {
    let bytes = Bytes::from(encoded(head(Kind::Response, 3), b"abc"));
    let mut decoder = Decoder::new(LIMIT);
    decoder.push(bytes.clone());
    assert!(matches!(decoder.next(), Ok(Some(Part::Head(_)))));
    let Ok(Some(Part::Body(_, body))) = decoder.next() else {
        panic!("no body");
    };
    assert_eq!(body.as_ptr(), bytes[PREFIX_LEN..].as_ptr());
    assert!(decoder.is_between_frames());
    for len in 1..bytes.len() {
        decoder.push(bytes.slice(..len));
        while decoder.next().unwrap().is_some() {}
        assert!(!decoder.is_between_frames(), "after {len} bytes");
        decoder.push(bytes.slice(len..));
        let mut last = None;
        while let Some(part) = decoder.next().unwrap() {
            last = Some(part);
        }
        assert_eq!(
            last,
            Some(Part::Body(head(Kind::Response, 3), Bytes::from_static(b"abc")))
        );
    }
}

fn frame() -> impl Strategy<Value = (Head, Vec<u8>)> {
    let traced = prop_oneof![Just(None), Just(Some(trace()))];
    let kind = prop_oneof![
        (any::<u32>(), traced).prop_map(|(deadline_ms, trace)| Kind::Request { deadline_ms, trace }),
        Just(Kind::Response),
        Just(Kind::Rejection),
        Just(Kind::Cancel),
        Just(Kind::Lost),
    ];
    let body = prop::collection::vec(any::<u8>(), 0..600);
    (kind, any::<u16>(), any::<u64>(), body).prop_map(|(kind, method, call, body)| {
        let len = body.len();
        let head = Head {
            kind,
            method,
            call,
            len,
        };
        (head, body)
    })
}

/// What a decoder makes of `bytes` cut at `cuts`, where it skips every body but those of `wanted` calls.
fn decode(bytes: &Bytes, cuts: &[usize], wanted: fn(u64) -> bool) -> Result<Vec<(Head, Bytes)>, FrameError> {
    let mut decoder = Decoder::new(LIMIT);
    let mut frames = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        let cut = cut.clamp(at, bytes.len());
        decoder.push(bytes.slice(at..cut));
        at = cut;
        while let Some(part) = decoder.next()? {
            match part {
                Part::Head(head) if !wanted(head.call) => decoder.skip(),
                Part::Head(_) => {}
                Part::Body(head, body) => frames.push((head, body)),
            }
        }
    }
    assert!(decoder.is_between_frames());
    Ok(frames)
}

proptest! {
    /// A failure prints the frames and cuts; proptest keeps the seed in `proptest-regressions`.
    #[test]
    fn however_a_stream_is_cut_its_frames_are_the_same(
        frames in prop::collection::vec(frame(), 0..12),
        mut cuts in prop::collection::vec(0..8_000_usize, 0..40),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(head, body)| encoded(*head, body)).collect();
        let bytes = Bytes::from(bytes);
        cuts.sort_unstable();
        let expected: Vec<_> = frames.into_iter().map(|(head, body)| (head, Bytes::from(body))).collect();
        prop_assert_eq!(decode(&bytes, &cuts, |_| true).unwrap(), expected.clone());
        let each: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(decode(&bytes, &each, |_| true).unwrap(), expected.clone());
        let even: Vec<_> = expected.into_iter().filter(|(head, _)| head.call % 2 == 0).collect();
        prop_assert_eq!(decode(&bytes, &cuts, |call| call % 2 == 0).unwrap(), even);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_make_the_decoder_keep_more_than_the_limit(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        small in any::<bool>(),
        limit in PREFIX_LEN..300,
    ) {
        let mut bytes = bytes;
        if small {
            // A length that passes the check, so that what follows it is reached.
            bytes.splice(..bytes.len().min(3), [0; 3]);
        }
        let mut decoder = Decoder::new(limit);
        for byte in bytes.chunks(3) {
            decoder.push(Bytes::copy_from_slice(byte));
            loop {
                match decoder.next() {
                    Ok(Some(Part::Head(head))) => prop_assert!(head.len + head.head_len() <= limit),
                    Ok(Some(Part::Body(head, body))) => prop_assert_eq!(body.len(), head.len),
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
                if let State::Body(_, body) = &decoder.state {
                    prop_assert!(body.capacity() <= limit.max(64));
                }
            }
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_no_other_way(bytes in prop::collection::vec(any::<u8>(), MAX_HEAD)) {
        if let Ok(Some((head, _))) = Head::decode(&bytes, LIMIT) {
            let again = encoded(head, &[]);
            let forgotten = matches!(head.kind, Kind::Request { trace: None, .. }) && bytes[5] == TRACED;
            prop_assert!(forgotten || bytes.starts_with(&again));
        }
    }
}
