//! What a set of voters survives.

use std::collections::BTreeSet;

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

/// How many voters there are, how many of them live, and how many must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuorumState {
    /// Voters, living or not.
    pub voters: usize,
    /// Voters that the leader hears from, itself included.
    pub live: usize,
    /// How many voters must agree: a majority.
    pub needed: usize,
}

impl QuorumState {
    pub(crate) fn of(voters: &BTreeSet<NodeId>, lives: impl Fn(NodeId) -> bool) -> Self {
        Self {
            voters: voters.len(),
            live: voters.iter().filter(|node| lives(**node)).count(),
            needed: voters.len() / 2 + 1,
        }
    }

    /// Whether the living voters can agree on anything.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live >= self.needed
    }

    /// How many of the living voters may fail before nothing can be agreed on any more; `None` if that is so
    /// already.
    #[must_use]
    pub const fn spare(&self) -> Option<usize> {
        self.live.checked_sub(self.needed)
    }

    /// Refuses to go from `self` to `after` if that leaves no living quorum, or takes away the last failure
    /// that could be survived.
    pub(crate) fn check(&self, after: &Self) -> Result<(), Loss> {
        match (self.spare(), after.spare()) {
            (_, None) => Err(Loss::Quorum),
            (Some(before), Some(0)) if before > 0 => Err(Loss::Spare),
            (_, Some(_)) => Ok(()),
        }
    }
}

/// What a change of voters would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The living voters would be too few.
    Quorum,
    /// One more failure would make them too few, and does not before.
    Spare,
}
