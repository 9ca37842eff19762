//! The last changes of the membership, as this node has applied them.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use super::{MemberCommand, meter};
use crate::types::StoredMembership;

/// How many changes of the membership a node remembers. Older ones are forgotten.
pub const MAX_MEMBERSHIP_EVENTS: usize = 64;

/// A change of the membership, in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MembershipEvent {
    /// Index of the entry.
    pub index: u64,
    /// The node.
    pub node: NodeId,
    /// What became of it.
    pub change: MembershipEventKind,
}

/// What became of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MembershipEventKind {
    /// It asked to join.
    Joins,
    /// It was let in by an operator.
    Welcome,
    /// It is to leave; with the reason, if it was forced.
    Leaves(Option<String>),
    /// Its data directory is lost; with the reason, if it was forced.
    Replaced(Option<String>),
    /// It receives the log.
    Added,
    /// It votes.
    Promoted,
    /// It votes no more.
    Demoted,
    /// It receives the log no more.
    Removed,
    /// It is shut out for good.
    Forgotten,
}

/// The changes remembered.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<VecDeque<MembershipEvent>>);

impl Journal {
    pub(crate) fn events(&self) -> Vec<MembershipEvent> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().cloned().collect()
    }

    fn add(&self, index: u64, node: NodeId, change: MembershipEventKind) {
        meter::changed(&change);
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push_back(MembershipEvent { index, node, change });
        if events.len() > MAX_MEMBERSHIP_EVENTS {
            events.pop_front();
        }
    }

    /// Notes a command that was carried out.
    pub(crate) fn command(&self, index: u64, command: &MemberCommand) {
        let (node, change) = match command {
            MemberCommand::Join { node, .. } => (*node, MembershipEventKind::Joins),
            MemberCommand::Welcome { node, .. } => (*node, MembershipEventKind::Welcome),
            MemberCommand::Leave { node, forced, .. } => (*node, MembershipEventKind::Leaves(forced.clone())),
            MemberCommand::Replace { node, forced, .. } => {
                (*node, MembershipEventKind::Replaced(forced.clone()))
            }
            MemberCommand::Forget { node } => (*node, MembershipEventKind::Forgotten),
            MemberCommand::Order { .. } => return,
        };
        self.add(index, node, change);
    }

    /// Notes how one membership differs from the one before.
    pub(crate) fn membership(&self, index: u64, before: &StoredMembership, after: &StoredMembership) {
        let nodes = |stored: &StoredMembership| -> BTreeSet<NodeId> {
            stored.membership().nodes().map(|(node, _)| *node).collect()
        };
        let voters = |stored: &StoredMembership| -> BTreeSet<NodeId> {
            let configs = stored.membership().get_joint_config();
            configs.last().cloned().unwrap_or_default()
        };
        let (nodes, voters) = ((nodes(before), nodes(after)), (voters(before), voters(after)));
        meter::members(&nodes.1, &voters.1);
        for node in nodes.1.difference(&nodes.0) {
            self.add(index, *node, MembershipEventKind::Added);
        }
        for node in voters.1.difference(&voters.0) {
            self.add(index, *node, MembershipEventKind::Promoted);
        }
        for node in voters.0.difference(&voters.1) {
            self.add(index, *node, MembershipEventKind::Demoted);
        }
        for node in nodes.0.difference(&nodes.1) {
            self.add(index, *node, MembershipEventKind::Removed);
        }
    }
}
