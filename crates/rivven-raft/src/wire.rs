//! What nodes say to each other: methods, and their bodies.
//!
//! Bodies are our own types, not the consensus library's, so that an upgrade of the library does not change
//! the wire.

pub(crate) mod client;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{
    EntryPayload,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use rivven_transport::{Class, Method, Transfer};
use rivven_types::{InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use crate::{
    Digest, MAX_COMMAND_BYTES, Refusal,
    read::Freshness,
    types::{
        LogCommand, LogEntry, LogId, Membership, Seat, SnapshotMeta, StoredMembership, TypeConfig, Vote,
        log_id, term_of, vote,
    },
};

/// Most bytes of a request that replicates entries: the Raft frame of 8 MiB less room for its header.
pub(crate) const MAX_APPEND_BYTES: usize = (8 << 20) - (64 << 10);

/// Counted for each entry beside its body: ids, kind, lengths.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Bytes of a snapshot that are read from the disk at a time.
pub(crate) const SNAPSHOT_PIECE_BYTES: usize = 256 << 10;

/// Most bytes of a message without bulk data. A membership of a hundred nodes takes about 10 KiB.
const MAX_SMALL_BYTES: usize = 64 << 10;

/// Most bytes of a message that carries one command or response.
const MAX_COMMAND_MESSAGE_BYTES: usize = MAX_COMMAND_BYTES + MAX_SMALL_BYTES;

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $class:ident, $max_request:expr => $max_response:expr, $request:ty => $response:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Method for $name {
            const ID: u16 = $id;
            const NAME: &'static str = $text;
            const CLASS: Class = Class::$class;
            const MAX_REQUEST: usize = $max_request;
            const MAX_RESPONSE: usize = $max_response;
            type Request = $request;
            type Response = $response;
        }
    )*};
}

methods! {
    /// RequestVote (Raft, section 5.2).
    RequestVote = 0x0100, "raft.vote", Control, MAX_SMALL_BYTES => MAX_SMALL_BYTES, WireVoteRequest => WireVoteResponse;
    /// The vote before the vote (Raft dissertation, section 9.6).
    RequestPreVote = 0x0101, "raft.pre-vote", Control, MAX_SMALL_BYTES => MAX_SMALL_BYTES, WireVoteRequest => WireVoteResponse;
    /// AppendEntries (Raft, section 5.3).
    AppendEntries = 0x0102, "raft.append", Raft, MAX_APPEND_BYTES => MAX_SMALL_BYTES, WireAppend => WireAppendResponse;
    /// AppendEntries without entries, which must not wait behind those with.
    Heartbeat = 0x0103, "raft.heartbeat", Control, MAX_SMALL_BYTES => MAX_SMALL_BYTES, WireAppend => WireAppendResponse;
    /// TimeoutNow (Raft dissertation, section 3.10).
    TransferLeader = 0x0107, "raft.transfer-leader", Control, MAX_SMALL_BYTES => MAX_SMALL_BYTES, WireTransfer => WireTransferResponse;
    /// The index a linearizable read must wait for (Raft dissertation, section 6.4).
    ReadIndex = 0x0111, "raft.read-index", Client, MAX_SMALL_BYTES => MAX_SMALL_BYTES, Freshness => WireReadIndexResponse;
    /// Asks for nothing: brings the connection up.
    Ping = 0x0113, "raft.ping", Client, 64 => 64, () => ();
    /// Asks for the feature levels that a node supports.
    SupportedLevels = 0x0114, "raft.levels", Client, 64 => MAX_SMALL_BYTES, () => BTreeMap<String, u32>;
    /// The newest digest kept for comparison, up to an index.
    DigestUpTo = 0x0119, "raft.digest", Control, 64 => 64, u64 => Option<Digest>;
    /// Asks the leader to hand leadership to a node.
    TransferTo = 0x0112, "raft.transfer-to", Client, MAX_SMALL_BYTES => MAX_SMALL_BYTES, NodeId => WireTransferToResponse;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireLogId {
    term: u64,
    index: u64,
}

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        Self {
            term: term_of(&id),
            index: id.index,
        }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        log_id(id.term, id.index)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireVote {
    term: u64,
    pub(crate) node: NodeId,
    committed: bool,
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        Self {
            term: vote.leader_id().term,
            node: vote.leader_id().voted_for,
            committed: vote.is_committed(),
        }
    }
}

impl From<WireVote> for Vote {
    fn from(wire: WireVote) -> Self {
        vote(wire.term, wire.node, wire.committed)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireVoteRequest {
    pub(crate) vote: WireVote,
    last_log_id: Option<WireLogId>,
    leadership_transfer: bool,
}

impl From<VoteRequest<TypeConfig>> for WireVoteRequest {
    fn from(request: VoteRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            last_log_id: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<WireVoteRequest> for VoteRequest<TypeConfig> {
    fn from(wire: WireVoteRequest) -> Self {
        let mut request = Self::new(wire.vote.into(), wire.last_log_id.map(Into::into));
        request.leadership_transfer = wire.leadership_transfer;
        request
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireVoteResponse {
    vote: WireVote,
    last_log_id: Option<WireLogId>,
    granted: bool,
}

impl From<VoteResponse<TypeConfig>> for WireVoteResponse {
    fn from(response: VoteResponse<TypeConfig>) -> Self {
        Self {
            vote: response.vote.into(),
            last_log_id: response.last_log_id.map(Into::into),
            granted: response.vote_granted,
        }
    }
}

impl From<WireVoteResponse> for VoteResponse<TypeConfig> {
    fn from(wire: WireVoteResponse) -> Self {
        Self::new(
            Vote::from(wire.vote),
            wire.last_log_id.map(Into::into),
            wire.granted,
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireMembership {
    configs: Vec<BTreeSet<NodeId>>,
    nodes: BTreeMap<NodeId, (PeerAddr, Option<InstanceId>)>,
}

impl From<&Membership> for WireMembership {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership
                .nodes()
                .map(|(node, place)| (*node, (place.addr.clone(), place.instance)))
                .collect(),
        }
    }
}

/// A message that decodes but breaks a rule of its own.
#[derive(Clone, Debug, thiserror::Error)]
#[error("malformed message: {0}")]
pub(crate) struct Malformed(String);

impl TryFrom<WireMembership> for Membership {
    type Error = Malformed;

    fn try_from(wire: WireMembership) -> Result<Self, Malformed> {
        if wire.configs.is_empty() && wire.nodes.is_empty() {
            return Ok(Self::default());
        }
        let place = |(node, (addr, instance))| (node, Seat { addr, instance });
        let nodes: BTreeMap<_, _> = wire.nodes.into_iter().map(place).collect();
        Self::new(wire.configs, nodes).map_err(|error| Malformed(error.to_string()))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WireEntry {
    id: WireLogId,
    payload: WirePayload,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum WirePayload {
    Blank,
    Command { namespace: u16, body: Bytes },
    Membership(WireMembership),
}

impl From<LogEntry> for WireEntry {
    fn from(entry: LogEntry) -> Self {
        let payload = match entry.payload {
            EntryPayload::Blank => WirePayload::Blank,
            EntryPayload::Normal(LogCommand { namespace, body }) => WirePayload::Command { namespace, body },
            EntryPayload::Membership(membership) => WirePayload::Membership((&membership).into()),
        };
        Self {
            id: entry.log_id.into(),
            payload,
        }
    }
}

impl WireEntry {
    fn into_entry(self) -> Result<LogEntry, Malformed> {
        let payload = match self.payload {
            WirePayload::Blank => EntryPayload::Blank,
            WirePayload::Command { namespace, body } => EntryPayload::Normal(LogCommand { namespace, body }),
            WirePayload::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
        };
        Ok(LogEntry {
            log_id: self.id.into(),
            payload,
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireAppend {
    pub(crate) vote: WireVote,
    prev: Option<WireLogId>,
    commit: Option<WireLogId>,
    entries: Vec<WireEntry>,
}

impl From<AppendEntriesRequest<TypeConfig>> for WireAppend {
    fn from(request: AppendEntriesRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            prev: request.prev_log_id.map(Into::into),
            commit: request.leader_commit.map(Into::into),
            entries: request.entries.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<WireAppend> for AppendEntriesRequest<TypeConfig> {
    type Error = Malformed;

    /// Checks that the entries follow one another, as the core takes for granted.
    fn try_from(wire: WireAppend) -> Result<Self, Malformed> {
        let mut next = wire.prev.map_or(0, |id| id.index.saturating_add(1));
        for entry in &wire.entries {
            if entry.id.index != next {
                return Err(Malformed(format!(
                    "entry {} where {next} was due",
                    entry.id.index
                )));
            }
            next = next.saturating_add(1);
        }
        let entries: Result<Vec<_>, _> = wire.entries.into_iter().map(WireEntry::into_entry).collect();
        Ok(Self {
            vote: wire.vote.into(),
            prev_log_id: wire.prev.map(Into::into),
            leader_commit: wire.commit.map(Into::into),
            entries: entries?,
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireAppendResponse {
    Success,
    Conflict,
    HigherVote(WireVote),
}

impl From<AppendEntriesResponse<TypeConfig>> for WireAppendResponse {
    fn from(response: AppendEntriesResponse<TypeConfig>) -> Self {
        match response {
            // Whoever receives entries takes all of them or none; only a sender knows of a part.
            AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => Self::Success,
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<WireAppendResponse> for AppendEntriesResponse<TypeConfig> {
    fn from(wire: WireAppendResponse) -> Self {
        match wire {
            WireAppendResponse::Success => Self::Success,
            WireAppendResponse::Conflict => Self::Conflict,
            WireAppendResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSnapshotMeta {
    last_log_id: Option<WireLogId>,
    membership_log_id: Option<WireLogId>,
    membership: WireMembership,
}

impl From<&SnapshotMeta> for WireSnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last_log_id: meta.last_log_id.map(Into::into),
            membership_log_id: meta.last_membership.log_id().map(Into::into),
            membership: meta.last_membership.membership().into(),
        }
    }
}

impl TryFrom<WireSnapshotMeta> for SnapshotMeta {
    type Error = Malformed;

    fn try_from(wire: WireSnapshotMeta) -> Result<Self, Malformed> {
        let membership = wire.membership.try_into()?;
        Ok(Self {
            last_log_id: wire.last_log_id.map(Into::into),
            last_membership: StoredMembership::new(wire.membership_log_id.map(Into::into), membership),
        })
    }
}

/// Names one snapshot: its bytes are the same in every transfer that repeats length and checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSnapshotOffer {
    pub(crate) vote: WireVote,
    pub(crate) meta: WireSnapshotMeta,
    pub(crate) len: u64,
    /// CRC32C of all bytes.
    pub(crate) checksum: u32,
}

/// What the receiver of a snapshot says last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireSnapshotReceipt {
    /// Installed; the receiver's vote after that.
    Installed(WireVote),
    /// The receiver knows a higher vote: the sender no longer leads.
    HigherVote(WireVote),
    /// What arrived is not what was offered, and was thrown away. Send it again.
    Damaged,
}

/// InstallSnapshot (Raft, section 7), as a bulk stream of the snapshot's bytes.
#[derive(Debug)]
pub(crate) struct InstallSnapshot;

impl Transfer for InstallSnapshot {
    const ID: u16 = 0x0100;
    const NAME: &'static str = "raft.install-snapshot";
    const MAX_HEADER: usize = MAX_SMALL_BYTES;
    const MAX_RECEIPT: usize = MAX_SMALL_BYTES;
    type Header = WireSnapshotOffer;
    type Receipt = WireSnapshotReceipt;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireTransfer {
    pub(crate) from: WireVote,
    pub(crate) to: NodeId,
    pub(crate) last_log_id: Option<WireLogId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireTransferResponse {
    Accepted,
    VoteChanged {
        expected: WireVote,
        actual: WireVote,
    },
    LogNotFlushed {
        expected: Option<WireLogId>,
        actual: Option<WireLogId>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireProposal {
    pub(crate) namespace: u16,
    pub(crate) body: Bytes,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireProposeResponse {
    Done {
        reply: Bytes,
    },
    NotLeader {
        leader: Option<NodeId>,
    },
    Overloaded,
    Refused(Refusal),
    /// Applied; the reply is kept under this ticket.
    Held {
        ticket: u64,
    },
    /// The entry was proposed; whether it is committed is not known.
    Unknown {
        cause: String,
    },
    Stopped {
        cause: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireReadIndexResponse {
    Index(u64),
    NotLeader { leader: Option<NodeId> },
    Failed { cause: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireTransferToResponse {
    Started,
    NotLeader { leader: Option<NodeId> },
    Stopped { cause: String },
}
