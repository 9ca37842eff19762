//! The items of a payload.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rivven_types::{InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use crate::{
    Health, Incarnation, MemberState,
    broadcast::{BroadcastId, MAX_BROADCAST_LEN},
    meta::{MAX_INLINE_META, MAX_META_LEN, MetaDigest},
    suspicion::MAX_ACCUSERS,
    table::BUCKETS,
};

/// An address on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireAddr {
    /// The sender listens on this port and does not know its own address: take the one observed.
    Observe(u16),
    V4([u8; 4], u16),
    V6([u8; 16], u16),
}

impl WireAddr {
    pub(crate) const fn new(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(v4) => Self::V4(v4.ip().octets(), v4.port()),
            SocketAddr::V6(v6) => Self::V6(v6.ip().octets(), v6.port()),
        }
    }

    /// The address, if it can be dialled; `observed` is where the claimant itself was seen.
    pub(crate) fn resolve(self, observed: Option<IpAddr>) -> Option<SocketAddr> {
        let (ip, port) = match self {
            Self::Observe(port) => (observed?, port),
            Self::V4(ip, port) => (IpAddr::V4(Ipv4Addr::from(ip)), port),
            Self::V6(ip, port) => (IpAddr::V6(Ipv6Addr::from(ip)), port),
        };
        (port != 0 && !ip.is_unspecified() && !ip.is_multicast()).then_some(SocketAddr::new(ip, port))
    }
}

/// "Are you there?"
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ping {
    pub(crate) seq: u32,
    /// Whom it is for: addresses are reused, ids are not.
    pub(crate) target: NodeId,
    pub(crate) digest: [u8; 8],
}

/// "Yes."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ack {
    pub(crate) seq: u32,
    pub(crate) digest: [u8; 8],
    /// Where the ping came from, as seen here.
    pub(crate) observed: WireAddr,
    /// Whether this start of the pinging member is unknown here.
    pub(crate) stranger: bool,
}

/// "Ping this one for me."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PingReq {
    pub(crate) seq: u32,
    pub(crate) target: NodeId,
    pub(crate) addr: WireAddr,
    /// How long the asker waits. The helper says [`Nack`] a little before.
    pub(crate) wait_ms: u16,
}

/// "It answered me."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relayed {
    pub(crate) seq: u32,
}

/// "It did not answer me, but I am here" (Lifeguard, section IV-A).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nack {
    pub(crate) seq: u32,
}

/// "Tell me of the members after this one", in the order of buckets, then of node ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sync {
    pub(crate) seq: u32,
    pub(crate) after: Option<NodeId>,
}

/// "Here they are", claims following; `next` is where to go on, if there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) seq: u32,
    pub(crate) next: Option<NodeId>,
    pub(crate) observed: WireAddr,
}

/// As [`Sync`], but only of members in buckets whose sums differ from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compare<'a> {
    pub(crate) seq: u32,
    pub(crate) after: Option<NodeId>,
    /// The low 32 bits of the sum of each bucket, little endian.
    #[serde(borrow)]
    pub(crate) sums: &'a [u8],
}

impl Compare<'_> {
    pub(super) const fn is_sound(&self) -> bool {
        self.sums.len() == 4 * BUCKETS
    }
}

/// "Tell me your metadata with this digest, from this byte on."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetaGet {
    pub(crate) digest: MetaDigest,
    pub(crate) offset: u16,
}

/// A part of the sender's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetaPart<'a> {
    pub(crate) digest: MetaDigest,
    pub(crate) offset: u16,
    #[serde(borrow)]
    pub(crate) bytes: &'a [u8],
}

impl MetaPart<'_> {
    pub(super) fn is_sound(&self) -> bool {
        usize::from(self.offset) + self.bytes.len() <= usize::from(self.digest.len).min(MAX_META_LEN)
    }
}

/// What a claim says of the member's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MetaClaim<'a> {
    /// The claimant does not know, or it does not matter because the member is gone.
    Unknown,
    /// It is this.
    Inline(#[serde(borrow)] &'a [u8]),
    /// It is long, and has this digest.
    Digest(MetaDigest),
}

/// A statement about a member, passed on by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim<'a> {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: MemberState,
    /// What the member says of itself.
    pub(crate) health: Health,
    pub(crate) addr: WireAddr,
    /// For how many seconds the member has been gone, so that memories of it end everywhere.
    pub(crate) gone_secs: u32,
    /// Who failed to reach the suspect, each on its own.
    pub(crate) accusers: Vec<NodeId>,
    #[serde(borrow)]
    pub(crate) meta: MetaClaim<'a>,
}

impl Claim<'_> {
    pub(super) fn is_sound(&self) -> bool {
        let meta = match self.meta {
            MetaClaim::Unknown => true,
            MetaClaim::Inline(bytes) => bytes.len() <= MAX_INLINE_META,
            MetaClaim::Digest(digest) => {
                (MAX_INLINE_META + 1..=MAX_META_LEN).contains(&usize::from(digest.len))
            }
        };
        meta && self.accusers.len() <= MAX_ACCUSERS
    }
}

/// A message of a user to every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Broadcast<'a> {
    pub(crate) id: BroadcastId,
    #[serde(borrow)]
    pub(crate) body: &'a [u8],
}

impl Broadcast<'_> {
    pub(super) const fn is_sound(&self) -> bool {
        self.body.len() <= MAX_BROADCAST_LEN
    }
}
