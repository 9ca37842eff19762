//! Bodies and headers about backups and what was made of them.

use rivven_cluster::offline::Refounding;
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

/// Header of `GET /v1/snapshot` with the index of the last log entry in the snapshot.
pub const SNAPSHOT_INDEX_HEADER: &str = "x-rivven-snapshot-index";
/// Header of `GET /v1/snapshot` with the CRC32C of the whole body, in hexadecimal.
pub const SNAPSHOT_CHECKSUM_HEADER: &str = "x-rivven-snapshot-crc32c";

/// Answer of `GET /v1/refoundings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefoundingsBody {
    /// The last first; empty for a cluster that was neither restored nor recovered.
    pub refoundings: Vec<RefoundingBody>,
}

/// That the cluster began anew with one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefoundingBody {
    /// `restored` from a backup, or `recovered` from one survivor.
    pub cause: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The node that it began anew with.
    pub node_id: NodeId,
    /// Its data directory.
    pub instance_id: String,
    /// The cluster that the history comes from.
    pub cluster_id: String,
    /// Who voted before.
    pub voters: Vec<NodeId>,
    /// Term of the last entry taken over.
    pub last_term: u64,
    /// Index of the last entry taken over.
    pub last_index: u64,
}

impl RefoundingBody {
    pub(crate) fn of(done: &Refounding) -> Self {
        Self {
            cause: done.cause.as_str().to_owned(),
            at_ms: done.at_ms,
            node_id: done.node,
            instance_id: done.instance.to_string(),
            cluster_id: done.cluster.to_string(),
            voters: done.voters.clone(),
            last_term: done.last_term,
            last_index: done.last_index,
        }
    }
}
