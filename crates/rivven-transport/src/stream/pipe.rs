//! Both directions of one transfer, as frames: what a network has to provide.

use std::{fmt, io};

use futures_util::future::BoxFuture;

use super::Frame;

/// Why no frame comes or goes any more: the other end has given up, or the connection is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Sends frames in order. Dropped before [`FrameWriter::finish`], it tells the other end that nothing more
/// comes.
pub(crate) trait FrameWriter: Send {
    /// Sends one frame; waits while the other end does not read.
    fn write(&mut self, frame: Frame) -> BoxFuture<'_, Result<(), Broken>>;

    /// Says that the last frame was sent, which still arrives when this end is dropped.
    fn finish(&mut self);
}

/// Receives frames in order. Dropped, it tells the other end that nothing more is read.
pub(crate) trait FrameReader: Send {
    /// The next frame. Cancel safety: a cancelled read must not be followed by another.
    fn read(&mut self) -> BoxFuture<'_, Result<Frame, Broken>>;
}

/// One end of a transfer between two nodes.
pub struct TransferPipe {
    pub(crate) writer: Box<dyn FrameWriter>,
    pub(crate) reader: Box<dyn FrameReader>,
    /// Resolves when the other end has given up.
    pub(crate) gone: BoxFuture<'static, ()>,
    /// Whether another connection has taken the place of the one that carries this, which therefore ends.
    pub(crate) moved: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for TransferPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferPipe").finish_non_exhaustive()
    }
}
