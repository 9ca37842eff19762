//! Fetching metadata that is too long for claims, part by part, from the member it describes.

use alloc::{collections::BTreeMap, vec::Vec};
use core::time::Duration;

use rivven_types::NodeId;

use super::{Letter, Swim, Transmit};
use crate::{
    MemberEvent, Time,
    meta::{Meta, MetaDigest},
    timer::Timer,
    wire::{Item, MetaGet, MetaPart, Payload},
};

/// Most metadata fetched at once.
const MAX_ACTIVE: usize = 4;

/// How often a part is asked for in a row before the fetch pauses.
const MAX_TRIES: u32 = 4;

/// Bytes around the content of a part: version, header, digest, offset and length.
const PART_OVERHEAD: usize = 32;

/// What is being fetched or waits for it. At most one entry per member.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetches {
    all: BTreeMap<NodeId, Fetch>,
    active: usize,
}

#[derive(Clone, Debug)]
struct Fetch {
    digest: MetaDigest,
    /// What has come so far.
    bytes: Vec<u8>,
    tries: u32,
    active: bool,
}

impl Swim {
    /// If the metadata of `node` is known by its digest alone, has it fetched.
    pub(super) fn want_meta(&mut self, now: Time, node: NodeId) {
        let Some(digest) = self.members.get(node).and_then(|m| m.meta.missing()) else {
            self.drop_fetch(node);
            return;
        };
        if self
            .fetches
            .all
            .get(&node)
            .is_some_and(|fetch| fetch.digest == digest)
        {
            return;
        }
        self.drop_fetch(node);
        let fetch = Fetch {
            digest,
            bytes: Vec::new(),
            tries: 0,
            active: false,
        };
        self.fetches.all.insert(node, fetch);
        self.timers.set(Timer::Fetch(node), now);
    }

    pub(super) fn drop_fetch(&mut self, node: NodeId) {
        if let Some(fetch) = self.fetches.all.remove(&node) {
            self.fetches.active -= usize::from(fetch.active);
            self.timers.clear(Timer::Fetch(node));
        }
    }

    /// Asks for the next part, unless too much is under way or there was no answer too often.
    pub(super) fn retry_fetch(&mut self, now: Time, node: NodeId) {
        let (wait, pause) = (self.settings.gossip_interval(), self.settings.heal_interval());
        let busy = self.fetches.active >= MAX_ACTIVE;
        let Some(fetch) = self.fetches.all.get_mut(&node) else {
            return;
        };
        if !fetch.active && busy {
            self.timers.set(Timer::Fetch(node), now + wait);
            return;
        }
        if fetch.tries == MAX_TRIES {
            fetch.tries = 0;
            self.fetches.active -= usize::from(core::mem::take(&mut fetch.active));
            self.timers.set(Timer::Fetch(node), now + pause);
            return;
        }
        fetch.tries += 1;
        if !core::mem::replace(&mut fetch.active, true) {
            self.fetches.active += 1;
        }
        self.ask_part(now, node, wait);
    }

    fn ask_part(&mut self, now: Time, node: NodeId, wait: Duration) {
        let Some((fetch, member)) = self.fetches.all.get(&node).zip(self.members.get(node)) else {
            return;
        };
        let get = MetaGet {
            digest: fetch.digest,
            offset: u16::try_from(fetch.bytes.len()).unwrap_or(u16::MAX),
        };
        let to = member.socket_addr();
        let mut payload = Payload::new(self.settings.max_datagram);
        payload.push(&Item::MetaGet(get));
        self.transmit(Transmit::Datagram { to }, payload);
        self.timers.set(Timer::Fetch(node), now + wait);
    }

    /// Answers a member with a part of this node's metadata, or with its newest claim if that has changed.
    pub(super) fn handle_meta_get(&mut self, now: Time, letter: &Letter, get: MetaGet) {
        if !self.members.contains(letter.sender.node) {
            return;
        }
        let mut payload = Payload::new(self.answer_budget(letter, false));
        if get.digest == self.me.meta_digest && !self.me.leaving {
            let rest = self.me.meta.get(usize::from(get.offset)..).unwrap_or_default();
            let room = payload.room().saturating_sub(PART_OVERHEAD);
            let bytes = rest.get(..room.min(rest.len())).unwrap_or_default();
            payload.push(&Item::MetaPart(MetaPart {
                digest: get.digest,
                offset: get.offset,
                bytes,
            }));
        } else {
            self.push_claim(now, &mut payload, self.me.identity.node);
        }
        self.answer(letter, payload);
    }

    pub(super) fn handle_meta_part(&mut self, now: Time, letter: &Letter, part: &MetaPart<'_>) {
        let node = letter.sender.node;
        let Some(fetch) = self.fetches.all.get_mut(&node) else {
            return;
        };
        let next = fetch.digest == part.digest && fetch.bytes.len() == usize::from(part.offset);
        if !next || !fetch.active || part.bytes.is_empty() {
            return;
        }
        fetch.bytes.extend_from_slice(part.bytes);
        fetch.tries = 0;
        if fetch.bytes.len() < usize::from(fetch.digest.len) {
            self.ask_part(now, node, self.settings.gossip_interval());
            return;
        }
        let (digest, bytes) = (fetch.digest, core::mem::take(&mut fetch.bytes));
        if MetaDigest::of(&bytes) != digest {
            // It was put together from two versions, or the member lies; ask again, at leisure.
            fetch.tries = MAX_TRIES;
            return;
        }
        self.drop_fetch(node);
        if let Some(member) = self.members.touch(node) {
            member.meta = Meta::of(&bytes);
            let alive = member.is_live();
            if alive && let Some(view) = self.member(node) {
                self.emit(MemberEvent::Updated(view));
            }
        }
    }
}
