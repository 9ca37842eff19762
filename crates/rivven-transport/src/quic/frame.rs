//! Frames of calls: pure encoding, and reading from any byte stream. See `docs/formats/wire.md`.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Length, kind, flags, method, correlation id.
pub(super) const PREFIX_LEN: usize = 4 + 1 + 1 + 2 + 8;

/// Bytes of the prefix that its length field counts.
const COUNTED: usize = PREFIX_LEN - 4;

/// Bytes of the remaining time, the first of a request's rest.
pub(super) const DEADLINE_LEN: usize = 4;

/// Longest request of who has no certificate.
const STRANGER_REQUEST: usize = 16 << 10;

/// Step in which an unwanted body is read and dropped.
const DISCARD_STEP: usize = 16 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Remaining milliseconds (4 bytes), then the request.
    Request,
    /// The response.
    Response,
    /// A [`crate::Rejection`], postcard.
    Rejection,
    /// The caller has stopped waiting. Empty.
    Cancel,
    /// The handler ended without an answer; it may have acted. Empty.
    Lost,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Response => 1,
            Self::Rejection => 2,
            Self::Cancel => 3,
            Self::Lost => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Request),
            1 => Some(Self::Response),
            2 => Some(Self::Rejection),
            3 => Some(Self::Cancel),
            4 => Some(Self::Lost),
            _ => None,
        }
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) kind: Kind,
    pub(super) method: u16,
    /// Chosen by the caller, unique among the stream's calls in flight.
    pub(super) call: u64,
    /// Bytes that follow the prefix.
    pub(super) rest: usize,
}

/// A frame that no peer of this version sends. The connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame shorter than its header")]
    TooShort,
    #[error("a frame of {len} bytes, the limit is {limit}")]
    TooLong { len: usize, limit: usize },
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame with unknown flags {0:#04x}")]
    Flags(u8),
    #[error("a frame that only the other side sends")]
    Direction,
    #[error("a call number that is in use")]
    DuplicateCall,
}

/// Why reading a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Prefix {
    /// `None` if the frame is longer than its length field can say.
    pub(super) fn encode(self) -> Option<[u8; PREFIX_LEN]> {
        let len = u32::try_from(self.rest.checked_add(COUNTED)?).ok()?;
        let mut bytes = [0; PREFIX_LEN];
        let mut out = &mut bytes[..];
        out.put_u32(len);
        out.put_u8(self.kind.to_byte());
        out.put_u8(0);
        out.put_u16(self.method);
        out.put_u64(self.call);
        Some(bytes)
    }

    /// Reads a prefix whose frame may have `limit` bytes.
    pub(super) fn decode(bytes: &[u8; PREFIX_LEN], limit: usize) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, flags, m0, m1, call @ ..] = *bytes;
        let counted = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let rest = counted.checked_sub(COUNTED).ok_or(FrameError::TooShort)?;
        let len = counted.saturating_add(4);
        if len > limit {
            return Err(FrameError::TooLong { len, limit });
        }
        if flags != 0 {
            return Err(FrameError::Flags(flags));
        }
        Ok(Self {
            kind: Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?,
            method: u16::from_be_bytes([m0, m1]),
            call: u64::from_be_bytes(call),
            rest,
        })
    }
}

/// Longest frame of who has no certificate, header included.
pub(super) const fn max_stranger_frame() -> usize {
    PREFIX_LEN + DEADLINE_LEN + STRANGER_REQUEST
}

/// The next prefix; `None` when the peer has finished the stream between two frames.
pub(super) async fn read_prefix(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<Prefix>, StreamError> {
    let mut bytes = [0; PREFIX_LEN];
    let first = stream.read(&mut bytes).await?;
    if first == 0 {
        return Ok(None);
    }
    if let Some(missing) = bytes.get_mut(first..) {
        stream.read_exact(missing).await?;
    }
    Ok(Some(Prefix::decode(&bytes, limit)?))
}

/// The next `len` bytes, whose number the caller has checked.
pub(super) async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    len: usize,
) -> Result<Bytes, StreamError> {
    let mut body = BytesMut::with_capacity(len);
    while body.len() < len {
        let missing = len - body.len();
        if stream.read_buf(&mut (&mut body).limit(missing)).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(body.freeze())
}

/// Drops the next `len` bytes without keeping them.
pub(super) async fn discard(
    stream: &mut (impl AsyncRead + Unpin),
    mut len: usize,
) -> Result<(), StreamError> {
    while len > 0 {
        let step = len.min(DISCARD_STEP);
        read_body(stream, step).await?;
        len -= step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn prefix(kind: Kind, rest: usize) -> Prefix {
        Prefix {
            kind,
            method: 0x0102,
            call: 0x0304,
            rest,
        }
    }

    /// The layout of version 0; see `docs/formats/wire.md`.
    #[test]
    fn golden_vector() {
        let bytes = prefix(Kind::Rejection, 5).encode().unwrap();
        assert_eq!(bytes, [0, 0, 0, 17, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
    }

    #[test]
    fn every_kind_survives_its_byte() {
        for kind in [
            Kind::Request,
            Kind::Response,
            Kind::Rejection,
            Kind::Cancel,
            Kind::Lost,
        ] {
            let sent = prefix(kind, LIMIT - PREFIX_LEN);
            assert_eq!(Prefix::decode(&sent.encode().unwrap(), LIMIT), Ok(sent));
        }
    }

    #[test]
    fn frames_that_nobody_sends_are_refused() {
        let check = |change: fn(&mut [u8; PREFIX_LEN]), expected| {
            let mut bytes = prefix(Kind::Request, 9).encode().unwrap();
            change(&mut bytes);
            assert_eq!(Prefix::decode(&bytes, LIMIT), Err(expected));
        };
        check(|bytes| bytes[3] = 11, FrameError::TooShort);
        check(|bytes| bytes[4] = 5, FrameError::Kind(5));
        check(|bytes| bytes[5] = 1, FrameError::Flags(1));
        let len = LIMIT + 1;
        let long = prefix(Kind::Request, len - PREFIX_LEN).encode().unwrap();
        let expected = FrameError::TooLong { len, limit: LIMIT };
        assert_eq!(Prefix::decode(&long, LIMIT), Err(expected));
        assert_eq!(prefix(Kind::Request, usize::MAX).encode(), None);
    }

    #[tokio::test]
    async fn a_stream_may_end_between_frames_and_nowhere_else() {
        let mut frame = prefix(Kind::Request, 3).encode().unwrap().to_vec();
        frame.extend(b"abc");
        for len in 0..=frame.len() {
            let mut stream = &frame[..len];
            let prefix = read_prefix(&mut stream, LIMIT).await;
            match len {
                0 => assert!(prefix.unwrap().is_none()),
                1..PREFIX_LEN => assert!(prefix.is_err()),
                _ => {
                    let body = read_body(&mut stream, prefix.unwrap().unwrap().rest).await;
                    assert_eq!(body.ok().as_deref(), (len == frame.len()).then_some(&b"abc"[..]));
                }
            }
        }
        discard(&mut &frame[..], frame.len()).await.unwrap();
        assert!(discard(&mut &frame[..], frame.len() + 1).await.is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_pass_the_limit(bytes: [u8; PREFIX_LEN], limit in 0..LIMIT) {
            if let Ok(prefix) = Prefix::decode(&bytes, limit) {
                prop_assert!(prefix.rest + PREFIX_LEN <= limit);
                prop_assert_eq!(prefix.encode(), Some(bytes));
            }
        }
    }
}
