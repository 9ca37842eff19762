//! Nodes register, and the cluster decides about them.

use std::sync::Arc;

use rivven_types::{BootEpoch, NodeId};

use super::{Effect, PartitionState};
use crate::{
    FLAP_MEMORY_MS, MAX_BOOT_EPOCH, MAX_ENDPOINT_NAME_LEN, MAX_ENDPOINTS, MAX_FLAPS, MAX_INSTANCES_PER_NODE,
    MAX_NODES, MAX_WEIGHT, MAX_ZONE_LEN, Node, NodeStatus, PartitionError, Registration, history::Changed,
};

impl PartitionState {
    /// Records what a node says of itself at a start.
    pub(super) fn register(&mut self, new: Registration) -> Result<Effect, PartitionError> {
        let node = new.node;
        check_registration(&new)?;
        let Some(known) = self.map.nodes.get(node) else {
            if self.map.nodes.len() >= MAX_NODES {
                return Err(PartitionError::TooManyNodes);
            }
            Arc::make_mut(&mut self.map.loads).add_node();
            Arc::make_mut(&mut self.map.nodes).push(Node::new(new));
            return Ok(Effect::placed(Changed::Node(node)));
        };
        if known.registration == new && known.status != NodeStatus::Removed {
            return Ok(Effect::none());
        }
        let status = status_after(known, &new)?;
        let other_disk = known.registration.instance != new.instance;
        if other_disk && known.former.len() + 1 >= MAX_INSTANCES_PER_NODE {
            return Err(PartitionError::TooManyInstances { node });
        }
        let placed = other_disk || known.zone() != new.zone.as_deref() || {
            known.weight_override.is_none() && known.registration.weight != new.weight
        };
        if let Some(known) = Arc::make_mut(&mut self.map.nodes).get_mut(node) {
            if other_disk {
                // Whoever takes the number of a removed node starts with a clean record.
                let mut former = std::mem::take(&mut known.former);
                former.push(known.registration.instance);
                *known = Node::new(new);
                known.former = former;
            } else {
                known.registration = new;
            }
            known.status = status;
        }
        Ok(Effect {
            changed: vec![Changed::Node(node)],
            placed,
            created: None,
        })
    }

    /// Records a decision about one start of a node.
    pub(super) fn set_status(
        &mut self,
        node: NodeId,
        boot_epoch: BootEpoch,
        (status, at_ms): (NodeStatus, u64),
    ) -> Result<Effect, PartitionError> {
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
            return Ok(Effect::none());
        }
        let removed = status == NodeStatus::Removed;
        match self.map.leaders_of(node) {
            _ if known.status == NodeStatus::Removed => return Err(PartitionError::NodeRemoved { node }),
            0 => {}
            partitions if removed => {
                let partitions = usize::try_from(partitions).unwrap_or(usize::MAX);
                return Err(PartitionError::NodeLeads { node, partitions });
            }
            _ => {}
        }
        if removed {
            self.map.removals = self.map.removals.saturating_add(1);
        }
        if let Some(known) = Arc::make_mut(&mut self.map.nodes).get_mut(node) {
            if status == NodeStatus::Down {
                known.note_down(at_ms);
            }
            known.status = status;
            known.since_ms = at_ms;
        }
        Ok(Effect {
            changed: vec![Changed::Node(node)],
            placed: removed,
            created: None,
        })
    }

    pub(super) fn set_weight(&mut self, node: NodeId, weight: Option<u16>) -> Result<Effect, PartitionError> {
        let known = self.map.node(node).ok_or(PartitionError::UnknownNode { node })?;
        if let Some(weight) = weight.filter(|weight| *weight > MAX_WEIGHT) {
            return Err(PartitionError::InvalidWeight { weight });
        }
        if known.status == NodeStatus::Removed {
            return Err(PartitionError::NodeRemoved { node });
        }
        if known.weight_override == weight {
            return Ok(Effect::none());
        }
        if let Some(known) = Arc::make_mut(&mut self.map.nodes).get_mut(node) {
            known.weight_override = weight;
        }
        Ok(Effect::placed(Changed::Node(node)))
    }
}

impl Node {
    /// Counts a flap if the node was down not long ago.
    fn note_down(&mut self, at_ms: u64) {
        let recent = self.last_down_ms != 0 && at_ms.saturating_sub(self.last_down_ms) < FLAP_MEMORY_MS;
        self.flaps = if recent {
            (self.flaps + 1).min(MAX_FLAPS)
        } else {
            0
        };
        self.last_down_ms = at_ms;
    }
}

/// Status after a known node has said something new, if it may say so.
fn status_after(known: &Node, new: &Registration) -> Result<NodeStatus, PartitionError> {
    let (node, old) = (new.node, &known.registration);
    let same_instance = old.instance == new.instance;
    match known.status {
        NodeStatus::Removed if same_instance => return Err(PartitionError::NodeRemoved { node }),
        NodeStatus::Removed => return Ok(NodeStatus::Joining),
        NodeStatus::Joining | NodeStatus::Active | NodeStatus::Draining | NodeStatus::Down => {}
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
    Ok(if ended { NodeStatus::Active } else { known.status })
}

/// Whether a node may say this of itself.
pub(super) fn check_registration(new: &Registration) -> Result<(), PartitionError> {
    let (node, offered) = (new.node, new.boot_epoch);
    if !new.zone.as_deref().is_none_or(is_zone) {
        return Err(PartitionError::InvalidZone { node });
    }
    if new.weight > MAX_WEIGHT {
        return Err(PartitionError::InvalidWeight { weight: new.weight });
    }
    if new.endpoints.len() > MAX_ENDPOINTS || !new.endpoints.keys().all(|name| is_endpoint(name)) {
        return Err(PartitionError::InvalidEndpoints { node });
    }
    if offered.0 > MAX_BOOT_EPOCH {
        return Err(PartitionError::BootEpochTooLarge { node, offered });
    }
    Ok(())
}

fn is_zone(zone: &str) -> bool {
    (1..=MAX_ZONE_LEN).contains(&zone.len()) && !zone.chars().any(char::is_control)
}

fn is_endpoint(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_ENDPOINT_NAME_LEN).contains(&name.len()) && name.bytes().all(plain)
}
