//! Bounds of the network inside one process, beside those that every network has.

use std::time::Duration;

pub(super) use crate::limits::{IDLE_TIMEOUT, MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_WAITING, max_frame};

/// Bytes of a frame beside its body: what bandwidth is charged for a frame without one.
pub(super) const FRAME_OVERHEAD: usize = 20;

/// Pause between looks at whether a dead connection can be made again.
pub(super) const RECONNECT: Duration = Duration::from_millis(50);

/// Frames under way to one node; the newest beyond that is lost, as by a full socket buffer, and counted in
/// [`MemoryStats::overflowed`](super::MemoryStats::overflowed).
pub(super) const MAX_UNDER_WAY: usize = 65_536;

/// Pause after which a lost frame of a stream is sent again.
pub(super) const RETRANSMIT: Duration = Duration::from_millis(50);

/// Frames of a stream under way; a writer beyond that waits for the reader.
pub(super) const STREAM_FRAMES: usize = 256;
