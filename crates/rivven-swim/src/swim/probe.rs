//! Finding out whether members answer: direct and indirect probes (SWIM, sections 3.1 and 4.3).

use core::{net::SocketAddr, time::Duration};

use rivven_types::NodeId;

use super::{Swim, Transmit};
use crate::{
    Incarnation, MemberState, Time,
    member::Member,
    timer::Timer,
    wire::{Item, Nack, Payload, Ping, PingReq, WireAddr},
};

/// Members asked to probe where this node got no answer (SWIM's k).
const HELPERS: usize = 3;

/// Most probes under way, own and for others. Hints and requests beyond it are ignored.
pub(super) const MAX_PROBES: usize = 256;

/// One probe under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) target: NodeId,
    /// What was known when it began: who has contradicted since is not accused.
    pub(super) incarnation: Incarnation,
    pub(super) sent: Time,
    /// The wait of its first stage.
    pub(super) timeout: Duration,
    pub(super) stage: Stage,
}

/// How far a probe has come. A lost datagram costs a stage, and a stage costs little: so that at a loss of a
/// tenth few probes trouble helpers, and hardly any a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// A ping is out.
    Direct,
    /// The ping was repeated.
    Again,
    /// Helpers were asked, and the ping was repeated once more.
    Indirect { asked: u32, nacks: u32 },
    /// While helpers go on, a ping over a stream is under way.
    Last { asked: u32, nacks: u32 },
    /// A ping on behalf of another member, which numbers it `seq`.
    Relay { to: SocketAddr, asker: NodeId, seq: u32 },
    /// A ping to a member that is gone. No answer means nothing.
    Heal,
}

impl Stage {
    const fn is_own(self) -> bool {
        match self {
            Self::Direct | Self::Again | Self::Indirect { .. } | Self::Last { .. } => true,
            Self::Relay { .. } | Self::Heal => false,
        }
    }
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
        for _ in 0..self.members.live_count() {
            let next = self.members.next_to_probe(&mut self.rng);
            if let Some(node) = next.filter(|node| !self.is_probing(*node)) {
                self.start_probe(now, node, Stage::Direct);
                return;
            }
        }
    }

    /// Probes `node` at once, unless a probe of it is under way.
    pub(super) fn probe_on_hint(&mut self, now: Time, node: NodeId) {
        let Some(member) = self.members.get(node) else {
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

    /// Its user has a reason to doubt `node`, or to think that it is back.
    pub(super) fn probe_for_user(&mut self, now: Time, node: NodeId) {
        let Some(to) = self.members.get(node).map(Member::socket_addr) else {
            return;
        };
        if !self.is_probing(node) {
            self.probe_on_hint(now, node);
            // If it is dead its port may be closed, which is known at once.
            self.transmit(
                Transmit::Knock { to, node },
                Payload::new(self.settings.max_datagram),
            );
        }
    }

    /// Datagrams to `node` are refused: waiting for its answer is of no use, but others may see it.
    pub(super) fn probe_refused(&mut self, now: Time, node: NodeId) {
        self.probe_on_hint(now, node);
        let waiting = self
            .probes
            .iter()
            .find(|(_, probe)| probe.target == node && matches!(probe.stage, Stage::Direct | Stage::Again));
        if let Some((seq, probe)) = waiting.map(|(seq, probe)| (*seq, *probe)) {
            self.ask_helpers(now, seq, probe);
        }
    }

    /// Looks whether a member that is gone is back, as after a split.
    pub(super) fn heal(&mut self, now: Time) {
        self.timers.set(Timer::Heal, now + self.settings.heal_interval());
        let gone = self.members.any_gone(&mut self.rng).map(|member| member.node);
        if let Some(node) = gone {
            self.probe_on_hint(now, node);
        }
    }

    fn is_probing(&self, node: NodeId) -> bool {
        let mut probes = self.probes.values();
        probes.any(|probe| probe.target == node && probe.stage.is_own())
    }

    /// How long the answer of `node` may take before it is asked again.
    fn first_wait(&self, node: NodeId) -> Duration {
        let (min, max) = self.settings.probe_timeout_bounds();
        let own = self.members.get(node).and_then(|member| member.rtt.timeout());
        // A member that was never measured may be farther away than the others are on average.
        let others = || self.rtt.timeout().map(|timeout| timeout * 2);
        self.scaled(own.or_else(others).unwrap_or(max).clamp(min, max))
    }

    fn start_probe(&mut self, now: Time, target: NodeId, stage: Stage) {
        let Some(member) = self.members.get(target) else {
            return;
        };
        let (addr, incarnation) = (member.socket_addr(), member.incarnation);
        let probe = Probe {
            target,
            incarnation,
            sent: now,
            timeout: self.first_wait(target),
            stage,
        };
        self.launch(now, probe, addr, probe.timeout);
    }

    /// Sends the first ping of a probe.
    pub(super) fn launch(&mut self, now: Time, probe: Probe, addr: SocketAddr, wait: Duration) {
        if self.probes.len() >= MAX_PROBES {
            return;
        }
        let seq = self.seq();
        self.probes.insert(seq, probe);
        self.timers.set(Timer::Probe(seq), now + wait);
        self.send_ping(now, seq, probe.target, addr);
    }

    fn send_ping(&mut self, now: Time, seq: u32, target: NodeId, addr: SocketAddr) {
        let ping = self.ping(seq, target);
        self.send(now, addr, target, &Item::Ping(ping));
    }

    pub(super) const fn ping(&self, seq: u32, target: NodeId) -> Ping {
        Ping {
            seq,
            target,
            digest: self.members.digest().to_le_bytes(),
        }
    }

    /// Nothing came in time: go on to the next stage, or conclude.
    pub(super) fn end_probe_stage(&mut self, now: Time, seq: u32) {
        let Some(probe) = self.probes.get(&seq).copied() else {
            return;
        };
        match probe.stage {
            Stage::Direct => self.ask_again(now, seq, probe),
            Stage::Again => self.ask_helpers(now, seq, probe),
            Stage::Indirect { asked, nacks } if self.settings.streams => {
                let stage = Stage::Last { asked, nacks };
                self.enter_stage(now, seq, probe, stage, probe.timeout * 2);
                self.ping_over_stream(seq, probe.target);
            }
            Stage::Indirect { asked, nacks } | Stage::Last { asked, nacks } => {
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

    /// No stage but the first waits longer than the longest first wait.
    fn enter_stage(&mut self, now: Time, seq: u32, probe: Probe, stage: Stage, wait: Duration) {
        let longest = self.scaled(self.settings.probe_timeout_bounds().1);
        self.probes.insert(seq, Probe { stage, ..probe });
        self.timers.set(Timer::Probe(seq), now + wait.min(longest));
    }

    fn ask_again(&mut self, now: Time, seq: u32, probe: Probe) {
        let Some(to) = self.members.get(probe.target).map(|member| member.socket_addr()) else {
            self.finish_probe(seq);
            return;
        };
        self.enter_stage(now, seq, probe, Stage::Again, probe.timeout * 2);
        self.send_ping(now, seq, probe.target, to);
        // A process that died leaves a closed port, and a system that says so.
        let node = probe.target;
        self.transmit(
            Transmit::Knock { to, node },
            Payload::new(self.settings.max_datagram),
        );
    }

    fn ask_helpers(&mut self, now: Time, seq: u32, probe: Probe) {
        let Some(addr) = self.members.get(probe.target).map(|member| member.socket_addr()) else {
            self.finish_probe(seq);
            return;
        };
        let longest = self.scaled(self.settings.probe_timeout_bounds().1);
        // Of what remains, an own stream takes the second half.
        let (wait, rest) = if self.settings.streams {
            ((probe.timeout * 2).min(longest), (probe.timeout * 2).min(longest))
        } else {
            ((probe.timeout * 3).min(longest), Duration::ZERO)
        };
        let request = PingReq {
            seq,
            target: probe.target,
            addr: WireAddr::new(addr),
            wait_ms: u16::try_from((wait + rest).as_millis()).unwrap_or(u16::MAX),
        };
        let mut asked = 0;
        for (helper, to) in self.pick_live(HELPERS, Some(probe.target)) {
            let alive = self
                .members
                .get(helper)
                .is_some_and(|m| m.state == MemberState::Alive);
            if alive {
                self.send(now, to, helper, &Item::PingReq(request));
                asked += 1;
            }
        }
        let stage = Stage::Indirect { asked, nacks: 0 };
        self.enter_stage(now, seq, probe, stage, wait);
        self.send_ping(now, seq, probe.target, addr);
    }

    fn fail_probe(&mut self, now: Time, probe: &Probe, asked: u32, nacks: u32) {
        // Helpers that did not even say "no answer" point at this node (Lifeguard, section IV-A).
        let blame = if asked == 0 {
            1
        } else {
            asked.saturating_sub(nacks)
        };
        self.blame_self(now, blame);
        if self.last_heard < probe.sent && self.is_cut_off(now) {
            return;
        }
        self.accuse(now, probe.target, probe.incarnation);
    }

    /// Whether this node should take it for its own fault that nobody at all was heard since a probe began.
    ///
    /// That all others died together is much less likely than that this node is cut off or blocked; so it
    /// accuses nobody for a long time, though not for ever. With a single peer one cannot tell.
    fn is_cut_off(&self, now: Time) -> bool {
        self.members.live_count() > 1 && now.since(self.last_heard) < self.settings.silence_grace()
    }

    pub(super) fn finish_probe(&mut self, seq: u32) {
        self.probes.remove(&seq);
        self.timers.clear(Timer::Probe(seq));
    }
}
