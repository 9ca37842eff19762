//! A ring as text: on disk, and between nodes.
//!
//! ```text
//! rivven-gossip-keys 0 <term> <step> <since_ms> <removals> <urgent: 0 or 1>
//! previous <epoch> <64 hexadecimal digits>
//! current <epoch> <64 hexadecimal digits>
//! next <epoch> <64 hexadecimal digits>
//! ```
//!
//! The lines of `previous` and `next` stand only if there are such keys. There is one spelling of each
//! ring: whatever does not read back as it was written is refused.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::{EpochKey, KeyRing, RingError};
use crate::{datagram::GossipKey, secret_file};

/// First words; 0 is the version, unstable.
const HEADER: &str = "rivven-gossip-keys 0";

/// Longest text: a header of five numbers, and three lines of a number and a key.
pub(crate) const MAX_RING_TEXT: usize = 512;

impl KeyRing {
    /// The ring as text. A secret.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // Sized up front, so that no unwiped copy of a key is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(MAX_RING_TEXT));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{HEADER} {} {} {} {} {}",
            self.version.term,
            self.version.step,
            self.since_ms,
            self.removals,
            u8::from(self.urgent)
        );
        let keys = [
            ("previous", self.previous.as_ref()),
            ("current", Some(&self.current)),
            ("next", self.next.as_ref()),
        ];
        for (name, key) in keys {
            if let Some(key) = key {
                let digits = secret_file::to_hex(&key.key.0);
                let _ = writeln!(text, "{name} {} {}", key.epoch, digits.as_str());
            }
        }
        text
    }

    /// The ring written by [`Self::to_text`].
    ///
    /// # Errors
    /// [`RingError::Malformed`].
    pub fn from_text(text: &str) -> Result<Self, RingError> {
        let ring = parse(text).ok_or(RingError::Malformed)?;
        // Epochs that do not rise, signs, leading zeros and missing line ends all fail here or above.
        if ring.to_text().as_str() == text {
            Ok(ring)
        } else {
            Err(RingError::Malformed)
        }
    }
}

fn parse(text: &str) -> Option<KeyRing> {
    if text.len() > MAX_RING_TEXT {
        return None;
    }
    let mut lines = text.lines().peekable();
    let mut numbers = lines.next()?.strip_prefix(HEADER)?.split_ascii_whitespace();
    let mut number = || numbers.next()?.parse::<u64>().ok();
    let (term, step, since_ms, removals, urgent) = (number()?, number()?, number()?, number()?, number()?);
    let mut key = |name: &str| {
        let fields = lines.peek()?.strip_prefix(name)?.strip_prefix(' ')?;
        let (epoch, digits) = fields.split_once(' ')?;
        let key = EpochKey {
            epoch: epoch.parse().ok()?,
            key: GossipKey(secret_file::from_hex(digits)?),
        };
        lines.next();
        Some(key)
    };
    let previous = key("previous");
    let mut ring = KeyRing::unversioned(key("current")?);
    ring.next = key("next");
    ring.previous = previous;
    let epochs: Vec<u64> = [&ring.previous, &Some(ring.current.clone()), &ring.next]
        .into_iter()
        .flatten()
        .map(EpochKey::epoch)
        .collect();
    // Neighbours, so that the low half of a number tells the keys of one ring apart.
    let rises = |pair: &[u64]| matches!(pair, [one, other] if one.checked_add(1) == Some(*other));
    if !epochs.windows(2).all(rises) || urgent > 1 {
        return None;
    }
    (ring.since_ms, ring.removals, ring.urgent) = (since_ms, removals, urgent == 1);
    Some(ring.versioned(term, step))
}
