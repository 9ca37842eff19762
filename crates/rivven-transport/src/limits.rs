//! Bounds that hold on every network, in memory as over QUIC, so that callers meet the same refusals.

use std::time::Duration;

use crate::Class;

/// Largest frame of a class, header included; checked before anything is allocated.
pub(crate) const fn max_frame(class: Class) -> usize {
    match class {
        Class::Control => 1 << 20,
        Class::Raft | Class::Client => 8 << 20,
        // A snapshot chunk of 1 MiB and what surrounds it.
        Class::Bulk => (1 << 20) + (64 << 10),
    }
}

/// Room for the head of a frame, trace context included.
pub(crate) const HEAD_ROOM: usize = 64;

/// Longest code and longest explanation of a rejection; longer ones are cut.
pub(crate) const MAX_REJECTION_TEXT: usize = 4 << 10;

/// Calls in flight to one peer in one class; further ones wait in a queue.
pub(crate) const MAX_IN_FLIGHT: usize = 256;

/// Bytes of requests in flight to one peer in one class; further ones wait.
pub(crate) const MAX_IN_FLIGHT_BYTES: usize = 32 << 20;

/// Calls that may wait for their turn in one class, or for a connection to one peer; further ones are refused as
/// overloaded.
pub(crate) const MAX_WAITING: usize = 1_024;

/// Silence after which a connection is dead.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Longest life of a call, whatever deadline it is given: one hour.
///
/// Its caller gets [`CallError::Deadline`](crate::CallError::Deadline) then, and no handler runs for longer.
pub const MAX_CALL_TIME: Duration = Duration::from_secs(3_600);
