//! Frames of a transfer: pure encoding. See `docs/formats/wire.md`, section Transfers.

use bytes::{BufMut, Bytes, BytesMut};

use super::MAX_CHUNK_BYTES;

/// Bytes of the length field, which counts everything behind it.
pub(crate) const LEN_BYTES: usize = 4;

/// Most bytes of a header, a receipt or a refusal.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 10;

/// Most bytes of a frame behind its length: kind, number of the transfer, body.
const MAX_FRAME_BYTES: usize = 1
    + 2
    + if MAX_CHUNK_BYTES > MAX_BODY_BYTES {
        MAX_CHUNK_BYTES
    } else {
        MAX_BODY_BYTES
    };

/// What the two ends of a transfer say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Sender: announces a transfer of kind `id`.
    Open { id: u16, header: Bytes },
    /// Receiver: send from this offset on.
    Start(u64),
    /// Sender: the bytes that come next. Never empty.
    Data(Bytes),
    /// Receiver: everything up to this offset has been taken.
    Held(u64),
    /// Sender: that was all.
    End,
    /// Receiver: done, and what it says about it.
    Receipt(Bytes),
    /// Receiver: a [`crate::Rejection`], postcard.
    Rejected(Bytes),
    /// Receiver: the handler ended without an answer; it may have acted.
    Lost,
}

/// A frame that no peer of this version sends. The transfer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame whose length does not fit its kind")]
    Malformed,
}

impl Frame {
    const fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => 0,
            Self::Start(_) => 1,
            Self::Data(_) => 2,
            Self::Held(_) => 3,
            Self::End => 4,
            Self::Receipt(_) => 5,
            Self::Rejected(_) => 6,
            Self::Lost => 7,
        }
    }

    /// Bytes that the frame carries for somebody else.
    fn body(&self) -> Bytes {
        match self {
            Self::Open { header: body, .. }
            | Self::Data(body)
            | Self::Receipt(body)
            | Self::Rejected(body) => body.clone(),
            Self::Start(_) | Self::Held(_) | Self::End | Self::Lost => Bytes::new(),
        }
    }

    /// The frame as bytes in two pieces, so that a chunk is not copied. `None` if it is longer than any
    /// frame may be.
    pub(crate) fn encode(&self) -> Option<[Bytes; 2]> {
        let body = self.body();
        let mut head = BytesMut::with_capacity(LEN_BYTES + 1 + 8);
        head.put_u32(0);
        head.put_u8(self.kind());
        match self {
            Self::Open { id, .. } => head.put_u16(*id),
            Self::Start(offset) | Self::Held(offset) => head.put_u64(*offset),
            Self::Data(_) | Self::End | Self::Receipt(_) | Self::Rejected(_) | Self::Lost => {}
        }
        let len = head.len() - LEN_BYTES + body.len();
        let counted = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME_BYTES)?;
        head.get_mut(..LEN_BYTES)?.copy_from_slice(&counted.to_be_bytes());
        Some([head.freeze(), body])
    }

    /// Bytes that follow the length field, checked before anything is allocated.
    pub(crate) fn len_of(prefix: [u8; LEN_BYTES]) -> Result<usize, FrameError> {
        let len = u32::from_be_bytes(prefix) as usize;
        if (1..=MAX_FRAME_BYTES).contains(&len) {
            Ok(len)
        } else {
            Err(FrameError::Length(len))
        }
    }

    /// Reads what follows the length field.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let (kind, rest) = bytes.split_first().ok_or(FrameError::Malformed)?;
        let body = bytes.slice_ref(rest);
        let offset = || {
            <[u8; 8]>::try_from(rest)
                .map(u64::from_be_bytes)
                .map_err(|_| FrameError::Malformed)
        };
        match kind {
            0 => {
                let (id, header) = rest.split_first_chunk::<2>().ok_or(FrameError::Malformed)?;
                let id = u16::from_be_bytes(*id);
                Ok(Self::Open {
                    id,
                    header: body.slice_ref(header),
                })
            }
            1 => offset().map(Self::Start),
            2 if !rest.is_empty() && rest.len() <= MAX_CHUNK_BYTES => Ok(Self::Data(body)),
            3 => offset().map(Self::Held),
            4 if rest.is_empty() => Ok(Self::End),
            5 if rest.len() <= MAX_BODY_BYTES => Ok(Self::Receipt(body)),
            6 if rest.len() <= MAX_BODY_BYTES => Ok(Self::Rejected(body)),
            7 if rest.is_empty() => Ok(Self::Lost),
            2 | 4..=7 => Err(FrameError::Malformed),
            kind => Err(FrameError::Kind(*kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(frame: &Frame) -> Vec<u8> {
        frame.encode().unwrap().concat()
    }

    fn kinds() -> [Frame; 8] {
        [
            Frame::Open {
                id: 0x0102,
                header: Bytes::from_static(b"hi"),
            },
            Frame::Start(3),
            Frame::Data(Bytes::from_static(b"abc")),
            Frame::Held(0x0405),
            Frame::End,
            Frame::Receipt(Bytes::from_static(b"ok")),
            Frame::Rejected(Bytes::from_static(b"no")),
            Frame::Lost,
        ]
    }

    /// The layout of version 0; see `docs/formats/wire.md`.
    #[test]
    fn golden_vector() {
        let bytes: Vec<_> = kinds().iter().map(whole).collect();
        let expected: [&[u8]; 8] = [
            b"\0\0\0\x05\0\x01\x02hi",
            b"\0\0\0\x09\x01\0\0\0\0\0\0\0\x03",
            b"\0\0\0\x04\x02abc",
            b"\0\0\0\x09\x03\0\0\0\0\0\0\x04\x05",
            b"\0\0\0\x01\x04",
            b"\0\0\0\x03\x05ok",
            b"\0\0\0\x03\x06no",
            b"\0\0\0\x01\x07",
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_frame_survives_its_bytes() {
        let largest = Frame::Data(vec![7; MAX_CHUNK_BYTES].into());
        for frame in kinds().into_iter().chain([largest]) {
            let bytes = Bytes::from(whole(&frame));
            let len = Frame::len_of(bytes[..LEN_BYTES].try_into().unwrap()).unwrap();
            assert_eq!(len, bytes.len() - LEN_BYTES);
            assert_eq!(Frame::decode(&bytes.slice(LEN_BYTES..)), Ok(frame));
        }
    }

    #[test]
    fn frames_that_nobody_sends_are_refused() {
        let check = |bytes: &'static [u8], expected| {
            assert_eq!(Frame::decode(&Bytes::from_static(bytes)), Err(expected));
        };
        check(&[], FrameError::Malformed);
        check(&[0, 1], FrameError::Malformed);
        check(&[1, 0], FrameError::Malformed);
        check(&[2], FrameError::Malformed);
        check(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::Malformed);
        check(&[4, 0], FrameError::Malformed);
        check(&[7, 0], FrameError::Malformed);
        check(&[8], FrameError::Kind(8));
        assert_eq!(Frame::len_of([0; 4]), Err(FrameError::Length(0)));
        let long = MAX_FRAME_BYTES + 1;
        let prefix = u32::try_from(long).unwrap().to_be_bytes();
        assert_eq!(Frame::len_of(prefix), Err(FrameError::Length(long)));
        assert_eq!(Frame::Data(vec![0; long].into()).encode(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_what_is_read_is_written_alike(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(&whole(&frame)[LEN_BYTES..], &bytes[..]);
            }
        }
    }
}
