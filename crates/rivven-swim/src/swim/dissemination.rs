//! What is put into datagrams: claims that must be there, then news as far as it fits.

use alloc::vec::Vec;
use core::{net::SocketAddr, time::Duration};

use rivven_types::NodeId;

use super::{MAX_TRANSMITS, Swim};
use crate::{
    Event, MemberState, Time,
    gossip::retransmit_limit,
    suspicion::Suspicion,
    timer::Timer,
    wire::{Claim, Item, Payload, WireAddr},
};

/// How long a member that is gone is remembered. Old news about it cannot bring it back that long.
pub(super) const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// Members told per round of gossip.
const FAN_OUT: usize = 3;

/// Most news looked at for one datagram; more small claims do not fit anyway.
const MAX_PIGGYBACK: usize = 64;

impl Swim {
    /// There is news about `node`: tell it at once, or in the next round if the last was a moment ago.
    pub(super) fn announce(&mut self, now: Time, node: NodeId) {
        self.gossip.announce(node);
        if !self.timers.is_set(Timer::Gossip) {
            let next = self
                .last_gossip
                .map_or(now, |last| last + self.settings.gossip_interval());
            self.timers.set(Timer::Gossip, next.max(now));
        }
    }

    pub(super) fn gossip_round(&mut self, now: Time) {
        self.last_gossip = Some(now);
        for node in self.pick_live(FAN_OUT, None) {
            if let Some(addr) = self.members.get(&node).map(|member| member.addr) {
                self.send_news(now, addr, node);
            }
        }
        if self.me.leaving && (self.order.is_empty() || !self.gossip.contains(self.me.identity.node)) {
            self.gossip.forget(self.me.identity.node);
            self.events.push_back(Event::LeaveComplete);
        }
        // Alone there is nobody to tell; whoever joins is told everything.
        if !self.gossip.is_empty() && !self.order.is_empty() {
            self.timers
                .set(Timer::Gossip, now + self.settings.gossip_interval());
        }
    }

    /// Says goodbye: no more probes, and one last piece of news.
    pub(super) fn leave(&mut self, now: Time) {
        if self.me.leaving {
            return;
        }
        self.me.leaving = true;
        self.refresh_own_fingerprint();
        self.timers.clear(Timer::Period);
        self.timers.clear(Timer::Heal);
        self.timers.clear(Timer::Seeds);
        self.gossip.announce(self.me.identity.node);
        self.timers.set(Timer::Gossip, now);
    }

    fn send_news(&mut self, now: Time, to: SocketAddr, node: NodeId) {
        let mut payload = Payload::new(self.settings.max_datagram);
        self.push_claim_if_doubted(now, &mut payload, node);
        self.push_news(now, &mut payload, node);
        self.transmit(to, payload);
    }

    /// Sends `message` to `node`, with what it must know about itself and with news.
    pub(super) fn send(&mut self, now: Time, to: SocketAddr, node: NodeId, message: &Item<'_>) {
        let mut payload = Payload::new(self.settings.max_datagram);
        payload.push(message);
        self.push_claim_if_doubted(now, &mut payload, node);
        self.push_news(now, &mut payload, node);
        self.transmit(to, payload);
    }

    /// Whoever is thought anything but alive is told so in every datagram, and can contradict at once
    /// (Lifeguard's buddy system, section IV-C).
    pub(super) fn push_claim_if_doubted(&self, now: Time, payload: &mut Payload, node: NodeId) {
        let doubted = self
            .members
            .get(&node)
            .is_some_and(|m| m.state() != MemberState::Alive);
        if doubted {
            self.push_claim(now, payload, node);
        }
    }

    /// Fills `payload` with news. News about the receiver is left to [`Self::push_claim_if_doubted`].
    pub(super) fn push_news(&mut self, now: Time, payload: &mut Payload, receiver: NodeId) {
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
    }

    pub(super) fn push_claim(&self, now: Time, payload: &mut Payload, node: NodeId) -> bool {
        self.claim(now, node)
            .is_some_and(|claim| payload.push(&Item::Claim(claim)))
    }

    pub(super) fn transmit(&mut self, to: SocketAddr, payload: Payload) {
        let bytes = payload.into_bytes();
        // A version byte alone says nothing.
        if bytes.len() > 1 && self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back((to, bytes));
        }
    }

    /// What this node states about `node`, itself included.
    fn claim(&self, now: Time, node: NodeId) -> Option<Claim<'_>> {
        if node == self.me.identity.node {
            return Some(self.own_claim());
        }
        let member = self.members.get(&node)?;
        let remaining = member.forget_at().map_or(REMEMBER, |at| at.since(now));
        Some(Claim {
            node,
            instance: member.instance,
            incarnation: member.incarnation,
            state: member.state(),
            addr: WireAddr::new(member.addr),
            gone_secs: u32::try_from(REMEMBER.saturating_sub(remaining).as_secs()).unwrap_or(u32::MAX),
            accusers: member
                .suspicion()
                .map_or_else(Vec::new, |s: &Suspicion| s.accusers().to_vec()),
            meta: member
                .meta
                .as_deref()
                .filter(|_| member.state() == MemberState::Alive),
        })
    }

    fn own_claim(&self) -> Claim<'_> {
        Claim {
            node: self.me.identity.node,
            instance: self.me.identity.instance,
            incarnation: self.me.incarnation,
            state: self.me.state(),
            addr: self
                .me
                .addr
                .map_or(WireAddr::Observe(self.settings.bound.port()), WireAddr::new),
            gone_secs: 0,
            accusers: Vec::new(),
            meta: (!self.me.leaving).then_some(&self.me.meta),
        }
    }

    /// Up to `count` live members other than `except`, chosen at random.
    pub(super) fn pick_live(&mut self, count: usize, except: Option<NodeId>) -> Vec<NodeId> {
        let others = self.order.iter().copied().filter(|node| Some(*node) != except);
        let mut pool: Vec<_> = others.collect();
        let take = count.min(pool.len());
        for i in 0..take {
            let j = i + self.rng.below(pool.len() - i);
            pool.swap(i, j);
        }
        pool.truncate(take);
        pool
    }
}
