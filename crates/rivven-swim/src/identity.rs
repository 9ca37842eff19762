//! Who a member is, and which of two statements about it is the newer.

use rivven_types::{BootEpoch, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

/// One start of one data directory of one node.
///
/// The driver hands the machine the identity that the seal of a datagram proves, so the machine never
/// reads a sender from the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The node's number in its cluster.
    pub node: NodeId,
    /// The data directory in use.
    pub instance: InstanceId,
    /// Which start of that directory.
    pub boot_epoch: BootEpoch,
}

/// Age of a statement about a member: boot epoch first, then how often the member has contradicted others.
///
/// Only the member itself makes larger ones: a restart raises the epoch, a refutation the counter. There
/// is no way to make a smaller one, so a restart always supersedes and nothing old comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    boot_epoch: BootEpoch,
    refutations: u64,
}

impl Incarnation {
    /// Furthest that hearsay may be ahead of what is known, in starts and in refutations.
    ///
    /// Far beyond what any living member reaches between two messages, and so small that a lying member
    /// cannot use the counters up.
    pub(crate) const MAX_JUMP: u64 = 1 << 20;

    /// The first incarnation of a start.
    #[must_use]
    pub const fn first(boot_epoch: BootEpoch) -> Self {
        Self {
            boot_epoch,
            refutations: 0,
        }
    }

    /// The start this incarnation belongs to.
    #[must_use]
    pub const fn boot_epoch(self) -> BootEpoch {
        self.boot_epoch
    }

    /// How often the member has contradicted others in this start.
    #[must_use]
    pub const fn refutations(self) -> u64 {
        self.refutations
    }

    /// The incarnation that contradicts a statement made at `self`.
    pub(crate) const fn refuted(self) -> Self {
        Self {
            boot_epoch: self.boot_epoch,
            refutations: self.refutations.saturating_add(1),
        }
    }

    /// Whether hearsay at `self` is believable given what is `known`.
    pub(crate) fn is_near(self, known: Option<Self>) -> bool {
        let (epoch, refutations) = known.map_or((0, 0), |k| (k.boot_epoch.0, k.refutations));
        let base = if self.boot_epoch.0 == epoch {
            refutations
        } else {
            0
        };
        self.boot_epoch.0 <= epoch.saturating_add(Self::MAX_JUMP)
            && self.refutations <= base.saturating_add(Self::MAX_JUMP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_outranks_every_refutation() {
        let old = Incarnation {
            boot_epoch: BootEpoch(1),
            refutations: 99,
        };
        assert!(old < old.refuted());
        assert!(old.refuted() < Incarnation::first(BootEpoch(2)));
    }

    #[test]
    fn hearsay_from_far_ahead_is_not_near() {
        let known = Incarnation::first(BootEpoch(5));
        let far = |epoch, refutations| Incarnation {
            boot_epoch: BootEpoch(epoch),
            refutations,
        };
        assert!(far(5, Incarnation::MAX_JUMP).is_near(Some(known)));
        assert!(far(6, 0).is_near(Some(known)));
        assert!(!far(5, Incarnation::MAX_JUMP + 1).is_near(Some(known)));
        assert!(!far(u64::MAX, 0).is_near(Some(known)));
        assert!(!far(1, u64::MAX).is_near(None));
    }
}
