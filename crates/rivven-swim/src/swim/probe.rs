//! Finding out whether members answer: direct and indirect probes (SWIM, sections 3.1 and 4.3).

use core::net::SocketAddr;
use core::time::Duration;

use rivven_types::NodeId;

use super::{Letter, MAX_HEALTH, Swim};
use crate::{
    Incarnation, MemberState, Time,
    timer::Timer,
    wire::{AMPLIFICATION_LIMIT, Ack, Item, Nack, Payload, Ping, PingReq, Relayed, WireAddr},
};

/// Members asked to probe where this node got no answer (SWIM's k).
const HELPERS: usize = 3;

/// Most probes under way, own and for others. Hints and requests beyond it are ignored.
const MAX_PROBES: usize = 256;

/// How often in a row this node blames itself when it heard nothing at all while it probed.
const MAX_SILENT_FAILURES: u32 = 2;

/// One probe under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    target: NodeId,
    /// What was known when it began: who has contradicted since is not accused.
    incarnation: Incarnation,
    sent: Time,
    timeout: Duration,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A ping is out.
    Direct,
    /// Helpers were asked, and the ping was repeated.
    Indirect { asked: u32, nacks: u32 },
    /// A ping on behalf of another member, which numbers it `seq`.
    Relay { to: SocketAddr, asker: NodeId, seq: u32 },
    /// A ping to a member that is gone. No answer means nothing.
    Heal,
}

#[cfg(test)]
impl Probe {
    pub(super) fn began(&self, at: Time) -> bool {
        self.sent == at
    }
}

impl Swim {
    /// Probes the next member of the round robin.
    pub(super) fn probe_next(&mut self, now: Time) {
        self.timers
            .set(Timer::Period, now + self.scaled(self.settings.period));
        for _ in 0..self.order.len() {
            if self.cursor >= self.order.len() {
                self.rng.shuffle(&mut self.order);
                self.cursor = 0;
            }
            let next = self.order.get(self.cursor).copied();
            self.cursor += 1;
            if let Some(node) = next.filter(|node| !self.is_probing(*node)) {
                self.start_probe(now, node, Stage::Direct);
                return;
            }
        }
    }

    /// Probes `node` at once, unless a probe of it is under way.
    pub(super) fn probe_on_hint(&mut self, now: Time, node: NodeId) {
        let Some(member) = self.members.get(&node) else {
            return;
        };
        if !self.me.leaving && !self.is_probing(node) {
            let stage = if member.is_live() {
                Stage::Direct
            } else {
                Stage::Heal
            };
            self.start_probe(now, node, stage);
        }
    }

    /// Looks whether a member that is gone is back, as after a split.
    pub(super) fn heal(&mut self, now: Time) {
        self.timers.set(Timer::Heal, now + self.settings.heal_interval());
        let gone = self.members.iter().filter(|(_, member)| !member.is_live());
        let count = gone.clone().count();
        let chosen = gone.map(|(node, _)| *node).nth(self.rng.below(count));
        if let Some(node) = chosen {
            self.probe_on_hint(now, node);
        }
    }

    fn is_probing(&self, node: NodeId) -> bool {
        self.probes.values().any(|probe| {
            probe.target == node && matches!(probe.stage, Stage::Direct | Stage::Indirect { .. })
        })
    }

    fn start_probe(&mut self, now: Time, target: NodeId, stage: Stage) {
        if self.probes.len() >= MAX_PROBES {
            return;
        }
        let Some(member) = self.members.get(&target) else {
            return;
        };
        let (min, max) = self.settings.probe_timeout_bounds();
        let timeout = self.scaled(member.rtt.timeout().unwrap_or(max).clamp(min, max));
        let (addr, incarnation) = (member.addr, member.incarnation);
        let seq = self.seq();
        self.probes.insert(
            seq,
            Probe {
                target,
                incarnation,
                sent: now,
                timeout,
                stage,
            },
        );
        self.timers.set(Timer::Probe(seq), now + timeout);
        self.send_ping(now, seq, target, addr);
    }

    fn send_ping(&mut self, now: Time, seq: u32, target: NodeId, addr: SocketAddr) {
        let ping = Ping {
            seq,
            target,
            digest: self.digest,
        };
        self.send(now, addr, target, &Item::Ping(ping));
    }

    /// Nothing came in time: go on to the next stage, or conclude.
    pub(super) fn end_probe_stage(&mut self, now: Time, seq: u32) {
        let Some(probe) = self.probes.get(&seq).copied() else {
            return;
        };
        match probe.stage {
            Stage::Direct => self.ask_helpers(now, seq, probe),
            Stage::Indirect { asked, nacks } => {
                self.probes.remove(&seq);
                self.fail_probe(now, &probe, asked, nacks);
            }
            Stage::Relay {
                to,
                asker,
                seq: theirs,
            } => {
                self.probes.remove(&seq);
                self.send(now, to, asker, &Item::Nack(Nack { seq: theirs }));
            }
            Stage::Heal => {
                self.probes.remove(&seq);
            }
        }
    }

    fn ask_helpers(&mut self, now: Time, seq: u32, probe: Probe) {
        let rest = self.scaled(self.settings.period).saturating_sub(probe.timeout);
        let wait = (probe.timeout * 3).min(rest).max(probe.timeout);
        let Some(addr) = self.members.get(&probe.target).map(|member| member.addr) else {
            self.probes.remove(&seq);
            return;
        };
        let request = PingReq {
            seq,
            target: probe.target,
            addr: WireAddr::new(addr),
            wait_ms: u16::try_from(wait.as_millis()).unwrap_or(u16::MAX),
        };
        let mut asked = 0;
        for helper in self.pick_live(HELPERS, Some(probe.target)) {
            let helper_addr = self
                .members
                .get(&helper)
                .filter(|m| m.state() == MemberState::Alive);
            if let Some(to) = helper_addr.map(|member| member.addr) {
                self.send(now, to, helper, &Item::PingReq(request));
                asked += 1;
            }
        }
        let stage = Stage::Indirect { asked, nacks: 0 };
        self.probes.insert(seq, Probe { stage, ..probe });
        self.timers.set(Timer::Probe(seq), now + wait);
        // Losing one datagram of each way must not cost a suspicion.
        self.send_ping(now, seq, probe.target, addr);
    }

    fn fail_probe(&mut self, now: Time, probe: &Probe, asked: u32, nacks: u32) {
        // Helpers that did not even say "no answer" point at this node (Lifeguard, section IV-A).
        let blame = if asked == 0 {
            1
        } else {
            asked.saturating_sub(nacks)
        };
        self.health = (self.health + blame).min(MAX_HEALTH);
        let silence = asked > 0 && self.last_heard < probe.sent;
        if silence && self.silent_failures < MAX_SILENT_FAILURES {
            self.silent_failures += 1;
            return;
        }
        self.accuse(now, probe.target, probe.incarnation);
    }

    pub(super) fn handle_ping(&mut self, now: Time, letter: &Letter, ping: Ping) {
        let node = letter.sender.node;
        if ping.target != self.me.identity.node {
            return;
        }
        let known = self
            .members
            .get(&node)
            .map(|member| member.incarnation.boot_epoch());
        let stranger = known.is_none_or(|epoch| epoch < letter.sender.boot_epoch);
        let ack = Ack {
            seq: ping.seq,
            digest: self.digest,
            observed: WireAddr::new(letter.from),
            stranger,
        };
        let budget = if stranger {
            letter.len * AMPLIFICATION_LIMIT
        } else {
            self.settings.max_datagram
        };
        let mut payload = Payload::new(budget.min(self.settings.max_datagram));
        payload.push(&Item::Ack(ack));
        if letter.accuses_me {
            self.push_claim(now, &mut payload, self.me.identity.node);
        }
        self.push_claim_if_doubted(now, &mut payload, node);
        if !stranger {
            self.push_news(now, &mut payload, node);
        }
        self.transmit(letter.from, payload);
        if !stranger {
            self.compare_digest(now, letter, ping.digest);
        }
    }

    pub(super) fn handle_ack(&mut self, now: Time, letter: &Letter, ack: Ack) {
        let Some(probe) = self.probes.get(&ack.seq).copied() else {
            return;
        };
        let epoch = letter.sender.boot_epoch;
        if probe.target != letter.sender.node || epoch < probe.incarnation.boot_epoch() {
            return;
        }
        self.finish_probe(ack.seq);
        match probe.stage {
            // After a repetition it is unknown which ping was answered (RFC 6298, section 3).
            Stage::Direct => {
                self.health = self.health.saturating_sub(1);
                if let Some(member) = self.members.get_mut(&probe.target) {
                    member.rtt.sample(now.since(probe.sent));
                }
            }
            Stage::Indirect { .. } => self.health = self.health.saturating_sub(1),
            Stage::Relay { to, asker, seq } => {
                self.send(now, to, asker, &Item::Relayed(Relayed { seq }));
            }
            Stage::Heal => {}
        }
        self.observe(now, ack.observed);
        if ack.stranger || epoch > probe.incarnation.boot_epoch() {
            self.pull(now, letter.from);
        } else {
            self.compare_digest(now, letter, ack.digest);
        }
    }

    pub(super) fn handle_ping_req(&mut self, now: Time, letter: &Letter, request: PingReq) {
        let known = self.members.contains_key(&letter.sender.node);
        let Some(addr) = request.addr.resolve(None) else {
            return;
        };
        if !known || self.probes.len() >= MAX_PROBES || self.me.leaving {
            return;
        }
        let target = request.target;
        let known = self.members.get(&target).map(|member| member.incarnation);
        let incarnation = known.unwrap_or(Incarnation::first(rivven_types::BootEpoch(0)));
        let longest = self.settings.period * (MAX_HEALTH + 1);
        let timeout = (Duration::from_millis(request.wait_ms.into()) * 4 / 5).min(longest);
        let stage = Stage::Relay {
            to: letter.from,
            asker: letter.sender.node,
            seq: request.seq,
        };
        let seq = self.seq();
        self.probes.insert(
            seq,
            Probe {
                target,
                incarnation,
                sent: now,
                timeout,
                stage,
            },
        );
        self.timers.set(Timer::Probe(seq), now + timeout);
        self.send_ping(now, seq, target, addr);
    }

    pub(super) fn handle_relayed(&mut self, letter: &Letter, relayed: Relayed) {
        let asked = self
            .probes
            .get(&relayed.seq)
            .is_some_and(|p| matches!(p.stage, Stage::Indirect { .. }));
        if asked && self.members.contains_key(&letter.sender.node) {
            self.health = self.health.saturating_sub(1);
            self.finish_probe(relayed.seq);
        }
    }

    pub(super) fn handle_nack(&mut self, letter: &Letter, nack: Nack) {
        let known = self.members.contains_key(&letter.sender.node);
        let stage = self.probes.get_mut(&nack.seq).map(|probe| &mut probe.stage);
        if let Some(Stage::Indirect { asked, nacks }) = stage
            && known
        {
            *nacks = (*nacks + 1).min(*asked);
        }
    }

    fn finish_probe(&mut self, seq: u32) {
        self.probes.remove(&seq);
        self.timers.clear(Timer::Probe(seq));
    }
}
