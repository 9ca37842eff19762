//! Nodes register, and the cluster decides about them.

use std::sync::Arc;

use rivven_types::{BootEpoch, NodeId};

use super::PartitionState;
use crate::{
    Applied, MAX_NODES, MAX_ZONE_LEN, Node, NodeStatus, PartitionError, PartitionResponse, Registration,
};

impl PartitionState {
    /// Records what a node says of itself at a start.
    pub(super) fn register(&mut self, generation: u64, new: Registration) -> PartitionResponse {
        let node = new.node;
        if !new.zone.as_deref().is_none_or(is_zone) {
            return Err(PartitionError::InvalidZone { node });
        }
        let (status, since_ms) = match self.map.nodes.get(&node) {
            None if self.map.nodes.len() >= MAX_NODES => return Err(PartitionError::TooManyNodes),
            None => (NodeStatus::Active, 0),
            Some(known) if known.registration == new && known.status != NodeStatus::Removed => {
                return Ok(self.unchanged());
            }
            Some(known) => status_after(known, &new)?,
        };
        let registered = Node {
            registration: new,
            status,
            since_ms,
        };
        Arc::make_mut(&mut self.map.nodes).insert(node, registered);
        Ok(Applied::Changed { generation })
    }

    /// Records a decision about one start of a node.
    pub(super) fn set_status(
        &mut self,
        generation: u64,
        node: NodeId,
        boot_epoch: BootEpoch,
        (status, at_ms): (NodeStatus, u64),
    ) -> PartitionResponse {
        let known = self.map.node(node).ok_or(PartitionError::UnknownNode { node })?;
        let registered = known.registration.boot_epoch;
        if registered != boot_epoch {
            return Err(PartitionError::StaleBootEpoch {
                node,
                registered,
                offered: boot_epoch,
            });
        }
        if known.status == status {
            return Ok(self.unchanged());
        }
        match (known.status, status) {
            (NodeStatus::Removed, _) => return Err(PartitionError::NodeRemoved { node }),
            (_, NodeStatus::Removed) => match self.leads(node) {
                0 => {}
                partitions => return Err(PartitionError::NodeLeads { node, partitions }),
            },
            (_, NodeStatus::Active | NodeStatus::Draining | NodeStatus::Down) => {}
        }
        if status == NodeStatus::Removed {
            self.map.removals = self.map.removals.saturating_add(1);
        }
        if let Some(known) = Arc::make_mut(&mut self.map.nodes).get_mut(&node) {
            known.status = status;
            known.since_ms = at_ms;
        }
        Ok(Applied::Changed { generation })
    }
}

/// Status and its time after a known node has said something new, if it may say so.
fn status_after(known: &Node, new: &Registration) -> Result<(NodeStatus, u64), PartitionError> {
    let (node, old) = (new.node, &known.registration);
    let same_instance = old.instance == new.instance;
    match known.status {
        NodeStatus::Removed if same_instance => return Err(PartitionError::NodeRemoved { node }),
        NodeStatus::Removed => return Ok((NodeStatus::Active, 0)),
        NodeStatus::Active | NodeStatus::Draining | NodeStatus::Down => {}
    }
    if !same_instance {
        let (registered, offered) = (old.instance, new.instance);
        return Err(PartitionError::InstanceMismatch {
            node,
            registered,
            offered,
        });
    }
    if new.boot_epoch < old.boot_epoch {
        let (registered, offered) = (old.boot_epoch, new.boot_epoch);
        return Err(PartitionError::StaleBootEpoch {
            node,
            registered,
            offered,
        });
    }
    // A drain mark dies with the process that was drained. `Down` ends when the node is seen alive, since
    // a registration may have been under way for long.
    let restarted = new.boot_epoch > old.boot_epoch;
    let ended = restarted && known.status == NodeStatus::Draining;
    let status = if ended { NodeStatus::Active } else { known.status };
    Ok((status, known.since_ms))
}

pub(super) fn is_zone(zone: &str) -> bool {
    (1..=MAX_ZONE_LEN).contains(&zone.len()) && !zone.chars().any(char::is_control)
}
