//! Frames read one after the other, where a batch is not worth its while.

use std::io;

use quinn::RecvStream;

use super::frame::{Decoder, FrameError, Part};

/// Longest piece that is taken from a stream at once.
const PIECE: usize = 64 << 10;

/// Why reading a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        Self::Io(error.into())
    }
}

/// The frames of a stream.
pub(super) struct Frames {
    stream: RecvStream,
    decoder: Decoder,
}

impl Frames {
    /// Frames of at most `limit` bytes, heads included.
    pub(super) fn new(stream: RecvStream, limit: usize) -> Self {
        let decoder = Decoder::new(limit);
        Self { stream, decoder }
    }

    /// The next part of a frame; `None` when the peer has finished the stream between two frames. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, StreamError> {
        loop {
            if let Some(part) = self.decoder.next()? {
                return Ok(Some(part));
            }
            match self.stream.read_chunk(PIECE, true).await? {
                Some(chunk) => self.decoder.push(chunk.bytes),
                None if self.decoder.is_between_frames() => return Ok(None),
                None => return Err(FrameError::Unfinished.into()),
            }
        }
    }
}
