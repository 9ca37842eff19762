//! Sealing what this node sends.

use std::{fmt, sync::Arc};

use rivven_crypto::{AeadKey, EntropyError, random_bytes};
use rivven_types::ClusterId;

use super::{
    GossipKeys, KeyRing, MAX_PLAINTEXT,
    header::{Header, Salt},
};
use crate::{LocalIdentity, PeerIdentity, metrics::SealMetrics};

/// The first counter is drawn below this bound, which leaves more numbers than any start can use.
const FIRST_COUNTER_BITS: u32 = 62;

/// Seals the datagrams of one node during one start.
///
/// The key is derived from the group key and the whole identity, and the nonce is a counter, so no
/// restart reuses a nonce as long as the boot epoch rises or the instance id is new. **Make one sealer
/// per start.** The first counter is random: if a disk is rolled back or a second sealer is made by
/// mistake, the two number ranges do not meet, and receivers drop the later one as replays rather than
/// leak anything. A node without a durable boot epoch takes [`Self::salted`].
pub struct DatagramSealer {
    keys: GossipKeys,
    cluster: ClusterId,
    sender: PeerIdentity,
    salt: Option<Salt>,
    next: u64,
    derived: Option<Derived>,
    metrics: SealMetrics,
}

/// The key in use. Derived anew when the ring is replaced or a block of counters is used up.
struct Derived {
    ring: Arc<KeyRing>,
    block: u64,
    key: AeadKey,
}

impl fmt::Debug for DatagramSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSealer")
            .field("sender", &self.sender)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// Why a datagram was not sealed. Nothing may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The plaintext is longer than [`MAX_PLAINTEXT`]. Split it.
    #[error("{0} bytes do not fit a datagram, the limit is {MAX_PLAINTEXT}")]
    TooLong(usize),
    /// This node has no keys yet. It gets them from a peer, or makes them with the others; wait.
    #[error("this node has no gossip keys yet; it gets them from its peers")]
    NoKeys,
    /// Every counter of this start is used up. Restart the node.
    #[error("no datagram can be sealed during this start any more; restart the node")]
    Exhausted,
}

impl SealError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "datagram-too-long",
            Self::NoKeys => "datagram-no-keys",
            Self::Exhausted => "datagram-key-exhausted",
        }
    }
}

impl DatagramSealer {
    /// The sealer of `local`'s datagrams, whose boot epoch is durable and rises with every start.
    #[must_use]
    pub fn new(keys: impl Into<GossipKeys>, local: &LocalIdentity) -> Self {
        // Without entropy the counter starts at zero: the boot epoch alone then keeps nonces apart.
        let first = random_bytes().map_or(0, u64::from_be_bytes) >> (u64::BITS - FIRST_COUNTER_BITS);
        Self::starting_at(keys, local, first)
    }

    /// The sealer of a node that cannot count its starts: a random salt in every datagram, 16 bytes
    /// more, takes the part of the boot epoch in the derivation of its keys.
    ///
    /// # Errors
    /// [`EntropyError`]: without randomness nonces could repeat.
    pub fn salted(keys: impl Into<GossipKeys>, local: &LocalIdentity) -> Result<Self, EntropyError> {
        let salt = random_bytes()?;
        Ok(Self::starting_at(keys, local, 0).with_salt(salt))
    }

    pub(super) fn starting_at(keys: impl Into<GossipKeys>, local: &LocalIdentity, first: u64) -> Self {
        Self {
            keys: keys.into(),
            cluster: local.cluster,
            sender: PeerIdentity {
                node: local.node,
                instance: local.instance,
                boot_epoch: local.boot_epoch,
            },
            salt: None,
            next: first,
            derived: None,
            metrics: SealMetrics::new(),
        }
    }

    pub(super) fn with_salt(mut self, salt: Salt) -> Self {
        self.salt = Some(salt);
        self
    }

    /// Replaces the content of `out` with `plaintext`, sealed under the current key of the ring.
    ///
    /// # Errors
    /// [`SealError`]; `out` is then empty.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        out.clear();
        let sealed = self.try_seal(plaintext, out);
        match &sealed {
            Ok(()) => self.metrics.sealed(out.len()),
            Err(_) => out.clear(),
        }
        sealed
    }

    fn try_seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(SealError::TooLong(plaintext.len()));
        }
        let loaded = self.keys.load();
        let ring = loaded.as_ref().ok_or(SealError::NoKeys)?;
        let counter = self.next;
        self.next = counter.checked_add(1).ok_or(SealError::Exhausted)?;
        let header = Header {
            key_epoch: ring.current().wire_epoch(),
            sender: self.sender.clone(),
            counter,
            salt: self.salt,
        };
        let block = header.block();
        let is_derived = |derived: &Derived| Arc::ptr_eq(&derived.ring, ring) && derived.block == block;
        if !self.derived.as_ref().is_some_and(is_derived) {
            self.derived = Some(Derived {
                ring: Arc::clone(ring),
                block,
                key: header.subkey(ring.current(), self.cluster),
            });
        }
        let derived = self.derived.as_ref().ok_or(SealError::NoKeys)?;
        header.encode(out);
        let header_len = out.len();
        out.extend_from_slice(plaintext);
        let (clear, body) = out.split_at_mut_checked(header_len).unwrap_or_default();
        let tag = derived.key.seal(counter, clear, body);
        out.extend_from_slice(&tag.map_err(|_| SealError::TooLong(plaintext.len()))?);
        Ok(())
    }
}
