//! Bounds and timers of the QUIC transport. Everything here is a constant on purpose: two nodes of one
//! cluster must agree on most of it.

use std::time::Duration;

pub(super) use crate::limits::{
    IDLE_TIMEOUT, MAX_CALL_TIME, MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_WAITING, max_frame,
};

/// Host names looked up at a time, each on a thread that is kept only while there is work.
pub(super) const MAX_LOOKUPS: usize = 4;

/// Largest encoded rejection.
pub(super) const MAX_REJECTION: usize = 16 << 10;

/// Frames queued in one lane above which no cancellation is queued: every call in flight, and as many more.
pub(super) const MAX_QUEUED: usize = 2 * MAX_IN_FLIGHT;

/// Frames that one write gathers.
pub(super) const MAX_BATCH: usize = 256;

/// Bytes after which a write gathers no further frame.
pub(super) const MAX_BATCH_BYTES: usize = 256 << 10;

/// Pieces, of one packet each, that are taken from a stream at once.
pub(super) const READ_CHUNKS: usize = 32;

/// Bodies up to this size are copied next to their header; larger ones are written where they are.
pub(super) const COPY_BELOW: usize = 4 << 10;

/// Time for the handshake and hello of who dials.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for a peer's answer to this node's hello, once the connection is made. Longer than [`HELLO_TIMEOUT`]: the
/// peer may call from its answer on, and what it has asked would be in doubt if this node gave up before it has
/// heard the answer. So the peer must have given up first.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for one attempt to connect, look-up included. Short, because each attempt begins with quick
/// retransmissions, and a peer that has just come back should not have to wait for a slow one.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Pause between two packets that ask whether a peer listens by now, while a call waits for it: during the first
/// attempts.
pub(super) const TAP_INTERVAL: Duration = Duration::from_millis(10);

/// The same during later attempts, and in the pauses between attempts: 30 kB/s for each peer that somebody waits for.
pub(super) const SLOW_TAP_INTERVAL: Duration = Duration::from_millis(40);

/// Attempts in a row during which [`TAP_INTERVAL`] holds: 3 s, a quick restart.
pub(super) const QUICK_ATTEMPTS: u32 = 2;

/// Peers tapped at by one node at a time, with packets of 1,200 bytes.
pub(super) const MAX_TAPS: usize = 16;

/// Longest time for which a transfer waits for an earlier one of its sender to end here too: the sender knows of
/// an end before this node has put everything away. Shorter than [`HELLO_TIMEOUT`], which a transfer has to
/// announce itself.
pub(super) const ROOM_PATIENCE: Duration = Duration::from_millis(250);

/// Longest time for which a connection that was left is kept for the calls in flight.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Connections with one peer that are being left at a time; beyond it the oldest is closed.
pub(super) const MAX_DRAINING: usize = 8;

/// Time for calls to move to a new connection when the authority behind the old one is no longer believed.
pub(super) const HANDOVER_TIME: Duration = Duration::from_secs(1);

/// Pause between two lines of the log about the same cause of refusal at the same address.
pub(super) const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Addresses and causes of refusal told apart in the log; further ones share one line.
pub(super) const MAX_REFUSAL_KEYS: usize = 256;

/// Time for close frames to leave after a shutdown.
pub(super) const CLOSE_TIME: Duration = Duration::from_millis(300);

/// Bounds of the pause between attempts; the pause is random below the current bound.
pub(super) const MIN_BACKOFF: Duration = Duration::from_millis(50);

/// See [`MIN_BACKOFF`].
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A connection that lives shorter than this counts as a failed attempt.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Pause after which an idle connection is probed.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Pause between pings on a connection that is in use.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(150);

/// Pings without any packet from the peer after which a connection is closed: a dead peer is noticed within
/// `(MAX_MISSED_PINGS + 1) * PING_INTERVAL`, which is 600 ms.
pub(super) const MAX_MISSED_PINGS: u32 = 3;

/// Pauses without a call, 6 s of them, after which a connection is not pinged and only [`IDLE_TIMEOUT`]
/// watches it.
pub(super) const QUIET_AFTER: u32 = 40;

/// Round-trip time assumed before the first measurement.
pub(super) const INITIAL_RTT: Duration = Duration::from_millis(20);

/// Incoming handshakes at a time; further ones are turned away unread.
pub(super) const MAX_HANDSHAKES: usize = 256;

/// Incoming handshakes at a time above which a peer must first prove its address (RFC 9000, section 8.1.2).
pub(super) const RETRY_ABOVE: usize = 64;

/// Streams a peer may have open on a connection: hello, one per class, and transfers.
pub(super) const MAX_STREAMS: u32 = 8;

/// Flow-control window of a stream.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;

/// Flow-control window of a connection: that of all its streams, so that readers who stand still on some keep
/// nothing from the others. Filled only by a peer whose calls are not read.
pub(super) const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// The most bytes a connection keeps for retransmission.
pub(super) const SEND_WINDOW: u64 = 16 << 20;

/// Size asked for the socket's buffers.
pub(super) const SOCKET_BUFFER: usize = 4 << 20;

/// Peers this node remembers.
pub(super) const MAX_PEERS: usize = 10_000;

/// Addresses of one host name that are tried.
pub(super) const MAX_ADDRESSES: usize = 8;

/// Different host names that are being looked up, or wait for a thread; further ones fail at once.
pub(super) const MAX_NAMES: usize = 64;

/// Connections of operators and clients that a node has at a time; further ones are refused.
///
/// What a peer may have in flight is bounded for each of its connections, and so, with the bound that follows,
/// for each certificate.
pub(super) const MAX_GUESTS: usize = 1_024;

/// Connections of one operator or client, by the name in its certificate: an eighth, so that none shuts out the
/// others.
pub(super) const MAX_GUESTS_OF_ONE: usize = MAX_GUESTS / 8;

/// Connections of members whose certificate has expired. Each lives for [`RENEWAL_TIME`].
pub(super) const MAX_EXPIRED: usize = 1_024;

/// Connections of one such member: it needs one, and may not have noticed the end of an earlier one.
pub(super) const MAX_EXPIRED_OF_ONE: usize = 4;

/// Connections that only ask who this node is. Each lives for [`HELLO_TIMEOUT`].
pub(super) const MAX_ASKING: usize = 1_024;

/// Connections by which one member asks.
pub(super) const MAX_ASKING_OF_ONE: usize = 16;

/// Connections of those without a certificate at a time.
pub(super) const MAX_STRANGERS: usize = 16;

/// Life of a connection of one without a certificate.
pub(super) const STRANGER_TIME: Duration = Duration::from_secs(10);

/// Refused attempts to join that one source has in hand.
pub(super) const ATTEMPTS_IN_HAND: u32 = 5;

/// Time in which a source earns one of them back.
pub(super) const ATTEMPT_COST: Duration = Duration::from_secs(10);

/// Sources of refused attempts that are remembered.
pub(super) const MAX_SOURCES: usize = 1_024;

/// Life of a connection made with an expired certificate.
pub(super) const RENEWAL_TIME: Duration = Duration::from_secs(10);
