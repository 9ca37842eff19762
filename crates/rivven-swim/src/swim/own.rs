//! This node: what it says of itself, and how it does.

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::{MAX_HEALTH, Swim};
use crate::{
    ConfigError, Health, Identity, Incarnation, MAX_META_LEN, MemberState, MemberView, Time,
    member::fingerprint,
    meta::{MAX_INLINE_META, MetaDigest},
    timer::Timer,
    wire::{Claim, Item, MetaClaim, WireAddr},
};

/// From this local health on, this node tells others that it is degraded.
const DEGRADED_FROM: u32 = 4;

/// At this local health or better it takes that back.
const RECOVERED_AT: u32 = 1;

/// For how many periods it says one thing before it says the other: every change is news to everybody.
const HEALTH_HOLD_PERIODS: u32 = 10;

/// This node, as it describes itself.
#[derive(Clone, Debug)]
pub(super) struct Me {
    pub(super) identity: Identity,
    pub(super) incarnation: Incarnation,
    /// `None` until it was configured or observed.
    pub(super) addr: Option<SocketAddr>,
    pub(super) meta: Vec<u8>,
    pub(super) meta_digest: MetaDigest,
    pub(super) health: Health,
    health_since: Time,
    pub(super) leaving: bool,
    pub(super) fingerprint: u64,
    pub(super) next_broadcast: u32,
}

impl Me {
    pub(super) fn new(identity: Identity, addr: Option<SocketAddr>, meta: &[u8], now: Time) -> Self {
        Self {
            identity,
            incarnation: Incarnation::first(identity.boot_epoch),
            addr,
            meta: meta.to_vec(),
            meta_digest: MetaDigest::of(meta),
            health: Health::Good,
            health_since: now,
            leaving: false,
            fingerprint: 0,
            next_broadcast: 0,
        }
    }

    pub(super) const fn state(&self) -> MemberState {
        if self.leaving {
            MemberState::Left
        } else {
            MemberState::Alive
        }
    }
}

impl Swim {
    /// Replaces the bytes that others see in [`MemberView::meta`].
    ///
    /// Up to 64 bytes travel with the news; longer ones are fetched from this node by every member.
    ///
    /// # Errors
    /// [`ConfigError::MetaTooLong`]; nothing changed.
    pub fn set_meta(&mut self, now: Time, meta: &[u8]) -> Result<(), ConfigError> {
        if meta.len() > MAX_META_LEN {
            return Err(ConfigError::MetaTooLong(meta.len()));
        }
        self.notice_lag(now);
        if meta != self.me.meta {
            self.me.meta = meta.to_vec();
            self.me.meta_digest = MetaDigest::of(meta);
            self.renew(now, self.me.incarnation.refuted());
        }
        Ok(())
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

    /// Makes a newer statement about this node itself.
    pub(super) fn renew(&mut self, now: Time, incarnation: Incarnation) {
        self.me.incarnation = incarnation;
        self.refresh_own_fingerprint();
        self.announce(now, self.me.identity.node);
    }

    /// This node's address is `addr` from this moment on.
    pub(super) fn move_to(&mut self, now: Time, addr: SocketAddr) {
        let before = self.me.addr.replace(addr);
        if before.is_some_and(|before| before != addr) {
            // Others keep the address they have within an incarnation.
            self.renew(now, self.me.incarnation.refuted());
        }
    }

    /// A peer says where it sees this node. Only of use where no address was configured.
    pub(super) fn observe(&mut self, now: Time, observed: WireAddr) {
        if self.settings.advertised.is_some() {
            return;
        }
        let Some(ip) = observed.resolve(None).map(|addr| addr.ip()) else {
            return;
        };
        // A neighbour on the same machine sees the loopback address, which is of no use elsewhere.
        let better = match self.me.addr.map(|addr| addr.ip()) {
            None => true,
            Some(current) => current.is_loopback() && !ip.is_loopback(),
        };
        if better {
            self.move_to(now, SocketAddr::new(ip, self.settings.bound.port()));
        }
    }

    /// This node did not do as it should (Lifeguard, section IV-A).
    pub(super) fn blame_self(&mut self, now: Time, by: u32) {
        self.health = self.health.saturating_add(by).min(MAX_HEALTH);
        self.tell_health(now);
    }

    /// This node did as it should.
    pub(super) fn praise_self(&mut self, now: Time) {
        self.health = self.health.saturating_sub(1);
        self.tell_health(now);
    }

    /// Tells others how this node does, if that has changed for good.
    fn tell_health(&mut self, now: Time) {
        let health = match self.me.health {
            Health::Good if self.health >= DEGRADED_FROM => Health::Degraded,
            Health::Degraded if self.health <= RECOVERED_AT => Health::Good,
            unchanged @ (Health::Good | Health::Degraded) => unchanged,
        };
        let hold = self.settings.period * HEALTH_HOLD_PERIODS;
        if health != self.me.health && now >= self.me.health_since + hold && !self.me.leaving {
            self.me.health = health;
            self.me.health_since = now;
            self.renew(now, self.me.incarnation.refuted());
        }
    }

    pub(super) fn accuses_me(&self, items: &[Item<'_>]) -> bool {
        let me = self.me.identity.node;
        items
            .iter()
            .any(|item| matches!(item, Item::Claim(claim) if claim.node == me))
    }

    pub(super) fn own_view(&self) -> MemberView {
        MemberView {
            node: self.me.identity.node,
            instance: self.me.identity.instance,
            boot_epoch: self.me.identity.boot_epoch,
            incarnation: self.me.incarnation,
            state: self.me.state(),
            confirmed: false,
            health: self.me.health,
            addr: self.me.addr.unwrap_or(self.settings.bound),
            meta: self.me.meta.clone(),
        }
    }

    pub(super) fn refresh_own_fingerprint(&mut self) {
        let (node, state) = (self.me.identity.node, self.me.state());
        let described = state == MemberState::Alive;
        let new = fingerprint(node, self.me.incarnation, state, described);
        self.members.add_sum(node, new.wrapping_sub(self.me.fingerprint));
        self.me.fingerprint = new;
    }

    pub(super) fn own_claim(&self) -> Claim<'_> {
        let meta = if self.me.leaving {
            MetaClaim::Unknown
        } else if self.me.meta.len() <= MAX_INLINE_META {
            MetaClaim::Inline(&self.me.meta)
        } else {
            MetaClaim::Digest(self.me.meta_digest)
        };
        Claim {
            node: self.me.identity.node,
            instance: self.me.identity.instance,
            incarnation: self.me.incarnation,
            state: self.me.state(),
            health: self.me.health,
            addr: self
                .me
                .addr
                .map_or(WireAddr::Observe(self.settings.bound.port()), WireAddr::new),
            gone_secs: 0,
            accusers: Vec::new(),
            meta,
        }
    }
}
