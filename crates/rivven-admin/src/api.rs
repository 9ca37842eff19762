//! The JSON bodies of the API, for servers and clients alike.
//!
//! Fields are only added; a client ignores those it does not know.

mod features;
mod keys;
mod membership;
mod snapshot;

use std::{collections::BTreeMap, fmt};

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

pub use self::features::{FeatureBody, FeaturesBody, FinalizedBody, MemberLevelBody};
pub use self::keys::{ChangesBody, KeyBody, KeyChangeBody, ListingBody};
pub use self::membership::{
    MemberChangedBody, MemberPlanBody, MemberStepBody, MemberWaitBody, MembershipBody, MembershipMemberBody,
    QuorumBody,
};
pub use self::snapshot::{RefoundingBody, RefoundingsBody, SNAPSHOT_CHECKSUM_HEADER, SNAPSHOT_INDEX_HEADER};

/// Header with the log index up to which the answering node had applied when it answered.
pub const APPLIED_INDEX_HEADER: &str = "x-rivven-applied-index";
/// Header with the revision at which the key was last written, the number inside `ETag`.
pub const REVISION_HEADER: &str = "x-rivven-revision";

/// Answer of `GET /v1/status`: what this node knows of itself and of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBody {
    /// The cluster, as in every certificate.
    pub cluster_id: String,
    /// This node.
    pub node_id: NodeId,
    /// The data directory of this node.
    pub instance_id: String,
    /// How often this instance was started.
    pub boot_epoch: u64,
    /// How far the node is in its life: `founding`, `joining`, `electing`, `running`, `stopping`, `stopped`.
    pub phase: String,
    /// What an operator must mend; the node keeps trying meanwhile.
    #[serde(default)]
    pub problems: Vec<ProblemBody>,
    /// Raft role of this node: `leader`, `follower`, `candidate`, `learner`, `stopped`.
    pub role: String,
    /// The Raft leader, if this node knows one.
    pub controller: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Highest log index known to be on a quorum.
    pub commit_index: u64,
    /// Highest log index this node has applied.
    pub applied_index: u64,
    /// Nodes that vote.
    pub voters: Vec<NodeId>,
    /// Nodes that receive the log without a vote.
    pub learners: Vec<NodeId>,
    /// The epoch of the key that seals this node's gossip, once there is one; each change counts one up.
    #[serde(default)]
    pub gossip_key_epoch: Option<u64>,
    /// Version of the program.
    pub version: String,
}

/// Something an operator must mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    pub code: String,
    /// Cause and remedy.
    pub message: String,
}

/// Answer of `GET /v1/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersBody {
    /// Every member this node has heard of, by node id.
    pub members: Vec<MemberBody>,
}

/// One member as this node's failure detector sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberBody {
    /// The node.
    pub node_id: NodeId,
    /// `alive`, `suspect`, `dead` or `left`.
    pub state: String,
    /// Gossip address.
    pub address: String,
    /// Data directory of the member.
    pub instance_id: String,
    /// How often that instance was started.
    pub boot_epoch: u64,
    /// How often the member has refuted a suspicion in this life.
    pub incarnation: u64,
}

/// Body of `POST /v1/topics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTopicBody {
    /// Name of the topic.
    pub name: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Replicas of each partition; the node's `partitioning.replication_factor` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u16>,
}

/// Body of `PATCH /v1/topics/{name}`: what shall be otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeTopicBody {
    /// Partitions in all, more than there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// Replicas of each partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u16>,
    /// Settings by key; `null` unsets one.
    #[serde(default)]
    pub settings: BTreeMap<String, Option<String>>,
}

/// Answer of `GET /v1/rebalance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceBody {
    /// The rebalance under way; none while nothing moves as planned.
    pub rebalance: Option<RebalanceStateBody>,
}

/// How far a rebalance is, in partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceStateBody {
    /// Number of the rebalance.
    pub id: u64,
    /// `filling`, `running`, `paused` or `cancelling`.
    pub status: String,
    /// In all.
    pub moves: u32,
    /// Not begun.
    pub queued: u32,
    /// Under way.
    pub active: u32,
    /// Done, and not undone.
    pub done: u32,
    /// Not to be made after all, because something else has happened to the partition.
    pub dropped: u32,
}

/// Answer of `GET /v1/rebalance/plan`, and of `POST /v1/rebalance` about the plan that was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanBody {
    /// Number of the rebalance that was begun; none for a plan alone, or if there is nothing to move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The generation that the plan was made against.
    pub against: u64,
    /// Partitions that get other replicas or another preferred leader.
    pub partitions: u64,
    /// Replicas that are copied.
    pub replica_moves: u64,
    /// The fewest copies that lead there.
    pub lower_bound: u64,
    /// Copies for each that is unavoidable.
    pub ratio: f64,
    /// Partitions whose preferred leader changes.
    pub leader_moves: u64,
    /// Replicas that should move and cannot.
    pub stuck: u64,
    /// The fullest node's replicas over the mean, before and after.
    pub replicas_max_over_mean: (f64, f64),
    /// The same of preferred leaders.
    pub leaders_max_over_mean: (f64, f64),
}

/// Answer of `GET /v1/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesBody {
    /// Log index of the change that made the assignments that are counted here.
    pub generation: u64,
    /// Every registered node by number, removed ones included.
    pub nodes: Vec<NodeBody>,
}

/// A node as the cluster has it registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBody {
    /// The node.
    pub node_id: NodeId,
    /// `joining`, `active`, `draining`, `down` or `removed`.
    pub status: String,
    /// Its failure domain, if it has named one.
    pub zone: Option<String>,
    /// Its weight in percent of a normal node: what an operator has set, else what it has registered.
    pub weight: u16,
    /// The weight of its configuration.
    pub registered_weight: u16,
    /// Addresses of its program by name.
    pub endpoints: BTreeMap<String, String>,
    /// Where peers reach it.
    pub address: String,
    /// Its data directory.
    pub instance_id: String,
    /// How often that was started.
    pub boot_epoch: u64,
    /// Replicas that it holds, those being added included.
    pub replicas: u32,
    /// Partitions that it leads.
    pub leaders: u32,
}

/// Answer of `GET /v1/ring`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingBody {
    /// Version of the hash specification.
    pub spec: u16,
    /// Tokens of a node of normal weight.
    pub virtual_nodes: u32,
    /// Digest of everything that decides where keys go, in hexadecimal: equal where rings are.
    pub fingerprint: String,
    /// The active nodes by name, each with its share of the circle. The shares add up to 1.
    pub nodes: Vec<RingShareBody>,
}

/// A node of the ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingShareBody {
    /// The node's number, as text.
    pub name: String,
    /// Its weight in percent of a normal node.
    pub weight: u32,
    /// Its share of the circle.
    pub share: f64,
}

/// Answer of `GET /v1/settings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsBody {
    /// Settings of the cluster by key, those that nobody has set included.
    pub settings: BTreeMap<String, SettingBody>,
}

/// A setting of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingBody {
    /// Its value.
    pub value: String,
    /// Whether nobody has set it.
    pub is_default: bool,
    /// What it takes; left out for keys of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<String>,
}

/// Body of `PATCH /v1/settings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigureBody {
    /// Settings by key; `null` unsets one.
    pub settings: BTreeMap<String, Option<String>>,
}

/// Answer of `GET /v1/unclean-elections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncleanElectionsBody {
    /// The last ones, oldest first.
    pub elections: Vec<UncleanElectionBody>,
}

/// A replica was made the leader that was not in sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncleanElectionBody {
    /// Number of the topic.
    pub topic_id: u64,
    /// Its name, unless it was deleted since.
    pub topic: Option<String>,
    /// The partition.
    pub partition: u32,
    /// The node that has led since.
    pub node: NodeId,
    /// When, in milliseconds since the beginning of 1970, UTC.
    pub at_ms: u64,
    /// Why.
    pub reason: String,
}

/// Body of `POST /v1/join-tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeJoinTokenBody {
    /// The node that is to join with it.
    pub node: NodeId,
    /// How long it is good, in seconds; an hour when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_s: Option<u64>,
}

/// Answer of `POST /v1/join-tokens`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenBody {
    /// The token. A secret.
    pub token: String,
    /// What logs call it.
    pub id: String,
    /// The node that it is for.
    pub node: NodeId,
    /// When it ends, in seconds since the beginning of 1970, UTC.
    pub expires_s: u64,
}

impl fmt::Debug for JoinTokenBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokenBody")
            .field("id", &self.id)
            .field("node", &self.node)
            .field("expires_s", &self.expires_s)
            .finish_non_exhaustive()
    }
}

/// Answer of `GET /v1/topics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicsBody {
    /// Every topic, by name.
    pub topics: Vec<TopicBody>,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicBody {
    /// Name of the topic.
    pub name: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Replicas of each partition.
    pub replication_factor: u16,
}

/// Answer of `GET /v1/assignments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentsBody {
    /// Log index of the change that made this assignment: equal numbers mean equal assignments.
    pub generation: u64,
    /// Every partition, by topic and number.
    pub partitions: Vec<PartitionBody>,
}

/// Who holds one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionBody {
    /// The topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: u32,
    /// Nodes that hold a replica, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// Replicas that are in sync.
    pub isr: Vec<NodeId>,
    /// The leader; none while no in-sync replica lives.
    pub leader: Option<NodeId>,
    /// Raised with every change of leader: the fencing token of that leadership.
    pub leader_epoch: u64,
    /// Raised with every change of replicas or in-sync replicas.
    pub partition_epoch: u64,
}

/// Answer of `POST /v1/topics`: the topic exists on a quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedTopicBody {
    /// Number of the topic, never used twice.
    pub id: u64,
}

/// Answer of a change that is durable on a quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedBody {
    /// Revision of the key-value map, or log index of the change.
    pub revision: u64,
    /// The lease that a key put with `ttl_ms` ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
}

/// Answer of `POST /v1/gossip-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipKeysBody {
    /// The epoch of the key that every member is being given. [`StatusBody::gossip_key_epoch`] is the one in use.
    pub epoch: u64,
}

/// Answer of `POST /v1/leader/transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferBody {
    /// The node that was asked to lead.
    pub to: NodeId,
}

/// Answer of `POST /v1/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionBody {
    /// The session, for `?session=`.
    pub session: u64,
}
