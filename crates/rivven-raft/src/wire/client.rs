//! What programs that use the cluster say to its nodes, and nodes when they forward for their callers.

use std::collections::BTreeMap;

use bytes::Bytes;
use rivven_transport::{
    Class, Method,
    identity::{Role, Roles},
};
use rivven_types::{NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use super::{MAX_COMMAND_MESSAGE_BYTES, MAX_SMALL_BYTES, WireProposal, WireProposeResponse};
use crate::{Consistency, Refusal};

/// Most proposals in one message.
pub(crate) const MAX_BATCH: usize = 1_024;

/// Bytes after which no further proposal is put into a message. One alone may have more.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// Counted for each proposal of a message beside its body: namespace and lengths.
pub(crate) const PROPOSAL_OVERHEAD_BYTES: usize = 16;

/// Bytes of replies that one answer carries; the others are kept for their proposers to fetch. With one more reply
/// of any size it fits a frame of its class.
pub(crate) const ANSWER_BYTES: usize = (4 << 20) - (128 << 10);

/// Most bytes of a query, and of the answer to one.
const MAX_QUERY_BYTES: usize = MAX_COMMAND_MESSAGE_BYTES;

/// Nodes, and programs with a certificate of their own.
const USERS: Roles = Roles::of(&[Role::Node, Role::Operator, Role::Client]);

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $max_request:expr => $max_response:expr, $request:ty => $response:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Method for $name {
            const ID: u16 = $id;
            const NAME: &'static str = $text;
            const CLASS: Class = Class::Client;
            const MAX_REQUEST: usize = $max_request;
            const MAX_RESPONSE: usize = $max_response;
            const ROLES: Roles = USERS;
            type Request = $request;
            type Response = $response;
        }
    )*};
}

methods! {
    /// Proposals for the leader, in the order in which they are to stand in its log; an answer for each.
    ProposeMany = 0x0115, "raft.propose-many", MAX_COMMAND_MESSAGE_BYTES => ANSWER_BYTES + MAX_COMMAND_MESSAGE_BYTES, Vec<WireProposal> => Vec<WireProposeResponse>;
    /// A reply that [`ProposeMany`] had no room for.
    HeldReply = 0x0116, "raft.held-reply", 64 => MAX_COMMAND_MESSAGE_BYTES, u64 => Option<Bytes>;
    /// A read of the application's state.
    Query = 0x0117, "raft.query", MAX_QUERY_BYTES => MAX_QUERY_BYTES, WireQuery => WireQueryResponse;
    /// Who the members are, and who leads.
    Members = 0x0118, "raft.members", 64 => MAX_SMALL_BYTES, () => WireMembers;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireQuery {
    pub(crate) consistency: Consistency,
    /// The answer may wait until something changes.
    pub(crate) wait: Option<WireWait>,
    pub(crate) body: Bytes,
}

/// How long an answer waits for something to be applied.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct WireWait {
    /// Until the node has applied more than this.
    pub(crate) beyond: Option<u64>,
    /// At most so long, and at most [`MAX_QUERY_WAIT_MS`].
    pub(crate) at_most_ms: u32,
}

/// Longest time that an answer waits.
pub(crate) const MAX_QUERY_WAIT_MS: u32 = 30_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireQueryResponse {
    Answer { applied_index: Option<u64>, body: Bytes },
    NotLeader { leader: Option<NodeId> },
    Refused(Refusal),
    Failed { cause: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireMembers {
    pub(crate) leader: Option<NodeId>,
    pub(crate) nodes: BTreeMap<NodeId, PeerAddr>,
}
