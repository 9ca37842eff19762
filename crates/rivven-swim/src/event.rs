//! What the machine tells its user.

use alloc::vec::Vec;
use core::net::SocketAddr;

use rivven_types::{BootEpoch, InstanceId, NodeId};

use crate::MemberView;

/// A change in the membership as this node sees it.
///
/// Other nodes see the same changes, at other times and sometimes in another order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberEvent {
    /// The member is new, has restarted (a higher boot epoch), or has contradicted a suspicion or its death.
    Alive(MemberView),
    /// The member's address or metadata changed while it stayed alive.
    Updated(MemberView),
    /// The member is alive but of little use at the moment: see [`Health::Degraded`](crate::Health::Degraded).
    Degraded(MemberView),
    /// The member is of full use again.
    Recovered(MemberView),
    /// Somebody failed to reach the member. It has until the suspicion times out to contradict.
    Suspect(MemberView),
    /// Enough members failed to reach the suspect, each on its own; acting on it is reasonable.
    ///
    /// Three members, or all others where fewer exist. The member may still contradict.
    Confirmed(MemberView),
    /// The suspicion timed out without contradiction. The member may be cut off rather than dead.
    Dead(MemberView),
    /// The member said goodbye.
    Left(MemberView),
    /// The member was gone for so long that it was forgotten, or whoever decides such things had it forgotten.
    Forgotten(NodeId),
    /// A node id is used by two data directories; the one known first is kept, the other ignored.
    ///
    /// Give the newcomer its old data directory or another node id.
    Conflict {
        /// The node id in question; possibly this node's own.
        node: NodeId,
        /// The instance that is kept.
        known: InstanceId,
        /// The instance that is ignored.
        other: InstanceId,
        /// Where the other instance, or news of it, came from.
        addr: SocketAddr,
    },
    /// Others know a later start of this node's own data directory than this one.
    ///
    /// The directory was restored from an old copy or is in use twice. Others ignore this node.
    Superseded {
        /// The start that others know.
        known: BootEpoch,
    },
    /// Events were dropped because this consumer was slow; read the members again.
    Missed {
        /// How many.
        count: u64,
    },
}

/// What [`Swim::poll_event`](crate::Swim::poll_event) returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The membership changed.
    Member(MemberEvent),
    /// The goodbye of this node has been told as often as gossip tells anything; it may stop.
    LeaveComplete,
    /// A message of another member's user came, for the first time.
    Broadcast(Broadcast),
}

/// A message that a user sent to every member. Best effort: it may come late, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broadcast {
    /// Whose message it is, by the word of whoever passed it on: any member can forge it.
    pub from: NodeId,
    /// What it says.
    pub body: Vec<u8>,
}
