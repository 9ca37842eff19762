//! Sealed datagrams: short messages between members that no stranger can read, alter or replay.
//!
//! Pure: bytes in, bytes out. The layout is described in `docs/formats/wire.md`. A group key keeps
//! strangers out and senders apart; it cannot stop a member from writing in another member's name, so
//! what a datagram says is a hint and never a decision.
//!
//! Keys come from a [`KeyRing`]: a node seals under its current key and opens under the previous, the
//! current and the next one, so that members may change keys one after the other while they talk.
//! [`GossipKeys`] is the handle through which a ring is replaced under a live sealer and opener.

mod header;
mod key;
mod keys;
mod open;
mod ring;
mod seal;
#[cfg(test)]
mod tests;
mod window;

pub use header::SEAL_OVERHEAD;
pub use key::{GossipKey, GossipKeyError};
pub use keys::GossipKeys;
pub use open::{DatagramOpener, OpenError};
pub(crate) use ring::MAX_RING_TEXT;
pub use ring::{EpochKey, KeyRing, RingError, RingVersion};
pub use seal::{DatagramSealer, SealError};

/// Longest sealed datagram: fits an Ethernet frame through the usual tunnels without fragments.
pub const MAX_DATAGRAM: usize = 1_400;

/// Longest plaintext of a sealed datagram.
pub const MAX_PLAINTEXT: usize = MAX_DATAGRAM - SEAL_OVERHEAD;
