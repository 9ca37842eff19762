//! The ring of keys: previous, current, next, and the order in which rings supersede each other.
//!
//! A ring is a value. Each change makes a new one under a higher [`RingVersion`], and of two rings the
//! higher one wins everywhere, so that nodes which hand rings around in any order end with the same.
//! When a change is safe is decided in [`crate::gossip_keys`]; here stands only what it does:
//!
//! ```text
//! settled        current                     sealed under n, opened under n
//!   staged       current, next               everybody learns n + 1, nobody seals under it
//!   activated    previous, current           sealed under n + 1; what n sealed still opens
//!   retired      current                     n opens nothing any more
//! ```

#[cfg(test)]
mod tests;
mod text;

use std::fmt;

use rivven_crypto::hkdf_sha256;
use serde::{Deserialize, Serialize};

use super::GossipKey;
pub(crate) use text::MAX_RING_TEXT;

/// Separates the fingerprint of a ring from any other use of its keys.
const PRINT_LABEL: &[u8] = b"rivven gossip ring 0";

/// How far a peer's ring may be ahead of this node's, in terms, steps and epochs.
///
/// More is not progress but a member that wants to have the last word for good.
const MAX_JUMP: u64 = 1 << 20;

/// A group key and the number of the epoch in which it is current.
#[derive(Clone, Debug)]
pub struct EpochKey {
    epoch: u64,
    key: GossipKey,
}

impl EpochKey {
    /// The number of the epoch; 0 is the key of `gossip.key`.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) const fn key(&self) -> &GossipKey {
        &self.key
    }

    /// The number as datagrams carry it. The keys of one ring have neighbouring numbers, so that the low
    /// half tells them apart; all of it goes into the derived keys.
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is meant")]
    pub(super) const fn wire_epoch(&self) -> u32 {
        self.epoch as u32
    }
}

/// The place of a ring in the order of all rings: the greater one supersedes.
///
/// Compared by term, then step, then fingerprint. Whoever changes a ring has the sole right to do so
/// during a term, and numbers its steps; should two rings have the same numbers all the same, the
/// fingerprint decides, everywhere alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RingVersion {
    term: u64,
    step: u64,
    print: u64,
}

impl RingVersion {
    /// Not after any other.
    const FIRST: Self = Self {
        term: 0,
        step: 0,
        print: 0,
    };
}

impl fmt::Display for RingVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:016x}", self.term, self.step, self.print)
    }
}

/// Why a ring was not taken over. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The text is no ring of this release.
    #[error("this is no ring of gossip keys of this release")]
    Malformed,
    /// The ring is further ahead of this node's than any real one gets. Find out who made it; if it is
    /// genuine, remove `gossip.keys` from the data directory and restart the node.
    #[error("the ring {theirs} is implausibly far ahead of {ours}")]
    TooFarAhead {
        /// This node's ring.
        ours: RingVersion,
        /// The refused one.
        theirs: RingVersion,
    },
}

impl RingError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "gossip-keys-malformed",
            Self::TooFarAhead { .. } => "gossip-keys-too-far-ahead",
        }
    }
}

/// The keys of a cluster's gossip at one moment.
#[derive(Clone)]
pub struct KeyRing {
    version: RingVersion,
    previous: Option<EpochKey>,
    current: EpochKey,
    next: Option<EpochKey>,
    since_ms: u64,
    removals: u64,
    urgent: bool,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epoch = |key: &Option<EpochKey>| key.as_ref().map(|key| key.epoch);
        f.debug_struct("KeyRing")
            .field("version", &self.version)
            .field("previous", &epoch(&self.previous))
            .field("current", &self.current.epoch)
            .field("next", &epoch(&self.next))
            .field("since_ms", &self.since_ms)
            .field("removals", &self.removals)
            .field("urgent", &self.urgent)
            .finish()
    }
}

impl KeyRing {
    /// The ring of a cluster that has not rotated its keys yet, from its `gossip.key`. Every other ring
    /// supersedes it.
    #[must_use]
    pub fn bootstrap(key: GossipKey) -> Self {
        Self::unversioned(EpochKey { epoch: 0, key }).versioned(0, 0)
    }

    /// The first ring of a cluster without a `gossip.key`, made in `term` at `now_ms`.
    #[must_use]
    pub fn found(key: GossipKey, term: u64, now_ms: u64) -> Self {
        let mut ring = Self::unversioned(EpochKey { epoch: 1, key });
        ring.since_ms = now_ms;
        ring.versioned(term, 1)
    }

    /// This ring with `key` staged: opened by all, sealed under by nobody. A key staged before is dropped.
    ///
    /// `removals` and `urgent` are remembered for whoever goes on from here.
    #[must_use]
    pub fn stage(&self, key: GossipKey, term: u64, now_ms: u64, removals: u64, urgent: bool) -> Self {
        let epoch = self.current.epoch.saturating_add(1);
        let next = Some(EpochKey { epoch, key });
        let staged = Self {
            next,
            removals,
            urgent,
            ..self.clone()
        };
        staged.changed(self, term, now_ms)
    }

    /// This ring with the staged key current; the same ring if none is.
    #[must_use]
    pub fn activate(&self, term: u64, now_ms: u64) -> Self {
        let Some(next) = self.next.clone() else {
            return self.clone();
        };
        let activated = Self {
            previous: Some(self.current.clone()),
            current: next,
            next: None,
            ..self.clone()
        };
        activated.changed(self, term, now_ms)
    }

    /// This ring without its previous key.
    #[must_use]
    pub fn retire(&self, term: u64, now_ms: u64) -> Self {
        let retired = Self {
            previous: None,
            urgent: false,
            ..self.clone()
        };
        retired.changed(self, term, now_ms)
    }

    /// Whether a peer's ring supersedes `ours`.
    ///
    /// # Errors
    /// [`RingError::TooFarAhead`].
    pub fn supersedes(&self, ours: Option<&Self>) -> Result<bool, RingError> {
        if ours.is_some_and(|ours| self.version <= ours.version) {
            return Ok(false);
        }
        // Who has no ring yet takes one of a young cluster, so that nobody can give it the last of all.
        let (version, epoch) =
            ours.map_or((RingVersion::FIRST, 0), |ours| (ours.version, ours.current.epoch));
        let steps = if self.version.term == version.term {
            (self.version.step, version.step)
        } else {
            (self.version.step, 0)
        };
        let jumps = [
            (self.version.term, version.term),
            (self.current.epoch, epoch),
            steps,
        ];
        if jumps
            .iter()
            .any(|(theirs, ours)| theirs.saturating_sub(*ours) > MAX_JUMP)
        {
            return Err(RingError::TooFarAhead {
                ours: version,
                theirs: self.version,
            });
        }
        Ok(true)
    }

    /// Its place among all rings.
    #[must_use]
    pub const fn version(&self) -> RingVersion {
        self.version
    }

    /// The key that was current before, if it still opens.
    #[must_use]
    pub const fn previous(&self) -> Option<&EpochKey> {
        self.previous.as_ref()
    }

    /// The key to seal under.
    #[must_use]
    pub const fn current(&self) -> &EpochKey {
        &self.current
    }

    /// The key that will be current, if one is staged.
    #[must_use]
    pub const fn next(&self) -> Option<&EpochKey> {
        self.next.as_ref()
    }

    /// When the last change was made, in milliseconds of the clock of whoever made it.
    #[must_use]
    pub const fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// How often a node had been removed from the cluster when a key was staged last.
    #[must_use]
    pub const fn removals(&self) -> u64 {
        self.removals
    }

    /// Whether the change in progress is meant to shut somebody out.
    #[must_use]
    pub const fn urgent(&self) -> bool {
        self.urgent
    }

    /// The key of a datagram that names its epoch so.
    pub(super) fn by_wire_epoch(&self, epoch: u32) -> Option<&EpochKey> {
        self.keys().find(|key| key.wire_epoch() == epoch)
    }

    /// Whether this ring has the very key that `before` had under that number.
    ///
    /// Both are this node's own, so that nobody learns anything from how long the comparison takes.
    pub(super) fn opens_alike(&self, before: &Self, epoch: u32) -> bool {
        let keys = (self.by_wire_epoch(epoch), before.by_wire_epoch(epoch));
        matches!(keys, (Some(one), Some(other)) if one.epoch == other.epoch && one.key.bytes() == other.key.bytes())
    }

    /// Every key, the one used most first.
    fn keys(&self) -> impl Iterator<Item = &EpochKey> {
        [Some(&self.current), self.previous.as_ref(), self.next.as_ref()]
            .into_iter()
            .flatten()
    }

    const fn unversioned(current: EpochKey) -> Self {
        Self {
            version: RingVersion {
                term: 0,
                step: 0,
                print: 0,
            },
            previous: None,
            current,
            next: None,
            since_ms: 0,
            removals: 0,
            urgent: false,
        }
    }

    /// The ring as the successor of `before`.
    fn changed(mut self, before: &Self, term: u64, now_ms: u64) -> Self {
        self.since_ms = now_ms;
        if term > before.version.term {
            self.versioned(term, 1)
        } else {
            // A ring of a later term was taken over: its maker is gone, and its steps go on from there.
            self.versioned(before.version.term, before.version.step.saturating_add(1))
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "HKDF refuses only outputs above 8160 bytes, and this one is 8"
    )]
    fn versioned(mut self, term: u64, step: u64) -> Self {
        self.version = RingVersion { term, step, print: 0 };
        let mut print = [0; 8];
        hkdf_sha256(PRINT_LABEL, self.to_text().as_bytes(), &[], &mut print).expect("8 bytes are few enough");
        self.version.print = u64::from_be_bytes(print);
        self
    }
}
