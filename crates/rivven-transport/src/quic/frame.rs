//! Frames of calls: bytes in, frames out, and back. Nothing here waits or reads. See `docs/formats/wire.md`.

#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::trace::{TRACE_LEN, TraceContext};

/// Length, kind, flags, method, call number.
pub(super) const PREFIX_LEN: usize = 4 + 1 + 1 + 2 + 8;

/// Bytes of the prefix that its length field counts.
const COUNTED: usize = PREFIX_LEN - 4;

/// Bytes of the remaining time, which follow the prefix of a request.
const DEADLINE_LEN: usize = 4;

/// Longest request of who has no certificate.
const STRANGER_REQUEST: usize = 16 << 10;

/// The most that stands before a body.
pub(super) const MAX_HEAD: usize = PREFIX_LEN + DEADLINE_LEN + TRACE_LEN;

/// Flag of a request: a trace context follows the remaining time.
const TRACED: u8 = 0x01;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its body is the request.
    Request {
        /// Milliseconds until the caller stops waiting.
        deadline_ms: u32,
        /// Where the call belongs in the caller's trace.
        trace: Option<TraceContext>,
    },
    /// Its body is the response.
    Response,
    /// Its body is a [`crate::Rejection`], postcard.
    Rejection,
    /// The caller has stopped waiting. Empty.
    Cancel,
    /// The handler ended without an answer; it may have acted. Empty.
    Lost,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Request { .. } => 0,
            Self::Response => 1,
            Self::Rejection => 2,
            Self::Cancel => 3,
            Self::Lost => 4,
        }
    }

    const fn flags(self) -> u8 {
        match self {
            Self::Request { trace: Some(_), .. } => TRACED,
            Self::Request { trace: None, .. }
            | Self::Response
            | Self::Rejection
            | Self::Cancel
            | Self::Lost => 0,
        }
    }
}

/// What stands before the body of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) method: u16,
    /// Chosen by the caller, unique among the stream's calls in flight.
    pub(super) call: u64,
    /// Bytes of the body.
    pub(super) len: usize,
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
    #[error("the stream ended within a frame")]
    Unfinished,
}

impl Head {
    /// Bytes of a request's head, with or without a trace context.
    pub(super) const fn request_len(traced: bool) -> usize {
        PREFIX_LEN + DEADLINE_LEN + if traced { TRACE_LEN } else { 0 }
    }

    /// Bytes before the body.
    const fn head_len(self) -> usize {
        match self.kind {
            Kind::Request { trace, .. } => Self::request_len(trace.is_some()),
            Kind::Response | Kind::Rejection | Kind::Cancel | Kind::Lost => PREFIX_LEN,
        }
    }

    /// Appends the head to `out`. `false`, and nothing is written, if the length field cannot say so much.
    pub(super) fn encode(self, out: &mut BytesMut) -> bool {
        let counted = (self.head_len() - 4).checked_add(self.len);
        let Some(counted) = counted.and_then(|counted| u32::try_from(counted).ok()) else {
            return false;
        };
        out.reserve(MAX_HEAD);
        out.put_u32(counted);
        out.put_u8(self.kind.to_byte());
        out.put_u8(self.kind.flags());
        out.put_u16(self.method);
        out.put_u64(self.call);
        if let Kind::Request { deadline_ms, trace } = self.kind {
            out.put_u32(deadline_ms);
            if let Some(trace) = trace {
                out.put_slice(&trace.encode());
            }
        }
        true
    }

    /// Reads the head that `bytes` begins with, and says how long it is; `None` if there are too few.
    ///
    /// The length is checked against `limit`, which counts the whole frame, as soon as the prefix is there.
    fn decode(bytes: &[u8], limit: usize) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((prefix, mut rest)) = bytes.split_first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, kind, flags, m0, m1, call @ ..] = *prefix;
        let counted = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let len = counted.saturating_add(4);
        if len > limit {
            return Err(FrameError::TooLong { len, limit });
        }
        let mut left = counted.checked_sub(COUNTED).ok_or(FrameError::TooShort)?;
        let traced = match (kind, flags) {
            (0..=4, 0) => false,
            (0, TRACED) => true,
            (0..=4, flags) => return Err(FrameError::Flags(flags)),
            (kind, _) => return Err(FrameError::Kind(kind)),
        };
        let mut head_len = PREFIX_LEN;
        let kind = match kind {
            0 => {
                head_len = Self::request_len(traced);
                let own = head_len - PREFIX_LEN;
                left = left.checked_sub(own).ok_or(FrameError::TooShort)?;
                if rest.len() < own {
                    return Ok(None);
                }
                Kind::Request {
                    deadline_ms: rest.get_u32(),
                    trace: rest
                        .first_chunk()
                        .filter(|_| traced)
                        .and_then(TraceContext::decode),
                }
            }
            1 => Kind::Response,
            2 => Kind::Rejection,
            3 => Kind::Cancel,
            _ => Kind::Lost,
        };
        let head = Self {
            kind,
            method: u16::from_be_bytes([m0, m1]),
            call: u64::from_be_bytes(call),
            len: left,
        };
        Ok(Some((head, head_len)))
    }
}

/// Longest frame of who has no certificate, header included.
pub(super) const fn max_stranger_frame() -> usize {
    MAX_HEAD + STRANGER_REQUEST
}

/// A part of a frame, as the [`Decoder`] hands it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A frame begins. Its body is next, unless [`Decoder::skip`] says that nobody wants it.
    Head(Head),
    /// The whole body of the frame that began last. A small one may be a slice of the bytes that came in.
    Body(Head, Bytes),
}

/// Cuts a stream of bytes into frames, however the stream was cut on its way.
///
/// Keeps what came in last, at most one head, and the part that is there of one body, whose length has been
/// checked before a byte of it is kept.
#[derive(Debug)]
pub(super) struct Decoder {
    limit: usize,
    /// What came in and has not been looked at.
    input: Bytes,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between two frames, or within a head of which this much is there.
    Head(BytesMut),
    /// The head was handed out; nothing of the body has been taken.
    Begun(Head),
    /// The body came in pieces, and these are not all of them.
    Body(Head, BytesMut),
    /// So many bytes are still to be dropped.
    Skipping(usize),
}

impl Decoder {
    /// A decoder of frames of at most `limit` bytes, heads included.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            input: Bytes::new(),
            state: State::Head(BytesMut::new()),
        }
    }

    /// Takes what comes next in the stream. What came before should have been taken out by [`Self::next`].
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.input.is_empty() {
            self.input = chunk;
        } else {
            self.input = [&self.input[..], &chunk[..]].concat().into();
        }
    }

    /// The next part, `None` if more bytes are needed. After an error the stream makes no sense any more.
    pub(super) fn next(&mut self) -> Result<Option<Part>, FrameError> {
        loop {
            match &mut self.state {
                State::Head(partial) => {
                    let Some(head) = take_head(partial, &mut self.input, self.limit)? else {
                        return Ok(None);
                    };
                    self.state = State::Begun(head);
                    return Ok(Some(Part::Head(head)));
                }
                State::Begun(head) => {
                    let head = *head;
                    if self.input.len() < head.len {
                        self.state = State::Body(head, BytesMut::with_capacity(head.len));
                        continue;
                    }
                    let body = self.input.split_to(head.len);
                    self.state = State::Head(BytesMut::new());
                    return Ok(Some(Part::Body(head, body)));
                }
                State::Body(head, body) => {
                    let head = *head;
                    let missing = head.len.saturating_sub(body.len());
                    body.extend_from_slice(&self.input.split_to(missing.min(self.input.len())));
                    if body.len() < head.len {
                        return Ok(None);
                    }
                    let body = std::mem::take(body).freeze();
                    self.state = State::Head(BytesMut::new());
                    return Ok(Some(Part::Body(head, body)));
                }
                State::Skipping(left) => {
                    let step = (*left).min(self.input.len());
                    self.input.advance(step);
                    *left -= step;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Head(BytesMut::new());
                }
            }
        }
    }

    /// Drops the body of the frame whose head was handed out last, without keeping any of it.
    pub(super) fn skip(&mut self) {
        if let State::Begun(head) = self.state {
            self.state = State::Skipping(head.len);
        }
    }

    /// Whether the stream may end here: between two frames.
    pub(super) fn is_between_frames(&self) -> bool {
        self.input.is_empty() && matches!(&self.state, State::Head(partial) if partial.is_empty())
    }
}

/// Takes a head from `partial` and `input` together, or moves what is there of one to `partial`.
fn take_head(partial: &mut BytesMut, input: &mut Bytes, limit: usize) -> Result<Option<Head>, FrameError> {
    if partial.is_empty() {
        if let Some((head, used)) = Head::decode(input, limit)? {
            input.advance(used);
            return Ok(Some(head));
        }
        partial.extend_from_slice(&input.split_to(input.len()));
        return Ok(None);
    }
    let before = partial.len();
    let look = input.len().min(MAX_HEAD.saturating_sub(before));
    partial.extend_from_slice(input.get(..look).unwrap_or(&[]));
    let head = Head::decode(partial, limit)?;
    let used = head.map_or(look, |(_, used)| used.saturating_sub(before));
    input.advance(used.min(input.len()));
    Ok(head.map(|(head, _)| head))
}

/// Decodes `bytes` as the stream of one class, for the fuzzer: the number of whole frames up to the end or
/// the first error.
pub(super) fn count(bytes: &[u8], limit: usize) -> usize {
    let mut decoder = Decoder::new(limit);
    let mut frames = 0;
    // In pieces, so that heads and bodies are cut in every place.
    for piece in bytes.chunks(7).map(Bytes::copy_from_slice) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(Part::Body(..))) => frames += 1,
                Ok(Some(Part::Head(_))) => {}
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}
