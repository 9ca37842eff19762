//! Who may speak to this node: checks of every Raft message against the data directories known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rivven_transport::{CallError, Caller, Rejection, identity::Role};
use rivven_types::{InstanceId, NodeId};
use tokio::sync::watch;

use super::{Records, record::other_instance};

/// What a node knows of who its peers must be, and of who must not come back. Shared by whoever sends,
/// whoever receives, and the state that both follow.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The data directory of each member, as the newest membership in the log says.
    bound: Mutex<BTreeMap<NodeId, InstanceId>>,
    /// Who was shut out, as of the last entry applied.
    shut: watch::Sender<Shut>,
    /// Peers that say that this very node was removed.
    denying: Mutex<BTreeSet<NodeId>>,
}

/// Who must not come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shut {
    pub(crate) removed: BTreeSet<NodeId>,
    pub(crate) fenced: BTreeSet<InstanceId>,
    /// The last leader that this node has followed since it was started.
    leader: Option<NodeId>,
    /// Grows with every change of the records, whatever it is.
    pub(crate) changes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves its value whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shut {
    /// The removed nodes to refuse.
    ///
    /// What a node has applied may be old, and a node that was let in again meanwhile may lead: then it is the one that
    /// brings the news. So nobody is refused before a leader is known, and never the leader; who leads was elected by a
    /// quorum that knew better.
    pub(crate) fn refused(&self) -> BTreeSet<NodeId> {
        let Some(leader) = self.leader else {
            return BTreeSet::new();
        };
        let mut refused = self.removed.clone();
        refused.remove(&leader);
        refused
    }

    fn refuses(&self, node: NodeId) -> bool {
        self.leader.is_some_and(|leader| leader != node) && self.removed.contains(&node)
    }
}

impl Gate {
    /// Notes whom this node follows.
    pub(crate) fn heed(&self, leader: NodeId) {
        self.shut
            .send_if_modified(|shut| shut.leader.replace(leader) != Some(leader));
    }

    /// Notes the data directory that the membership binds `node` to.
    pub(crate) fn bind(&self, node: NodeId, instance: Option<InstanceId>) {
        let mut bound = lock(&self.bound);
        match instance {
            Some(instance) => bound.insert(node, instance),
            None => bound.remove(&node),
        };
    }

    /// Refuses the answers of a node that comes with another data directory than it is bound to.
    ///
    /// It forgot its vote and its log: counting it could elect a leader that lacks what was acknowledged.
    pub(crate) fn meet(&self, node: NodeId, proven: Option<InstanceId>) -> Result<(), String> {
        let bound = lock(&self.bound).get(&node).copied();
        match (bound, proven) {
            (Some(bound), Some(found)) if bound != found => {
                Err(other_instance(node, bound, found).to_string())
            }
            _ => Ok(()),
        }
    }

    /// Follows the records.
    pub(crate) fn follow(&self, records: &Records) {
        self.shut.send_modify(|shut| {
            shut.removed = records.removed();
            shut.fenced = records.fenced();
            shut.changes += 1;
        });
    }

    /// Announces every change of the records.
    pub(crate) fn watch(&self) -> watch::Receiver<Shut> {
        self.shut.subscribe()
    }

    /// Whether the node was removed, or the data directory given up, as far as this node has applied.
    pub(crate) fn is_shut(&self, node: NodeId, instance: InstanceId) -> bool {
        let shut = self.shut.borrow();
        shut.removed.contains(&node) || shut.fenced.contains(&instance)
    }

    /// Refuses nodes that were shut out. What a node has applied is committed, so this is never too early.
    pub(crate) fn vet(&self, caller: &Caller) -> Result<(), Rejection> {
        if caller.role != Some(Role::Node) {
            return Ok(());
        }
        let peer = &caller.peer;
        let shut = self.shut.borrow();
        if shut.refuses(peer.node) {
            let message = format!("node {} was removed from the cluster", peer.node);
            return Err(Rejection::new("member-removed", message));
        }
        if shut.fenced.contains(&peer.instance) {
            let message = format!(
                "the data directory {} of node {} was replaced and must not come back; start the node with an \
                 empty one",
                peer.instance, peer.node
            );
            return Err(Rejection::new("instance-fenced", message));
        }
        Ok(())
    }

    /// Learns from a failed call whether the peer has shut this node out.
    pub(crate) fn note(&self, peer: NodeId, error: &CallError) {
        let shut_out = match error {
            CallError::Removed { .. } => true,
            CallError::Rejected(rejection) => {
                ["member-removed", "instance-fenced"].contains(&rejection.code.as_str())
            }
            _ => return,
        };
        let mut denying = lock(&self.denying);
        if shut_out {
            denying.insert(peer);
        } else {
            denying.remove(&peer);
        }
    }

    /// Whether most of `others` say that this node was removed.
    ///
    /// Most, because one that lags may not know yet that it was let in again.
    pub(crate) fn is_shut_out(&self, others: &BTreeSet<NodeId>) -> bool {
        let denying = lock(&self.denying).intersection(others).count();
        denying > others.len() / 2 && denying > 0
    }
}

#[cfg(test)]
mod tests {
    use rivven_transport::PeerIdentity;
    use rivven_types::BootEpoch;
    use tokio::time::Instant;

    use super::*;
    use crate::membership::{
        MemberCommand,
        tests::{instance, join},
    };

    fn peer(node: NodeId, disk: u8) -> Caller {
        let peer = PeerIdentity {
            node,
            instance: instance(node, disk),
            boot_epoch: BootEpoch(1),
        };
        Caller {
            peer,
            role: Some(Role::Node),
            deadline: Instant::now(),
            trace: None,
        }
    }

    #[test]
    fn a_known_id_with_another_disk_is_not_counted() {
        let gate = Gate::default();
        assert_eq!(gate.meet(1, Some(instance(1, 0))), Ok(()));
        gate.bind(1, Some(instance(1, 0)));
        assert_eq!(gate.meet(1, Some(instance(1, 0))), Ok(()));
        assert_eq!(gate.meet(1, None), Ok(()), "a call that is not made yet");
        let refused = gate.meet(1, Some(instance(1, 1))).unwrap_err();
        assert!(refused.contains("member replace 1"), "{refused}");
        gate.bind(1, None);
        assert_eq!(gate.meet(1, Some(instance(1, 1))), Ok(()));
    }

    #[test]
    fn whoever_was_shut_out_is_refused() {
        let (gate, mut records) = (Gate::default(), Records::default());
        records.apply(join(1, 0, "", crate::MemberRole::Auto)).unwrap();
        records.apply(MemberCommand::Forget { node: 1 }).unwrap();
        gate.follow(&records);
        assert_eq!(
            gate.vet(&peer(1, 1)),
            Ok(()),
            "it may have been let in again, and lead"
        );
        gate.heed(1);
        assert_eq!(gate.vet(&peer(1, 1)), Ok(()), "it leads");
        gate.heed(2);
        assert_eq!(gate.vet(&peer(1, 1)).unwrap_err().code, "member-removed");
        let node = 1;
        records
            .apply(MemberCommand::Welcome { node, role: None })
            .unwrap();
        gate.follow(&records);
        assert_eq!(gate.vet(&peer(1, 0)).unwrap_err().code, "instance-fenced");
        assert_eq!(gate.vet(&peer(1, 1)), Ok(()));
        let client = Caller {
            role: Some(Role::Client),
            ..peer(1, 0)
        };
        assert_eq!(
            gate.vet(&client),
            Ok(()),
            "numbers of clients are not those of nodes"
        );
    }

    #[test]
    fn a_node_believes_most_of_the_others_that_it_was_removed() {
        let gate = Gate::default();
        let others = BTreeSet::from([1, 2, 3]);
        let removed = |node| CallError::Removed {
            node,
            cause: String::new(),
        };
        gate.note(1, &removed(1));
        gate.note(9, &removed(9));
        assert!(!gate.is_shut_out(&others));
        gate.note(2, &CallError::Rejected(Rejection::new("instance-fenced", "")));
        assert!(gate.is_shut_out(&others));
        gate.note(2, &CallError::Rejected(Rejection::new("not-running", "")));
        assert!(!gate.is_shut_out(&others));
        assert!(!gate.is_shut_out(&BTreeSet::new()));
    }
}
