//! What is put into datagrams: claims that must be there, then news as far as it fits.

use alloc::vec::Vec;
use core::{net::SocketAddr, time::Duration};

use rivven_types::NodeId;

use super::{Letter, MAX_TRANSMITS, Swim, Transmit};
use crate::{
    BroadcastError, Event, MemberState, Time,
    broadcast::{BroadcastId, MAX_BROADCAST_LEN},
    gossip::retransmit_limit,
    meta::{MAX_INLINE_META, Meta},
    timer::Timer,
    wire::{Broadcast, Claim, Item, MetaClaim, Payload, WireAddr},
};

/// How long a member that is gone is remembered. Old news about it cannot bring it back that long.
pub(super) const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// Members told per round of gossip.
const FAN_OUT: usize = 3;

/// Most news looked at for one datagram; more small claims do not fit anyway.
const MAX_PIGGYBACK: usize = 64;

/// Most datagrams to one member in one round, when there is more news than fits one.
const MAX_BURST: usize = 4;

/// About how much news fits a datagram.
const NEWS_PER_DATAGRAM: usize = 36;

impl Swim {
    /// Tells `body` to every member, as well as gossip can: it may arrive late, or not, but at most once.
    ///
    /// # Errors
    /// [`BroadcastError`]; nothing was sent.
    pub fn broadcast(&mut self, now: Time, body: &[u8]) -> Result<(), BroadcastError> {
        if body.len() > MAX_BROADCAST_LEN {
            return Err(BroadcastError::TooLong(body.len()));
        }
        if !self.broadcasts.has_room() {
            return Err(BroadcastError::Busy);
        }
        self.notice_lag(now);
        let id = BroadcastId {
            origin: self.me.identity.node,
            boot_epoch: self.me.identity.boot_epoch,
            counter: self.me.next_broadcast,
        };
        self.me.next_broadcast = self.me.next_broadcast.wrapping_add(1);
        self.broadcasts.add(id, body);
        self.gossip_soon(now);
        Ok(())
    }

    pub(super) fn handle_broadcast(&mut self, now: Time, letter: &Letter, broadcast: &Broadcast<'_>) {
        let Broadcast { id, body } = *broadcast;
        let own = id.origin == self.me.identity.node;
        if own || !self.members.contains(letter.sender.node) || !self.broadcasts.add(id, body) {
            return;
        }
        self.gossip_soon(now);
        self.events.push_back(Event::Broadcast(crate::Broadcast {
            from: id.origin,
            body: body.to_vec(),
        }));
    }

    /// There is news about `node`: tell it at once, or in the next round if the last was a moment ago.
    pub(super) fn announce(&mut self, now: Time, node: NodeId) {
        self.gossip.announce(node);
        self.gossip_soon(now);
    }

    fn gossip_soon(&mut self, now: Time) {
        if !self.timers.is_set(Timer::Gossip) {
            let next = self
                .last_gossip
                .map_or(now, |last| last + self.settings.gossip_interval());
            self.timers.set(Timer::Gossip, next.max(now));
        }
    }

    pub(super) fn gossip_round(&mut self, now: Time) {
        self.last_gossip = Some(now);
        let burst = self.gossip.len().div_ceil(NEWS_PER_DATAGRAM).clamp(1, MAX_BURST);
        for (node, addr) in self.pick_live(FAN_OUT, None) {
            for _ in 0..burst {
                let mut payload = Payload::new(self.settings.max_datagram);
                self.push_claim_if_doubted(now, &mut payload, node);
                self.push_news(now, &mut payload, node);
                if !payload.is_empty() {
                    self.transmit(Transmit::Datagram { to: addr }, payload);
                }
            }
        }
        let alone = self.members.live_count() == 0;
        if self.me.leaving && (alone || !self.gossip.contains(self.me.identity.node)) {
            self.gossip.forget(self.me.identity.node);
            self.events.push_back(Event::LeaveComplete);
        }
        // Alone there is nobody to tell; whoever joins is told everything.
        let silent = self.gossip.is_empty() && self.broadcasts.is_empty();
        if !alone && !silent {
            self.timers
                .set(Timer::Gossip, now + self.settings.gossip_interval());
        }
    }

    /// Sends `message` to `node`, with what it must know about itself and with news.
    pub(super) fn send(&mut self, now: Time, to: SocketAddr, node: NodeId, message: &Item<'_>) {
        let mut payload = Payload::new(self.settings.max_datagram);
        payload.push(message);
        self.push_claim_if_doubted(now, &mut payload, node);
        self.push_news(now, &mut payload, node);
        self.transmit(Transmit::Datagram { to }, payload);
    }

    /// Whoever is thought anything but alive is told so in every datagram, and can contradict at once
    /// (Lifeguard's buddy system, section IV-C).
    pub(super) fn push_claim_if_doubted(&self, now: Time, payload: &mut Payload, node: NodeId) {
        let doubted = self
            .members
            .get(node)
            .is_some_and(|m| m.state != MemberState::Alive);
        if doubted {
            self.push_claim(now, payload, node);
        }
    }

    /// Fills `payload` with news. News about the receiver is left to [`Self::push_claim_if_doubted`].
    pub(super) fn push_news(&mut self, now: Time, payload: &mut Payload, receiver: NodeId) {
        if self.gossip.is_empty() && self.broadcasts.is_empty() {
            return;
        }
        let limit = retransmit_limit(self.live_count());
        let news: Vec<_> = self
            .gossip
            .iter()
            .filter(|node| *node != receiver)
            .take(MAX_PIGGYBACK)
            .collect();
        for node in news {
            if payload.is_full() {
                break;
            }
            if self.push_claim(now, payload, node) {
                self.gossip.told(node, limit);
            }
        }
        self.broadcasts.tell(limit, |id, body| {
            payload.push(&Item::Broadcast(Broadcast { id, body }))
        });
    }

    pub(super) fn push_claim(&self, now: Time, payload: &mut Payload, node: NodeId) -> bool {
        self.claim(now, node)
            .is_some_and(|claim| payload.push(&Item::Claim(claim)))
    }

    pub(super) fn transmit(&mut self, transmit: Transmit, payload: Payload) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back((transmit, payload.into_bytes()));
        }
    }

    /// What this node states about `node`, itself included.
    fn claim(&self, now: Time, node: NodeId) -> Option<Claim<'_>> {
        if node == self.me.identity.node {
            return Some(self.own_claim());
        }
        let member = self.members.get(node)?;
        let forget_at = self.timers.deadline(Timer::Forget(node));
        let gone = forget_at.map_or(Duration::ZERO, |at| REMEMBER.saturating_sub(at.since(now)));
        let accusers = self
            .suspicions
            .get(&node)
            .map(|suspicion| suspicion.accusers().to_vec());
        Some(Claim {
            node,
            instance: member.instance,
            incarnation: member.incarnation,
            state: member.state,
            health: member.claimed_health,
            addr: WireAddr::new(member.socket_addr()),
            gone_secs: u32::try_from(gone.as_secs()).unwrap_or(u32::MAX),
            accusers: accusers.unwrap_or_default(),
            meta: match &member.meta {
                Meta::Empty if member.is_live() => MetaClaim::Inline(&[]),
                Meta::Known(known) if member.is_live() => match known.bytes.as_deref() {
                    Some(bytes) if bytes.len() <= MAX_INLINE_META => MetaClaim::Inline(bytes),
                    Some(_) | None => MetaClaim::Digest(known.digest),
                },
                Meta::Unknown | Meta::Empty | Meta::Known(_) => MetaClaim::Unknown,
            },
        })
    }

    /// Up to `count` live members other than `except`, chosen at random, and where they are.
    pub(super) fn pick_live(&mut self, count: usize, except: Option<NodeId>) -> Vec<(NodeId, SocketAddr)> {
        // Chance may offer one twice; more attempts than this find nobody new in a small cluster.
        const ATTEMPTS_EACH: usize = 4;
        let mut picked: Vec<(NodeId, SocketAddr)> = Vec::with_capacity(count);
        for _ in 0..count * ATTEMPTS_EACH {
            let Some(member) = self.members.any_live(&mut self.rng) else {
                break;
            };
            let known = picked.iter().any(|(node, _)| *node == member.node);
            if !known && Some(member.node) != except {
                picked.push((member.node, member.socket_addr()));
            }
            if picked.len() == count {
                break;
            }
        }
        picked
    }
}
