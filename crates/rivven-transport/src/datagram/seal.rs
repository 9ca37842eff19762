//! Sealing what this node sends.

use std::fmt;

use rivven_crypto::{AeadKey, random_bytes};

use super::{GossipKey, Header, MAX_PLAINTEXT, subkey};
use crate::{LocalIdentity, PeerIdentity, metrics::SealMetrics};

/// The first counter is drawn below this bound, which leaves more numbers than any start can use.
const FIRST_COUNTER_BITS: u32 = 62;

/// Seals the datagrams of one node during one boot epoch.
///
/// The key is derived from the group key and the whole identity, and the nonce is a counter, so no
/// restart reuses a nonce as long as the boot epoch rises or the instance id is new. **Make one sealer
/// per start.** The first counter is random: if a disk is rolled back or a second sealer is made by
/// mistake, the two number ranges do not meet, and receivers drop the later one as replays rather than
/// leak anything.
pub struct DatagramSealer {
    key: AeadKey,
    sender: PeerIdentity,
    next: u64,
    metrics: SealMetrics,
}

impl fmt::Debug for DatagramSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSealer")
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}

/// Why a datagram was not sealed. Nothing may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The plaintext is longer than [`MAX_PLAINTEXT`]. Send less, or use a call.
    #[error("a datagram carries at most {MAX_PLAINTEXT} bytes, not {0}")]
    TooLong(usize),
    /// Every counter of this start is used up. Restart the node.
    #[error("no datagram can be sealed under this key any more; restart the node")]
    Exhausted,
}

impl SealError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "datagram-too-long",
            Self::Exhausted => "datagram-key-exhausted",
        }
    }
}

impl DatagramSealer {
    /// The sealer of `local`'s datagrams.
    #[must_use]
    pub fn new(key: &GossipKey, local: &LocalIdentity) -> Self {
        // Without entropy the counter starts at zero: the boot epoch alone then keeps nonces apart.
        let first = random_bytes().map_or(0, u64::from_be_bytes) >> (u64::BITS - FIRST_COUNTER_BITS);
        Self::starting_at(key, local, first)
    }

    pub(super) fn starting_at(key: &GossipKey, local: &LocalIdentity, first: u64) -> Self {
        let sender = PeerIdentity {
            node: local.node,
            instance: local.instance,
            boot_epoch: local.boot_epoch,
        };
        Self {
            key: subkey(key, local.cluster, &sender),
            sender,
            next: first,
            metrics: SealMetrics::new(),
        }
    }

    /// Replaces the content of `out` with `plaintext`, sealed.
    ///
    /// # Errors
    /// [`SealError`]; `out` is then empty.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        out.clear();
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(SealError::TooLong(plaintext.len()));
        }
        let counter = self.next;
        self.next = counter.checked_add(1).ok_or(SealError::Exhausted)?;
        let header = Header {
            sender: self.sender.clone(),
            counter,
        }
        .encode();
        out.extend_from_slice(&header);
        out.extend_from_slice(plaintext);
        let body = out.get_mut(header.len()..).unwrap_or_default();
        match self.key.seal(counter, &header, body) {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                self.metrics.sealed(out.len());
                Ok(())
            }
            Err(rivven_crypto::TooLong) => {
                out.clear();
                Err(SealError::TooLong(plaintext.len()))
            }
        }
    }
}
