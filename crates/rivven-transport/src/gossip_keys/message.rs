//! What nodes say to each other about keys. Only nodes may, and over mutual TLS.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

use crate::{
    Class, Method,
    datagram::{KeyRing, MAX_RING_TEXT, RingError, RingVersion},
};

/// Bytes beside a ring in a message: an option, and the length of the text.
const MARGIN: usize = 16;

/// Most bytes of a version: three varints of ten bytes, and an option.
const MAX_VERSION: usize = 32;

/// A ring on its way: its text, wiped after use.
pub(super) struct RingText(Zeroizing<String>);

impl RingText {
    pub(super) fn of(ring: &KeyRing) -> Self {
        Self(ring.to_text())
    }

    pub(super) fn ring(&self) -> Result<KeyRing, RingError> {
        KeyRing::from_text(&self.0)
    }
}

impl fmt::Debug for RingText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RingText(redacted)")
    }
}

impl Serialize for RingText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RingText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        if text.len() > MAX_RING_TEXT {
            return Err(D::Error::custom("longer than a ring"));
        }
        Ok(Self(text))
    }
}

/// Asks for the peer's ring, if it is greater than the one the caller has.
pub(super) struct FetchKeys;

impl Method for FetchKeys {
    const ID: u16 = 0x0301;
    const NAME: &'static str = "gossip.keys.fetch";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = MAX_VERSION;
    const MAX_RESPONSE: usize = MAX_RING_TEXT + MARGIN;
    type Request = Option<RingVersion>;
    type Response = Option<RingText>;
}

/// Hands the peer a ring; it answers with the version it holds then, durably.
pub(super) struct OfferKeys;

impl Method for OfferKeys {
    const ID: u16 = 0x0302;
    const NAME: &'static str = "gossip.keys.offer";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = MAX_RING_TEXT + MARGIN;
    const MAX_RESPONSE: usize = MAX_VERSION;
    type Request = RingText;
    type Response = RingVersion;
}
