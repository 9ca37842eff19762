//! What statements about members do to the view of them.
//!
//! A statement replaces what is known if it is greater by incarnation, then by state. That order is total
//! and only a member itself raises its incarnation, so views agree however the statements travelled, and
//! nothing that is over comes back. The one exception is caution: a death that is only heard of is a
//! suspicion first, and becomes a death here by its own timer.

use alloc::vec::Vec;
use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rivven_types::{InstanceId, NodeId};

use super::{
    Letter, MAX_MEMBERS, Swim,
    dissemination::REMEMBER,
    status::{Change, Told},
};
use crate::{
    Health, Identity, Incarnation, MemberEvent, MemberState, Time,
    member::{Member, Rtt},
    meta::Meta,
    suspicion::Suspicion,
    wire::{Claim, Item, MetaClaim},
};

/// How long a problem that was reported is not reported again.
const PROBLEM_MUTE: Duration = Duration::from_secs(60);

/// Most problems that are not to be reported again; while there are so many, no further one is reported.
pub(super) const MAX_MUTED: usize = 256;

/// Most claims of a page that are answered because more is known here.
const MAX_OUTDATED: usize = 24;

/// What can be wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Problem {
    /// Two data directories use it.
    Conflict,
    /// A later start of it is known.
    Superseded,
}

/// Who passed a statement on.
#[derive(Clone, Copy, Debug)]
struct Source {
    sender: Identity,
    from: SocketAddr,
}

impl Swim {
    /// Takes in every statement of a letter. Of a page, returns whom the sender knows less of than this node.
    pub(super) fn hear_all(&mut self, now: Time, letter: &Letter, items: &[Item<'_>]) -> Vec<NodeId> {
        let source = Source {
            sender: letter.sender,
            from: letter.from,
        };
        let is_page = items.iter().any(|item| matches!(item, Item::Page(_)));
        let mut outdated = Vec::new();
        for item in items {
            let Item::Claim(claim) = item else { continue };
            let known = self.members.get(claim.node).map(Member::standing);
            let older = known.is_some_and(|known| (claim.incarnation, claim.state) < known);
            if is_page && older && outdated.len() < MAX_OUTDATED {
                outdated.push(claim.node);
            }
            self.hear(now, claim, &source);
        }
        outdated
    }

    /// Takes in one statement.
    fn hear(&mut self, now: Time, claim: &Claim<'_>, source: &Source) {
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
        if addr.ip().is_loopback() && observed.is_some_and(|ip| !ip.is_loopback() && !ip.is_unspecified()) {
            addr.set_ip(source.from.ip());
        }
        let Some(member) = self.members.get(claim.node) else {
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
        let state = cautious_state(claim, member);
        let known = member.standing();
        let heard = (claim.incarnation, state);
        let describes = heard == known && !member.meta.is_described() && claim.meta != MetaClaim::Unknown;
        if heard > known || describes && state == MemberState::Alive {
            self.adopt(now, claim, state, addr);
        } else if heard == known && state == MemberState::Suspect {
            for accuser in &claim.accusers {
                self.confirm(now, claim.node, *accuser);
            }
            if self.is_news_of_death(claim) {
                self.hasten(now, claim.node);
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
            if self.unmuted(now, me.node, Problem::Superseded) {
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
                self.blame_self(now, 1);
            }
            // The blame may have made a newer statement already.
            let refuted = claim.incarnation.max(self.me.incarnation).refuted();
            self.renew(now, refuted);
        }
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
        let known = self
            .members
            .get(node)
            .map_or(self.me.identity.instance, |member| member.instance);
        if self.unmuted(now, node, Problem::Conflict) {
            self.emit(MemberEvent::Conflict {
                node,
                known,
                other,
                addr,
            });
        }
    }

    /// Whether a problem with `node` may be reported. It then may not for a while.
    fn unmuted(&mut self, now: Time, node: NodeId, problem: Problem) -> bool {
        self.muted.retain(|_, until| now < *until);
        let key = (node, problem);
        if self.muted.contains_key(&key) || self.muted.len() >= MAX_MUTED {
            return false;
        }
        self.muted.insert(key, now + PROBLEM_MUTE);
        true
    }

    /// First news of a member.
    fn admit(&mut self, now: Time, claim: &Claim<'_>, addr: SocketAddr) {
        let gone = Duration::from_secs(claim.gone_secs.into());
        // What others are about to forget must not begin a new life here.
        let stale = !claim.state.is_live() && gone >= REMEMBER;
        if stale || self.members.len() >= MAX_MEMBERS {
            return;
        }
        let identity = Identity {
            node: claim.node,
            instance: claim.instance,
            boot_epoch: claim.incarnation.boot_epoch(),
        };
        let mut member = newcomer(identity, addr, meta_of(claim, None));
        member.incarnation = claim.incarnation;
        member.state = claim.state;
        member.claimed_health = claim.health;
        self.members.insert(member, &mut self.rng);
        let change = Change {
            incarnation: claim.incarnation,
            state: claim.state,
            gone: gone.min(REMEMBER),
            suspicion: self.suspicion_of(now, claim),
        };
        self.follow(now, claim.node, None, change, Told::default());
        self.want_meta(now, claim.node);
        if claim.state == MemberState::Suspect {
            self.join_burst(now, claim.node);
        }
    }

    /// Makes a greater statement the known one.
    fn adopt(&mut self, now: Time, claim: &Claim<'_>, state: MemberState, addr: SocketAddr) {
        let gone = Duration::from_secs(claim.gone_secs.into()).min(REMEMBER);
        let change = Change {
            incarnation: claim.incarnation,
            state,
            gone,
            suspicion: self.suspicion_of(now, claim),
        };
        let told = self.members.update(claim.node, &mut self.rng, |member| {
            let restarted = claim.incarnation.boot_epoch() > member.incarnation.boot_epoch();
            if restarted {
                member.rtt = Rtt::default();
                member.meta = Meta::Unknown;
                member.observed_health = Health::Good;
            }
            let before = member.health();
            member.claimed_health = claim.health;
            let meta = meta_of(claim, Some(&member.meta));
            let redescribed = meta.bytes() != member.meta.bytes() && meta.bytes().is_some();
            if meta.is_described() || state == MemberState::Alive {
                member.meta = meta;
            }
            let moved = claim.incarnation > member.incarnation && member.socket_addr() != addr;
            if moved {
                member.addr = addr.into();
            }
            Told {
                restarted,
                updated: redescribed || moved,
                health_before: Some(before),
            }
        });
        if let Some(told) = told {
            self.set_status(now, claim.node, change, told);
            self.want_meta(now, claim.node);
            if state == MemberState::Suspect {
                self.join_burst(now, claim.node);
            }
        }
    }

    /// The suspicion that begins when `claim` is taken for one.
    fn suspicion_of(&self, now: Time, claim: &Claim<'_>) -> Suspicion {
        let mut suspicion = Suspicion::new(now);
        for accuser in claim.accusers.iter().filter(|accuser| **accuser != claim.node) {
            suspicion.accuse(*accuser);
        }
        suspicion.hastened = self.is_news_of_death(claim);
        suspicion
    }

    /// Whether others have just waited in vain for a contradiction.
    ///
    /// A member that hears it waits only the shortest time itself. An old death, as after a split, is no
    /// reason for haste: there the member may be alive on the other side and needs time to be heard.
    fn is_news_of_death(&self, claim: &Claim<'_>) -> bool {
        let age = Duration::from_secs(claim.gone_secs.into());
        claim.state == MemberState::Dead && age <= self.settings.news_age()
    }
}

/// A live member of whom nothing else is known.
pub(super) fn newcomer(identity: Identity, addr: SocketAddr, meta: Meta) -> Member {
    Member {
        node: identity.node,
        instance: identity.instance,
        incarnation: Incarnation::first(identity.boot_epoch),
        meta,
        addr: addr.into(),
        rtt: Rtt::default(),
        place: 0,
        state: MemberState::Alive,
        claimed_health: Health::Good,
        observed_health: Health::Good,
    }
}

/// What a claim makes of what was known of the member's metadata.
fn meta_of(claim: &Claim<'_>, known: Option<&Meta>) -> Meta {
    match claim.meta {
        MetaClaim::Unknown => Meta::Unknown,
        MetaClaim::Inline(bytes) => Meta::of(bytes),
        MetaClaim::Digest(digest) => match known {
            Some(known) if known.digest() == Some(digest) => known.clone(),
            Some(_) | None => Meta::awaited(digest),
        },
    }
}

/// Whether a member's statement about itself is of the start that its envelope proves.
fn speaks_for_itself(claim: &Claim<'_>, sender: &Identity) -> bool {
    claim.instance == sender.instance && claim.incarnation.boot_epoch() == sender.boot_epoch
}

/// A death is doubted where the member is thought live: nobody is buried on one member's word.
///
/// After a split has healed each half remembers the other as dead; adopting that would kill the whole
/// cluster once. And a member that lies, or is mad, could bury whom it likes. Suspecting gives the member
/// the time to contradict; where it has been suspect for that long already, it is buried at once.
fn cautious_state(claim: &Claim<'_>, known: &Member) -> MemberState {
    if claim.state == MemberState::Dead && known.is_live() {
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
