//! What the replicated state says of each member beside the membership itself: role, zone, what is wanted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rivven_types::{InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use super::{DEFAULT_PRIORITY, MAX_PRIORITY};
use crate::{RefoundingCause, Refusal, system::Refound};

/// Most members of one group, voters and learners. Whoever asks to join beyond it is refused.
pub const MAX_MEMBERS: usize = 128;

/// Removed node ids that are remembered, and data directories that are. Beyond it the oldest are forgotten:
/// they are no members any more in any case.
const MAX_REMEMBERED: usize = 1_024;

/// Longest name of a zone, in bytes.
const MAX_ZONE_BYTES: usize = 256;

/// What a node may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberRole {
    /// Votes if a place is free or falls free, and stands by otherwise.
    #[default]
    Auto,
    /// Votes as soon as it has caught up, even beyond the target.
    Voter,
    /// Never votes.
    Observer,
}

impl MemberRole {
    /// Name as in configurations and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Voter => "voter",
            Self::Observer => "observer",
        }
    }
}

/// One member. A member without a record is [`MemberRole::Auto`], in no zone, of the priority of all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    /// As the node's own configuration says.
    pub(crate) configured: MemberRole,
    /// As an operator says, which counts for more.
    pub(crate) ordered: Option<MemberRole>,
    /// Empty if it is in none.
    pub(crate) zone: String,
    /// The data directory that belongs here, if it is known: that of a member, or of one that joins.
    pub(crate) instance: Option<InstanceId>,
    /// Where the node said that it can be reached when it joined.
    pub(crate) addr: Option<PeerAddr>,
    /// It is to leave for good.
    pub(crate) leaving: bool,
    /// It may leave, or lose its vote, even where that costs what must not be lost otherwise.
    pub(crate) forced: bool,
    /// How much it should lead, as its own configuration says.
    pub(crate) priority: u16,
}

impl Default for MemberRecord {
    fn default() -> Self {
        Self {
            configured: MemberRole::Auto,
            ordered: None,
            zone: String::new(),
            instance: None,
            addr: None,
            leaving: false,
            forced: false,
            priority: DEFAULT_PRIORITY,
        }
    }
}

impl MemberRecord {
    pub(crate) fn role(&self) -> MemberRole {
        self.ordered.unwrap_or(self.configured)
    }
}

/// A change of the records, in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MemberCommand {
    /// A node says who it is: it joins, or is a member already.
    Join {
        node: NodeId,
        instance: InstanceId,
        addr: PeerAddr,
        zone: String,
        role: MemberRole,
        priority: u16,
    },
    /// An operator gives a node a role.
    Order { node: NodeId, role: MemberRole },
    /// A node whose id was removed, or that was never seen, may join.
    Welcome { node: NodeId, role: Option<MemberRole> },
    /// A member is to leave for good.
    Leave {
        node: NodeId,
        /// The data directory that the membership binds it to, to be shut out with it.
        instance: Option<InstanceId>,
        forced: Option<String>,
    },
    /// The data directory of a member is lost: it counts no more, and another one may join under the id.
    Replace {
        node: NodeId,
        lost: Option<InstanceId>,
        forced: Option<String>,
    },
    /// A member has left the membership.
    Forget { node: NodeId },
}

/// Longest reason for a forced change, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 256;

impl MemberCommand {
    /// Refuses what is too long, before it is proposed and when it is applied.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let (text, limit, what) = match self {
            Self::Join { zone, .. } => (Some(zone), MAX_ZONE_BYTES, "zone"),
            Self::Leave { forced, .. } | Self::Replace { forced, .. } => {
                (forced.as_ref(), MAX_REASON_BYTES, "reason")
            }
            Self::Order { .. } | Self::Welcome { .. } | Self::Forget { .. } => return Ok(()),
        };
        if text.is_some_and(|text| text.len() > limit) {
            let message = format!("a {what} has at most {limit} bytes; shorten it");
            return Err(Refusal::new("member-text-too-long", message));
        }
        Ok(())
    }
}

/// Every record, and who must not come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Records {
    members: BTreeMap<NodeId, MemberRecord>,
    /// Node ids that were removed, oldest first.
    removed: VecDeque<NodeId>,
    /// Data directories that were removed or replaced, oldest first.
    fenced: VecDeque<InstanceId>,
}

impl Records {
    pub(crate) fn get(&self, node: NodeId) -> Option<&MemberRecord> {
        self.members.get(&node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &MemberRecord)> {
        self.members.iter().map(|(node, record)| (*node, record))
    }

    pub(crate) fn role(&self, node: NodeId) -> MemberRole {
        self.get(node).map_or(MemberRole::Auto, MemberRecord::role)
    }

    pub(crate) fn priority(&self, node: NodeId) -> u16 {
        self.get(node).map_or(DEFAULT_PRIORITY, |record| record.priority)
    }

    /// The zone, if it has a name.
    pub(crate) fn zone(&self, node: NodeId) -> Option<&str> {
        self.get(node)
            .map(|record| record.zone.as_str())
            .filter(|zone| !zone.is_empty())
    }

    pub(crate) fn is_leaving(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(|record| record.leaving)
    }

    pub(crate) fn is_forced(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(|record| record.forced)
    }

    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    pub(crate) fn removed(&self) -> BTreeSet<NodeId> {
        self.removed.iter().copied().collect()
    }

    pub(crate) fn is_fenced(&self, instance: InstanceId) -> bool {
        self.fenced.contains(&instance)
    }

    pub(crate) fn fenced(&self) -> BTreeSet<InstanceId> {
        self.fenced.iter().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Who must not come back, for a snapshot: removed nodes and fenced data directories, oldest first.
    pub(crate) fn shut_out(&self) -> (&VecDeque<NodeId>, &VecDeque<InstanceId>) {
        (&self.removed, &self.fenced)
    }

    /// Takes back what [`Self::shut_out`] gave.
    pub(crate) fn restore_shut_out(&mut self, (removed, fenced): (VecDeque<NodeId>, VecDeque<InstanceId>)) {
        for node in removed {
            self.removed.push_back(node);
            drop_oldest(&mut self.removed);
        }
        for instance in fenced {
            self.fence(instance);
        }
    }

    /// Takes a record back from a snapshot.
    pub(crate) fn restore(&mut self, node: NodeId, record: MemberRecord) -> Result<(), String> {
        *self.entry(node).map_err(|refusal| refusal.to_string())? = record;
        Ok(())
    }

    /// Carries out a command. A refusal changes nothing.
    pub(crate) fn apply(&mut self, command: MemberCommand) -> Result<(), Refusal> {
        command.check()?;
        match command {
            MemberCommand::Join {
                node,
                instance,
                addr,
                zone,
                role,
                priority,
            } => {
                self.admit(node, instance)?;
                let record = self.entry(node)?;
                record.instance = Some(instance);
                record.addr = Some(addr);
                record.zone = zone;
                record.configured = role;
                record.priority = priority.min(MAX_PRIORITY);
            }
            MemberCommand::Order { node, role } => self.entry(node)?.ordered = Some(role),
            MemberCommand::Welcome { node, role } => {
                self.removed.retain(|removed| *removed != node);
                let record = self.entry(node)?;
                record.ordered = role.or(record.ordered);
            }
            MemberCommand::Leave {
                node,
                instance,
                forced,
            } => {
                let record = self.entry(node)?;
                record.instance = record.instance.or(instance);
                record.leaving = true;
                record.forced = forced.is_some();
            }
            MemberCommand::Replace { node, lost, forced } => {
                let record = self.entry(node)?;
                let known = record.instance.take();
                record.addr = None;
                record.forced = forced.is_some();
                for instance in lost.into_iter().chain(known) {
                    self.fence(instance);
                }
            }
            MemberCommand::Forget { node } => {
                if let Some(instance) = self.members.remove(&node).and_then(|record| record.instance) {
                    self.fence(instance);
                }
                if !self.removed.contains(&node) {
                    self.removed.push_back(node);
                    drop_oldest(&mut self.removed);
                }
            }
        }
        Ok(())
    }

    /// Leaves one member alone with its records, and shuts every other data directory out.
    ///
    /// Node ids stay free, so that each may come back with an empty disk; but for a member whose directory
    /// is not known, which nothing else tells from its past.
    pub(crate) fn refound(&mut self, refound: &Refound) {
        let Refound { record, addr, lost } = refound;
        let mut own = self.members.remove(&record.node).unwrap_or_default();
        let before = own.instance.replace(record.instance);
        own.addr = Some(addr.clone());
        own.ordered = None;
        (own.leaving, own.forced) = (false, false);
        if record.cause == RefoundingCause::Restored {
            // No node of another cluster can come back, so every id is free again, and says its zone anew.
            own = MemberRecord {
                instance: own.instance,
                addr: own.addr,
                ..MemberRecord::default()
            };
            self.removed.clear();
        }
        let known = std::mem::take(&mut self.members);
        let instances = known.values().filter_map(|other| other.instance);
        let instances: Vec<InstanceId> = instances
            .chain(lost.values().copied().flatten())
            .chain(before)
            .collect();
        for instance in instances.into_iter().filter(|lost| *lost != record.instance) {
            self.fence(instance);
        }
        for (node, seat) in lost {
            let bound = seat.or_else(|| known.get(node).and_then(|other| other.instance));
            if bound.is_none() && record.cause == RefoundingCause::Recovered && !self.removed.contains(node) {
                self.removed.push_back(*node);
                drop_oldest(&mut self.removed);
            }
        }
        self.members.insert(record.node, own);
    }

    /// Whether a node may join, or speak as the member that it is, with this data directory.
    pub(crate) fn admit(&self, node: NodeId, instance: InstanceId) -> Result<(), Refusal> {
        if self.is_removed(node) {
            let message = format!(
                "node {node} was removed from the cluster; to let the id in again: `rivven-node member add \
                 {node}`, then start it with an empty data directory"
            );
            return Err(Refusal::new("member-removed", message));
        }
        if self.is_fenced(instance) {
            let message = format!(
                "the data directory {instance} of node {node} was replaced and must not come back; start the \
                 node with an empty one"
            );
            return Err(Refusal::new("instance-fenced", message));
        }
        match self.get(node).and_then(|record| record.instance) {
            Some(known) if known != instance => Err(other_instance(node, known, instance)),
            Some(_) | None => Ok(()),
        }
    }

    fn entry(&mut self, node: NodeId) -> Result<&mut MemberRecord, Refusal> {
        if !self.members.contains_key(&node) && self.members.len() >= MAX_MEMBERS {
            let message = format!("the group has {MAX_MEMBERS} members; remove one first");
            return Err(Refusal::new("too-many-members", message));
        }
        Ok(self.members.entry(node).or_default())
    }

    fn fence(&mut self, instance: InstanceId) {
        if !self.fenced.contains(&instance) {
            self.fenced.push_back(instance);
            drop_oldest(&mut self.fenced);
        }
    }
}

/// A known node id with another data directory: its log and its vote are gone.
pub(crate) fn other_instance(node: NodeId, known: InstanceId, found: InstanceId) -> Refusal {
    let message = format!(
        "node {node} is a member with the data directory {known}, and comes with {found}: a node that forgot \
         its log and its vote could split the cluster. If the disk is lost: `rivven-node member replace \
         {node}`; if not, start the node with the directory that it had"
    );
    Refusal::new("instance-differs", message)
}

fn drop_oldest<T>(remembered: &mut VecDeque<T>) {
    if remembered.len() > MAX_REMEMBERED {
        remembered.pop_front();
    }
}
