//! The payload of a datagram: a version byte and a list of items, each with its kind and length.
//!
//! An item of unknown kind, or of a known kind that does not parse, is skipped by its length, and bytes
//! after the known fields of an item are ignored; so newer members may add kinds and append fields. The
//! bodies are postcard. Who sent it is proven by the envelope around the payload and is not repeated here.
//! `docs/formats/gossip.md` describes the format.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rivven_types::{InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use crate::{Incarnation, MAX_META_LEN, MemberState, suspicion::MAX_ACCUSERS};

#[cfg(test)]
mod tests;

/// Version of the payload format. 0 is unstable: it changes without notice.
const VERSION: u8 = 0;

/// Longest datagram, envelope included: fits an Ethernet frame through one tunnel.
pub const MAX_DATAGRAM_LEN: usize = 1_400;

/// Shortest limit that a driver may set: a claim with the largest metadata must fit with a message.
pub const MIN_DATAGRAM_LEN: usize = 512;

/// A request for a page is padded to this length, and its answer is at most three times as long.
pub(crate) const PADDED_REQUEST_LEN: usize = 468;

/// A reply to a stranger is at most this many times as long as what the stranger sent.
pub(crate) const AMPLIFICATION_LIMIT: usize = 3;

mod kind {
    pub(super) const PADDING: u8 = 0;
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQ: u8 = 3;
    pub(super) const RELAYED: u8 = 4;
    pub(super) const NACK: u8 = 5;
    pub(super) const SYNC: u8 = 6;
    pub(super) const PAGE: u8 = 7;
    pub(super) const CLAIM: u8 = 16;
}

/// A payload that is not ours or not whole. What stood before the damage was dropped too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    TooLong,
    Version(u8),
    Malformed,
}

/// Longest encoding of a [`Page`] item, to leave room for it behind the claims.
pub(crate) const MAX_PAGE_LEN: isize = 48;

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
    pub(crate) digest: u64,
}

/// "Yes."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ack {
    pub(crate) seq: u32,
    pub(crate) digest: u64,
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

/// "Tell me of the members after this one."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sync {
    pub(crate) seq: u32,
    pub(crate) after: Option<NodeId>,
}

/// "Here they are, in order of node id", claims following; `next` is where to go on, if there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) seq: u32,
    pub(crate) next: Option<NodeId>,
    pub(crate) observed: WireAddr,
}

/// A statement about a member, passed on by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim<'a> {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: MemberState,
    pub(crate) addr: WireAddr,
    /// For how many seconds the member has been gone, so that memories of it end everywhere.
    pub(crate) gone_secs: u32,
    /// Who failed to reach the suspect, each on its own.
    pub(crate) accusers: Vec<NodeId>,
    /// Present where known and the member is alive.
    #[serde(borrow)]
    pub(crate) meta: Option<&'a [u8]>,
}

impl Claim<'_> {
    fn is_sound(&self) -> bool {
        self.accusers.len() <= MAX_ACCUSERS && self.meta.is_none_or(|meta| meta.len() <= MAX_META_LEN)
    }
}

/// One item of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Ping(Ping),
    Ack(Ack),
    PingReq(PingReq),
    Relayed(Relayed),
    Nack(Nack),
    Sync(Sync),
    Page(Page),
    Claim(Claim<'a>),
}

#[derive(Serialize, Deserialize)]
struct RawItem<'a> {
    kind: u8,
    #[serde(borrow)]
    body: &'a [u8],
}

impl<'a> Item<'a> {
    fn decode(raw: &RawItem<'a>) -> Option<Self> {
        fn body<'a, T: Deserialize<'a>>(raw: &RawItem<'a>) -> Option<T> {
            Some(postcard::take_from_bytes(raw.body).ok()?.0)
        }
        match raw.kind {
            kind::PING => body(raw).map(Self::Ping),
            kind::ACK => body(raw).map(Self::Ack),
            kind::PING_REQ => body(raw).map(Self::PingReq),
            kind::RELAYED => body(raw).map(Self::Relayed),
            kind::NACK => body(raw).map(Self::Nack),
            kind::SYNC => body(raw).map(Self::Sync),
            kind::PAGE => body(raw).map(Self::Page),
            kind::CLAIM => body(raw).filter(Claim::is_sound).map(Self::Claim),
            _ => None,
        }
    }

    fn encode(&self) -> Option<(u8, Vec<u8>)> {
        fn body<T: Serialize>(kind: u8, value: &T) -> Option<(u8, Vec<u8>)> {
            Some((kind, postcard::to_allocvec(value).ok()?))
        }
        match self {
            Self::Ping(ping) => body(kind::PING, ping),
            Self::Ack(ack) => body(kind::ACK, ack),
            Self::PingReq(request) => body(kind::PING_REQ, request),
            Self::Relayed(relayed) => body(kind::RELAYED, relayed),
            Self::Nack(nack) => body(kind::NACK, nack),
            Self::Sync(sync) => body(kind::SYNC, sync),
            Self::Page(page) => body(kind::PAGE, page),
            Self::Claim(claim) => body(kind::CLAIM, claim),
        }
    }
}

/// Reads a payload whole before any of it is acted on.
pub(crate) fn decode(payload: &[u8]) -> Result<Vec<Item<'_>>, DecodeError> {
    if payload.len() > MAX_DATAGRAM_LEN {
        return Err(DecodeError::TooLong);
    }
    let (version, mut rest) = payload.split_first().ok_or(DecodeError::Malformed)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (raw, after) =
            postcard::take_from_bytes::<RawItem<'_>>(rest).map_err(|_| DecodeError::Malformed)?;
        items.extend(Item::decode(&raw));
        rest = after;
    }
    Ok(items)
}

/// A payload under construction that never outgrows its budget.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    bytes: Vec<u8>,
    budget: usize,
}

impl Payload {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            bytes: [VERSION].to_vec(),
            budget,
        }
    }

    /// Appends `item` if it fits.
    pub(crate) fn push(&mut self, item: &Item<'_>) -> bool {
        let encoded = item
            .encode()
            .and_then(|(kind, body)| postcard::to_allocvec(&RawItem { kind, body: &body }).ok());
        match encoded {
            Some(encoded) if self.bytes.len() + encoded.len() <= self.budget => {
                self.bytes.extend_from_slice(&encoded);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Grows the payload to about `len`, so that the answer may be long (see [`AMPLIFICATION_LIMIT`]).
    pub(crate) fn pad_to(&mut self, len: usize) {
        const ITEM_HEADER_LEN: usize = 3;
        let missing = len.min(self.budget).saturating_sub(self.bytes.len());
        if missing > ITEM_HEADER_LEN {
            let zeros = alloc::vec![0; missing - ITEM_HEADER_LEN];
            let padding = RawItem {
                kind: kind::PADDING,
                body: &zeros,
            };
            self.bytes
                .extend(postcard::to_allocvec(&padding).unwrap_or_default());
        }
    }

    /// Takes `len` bytes off the budget, or gives them back if negative.
    pub(crate) const fn reserve(&mut self, len: isize) {
        self.budget = self.budget.saturating_add_signed(-len);
    }

    /// Whether not even a small claim would fit any more.
    pub(crate) fn is_full(&self) -> bool {
        const SMALLEST_CLAIM_LEN: usize = 28;
        self.bytes.len() + SMALLEST_CLAIM_LEN > self.budget
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
