//! Bounds of the network inside one process: those of the real one.

use std::time::Duration;

use crate::Class;

/// Largest frame of a class, header included.
pub(super) const fn max_frame(class: Class) -> usize {
    match class {
        Class::Control => 1 << 20,
        Class::Raft | Class::Client => 8 << 20,
        // A snapshot chunk of 1 MiB and what surrounds it.
        Class::Bulk => (1 << 20) + (64 << 10),
    }
}

/// Bytes of a frame beside its body: what bandwidth is charged for a frame without one.
pub(super) const FRAME_OVERHEAD: usize = 20;

/// Calls in flight to one peer in one class; further ones wait in a queue.
pub(super) const MAX_IN_FLIGHT: usize = 256;

/// Bytes of requests in flight to one peer in one class; further ones wait.
pub(super) const MAX_IN_FLIGHT_BYTES: usize = 32 << 20;

/// Calls that may wait for their turn in one class; further ones are refused as overloaded.
pub(super) const MAX_WAITING: usize = 1_024;

/// Silence after which a connection is dead.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Pause between looks at whether a dead connection can be made again.
pub(super) const RECONNECT: Duration = Duration::from_millis(50);

/// Frames under way to one node; the newest beyond that is lost, as by a full socket buffer.
pub(super) const MAX_UNDER_WAY: usize = 65_536;
