//! Metadata of members: small ones travel in claims, larger ones are known by their digest and fetched.

use alloc::{boxed::Box, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::rng::mix;

/// Longest metadata of a member, in bytes.
pub const MAX_META_LEN: usize = 4_096;

/// Metadata up to this length travels in every statement about its member; longer ones are fetched.
pub(crate) const MAX_INLINE_META: usize = 64;

/// Length and hash of metadata: enough to see whether what is at hand is what was meant.
///
/// The hash keeps accidents apart, not enemies: who can seal a datagram can lie about its own metadata anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetaDigest {
    pub(crate) len: u16,
    pub(crate) hash: [u8; 8],
}

impl MetaDigest {
    /// Part of the wire format.
    pub(crate) fn of(meta: &[u8]) -> Self {
        let mut hash = mix(meta.len() as u64);
        for chunk in meta.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
        Self {
            len: u16::try_from(meta.len()).unwrap_or(u16::MAX),
            hash: hash.to_le_bytes(),
        }
    }
}

/// What is known of a member's metadata.
#[derive(Clone, Debug, Default)]
pub(crate) enum Meta {
    /// Nothing.
    #[default]
    Unknown,
    /// There is none. Apart from the rest because it needs no memory.
    Empty,
    /// Something.
    Known(Box<KnownMeta>),
}

/// Metadata whose digest is known.
#[derive(Clone, Debug)]
pub(crate) struct KnownMeta {
    pub(crate) digest: MetaDigest,
    /// `None` until it was fetched.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Meta {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Empty;
        }
        Self::Known(Box::new(KnownMeta {
            digest: MetaDigest::of(bytes),
            bytes: Some(bytes.to_vec()),
        }))
    }

    /// Known by digest alone.
    pub(crate) fn awaited(digest: MetaDigest) -> Self {
        Self::Known(Box::new(KnownMeta { digest, bytes: None }))
    }

    /// The bytes, if they are here.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Unknown => None,
            Self::Empty => Some(&[]),
            Self::Known(known) => known.bytes.as_deref(),
        }
    }

    /// The digest of metadata that has still to be fetched.
    pub(crate) fn missing(&self) -> Option<MetaDigest> {
        match self {
            Self::Known(known) if known.bytes.is_none() => Some(known.digest),
            Self::Unknown | Self::Empty | Self::Known(_) => None,
        }
    }

    /// The digest, if any is known.
    pub(crate) fn digest(&self) -> Option<MetaDigest> {
        match self {
            Self::Unknown => None,
            Self::Empty => Some(MetaDigest::of(&[])),
            Self::Known(known) => Some(known.digest),
        }
    }

    /// Whether it is known that there is some or none.
    pub(crate) const fn is_described(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Empty | Self::Known(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_apart_what_differs_in_one_bit_or_in_length() {
        let base = [0_u8; 40];
        let digest = MetaDigest::of(&base);
        assert_eq!(digest, MetaDigest::of(&[0; 40]));
        assert_ne!(digest, MetaDigest::of(&[0; 39]));
        for bit in 0..40 * 8 {
            let mut other = base;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(digest.hash, MetaDigest::of(&other).hash);
        }
    }
}
