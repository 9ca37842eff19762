//! The payload of a datagram or a stream: a version byte and a list of items, each with its kind and length.
//!
//! An item of unknown kind, or of a known kind that does not parse, is skipped by its length, and bytes
//! after the known fields of an item are ignored; so newer members may add kinds and append fields. The
//! bodies are postcard. Who sent it is proven by the envelope around the payload and is not repeated here.
//! `docs/formats/gossip.md` describes the format.

mod items;
#[cfg(test)]
mod tests;

use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

pub(crate) use self::items::{
    Ack, Broadcast, Claim, Compare, MetaClaim, MetaGet, MetaPart, Nack, Page, Ping, PingReq, Relayed, Sync,
    WireAddr,
};

/// Version of the payload format. 0 is unstable: it changes without notice.
const VERSION: u8 = 0;

/// Longest datagram, envelope included: fits an Ethernet frame through one tunnel.
pub const MAX_DATAGRAM_LEN: usize = 1_400;

/// Shortest limit that a driver may set, so that a comparison of views and a page fit. With the longest
/// seal, the datagram keeps below the 1,280 bytes that every IPv6 link carries.
pub const MIN_DATAGRAM_LEN: usize = 1_100;

/// Longest payload over a stream. A view of ten thousand members takes two.
pub const MAX_STREAM_LEN: usize = 256 * 1024;

/// A request for a page is padded to this length, and its answer is at most three times as long.
pub(crate) const PADDED_REQUEST_LEN: usize = 468;

/// A reply to a stranger is at most this many times as long as what the stranger sent.
pub(crate) const AMPLIFICATION_LIMIT: usize = 3;

/// Kind and length before each body.
const ITEM_HEADER_LEN: usize = 3;

mod kind {
    pub(super) const PADDING: u8 = 0;
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQ: u8 = 3;
    pub(super) const RELAYED: u8 = 4;
    pub(super) const NACK: u8 = 5;
    pub(super) const SYNC: u8 = 6;
    pub(super) const PAGE: u8 = 7;
    pub(super) const COMPARE: u8 = 8;
    pub(super) const META_GET: u8 = 9;
    pub(super) const META_PART: u8 = 10;
    pub(super) const CLAIM: u8 = 16;
    pub(super) const BROADCAST: u8 = 17;
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
    Compare(Compare<'a>),
    MetaGet(MetaGet),
    MetaPart(MetaPart<'a>),
    Claim(Claim<'a>),
    Broadcast(Broadcast<'a>),
}

impl<'a> Item<'a> {
    fn decode(kind: u8, body: &'a [u8]) -> Option<Self> {
        fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
            Some(postcard::take_from_bytes(body).ok()?.0)
        }
        match kind {
            kind::PING => parse(body).map(Self::Ping),
            kind::ACK => parse(body).map(Self::Ack),
            kind::PING_REQ => parse(body).map(Self::PingReq),
            kind::RELAYED => parse(body).map(Self::Relayed),
            kind::NACK => parse(body).map(Self::Nack),
            kind::SYNC => parse(body).map(Self::Sync),
            kind::PAGE => parse(body).map(Self::Page),
            kind::COMPARE => parse(body).filter(Compare::is_sound).map(Self::Compare),
            kind::META_GET => parse(body).map(Self::MetaGet),
            kind::META_PART => parse(body).filter(MetaPart::is_sound).map(Self::MetaPart),
            kind::CLAIM => parse(body).filter(Claim::is_sound).map(Self::Claim),
            kind::BROADCAST => parse(body).filter(Broadcast::is_sound).map(Self::Broadcast),
            _ => None,
        }
    }

    /// Appends the body to `out` and returns the kind.
    fn encode(&self, out: &mut Vec<u8>) -> Option<u8> {
        fn body<T: Serialize>(kind: u8, value: &T, out: &mut Vec<u8>) -> Option<u8> {
            let filled = postcard::to_extend(value, core::mem::take(out)).ok()?;
            *out = filled;
            Some(kind)
        }
        match self {
            Self::Ping(ping) => body(kind::PING, ping, out),
            Self::Ack(ack) => body(kind::ACK, ack, out),
            Self::PingReq(request) => body(kind::PING_REQ, request, out),
            Self::Relayed(relayed) => body(kind::RELAYED, relayed, out),
            Self::Nack(nack) => body(kind::NACK, nack, out),
            Self::Sync(sync) => body(kind::SYNC, sync, out),
            Self::Page(page) => body(kind::PAGE, page, out),
            Self::Compare(compare) => body(kind::COMPARE, compare, out),
            Self::MetaGet(get) => body(kind::META_GET, get, out),
            Self::MetaPart(part) => body(kind::META_PART, part, out),
            Self::Claim(claim) => body(kind::CLAIM, claim, out),
            Self::Broadcast(broadcast) => body(kind::BROADCAST, broadcast, out),
        }
    }
}

/// Reads a payload of at most `limit` bytes whole before any of it is acted on.
pub(crate) fn decode(payload: &[u8], limit: usize) -> Result<Vec<Item<'_>>, DecodeError> {
    if payload.len() > limit {
        return Err(DecodeError::TooLong);
    }
    let (version, mut rest) = payload.split_first().ok_or(DecodeError::Malformed)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let mut items = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        let (len, after) = after.split_first_chunk().ok_or(DecodeError::Malformed)?;
        let len = usize::from(u16::from_le_bytes(*len));
        let (body, after) = after.split_at_checked(len).ok_or(DecodeError::Malformed)?;
        items.extend(Item::decode(*kind, body));
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
            bytes: vec![VERSION],
            budget,
        }
    }

    /// Appends `item` if it fits.
    pub(crate) fn push(&mut self, item: &Item<'_>) -> bool {
        let begin = self.bytes.len();
        self.bytes.extend([0; ITEM_HEADER_LEN]);
        let body = begin + ITEM_HEADER_LEN;
        let kind = item.encode(&mut self.bytes);
        let fits = self.bytes.len() <= self.budget;
        let len = u16::try_from(self.bytes.len().saturating_sub(body)).ok();
        if let Some((kind, len)) = kind.zip(len).filter(|_| fits)
            && let Some(header) = self.bytes.get_mut(begin..body)
        {
            let [low, high] = len.to_le_bytes();
            header.copy_from_slice(&[kind, low, high]);
            return true;
        }
        self.bytes.truncate(begin);
        false
    }

    /// Grows the payload to `len`, so that the answer may be long (see [`AMPLIFICATION_LIMIT`]).
    pub(crate) fn pad_to(&mut self, len: usize) {
        let missing = len.min(self.budget).saturating_sub(self.bytes.len());
        let body = missing.saturating_sub(ITEM_HEADER_LEN);
        if let Ok(len) = u16::try_from(body)
            && body > 0
        {
            let [low, high] = len.to_le_bytes();
            self.bytes.extend([kind::PADDING, low, high]);
            self.bytes.resize(self.bytes.len() + body, 0);
        }
    }

    /// Takes `len` bytes off the budget, or gives them back if negative.
    pub(crate) const fn reserve(&mut self, len: isize) {
        self.budget = self.budget.saturating_add_signed(-len);
    }

    /// Bytes that are still free.
    pub(crate) fn room(&self) -> usize {
        self.budget.saturating_sub(self.bytes.len())
    }

    /// Whether not even a small claim would fit any more.
    pub(crate) fn is_full(&self) -> bool {
        const SMALLEST_CLAIM_LEN: usize = 28;
        self.room() < SMALLEST_CLAIM_LEN
    }

    /// Whether nothing was put into it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.len() <= 1
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
