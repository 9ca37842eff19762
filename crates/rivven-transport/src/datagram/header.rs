//! The clear part of a datagram, and the key that follows from it.

use rivven_crypto::{AeadKey, hkdf_sha256};
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};
use zeroize::Zeroizing;

use super::{EpochKey, OpenError};
use crate::PeerIdentity;

/// First byte of a datagram whose sender has a boot epoch that rises with every start.
///
/// Version 0 of the layout is unstable and will be refused by later releases.
pub(super) const VERSION: u8 = 0;

/// First byte of a datagram whose sender has none, and drew a salt at its start.
pub(super) const VERSION_SALTED: u8 = 0x80;

/// Version, key epoch, node id, instance id, boot epoch, counter.
const FIXED_LEN: usize = 1 + 4 + 8 + 16 + 8 + 8;

/// Bytes of a salt.
const SALT_LEN: usize = 16;

/// Longest header.
const MAX_LEN: usize = FIXED_LEN + SALT_LEN;

/// Most bytes that sealing adds: the header, with its salt, and the tag.
pub const SEAL_OVERHEAD: usize = MAX_LEN + AeadKey::TAG_LEN;

/// Fewest bytes of a datagram.
pub(super) const MIN_DATAGRAM: usize = FIXED_LEN + AeadKey::TAG_LEN;

/// Separates these keys from any other use of the group key.
const SUBKEY_LABEL: &[u8] = b"rivven sealed datagram 0";

/// Datagrams that are sealed under one derived key, as a power of two.
///
/// A sender derives a new key for every block of 2^28 counters. RFC 9001, appendix B.1.1, arrives at this
/// number for AES-128-GCM and packets of at most 2^11 bytes, if an attacker is to gain no more than 2^-57;
/// NIST SP 800-38D, section 8.3, allows more under a deterministic nonce. No counter comes near its end:
/// it starts below 2^62, and 2^63 datagrams take a thousand years at a hundred million a second.
pub(super) const BLOCK_BITS: u32 = 28;

/// Distinguishes the starts of a sender without a durable boot epoch.
pub(super) type Salt = [u8; SALT_LEN];

/// Who claims to send a datagram, and the numbers under which it is sealed.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// The low half of the number of the key's epoch.
    pub(super) key_epoch: u32,
    pub(super) sender: PeerIdentity,
    pub(super) counter: u64,
    pub(super) salt: Option<Salt>,
}

impl Header {
    /// Puts the header at the end of `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.salt {
            None => VERSION,
            Some(_) => VERSION_SALTED,
        });
        out.extend_from_slice(&self.key_epoch.to_be_bytes());
        out.extend_from_slice(&self.sender.node.to_be_bytes());
        out.extend_from_slice(&self.sender.instance.to_bytes());
        out.extend_from_slice(&self.sender.boot_epoch.0.to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        if let Some(salt) = &self.salt {
            out.extend_from_slice(salt);
        }
    }

    /// The header of a datagram, its bytes, and what follows it.
    pub(super) fn split(datagram: &[u8]) -> Result<(Self, &[u8], &[u8]), OpenError> {
        let (version, rest) = datagram.split_first().ok_or(OpenError::TooShort)?;
        let (key_epoch, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (node, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (instance, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (boot_epoch, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (counter, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let (salt, sealed) = match *version {
            VERSION => (None, rest),
            VERSION_SALTED => {
                let (salt, rest) = rest.split_first_chunk::<SALT_LEN>().ok_or(OpenError::TooShort)?;
                (Some(*salt), rest)
            }
            other => return Err(OpenError::Version(other)),
        };
        let (clear, sealed) = datagram
            .split_at_checked(datagram.len() - sealed.len())
            .ok_or(OpenError::TooShort)?;
        let header = Self {
            key_epoch: u32::from_be_bytes(*key_epoch),
            sender: PeerIdentity {
                node: NodeId::from_be_bytes(*node),
                instance: InstanceId::from_bytes(*instance),
                boot_epoch: BootEpoch(u64::from_be_bytes(*boot_epoch)),
            },
            counter: u64::from_be_bytes(*counter),
            salt,
        };
        Ok((header, clear, sealed))
    }

    /// Which of the keys derived for this sender seals the datagram.
    pub(super) const fn block(&self) -> u64 {
        self.counter >> BLOCK_BITS
    }

    /// The key under which this sender alone seals this block of counters (RFC 5869; every part has a
    /// fixed length, so no two senders, starts, epochs or blocks share an input).
    #[expect(
        clippy::expect_used,
        reason = "HKDF refuses only outputs above 8160 bytes, and this one is 16"
    )]
    pub(super) fn subkey(&self, key: &EpochKey, cluster: ClusterId) -> AeadKey {
        let mut bytes = Zeroizing::new([0; AeadKey::KEY_LEN]);
        let salted = [u8::from(self.salt.is_some())];
        let info = [
            &cluster.to_bytes()[..],
            &key.epoch().to_be_bytes(),
            &self.sender.node.to_be_bytes(),
            &self.sender.instance.to_bytes(),
            &self.sender.boot_epoch.0.to_be_bytes(),
            &self.block().to_be_bytes(),
            &salted,
            &self.salt.unwrap_or_default(),
        ];
        hkdf_sha256(SUBKEY_LABEL, key.key().bytes(), &info, &mut bytes[..]).expect("16 bytes are few enough");
        AeadKey::new(&bytes)
    }
}
