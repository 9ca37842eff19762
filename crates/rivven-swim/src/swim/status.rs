//! What follows when a member's status changes: timers, news, events; suspicion and its end; flapping.

use core::time::Duration;

use rivven_types::NodeId;

use super::{Swim, dissemination::REMEMBER};
use crate::{
    Health, Incarnation, MemberEvent, MemberState, Time,
    suspicion::{Suspicion, log10_permille},
    timer::Timer,
};

/// About how many members probe a suspect as soon as they hear of it.
///
/// Enough that three confirmations come quickly if it is dead; a constant, so that large clusters do not
/// fall upon one member together.
const BURST: usize = 8;

/// Contradicted doubts after which a member counts as degraded.
const FLAPS: u32 = 3;

/// Most members whose flapping is counted; further ones are not.
pub(super) const MAX_FLAPS: usize = 1_024;

/// A doubt counts as flapping if so many members had it, each on its own: one who is sick itself doubts all.
const FLAP_ACCUSERS: usize = 2;

/// What a member's status is to become.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) incarnation: Incarnation,
    pub(super) state: MemberState,
    /// For how long it has been gone.
    pub(super) gone: Duration,
    /// What is kept if it is suspect.
    pub(super) suspicion: Suspicion,
}

/// What else a change of status brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) restarted: bool,
    pub(super) updated: bool,
    /// What its health was, if that may have changed.
    pub(super) health_before: Option<Health>,
}

/// How often a member was doubted by several and contradicted, since it was last calm.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flap(u32);

impl Swim {
    /// The one place where a known member's status changes, with everything that hangs on it.
    pub(super) fn set_status(&mut self, now: Time, node: NodeId, change: Change, told: Told) {
        let before = self.members.update(node, &mut self.rng, |member| {
            let before = (member.state, member.incarnation);
            (member.incarnation, member.state) = (change.incarnation, change.state);
            before
        });
        let Some((before, incarnation)) = before else {
            return;
        };
        let contradicted = change.state == MemberState::Alive
            && before != MemberState::Alive
            && incarnation.boot_epoch() == change.incarnation.boot_epoch();
        if contradicted {
            self.count_flap(now, node, before);
        }
        self.follow(now, node, Some(before), change, told);
    }

    /// Timers, news and events of a change that was made.
    pub(super) fn follow(
        &mut self,
        now: Time,
        node: NodeId,
        before: Option<MemberState>,
        change: Change,
        told: Told,
    ) {
        let state = change.state;
        if state.is_live() {
            self.timers.clear(Timer::Forget(node));
        } else {
            let forget_at = now + REMEMBER.saturating_sub(change.gone);
            self.timers.set(Timer::Forget(node), forget_at);
            self.drop_fetch(node);
            self.backoffs.remove(&node);
        }
        if state == MemberState::Suspect {
            self.suspicions.insert(node, change.suspicion);
        } else {
            self.suspicions.remove(&node);
        }
        self.arm_suspicion(now, node);
        self.announce(now, node);
        self.emit_change(node, before, state, told);
    }

    fn emit_change(&mut self, node: NodeId, before: Option<MemberState>, state: MemberState, told: Told) {
        let Some(view) = self.member(node) else { return };
        let confirmed = view.confirmed;
        let health = view.health;
        let changed = before != Some(state) || told.restarted;
        let health_changed = told.health_before.is_some_and(|before| before != health);
        match state {
            MemberState::Alive => {
                let view_again = health_changed.then(|| view.clone());
                if changed {
                    self.emit(MemberEvent::Alive(view));
                } else if told.updated {
                    self.emit(MemberEvent::Updated(view));
                }
                if let Some(view) = view_again {
                    self.emit_health(view);
                }
            }
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

    fn emit_health(&mut self, view: crate::MemberView) {
        self.emit(match view.health {
            Health::Degraded => MemberEvent::Degraded(view),
            Health::Good => MemberEvent::Recovered(view),
        });
    }

    /// One more member failed to reach the suspect on its own.
    pub(super) fn confirm(&mut self, now: Time, node: NodeId, accuser: NodeId) {
        let count = self.live_count();
        let Some(suspicion) = self.suspicions.get_mut(&node) else {
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

    /// Somebody has waited in vain for a contradiction of the suspicion of `node`.
    pub(super) fn hasten(&mut self, now: Time, node: NodeId) {
        if let Some(suspicion) = self.suspicions.get_mut(&node)
            && !suspicion.hastened
        {
            suspicion.hastened = true;
            self.arm_suspicion(now, node);
        }
    }

    /// This node failed to reach `node` on its own.
    pub(super) fn accuse(&mut self, now: Time, node: NodeId, probed: Incarnation) {
        let me = self.me.identity.node;
        let Some(member) = self.members.get(node).filter(|m| m.incarnation == probed) else {
            return;
        };
        match member.state {
            MemberState::Alive => {
                let mut suspicion = Suspicion::new(now);
                suspicion.accuse(me);
                let change = Change {
                    incarnation: probed,
                    state: MemberState::Suspect,
                    gone: Duration::ZERO,
                    suspicion,
                };
                self.set_status(now, node, change, Told::default());
            }
            MemberState::Suspect => self.confirm(now, node, me),
            MemberState::Dead | MemberState::Left => {}
        }
    }

    /// Sets the end of the suspicion of `node` by what is known of it, or clears it.
    pub(super) fn arm_suspicion(&mut self, now: Time, node: NodeId) {
        match self.suspicion_ends(node) {
            Some(at) => self.timers.set(Timer::Suspicion(node), at.max(now)),
            None => self.timers.clear(Timer::Suspicion(node)),
        }
    }

    fn suspicion_ends(&self, node: NodeId) -> Option<Time> {
        let (min, max) = self.suspicion_bounds();
        let suspicion = self.suspicions.get(&node)?;
        Some(suspicion.ends(min, max, self.live_count()))
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
        // Whoever does badly itself, while others do well, may have missed the contradiction. Lifeguard does
        // not go so far; there a member that loses most packets buries others by itself.
        let others_do_well = self.members.live_count() > self.suspicions.len();
        let scale = if others_do_well { 1 + self.health / 2 } else { 1 };
        (min.min(max) * scale, max * scale)
    }

    /// The suspicion ran out, unless this node has come to do badly since.
    pub(super) fn bury(&mut self, now: Time, node: NodeId) {
        if self.suspicion_ends(node).is_some_and(|ends| ends > now) {
            self.arm_suspicion(now, node);
            return;
        }
        let Some(member) = self.members.get(node) else {
            return;
        };
        if member.state == MemberState::Suspect {
            let change = Change {
                incarnation: member.incarnation,
                state: MemberState::Dead,
                gone: Duration::ZERO,
                suspicion: Suspicion::new(now),
            };
            self.set_status(now, node, change, Told::default());
        }
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        if self.members.remove(node) {
            self.gossip.forget(node);
            self.suspicions.remove(&node);
            self.flaps.remove(&node);
            self.backoffs.remove(&node);
            self.drop_fetch(node);
            for timer in [Timer::Calm(node), Timer::Suspicion(node), Timer::Forget(node)] {
                self.timers.clear(timer);
            }
            self.emit(MemberEvent::Forgotten(node));
        }
    }

    /// Those who hear of a suspicion look for themselves: the suspect learns of it and contradicts, or
    /// confirmations end it soon.
    pub(super) fn join_burst(&mut self, now: Time, suspect: NodeId) {
        if self.rng.below(self.live_count()) < BURST {
            self.probe_on_hint(now, suspect);
        }
    }

    /// The member has contradicted a doubt, or its death.
    fn count_flap(&mut self, now: Time, node: NodeId, before: MemberState) {
        let doubters = self.suspicions.get(&node).map_or(0, |s| s.accusers().len());
        let grave = before == MemberState::Dead || doubters >= FLAP_ACCUSERS;
        let room = self.flaps.contains_key(&node) || self.flaps.len() < MAX_FLAPS;
        if !grave || !room {
            return;
        }
        let Flap(count) = self.flaps.entry(node).or_default();
        *count = count.saturating_add(1);
        let flapping = *count >= FLAPS;
        self.timers
            .set(Timer::Calm(node), now + self.settings.calm_after());
        if flapping {
            self.set_observed_health(node, Health::Degraded);
        }
    }

    /// The member was not doubted for a while.
    pub(super) fn calm(&mut self, node: NodeId) {
        self.flaps.remove(&node);
        self.set_observed_health(node, Health::Good);
    }

    fn set_observed_health(&mut self, node: NodeId, health: Health) {
        let Some(member) = self.members.touch(node) else {
            return;
        };
        let before = member.health();
        member.observed_health = health;
        let (after, alive) = (member.health(), member.is_live());
        if before != after
            && alive
            && let Some(view) = self.member(node)
        {
            self.emit_health(view);
        }
    }
}
