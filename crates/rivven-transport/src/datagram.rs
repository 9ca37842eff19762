//! Sealed datagrams: short messages between members that no stranger can read, alter or replay.
//!
//! Pure: bytes in, bytes out. The layout is described in `docs/formats/wire.md`. A group key keeps
//! strangers out and senders apart; it cannot stop a member from writing in another member's name, so
//! what a datagram says is a hint and never a decision.

mod key;
mod open;
mod seal;
#[cfg(test)]
mod tests;
mod window;

pub use key::{GossipKey, GossipKeyError};
pub use open::{DatagramOpener, OpenError};
pub use seal::{DatagramSealer, SealError};

use rivven_crypto::{AeadKey, hkdf_sha256};
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};
use zeroize::Zeroizing;

use crate::PeerIdentity;

/// Longest sealed datagram: fits an Ethernet frame through the usual tunnels without fragments.
pub const MAX_DATAGRAM: usize = 1_400;

/// Bytes that sealing adds: the header and the tag.
pub const SEAL_OVERHEAD: usize = HEADER_LEN + AeadKey::TAG_LEN;

/// Longest plaintext of a sealed datagram.
pub const MAX_PLAINTEXT: usize = MAX_DATAGRAM - SEAL_OVERHEAD;

/// Version of the layout; 0 is unstable and will be refused by later releases.
const VERSION: u8 = 0;

/// Version, node id, instance id, boot epoch, counter.
const HEADER_LEN: usize = 1 + 8 + 16 + 8 + 8;

/// Separates these keys from any other use of the group key.
const SUBKEY_LABEL: &[u8] = b"rivven sealed datagram 0";

/// The clear part of a datagram: who claims to send it, and the number under which it is sealed.
struct Header {
    sender: PeerIdentity,
    counter: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let fields = [VERSION]
            .into_iter()
            .chain(self.sender.node.to_be_bytes())
            .chain(self.sender.instance.to_bytes())
            .chain(self.sender.boot_epoch.0.to_be_bytes())
            .chain(self.counter.to_be_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, OpenError> {
        let (version, rest) = bytes.split_first().ok_or(OpenError::TooShort)?;
        if *version != VERSION {
            return Err(OpenError::Version(*version));
        }
        let (node, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (instance, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (epoch, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (counter, _) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        Ok(Self {
            sender: PeerIdentity {
                node: NodeId::from_be_bytes(*node),
                instance: InstanceId::from_bytes(*instance),
                boot_epoch: BootEpoch(u64::from_be_bytes(*epoch)),
            },
            counter: u64::from_be_bytes(*counter),
        })
    }
}

/// The key under which `sender` alone seals during this boot epoch (RFC 5869; every part has a fixed
/// length, so no two senders share an input).
#[expect(
    clippy::expect_used,
    reason = "HKDF refuses only outputs above 8160 bytes, and this one is 16"
)]
fn subkey(key: &GossipKey, cluster: ClusterId, sender: &PeerIdentity) -> AeadKey {
    let mut bytes = Zeroizing::new([0; AeadKey::KEY_LEN]);
    let info = [
        &cluster.to_bytes()[..],
        &sender.node.to_be_bytes(),
        &sender.instance.to_bytes(),
        &sender.boot_epoch.0.to_be_bytes(),
    ];
    hkdf_sha256(SUBKEY_LABEL, key.bytes(), &info, &mut bytes[..]).expect("16 bytes are few enough");
    AeadKey::new(&bytes)
}
