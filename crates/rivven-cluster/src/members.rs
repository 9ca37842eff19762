//! The members as this node's failure detector sees them.

use rivven_swim::{MemberState, MemberView, SwimNode};
use rivven_types::NodeId;
use serde::Serialize;

pub use rivven_swim::{MemberEvent, MemberEvents};

/// The members of the cluster as seen from here. From [`Cluster::members`](crate::Cluster::members).
///
/// Gossip is a hint: other nodes may see other states for a while, and nothing that must not happen twice
/// may rest on it.
#[derive(Clone, Debug)]
pub struct Members(SwimNode);

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// The node.
    pub node_id: NodeId,
    /// `alive`, `suspect`, `dead` or `left`.
    pub state: &'static str,
    /// Gossip address.
    pub address: String,
    /// Its data directory.
    pub instance_id: String,
    /// How often that was started.
    pub boot_epoch: u64,
    /// How often the member has refuted a suspicion since.
    pub incarnation: u64,
}

impl Members {
    pub(crate) const fn new(swim: SwimNode) -> Self {
        Self(swim)
    }

    /// Every member this node has heard of, itself included, by node id.
    #[must_use]
    pub fn list(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.0.members().iter().map(member).collect();
        members.sort_by_key(|member| member.node_id);
        members
    }

    /// Changes from this moment on.
    #[must_use]
    pub fn events(&self) -> MemberEvents {
        self.0.events()
    }
}

fn member(view: &MemberView) -> Member {
    Member {
        node_id: view.node,
        state: match view.state {
            MemberState::Alive => "alive",
            MemberState::Suspect => "suspect",
            MemberState::Dead => "dead",
            MemberState::Left => "left",
        },
        address: view.addr.to_string(),
        instance_id: view.instance.to_string(),
        boot_epoch: view.boot_epoch.0,
        incarnation: view.incarnation.refutations(),
    }
}
