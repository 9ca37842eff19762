//! What statements about members do to the view of them.
//!
//! A statement replaces what is known if it is greater by incarnation, then by state. That order is total
//! and only a member itself raises its incarnation, so views agree however the statements travelled, and
//! nothing that is over comes back.

use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rivven_types::{InstanceId, NodeId};

use super::{MAX_HEALTH, MAX_MEMBERS, Swim, dissemination::REMEMBER};
use crate::{
    Identity, Incarnation, MemberEvent, MemberState, Time,
    member::{Member, Rtt, Status, fingerprint},
    suspicion::{Suspicion, log10_permille},
    timer::Timer,
    wire::{Claim, Item, WireAddr},
};

/// How long a conflict that was reported is not reported again.
const CONFLICT_MUTE: Duration = Duration::from_secs(60);

/// About how many members probe a suspect as soon as they hear of it.
///
/// Enough that three confirmations come quickly if it is dead; a constant, so that large clusters do not
/// fall upon one member together.
const BURST: usize = 8;

/// How a statement came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// As news.
    Gossip,
    /// As part of another member's whole view.
    Sync,
}

/// Who passed a statement on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) sender: Identity,
    pub(super) from: SocketAddr,
    pub(super) via: Via,
}

impl Swim {
    /// Takes in one statement.
    pub(super) fn hear(&mut self, now: Time, claim: &Claim<'_>, source: &Source) {
        if claim.node == self.me.identity.node {
            self.hear_of_self(now, claim, source.from);
            return;
        }
        let first_hand = claim.node == source.sender.node;
        if first_hand && !speaks_for_itself(claim, &source.sender) {
            return;
        }
        let observed = first_hand.then(|| source.from.ip());
        let Some(mut addr) = claim.addr.resolve(observed) else {
            return;
        };
        // A neighbour told it the loopback address, which is not where it is seen from here.
        if addr.ip().is_loopback() && observed.is_some_and(|ip| !ip.is_loopback()) {
            addr.set_ip(source.from.ip());
        }
        let Some(member) = self.members.get(&claim.node) else {
            if first_hand || claim.incarnation.is_near(None) {
                self.admit(now, claim, addr);
            }
            return;
        };
        if member.instance != claim.instance {
            self.report_conflict(now, claim.node, claim.instance, source.from);
            return;
        }
        if !first_hand && !claim.incarnation.is_near(Some(member.incarnation)) {
            return;
        }
        let state = cautious_state(claim, member, source.via);
        let known = member.standing();
        let heard = (claim.incarnation, state);
        let describes = heard == known && member.meta.is_none() && claim.meta.is_some();
        if heard > known || describes && state == MemberState::Alive {
            self.adopt(now, claim, state, addr);
        } else if heard == known && state == MemberState::Suspect {
            for accuser in &claim.accusers {
                self.confirm(now, claim.node, *accuser);
            }
        }
    }

    /// Contradicts what others say of this node, unless it is true.
    fn hear_of_self(&mut self, now: Time, claim: &Claim<'_>, from: SocketAddr) {
        let me = self.me.identity;
        if claim.instance != me.instance {
            self.report_conflict(now, me.node, claim.instance, from);
            return;
        }
        let epoch = claim.incarnation.boot_epoch();
        if epoch > me.boot_epoch {
            if now >= self.me.superseded_muted_until {
                self.me.superseded_muted_until = now + CONFLICT_MUTE;
                self.emit(MemberEvent::Superseded { known: epoch });
            }
            return;
        }
        // Someone still tells of an earlier start: it has not heard of this one.
        if epoch < me.boot_epoch {
            if !self.gossip.contains(me.node) {
                self.announce(now, me.node);
            }
            return;
        }
        let contradicted = (claim.incarnation, claim.state) > (self.me.incarnation, self.me.state());
        if contradicted && claim.incarnation.is_near(Some(self.me.incarnation)) {
            if !self.me.leaving {
                self.health = (self.health + 1).min(MAX_HEALTH);
            }
            self.renew(now, claim.incarnation.refuted());
        }
    }

    /// Makes a newer statement about this node itself.
    fn renew(&mut self, now: Time, incarnation: Incarnation) {
        self.me.incarnation = incarnation;
        self.refresh_own_fingerprint();
        self.announce(now, self.me.identity.node);
    }

    /// This node's address is `addr` from now on.
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

    pub(super) fn accuses_me(&self, items: &[Item<'_>]) -> bool {
        let me = self.me.identity.node;
        items
            .iter()
            .any(|item| matches!(item, Item::Claim(claim) if claim.node == me))
    }

    /// Something came in this node's own name: from itself, or from another with the same name.
    pub(super) fn handle_own_name(
        &mut self,
        now: Time,
        from: SocketAddr,
        sender: Identity,
        items: &[Item<'_>],
    ) {
        if sender.instance != self.me.identity.instance {
            self.report_conflict(now, sender.node, sender.instance, from);
            return;
        }
        for item in items {
            if let Item::Sync(sync) = item {
                self.forget_own_seed(sync.seq);
            }
        }
    }

    pub(super) fn report_conflict(&mut self, now: Time, node: NodeId, other: InstanceId, addr: SocketAddr) {
        let (known, muted_until) = match self.members.get_mut(&node) {
            Some(member) => (member.instance, &mut member.conflict_muted_until),
            None => (self.me.identity.instance, &mut self.me.conflict_muted_until),
        };
        if now >= *muted_until {
            *muted_until = now + CONFLICT_MUTE;
            self.emit(MemberEvent::Conflict {
                node,
                known,
                other,
                addr,
            });
        }
    }

    /// First news of a member.
    fn admit(&mut self, now: Time, claim: &Claim<'_>, addr: SocketAddr) {
        let gone = Duration::from_secs(claim.gone_secs.into());
        // What others are about to forget must not begin a new life here.
        let stale = !claim.state.is_live() && gone >= REMEMBER;
        if stale || self.members.len() >= MAX_MEMBERS {
            return;
        }
        let member = Member {
            instance: claim.instance,
            incarnation: claim.incarnation,
            status: Status::Left { forget_at: now },
            addr,
            meta: None,
            rtt: Rtt::default(),
            fingerprint: 0,
            conflict_muted_until: Time::ZERO,
        };
        self.members.insert(claim.node, member);
        self.adopt(now, claim, claim.state, addr);
    }

    /// Makes a greater statement the known one.
    fn adopt(&mut self, now: Time, claim: &Claim<'_>, state: MemberState, addr: SocketAddr) {
        let gone = Duration::from_secs(claim.gone_secs.into()).min(REMEMBER);
        let forget_at = now + REMEMBER.saturating_sub(gone);
        let status = match state {
            MemberState::Alive => Status::Alive,
            MemberState::Suspect => {
                let mut suspicion = Suspicion::new(now);
                for accuser in claim.accusers.iter().filter(|accuser| **accuser != claim.node) {
                    suspicion.accuse(*accuser);
                }
                Status::Suspect(suspicion)
            }
            MemberState::Dead => Status::Dead { forget_at },
            MemberState::Left => Status::Left { forget_at },
        };
        let Some(member) = self.members.get_mut(&claim.node) else {
            return;
        };
        let restarted = claim.incarnation.boot_epoch() > member.incarnation.boot_epoch();
        if restarted {
            member.rtt = Rtt::default();
            member.meta = None;
        }
        let meta_changed = match claim.meta {
            Some(meta) if member.meta.as_deref() != Some(meta) => {
                member.meta = Some(meta.into());
                true
            }
            Some(_) | None => false,
        };
        let moved = claim.incarnation > member.incarnation && member.addr != addr;
        if moved {
            member.addr = addr;
        }
        let told = Told {
            restarted,
            updated: meta_changed || moved,
        };
        self.set_status(now, claim.node, claim.incarnation, status, told);
        if state == MemberState::Suspect {
            self.join_burst(now, claim.node);
        }
    }

    /// The one place where a member's status changes, with everything that hangs on it.
    pub(super) fn set_status(
        &mut self,
        now: Time,
        node: NodeId,
        incarnation: Incarnation,
        status: Status,
        told: Told,
    ) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let known_before = member.fingerprint != 0;
        let before = known_before.then(|| member.state());
        member.incarnation = incarnation;
        member.status = status;
        let state = member.state();
        let described = state == MemberState::Alive && member.meta.is_some();
        let print = fingerprint(node, incarnation, state, described);
        self.digest = self.digest.wrapping_sub(member.fingerprint).wrapping_add(print);
        member.fingerprint = print;
        match member.forget_at() {
            Some(at) => self.timers.set(Timer::Forget(node), at),
            None => self.timers.clear(Timer::Forget(node)),
        }
        match (before.is_some_and(MemberState::is_live), state.is_live()) {
            (false, true) => self.enter_order(node),
            (true, false) => self.leave_order(node),
            (false, false) | (true, true) => {}
        }
        self.arm_suspicion(now, node);
        self.announce(now, node);
        self.emit_change(node, before, state, told);
    }

    fn emit_change(&mut self, node: NodeId, before: Option<MemberState>, state: MemberState, told: Told) {
        let Some(view) = self.member(node) else { return };
        let confirmed = view.confirmed;
        let changed = before != Some(state) || told.restarted;
        match state {
            MemberState::Alive if changed => self.emit(MemberEvent::Alive(view)),
            MemberState::Alive if told.updated => self.emit(MemberEvent::Updated(view)),
            MemberState::Alive => {}
            MemberState::Suspect => {
                let confirmation = confirmed.then(|| MemberEvent::Confirmed(view.clone()));
                self.emit(MemberEvent::Suspect(view));
                if let Some(confirmation) = confirmation {
                    self.emit(confirmation);
                }
            }
            MemberState::Dead => self.emit(MemberEvent::Dead(view)),
            MemberState::Left => self.emit(MemberEvent::Left(view)),
        }
    }

    /// One more member failed to reach the suspect on its own.
    pub(super) fn confirm(&mut self, now: Time, node: NodeId, accuser: NodeId) {
        let count = self.live_count();
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let Status::Suspect(suspicion) = &mut member.status else {
            return;
        };
        let before = suspicion.is_confirmed(count);
        if accuser == node || !suspicion.accuse(accuser) {
            return;
        }
        let newly = suspicion.is_confirmed(count) && !before;
        self.arm_suspicion(now, node);
        self.announce(now, node);
        if newly && let Some(view) = self.member(node) {
            self.emit(MemberEvent::Confirmed(view));
        }
    }

    /// This node failed to reach `node` on its own.
    pub(super) fn accuse(&mut self, now: Time, node: NodeId, probed: Incarnation) {
        let me = self.me.identity.node;
        let Some(member) = self.members.get(&node).filter(|m| m.incarnation == probed) else {
            return;
        };
        match member.status {
            Status::Alive => {
                let mut suspicion = Suspicion::new(now);
                suspicion.accuse(me);
                self.set_status(now, node, probed, Status::Suspect(suspicion), Told::default());
            }
            Status::Suspect(_) => self.confirm(now, node, me),
            Status::Dead { .. } | Status::Left { .. } => {}
        }
    }

    /// Sets the end of the suspicion of `node` by what is known of it, or clears it.
    pub(super) fn arm_suspicion(&mut self, now: Time, node: NodeId) {
        let (min, max) = self.suspicion_bounds();
        let count = self.live_count();
        let suspicion = self.members.get(&node).and_then(Member::suspicion);
        match suspicion.map(|s| s.ends(min, max, count).max(now)) {
            Some(at) => self.timers.set(Timer::Suspicion(node), at),
            None => self.timers.clear(Timer::Suspicion(node)),
        }
    }

    /// Shortest and longest suspicion: long enough for news to go to the suspect and back, and longer in
    /// larger clusters, where news takes longer.
    fn suspicion_bounds(&self) -> (Duration, Duration) {
        const ROUND_TRIPS: u32 = 3;
        let count = self.live_count();
        let max = self.settings.suspect_timeout * log10_permille(count).max(1000) / 1000;
        // Each round multiplies those who know by about four; the first and the last reach few.
        let rounds = count.ilog2() / 2 + 2;
        let spread = self.settings.gossip_interval() * rounds * ROUND_TRIPS;
        let min = (self.settings.period * 2).max(spread);
        (min.min(max), max)
    }

    /// The suspicion ran out.
    pub(super) fn bury(&mut self, now: Time, node: NodeId) {
        let Some(member) = self.members.get(&node) else {
            return;
        };
        if let Status::Suspect(_) = member.status {
            let status = Status::Dead {
                forget_at: now + REMEMBER,
            };
            self.set_status(now, node, member.incarnation, status, Told::default());
        }
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        if let Some(member) = self.members.remove(&node) {
            self.digest = self.digest.wrapping_sub(member.fingerprint);
            self.gossip.forget(node);
            self.emit(MemberEvent::Forgotten(node));
        }
    }

    /// Those who hear of a suspicion look for themselves: the suspect learns of it and contradicts, or
    /// confirmations end it soon.
    fn join_burst(&mut self, now: Time, suspect: NodeId) {
        if self.rng.below(self.live_count()) < BURST {
            self.probe_on_hint(now, suspect);
        }
    }

    fn enter_order(&mut self, node: NodeId) {
        self.order.push(node);
        let last = self.order.len() - 1;
        // At a random place, so that those who join together are not probed in step by everyone.
        let at = self.rng.below(self.order.len());
        self.order.swap(last, at);
    }

    fn leave_order(&mut self, node: NodeId) {
        if let Some(at) = self.order.iter().position(|other| *other == node) {
            self.order.remove(at);
            if at < self.cursor {
                self.cursor -= 1;
            }
        }
    }
}

/// What else a change of status brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    restarted: bool,
    updated: bool,
}

/// Whether a member's statement about itself is of the start that its envelope proves.
fn speaks_for_itself(claim: &Claim<'_>, sender: &Identity) -> bool {
    claim.instance == sender.instance && claim.incarnation.boot_epoch() == sender.boot_epoch
}

/// A death that is not news is doubted where the member is thought alive.
///
/// After a split has healed each half remembers the other as dead; adopting that would kill the whole
/// cluster once. Suspecting instead, without an accuser, gives each member the time to contradict.
fn cautious_state(claim: &Claim<'_>, known: &Member, via: Via) -> MemberState {
    if claim.state == MemberState::Dead && via == Via::Sync && known.is_live() {
        MemberState::Suspect
    } else {
        claim.state
    }
}

/// Whether two addresses are the same host and port, an IPv4 address mapped into IPv6 being itself.
pub(super) fn same_addr(a: SocketAddr, b: SocketAddr) -> bool {
    let plain = |ip: IpAddr| ip.to_canonical();
    a.port() == b.port() && plain(a.ip()) == plain(b.ip())
}
