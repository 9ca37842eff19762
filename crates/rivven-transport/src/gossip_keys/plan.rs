//! What becomes of a ring of keys: a function of who holds what, and for how long.

use std::time::Duration;

use crate::datagram::{KeyRing, RingVersion};

/// How patient a change of keys is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// A key is replaced once it has been current for so long.
    pub interval: Duration,
    /// A key that is no longer sealed under still opens for so long, for what is under way.
    ///
    /// Members that have not acknowledged its successor extend this; nobody shortens it.
    pub grace: Duration,
    /// An urgent change waits for a live member that does not answer no longer than this. Then the member
    /// is shut out until it fetches: it may be the one to shut out.
    pub urgent_wait: Duration,
}

impl Default for RotationPolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(24 * 3_600),
            grace: Duration::from_secs(60),
            urgent_wait: Duration::from_secs(60),
        }
    }
}

/// What a member is known to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It has not answered.
    #[default]
    None,
    /// No keys.
    Empty,
    /// This ring, durably.
    Holds(RingVersion),
}

/// A member of the cluster, as whoever plans sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMember {
    /// Whether it may be sealing datagrams at this moment. The dead fetch when they come back.
    pub alive: bool,
    /// What it holds.
    pub answer: Answer,
}

/// What asks for another key, beside time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyDemand {
    /// An operator.
    pub by_hand: bool,
    /// How often a node has been removed from the cluster, ever; whoever was knows the keys of its time.
    ///
    /// Must only grow: a number that sank with a node's return would hide the next removal.
    pub removals: u64,
}

/// One change of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStep {
    /// Nobody has keys: make the first.
    Found,
    /// Give everybody the next key.
    Stage {
        /// Whether somebody is to be shut out.
        urgent: bool,
    },
    /// Seal under the next key.
    Activate,
    /// Drop the previous key.
    Retire,
}

/// What to do with `ring`, which is the greatest that whoever plans knows of; `None` to wait.
///
/// `members` are all that belong to the cluster, the planning node included. Any other node that comes
/// to the same point from the same ring decides the same.
#[must_use]
pub fn plan(
    ring: Option<&KeyRing>,
    members: &[KeyMember],
    demand: KeyDemand,
    now_ms: u64,
    policy: &RotationPolicy,
) -> Option<KeyStep> {
    let Some(ring) = ring else {
        let nobody_has = members
            .iter()
            .all(|member| !matches!(member.answer, Answer::Holds(_)));
        let live = members.iter().all(|m| !m.alive || m.answer == Answer::Empty);
        return (nobody_has && live && most(members, Answer::Empty)).then_some(KeyStep::Found);
    };
    // A clock that was set back makes as much of a difference as one that was set forward.
    let elapsed = Duration::from_millis(now_ms.abs_diff(ring.since_ms()));
    let held = Answer::Holds(ring.version());
    let all_live = members.iter().all(|m| !m.alive || m.answer == held);
    let out_of_patience = ring.urgent() && elapsed >= policy.urgent_wait;
    if !most(members, held) || !(all_live || out_of_patience) {
        return None;
    }
    if ring.next().is_some() {
        return Some(KeyStep::Activate);
    }
    let urgent = demand.by_hand || demand.removals > ring.removals();
    if ring.previous().is_some() && !urgent {
        return (elapsed >= policy.grace).then_some(KeyStep::Retire);
    }
    (urgent || elapsed >= policy.interval).then_some(KeyStep::Stage { urgent })
}

/// Whether a majority of all members gave this answer.
fn most(members: &[KeyMember], answer: Answer) -> bool {
    let gave = members.iter().filter(|member| member.answer == answer).count();
    gave * 2 > members.len()
}
